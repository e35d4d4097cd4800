"""The official Python client works unchanged: every call that it has, blocking and async, against running processes.

What a call answers is read by the client itself; what came of it is what the destination received.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from qstash import Receiver
from qstash.chat import custom
from qstash.dlq import DlqMessage
from qstash.errors import QStashError, RateLimitExceededError, SignatureError
from qstash.log import LogState

from tests.clients.calls import Calls
from tests.clients.server import Site
from tests.endpoint import Answer, Endpoint, Seen
from tests.support import eventually

Names = Callable[[], str]
FAR = "2d"  # a delay that no test lives to see


async def ended(api: Calls, message_id: str, state: str = "DELIVERED") -> list[str]:
    """The message's history, once it has come to this state."""

    async def check() -> list[str]:
        states = await api.logs(message_id=message_id)
        assert states[-1:] == [state], states
        return states

    return await eventually(check, 30)


async def dead(api: Calls, message_id: str) -> DlqMessage:
    """The message's dead letter, once there is one."""

    async def check() -> DlqMessage | None:
        found = await api.dlq.list(filter={"message_id": message_id})
        return found.messages[0] if found.messages else None

    return await eventually(check, 30)


async def die(api: Calls, endpoint: Endpoint, target: str, **options: Any) -> DlqMessage:
    """The dead letter of a message to a destination that refuses everything."""
    endpoint.answer(target, Answer(500, {"X-Why": "because"}, b"refused"))
    sent = await api.message.publish(url=endpoint.url(target), body="dead", retries=0, **options)
    return await dead(api, sent.message_id)


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
    assert abs(message.not_before - message.created_at - 2 * 86_400_000) < 2000
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


# -- retries and callbacks --


async def test_client_sees_retries(api: Calls, endpoint: Endpoint, path: Names) -> None:
    """The same message again, with its number, after each failure; the history tells of each."""
    target = path()
    endpoint.answer(target, 500, Answer(503, body=b"later"), 200)
    sent = await api.message.publish(url=endpoint.url(target), body="x", retries=5, retry_delay="50")
    seen = await endpoint.until(target, 3)
    assert [one.header("upstash-retried") for one in seen] == ["0", "1", "2"]
    assert {one.header("upstash-message-id") for one in seen} == {sent.message_id}
    again = ["ACTIVE", "ERROR", "RETRY"]
    assert await ended(api, sent.message_id) == ["CREATED", *again, *again, "ACTIVE", "DELIVERED"]
    logs = (await api.log.list(filter={"message_id": sent.message_id})).logs
    second, first = [log for log in logs if log.state is LogState.ERROR]
    assert (first.response_status, second.response_status) == (500, 503)
    assert base64.b64decode(second.response_body) == b"later"
    assert all(log.next_delivery_time for log in logs if log.state is LogState.RETRY)


async def test_client_is_retried_when_the_destination_says(api: Calls, endpoint: Endpoint, path: Names) -> None:
    """Retry-After goes before the message's own delay."""
    target = path()
    endpoint.answer(target, Answer(429, {"Retry-After": "0"}), 200)
    await api.message.publish(url=endpoint.url(target), retry_delay="3600000")
    assert len(await endpoint.until(target, 2)) == 2


async def test_client_is_not_retried_after_489(api: Calls, endpoint: Endpoint, path: Names) -> None:
    """489 with its header ends the message at once; either alone does not."""
    final, half = path(), path()
    endpoint.answer(final, Answer(489, {"Upstash-NonRetryable-Error": "true"}))
    endpoint.answer(half, Answer(489), Answer(500, {"Upstash-NonRetryable-Error": "true"}), 200)
    sent = await api.message.publish(url=endpoint.url(final), retry_delay="50")
    other = await api.message.publish(url=endpoint.url(half), retry_delay="50")
    assert await ended(api, sent.message_id, "FAILED") == ["CREATED", "ACTIVE", "ERROR", "FAILED"]
    assert (await dead(api, sent.message_id)).response_status == 489
    assert (await ended(api, other.message_id)).count("ERROR") == 2


async def test_client_bounds_an_attempt(api: Calls, endpoint: Endpoint, path: Names) -> None:
    """An attempt that takes longer than the timeout has failed."""
    target = path()
    with endpoint.holding(target):
        sent = await api.message.publish(url=endpoint.url(target), timeout=1, retries=0)
        letter = await dead(api, sent.message_id)
    assert letter.response_status == 0
    [log] = (await api.log.list(filter={"message_id": sent.message_id, "state": LogState.ERROR})).logs
    assert (log.timeout, log.response_status) == (1000, None)
    assert log.error


