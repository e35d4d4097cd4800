"""Deliveries to real sockets on loopback: what is sent, what counts as an answer, and what a destination cannot do."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import random
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.events
import httpcore
import pytest
from qstash import Receiver

from taskq.clock import SystemClock
from taskq.http import delivery, network, pool
from taskq.http.delivery import Deliverer
from taskq.http.guard import Guard
from taskq.http.request import DeliveryFailed, Request, Response
from taskq.http.signing import new_key
from taskq.store.gateway import SigningKeys
from tests.support import eventually

KEYS = SigningKeys(new_key(), new_key())
LOOPBACK = "127.0.0.0/8,::1"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
MIB = 1024 * 1024


@pytest.fixture(scope="module", params=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    """Both loops on which workers run."""
    return "asyncio", {"use_uvloop": request.param == "uvloop"}


Answer = Callable[["Visit", asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Visit:
    """A request as its bytes came, on which connection."""

    line: str
    headers: list[tuple[str, str]]
    body: bytes
    connection: int

    def get(self, name: str) -> list[str]:
        return [value for found, value in self.headers if found.lower() == name.lower()]


@dataclass
class Destination:
    """A server of raw bytes: reads requests, and answers with what it was given."""

    answer: Answer
    port: int = 0
    visits: list[Visit] = field(default_factory=list)
    connections: int = 0
    open: int = 0

    def url(self, path: str = "/", host: str = "127.0.0.1", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.port}{path}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        number = self.connections
        try:
            while True:
                visit = await read_request(reader, number)
                self.visits.append(visit)
                await self.answer(visit, writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            pass  # it has gone, as destinations may see senders go
        finally:
            self.open -= 1
            writer.transport.abort()


async def read_request(reader: asyncio.StreamReader, connection: int) -> Visit:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    line, *rest = head.strip("\r\n").split("\r\n")
    headers = [(name, value) for name, _, value in (one.partition(": ") for one in rest)]
    visit = Visit(line, headers, b"", connection)
    visit.body = await reader.readexactly(int((visit.get("Content-Length") or ["0"])[0]))
    return visit


def answering(*answers: bytes) -> Answer:
    """With these bytes in turn, the last from then on."""
    left = list(answers)

    async def answer(visit: Visit, writer: asyncio.StreamWriter) -> None:
        writer.write(left.pop(0) if len(left) > 1 else left[0])

    return answer


async def send(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Raises ConnectionResetError if the other side has gone, on either loop."""
    if writer.is_closing():
        raise ConnectionResetError
    writer.write(data)
    await writer.drain()


