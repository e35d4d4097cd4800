"""How many requests a client of the API may make in a second, and how much may come before a request's body."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from taskq.api.app import make_api
from taskq.api.protocol import MAX_HEAD_BYTES
from taskq.api.server import Guest, listen
from taskq.clock import SystemClock
from tests.integration.api.served import calling
from tests.integration.room import Room


class StandingClock(SystemClock):
    """Its `now` moves when it is told to."""

    def __init__(self) -> None:
        self.instant = datetime(2026, 1, 1, tzinfo=UTC)

    def now(self) -> datetime:
        return self.instant


def limited(store: str, prefix: str, clock: SystemClock, **settings: object) -> Room:
    room = Room(broker=f"memory://{prefix}", store=store, prefix=prefix)
    room.app = room.make_app(clock=clock, api_rate_limit=3, **settings)
    return room


async def test_a_client_makes_so_many_requests_a_second(sqlite_store_url: str, prefix: str) -> None:
    """The fourth is refused, and told when to come again; in the next second all is as before."""
    clock = StandingClock()
    room = limited(sqlite_store_url, prefix, clock)
    second = int(clock.instant.timestamp())
    async with calling(room.app) as http:
        for left in (2, 1, 0):
            answer = await http.get("/v2/queues")
            assert (answer.status_code, answer.headers["Burst-RateLimit-Remaining"]) == (200, str(left))
        answer = await http.get("/v2/queues")
        assert answer.status_code == 429 and list(answer.json()) == ["error"]
        told = {name: answer.headers[f"Burst-RateLimit-{name}"] for name in ("Limit", "Remaining", "Reset")}
        assert told == {"Limit": "3", "Remaining": "0", "Reset": str(second + 1)}
        assert "RateLimit-Limit" not in answer.headers
        clock.instant += timedelta(seconds=1)
        assert (await http.get("/v2/queues")).status_code == 200
    await room.close()


async def test_publishing_and_health_are_not_counted(sqlite_store_url: str, prefix: str) -> None:
    """Nor do they meet the limit of others."""
    room = limited(sqlite_store_url, prefix, StandingClock())
    async with calling(room.app) as http:
        for _ in range(4):
            answers = [
                await http.get("/v2/queues"),
                await http.post("/v2/publish/https://a.example", content=b"x"),
                await http.post("/v2/enqueue/q/https://a.example", content=b"x"),
                await http.post("/v2/batch", json=[{"destination": "https://a.example"}]),
                await http.get("/health"),
            ]
        assert [answer.status_code for answer in answers] == [429, 200, 200, 200, 200]
    await room.close()


async def test_each_address_and_each_token_has_its_own(sqlite_store_url: str, prefix: str) -> None:
    """Without tokens addresses are told apart; with them the tokens are, wherever they come from."""
    for settings, expected in (({}, [429, 200]), ({"api_token": "t"}, [429, 429])):
        room = limited(sqlite_store_url, prefix, StandingClock(), **settings)
        api = make_api(room.app)
        last = []
        async with api.router.lifespan_context(api):
            for address in ("192.0.2.1", "192.0.2.2"):
                transport = httpx.ASGITransport(api, client=(address, 1))
                headers = {"Authorization": "Bearer t"}
                async with httpx.AsyncClient(transport=transport, base_url="http://api", headers=headers) as http:
                    for _ in range(4 if address.endswith("1") else 1):
                        answer = await http.get("/v2/queues")
                last.append(answer.status_code)
        assert last == expected
        await room.close()


@pytest.mark.parametrize(
    "start",
    [
        b"",
        b"GET /",
        b"GET /health HTTP/1.1\r\nHost: a\r\nX: ",
        b"POST /v2/batch HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nX: ",
    ],
    ids=["method", "target", "header", "trailer"],
)
async def test_a_head_without_end_ends_the_connection(sqlite_store_url: str, prefix: str, start: bytes) -> None:
    """Nobody fills the server's memory with what is no body."""
    room = Room(broker=f"memory://{prefix}", store=sqlite_store_url, prefix=prefix)
    ready = asyncio.Event()
    ready.set()
    with listen(room.app, "127.0.0.1", 0) as listener:
        async with Guest(room.app).serving(listener, once=ready):
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            writer.write(start)
            sent = 0
            try:
                while sent < 4 * MAX_HEAD_BYTES and not reader.at_eof():
                    writer.write(b"A" * 2**14)
                    await writer.drain()
                    await asyncio.sleep(0)
                    sent += 2**14
                async with asyncio.timeout(10):
                    answer = await reader.read()
            except ConnectionError:
                answer = b""
            writer.close()
            assert not answer or answer.startswith(b"HTTP/1.1 400")
        await room.close()