async def test_client_is_called_back_after_every_attempt(api: Calls, endpoint: Endpoint, path: Names) -> None:
    target, back = path(), path()
    endpoint.answer(target, Answer(503, {"X-Try": "again"}, b"no"), Answer(201, {"X-Try": "done"}, b"\xffyes"))
    sent = await api.message.publish(
        url=endpoint.url(target), body="question", method="PUT", headers={"X-Asked": "1"}, retry_delay="50", retries=2,
        callback=endpoint.url(f"{back}?q=1"), callback_headers={"Forward-X-Back": "b", "Method": "PATCH"},
    )  # fmt: skip
    calls = await endpoint.until(back, 2)
    failed, done = sorted((one.json() for one in calls), key=lambda one: one["retried"])
    assert (failed["status"], done["status"]) == (503, 201)
    assert (failed["retried"], done["retried"], done["maxRetries"]) == (0, 1, 2)
    assert (base64.b64decode(failed["body"]), base64.b64decode(done["body"])) == (b"no", b"\xffyes")
    assert done["header"]["X-Try"] == ["done"]
    assert (done["sourceMessageId"], done["url"], done["method"]) == (sent.message_id, endpoint.url(target), "PUT")
    assert base64.b64decode(done["sourceBody"]) == b"question"
    assert done["sourceHeader"]["X-Asked"] == ["1"]
    assert "dlqId" not in done
    for call in calls:
        assert (call.method, call.query, call.header("x-back")) == ("PATCH", "q=1", "b")
        assert call.header("upstash-message-id") != sent.message_id
    assert len({call.header("upstash-message-id") for call in calls}) == 2


async def test_client_is_called_back_after_a_failure(api: Calls, endpoint: Endpoint, path: Names) -> None:
    """Once, when the last attempt has failed, with the id of the dead letter."""
    target, back = path(), path()
    endpoint.answer(target, Answer(500, body=b"broken"))
    sent = await api.message.publish(
        url=endpoint.url(target), retries=1, retry_delay="50", failure_callback=endpoint.url(back),
        failure_callback_headers={"Forward-X-Failed": "yes"},
    )  # fmt: skip
    [call] = await endpoint.until(back)
    told = call.json()
    assert (told["status"], told["retried"], told["sourceMessageId"]) == (500, 1, sent.message_id)
    assert call.header("x-failed") == "yes"
    letter = await dead(api, sent.message_id)
    assert letter.dlq_id == told["dlqId"]
    assert len(endpoint.requests(target)) == 2


async def test_client_dedups(api: Calls, endpoint: Endpoint, path: Names, name: Names) -> None:
    """Of two messages with one id the first is sent, and its id answered for both."""
    target, dedup_id = path(), name()
    first = await api.message.publish(url=endpoint.url(target), body="1", deduplication_id=dedup_id)
    again = await api.message.publish(url=endpoint.url(target), body="2", deduplication_id=dedup_id)
    assert (first.deduplicated, again.deduplicated) == (False, True)
    assert again.message_id == first.message_id
    await api.message.publish(url=endpoint.url(target), body="3", deduplication_id=name())
    seen = await endpoint.until(target, 2)
    assert sorted(one.body for one in seen) == [b"1", b"3"]


async def test_client_dedups_by_content(api: Calls, endpoint: Endpoint, path: Names) -> None:
    """Destination, body and forwarded headers count; settings do not."""
    url = endpoint.url(path())
    same: dict[str, Any] = {"url": url, "body": "same", "content_based_deduplication": True}
    first = await api.message.publish(**same, headers={"X": "1"})
    again = await api.message.publish(**same, headers={"X": "1"}, retries=1)
    other = await api.message.publish(**same, headers={"X": "2"})
    elsewhere = await api.message.publish(**same | {"url": endpoint.url(path())}, headers={"X": "1"})
    assert [one.deduplicated for one in (first, again, other, elsewhere)] == [False, True, False, False]
    assert again.message_id == first.message_id


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
    await eventually(lambda: _lag_is(api, queue, 0), 20)
    await api.queue.delete(queue)


async def _lag_is(api: Calls, queue: str, lag: int) -> bool:
    return bool((await api.queue.get(queue)).lag == lag)


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


# -- get and cancel --


async def test_client_cancels_a_message(api: Calls, endpoint: Endpoint, path: Names) -> None:
    target = path()
    sent = await api.message.publish(url=endpoint.url(target), delay=FAR)
    await api.message.cancel(sent.message_id)
    assert "CANCELED" in await ended(api, sent.message_id, "CANCELED")
    assert endpoint.requests(target) == []
    with pytest.raises(QStashError, match="404"):
        await api.message.cancel("msg_that-never-was")
    with pytest.raises(QStashError, match="404.*error"):
        await api.message.get("msg_that-never-was")


async def test_client_cancels_between_retries(api: Calls, endpoint: Endpoint, path: Names) -> None:
    """A message that waits for its next attempt gets none; it goes to no dead letters."""
    target = path()
    endpoint.answer(target, 500)
    sent = await api.message.publish(url=endpoint.url(target), retry_delay="3600000")
    await ended(api, sent.message_id, "RETRY")
    await api.message.cancel(sent.message_id)
    await ended(api, sent.message_id, "CANCELED")
    assert (await api.dlq.list(filter={"message_id": sent.message_id})).messages == []


