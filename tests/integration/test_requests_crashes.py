"""The HTTP API killed between a request and its answer: what was accepted is delivered, and repeating harms nothing."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest

from taskq import TaskQ
from taskq.outcome import Status
from taskq.store.gateway import RequestFilter
from tests.chaos.app_dies import Death
from tests.endpoint import Endpoint
from tests.integration.api.served import calling
from tests.integration.front import LOOPBACK, Front
from tests.integration.harness import Station
from tests.integration.outcomes import Outcomes
from tests.servers import free_port
from tests.support import eventually

LOST, REPAIRED, SENT = "api: not committed", "api: committed, not published", "api: published, not answered"
GAPS = {LOST: "/lost", REPAIRED: "/repaired", SENT: "/sent"}  # with the paths of their messages
REPAIRED_WITHIN = 30.0  # seconds: 11 until the keeper publishes what was not confirmed, and a busy machine


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint() as one:
        yield one


def batch(endpoint: Endpoint, path: str) -> list[dict[str, Any]]:
    """A message for a URL, one by way of a FIFO queue, one for a group of two; each is known again by its id."""

    def item(destination: str, name: str, **more: str) -> dict[str, Any]:
        return {"destination": destination, "headers": {"Upstash-Deduplication-Id": f"{path} {name}"}, **more}

    return [
        item(endpoint.url(f"{path}/plain"), "plain"),
        item(endpoint.url(f"{path}/line"), "line", queue="line"),
        item("members", "group", body=path),
    ]


def ids_of(answer: httpx.Response) -> list[str]:
    plain, line, members = answer.json()
    return [plain["messageId"], line["messageId"], *(one["messageId"] for one in members)]


def doomed(station: Station, gap: str) -> Front:
    """An API that dies at the first request that comes to the gap."""
    folder = station.folder / GAPS[gap][1:]
    folder.mkdir()
    (folder / "armed").touch()
    return Front(
        station, name=f"api-{folder.name}", app="tests.chaos.app_dies:app",
        test_die_at=gap, test_die_in=folder, publish_timeout=1,
    )  # fmt: skip


async def test_the_api_killed_in_each_gap_of_a_request(
    station: Station, outcomes: Outcomes, endpoint: Endpoint
) -> None:
    """Nothing of it or all of it was accepted. What was is delivered though nobody asks again; who does is told the
    ids of then, and each message is delivered once."""
    urls = [endpoint.url("/one"), endpoint.url("/two")]
    async with Front(station).up() as http, AsyncExitStack() as stack:
        (await http.post("/v2/queues", json={"queueName": "line"})).raise_for_status()
        group = await http.post("/v2/topics/members/endpoints", json={"endpoints": [{"url": url} for url in urls]})
        group.raise_for_status()
        await station.start_ready(1, ["http", "callbacks", "line"], **LOOPBACK)
        fronts = [doomed(station, gap) for gap in GAPS]
        clients = await asyncio.gather(*(stack.enter_async_context(front.up()) for front in fronts))
        deaths = {}
        for gap, front, client in zip(GAPS, fronts, clients, strict=True):
            with pytest.raises(httpx.TransportError):
                await client.post("/v2/batch", json=batch(endpoint, GAPS[gap]))
            assert await front.ended() == -signal.SIGKILL
            death = Death.read(station.folder / GAPS[gap][1:])
            assert death is not None and len(death.hand) == 4
            deaths[gap] = [message_id for message_id, _ in death.hand]
        store = await station.store()
        accepted = {one.message.id for one in (await store.list_requests(RequestFilter())).items}
        assert accepted == {*deaths[REPAIRED], *deaths[SENT]}

        again = {}
        for gap, path in GAPS.items():
            again[gap] = ids_of(await http.post("/v2/batch", json=batch(endpoint, path)))
        assert not set(again[LOST]) & set(deaths[LOST])
        assert sorted(again[REPAIRED]) == sorted(deaths[REPAIRED])
        assert sorted(again[SENT]) == sorted(deaths[SENT])

        every = [message_id for ids in again.values() for message_id in ids]

        async def all_done() -> bool:
            rows = await store.get_many(every)
            assert [rows[one].status for one in every] == [Status.SUCCEEDED] * 12
            assert (await store.table_sizes())["taskq_outbox"] == 0
            return True

        await eventually(all_done, REPAIRED_WITHIN)
    seen = [one.header("upstash-message-id") or "" for one in endpoint.requests()]
    assert sorted(seen) == sorted(every)
    assert outcomes.recorded() == dict.fromkeys(every, 1)
    for path in GAPS.values():
        assert len(endpoint.requests(f"{path}/plain")) == len(endpoint.requests(f"{path}/line")) == 1
    assert len(endpoint.requests("/one")) == len(endpoint.requests("/two")) == 3


async def test_requests_while_the_store_is_away_leave_nothing_behind(prefix: str) -> None:
    """Each is answered with 503, and holds no thread and no connection of a store that it could not open."""

    def threads() -> int:
        return sum(thread.name.startswith("taskq-store") for thread in threading.enumerate())

    away = f"postgresql://taskq@127.0.0.1:{free_port()}/none"
    async with calling(TaskQ(broker=f"memory://{prefix}", store=away)) as http:
        before = threads()
        for _ in range(5):
            answer = await http.post("/v2/publish/https://example.com")
            assert answer.status_code == 503 and "Connection refused" in answer.json()["error"]
        assert threads() <= before
