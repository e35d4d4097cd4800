"""Publish, enqueue and batch of the official Python client, blocking and async: what destinations receive."""

from __future__ import annotations

import base64
import json
import time

import httpx
from qstash.chat import custom

from tests.clients.calls import FAR, Calls, Names, empty, ended
from tests.endpoint import Answer, Endpoint
from tests.support import pulse

# -- publish --


async def test_client_publishes_bytes(api: Calls, endpoint: Endpoint, path: Names) -> None:
    """Body, method, headers and the destination's query arrive as they were given, byte for byte."""
    target, body = path(), bytes(range(256))
    url = endpoint.url(f"{target}/a%2Fb?x=1&y=%20z&x=2")
    sent = await api.message.publish(
        url=url, body=body, method="PUT", content_type="application/x-thing", headers={"X-Tenant": "seven"}
    )
    [seen] = await endpoint.until(f"{target}/a%2Fb")
    assert (seen.method, seen.query, seen.body) == ("PUT", "x=1&y=%20z&x=2", body)
    assert (seen.header("content-type"), seen.header("x-tenant")) == ("application/x-thing", "seven")
    assert (seen.header("upstash-message-id"), seen.header("upstash-retried")) == (sent.message_id, "0")
    assert seen.header("user-agent") == "Upstash-QStash"
    assert seen.header("authorization") is None
    assert sent.deduplicated is False
    message = await api.message.get(sent.message_id)
    assert (message.url, message.method, message.body) == (url, "PUT", None)
    assert base64.b64decode(message.body_base64) == body
    assert message.headers == {"Content-Type": ["application/x-thing"], "X-Tenant": ["seven"]}
    assert await ended(api, sent.message_id) == ["CREATED", "ACTIVE", "DELIVERED"]


async def test_client_publishes_json(api: Calls, endpoint: Endpoint, path: Names) -> None:
    target = path()
    sent = await api.message.publish_json(url=endpoint.url(target), body={"ключ": ["значение", 1]})
    [seen] = await endpoint.until(target)
    assert (seen.method, seen.json(), seen.header("content-type")) == (
        "POST",
        {"ключ": ["значение", 1]},
        "application/json",
    )
    message = await api.message.get(sent.message_id)
    assert json.loads(message.body) == {"ключ": ["значение", 1]}
    assert message.body_base64 is None


async def test_client_reads_a_message_back(api: Calls, endpoint: Endpoint, path: Names, name: Names) -> None:
    """Everything that was said of a message is in what the client reads."""
    target, key = endpoint.url(path()), name()
    before = time.time() * 1000 - 1000
    sent = await api.message.publish(
        url=target, body="späť", headers={"X-One": "1"}, retries=7, retry_delay="1000 * (1 + retried)", delay=FAR,
        callback=f"{target}/c", failure_callback=f"{target}/f", callback_headers={"Forward-X-C": "c", "Retries": "1"},
        failure_callback_headers={"Forward-X-F": "f"}, timeout=30, label="first",
        flow_control={"key": key, "parallelism": 3, "rate": 10, "period": "1m"},
    )  # fmt: skip
    message = await api.message.get(sent.message_id)
    assert (message.message_id, message.url, message.method) == (sent.message_id, target, "POST")
    assert (message.body, message.headers["X-One"]) == ("späť", ["1"])
    assert (message.max_retries, message.retry_delay_expression) == (7, "1000 * (1 + retried)")
    assert (message.callback, message.failure_callback) == (f"{target}/c", f"{target}/f")
    assert message.callback_headers["X-C"] == ["c"]
    assert message.failure_callback_headers["X-F"] == ["f"]
    assert before <= message.created_at <= time.time() * 1000 + 1000
    assert abs(message.not_before - message.created_at - 2 * 86_400_000) < 2000 + 1000 * pulse.lost()
    assert (message.label, message.caller_ip) == ("first", "127.0.0.1")
    assert (message.url_group, message.endpoint, message.queue, message.schedule_id) == (None, None, None, None)
    flow = message.flow_control
    assert (flow.key, flow.parallelism, flow.rate, flow.period) == (key, 3, 10, 60)
    await api.message.cancel(sent.message_id)


async def test_client_reads_flow_control_that_was_given_in_part(api: Calls, endpoint: Endpoint, name: Names) -> None:
    """What was not given is absent; the period is there always."""
    url = endpoint.url("/flow")
    sent = await api.message.publish(url=url, delay=FAR, flow_control={"key": name(), "parallelism": 3})
    flow = (await api.message.get(sent.message_id)).flow_control
    assert (flow.parallelism, flow.rate, flow.period) == (3, None, 1)
    other = await api.message.publish(url=url, delay=FAR, flow_control={"key": name(), "rate": 2, "period": 90})
    flow = (await api.message.get(other.message_id)).flow_control
    assert (flow.parallelism, flow.rate, flow.period) == (None, 2, 90)
    assert await api.message.cancel_many([sent.message_id, other.message_id]) == 2


