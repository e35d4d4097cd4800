"""What became of messages, by the official Python client, blocking and async: read back, cancelled, dead, logged."""

from __future__ import annotations

import base64
import hashlib
import time
from typing import Any

import httpx
import pytest
from qstash.errors import QStashError
from qstash.log import LogState

from tests.clients.calls import FAR, Calls, Names, dead, die, ended
from tests.endpoint import Endpoint

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
