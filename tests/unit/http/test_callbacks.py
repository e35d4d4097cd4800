"""Callbacks: what came of an attempt."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from taskq.clock import to_ms
from taskq.http.callbacks import CALLBACK_QUEUE, MAX_BODY_BYTES, callbacks_of
from taskq.http.publishing import Publishing, compose, read
from taskq.http.request import HTTP_TASK, Callback, Request, Response, request_of
from taskq.message import Message

BORN = datetime(2026, 5, 1, 12, tzinfo=UTC)
NOW = BORN + timedelta(minutes=5)
CALLBACK, FAILURE = "https://example.com/cb", "https://example.com/failed"
RESPONSE = Response(503, (("content-type", "text/plain"), ("set-cookie", "a"), ("Set-Cookie", "b")), b"\x00busy")


def source(*headers: tuple[str, str], body: bytes = b"\xffbody", **given: Any) -> Message:
    both = [("Upstash-Callback", CALLBACK), ("Upstash-Failure-Callback", FAILURE), ("Upstash-Retries", "2")]
    return compose(
        read([*both, *headers]), "https://example.com/hook", body, now=BORN, queue="http",
        caller_ip="192.0.2.1", **given,
    )  # fmt: skip


def told(
    message: Message, response: Response = RESPONSE, *, attempt: int = 1, epoch: int = 4, failed: bool = False,
    dead_letter_id: str | None = None, now: datetime = NOW,
) -> list[Message]:  # fmt: skip
    return callbacks_of(
        message, request(message), response, attempt=attempt, epoch=epoch, failed=failed,
        dead_letter_id=dead_letter_id, now=now,
    )  # fmt: skip


def request(message: Message) -> Request:
    found = request_of(message)
    assert found is not None
    return found


def body(message: Message) -> dict[str, Any]:
    return json.loads(request(message).body)


def test_after_an_attempt() -> None:
    """An attempt that failed, and is retried, is told to the callback alone."""
    message = source(("Content-Type", "a/b"), ("Upstash-Forward-x-lower", "1"))
    [callback] = told(message)
    assert (callback.task, callback.queue, callback.created_at, callback.not_before) == (
        HTTP_TASK,
        CALLBACK_QUEUE,
        NOW,
        None,
    )
    assert callback.recorded and callback.repeated and callback.attempt == 1
    asked = request(callback)
    assert (asked.url, asked.method, asked.callback_of) == (CALLBACK, "POST", message.id)
    assert asked.caller_ip == "192.0.2.1"
    assert asked.headers == (("Content-Type", "application/json"),)
    assert body(callback) == {
        "status": 503,
        "header": {"Content-Type": ["text/plain"], "Set-Cookie": ["a", "b"]},
        "body": "AGJ1c3k=",
        "retried": 0,
        "maxRetries": 2,
        "sourceMessageId": message.id,
        "url": "https://example.com/hook",
        "method": "POST",
        "sourceHeader": {"Content-Type": ["a/b"], "X-Lower": ["1"]},
        "sourceBody": "/2JvZHk=",
        "notBefore": 1777636800000,
        "createdAt": 1777636800000,
        "callerIP": "192.0.2.1",
    }


def test_failed_for_good() -> None:
    """The last failure is told to both, and the failure callback says where the dead letter is."""
    message = source()
    callback, failure = told(message, attempt=3, failed=True, dead_letter_id="1777636800000-ab")
    assert (request(callback).url, request(failure).url) == (CALLBACK, FAILURE)
    assert body(failure) == {**body(callback), "dlqId": "1777636800000-ab"}
    assert body(callback)["retried"] == body(callback)["maxRetries"] == 2
    assert request(failure).callback_of == message.id


def test_success_tells_no_failure() -> None:
    """A success goes to the callback; without callbacks nothing goes anywhere."""
    assert [request(one).url for one in told(source(), Response(200))] == [CALLBACK]
    silent = compose(Publishing(), "https://example.com", b"", now=BORN, queue="http")
    assert told(silent, failed=True) == []


def test_no_callbacks_of_callbacks() -> None:
    """A callback that fails tells nobody."""
    [callback] = told(source())
    loud = replace(request(callback), callback=Callback(CALLBACK), failure_callback=Callback(FAILURE))
    assert told(replace(callback, payload=loud.encode()), failed=True) == []


def test_where_it_came_from() -> None:
    """Group, member, schedule and the instant that was asked for are told where there are any."""
    message = source(("Upstash-Delay", "60s"), topic="group", endpoint="member", schedule_id="scd_1")
    [callback] = told(message)
    said = body(callback)
    assert (said["topicName"], said["endpointName"], said["scheduleId"]) == ("group", "member", "scd_1")
    assert said["notBefore"] == to_ms(BORN) + 60_000
    assert (request(callback).topic, request(callback).schedule_id) == (None, None)


def test_settings() -> None:
    """A callback's message has its own settings, each callback its own; retries are the source's unless it says so."""
    message = source(
        ("Upstash-Callback-Method", "PUT"),
        ("Upstash-Callback-Timeout", "5s"),
        ("Upstash-Callback-Delay", "1m"),
        ("Upstash-Callback-Retry-Delay", "1000"),
        ("Upstash-Callback-Forward-Authorization", "Bearer t"),
        ("Upstash-Callback-Forward-Content-Type", "application/cloudevents+json"),
        ("Upstash-Callback-Flow-Control-Key", "k"),
        ("Upstash-Callback-Flow-Control-Value", "parallelism=1"),
        ("Upstash-Failure-Callback-Retries", "7"),
    )
    callback, failure = told(message, failed=True)
    asked = request(callback)
    assert asked.method == "PUT"
    assert asked.headers == (("Content-Type", "application/cloudevents+json"), ("Authorization", "Bearer t"))
    assert (callback.timeout, callback.not_before) == (5.0, NOW + timedelta(minutes=1))
    assert callback.flow is not None and (callback.flow.key, callback.flow.parallelism) == ("k", 1)
    assert callback.retry is not None and (callback.retry.max_retries, callback.retry.delay) == (2, "1000")
    assert failure.retry is not None and failure.retry.max_retries == 7
    assert request(failure).method == "POST" and failure.timeout is None


def test_ids() -> None:
    """The same attempt makes the same ids at any time; another attempt, epoch, kind or message makes others."""
    message, other = source(), source()
    first = [one.id for one in told(message, failed=True)]
    assert first == [one.id for one in told(message, failed=True, now=NOW + timedelta(hours=1))]
    ids = {*first}
    for again in (told(message, attempt=2, failed=True), told(message, epoch=5, failed=True), told(other, failed=True)):
        ids |= {one.id for one in again}
    assert len(ids) == 8 and all(one.startswith("msg_") for one in ids)


def test_hidden_body() -> None:
    """A body that its source hides is not shown as the callback's, which is sent whole."""
    message = source(("Upstash-Redact-Fields", "body"), ("Upstash-Callback-Redact-Fields", "header[X]"))
    [callback] = told(message)
    assert request(callback).redact == ("body", "header:X")
    assert base64.b64decode(body(callback)["sourceBody"]) == b"\xffbody"