async def test_client_cancels_many(api: Calls, endpoint: Endpoint, name: Names) -> None:
    url = endpoint.url("/never")
    sent = [await api.message.publish(url=url, delay=FAR, label=name()) for _ in range(3)]
    ids = [one.message_id for one in sent]
    assert await api.message.cancel_many([*ids[:2], "msg_that-never-was"]) == 2
    assert await api.message.cancel_many(ids) == 1
    for one in ids:
        await ended(api, one, "CANCELED")


async def test_client_cancels_all(api: Calls, endpoint: Endpoint) -> None:
    sent = [await api.message.publish(url=endpoint.url("/never"), delay=FAR) for _ in range(2)]
    assert await api.message.cancel_all() >= 2
    for one in sent:
        await ended(api, one.message_id, "CANCELED")
    assert await api.message.cancel_all() == 0


async def test_client_cancels_the_head_of_a_queue(api: Calls, endpoint: Endpoint, path: Names, name: Names) -> None:
    """A head that waits for its retry is cancelled, and the next begins."""
    target, queue = path(), name()
    endpoint.answer(target, 500, 200)
    head = await api.message.enqueue(queue=queue, url=endpoint.url(target), body="head", retry_delay="3600000")
    await api.message.enqueue(queue=queue, url=endpoint.url(target), body="next")
    await ended(api, head.message_id, "RETRY")
    await api.message.cancel(head.message_id)
    assert [one.body for one in await endpoint.until(target, 2)] == [b"head", b"next"]
    await api.queue.delete(queue)


# -- queues --


async def test_client_keeps_queues(api: Calls, name: Names) -> None:
    """Made, changed, found, listed, deleted; deleting what is not there is no error."""
    queue = name()
    await api.queue.upsert(queue, parallelism=3)
    found = await api.queue.get(queue)
    assert (found.name, found.parallelism, found.lag, found.paused) == (queue, 3, 0, False)
    assert abs(found.created_at - time.time() * 1000) < 60_000
    assert found.updated_at >= found.created_at
    await api.queue.upsert(queue, parallelism=5, paused=True)
    found = await api.queue.get(queue)
    assert (found.parallelism, found.paused) == (5, True)
    assert queue in [one.name for one in await api.queue.list()]
    await api.queue.delete(queue)
    await api.queue.delete(queue)
    with pytest.raises(QStashError, match="404"):
        await api.queue.get(queue)
    assert queue not in [one.name for one in await api.queue.list()]


async def test_client_is_told_what_is_wrong_with_a_queue(api: Calls) -> None:
    for queue, options in (("no such/name", {}), ("fine", {"parallelism": 0})):
        with pytest.raises(QStashError, match="400.*error"):
            await api.queue.upsert(queue, **options)


async def test_client_pauses_a_queue(api: Calls, endpoint: Endpoint, path: Names, name: Names) -> None:
    """A paused queue takes messages and delivers none; resumed it delivers them in order."""
    target, queue = path(), name()
    await api.queue.upsert(queue)
    await api.queue.pause(queue)
    await api.queue.pause(queue)
    assert (await api.queue.get(queue)).paused is True
    for number in range(3):
        await api.message.enqueue(queue=queue, url=endpoint.url(target), body=str(number))
    assert (await api.queue.get(queue)).lag == 3
    assert endpoint.requests(target) == []
    await api.queue.resume(queue)
    assert [one.body for one in await endpoint.until(target, 3)] == [b"0", b"1", b"2"]
    assert (await api.queue.get(queue)).paused is False
    await api.queue.delete(queue)


async def test_client_limits_a_queue(api: Calls, endpoint: Endpoint, path: Names, name: Names) -> None:
    """At most so many at once as the queue's parallelism; raised, more."""
    target, queue = path(), name()
    await api.queue.upsert(queue, parallelism=2)
    with endpoint.holding(target):
        for _ in range(5):
            await api.message.enqueue(queue=queue, url=endpoint.url(target))
        await endpoint.until(target, 2)
        await api.queue.upsert(queue, parallelism=4)
        assert len(await endpoint.until(target, 4)) == 4
    assert len(await endpoint.until(target, 5)) == 5
    await eventually(lambda: _lag_is(api, queue, 0), 20)
    await api.queue.delete(queue)


# -- URL groups --


async def test_client_keeps_url_groups(api: Calls, name: Names) -> None:
    group = name()
    await api.url_group.delete(group)
    await api.url_group.upsert_endpoints(
        group, [{"url": "https://a.example/x"}, {"url": "https://b.example", "name": "b"}]
    )
    found = await api.url_group.get(group)
    assert {(one.url, one.name) for one in found.endpoints} == {
        ("https://a.example/x", None),
        ("https://b.example", "b"),
    }
    assert found.name == group
    assert found.updated_at >= found.created_at > 0
    await api.url_group.upsert_endpoints(group, [{"url": "https://c.example", "name": "b"}])
    await api.url_group.remove_endpoints(group, [{"url": "https://a.example/x"}])
    found = await api.url_group.get(group)
    assert [(one.url, one.name) for one in found.endpoints] == [("https://c.example", "b")]
    assert group in [one.name for one in await api.url_group.list()]
    await api.url_group.remove_endpoints(group, [{"name": "b"}])
    with pytest.raises(QStashError, match="404"):
        await api.url_group.get(group)


