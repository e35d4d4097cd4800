"""Retries, callbacks, duplicates and signatures of messages that the official Python client publishes."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from qstash import Receiver
from qstash.errors import SignatureError
from qstash.log import LogState

from tests.clients.calls import Calls, Names, dead, ended
from tests.endpoint import Answer, Endpoint, Seen
from tests.support import eventually

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

    await eventually(signed_anew)
