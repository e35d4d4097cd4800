"""Messages for URLs, in QStash's protocol: publish, enqueue in order, URL groups, schedules, callbacks.

The client is QStash's own (`pip install qstash`); any of its clients does, and so does curl. API and worker run here
beside it; else they are `taskq api APP` and `taskq worker APP --beat`.

    python examples/http_messages.py
"""

import asyncio
import base64
import json

from qstash import AsyncQStash, Receiver
from running import Destination, an_app, api, worker

# Deliveries go to public addresses only, unless these are named: the destination here is this machine.
app = an_app(api_token="a-secret", delivery_allow="127.0.0.0/8,::1")


@app.task
async def double(number: int) -> int:
    return 2 * number


async def publish(client: AsyncQStash, shop: Destination) -> None:
    sent = await client.message.publish_json(
        url=shop.url("/orders?from=web"),
        body={"order": 7},
        headers={"X-Tenant": "acme"},  # as Upstash-Forward-X-Tenant: the destination is sent it
        retries=5,
        callback=shop.url("/told"),  # told what the destination answered
    )
    [order] = await shop.at("/orders?from=web")
    assert json.loads(order.body) == {"order": 7} and order.headers["X-Tenant"] == "acme"
    keys = await client.signing_key.get()
    Receiver(keys.current, keys.next).verify(  # raises unless this API has signed it
        signature=order.headers["Upstash-Signature"], body=order.body.decode(), url=shop.url("/orders?from=web")
    )
    [told] = await shop.at("/told")
    callback = json.loads(told.body)
    assert callback["sourceMessageId"] == sent.message_id and callback["status"] == 200
    print("delivered, signed; the callback says", base64.b64decode(callback["body"]).decode())


async def in_order(client: AsyncQStash, shop: Destination) -> None:
    shop.answers["/invoices"] = [503, 503]  # busy, twice: the first invoice is sent again, and the others wait for it
    for number in range(5):
        await client.message.enqueue_json(
            queue="invoices", url=shop.url("/invoices"), body=number, retry_delay="50 * (1 + retried)"
        )
    came = [json.loads(one.body) for one in await shop.at("/invoices", 7)]
    assert came == [0, 0, 0, 1, 2, 3, 4], came
    print("in order, retries included:", *came)


async def to_a_group(client: AsyncQStash, shop: Destination) -> None:
    members = [{"name": name, "url": shop.url(f"/{name}")} for name in ("search", "mail")]
    await client.url_group.upsert_endpoints("subscribers", members)
    await client.message.publish(url_group="subscribers", body="news")
    for name in ("search", "mail"):
        [arrival] = await shop.at(f"/{name}")
        assert arrival.body == b"news"
    print("one message to a group came to each of its members")


async def on_schedule(client: AsyncQStash, shop: Destination) -> None:
    every_second = "* * * * * *"  # QStash's crons have five fields; a sixth, in front, are seconds
    schedule = await client.schedule.create(destination=shop.url("/tick"), cron=every_second, body="tick")
    ticks = await shop.at("/tick", 2)
    await client.schedule.delete(schedule)
    assert {tick.headers["Upstash-Schedule-Id"] for tick in ticks} == {schedule}
    print("a schedule's ticks came")


async def to_a_task(client: AsyncQStash) -> None:
    sent = await client.message.publish_json(url=f"task://{double.name}", body={"number": 21})
    print("a Python task, called over HTTP:", await app.handle(sent.message_id).get_result_async(timeout=20))


async def main() -> None:
    with Destination() as shop:
        async with worker(app, beat=True), api(app) as url:
            client = AsyncQStash("a-secret", base_url=url)
            await publish(client, shop)
            await in_order(client, shop)
            await to_a_group(client, shop)
            await on_schedule(client, shop)
            await to_a_task(client)


if __name__ == "__main__":
    asyncio.run(main())
