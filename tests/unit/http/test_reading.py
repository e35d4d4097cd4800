"""What a caller says of a message."""

from __future__ import annotations

from typing import Any

import pytest

from taskq.errors import InvalidRequest
from taskq.flow import Flow
from taskq.http.headers import split_query
from taskq.http.publishing import Publishing, destination, read, read_callback, read_overrides
from taskq.http.request import Callback
from taskq.queue import RateLimit
from tests.malformed import MALFORMED, Malformed

URL = "https://example.com/cb?a=b"


def test_nothing_said() -> None:
    """Without a header of ours everything is left to the defaults, and nothing is forwarded."""
    said = read([("Host", "h"), ("Accept", "*/*"), ("Authorization", "Bearer t"), ("User-Agent", "u")])
    assert said == Publishing()


@pytest.mark.parametrize(
    ("name", "value", "field", "expected"),
    [
        ("Upstash-Method", "GET", "method", "GET"),
        ("Upstash-Method", "patch", "method", "PATCH"),
        ("Upstash-Timeout", "1s", "timeout", 1.0),
        ("Upstash-Timeout", "1h30m", "timeout", 5400.0),
        ("Upstash-Retries", "0", "retries", 0),
        ("Upstash-Retries", "1000000", "retries", 1_000_000),
        ("Upstash-Retries", " 5\t", "retries", 5),
        ("Upstash-Retry-Delay", "1000", "retry_delay", "1000"),
        ("Upstash-Retry-Delay", "pow(2, retried) * 1000", "retry_delay", "pow(2, retried) * 1000"),
        ("Upstash-Delay", "0s", "delay", 0.0),
        ("Upstash-Delay", "1d10h30m", "delay", 124200.0),
        ("Upstash-Delay", "366d", "delay", 366 * 86400.0),
        ("Upstash-Not-Before", "1700000000", "not_before", 1_700_000_000),
        ("Upstash-Not-Before", "0", "not_before", 0),
        ("Upstash-Label", "a, b ,c", "labels", ("a", "b", "c")),
        ("Upstash-Label", "a,a", "labels", ("a",)),
        ("Upstash-Label", "m\xc3\xbcll", "labels", ("m\xfcll",)),
        ("Upstash-Label", "m\xfcll", "labels", ("m\xfcll",)),
        ("Upstash-Deduplication-Id", "order 1", "dedup_id", "order 1"),
        ("Upstash-Content-Based-Deduplication", "True", "content_dedup", True),
        ("Upstash-Content-Based-Deduplication", "false", "content_dedup", False),
        ("Upstash-Callback", URL, "callback", Callback(URL)),
        ("Upstash-Failure-Callback", URL, "failure_callback", Callback(URL)),
        ("Upstash-Redact-Fields", "body", "redact", ("body",)),
        ("Upstash-Redact-Fields", "headers", "redact", ("headers",)),
        ("Upstash-Redact-Fields", "header", "redact", ("headers",)),
        ("Upstash-Redact-Fields", "body, header[x-api-KEY]", "redact", ("body", "header:X-Api-Key")),
        ("Upstash-Cron", " */5 * * * * ", "cron", "*/5 * * * *"),
        ("Upstash-Cron", "CRON_TZ=Europe/Paris 0 9 * * 1-5", "cron", "CRON_TZ=Europe/Paris 0 9 * * 1-5"),
        ("Upstash-Schedule-Id", "nightly-1.a_B", "schedule_id", "nightly-1.a_B"),
        ("Upstash-Queue-Name", "emails", "queue_name", "emails"),
    ],
)
def test_setting(name: str, value: str, field: str, expected: Any) -> None:
    """Every setting is read, in any case of its name, from headers and from the query, and nothing else with it."""
    alone = Publishing(**{field: expected})
    assert read([(name, value)]) == read([(name.lower(), value)]) == read([(name.upper(), value)]) == alone
    assert read([], [(name.lower(), value)]) == alone


@pytest.mark.parametrize(
    ("value", "parallelism", "rate"),
    [
        ("parallelism=5", 5, None),
        ("rate=10", None, RateLimit(10, 1)),
        ("rate=10,period=1m", None, RateLimit(10, 60)),
        ("period=2,  parallelism = 3 , rate=1", 3, RateLimit(1, 2)),
        ("rate=1, period=7d", None, RateLimit(1, 604800)),
        ("rate=1, period=604800", None, RateLimit(1, 604800)),
        ("parallelism=2, period=1h", 2, None),
    ],
)
def test_flow(value: str, parallelism: int | None, rate: RateLimit | None) -> None:
    """A key with its limits in any order, with or without blanks; the period is a second, or what it says."""
    said = read([("Upstash-Flow-Control-Key", "tenant 7"), ("Upstash-Flow-Control-Value", value)])
    assert said.flow == Flow("tenant 7", parallelism, rate)


