"""How many requests a client of the API may make in a second."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import httpx

from taskq.api.app import make_api
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
