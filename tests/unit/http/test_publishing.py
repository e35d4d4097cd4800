"""The message that a caller asks for."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest

from taskq.clock import to_ms
from taskq.errors import InvalidRequest
from taskq.flow import Flow
from taskq.http.publishing import Publishing, compose, dedup_key, override, read, read_overrides
from taskq.http.request import HTTP_TASK, PAYLOAD_TYPE, Callback, Request, request_of
from taskq.message import Message, decode
from taskq.queue import RateLimit
from taskq.retry import Retry

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
URL = "https://example.com/hook?a=b"
CALLBACK = Callback("https://example.com/cb", (("Forward-X", "1"),))


NOTHING = Publishing()


def composed(publishing: Publishing = NOTHING, **given: Any) -> Message:
    return compose(publishing, **{"url": URL, "body": b"{}", "now": NOW, "queue": "http", **given})


def request(message: Message) -> Request:
    found = request_of(decode(message.encode()))
    assert found is not None
    return found


def test_defaults() -> None:
    """Nothing said: a POST at once, three retries, no timeout of its own; recorded, and claimed at its first start."""
    message = composed()
    assert (message.task, message.queue, message.payload_type) == (HTTP_TASK, "http", PAYLOAD_TYPE)
    assert (message.created_at, message.not_before, message.timeout, message.flow) == (NOW, None, None, None)
    assert message.recorded and message.repeated and not message.waits
    assert message.id.startswith("msg_") and message.id != composed().id
    assert message.retry is not None and message.retry.max_retries == 3
    assert request(message) == Request(URL, "POST", (), b"{}")


def test_all_of_it() -> None:
    """What is said is in the message, or in its request."""
    flow = Flow("k", 2, RateLimit(5, 60))
    publishing = Publishing(
        method="PUT", headers=(("X", "\xe9"),), timeout=7.0, retries=9, retry_delay="1000", labels=("a", "b"),
        flow=flow, callback=CALLBACK, failure_callback=CALLBACK, redact=("body",),
    )  # fmt: skip
    message = composed(
        publishing, body=b"\x00\xff", message_id="msg_1", queue="q", queue_name="mine", caller_ip="192.0.2.1",
        topic="t", endpoint="e", schedule_id="s", callback_of="msg_0",
    )  # fmt: skip
    assert (message.id, message.queue, message.timeout, message.flow) == ("msg_1", "q", 7.0, flow)
    assert request(message) == Request(
        URL, "PUT", (("X", "\xe9"),), b"\x00\xff", CALLBACK, CALLBACK, "t", "e", "s", "mine", "192.0.2.1", ("a", "b"),
        ("body",), "1000", None, "msg_0",
    )  # fmt: skip


def test_task() -> None:
    """A destination task://NAME makes a message of that task, whose payload is the request all the same."""
    message = composed(url="task://shop:send")
    assert (message.task, message.payload_type, request(message).url) == ("shop:send", PAYLOAD_TYPE, "task://shop:send")


@pytest.mark.parametrize(
    ("publishing", "asked", "starts"),
    [
        (Publishing(delay=90.0), 90, 90),
        (Publishing(delay=0.0), 0, None),
        (Publishing(not_before=int(NOW.timestamp()) + 60), 60, 60),
        (Publishing(not_before=int(NOW.timestamp()) + 60, delay=5.0), 60, 60),
        (Publishing(not_before=int(NOW.timestamp())), 0, None),
        (Publishing(not_before=int(NOW.timestamp()) - 60), -60, None),
        (Publishing(not_before=int(NOW.timestamp()) - 60, delay=5.0), -60, None),
        (Publishing(not_before=1), 1 - NOW.timestamp(), None),
    ],
)
def test_when(publishing: Publishing, asked: float, starts: float | None) -> None:
    """A delay counts from now, an instant wins over it, and what has passed means now; what was asked for is kept."""
    message = composed(publishing)
    assert request(message).not_before == to_ms(NOW) + asked * 1000
    assert message.not_before == (None if starts is None else NOW + timedelta(seconds=starts))
    assert message.waits == (starts is not None)


@pytest.mark.parametrize("ahead", [366 * 86400 + 1, 10**10, 99_999_999_999 - int(NOW.timestamp())])
def test_too_far(ahead: int) -> None:
    """An instant more than 366 days ahead is refused, also one beyond the calendar."""
    with pytest.raises(InvalidRequest, match="Upstash-Not-Before"):
        composed(Publishing(not_before=int(NOW.timestamp()) + ahead))


def test_default_backoff() -> None:
    """Between the attempts there are e^(2.5 n) seconds, at most a day, without chance."""
    retry = composed().retry
    assert retry is not None
    delays = [retry.delay_after(retried, rng=Random(1)) for retried in range(6)]
    assert delays == pytest.approx([12.182, 148.413, 1808.042, 22026.466, 86400, 86400], rel=1e-4)
    assert delays[:3] == pytest.approx([math.exp(2.5 * n) for n in (1, 2, 3)])
    assert retry.delay_after(10_000, rng=Random(1)) == 86400


@pytest.mark.parametrize(("text", "seconds"), [("1000", [1, 1]), ("(1 + retried) * 500", [0.5, 1]), ("0 - 5", [0, 0])])
def test_retry_delay(text: str, seconds: list[float]) -> None:
    """An expression gives milliseconds; a constant is one."""
    retry = composed(read([("Upstash-Retry-Delay", text)])).retry
    assert retry is not None
    assert [retry.delay_after(retried, rng=Random(1)) for retried in (0, 1)] == seconds