@pytest.mark.parametrize("case", MALFORMED, ids=str)
def test_malformed(case: Malformed) -> None:
    """What cannot be is refused, naming its header, showing little of the value."""
    with pytest.raises(InvalidRequest) as caught:
        read(case.headers, case.query)
        destination(case.destination)
    text = str(caught.value)
    assert case.names.lower() in text.lower()
    assert len(text) < 600 and text.isprintable()


def test_malformed_cases_are_many() -> None:
    """The table is a table, and no case stands in it twice."""
    assert len({(case.headers, case.query, case.destination) for case in MALFORMED}) == len(MALFORMED) > 150


def test_forwarded() -> None:
    """Headers with the prefix are sent without it, several of one name too, credentials among them."""
    said = read(
        [
            ("Content-Type", "application/json"),
            ("upstash-forward-authorization", "Bearer theirs"),
            ("Upstash-Forward-X", "1"),
            ("Upstash-Forward-X", " 2 "),
            ("Upstash-Forward-Upstash-Workflow-RunId", "w"),
            ("Authorization", "Bearer ours"),
            ("X-Other", "o"),
        ]
    )
    assert said.headers == (
        ("Content-Type", "application/json"),
        ("authorization", "Bearer theirs"),
        ("X", "1"),
        ("X", "2"),
        ("Upstash-Workflow-RunId", "w"),
    )


def test_own_content_type_is_replaced() -> None:
    """A Content-Type with the prefix is sent instead of the request's own."""
    said = read([("Content-Type", "application/json"), ("Upstash-Forward-Content-Type", "text/csv")])
    assert said.headers == (("Content-Type", "text/csv"),)


def test_same_content_type_twice() -> None:
    """A Content-Type that is given twice with one value is sent once."""
    assert read([("Content-Type", "a/b"), ("content-type", "a/b")]).headers == (("Content-Type", "a/b"),)


def test_header_forward() -> None:
    """With Upstash-Header-Forward all headers are sent but this API's credentials and the connection's own."""
    said = read(
        [
            ("Upstash-Header-Forward", "TRUE"),
            ("Authorization", "Bearer ours"),
            ("Cookie", "session=1"),
            ("Proxy-Authorization", "Basic x"),
            ("Host", "gateway"),
            ("Content-Length", "3"),
            ("Connection", "keep-alive"),
            ("Transfer-Encoding", "chunked"),
            ("Upstash-Telemetry-Sdk", "x"),
            ("Upstash-Retries", "1"),
            ("X-Id", "7"),
            ("X-Name", "plain"),
            ("Accept", "*/*"),
            ("Upstash-Forward-X-Name", "prefixed"),
        ]
    )
    assert said.headers == (("X-Id", "7"), ("Accept", "*/*"), ("X-Name", "prefixed"))
    assert said.retries == 1


@pytest.mark.parametrize(
    "name", ["Host", "content-length", "Connection", "Transfer-Encoding", "TE", "Upgrade", "Expect"]
)
def test_headers_of_the_connection(name: str) -> None:
    """What belongs to a connection is not forwarded, even when it is asked for."""
    assert read([(f"Upstash-Forward-{name}", "x")]).headers == ()


def test_values_of_headers_are_bytes() -> None:
    """Any byte above the control characters passes, tabs too."""
    value = "a\tb" + "".join(map(chr, range(0x80, 0x100))) + "c"
    assert read([("Upstash-Forward-X", value)]).headers == (("X", value),)


@pytest.mark.parametrize(
    "name",
    [
        "Upstash-Telemetry-Sdk",
        "Upstash-Workflow-RunId",
        "Upstash-Callback-Workflow-Url",
        "Upstash-Region",
        "Upstash-New",
    ],
)
def test_unknown(name: str) -> None:
    """A header of ours that is not known is ignored, and not forwarded."""
    assert read([(name, "x\x7f")]) == read([("Upstash-Header-Forward", "false"), (name, "x")]) == Publishing()


def test_header_over_query() -> None:
    """What header and query both say, the header says; other keys of the query are the destination's."""
    said = read([("Upstash-Retries", "1")], [("upstash-retries", "many"), ("upstash-delay", "5s"), ("retries", "9")])
    assert said == Publishing(retries=1, delay=5.0)


