"""What no caller may say: settings and destinations, each with the header or field that the answer must name."""

from __future__ import annotations

from dataclasses import dataclass

URL = "https://example.com/hook"


@dataclass(frozen=True)
class Malformed:
    """One publish with one fault.

    names        what the error must name: a header, or "destination"
    headers, query  of the request
    destination  where it is to go
    sendable     False: a client of HTTP refuses to send it, so that it comes in a batch's JSON only
    """

    names: str
    headers: tuple[tuple[str, str], ...] = ()
    query: tuple[tuple[str, str], ...] = ()
    destination: str = URL
    sendable: bool = True

    def __str__(self) -> str:
        said = self.headers or self.query or self.destination
        return ascii(f"{self.names} {said}")[1:80]


def _header(name: str, *values: str, sendable: bool = True) -> list[Malformed]:
    return [Malformed(name, headers=((name, value),), sendable=sendable) for value in values]


def _flow(*values: str) -> list[Malformed]:
    name = "Upstash-Flow-Control-Value"
    return [Malformed(name, headers=(("Upstash-Flow-Control-Key", "k"), (name, value))) for value in values]


def _callback(prefix: str, setting: str, *values: str) -> list[Malformed]:
    name = f"{prefix}-{setting}"
    return [Malformed(name, headers=((prefix, URL), (name, value))) for value in values]


def _destination(*texts: str) -> list[Malformed]:
    return [Malformed("destination", destination=text) for text in texts]


_NO_URL = ("", "example.com/hook", "ftp://example.com", "https://", "https:///hook", "https://a b/", "//example.com")