# -- schedules --


async def test_client_keeps_schedules(api: Calls, endpoint: Endpoint, name: Names) -> None:
    url, queue, key = endpoint.url("/never?a=b"), name(), name()
    schedule_id = await api.schedule.create_json(
        destination=url, cron="1 1 1 1 *", body={"a": 1}, method="PUT", headers={"X-One": "1"}, retries=2,
        retry_delay="5000 * retried", callback=endpoint.url("/c"), failure_callback=endpoint.url("/f"),
        callback_headers={"Forward-X-C": "c"}, failure_callback_headers={"Forward-X-F": "f"}, delay="1m30s", timeout=20,
        queue=queue, flow_control={"key": key, "parallelism": 2}, label="labelled",
    )  # fmt: skip
    found = await api.schedule.get(schedule_id)
    assert (found.schedule_id, found.destination, found.cron) == (schedule_id, url, "1 1 1 1 *")
    assert (json.loads(found.body), found.method, found.headers["X-One"]) == ({"a": 1}, "PUT", ["1"])
    assert found.headers["Content-Type"] == ["application/json"]
    assert (found.retries, found.retry_delay_expression) == (2, "5000 * retried")
    assert (found.callback, found.failure_callback) == (endpoint.url("/c"), endpoint.url("/f"))
    assert (found.callback_headers["X-C"], found.failure_callback_headers["X-F"]) == (["c"], ["f"])
    assert (found.delay, found.timeout, found.queue, found.label) == (90, 20, queue, "labelled")
    assert (found.paused, found.caller_ip) == (False, "127.0.0.1")
    flow = found.flow_control
    assert (flow.key, flow.parallelism, flow.rate, flow.period) == (key, 2, None, 1)
    assert abs(found.created_at - time.time() * 1000) < 60_000
    assert found.next_schedule_time > time.time() * 1000
    assert schedule_id in [one.schedule_id for one in await api.schedule.list()]
    await api.schedule.delete(schedule_id)
    with pytest.raises(QStashError, match="404"):
        await api.schedule.get(schedule_id)
    assert schedule_id not in [one.schedule_id for one in await api.schedule.list()]


async def test_client_overwrites_a_schedule(api: Calls, endpoint: Endpoint, name: Names) -> None:
    """An id of one's own creates or overwrites."""
    own = name()
    first = await api.schedule.create(destination=endpoint.url("/a"), cron="0 5 * * *", schedule_id=own, body="1")
    second = await api.schedule.create(
        destination=endpoint.url("/b"), cron="CRON_TZ=Europe/Berlin 30 6 * * 1", schedule_id=own, body=b"\xff"
    )
    assert first == second == own
    found = await api.schedule.get(own)
    assert (found.destination, found.cron) == (endpoint.url("/b"), "CRON_TZ=Europe/Berlin 30 6 * * 1")
    assert (found.body, base64.b64decode(found.body_base64)) == (None, b"\xff")
    assert found.method == "POST"
    await api.schedule.delete(own)


async def test_client_pauses_a_schedule(api: Calls, endpoint: Endpoint) -> None:
    schedule_id = await api.schedule.create(destination=endpoint.url("/never"), cron="1 1 1 1 1")
    for paused in (True, True, False, False):
        await (api.schedule.pause if paused else api.schedule.resume)(schedule_id)
        assert (await api.schedule.get(schedule_id)).paused is paused
    await api.schedule.delete(schedule_id)


async def test_client_is_told_what_is_wrong_with_a_schedule(api: Calls, endpoint: Endpoint) -> None:
    for options in ({"cron": "every day"}, {"cron": "61 * * * *"}, {"cron": "* * * * *", "schedule_id": "a/b"}):
        with pytest.raises(QStashError, match="400.*error"):
            await api.schedule.create(destination=endpoint.url("/never"), **options)


async def test_schedule_fires(running: Site, api: Calls, endpoint: Endpoint, path: Names, name: Names) -> None:
    """A tick is an ordinary message that carries its schedule; run now, by an operator, it is the same."""
    target, queue = path(), name()
    schedule_id = await api.schedule.create_json(
        destination=endpoint.url(target), cron="1 1 1 1 *", body={"tick": True}, queue=queue, headers={"X-T": "1"}
    )
    await asyncio.to_thread(running.taskq, "schedules", "run", schedule_id)
    [seen] = await endpoint.until(target)
    assert (seen.json(), seen.header("upstash-schedule-id"), seen.header("x-t")) == ({"tick": True}, schedule_id, "1")
    message_id = seen.header("upstash-message-id")
    message = await api.message.get(message_id)
    assert (message.schedule_id, message.queue) == (schedule_id, queue)
    await ended(api, message_id)
    logs = await api.log.list(filter={"schedule_id": schedule_id})
    assert {log.message_id for log in logs.logs} == {message_id}
    await api.schedule.delete(schedule_id)
    await api.queue.delete(queue)


# -- dead letters --