async def test_client_publishes_to_a_url_group(api: Calls, endpoint: Endpoint, path: Names, name: Names) -> None:
    """One message a member, each with its own id, signed and named for the group."""
    group, first, second = name(), path(), path()
    await api.url_group.upsert_endpoints(
        group, [{"url": endpoint.url(first), "name": "one"}, {"url": endpoint.url(second)}]
    )
    sent = await api.message.publish_json(url_group=group, body={"a": 1})
    assert {one.url for one in sent} == {endpoint.url(first), endpoint.url(second)}
    assert len({one.message_id for one in sent}) == 2
    by_url = {one.url: one for one in sent}
    for target, called in ((first, "one"), (second, None)):
        [seen] = await endpoint.until(target)
        assert (seen.json(), seen.header("upstash-topic-name")) == ({"a": 1}, group)
        assert seen.header("upstash-message-id") == by_url[endpoint.url(target)].message_id
        message = await api.message.get(by_url[endpoint.url(target)].message_id)
        assert (message.url_group, message.endpoint) == (group, called)
    await api.url_group.delete(group)


async def test_client_publishes_to_an_llm(api: Calls, endpoint: Endpoint, path: Names) -> None:
    """A provider's API is a destination like others, its token a header that is forwarded."""
    target = path()
    provider = custom(base_url=endpoint.url(target), token="of-the-provider")
    await api.message.publish_json(api={"name": "llm", "provider": provider}, body={"model": "m"})
    [seen] = await endpoint.until(f"{target}/v1/chat/completions")
    assert (seen.header("authorization"), seen.json()) == ("Bearer of-the-provider", {"model": "m"})


async def test_client_reaches_a_python_task(api: Calls, endpoint: Endpoint, path: Names) -> None:
    """`task://NAME` runs a Python task with the JSON body as its arguments."""
    target = path()
    sent = await api.message.publish_json(url="task://tell", body={"url": endpoint.url(target), "word": "hello"})
    [seen] = await endpoint.until(target)
    assert seen.body == b"hello"
    assert (await ended(api, sent.message_id))[-1] == "DELIVERED"
    await api.message.publish_json(url="task://tell", body=[endpoint.url(target), "positional"])
    assert (await endpoint.until(target, 2))[1].body == b"positional"


async def test_client_publishes_with_a_delay(api: Calls, endpoint: Endpoint, path: Names) -> None:
    target, before = path(), time.time()
    await api.message.publish(url=endpoint.url(target), delay=2)
    [seen] = await endpoint.until(target)
    assert seen.at - before >= 2


async def test_client_publishes_not_before(api: Calls, endpoint: Endpoint, path: Names) -> None:
    """An instant wins over a delay, and one in the past means now."""
    target = path()
    at = int(time.time()) + 3600
    sent = await api.message.publish(url=endpoint.url(target), not_before=at, delay="1s")
    assert (await api.message.get(sent.message_id)).not_before == at * 1000
    await api.message.cancel(sent.message_id)
    await api.message.publish(url=endpoint.url(target), body="late", not_before=1000)
    [seen] = await endpoint.until(target)
    assert seen.body == b"late"


# -- enqueue, batch --


async def test_client_enqueues_in_order(api: Calls, endpoint: Endpoint, path: Names, name: Names) -> None:
    """A queue that was not there is made for one at a time; a failing head holds up the rest until it is done."""
    target, queue = path(), name()
    endpoint.answer(target, 500, Answer(200, delay=0.05))
    sent = [
        await api.message.enqueue_json(queue=queue, url=endpoint.url(target), body=number, retry_delay="50")
        for number in range(4)
    ]
    seen = await endpoint.until(target, 5)
    assert [one.json() for one in seen] == [0, 0, 1, 2, 3]
    assert (await api.message.get(sent[0].message_id)).queue == queue
    found = await api.queue.get(queue)
    assert (found.name, found.parallelism, found.paused) == (queue, 1, False)
    await empty(api, queue)
    await api.queue.delete(queue)


