"""A queue's rate gate in a worker."""

from __future__ import annotations

import asyncio
from typing import Any

from taskq.clock import SystemClock
from taskq.queue import RateLimit
from taskq.store.base import Permits
from taskq.worker.queues import RateGate


class SlowStore:
    """Grants everything, after a pause that is longer than the window allows between stamp and start."""

    def __init__(self, pause: float) -> None:
        self.pause = pause
        self.restamped: list[int] = []
        self.done = asyncio.Event()

    async def take_starts(self, queue: str, wanted: int, rate: RateLimit, slack: float) -> Permits:
        await asyncio.sleep(self.pause)
        return Permits(wanted, reached=100 + wanted)

    async def restamp(self, queue: str, after: int) -> None:
        self.restamped.append(after)
        self.done.set()


class Host:
    clock = SystemClock()


async def take(store: SlowStore, count: int) -> int:
    gate = RateGate(store, Host(), on_open=lambda: None)  # type: ignore[arg-type]
    jobs: set[asyncio.Task[Any]] = set()

    def spawn(work: Any, *args: Any) -> None:
        jobs.add(asyncio.create_task(work(*args)))

    grants = await asyncio.gather(*(gate.take("q", RateLimit(10), spawn) for _ in range(count)))
    for grant in grants:
        assert grant is not None
        gate.begun(grant)
    if store.pause:
        await asyncio.wait_for(store.done.wait(), 5)
    for job in jobs:
        job.cancel()
    return len(grants)


async def test_starts_that_are_late_together_are_stamped_again_together(anyio_backend: str) -> None:
    """Five grants that come back late count from now, all five, by one call."""
    store = SlowStore(0.05)
    assert await take(store, 5) == 5
    assert store.restamped == [100]


async def test_starts_in_time_keep_their_stamps(anyio_backend: str) -> None:
    """A grant that comes back at once is not stamped again."""
    store = SlowStore(0.0)
    assert await take(store, 5) == 5
    assert store.restamped == []