async def test_client_reads_a_dead_letter(api: Calls, endpoint: Endpoint, path: Names) -> None:
    """The message as it was, and the last answer that it got."""
    target = path()
    letter = await die(api, endpoint, target, label="dead", headers={"X-One": "1"}, retry_delay="1000 + retried")
    assert (letter.url, letter.body, letter.method) == (endpoint.url(target), "dead", "POST")
    assert (letter.max_retries, letter.label, letter.headers["X-One"]) == (0, "dead", ["1"])
    assert (letter.response_status, letter.response_body) == (500, "refused")
    assert letter.response_headers["X-Why"] == ["because"]
    assert letter.retry_delay_expression == "1000 + retried"
    assert await api.dlq.get(letter.dlq_id) == letter
    await api.dlq.delete(letter.dlq_id)
    with pytest.raises(QStashError, match="404"):
        await api.dlq.get(letter.dlq_id)
    with pytest.raises(QStashError, match="404"):
        await api.dlq.delete(letter.dlq_id)


async def test_client_filters_dead_letters(api: Calls, endpoint: Endpoint, path: Names, name: Names) -> None:
    label, since = name(), int(time.time() * 1000) - 2000
    letter = await die(api, endpoint, path(), label=label)
    other = await die(api, endpoint, path(), label=label)
    until = int(time.time() * 1000) + 2000

    async def found(**wanted: Any) -> list[str]:
        listed = await api.dlq.list(filter={"label": label, **wanted})
        return [one.dlq_id for one in listed.messages]

    assert await found() == [letter.dlq_id, other.dlq_id]
    assert await found(message_id=letter.message_id) == [letter.dlq_id]
    assert await found(url=other.url) == [other.dlq_id]
    assert await found(url_group="no-such-group") == []
    assert await found(queue="no-such-queue") == []
    assert await found(schedule_id="no-such-schedule") == []
    assert await found(from_time=since, to_time=until) == [letter.dlq_id, other.dlq_id]
    assert await found(from_time=until) == await found(to_time=since) == []
    assert await found(response_status=404) == []
    assert len(await found(response_status=500, caller_ip="127.0.0.1")) == 2
    assert await found(caller_ip="10.1.2.3") == []
    assert await api.dlq.delete_many([letter.dlq_id, other.dlq_id, "1-0"]) == 2
    assert await found() == []


async def test_client_pages_through_dead_letters(api: Calls, endpoint: Endpoint, path: Names, name: Names) -> None:
    """By the cursor, until there is none."""
    label = name()
    letters = [(await die(api, endpoint, path(), label=label)).dlq_id for _ in range(3)]
    found: list[str] = []
    cursor, pages = None, 0
    while cursor is not None or not pages:
        page = await api.dlq.list(cursor=cursor, count=2, filter={"label": label})
        found += [one.dlq_id for one in page.messages]
        cursor, pages = page.cursor, pages + 1
    assert (found, pages) == (letters, 2)
    assert await api.dlq.delete_many(letters) == 3


async def test_dead_letter_is_retried(raw: httpx.AsyncClient, api: Calls, endpoint: Endpoint, path: Names) -> None:
    """A new message with the same body and settings, but for what the request's headers change."""
    target = path()
    letter = await die(api, endpoint, target, headers={"X-One": "1"}, label="again")
    endpoint.answer(target, 200)
    answer = await raw.post(
        f"/v2/dlq/retry/{letter.dlq_id}", headers={"Upstash-Method": "PATCH", "Upstash-Retries": "4"}
    )
    assert answer.status_code == 201
    message_id = answer.json()["messageId"]
    assert message_id != letter.message_id
    seen = (await endpoint.until(target, 2))[1]
    assert (seen.method, seen.body, seen.header("x-one")) == ("PATCH", b"dead", "1")
    assert (seen.header("upstash-message-id"), seen.header("upstash-retried")) == (message_id, "0")
    message = await api.message.get(message_id)
    assert (message.max_retries, message.label) == (4, "again")
    assert (await raw.get(f"/v2/dlq/{letter.dlq_id}")).status_code == 404
    assert (await raw.post(f"/v2/dlq/retry/{letter.dlq_id}")).status_code == 404


# -- logs --


