"""Flow control of requests: keys' limits at the destination, over workers as processes, and what the API does to keys
while messages wait."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

import httpx
import pytest

from taskq import TaskQ
from taskq.outcome import Status
from tests.endpoint import Answer, Endpoint, Seen
from tests.integration.api.served import calling
from tests.integration.front import LOOPBACK
from tests.integration.harness import Station
from tests.support import PATIENCE, eventually, pulse

CLOCKS = 0.05  # seconds by which a worker's view of the store's clock may differ from this machine's
QUICK = {"heartbeat": 4} | LOOPBACK


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint() as one:
        yield one


@pytest.fixture
async def api(
    station: Station, rabbitmq_url: str, postgres_store_url: str, prefix: str
) -> AsyncIterator[httpx.AsyncClient]:
    """The API, in this process; its workers are the station's."""
    app = TaskQ(broker=rabbitmq_url, store=postgres_store_url, prefix=prefix, publish_timeout=30)
    async with calling(app, timeout=60) as http:
        yield http


async def publish(api: httpx.AsyncClient, url: str, number: int, *, key: str = "a", **limits: int | str) -> list[str]:
    """So many messages of a key, their numbers in their bodies; their ids."""
    value = ", ".join(f"{name}={value}" for name, value in limits.items())
    headers = {"Upstash-Flow-Control-Key": key, "Upstash-Flow-Control-Value": value, "Upstash-Retry-Delay": "50"}
    items = [{"destination": url, "body": str(n), "headers": headers} for n in range(number)]
    ids: list[str] = []
    for part in (items[i : i + 1000] for i in range(0, number, 1000)):
        answer = await api.post("/v2/batch", json=part)
        ids += [one["messageId"] for one in answer.json()]
    return ids


async def shown(api: httpx.AsyncClient, key: str = "a") -> dict[str, Any]:
    answer: dict[str, Any] = (await api.get(f"/v2/flowControl/{key}")).raise_for_status().json()
    return answer


async def tell(api: httpx.AsyncClient, what: str, key: str = "a") -> None:
    """Such as "pin?rate=3"."""
    (await api.post(f"/v2/flowControl/{key}/{what}")).raise_for_status()


async def waiting(api: httpx.AsyncClient, least: int, key: str = "a") -> None:
    """Wait until at least so many wait for the key."""

    async def check() -> bool:
        size = (await shown(api, key))["waitListSize"]
        assert size >= least, f"{size} wait, not {least}"
        return True

    await eventually(check)


async def delivered(station: Station, ids: list[str], timeout: float = PATIENCE) -> None:  # noqa: ASYNC109
    """Wait until all are recorded as delivered."""
    store = await station.store()

    async def check() -> bool:
        rows = await store.get_many(ids)
        done = [id for id in ids if id in rows and rows[id].status is Status.SUCCEEDED]
        assert len(done) == len(ids), f"{len(done)} of {len(ids)} are delivered"
        return True

    await eventually(check, timeout)


def most_held(seen: Iterable[Seen], seconds: float) -> int:
    """How many messages the destination held at once, at most, each for so long; one that came twice is one."""
    requests = list(seen)
    return max(
        len({other.header("upstash-message-id") for other in requests if one.at - seconds < other.at <= one.at})
        for one in requests
    )


async def test_a_rate_of_requests_holds_over_workers(
    station: Station, api: httpx.AsyncClient, endpoint: Endpoint
) -> None:
    """`start[i + rate] - start[i] >= period`, by the instants at which workers began the calls that came."""
    await station.start_ready(3, ["http"], **QUICK)
    ids = await publish(api, endpoint.url("/rated"), 20, rate=5, period="1s")
    await delivered(station, ids)
    rows = await (await station.store()).get_many(ids)
    began = {id: row.started_at.timestamp() for id, row in rows.items() if row.started_at is not None}
    received = {one.header("upstash-message-id") or "": one.at for one in endpoint.requests("/rated")}
    assert received.keys() == began.keys() and len(endpoint.requests("/rated")) == 20
    assert min(received[id] - began[id] for id in ids) >= -CLOCKS
    starts = sorted(began.values())
    gaps = [later - earlier for earlier, later in zip(starts, starts[5:], strict=False)]
    # A process that is stopped between its permit and its first line begins late, and nobody can know (guarantees.md).
    assert min(gaps) >= 1.0 - CLOCKS - pulse.lost()
    workers = {row.worker for row in rows.values()}
    assert len(workers) > 1, workers


async def test_parallelism_of_requests_holds_at_the_destination(
    station: Station, api: httpx.AsyncClient, endpoint: Endpoint
) -> None:
    """As many requests as the key allows are held, by all workers together, and no more; another key goes by."""
    await station.start_ready(3, ["http"], **QUICK)
    with endpoint.holding("/held"):
        ids = await publish(api, endpoint.url("/held"), 30, parallelism=3)
        await endpoint.until("/held", 3)
        await delivered(station, await publish(api, endpoint.url("/other"), 10, key="b", parallelism=1))
        assert len(endpoint.requests("/held")) == 3
        found = await shown(api)
        assert (found["parallelismMax"], found["parallelismCount"], found["waitListSize"]) == (3, 3, 27)
    await delivered(station, ids)
    endpoint.forget()
    endpoint.answer("/held", Answer(delay=0.05))
    await delivered(station, await publish(api, endpoint.url("/held"), 60, parallelism=3))
    assert most_held(endpoint.requests("/held"), 0.05) == 3
    assert (await shown(api))["parallelismCount"] == 0