async def test_client_enqueues_text_to_a_url_group(api: Calls, endpoint: Endpoint, path: Names, name: Names) -> None:
    group, queue, target = name(), name(), path()
    await api.url_group.upsert_endpoints(group, [{"url": endpoint.url(target)}])
    [sent] = await api.message.enqueue(queue=queue, url_group=group, body="to all", content_type="text/plain")
    [seen] = await endpoint.until(target)
    assert (sent.url, sent.deduplicated) == (endpoint.url(target), False)
    assert (seen.body, seen.header("content-type")) == (b"to all", "text/plain")
    assert seen.header("upstash-message-id") == sent.message_id
    await api.url_group.delete(group)
    await api.queue.delete(queue)


async def test_client_waits_for_callbacks_in_a_queue(api: Calls, endpoint: Endpoint, path: Names, name: Names) -> None:
    """The next message of a queue begins when the callback of the one before has ended."""
    target, back, queue = path(), path(), name()
    with endpoint.holding(back):
        for number in range(2):
            await api.message.enqueue(
                queue=queue, url=endpoint.url(target), body=str(number), callback=endpoint.url(back)
            )
        await endpoint.until(back)
        assert [one.body for one in endpoint.requests(target)] == [b"0"]
    assert [one.body for one in await endpoint.until(target, 2)] == [b"0", b"1"]
    await endpoint.until(back, 2)
    await api.queue.delete(queue)


async def test_client_sends_a_batch(api: Calls, endpoint: Endpoint, path: Names, name: Names) -> None:
    """In the order of the request: URLs, a group as a list of its own, a queue."""
    group, queue = name(), name()
    one, member, enqueued = path(), path(), path()
    await api.url_group.upsert_endpoints(group, [{"url": endpoint.url(member)}])
    answers = await api.message.batch(
        [
            {"url": endpoint.url(one), "body": "a", "headers": {"X-N": "1"}, "method": "PUT", "content_type": "text/x"},
            {"url_group": group, "body": "b"},
            {"queue": queue, "url": endpoint.url(enqueued), "body": "c"},
            {"url": endpoint.url(one)},
        ]
    )
    first, [in_group], third, without_body = answers
    seen = await endpoint.until(one, 2)
    told = {request.header("upstash-message-id"): request for request in seen}
    assert told.keys() == {first.message_id, without_body.message_id}
    request = told[first.message_id]
    assert (request.method, request.body, request.header("x-n")) == ("PUT", b"a", "1")
    assert request.header("content-type") == "text/x"
    assert told[without_body.message_id].body == b""
    assert (await endpoint.until(member))[0].header("upstash-message-id") == in_group.message_id
    assert in_group.url == endpoint.url(member)
    assert (await endpoint.until(enqueued))[0].header("upstash-message-id") == third.message_id
    assert (await api.message.get(third.message_id)).queue == queue
    await api.url_group.delete(group)
    await api.queue.delete(queue)


async def test_client_sends_a_batch_of_json(api: Calls, endpoint: Endpoint, path: Names, name: Names) -> None:
    target, dedup_id = path(), name()
    provider = custom(base_url=endpoint.url(target), token="t")
    first, again, model = await api.message.batch_json(
        [
            {"url": endpoint.url(target), "body": {"n": 1}, "deduplication_id": dedup_id, "retries": 1, "label": "l"},
            {"url": endpoint.url(target), "body": {"n": 2}, "deduplication_id": dedup_id},
            {"api": {"name": "llm", "provider": provider}, "body": {"n": 3}},
        ]
    )
    assert (first.deduplicated, again.deduplicated, model.deduplicated) == (False, True, False)
    assert again.message_id == first.message_id
    [asked] = await endpoint.until(f"{target}/v1/chat/completions")
    assert (asked.json(), asked.header("authorization")) == ({"n": 3}, "Bearer t")
    [seen] = await endpoint.until(target)
    assert (seen.json(), seen.header("content-type")) == ({"n": 1}, "application/json")


async def test_batch_item_that_cannot_be_sent(raw: httpx.AsyncClient, endpoint: Endpoint, path: Names) -> None:
    """It has an error in its place, and the others go. (The Python client has no words for such an answer.)"""
    target = path()
    items = [
        {"destination": endpoint.url(target), "body": "good"},
        {"destination": "no scheme"},
        {"destination": endpoint.url(target), "headers": {"upstash-retries": "many"}},
    ]
    answer = await raw.post("/v2/batch", json=items)
    assert answer.status_code == 200
    good, *bad = answer.json()
    assert all(one["error"] and "messageId" not in one for one in bad)
    assert "etries" in bad[1]["error"]
    [seen] = await endpoint.until(target)
    assert seen.header("upstash-message-id") == good["messageId"]
    assert (await raw.post("/v2/batch", json={"destination": endpoint.url(target)})).status_code == 400