async def test_client_filters_logs(api: Calls, endpoint: Endpoint, path: Names, name: Names) -> None:
    label, target, queue = name(), path(), name()
    since = int(time.time() * 1000) - 2000
    one = await api.message.enqueue(queue=queue, url=endpoint.url(target), label=label, body="b", retries=2, timeout=9)
    two = await api.message.publish(url=endpoint.url(f"{target}/2"), label=label, callback=endpoint.url("/c"))
    for sent in (one, two):
        await ended(api, sent.message_id)

    async def found(**wanted: Any) -> set[str]:
        listed = await api.log.list(filter={"label": label, **wanted})
        return {log.message_id for log in listed.logs}

    both = {one.message_id, two.message_id}
    assert await found() == both
    assert await found(message_id=one.message_id) == {one.message_id}
    assert await found(message_ids=[one.message_id, two.message_id]) == both
    assert await found(url=endpoint.url(target)) == {one.message_id}
    assert await found(queue=queue) == {one.message_id}
    assert await found(url_group="no-such-group") == await found(schedule_id="no-such-schedule") == set()
    assert await found(from_time=since) == both
    assert await found(to_time=since) == set()
    delivered = (await api.log.list(filter={"label": label, "state": LogState.DELIVERED})).logs
    assert {log.message_id for log in delivered} == both
    assert {log.state for log in delivered} == {LogState.DELIVERED}
    log = next(log for log in delivered if log.message_id == one.message_id)
    assert (log.url, log.method, log.queue, log.max_retries) == (endpoint.url(target), "POST", queue, 2)
    assert (log.timeout, log.label, base64.b64decode(log.body_base64)) == (9000, label, b"b")
    assert since < log.time < time.time() * 1000 + 2000
    assert next(log for log in delivered if log.message_id == two.message_id).callback == endpoint.url("/c")
    await api.queue.delete(queue)


async def test_client_pages_through_logs(api: Calls, endpoint: Endpoint, path: Names, name: Names) -> None:
    """Newest first, nothing twice, nothing left out."""
    label = name()
    for _ in range(3):
        sent = await api.message.publish(url=endpoint.url(path()), label=label)
        await ended(api, sent.message_id)
    found: list[tuple[str, str]] = []
    times: list[int] = []
    cursor, pages = None, 0
    while cursor is not None or not pages:
        page = await api.log.list(cursor=cursor, count=4, filter={"label": label})
        found += [(log.message_id, log.state.value) for log in page.logs]
        times += [log.time for log in page.logs]
        cursor, pages = page.cursor, pages + 1
        assert pages < 10
    assert len(found) == len(set(found)) == 9
    assert times == sorted(times, reverse=True)


async def test_client_finds_what_is_in_progress(api: Calls, endpoint: Endpoint, path: Names) -> None:
    """IN_PROGRESS stands for ACTIVE, RETRY and ERROR."""
    target = path()
    endpoint.answer(target, 500, 200)
    sent = await api.message.publish(url=endpoint.url(target), retry_delay="50")
    await ended(api, sent.message_id)
    logs = (await api.log.list(filter={"message_id": sent.message_id, "state": LogState.IN_PROGRESS})).logs
    assert {log.state for log in logs} == {LogState.ACTIVE, LogState.ERROR, LogState.RETRY}


async def test_logs_in_both_spellings(raw: httpx.AsyncClient, api: Calls, endpoint: Endpoint, path: Names) -> None:
    """/v2/logs and /v2/events tell the same under the words that their readers know."""
    sent = await api.message.publish(url=endpoint.url(path()), delay=FAR, retry_delay="1000")
    await api.message.cancel(sent.message_id)
    await ended(api, sent.message_id, "CANCELED")
    wanted = {"messageId": sent.message_id, "order": "earliestFirst"}
    logs = (await raw.get("/v2/logs", params=wanted)).json()["logs"]
    events = (await raw.get("/v2/events", params=wanted)).json()["events"]
    assert [one["state"] for one in events][-1] == "CANCELED"
    assert [one["time"] for one in logs] == [one["time"] for one in events]
    assert all(one["retryDelayExpr"] == one["retryDelayExpression"] == "1000" for one in [*logs, *events])
    for word in ("CANCELED", "CANCELLED"):
        found = (await raw.get("/v2/events", params=wanted | {"state": word})).json()["events"]
        assert [one["state"] for one in found] == ["CANCELED"]


async def test_client_hides_what_is_redacted(api: Calls, endpoint: Endpoint, path: Names) -> None:
    """Answers show a hash; the destination gets the whole, also when the dead letter is retried."""
    target = path()
    endpoint.answer(target, 500)
    sent = await api.message.publish(
        url=endpoint.url(target), body="secret", headers={"X-Key": "hidden", "X-Open": "shown"}, retries=0,
        redact={"body": True, "header": ["X-Key"]},
    )  # fmt: skip
    letter = await dead(api, sent.message_id)
    placeholder = "REDACTED:" + hashlib.sha256(b"secret").hexdigest()
    message = await api.message.get(sent.message_id)
    logs = (await api.log.list(filter={"message_id": sent.message_id})).logs
    for one in (message, letter):
        assert (one.body, one.headers["X-Open"]) == (placeholder, ["shown"])
        assert one.headers["X-Key"] == ["REDACTED:" + hashlib.sha256(b"hidden").hexdigest()]
    assert {base64.b64decode(log.body_base64).decode() for log in logs} == {placeholder}
    [seen] = endpoint.requests(target)
    assert (seen.body, seen.header("x-key")) == (b"secret", "hidden")
    whole = await api.message.publish(
        url=endpoint.url(target), delay=FAR, headers={"X-A": "1"}, redact={"header": True}
    )
    hidden = (await api.message.get(whole.message_id)).headers
    assert all(value.startswith("REDACTED:") for values in hidden.values() for value in values)
    await api.message.cancel(whole.message_id)


# -- flow control --