DEAD = replace(
    composed(
        Publishing(
            method="PUT", headers=(("Content-Type", "a/b"), ("X", "1"), ("Y", "2")), timeout=7.0, retries=9,
            retry_delay="1000", delay=60.0, labels=("old",), flow=Flow("k", 2), callback=CALLBACK, redact=("body",),
        ),
        body=b"body", queue_name="mine", topic="t", caller_ip="192.0.2.1",
    ),
    not_before=None,
)  # fmt: skip
LATER = NOW + timedelta(hours=1)


def overridden(*headers: tuple[str, str]) -> tuple[Message, Request]:
    message = override(DEAD, read_overrides(headers), now=LATER)
    return message, request(message)


def test_override_nothing() -> None:
    """Where nothing is said all stays, but for an instant that belonged to the first life."""
    message, asked = overridden(("Content-Type", "application/json"), ("Authorization", "Bearer t"))
    assert asked == replace(request(DEAD), not_before=None)
    assert message == replace(DEAD, payload=message.payload)


def test_override() -> None:
    """Only what is given is changed; headers replace those of their name; what is hidden and the body stay."""
    message, asked = overridden(
        ("Upstash-Method", "DELETE"),
        ("Upstash-Timeout", "3s"),
        ("Upstash-Delay", "10s"),
        ("Upstash-Forward-x", "new"),
        ("Upstash-Forward-Content-Type", "c/d"),
        ("Upstash-Label", "new"),
        ("Upstash-Failure-Callback", "https://example.com/f"),
        ("Upstash-Flow-Control-Key", "other"),
        ("Upstash-Flow-Control-Value", "rate=1"),
        ("Upstash-Redact-Fields", "headers"),
    )
    assert asked == replace(
        request(DEAD),
        method="DELETE",
        headers=(("Y", "2"), ("Content-Type", "c/d"), ("x", "new")),
        labels=("new",),
        failure_callback=Callback("https://example.com/f"),
        redact=("body", "headers"),
        not_before=to_ms(LATER) + 10_000,
    )
    assert (message.timeout, message.not_before) == (3.0, LATER + timedelta(seconds=10))
    assert message.flow == Flow("other", None, RateLimit(1))
    assert (message.id, message.retry, message.queue) == (DEAD.id, DEAD.retry, DEAD.queue)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([("Upstash-Retries", "0")], Retry(0, "1000")),
        ([("Upstash-Retry-Delay", "5")], Retry(9, "5")),
        ([("Upstash-Retries", "1"), ("Upstash-Retry-Delay", "5")], Retry(1, "5")),
    ],
)
def test_override_retries(headers: list[tuple[str, str]], expected: Retry) -> None:
    """Retries and their delay are changed each on its own."""
    message, asked = overridden(*headers)
    assert message.retry == expected
    assert asked.retry_delay == expected.delay


def test_override_of_a_task() -> None:
    """Of a message that is no request the settings of any message can be changed, and its arguments stay."""
    plain = Message("msg_1", "add", "default", b"\x92\x91\x01\x80", "application/x-msgpack", NOW)
    message = override(plain, read_overrides([("Upstash-Retries", "2"), ("Upstash-Method", "GET")]), now=LATER)
    assert message.retry is not None and message.retry.max_retries == 2
    assert message == replace(plain, retry=message.retry)


def test_no_dedup() -> None:
    """Without an id, and unless content is to be compared, nothing is a duplicate."""
    assert dedup_key(Publishing(), URL, b"") is None


def test_dedup_id() -> None:
    """An id holds whatever the destination and the body; a long one is kept as its hash; it wins over content."""
    one = dedup_key(Publishing(dedup_id="a", content_dedup=True), URL, b"1")
    assert one is not None and one == dedup_key(Publishing(dedup_id="a"), "group", b"2") and one[1] == "a"
    longs = {dedup_key(Publishing(dedup_id="a" * n), URL, b"") for n in (150, 151, 1000)}
    assert len(longs) == 3 and all(key is not None and len(key[1]) <= 150 for key in longs)


def test_dedup_content() -> None:
    """By content: destination, body and headers count, settings and the order and case of headers do not."""
    headers = (("Content-Type", "a/b"), ("X", "1"))
    base = Publishing(content_dedup=True, headers=headers)
    same = [
        (replace(base, retries=9, delay=5.0, method="PUT", labels=("a",)), URL, b"body"),
        (replace(base, headers=(("x", "1"), ("content-type", "a/b"))), URL, b"body"),
    ]
    others = [
        (base, URL + "c", b"body"),
        (base, URL, b"body2"),
        (base, URL[:-1], URL[-1:].encode() + b"body"),
        (replace(base, headers=(("Content-Type", "a/c"), ("X", "1"))), URL, b"body"),
        (replace(base, headers=headers[:1]), URL, b"body"),
        (replace(base, headers=(*headers, ("Y", "\xff"))), URL, b"body"),
        (Publishing(dedup_id="body"), URL, b"body"),
    ]
    key = dedup_key(base, URL, b"body")
    assert key is not None
    assert {dedup_key(*one) for one in same} == {key}
    assert len({key, *(dedup_key(*one) for one in others)}) == 1 + len(others)


@pytest.mark.parametrize("publishing", [Publishing(dedup_id="a"), Publishing(content_dedup=True)])
def test_dedup_of_members(publishing: Publishing) -> None:
    """Each member of a group has an id of its own, the same every time."""
    keys = [dedup_key(publishing, "group", b"", member=one) for one in ("https://a.b", "https://a.c", "https://a.b")]
    assert keys[0] == keys[2] != keys[1]
    assert dedup_key(publishing, "group", b"") not in keys
