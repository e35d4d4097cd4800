"""Queues of QStash's protocol: made, changed, paused, deleted, with messages in them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from qstash.queue import parse_queue_response

from taskq.queue import Queue
from tests.endpoint import Endpoint
from tests.integration.api.served import Served


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint() as endpoint:
        yield endpoint


async def test_a_queue_is_made_shown_and_changed(anywhere: Served) -> None:
    """One at a time by default; its parallelism and whether it is paused can be changed alone or together."""
    await anywhere.answer("POST", "/v2/queues", json={"queueName": "orders"})
    first = parse_queue_response(await anywhere.answer("GET", "/v2/queues/orders"))
    assert (first.name, first.parallelism, first.paused, first.lag) == ("orders", 1, False, 0)
    await anywhere.answer("POST", "/v2/queues", json={"queueName": "orders", "parallelism": 5, "paused": True})
    await anywhere.answer("POST", "/v2/queues/orders/pause")
    changed = parse_queue_response(await anywhere.answer("GET", "/v2/queues/orders"))
    assert (changed.parallelism, changed.paused) == (5, True)
    assert changed.created_at == first.created_at and changed.updated_at > first.updated_at
    await anywhere.answer("POST", "/v2/queues", json={"queueName": "orders", "parallelism": 7})
    await anywhere.answer("POST", "/v2/queues", json={"queueName": "another"})
    queues = [parse_queue_response(one) for one in await anywhere.answer("GET", "/v2/queues")]
    assert [(one.name, one.parallelism, one.paused) for one in queues] == [("another", 1, False), ("orders", 7, True)]
    for _ in range(2):
        await anywhere.answer("POST", "/v2/queues/orders/resume")
    assert (await anywhere.answer("GET", "/v2/queues/orders"))["paused"] is False


async def test_open_queues_are_none_of_the_protocol(served: Served) -> None:
    """What has no parallelism is not shown as a queue; given one, it is."""
    store = await served.room.store()
    await store.ensure_queue(Queue("open"))
    assert await served.answer("GET", "/v2/queues") == []
    await served.refused("GET", "/v2/queues/open", 404)
    await served.answer("POST", "/v2/queues", json={"queueName": "open", "parallelism": 3})
    assert (await served.answer("GET", "/v2/queues/open"))["parallelism"] == 3


async def test_lag_counts_what_is_not_finished(anywhere: Served, endpoint: Endpoint) -> None:
    """Messages that wait in a paused queue count until they are delivered."""
    await anywhere.answer("POST", "/v2/queues", json={"queueName": "q", "paused": True})
    sent = [await anywhere.enqueue("q", endpoint.url(f"/in/{number}")) for number in range(3)]
    assert (await anywhere.answer("GET", "/v2/queues/q"))["lag"] == 3
    await anywhere.worker()
    await anywhere.answer("POST", "/v2/queues/q/resume")
    await endpoint.until("/in/2")
    await anywhere.until_status(sent[-1], "SUCCEEDED")
    assert (await anywhere.answer("GET", "/v2/queues/q"))["lag"] == 0
    assert [one.path for one in endpoint.requests()] == [f"/in/{number}" for number in range(3)]


@pytest.mark.parametrize("parallelisms", [(1, 3), (3, 1)])
async def test_messages_outlive_a_change_of_order(
    anywhere: Served, endpoint: Endpoint, parallelisms: tuple[int, int]
) -> None:
    """A queue that comes to strict order, or leaves it, keeps its messages, and their order."""
    before, after = parallelisms
    await anywhere.answer("POST", "/v2/queues", json={"queueName": "q", "parallelism": before, "paused": True})
    for number in range(5):
        await anywhere.enqueue("q", endpoint.url(f"/in/{number}"))
    await anywhere.answer("POST", "/v2/queues", json={"queueName": "q", "parallelism": after, "paused": False})
    shown = await anywhere.answer("GET", "/v2/queues/q")
    assert (shown["parallelism"], shown["lag"], shown["paused"]) == (after, 5, False)
    await anywhere.worker()
    for number in range(5):
        await endpoint.until(f"/in/{number}")
    came = [one.path for one in endpoint.requests()]
    assert len(came) == 5
    if after == 1:
        assert came == sorted(came)


async def test_deleting_a_queue_cancels_its_messages(anywhere: Served, endpoint: Endpoint) -> None:
    """Those that lie in it and those that are delayed; the name can be used again at once, of another kind."""
    for body in ({"queueName": "q"}, {"queueName": "q", "parallelism": 2}):
        await anywhere.answer("POST", "/v2/queues", json=body | {"paused": True})
        lying = [await anywhere.enqueue("q", endpoint.url("/never")) for _ in range(3)]
        lying.append(await anywhere.enqueue("q", endpoint.url("/never"), Upstash_Delay="1h"))
        for _ in range(2):
            await anywhere.answer("DELETE", "/v2/queues/q")
        for message_id in lying:
            assert await anywhere.status(message_id) == "CANCELLED"
        await anywhere.refused("GET", "/v2/queues/q", 404)
    assert await anywhere.answer("GET", "/v2/queues") == []
    await anywhere.enqueue("q", endpoint.url("/in"))
    assert (await anywhere.answer("GET", "/v2/queues/q"))["parallelism"] == 1
    await anywhere.worker()
    await endpoint.until("/in")
    assert endpoint.requests("/never") == []


@pytest.mark.parametrize("parallelism", [1, 2])
async def test_deleting_a_queue_stops_what_runs(anywhere: Served, endpoint: Endpoint, parallelism: int) -> None:
    """A delivery that is under way, and one that waits for its retry, are cancelled; those behind never start."""
    await anywhere.answer("POST", "/v2/queues", json={"queueName": "q", "parallelism": parallelism})
    await anywhere.worker()
    endpoint.answer("/fails", 500)
    retried = await anywhere.enqueue("q", endpoint.url("/fails"), Upstash_Retry_Delay="3600000")
    with endpoint.holding("/held"):
        if parallelism == 2:
            running = await anywhere.enqueue("q", endpoint.url("/held"))
            await endpoint.until("/held")
        behind = await anywhere.enqueue("q", endpoint.url("/never"))
        await endpoint.until("/fails")
        await anywhere.answer("DELETE", "/v2/queues/q", timeout=60)
        for message_id in (retried, behind, *([running] if parallelism == 2 else [])):
            await anywhere.until_status(message_id, "CANCELLED")
    assert endpoint.requests("/never") == [] and len(endpoint.requests("/fails")) == 1


async def test_who_knows_a_deleted_queue_brings_it_back_as_it_was(anywhere: Served) -> None:
    """A sender that has not heard of the deletion loses no message, and makes no queue without limits."""
    app = anywhere.room.app

    @app.task(name="double")
    async def double(number: int) -> int:
        return 2 * number

    await anywhere.answer("POST", "/v2/queues", json={"queueName": "q", "parallelism": 3})
    known = await (await anywhere.room.store()).get_queue("q")
    await anywhere.answer("DELETE", "/v2/queues/q")
    message = double.options(queue="q").message(4).message
    dispatcher = app.client().dispatcher
    assert known is not None and dispatcher is not None
    await dispatcher.send(message, known)
    assert (await anywhere.answer("GET", "/v2/queues/q"))["parallelism"] == 3
    await anywhere.worker()
    assert await app.handle(message.id).get_result_async(60) == 8
