"""Properties of what callers say over HTTP: what is well said is understood, and the rest is refused with its name."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from taskq.errors import InvalidRequest
from taskq.http.callbacks import callbacks_of
from taskq.http.publishing import (
    Publishing,
    compose,
    dedup_key,
    destination,
    override,
    read,
    read_overrides,
    split_query,
)
from taskq.http.redaction import shown
from taskq.http.request import Callback, Request, Response, request_of
from taskq.message import decode

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
URL = "https://example.com/hook"
UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}

latin = st.text(st.characters(max_codepoint=255), max_size=40)
printable = st.text(st.characters(max_codepoint=255, exclude_categories=["Cc"]), max_size=40)
tokens = st.text("abcXYZ09-_.", min_size=1, max_size=20).map(lambda name: f"x{name}")
parts = st.dictionaries(st.sampled_from(list(UNITS)), st.integers(0, 90), min_size=1)
NAMES = (
    "Method", "Timeout", "Retries", "Retry-Delay", "Delay", "Not-Before", "Label", "Deduplication-Id",
    "Content-Based-Deduplication", "Flow-Control-Key", "Flow-Control-Value", "Callback", "Failure-Callback",
    "Callback-Retries", "Redact-Fields", "Cron", "Schedule-Id", "Queue-Name", "Header-Forward", "Forward-X",
)  # fmt: skip
VALUES = (
    "5",
    "5s",
    "1000 * retried",
    "rate=1",
    "parallelism=2, rate=3, period=1m",
    URL,
    "true",
    "body",
    "* * * * *",
    "GET",
)
said = st.lists(
    st.tuples(
        st.sampled_from(NAMES).map(lambda name: f"Upstash-{name}"), st.sampled_from(VALUES) | st.text(max_size=20)
    )
)


@given(parts)
def test_durations(parts: dict[str, int]) -> None:
    """A duration means the same seconds as delay, timeout and period in its bounds, and is refused out of them."""
    text = "".join(f"{parts[unit]}{unit}" for unit in UNITS if unit in parts)
    seconds = sum(count * UNITS[unit] for unit, count in parts.items())
    assert read([("Upstash-Delay", text)]).delay == seconds
    if seconds >= 1:
        assert read([("Upstash-Timeout", text)]).timeout == seconds
    else:
        with pytest.raises(InvalidRequest, match="Upstash-Timeout"):
            read([("Upstash-Timeout", text)])
    limits = [("Upstash-Flow-Control-Key", "k"), ("Upstash-Flow-Control-Value", f"rate=1,period={text}")]
    if 1 <= seconds <= 7 * 86400:
        flow = read(limits).flow
        assert flow is not None and flow.rate_limit is not None and flow.rate_limit.per == seconds
    else:
        with pytest.raises(InvalidRequest, match="Upstash-Flow-Control-Value"):
            read(limits)


@given(said, said)
@example([("Upstash-Not-Before", "99999999999")], [])
def test_anything(headers: list[tuple[str, str]], query: list[tuple[str, str]]) -> None:
    """Whatever is said makes a message that survives the wire, or an error that names what was wrong, and no other."""
    try:
        publishing = read(headers, query)
        message = compose(publishing, URL, b"body", now=NOW, queue="http")
    except InvalidRequest as error:
        assert "Upstash-" in str(error) and len(str(error)) < 600
        return
    assert decode(message.encode()) == message
    key = dedup_key(publishing, URL, b"body")
    assert key is None or len(key[1]) <= 150
    request = request_of(message)
    assert request is not None and request.url == URL
    told = callbacks_of(
        message, request, Response(500), attempt=1, epoch=1, failed=True, dead_letter_id="1-2", now=NOW
    )  # fmt: skip
    assert len(told) == (publishing.callback is not None) + (publishing.failure_callback is not None)
    assert all(decode(one.encode()) == one for one in told)


@given(st.text(max_size=60) | st.text("htps:/@[]?#.0a ", max_size=20).map(lambda text: f"https:/{text}"))
def test_any_destination(text: str) -> None:
    """A destination is read or refused; what was read is read again as the same."""
    try:
        found = destination(text)
    except InvalidRequest as error:
        assert "destination" in str(error) and str(error).isprintable()
        return
    assert destination(found.text) == found


@given(st.lists(st.tuples(tokens, printable), max_size=10), st.booleans())
def test_forwarded(headers: list[tuple[str, str]], everything: bool) -> None:
    """Headers are forwarded with their values and in order, with the prefix or, when all are, without."""
    given = [(name if everything else f"Upstash-Forward-{name}", value) for name, value in headers]
    found = read([*given, ("Upstash-Header-Forward", str(everything)), ("Authorization", "Bearer ours")]).headers
    assert found == tuple((name, value.strip(" \t")) for name, value in headers)


@given(latin)
def test_values(value: str) -> None:
    """No control character but the tab gets into the value of a header that is sent."""
    bad = any((character < " " and character != "\t") or character == "\x7f" for character in value)
    if bad:
        with pytest.raises(InvalidRequest, match="Upstash-Forward-X"):
            read([("Upstash-Forward-X", value)])
    else:
        assert read([("Upstash-Forward-X", value)]).headers == (("X", value.strip(" \t")),)


@given(st.lists(st.text("abu=%&;", max_size=8)), st.lists(st.sampled_from(["upstash-delay=1s", "qstash_token=t"])))
def test_split_query(theirs: list[str], ours: list[str]) -> None:
    """Whatever a destination's query is, it comes back as it was."""
    query = "&".join(theirs)
    assert split_query("&".join([*ours, query] if query else ours)) == (query, "&".join(ours))