async def test_a_killed_workers_requests_lose_no_permit(
    station: Station, api: httpx.AsyncClient, endpoint: Endpoint
) -> None:
    """Workers are killed in the middle of calls: the limit holds, all are delivered, and it is used in full again."""
    endpoint.answer("/k", Answer(delay=0.1))
    await station.start_ready(3, ["http"], **QUICK)
    ids = await publish(api, endpoint.url("/k"), 150, parallelism=4)
    for kill in range(3):
        await endpoint.until("/k", 20 + 40 * kill, 60)
        next(worker for worker in station.workers if worker.running).kill()
        station.start(["http"], **QUICK)
    await delivered(station, ids, 90)
    seen = endpoint.requests("/k")
    assert {one.header("upstash-message-id") for one in seen} == set(ids)
    assert most_held(seen, 0.1) == 4
    with endpoint.holding("/again"):
        again = await publish(api, endpoint.url("/again"), 10, parallelism=4)
        await endpoint.until("/again", 4, 60)
    await delivered(station, again)


async def test_a_request_of_a_late_key_is_not_behind_ten_thousand_of_another(
    station: Station, api: httpx.AsyncClient, endpoint: Endpoint
) -> None:
    """Ten thousand wait for a key whose calls take 0.1 s, five at once: a call of another key begins before as many of
    the first as run in half a second."""
    endpoint.answer("/a", Answer(delay=0.1))
    await publish(api, endpoint.url("/a"), 10_000, parallelism=5)
    await station.start_ready(2, ["http"], **QUICK)
    await endpoint.until("/a", 10, 60)
    await waiting(api, 9_000)
    published = time.time()
    await publish(api, endpoint.url("/b"), 1, key="b", parallelism=1)
    [b] = await endpoint.until("/b", 1, 30)
    between = [one for one in endpoint.requests("/a") if published < one.at < b.at]
    assert len(between) <= 25, f"{len(between)} of the other key in {b.at - published:.2f} s"
    assert (await shown(api))["waitListSize"] > 8_000


async def test_keys_are_ruled_through_the_api_while_messages_wait(
    station: Station, api: httpx.AsyncClient, endpoint: Endpoint
) -> None:
    """Paused nothing starts; a pinned limit counts at once, whatever later messages say, until it is unpinned."""
    await station.start_ready(2, ["http"], **QUICK)
    await tell(api, "pause")
    ids = await publish(api, endpoint.url("/p"), 40, parallelism=2)
    await waiting(api, 40)
    await delivered(station, await publish(api, endpoint.url("/free"), 5, key="b", parallelism=1))
    assert endpoint.requests("/p") == []
    with endpoint.holding("/p"):
        await tell(api, "resume")
        await endpoint.until("/p", 2)
        await tell(api, "pin?parallelism=5")
        await endpoint.until("/p", 5)
        ids += await publish(api, endpoint.url("/p"), 1, parallelism=9)
        await delivered(station, await publish(api, endpoint.url("/free"), 5, key="b", parallelism=1))
        assert len(endpoint.requests("/p")) == 5
        found = await shown(api)
        assert (found["parallelismMax"], found["isPinnedParallelism"], found["isPaused"]) == (5, True, False)
        await tell(api, "unpin?parallelism=true")
        assert (await shown(api))["parallelismMax"] == 5  # until a message says otherwise
        ids += await publish(api, endpoint.url("/p"), 1, parallelism=7)
        await endpoint.until("/p", 7)
        assert (await shown(api))["parallelismMax"] == 7
    await delivered(station, ids)


async def test_a_reset_rate_lets_waiting_requests_go(
    station: Station, api: httpx.AsyncClient, endpoint: Endpoint
) -> None:
    """A full window of an hour is opened by resetRate, and by a pin of a larger rate, without waiting for it."""
    await station.start_ready(2, ["http"], **QUICK)
    await publish(api, endpoint.url("/r"), 20, rate=3, period="1h")
    await endpoint.until("/r", 3)
    await waiting(api, 17)
    await tell(api, "resetRate")
    await endpoint.until("/r", 6)
    await waiting(api, 14)
    await delivered(station, await publish(api, endpoint.url("/free"), 5, key="b", parallelism=1))
    assert len(endpoint.requests("/r")) == 6
    found = await shown(api)
    assert (found["rateMax"], found["rateCount"], found["ratePeriod"]) == (3, 3, 3600)
    assert 0 <= time.time() - found["ratePeriodStart"] < 600
    await tell(api, "pin?rate=10&period=1h")
    await endpoint.until("/r", 16)
    await waiting(api, 4)
    assert (await shown(api))["isPinnedRate"] is True
    await tell(api, "pin?rate=2&period=1")
    await endpoint.until("/r", 20)
    assert (await shown(api))["rateMax"] == 2
