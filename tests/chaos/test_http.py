"""Requests over HTTP while the API, workers and the broker are killed."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from tests.chaos.stream import Ledger
from tests.chaos.traffic import Traffic
from tests.endpoint import Endpoint
from tests.integration.front import Front
from tests.integration.harness import Station
from tests.integration.outcomes import Outcomes
from tests.servers import RabbitNode

KILLED_FOR = 10.0  # seconds of kills of the API and of workers, before the broker's


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint() as one:
        yield one


@pytest.fixture
async def front(station: Station) -> AsyncIterator[Front]:
    """Killed at the end; nothing that it said is of a bug of ours."""
    one = Front(station, publish_timeout=2)
    yield one
    if one.running:
        await one.kill()
    said = one.said()
    assert "ERROR" not in said and "CRITICAL" not in said and "Traceback" not in said, said[-5000:]


@pytest.mark.timeout(240)
async def test_what_was_accepted_over_http_arrives_whatever_is_killed(
    node: RabbitNode,
    station: Station,
    front: Front,
    outcomes: Outcomes,
    endpoint: Endpoint,
    note: Callable[[Ledger], None],
) -> None:
    """Every message whose answer was 2xx is delivered or a dead letter, recorded once, in its queue's order, and its
    callbacks come; a request without an answer may have been accepted or not."""
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    chance = random.Random(seed)
    fault = Traffic(station, front, endpoint, outcomes, "HTTP: API, workers, broker kill -9")

    async def kill_the_api() -> None:
        while time.monotonic() < end:
            await asyncio.sleep(chance.uniform(0.1, 1.0))
            await front.kill()
            front.start()
            await front.ready()

    async def kill_workers() -> None:
        while time.monotonic() < end:
            await asyncio.sleep(chance.uniform(0.5, 2.0))
            chance.choice([worker for worker in station.workers if worker.running]).kill()
            await fault.join()

    async with fault.flowing(workers=2):
        end = time.monotonic() + KILLED_FOR
        await asyncio.gather(kill_the_api(), kill_workers())
        await asyncio.to_thread(node.kill)
        await front.kill()
        front.start()
        await asyncio.to_thread(node.start)
        await front.ready()
        back = await fault.came_everywhere(time.time())
        note(await fault.checked(back=back))