MALFORMED: list[Malformed] = [
    *_header("Upstash-Method", "", "HEAD", "OPTIONS", "TRACE", "POST, GET", "FETCH"),
    *_header("Upstash-Timeout", "", "30", "0s", "-5s", "1.5s", "5s1m", "soon", "400d", "30 s"),
    *_header("Upstash-Retries", "", "-1", "3.0", "three", "1e3", "+3", "0x3", "1000001", "99999999999999999999", "1 2"),
    *_header("Upstash-Retry-Delay", "", "1 +", "10s", "import os", "pow(1)", "retries", "1/0", "1 " * 300, "2 ** 3"),
    *_header("Upstash-Delay", "", "10", "-10s", "1.5h", "1h1d", "10ms", "10s later", "367d", "9" * 200 + "s", "1w"),
    *_header("Upstash-Not-Before", "", "-1", "tomorrow", "1.5", "2026-01-01", "9" * 30, "1e9"),
    *_header("Upstash-Label", "", "a,,b", ",", "a, ", "x" * 201, ",".join(f"l{n}" for n in range(51))),
    *_header("Upstash-Deduplication-Id", "", "  ", "x" * 1025),
    *_header("Upstash-Content-Based-Deduplication", "", "yes", "1", "truee"),
    *_header("Upstash-Header-Forward", "", "yes", "0"),
    *_header("Upstash-Callback", *_NO_URL, "task://add", "group", "https://example.com:99999/", "https://[::1/"),
    *_header("Upstash-Failure-Callback", *_NO_URL, "task://add", "https://example.com/#top"),
    *_callback("Upstash-Callback", "Method", "HEAD"),
    *_callback("Upstash-Callback", "Retries", "-1", "many"),
    *_callback("Upstash-Callback", "Timeout", "10"),
    *_callback("Upstash-Callback", "Delay", "10"),
    *_callback("Upstash-Callback", "Retry-Delay", "10s"),
    *_callback("Upstash-Callback", "Flow-Control-Key", "k"),
    *_callback("Upstash-Failure-Callback", "Method", "get it"),
    *_callback("Upstash-Failure-Callback", "Retries", "1.5"),
    *_callback("Upstash-Failure-Callback", "Timeout", "0s"),
    *_callback("Upstash-Failure-Callback", "Flow-Control-Value", "rate=1"),
    *_header(
        "Upstash-Redact-Fields", "", "everything", "header[]", "header[a b]", "header[X", "body,,headers", "body[x]"
    ),
    *_header("Upstash-Flow-Control-Key", "k"),
    *_header("Upstash-Flow-Control-Value", "rate=1"),
    *_flow("", "rate", "rate=", "rate=0", "rate=-1", "rate=1.5", "rate=ten", "parallelism=0", "parallelism=100000"),
    *_flow("period=1m", "rate=1, rate=2", "rate=1,,parallelism=1", "rate=1;period=1m", "burst=3", "rate=1, burst=3"),
    *_flow(
        "parallelism=1, period=0",
        "rate=1, period=0",
        "rate=1, period=8d",
        "rate=1, period=604801",
        "rate=1, period=fast",
        "rate=1, period=",
    ),
    Malformed("Upstash-Flow-Control-Key", (("Upstash-Flow-Control-Key", ""), ("Upstash-Flow-Control-Value", "rate=1"))),
    Malformed(
        "Upstash-Flow-Control-Key", (("Upstash-Flow-Control-Key", "k" * 201), ("Upstash-Flow-Control-Value", "rate=1"))
    ),
    *_header("Upstash-Cron", "", "* * * *", "61 * * * *", "every minute", "CRON_TZ=Nowhere/At * * * * *", "0 0 31 2 *"),
    *_header("Upstash-Schedule-Id", "", "a b", "a/b", "ä", "x" * 201),
    *_header("Upstash-Queue-Name", "", "a b", "a/b", "a:b", "x" * 201),
    *_header("Upstash-Forward-X", "a\r\nInjected: 1", "a\x00", "\u20ac", "\ud800", sendable=False),
    *_header("Upstash-Forward-", "1"),
    *_header("Upstash-Forward-X Y", "1", sendable=False),
    *_header("Upstash-Label", "a\nb", "a\x00b", "\ud800", sendable=False),
    *_header("Upstash-Deduplication-Id", "a\x00b", sendable=False),
    *_header("Content-Type", "text/plain\r\nX: 1", sendable=False),
    Malformed("Content-Type", headers=(("Content-Type", "text/plain"), ("Content-Type", "text/html"))),
    Malformed("Upstash-Forward-", headers=tuple((f"Upstash-Forward-X{n}", "1") for n in range(201)), sendable=False),
    Malformed("Upstash-Forward-", headers=(("Upstash-Forward-X", "x" * 65536),), sendable=False),
    Malformed(
        "Upstash-Callback-",
        headers=(("Upstash-Callback", URL), *((f"Upstash-Callback-Forward-X{n}", "1") for n in range(201))),
        sendable=False,
    ),
    Malformed(
        "Upstash-Callback-",
        headers=(("Upstash-Callback", URL), *((f"Upstash-Callback-X{n}", "1") for n in range(201))),
        sendable=False,
    ),
    Malformed("Upstash-Retries", headers=(("Upstash-Retries", "1"), ("Upstash-Retries", "2"))),
    Malformed("Upstash-Delay", headers=(("upstash-delay", "1s"), ("UPSTASH-DELAY", "2s"))),
    Malformed("Upstash-Retries", query=(("upstash-retries", "many"),)),
    Malformed("Upstash-Delay", query=(("upstash-delay", "5"),)),
    Malformed("Upstash-Callback", query=(("upstash-callback", "example.com"),)),
    Malformed("Upstash-Method", query=(("Upstash-Method", "HEAD"),)),
    *_destination(
        "https://", "https:///hook", "http:/", "http://:80/", "https://example.com:0/", "https://example.com:x/"
    ),
    *_destination("https://example.com:70000/", "https://example.com:/", "https://[::1/", "https://[1.2.3.4]/"),
    *_destination("https://exa mple.com/", "https://-..-/", "https://a..b/", f"https://{'a' * 64}.example/"),
    *_destination(
        "https://user@/", "https://ex\u00e4mple.com/", "https://example.com/\u00fc", "https://example.com/#a"
    ),
    *_destination(f"https://example.com/{'a' * 8200}", "https://example.com/a\nb", "https://example.com/a\x00b"),
    *_destination(
        "ftp://example.com", "file:///etc/passwd", "javascript:alert(1)", "//example.com", "example.com/hook"
    ),
    *_destination(
        "task://", "task://a b", "task://a/b", "task://" + "a" * 201, "task://a?x=1", "task:name", "gopher:/x"
    ),
    *_destination("group name", "group/name", "gr\u00fcppe", "x" * 201, "", " ", "https:example.com", "api/llm/x"),
]