def test_hidden_headers() -> None:
    """Headers that its source hides go to the destination alone: the callback has their hashes."""
    message = source(
        ("Upstash-Redact-Fields", "header[Authorization]"),
        ("Upstash-Forward-authorization", "Bearer secret"),
        ("Upstash-Forward-X", "1"),
    )
    [callback] = told(message)
    hidden = f"REDACTED:{hashlib.sha256(b'Bearer secret').hexdigest()}"
    assert body(callback)["sourceHeader"] == {"Authorization": [hidden], "X": ["1"]}
    assert b"secret" not in callback.encode()
    assert request(callback).redact == ()


@pytest.mark.parametrize(
    ("sent", "answered"), [(2**20, 2**20), (2**20, 2**22), (3 * 2**20 - 2000, 2**20), (2**22, 2**20), (0, 2**23)]
)
def test_size(sent: int, answered: int) -> None:
    """A callback's body is at most 4 MiB: the answer is cut first, and what is there are its first bytes."""
    [callback] = told(source(body=b"s" * sent), Response(500, (), b"a" * answered))
    assert len(request(callback).body) <= MAX_BODY_BYTES
    said = body(callback)
    sources, answers = (base64.b64decode(said[name], validate=True) for name in ("sourceBody", "body"))
    assert b"s" * sent == sources or (sent > 3 * 2**20 - 2000 and len(sources) > 3 * 2**20 - 2000 and not answers)
    assert answers == b"a" * len(answers)
    fits = sent + answered < 3 * 2**20 - 2000
    assert (len(answers) == answered) == fits
    if not fits:
        assert len(request(callback).body) > MAX_BODY_BYTES - 8
