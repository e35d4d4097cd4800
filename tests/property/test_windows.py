"""Rates of queues and of flow keys, by workers whose every word to the store takes any time on its way and back."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskq.flow import Flow
from taskq.message import Message
from taskq.queue import RateLimit
from taskq.store import open_store
from taskq.worker.keys import Keys
from taskq.worker.queues import RateGate
from tests.property.model_process import SharedStore
from tests.property.model_time import SimulatedClock, SimulatedLoop

WORKERS = 3
PLACES = 3  # of each worker
STARTS = 3  # in each place
NOBODY_WAITS = 3600.0  # seconds; of simulated time
EARLY = 0.001  # seconds: instants are stored as whole microseconds, and sums of floats differ by less

Start = Callable[[], None]


class Gates:
    """Starts by a queue's rate."""

    def __init__(self, store: Any, clock: SimulatedClock, rate: RateLimit, spawn: Callable[..., None]) -> None:
        self._opened = asyncio.Event()
        self._gate = RateGate(store, SimpleNamespace(clock=clock), on_open=self._opened.set)
        self._rate = rate
        self._spawn = spawn

    async def start(self, start: Start) -> None:
        while (grant := await self._gate.take("q", self._rate, self._spawn)) is None:
            await self._opened.wait()
            self._opened.clear()
        self._gate.begun(grant)
        start()


class Permits:
    """Starts by a key's rate."""

    ids = itertools.count()

    def __init__(self, store: Any, clock: SimulatedClock, rate: RateLimit, spawn: Callable[..., None]) -> None:
        worker = f"worker-{next(self.ids)}"
        self._keys = Keys(store=store, clock=clock, worker=worker, bounded=False, spawn=spawn)
        self._clock = clock
        self._flow = Flow("key", rate_limit=rate)
        spawn(self._keys.asks.run)

    async def start(self, start: Start) -> None:
        now = self._clock.now()
        message = Message(f"m{next(self.ids)}", "task", "q", b"", "application/msgpack", now, flow=self._flow)
        run: Any = SimpleNamespace(message=message, unit=SimpleNamespace(in_place=False))
        while not (permit := await self._keys.take(run)).granted:
            await self._clock.sleep(permit.retry_in)
        self._keys.begun(run)
        start()


class Far:
    """A store that is as far away as chance says: a call has its effect some time after it was made, and its answer
    takes some time too."""

    def __init__(self, store: SharedStore, chance: random.Random, far: float) -> None:
        self._store = store
        self._chance = chance
        self._far = far

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        verb = getattr(self._store, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            await self._way()
            result = await verb(*args, **kwargs)
            await self._way()
            return result

        return call

    async def _way(self) -> None:
        if self._chance.random() < 0.5:
            await asyncio.sleep(self._chance.expovariate(1 / self._far))


def starts_of(kind: type[Gates] | type[Permits], rate: RateLimit, seed: int, far: float) -> list[float]:
    """When the workers' runs began, sorted."""
    chance = random.Random(seed)
    loop = SimulatedLoop()
    clock = SimulatedClock(loop)
    started: list[float] = []

    async def work() -> None:
        store = SharedStore(open_store("sqlite://")._place)  # type: ignore[attr-defined]
        store._clock = clock
        await store.open()
        jobs: set[asyncio.Task[Any]] = set()

        def spawn(work: Any, *args: Any) -> None:
            jobs.add(asyncio.create_task(work(*args)))

        async def place(worker: Gates | Permits) -> None:
            for _ in range(STARTS):
                await asyncio.sleep(chance.choice([0.0, 0.0, far]))
                await worker.start(lambda: started.append(clock.monotonic()))

        workers = [kind(Far(store, chance, far), clock, rate, spawn) for _ in range(WORKERS)]
        async with asyncio.timeout(NOBODY_WAITS):
            await asyncio.gather(*(place(worker) for worker in workers for _ in range(PLACES)))
        for job in jobs:
            job.cancel()
        await store.close()

    try:
        loop.run_until_complete(work())
    finally:
        loop.close()
    return sorted(started)


@pytest.mark.parametrize("kind", [Gates, Permits])
@settings(max_examples=60, deadline=None)
@given(
    limit=st.integers(1, 6),
    per=st.sampled_from([0.2, 1.0, 5.0]),
    far=st.sampled_from([0.001, 0.05, 0.3, 2.0]),
    seed=st.integers(0, 2**32),
)
def test_no_window_holds_more_starts_than_its_rate(
    kind: type[Gates] | type[Permits], limit: int, per: float, far: float, seed: int
) -> None:
    """`start[i + limit] - start[i] >= per`, however late the store's answers are; and every start has its turn."""
    started = starts_of(kind, RateLimit(limit, per=per), seed, far)
    assert len(started) == WORKERS * PLACES * STARTS
    for first, next_ in zip(started, started[limit:], strict=False):
        assert next_ - first >= per - EARLY, started