fields = st.sampled_from(["body", "headers", "header:X", "header:Xa"])


@given(st.lists(st.tuples(tokens, printable), max_size=5), st.binary(max_size=50), st.lists(fields, max_size=3))
def test_shown(headers: Any, body: bytes, redact: list[str]) -> None:
    """Names and their order are always shown, values only of what is not hidden."""
    request = Request(URL, headers=tuple(headers), body=body, callback=Callback(URL), redact=tuple(redact))
    found = shown(request)
    assert [name for name, _ in found.headers] == [name for name, _ in headers]
    assert (found.body == body) == ("body" not in redact)
    if "headers" in redact:
        assert all(value.startswith("REDACTED:") for _, value in found.headers)
    assert found.url == URL and found.callback == request.callback


@given(st.integers(0, 5), st.integers(0, 599), st.binary(max_size=200), st.lists(st.tuples(tokens, latin), max_size=4))
def test_callbacks(retried: int, status: int, body: bytes, headers: list[tuple[str, str]]) -> None:
    """Whatever was answered, the callback's body is JSON that tells it."""
    message = compose(Publishing(callback=Callback(URL)), URL, body, now=NOW, queue="http")
    request = request_of(message)
    assert request is not None
    response = Response(status, tuple(headers), body)
    [callback] = callbacks_of(
        message, request, response, attempt=retried + 1, epoch=0, failed=False, dead_letter_id=None, now=NOW
    )
    asked = request_of(callback)
    assert asked is not None
    said = json.loads(asked.body)
    assert (said["status"], said["retried"]) == (status, retried)
    assert sorted(value for values in said["header"].values() for value in values) == sorted(v for _, v in headers)


@given(said)
def test_override_by_itself(headers: list[tuple[str, str]]) -> None:
    """A message that is overridden by what it was made of stays what it is."""
    try:
        publishing = read_overrides(headers)
        message = compose(publishing, URL, b"body", now=NOW, queue="http")
    except InvalidRequest:
        return
    assert override(message, publishing, now=NOW) == message
    later = override(message, Publishing(), now=NOW + timedelta(days=1))
    assert (later.retry, later.flow, later.timeout, later.id) == (
        message.retry,
        message.flow,
        message.timeout,
        message.id,
    )