async def test_client_controls_the_flow(api: Calls, endpoint: Endpoint, path: Names, name: Names) -> None:
    """One at a time by its key, wherever they go; what waits is counted."""
    key, first, second = name(), path(), path()
    limit = {"key": key, "parallelism": 1}
    with endpoint.holding(first):
        await api.message.publish(url=endpoint.url(first), flow_control=limit)
        await endpoint.until(first)
        for _ in range(2):
            await api.message.publish(url=endpoint.url(second), flow_control=limit)

        async def check() -> bool:
            info = await api.flow_control.get(key)
            assert (info.parallelism_max, info.parallelism_count, info.wait_list_size) == (1, 1, 2)
            return True

        await eventually(check, 20)
        assert (await api.flow_control.get_global_parallelism()).parallelism_count >= 1
        assert endpoint.requests(second) == []
    assert len(await endpoint.until(second, 2)) == 2
    with pytest.raises(QStashError, match="404"):
        await api.flow_control.get(name())


async def test_client_pauses_a_flow_key(api: Calls, endpoint: Endpoint, path: Names, name: Names) -> None:
    key, target = name(), path()
    limit = {"key": key, "parallelism": 5}
    await api.message.publish(url=endpoint.url(target), flow_control=limit)
    await endpoint.until(target)
    await api.flow_control.pause(key)
    await api.message.publish(url=endpoint.url(target), flow_control=limit)

    async def waits() -> bool:
        info = await api.flow_control.get(key)
        return bool(info.is_paused and info.wait_list_size == 1)

    await eventually(waits, 20)
    assert len(endpoint.requests(target)) == 1
    await api.flow_control.resume(key)
    await endpoint.until(target, 2)
    assert (await api.flow_control.get(key)).is_paused is False


async def test_client_pins_a_flow_key(api: Calls, endpoint: Endpoint, path: Names, name: Names) -> None:
    """What is pinned stands over what messages say, until it is unpinned and a message brings others."""
    key, target = name(), path()
    await api.message.publish(url=endpoint.url(target), flow_control={"key": key, "rate": 50, "parallelism": 9})
    await endpoint.until(target)
    await api.flow_control.pin(key, {"parallelism": 2, "rate": 7, "period": 30})
    await api.message.publish(url=endpoint.url(target), flow_control={"key": key, "rate": 60, "parallelism": 8})
    await endpoint.until(target, 2)
    info = await api.flow_control.get(key)
    assert (info.parallelism_max, info.rate_max, info.rate_period) == (2, 7, 30)
    assert (info.is_pinned_parallelism, info.is_pinned_rate) == (True, True)
    await api.flow_control.unpin(key, {"parallelism": True})
    info = await api.flow_control.get(key)
    assert (info.is_pinned_parallelism, info.is_pinned_rate) == (False, True)
    await api.flow_control.unpin(key, {"rate": True})
    await api.message.publish(url=endpoint.url(target), flow_control={"key": key, "rate": 60, "parallelism": 8})
    await endpoint.until(target, 3)
    info = await api.flow_control.get(key)
    assert (info.parallelism_max, info.rate_max, info.rate_period) == (8, 60, 1)
    with pytest.raises(QStashError, match="400"):
        await api.flow_control.pin(key, {"parallelism": -1})


async def test_client_resets_a_rate(api: Calls, endpoint: Endpoint, path: Names, name: Names) -> None:
    """Over the rate messages wait for the next period; a reset begins it now."""
    key, target = name(), path()
    limit = {"key": key, "rate": 1, "period": "1h"}
    for _ in range(2):
        await api.message.publish(url=endpoint.url(target), flow_control=limit)
    await endpoint.until(target)
    info = await api.flow_control.get(key)
    assert (info.rate_max, info.rate_period, info.rate_count) == (1, 3600, 1)
    assert abs(info.rate_period_start - time.time()) < 60
    await api.flow_control.reset_rate(key)
    assert len(await endpoint.until(target, 2)) == 2


# -- keys and signatures --


def verify(receiver: Receiver, seen: Seen, url: str) -> None:
    receiver.verify(signature=seen.header("upstash-signature") or "", body=seen.body.decode(), url=url)


async def test_client_verifies_deliveries(api: Calls, endpoint: Endpoint, path: Names, name: Names) -> None:
    """Every attempt, callback and member of a group is signed for the URL called and the bytes sent."""
    keys = await api.signing_key.get()
    receiver = Receiver(keys.current, keys.next)
    target, back, group = path(), path(), name()
    url = f"{endpoint.url(target)}?a=b%20c"
    endpoint.answer(target, 500, 200)
    await api.message.publish(url=url, body="żółw", retry_delay="50", callback=endpoint.url(back))
    attempts = await endpoint.until(target, 2)
    for seen in attempts:
        verify(receiver, seen, url)
    assert len({seen.header("upstash-signature") for seen in attempts}) == 2
    for call in await endpoint.until(back, 2):
        verify(receiver, call, endpoint.url(back))
    strict = Receiver(keys.current, keys.current)
    with pytest.raises(SignatureError, match="subject"):
        verify(strict, attempts[0], endpoint.url(target))
    with pytest.raises(SignatureError, match="body hash"):
        strict.verify(signature=attempts[0].header("upstash-signature") or "", body="other")
    member = path()
    await api.url_group.upsert_endpoints(group, [{"url": endpoint.url(member)}])
    await api.message.publish(url_group=group)
    [seen] = await endpoint.until(member)
    verify(receiver, seen, endpoint.url(member))
    await api.url_group.delete(group)