def test_given_twice() -> None:
    """The same value twice is no contradiction; lists are put together."""
    said = read([("Upstash-Retries", "2"), ("upstash-retries", "2"), ("Upstash-Label", "a"), ("upstash-label", "b,c")])
    assert said == Publishing(retries=2, labels=("a", "b", "c"))


def test_callback_settings() -> None:
    """What is said of a callback is kept without its prefix, and the two callbacks do not mix."""
    said = read(
        [
            ("Upstash-Callback", URL),
            ("Upstash-Callback-Method", "put"),
            ("upstash-callback-forward-x", "1"),
            ("Upstash-Failure-Callback", f"{URL}&f"),
            ("Upstash-Failure-Callback-Retries", "7"),
        ]
    )
    assert said.callback == Callback(URL, (("Method", "put"), ("forward-x", "1")))
    assert said.failure_callback == Callback(f"{URL}&f", (("Retries", "7"),))
    assert said.method is None and said.retries is None and said.headers == ()


def test_callback_settings_without_a_callback() -> None:
    """Without a URL there is no callback."""
    assert read([("Upstash-Callback-Retries", "5")]) == Publishing()


def test_read_callback() -> None:
    """A callback's own message has settings like any other, but neither callbacks nor a schedule."""
    said = read_callback(
        (
            ("Method", "PUT"), ("Timeout", "5s"), ("Retries", "1"), ("Retry-Delay", "10"), ("Delay", "1m"),
            ("Forward-X", "1"), ("Flow-Control-Key", "k"), ("Flow-Control-Value", "rate=2"), ("Label", "l"),
            ("Redact-Fields", "body"), ("Callback", URL), ("Cron", "* * * * *"), ("Not-Before", "9" * 11),
        )
    )  # fmt: skip
    assert said == Publishing(
        method="PUT",
        headers=(("X", "1"),),
        timeout=5.0,
        retries=1,
        retry_delay="10",
        delay=60.0,
        labels=("l",),
        flow=Flow("k", None, RateLimit(2, 1)),
        redact=("body",),
    )


def test_defaults() -> None:
    """A group's headers are sent where neither header nor query say otherwise."""
    defaults = (
        ("X", "group"),
        ("Y", "group"),
        ("Upstash-Retries", "9"),
        ("Upstash-Delay", "9s"),
        ("Content-Type", "a/b"),
    )
    said = read(
        [("Upstash-Forward-x", "mine"), ("Upstash-Retries", "1"), ("Y", "no")],
        [("upstash-delay", "1s")],
        defaults=defaults,
    )
    assert said == Publishing(headers=(("Content-Type", "a/b"), ("x", "mine"), ("Y", "group")), retries=1, delay=1.0)


def test_defaults_and_header_forward() -> None:
    """A header that is forwarded without a prefix counts as said; one that is not forwarded does not."""
    defaults = (("y", "group"), ("Z", "group"), ("Authorization", "Bearer theirs"))
    own = [("Y", "mine"), ("Authorization", "Bearer ours")]
    said = read([("Upstash-Header-Forward", "true"), *own], defaults=defaults)
    assert said.headers == (("Y", "mine"), ("Z", "group"), ("Authorization", "Bearer theirs"))
    assert read([("Upstash-Header-Forward", "false"), *own], defaults=defaults).headers == defaults


def test_hidden_by_default() -> None:
    """What a group hides stays hidden when a publish hides something else."""
    said = read([("Upstash-Redact-Fields", "body")], defaults=(("Upstash-Redact-Fields", "header[Authorization]"),))
    assert said.redact == ("body", "header:Authorization")


def test_overrides_leave_the_request_alone() -> None:
    """The Content-Type of a request that retries is of its own body."""
    said = read_overrides([("Content-Type", "application/json"), ("Upstash-Retries", "1")], [("upstash-delay", "1s")])
    assert said == Publishing(retries=1, delay=1.0)


@pytest.mark.parametrize(
    ("query", "theirs", "ours"),
    [
        ("", "", ""),
        ("a=b", "a=b", ""),
        ("a=%20+b&upstash-retries=3&&c&qstash_token=t&A=;", "a=%20+b&&c&A=;", "upstash-retries=3&qstash_token=t"),
        ("Upstash-Delay=1s", "", "Upstash-Delay=1s"),
        ("x=upstash-delay", "x=upstash-delay", ""),
    ],
)
def test_split_query(query: str, theirs: str, ours: str) -> None:
    """A destination's query is put back byte for byte, without what was said to the API."""
    assert split_query(query) == (theirs, ours)