def then_closing(answer: bytes) -> Answer:
    async def answer_and_close(visit: Visit, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()
        writer.close()

    return answer_and_close


@asynccontextmanager
async def destination(answer: Answer | bytes = OK, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[Destination]:
    place = Destination(answering(answer) if isinstance(answer, bytes) else answer)
    tasks: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(place.serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls, backlog=500)
    place.port = server.sockets[0].getsockname()[1]
    try:
        yield place
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
async def deliverer(anyio_backend: str) -> AsyncIterator[Deliverer]:
    """One that may reach loopback."""
    deliverer = Deliverer(allow=LOOPBACK, clock=SystemClock())
    yield deliverer
    await deliverer.close()


async def deliver(
    deliverer: Deliverer, request: Request, *, retried: int = 0, keys: SigningKeys = KEYS, timeout: float = 20
) -> Response:
    return await deliverer.deliver(request, message_id="msg_1", retried=retried, keys=keys, timeout=timeout)


async def failure(deliverer: Deliverer, request: Request, *, timeout: float = 20) -> DeliveryFailed:
    with pytest.raises(DeliveryFailed) as caught:
        await deliver(deliverer, request, timeout=timeout)
    return caught.value


async def until_no_connection_is_usable(deliverer: Deliverer) -> None:
    """What the other side did has arrived here."""
    kept = deliverer._pool._open
    await eventually(lambda: not any(one.usable() for one in kept))


def answer(status: str, *headers: str, body: bytes = b"") -> bytes:
    lines = [f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


# -- what is sent --------------------------------------------------------------------------------


async def test_what_a_destination_receives(deliverer: Deliverer) -> None:
    """Method, path, query, body and the sender's headers as they were given, and of ours those that apply: no other."""
    async with destination() as place:
        target = "/a%20b/../c//d;x=1?q=%2F&q=&e=a+b&u=%7e{}|^`\\"
        headers = (("Content-Type", "application/json"), ("X-Two", "1"), ("X-Two", "2"), ("X-Latin", "caf\xe9"))
        request = Request(place.url(target), "PUT", headers, b'{"a":\x00\xff}')
        response = await deliver(deliverer, request, retried=2)

    assert response == Response(200, (("Content-Length", "2"),), b"ok")
    [visit] = place.visits
    assert visit.line == f"PUT {target} HTTP/1.1"
    assert visit.body == b'{"a":\x00\xff}'
    assert {name.lower() for name, _ in visit.headers} == {
        "host", "content-length", "content-type", "x-two", "x-latin", "user-agent",
        "upstash-message-id", "upstash-retried", "upstash-signature",
    }  # fmt: skip
    assert visit.get("Host") == [f"127.0.0.1:{place.port}"]
    assert visit.get("X-Two") == ["1", "2"] and visit.get("X-Latin") == ["caf\xe9"]
    assert visit.get("Content-Type") == ["application/json"]
    assert visit.get("User-Agent") == ["Upstash-QStash"]
    assert visit.get("Upstash-Message-Id") == ["msg_1"] and visit.get("Upstash-Retried") == ["2"]


async def test_where_a_message_came_from_is_told(deliverer: Deliverer) -> None:
    """Caller, group and schedule are named to the destination when there are any."""
    async with destination() as place:
        await deliver(deliverer, Request(place.url(), caller_ip="10.1.1.1", topic="orders", schedule_id="scd_1"))
    [visit] = place.visits
    assert visit.get("Upstash-Caller-Ip") == ["10.1.1.1"]
    assert visit.get("Upstash-Topic-Name") == ["orders"]
    assert visit.get("Upstash-Schedule-Id") == ["scd_1"]


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("body", [b"", b"body"])
async def test_a_body_goes_with_any_method(deliverer: Deliverer, method: str, body: bytes) -> None:
    """Nothing is added to a body or taken from it, whatever the method."""
    async with destination() as place:
        await deliver(deliverer, Request(place.url("/x"), method, body=body))
        await deliver(deliverer, Request(place.url("/y"), method, body=body))
    assert [(visit.line, visit.body) for visit in place.visits] == [
        (f"{method} /x HTTP/1.1", body), (f"{method} /y HTTP/1.1", body)
    ]  # fmt: skip


async def test_a_large_body_arrives_whole(deliverer: Deliverer) -> None:
    """A body larger than what sockets buffer."""
    body = random.Random(1).randbytes(5 * MIB)
    async with destination() as place:
        await deliver(deliverer, Request(place.url(), body=body))
    assert place.visits[0].body == body


@pytest.mark.parametrize(
    ("rest", "target"),
    [
        ("", "/"),
        ("?a=1", "/?a=1"),
        ("/#part", "/"),
        ("/a?b#c?d", "/a?b"),
        ("/?", "/?"),
        ("/a b/é?ü= ", "/a%20b/%C3%A9?%C3%BC=%20"),
        ("//x/./y/..", "//x/./y/.."),
        ("/http://other.example/?u=https://a/b", "/http://other.example/?u=https://a/b"),
    ],
)
async def test_path_and_query_are_not_rewritten(deliverer: Deliverer, rest: str, target: str) -> None:
    """Only what HTTP cannot carry is escaped, and a fragment is not sent."""
    async with destination() as place:
        await deliver(deliverer, Request(place.url("") + rest))
    assert place.visits[0].line == f"POST {target} HTTP/1.1"


async def test_what_a_sender_may_replace_and_what_not(deliverer: Deliverer) -> None:
    """User-Agent and other Upstash headers are the sender's; those that we vouch for, and HTTP's own, are not."""
    forged = [
        (name, "forged")
        for name in (
            "upstash-message-id",
            "Upstash-Retried",
            "UPSTASH-SIGNATURE",
            "Upstash-Caller-Ip",
            "Upstash-Topic-Name",
            "Upstash-Schedule-Id",
            "Upstash-Region",
            "Host",
            "Content-Length",
            "Transfer-Encoding",
            "Connection",
            "Keep-Alive",
            "Upgrade",
            "TE",
            "Trailer",
            "Proxy-Authorization",
            "Proxy-Connection",
            "Expect",
        )  # fmt: skip
    ]
    theirs = [("user-agent", "theirs/1"), ("Upstash-Workflow-RunId", "wfr_1"), ("Accept", " text/plain ")]
    async with destination() as place:
        await deliver(deliverer, Request(place.url(), headers=(*forged, *theirs), body=b"abc"))
    [visit] = place.visits
    assert "forged" not in dict(visit.headers).values()
    assert visit.get("Host") == [f"127.0.0.1:{place.port}"] and visit.get("Content-Length") == ["3"]
    assert visit.get("User-Agent") == ["theirs/1"] and visit.get("Upstash-Workflow-RunId") == ["wfr_1"]
    assert visit.get("Accept") == ["text/plain"]
    assert not visit.get("Upstash-Topic-Name") and not visit.get("Upstash-Schedule-Id")


async def test_user_and_password_of_the_url(deliverer: Deliverer) -> None:
    """They are sent as HTTP has them, unless the sender says otherwise."""
    async with destination() as place:
        url = place.url("/", host="us%40er:p%3Aw@127.0.0.1")
        await deliver(deliverer, Request(url))
        await deliver(deliverer, Request(url, headers=(("authorization", "Bearer 1"),)))
    assert [visit.get("Authorization") for visit in place.visits] == [
        ["Basic " + base64.b64encode(b"us@er:p:w").decode()], ["Bearer 1"]
    ]  # fmt: skip
    assert place.visits[0].get("Host") == [f"127.0.0.1:{place.port}"]


async def test_every_attempt_is_signed_afresh(deliverer: Deliverer) -> None:
    """The official receiver takes each attempt for its URL and body, after a rotation too; no token comes twice."""
    async with destination() as place:
        url = place.url("/a%20b?x=%2F&y")
        for keys in (KEYS, KEYS, SigningKeys(KEYS.next, new_key())):
            await deliver(deliverer, Request(url, body='{"ü": 1}'.encode()), keys=keys)
    receiver = Receiver(KEYS.current, KEYS.next)
    signatures = [visit.get("Upstash-Signature")[0] for visit in place.visits]
    for signature in signatures:
        receiver.verify(signature=signature, body='{"ü": 1}', url=url)
    assert len(set(signatures)) == 3


# -- what counts as an answer --------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 201, 204, 226, 299])
async def test_taken(deliverer: Deliverer, status: int) -> None:
    """200 to 299 is success."""
    async with destination(f"HTTP/1.1 {status} Fine\r\nX-A: 1\r\nX-A: 2\r\nx-lower: 3\r\n".encode() + (
        b"\r\n" if status == 204 else b"Content-Length: 4\r\n\r\nbody"
    )) as place:  # fmt: skip
        response = await deliver(deliverer, Request(place.url()))
    assert response.status == status and response.body == (b"" if status == 204 else b"body")
    assert response.headers[:3] == (("X-A", "1"), ("X-A", "2"), ("x-lower", "3"))


@pytest.mark.parametrize("status", [300, 304, 400, 404, 429, 489, 500, 503, 599, 600, 999])
async def test_not_taken(deliverer: Deliverer, status: int) -> None:
    """Any other status is a failed attempt, told with the answer; it may be tried again."""
    body = b"" if status == 304 else b"why"
    async with destination(answer(f"{status} No", "X-A: 1", body=body)) as place:
        failed = await failure(deliverer, Request(place.url()))
    assert failed.response.status == status and failed.response.body == body
    assert ("X-A", "1") in failed.response.headers
    assert str(status) in str(failed) and not failed.final and failed.retry_after is None


async def test_redirects_are_not_followed(deliverer: Deliverer) -> None:
    """A redirect is no success, and nobody is asked a second time."""
    async with destination() as other:
        for status in (301, 302, 303, 307, 308):
            async with destination(answer(f"{status} Elsewhere", f"Location: {other.url()}")) as place:
                failed = await failure(deliverer, Request(place.url()))
            assert failed.response.status == status and len(place.visits) == 1
    assert other.connections == 0


@pytest.mark.parametrize(
    ("status", "headers", "final"),
    [
        (489, ["Upstash-NonRetryable-Error: true"], True),
        (489, ["upstash-nonretryable-error:  True", "Retry-After: 5"], True),
        (489, [], False),
        (489, ["Upstash-NonRetryable-Error: false"], False),
        (500, ["Upstash-NonRetryable-Error: true"], False),
    ],
)
async def test_no_use_in_trying_again(deliverer: Deliverer, status: int, headers: list[str], final: bool) -> None:
    """489 and its header together end the retries; either half alone does not."""
    async with destination(answer(f"{status} No", *headers, body=b"never")) as place:
        failed = await failure(deliverer, Request(place.url()))
    assert failed.final is final and failed.response.body == b"never"


async def test_the_destination_says_when_to_try_again(deliverer: Deliverer) -> None:
    """Its Retry-After, also at once, and also behind more headers than are kept."""
    many = [f"X-{number}: 1" for number in range(delivery.MAX_RESPONSE_HEADERS)]
    async with destination(
        answering(
            answer("503 Later", "Retry-After: 17"),
            answer("429 Slow", "X-RateLimit-Reset-Tokens: 0s"),
            answer("503 Later", *many, "Retry-After: 1m"),
        )
    ) as place:
        seconds = [(await failure(deliverer, Request(place.url()))).retry_after for _ in range(3)]
    assert seconds == [17.0, 0.0, 60.0]


async def test_dates_are_read_by_the_clock_that_was_given() -> None:
    """A date in Retry-After is measured from the deliverer's own present."""

    class Standing(SystemClock):
        def now(self) -> datetime:
            return datetime.fromisoformat("2026-11-21T13:00:00+00:00")

    deliverer = Deliverer(allow=LOOPBACK, clock=Standing())
    async with destination(answer("503 Later", "Retry-After: Sat, 21 Nov 2026 13:00:45 GMT")) as place:
        failed = await failure(deliverer, Request(place.url()))
    await deliverer.close()
    assert failed.retry_after == 45.0


async def test_cookies_are_not_kept(deliverer: Deliverer) -> None:
    """What one delivery is given no other sends."""
    async with destination(answer("200 OK", "Set-Cookie: a=1; Path=/")) as place:
        for _ in range(2):
            await deliver(deliverer, Request(place.url()))
    assert [visit.get("Cookie") for visit in place.visits] == [[], []]


async def test_encoded_answers_are_passed_on_as_they_came(deliverer: Deliverer) -> None:
    """Nothing is unpacked: body and Content-Encoding fit together, and no small answer grows."""
    packed = gzip.compress(b"x" * 50 * MIB)
    async with destination(answer("200 OK", "Content-Encoding: gzip", body=packed)) as place:
        response = await deliver(deliverer, Request(place.url()))
    assert response.body == packed and ("Content-Encoding", "gzip") in response.headers


async def test_chunks_and_interim_answers(deliverer: Deliverer) -> None:
    """A body in chunks is put together; a 103 before the answer is none."""
    raw = b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with destination(raw + b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nX-Trailer: 1\r\n\r\n") as place:
        response = await deliver(deliverer, Request(place.url()))
    assert (response.status, response.body) == (200, b"abcde")


async def test_environment_proxies_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxies of the operator's shell would see and change what is delivered, and pass the guard."""
    async with destination() as place, destination(answer("500 Proxy")) as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url())
        deliverer = Deliverer(allow=LOOPBACK, clock=SystemClock())
        assert (await deliver(deliverer, Request(place.url()))).status == 200
        await deliverer.close()
        assert proxy.connections == 0


# -- connections ---------------------------------------------------------------------------------


async def test_connections_are_kept(deliverer: Deliverer) -> None:
    """One after another use one connection, as many at once as there are deliveries; closing leaves none."""
    async with destination() as place:
        for _ in range(5):
            await deliver(deliverer, Request(place.url()))
        assert place.connections == 1
        await asyncio.gather(*(deliver(deliverer, Request(place.url())) for _ in range(20)))
        assert 1 < place.connections <= 20
        before = place.connections
        await asyncio.gather(*(deliver(deliverer, Request(place.url())) for _ in range(before)))
        assert place.connections == before
        await deliverer.close()
        await eventually(lambda: place.open == 0)


async def test_a_connection_that_was_closed_meanwhile_is_not_used(deliverer: Deliverer) -> None:
    """A server closes a connection after its answer, without saying so: the next delivery makes another."""
    async with destination(then_closing(OK)) as place:
        for number in range(1, 5):
            await deliver(deliverer, Request(place.url()))
            await until_no_connection_is_usable(deliverer)
            assert place.connections == number


async def test_an_answer_that_nobody_asked_for_is_nobody_s(deliverer: Deliverer) -> None:
    """What a server sends after its answer does not become the answer to the next request."""
    forged = answer("299 Forged", body=b"forged")

    async def two_answers(visit: Visit, writer: asyncio.StreamWriter) -> None:
        writer.write(OK)
        await writer.drain()
        await asyncio.sleep(0.02)
        await send(writer, forged)

    async with destination(two_answers) as place:
        for _ in range(3):
            assert (await deliver(deliverer, Request(place.url()))).body == b"ok"
            await until_no_connection_is_usable(deliverer)
        assert place.connections == 3


async def test_an_answer_that_comes_along_with_another_is_nobody_s(deliverer: Deliverer) -> None:
    """Nor does what comes in one piece with the answer."""
    async with destination(OK + answer("299 Forged", body=b"forged")) as place:
        for _ in range(3):
            assert (await deliver(deliverer, Request(place.url()))).status == 200
        assert place.connections == 3


async def test_unused_connections_are_few(deliverer: Deliverer, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more are kept than the limit says, and none for longer than it says."""
    monkeypatch.setattr(pool, "MAX_UNUSED", 3)
    async with destination() as place:

        async def slowly(visit: Visit, writer: asyncio.StreamWriter) -> None:
            await eventually(lambda: len(place.visits) >= 10)
            writer.write(OK)

        place.answer = slowly
        await asyncio.gather(*(deliver(deliverer, Request(place.url())) for _ in range(10)))
        assert place.connections == 10
        place.answer = answering(OK)
        await deliver(deliverer, Request(place.url()))
        await eventually(lambda: place.open <= 4)
        monkeypatch.setattr(pool, "KEEPALIVE", -1.0)
        async with destination() as other:
            await deliver(deliverer, Request(other.url()))
            await eventually(lambda: place.open == 0)


async def test_a_cancelled_delivery_leaves_nothing_behind(deliverer: Deliverer) -> None:
    """Cancel passes through, its connection is closed, and the next delivery has its own answer."""

    async def never(visit: Visit, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(3600)

    async with destination(never) as place:
        task = asyncio.ensure_future(deliver(deliverer, Request(place.url("/first"))))
        await eventually(lambda: place.visits)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        place.answer = answering(OK)
        assert (await deliver(deliverer, Request(place.url("/second")))).body == b"ok"
        assert place.visits[1].connection == 2


async def test_cancels_at_any_moment(deliverer: Deliverer) -> None:
    """Whichever step of a delivery a cancel meets, no connection is lost, and the next delivery is well."""
    async with destination() as place:
        for steps in range(60):
            await deliver(deliverer, Request(place.url("/warm"))) if steps % 2 else None
            task = asyncio.ensure_future(deliver(deliverer, Request(place.url(f"/{steps}"), body=b"x" * 100)))
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            [ended] = await asyncio.gather(task, return_exceptions=True)
            assert isinstance(ended, (Response, asyncio.CancelledError))
            assert (await deliver(deliverer, Request(place.url("/after")))).body == b"ok"
        await eventually(lambda: place.open <= 1)
        kept = deliverer._pool._open
        assert len(kept) <= 1


# -- what a destination cannot do ----------------------------------------------------------------


async def test_an_endless_body_is_cut(deliverer: Deliverer) -> None:
    """A body without end counts by its status as soon as the limit is reached, and the rest is not read."""

    async def endless(visit: Visit, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            await send(writer, b"x" * 65536)

    async with destination(endless) as place:
        response = await deliver(deliverer, Request(place.url()))
        assert response.status == 200 and response.body == b"x" * MIB
        await eventually(lambda: place.open == 0)


@pytest.mark.parametrize("size", [MIB - 1, MIB, MIB + 1, 3 * MIB])
async def test_bodies_about_the_limit(deliverer: Deliverer, size: int) -> None:
    """What fits is whole; the next delivery does not meet the rest."""
    body = random.Random(size).randbytes(size)
    async with destination(answering(answer("500 Large", body=body), OK)) as place:
        failed = await failure(deliverer, Request(place.url()))
        assert failed.response.body == body[:MIB]
        assert (await deliver(deliverer, Request(place.url()))).body == b"ok"


@pytest.mark.parametrize(
    "start",
    [b"", b"HTTP/1.1 200 OK\r\nX-A: ", b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n"],
)
async def test_who_sends_byte_by_byte_meets_the_timeout(deliverer: Deliverer, start: bytes) -> None:
    """The timeout is for the whole attempt: a byte now and then does not prolong it, in headers or body."""

    async def slow(visit: Visit, writer: asyncio.StreamWriter) -> None:
        writer.write(start)
        while True:
            await send(writer, b"H" if not start else b"x")
            await asyncio.sleep(0.01)

    async with destination(slow) as place:
        before = time.monotonic()
        failed = await failure(deliverer, Request(place.url()), timeout=0.3)
        assert 0.25 < time.monotonic() - before < 10
        assert failed.response == Response(0) and "0.3 s" in str(failed)
        await eventually(lambda: place.open == 0)


async def test_who_says_nothing_or_reads_nothing_meets_the_timeout(deliverer: Deliverer) -> None:
    """A server that accepts and is silent, also while a large body waits to be sent."""
    silent = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
    for body in (b"", b"x" * 20 * MIB):
        failed = await failure(deliverer, Request(url, body=body), timeout=0.3)
        assert failed.response.status == 0
    silent.close()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"HTTP/1.1 200",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: minus\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-A: \x00\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.9\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"\xff" * 5000 + b"\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nrest",
        b"HTTP/1.1 200 OK\r\nX-Long: " + b"a" * 200_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: 1\r\n" % number for number in range(20_000)) + b"\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"e" * 200_000,
    ],
    ids=lambda raw: repr(raw[:60]),
)
async def test_what_is_no_answer_is_a_failed_attempt(deliverer: Deliverer, raw: bytes) -> None:
    """Cut off, malformed, too much: a failure without an answer, never another error, and the next delivery is well."""
    async with destination(then_closing(raw)) as place:
        failed = await failure(deliverer, Request(place.url()))
        assert failed.response.status in (0, 101) and not failed.final and str(failed)
        place.answer = answering(OK)
        assert (await deliver(deliverer, Request(place.url()))).status == 200


async def test_no_more_headers_are_kept_than_fit(deliverer: Deliverer) -> None:
    """Many headers, or large ones: the first of them are kept."""
    many = [f"X-{number}: 1" for number in range(1000)]
    large = [f"X-{number}: {'v' * 1000}" for number in range(80)]
    async with destination(answering(answer("200 OK", *many), answer("200 OK", *large))) as place:
        first = await deliver(deliverer, Request(place.url()))
        second = await deliver(deliverer, Request(place.url()))
    assert first.headers == tuple((f"X-{number}", "1") for number in range(delivery.MAX_RESPONSE_HEADERS))
    assert second.headers == tuple((f"X-{number}", "v" * 1000) for number in range(len(second.headers)))
    size = sum(len(name) + len(value) for name, value in second.headers)
    assert 0 <= delivery.MAX_RESPONSE_HEADER_BYTES - size < 1010


async def test_who_refuses_to_be_connected_to(deliverer: Deliverer) -> None:
    """Nobody listens there: a failure that names the place."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    failed = await failure(deliverer, Request(f"http://127.0.0.1:{port}/"))
    assert failed.response == Response(0) and str(port) in str(failed)


@pytest.mark.parametrize(
    "url",
    [
        "http://nothing.invalid/",
        "http:///path",
        "http://127.0.0.1:99999/",
        "http://127.0.0.1:port/",
        "http://127.0.0.1:-1/",
        "http://[::1/",
        "http://[zz]/",
        "http://" + "a" * 300 + ".example/",
        "http://a..b/",
        "http://-\udc80/",
        "http://127.0.0.1/\r\nX: 1",
        "http://127.0.0.1/" + "a" * 70_000,
        "http://999.1.1.1/",
        "http://xn--a/",
        "http://\u2488\u3002/",
        "ftp://127.0.0.1/",
        "nonsense",
        "",
    ],
    ids=lambda url: repr(url[:40]),
)
async def test_urls_that_lead_nowhere(deliverer: Deliverer, url: str) -> None:
    """Whatever is wrong with a URL, the attempt fails and nothing else does."""
    failed = await failure(deliverer, Request(url))
    assert failed.response == Response(0) and len(str(failed)) < 600


@pytest.mark.parametrize(
    "header", [("X-\u20ac", "1"), ("X-A", "\u20ac"), ("X-A", "a\r\nX-B: b"), ("X A", "1"), ("", "1"), ("X-A", "\x00")]
)
async def test_headers_that_cannot_be_sent(deliverer: Deliverer, header: tuple[str, str]) -> None:
    """A header that HTTP does not have fails the attempt; nothing of it reaches the destination."""
    async with destination() as place:
        failed = await failure(deliverer, Request(place.url(), headers=(header,)))
        assert failed.response == Response(0)
    assert not place.visits


async def test_a_secret_that_cannot_be_sent_is_not_told(deliverer: Deliverer) -> None:
    """The failure names the header, not its value."""
    failed = await failure(deliverer, Request("http://127.0.0.1:1/", headers=(("Authorization", "hush\r\n!"),)))
    assert "Authorization" in str(failed) and "hush" not in str(failed)


# -- addresses -----------------------------------------------------------------------------------


@pytest.fixture
async def public(anyio_backend: str) -> AsyncIterator[Deliverer]:
    """One that may reach public addresses only."""
    deliverer = Deliverer(allow=None, clock=SystemClock())
    yield deliverer
    await deliverer.close()


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "0x7f.1", "0", "0.0.0.0",
     "127.0.0.1.", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "user@127.0.0.1", "LOCALHOST",
     "\uff11\uff12\uff17.0.0.1"],
)  # fmt: skip
async def test_loopback_is_refused_in_every_spelling(public: Deliverer, host: str) -> None:
    """Nothing of the machine itself is reached, as the resolver reads the name."""
    async with destination() as place:
        failed = await failure(public, Request(place.url(host=host)))
        assert failed.response == Response(0)
        assert place.connections == 0


async def test_the_refusal_tells_the_mend(public: Deliverer) -> None:
    """An operator who meant it learns what opens it."""
    failed = await failure(public, Request("http://169.254.169.254/latest/meta-data/"))
    assert "169.254.169.254" in str(failed) and "TASKQ_DELIVERY_ALLOW" in str(failed)


class Resolver:
    """The loop's resolver, with names of our own; `asked` in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **names: list[list[str]]) -> None:
        self.names = names
        self.asked: list[str] = []
        loop = asyncio.get_running_loop()
        self.real = loop.getaddrinfo
        monkeypatch.setattr(loop, "getaddrinfo", self)

    async def __call__(self, host: Any, port: Any, **options: Any) -> Any:
        label = str(host).partition(".")[0]
        if label not in self.names:
            return await self.real(host, port, **options)
        self.asked.append(host)
        answers = self.names[label]
        found = answers.pop(0) if len(answers) > 1 else answers[0]
        return [
            (socket.AF_INET6 if ":" in one else socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in found
        ]


async def test_a_name_that_changes_its_address_does_not_pass(
    public: Deliverer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First public, then loopback: the address that was judged is the one that is connected to."""
    monkeypatch.setattr(network, "CONNECT_TIMEOUT", 0.2)
    resolver = Resolver(monkeypatch, rebinding=[["192.88.98.1"], ["127.0.0.1"]])
    async with destination() as place:
        for _ in range(2):
            failed = await failure(public, Request(place.url(host="rebinding.example")), timeout=5)
            assert failed.response == Response(0)
        assert place.connections == 0
    assert resolver.asked == ["rebinding.example", "rebinding.example"]
    assert "no public address" in str(failed)


async def test_of_a_name_s_addresses_the_permitted_ones_are_tried_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is refused is skipped, one that fails is followed by the next; Host stays the name."""
    Resolver(monkeypatch, several=[["127.0.0.1", "127.0.0.3", "::1", "127.0.0.2"]])
    deliverer = Deliverer(allow="127.0.0.2/31,::1", clock=SystemClock())
    place = Destination(answering(OK))
    server = await asyncio.start_server(place.serve, "127.0.0.2", 0)
    place.port = server.sockets[0].getsockname()[1]
    watched = await asyncio.start_server(place.serve, "127.0.0.1", place.port)
    try:
        response = await deliver(deliverer, Request(place.url(host="several.example")))
        assert response.status == 200 and place.connections == 1
        assert place.visits[0].get("Host") == [f"several.example:{place.port}"]
    finally:
        await deliverer.close()
        server.close()
        watched.close()
        await eventually(lambda: place.open == 0)


async def test_allowed_networks_are_reached_by_name_too(deliverer: Deliverer) -> None:
    """What is open is open however it is spelled."""
    async with destination() as place:
        for host in ("localhost", "127.1", "0x7f000001"):
            assert (await deliver(deliverer, Request(place.url(host=host)))).status == 200


# -- TLS and HTTP/2 ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A certificate of localhost, and its key, in one file."""
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-keyout", "key.pem", "-out", "cert.pem", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    both = folder / "both.pem"
    both.write_text((folder / "cert.pem").read_text() + (folder / "key.pem").read_text())
    yield both


def server_tls(certificate: Path, *protocols: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.set_alpn_protocols(list(protocols or ("http/1.1",)))
    return context


@pytest.fixture
async def trusting(certificate: Path, monkeypatch: pytest.MonkeyPatch, anyio_backend: str) -> AsyncIterator[Deliverer]:
    """One whose environment names the certificate as trusted."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    deliverer = Deliverer(allow=LOOPBACK, clock=SystemClock())
    yield deliverer
    await deliverer.close()


async def test_tls(trusting: Deliverer, certificate: Path) -> None:
    """https is delivered to who can prove its name, over connections that are kept, large bodies too."""
    async with destination(answer("200 OK", body=b"y" * MIB), tls=server_tls(certificate)) as place:
        for _ in range(3):
            request = Request(place.url("/a", host="localhost", scheme="https"), body=b"x" * 2 * MIB)
            response = await deliver(trusting, request)
            assert response.body == b"y" * MIB
        assert [len(visit.body) for visit in place.visits] == [2 * MIB] * 3


async def test_tls_without_trust(deliverer: Deliverer, trusting: Deliverer, certificate: Path) -> None:
    """A certificate that nobody vouches for, or of another name, fails the attempt before anything is sent."""
    async with destination(tls=server_tls(certificate)) as place:
        untrusted = await failure(deliverer, Request(place.url(host="localhost", scheme="https")))
        misnamed = await failure(trusting, Request(place.url(host="127.0.0.1", scheme="https")))
        assert untrusted.response == misnamed.response == Response(0)
        assert "certificate" in str(untrusted) and "certificate" in str(misnamed)
    assert not place.visits


@asynccontextmanager
async def speaking_first() -> AsyncIterator[int]:
    """The port of a server that answers before it is asked."""
    left = asyncio.Event()

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK)
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.transport.abort()
        left.set()

    server = await asyncio.start_server(speak, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    await left.wait()
    server.close()


async def test_tls_with_who_does_not_speak_it(trusting: Deliverer) -> None:
    """Plain HTTP where TLS was expected, also from who speaks first; silence ends at the timeout."""
    async with destination() as place:
        url = place.url(host="localhost", scheme="https")
        assert (await failure(trusting, Request(url), timeout=0.3)).response == Response(0)

    async with speaking_first() as port:
        failed = await failure(trusting, Request(f"https://localhost:{port}/"), timeout=5)
        assert failed.response == Response(0)
    silent = socket.create_server(("127.0.0.1", 0))
    url = f"https://localhost:{silent.getsockname()[1]}/"
    assert (await failure(trusting, Request(url), timeout=0.3)).response == Response(0)
    silent.close()


async def test_what_came_in_the_clear_is_no_part_of_what_is_encrypted(anyio_backend: str) -> None:
    """A server that speaks before TLS has begun is left."""
    async with speaking_first() as port:
        stream = await network.GuardedBackend(Guard(LOOPBACK)).connect_tcp("127.0.0.1", port)
        await eventually(lambda: stream.get_extra_info("is_readable"))
        with pytest.raises(httpcore.ConnectError, match="does not speak TLS"):
            await stream.start_tls(ssl.create_default_context(), "localhost")


@dataclass
class Http2:
    """A server of HTTP/2: keeps what comes, and answers each stream once `ready` says so."""

    ready: Callable[[dict[str, str]], Awaitable[tuple[int, bytes]]]
    port: int = 0
    requests: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    connections: int = 0
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.append(writer)
        state = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="latin-1"))
        state.initiate_connection()
        streams: dict[int, tuple[dict[str, str], bytearray]] = {}
        opened = asyncio.Condition()
        tasks: dict[int, asyncio.Task[None]] = {}

        async def respond(stream: int) -> None:
            status, body = await self.ready(streams[stream][0])
            state.send_headers(stream, [(":status", str(status)), ("x-version", "2")])
            sent = 0
            while sent < len(body):
                room = min(state.local_flow_control_window(stream), state.max_outbound_frame_size)
                if room == 0:
                    async with opened:
                        await opened.wait()
                    continue
                state.send_data(stream, body[sent : sent + room])
                sent += room
                writer.write(state.data_to_send())
                await writer.drain()
            state.end_stream(stream)
            writer.write(state.data_to_send())

        try:
            writer.write(state.data_to_send())
            while data := await reader.read(65536):
                for event in state.receive_data(data):
                    if isinstance(event, h2.events.RequestReceived):
                        streams[event.stream_id] = (dict(event.headers), bytearray())
                    elif isinstance(event, h2.events.DataReceived):
                        streams[event.stream_id][1].extend(event.data)
                        state.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                    elif isinstance(event, h2.events.StreamEnded):
                        headers, body = streams[event.stream_id]
                        self.requests.append((headers, bytes(body)))
                        tasks[event.stream_id] = asyncio.ensure_future(respond(event.stream_id))
                async with opened:
                    opened.notify_all()
                writer.write(state.data_to_send())
        except (ConnectionError, ssl.SSLError):
            pass  # the sender has gone
        finally:
            for task in tasks.values():
                task.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)
            writer.transport.abort()


@asynccontextmanager
async def http2(
    certificate: Path, ready: Callable[[dict[str, str]], Awaitable[tuple[int, bytes]]]
) -> AsyncIterator[Http2]:
    place = Http2(ready)
    tasks: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.ensure_future(place.serve(reader, writer)))

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=server_tls(certificate, "h2"))
    place.port = server.sockets[0].getsockname()[1]
    try:
        yield place
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_http2(trusting: Deliverer, certificate: Path) -> None:
    """Who speaks HTTP/2 is spoken to so: the same request, also again, and many at once."""
    together = asyncio.Barrier(10)

    async def ready(headers: dict[str, str]) -> tuple[int, bytes]:
        if headers[":path"].startswith("/together"):
            await together.wait()
        return 200, headers[":path"].encode()

    async with http2(certificate, ready) as place:
        base = f"https://localhost:{place.port}"
        request = Request(f"{base}/a/../b?x=%2F", "PUT", (("X-A", "1"), ("Connection", "close")), b"body")
        response = await deliver(trusting, request)
        assert (response.status, response.body) == (200, b"/a/../b?x=%2F")
        assert ("x-version", "2") in response.headers
        [(headers, body)] = place.requests
        assert body == b"body" and headers[":method"] == "PUT" and headers["x-a"] == "1"
        assert headers["user-agent"] == "Upstash-QStash" and "connection" not in headers
        Receiver(KEYS.current, KEYS.next).verify(
            signature=headers["upstash-signature"], body="body", url=f"{base}/a/../b?x=%2F"
        )
        many = [replace(request, url=f"{base}/together/{number}") for number in range(10)]
        answers = await asyncio.gather(*(deliver(trusting, one) for one in many))
        assert [one.body for one in answers] == [f"/together/{number}".encode() for number in range(10)]
        assert place.connections == 10
        await deliver(trusting, request)
        assert place.connections == 10


async def test_http2_failures_stay_with_their_own(trusting: Deliverer, certificate: Path) -> None:
    """A body over the limit, a timeout and a cancel leave the deliveries beside them, and those that follow, well."""
    go = asyncio.Event()

    async def ready(headers: dict[str, str]) -> tuple[int, bytes]:
        if headers[":path"] == "/large":
            return 500, b"x" * 40 * MIB
        if headers[":path"] == "/never":
            await asyncio.sleep(3600)
        if headers[":path"] == "/beside":
            await go.wait()
        return 200, b"ok"

    async with http2(certificate, ready) as place:
        base = f"https://localhost:{place.port}"
        await deliver(trusting, Request(f"{base}/first"))
        beside = asyncio.ensure_future(deliver(trusting, Request(f"{base}/beside")))
        await eventually(lambda: len(place.requests) == 2)
        assert (await failure(trusting, Request(f"{base}/never"), timeout=0.2)).response == Response(0)
        cancelled = asyncio.ensure_future(deliver(trusting, Request(f"{base}/never")))
        await eventually(lambda: len(place.requests) == 4)
        cancelled.cancel()
        await asyncio.gather(cancelled, return_exceptions=True)
        go.set()
        assert (await beside).body == b"ok"
        for _ in range(3):
            assert (await failure(trusting, Request(f"{base}/large"))).response.body == b"x" * MIB
            assert (await deliver(trusting, Request(f"{base}/after"), timeout=10)).body == b"ok"


async def test_an_http2_connection_that_was_closed_meanwhile_is_not_used(
    trusting: Deliverer, certificate: Path
) -> None:
    """Its end is seen before the next delivery begins, which makes another one."""

    async def ready(headers: dict[str, str]) -> tuple[int, bytes]:
        return 200, b"ok"

    async with http2(certificate, ready) as place:
        for number in range(1, 4):
            assert (await deliver(trusting, Request(f"https://localhost:{place.port}/"))).body == b"ok"
            assert place.connections == number
            place.writers[-1].transport.abort()
            await until_no_connection_is_usable(trusting)


async def test_an_answer_that_is_cut_does_not_hold_up_those_beside_it(trusting: Deliverer, certificate: Path) -> None:
    """Whatever of an HTTP/2 answer over the limit is not read, the others have theirs."""
    cut = asyncio.Event()

    async def ready(headers: dict[str, str]) -> tuple[int, bytes]:
        if headers[":path"] == "/large":
            return 200, b"x" * 40 * MIB
        if headers[":path"] == "/beside":
            await cut.wait()
        return 200, b"y" * 1000

    async with http2(certificate, ready) as place:
        base = f"https://localhost:{place.port}"
        await deliver(trusting, Request(f"{base}/first"))
        large = [asyncio.ensure_future(deliver(trusting, Request(f"{base}/large"))) for _ in range(4)]
        beside = asyncio.ensure_future(deliver(trusting, Request(f"{base}/beside")))
        await eventually(lambda: len(place.requests) == 6)
        assert [len(response.body) for response in await asyncio.gather(*large)] == [MIB] * 4
        cut.set()
        assert len((await beside).body) == 1000