async def test_client_rotates_keys(api: Calls, endpoint: Endpoint, path: Names) -> None:
    """The next key becomes the current one; who has the old pair goes on to verify."""
    old = await api.signing_key.get()
    new = await api.signing_key.rotate()
    assert new.current == old.next
    assert len({old.current, old.next, new.next}) == 3
    assert await api.signing_key.get() == new

    async def signed_anew() -> bool:
        target = path()
        await api.message.publish(url=endpoint.url(target))
        [seen] = await endpoint.until(target)
        verify(Receiver(old.current, old.next), seen, endpoint.url(target))
        try:
            verify(Receiver(new.current, new.current), seen, endpoint.url(target))
        except SignatureError:
            return False
        return True

    await eventually(signed_anew, 20)


# -- errors --


async def test_client_is_told_what_is_wrong(api: Calls, endpoint: Endpoint) -> None:
    """400 with the text of what is wrong, in the body that the client puts into its exception."""
    url = endpoint.url("/never")
    known = "invalid destination url: endpoint has invalid scheme, add http:// or https://"
    with pytest.raises(QStashError, match=known):
        await api.message.publish(url="ftp://example.com")
    for options, word in (
        ({"retries": -1}, "etries"),
        ({"delay": "soon"}, "elay"),
        ({"timeout": "1x"}, "imeout"),
        ({"retry_delay": "__import__('os')"}, "etry-"),
        ({"method": "BREW"}, "ethod"),
        ({"callback": "mailto:a@b.c"}, "allback"),
        ({"flow_control": {"key": "k", "rate": 0}}, "low"),
    ):
        with pytest.raises(QStashError, match=f"400.*error.*{word}"):
            await api.message.publish(url=url, **options)
    with pytest.raises(QStashError, match="40[04].*error"):
        await api.message.publish(url_group="no-such-group")


async def test_client_is_told_that_a_body_is_too_large(api: Calls, endpoint: Endpoint) -> None:
    with pytest.raises(QStashError, match="413.*error"):
        await api.message.publish(url=endpoint.url("/never"), body=b"x" * (2 * 1024 * 1024))


async def test_client_needs_its_token(running: Site, endpoint: Endpoint) -> None:
    """401 without the token, as bearer or in the query; a second one may only read."""
    async with httpx.AsyncClient(base_url=running.url) as client:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {running.token}"}):
            answer = await client.get("/v2/queues", headers=headers)
            assert (answer.status_code, list(answer.json())) == (401, ["error"])
        assert (await client.get("/v2/queues", params={"qstash_token": running.token})).status_code == 200
        assert (await client.get("/v2/queues", params={"qstash_token": "wrong"})).status_code == 401
        readonly = {"Authorization": f"Bearer {running.readonly_token}"}
        assert (await client.get("/v2/queues", headers=readonly)).status_code == 200
        refused = await client.post(f"/v2/publish/{endpoint.url('/never')}", headers=readonly)
        assert (refused.status_code, list(refused.json())) == (403, ["error"])
        assert (await client.delete("/v2/messages", headers=readonly)).status_code == 403


async def test_token_is_not_passed_on(running: Site, endpoint: Endpoint, path: Names) -> None:
    """Neither form of it reaches a destination, also when all headers are forwarded."""
    target = path()
    async with httpx.AsyncClient(base_url=running.url) as client:
        await client.post(
            f"/v2/publish/{endpoint.url(target)}?x=1&qstash_token={running.token}&upstash-retries=0&y=2",
            headers={"Upstash-Header-Forward": "true", "X-Mine": "1", "Authorization": f"Bearer {running.token}"},
        )
    [seen] = await endpoint.until(target)
    assert (seen.query, seen.header("x-mine")) == ("x=1&y=2", "1")
    assert running.token not in str(seen)
    assert seen.header("authorization") is None


async def test_client_is_told_that_it_asks_too_often(running: Site, endpoint: Endpoint, path: Names) -> None:
    """Beyond the requests a second that a client may make: 429 as the client knows it. Publishing is not counted."""
    from qstash import QStash

    target = path()
    with running.another(TASKQ_API_RATE_LIMIT="2") as url:
        calls = Calls(QStash(running.token, base_url=url, retry=False))
        with pytest.raises(RateLimitExceededError) as caught:
            for _ in range(20):
                await calls.queue.list()
        assert (caught.value.limit, caught.value.remaining) == ("2", "0")
        assert caught.value.reset is not None
        for _ in range(10):
            await calls.message.publish(url=endpoint.url(target))
        await calls.close()
    await endpoint.until(target, 10)
