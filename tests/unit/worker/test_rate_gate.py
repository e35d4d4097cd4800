"""A queue's rate gate in a worker."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from taskq.queue import RateLimit
from taskq.store.base import Permits
from taskq.worker.queues import Grant, RateGate


class HandClock:
    """Stands still but for what the store takes, and the test."""

    def __init__(self) -> None:
        self.passed = 0.0

    def monotonic(self) -> float:
        return self.passed


class SlowStore:
    """Grants everything; its first answers come later than the window allows between stamp and start.

    left  its stamps have left the window by the time they are to be made again
    """

    def __init__(self, pauses: list[float], *, left: bool = False) -> None:
        self.clock = HandClock()
        self.pauses = pauses
        self.left = left
        self.granted = 100
        self.restamped: list[tuple[int, float]] = []
        self.asked = asyncio.Event()

    async def take_starts(self, queue: str, wanted: int, rate: RateLimit, slack: float) -> Permits:
        await self._pause()
        self.granted += wanted
        return Permits(wanted, reached=self.granted)

    async def restamp(self, queue: str, after: int, ahead: float = 0.0) -> bool:
        self.restamped.append((after, ahead))
        self.asked.set()
        await self._pause()
        return not self.left

    async def _pause(self) -> None:
        await asyncio.sleep(0)
        self.clock.passed += self.pauses.pop(0) if self.pauses else 0.0


RATE = RateLimit(10)


async def take(store: SlowStore, count: int, held_up: float = 0.0) -> list[Grant]:
    host = SimpleNamespace(clock=store.clock)
    gate = RateGate(store, host, on_open=lambda: None)  # type: ignore[arg-type]
    jobs: set[asyncio.Task[Any]] = set()

    def spawn(work: Any, *args: Any) -> None:
        jobs.add(asyncio.create_task(work(*args)))

    grants = await asyncio.gather(*(gate.take("q", RATE, spawn) for _ in range(count)))
    found = [grant for grant in grants if grant is not None]
    assert len(found) == count
    store.clock.passed += held_up
    for grant in found:
        gate.begun(grant)
    if held_up:
        await asyncio.wait_for(store.asked.wait(), 60)
    for job in jobs:
        job.cancel()
    return found


async def test_starts_that_are_late_together_are_stamped_again_together(anyio_backend: str) -> None:
    """Five grants that come back late are stamped again before they start, all five by one call."""
    store = SlowStore([0.1])
    assert {grant.after for grant in await take(store, 5)} == {100}
    assert [after for after, _ in store.restamped] == [100]


async def test_a_stamp_made_again_allows_for_what_was_late(anyio_backend: str) -> None:
    """A store that stays slow holds nobody up for ever: each stamp allows for twice the last lateness."""
    store = SlowStore([0.1, 0.12])
    [grant] = await take(store, 1)
    [(_, ahead)] = store.restamped
    assert grant.within == ahead >= 0.2


async def test_a_start_whose_stamp_has_left_the_window_is_asked_for_anew(anyio_backend: str) -> None:
    """Others may have started in its place."""
    store = SlowStore([0.1], left=True)
    [grant] = await take(store, 1)
    # `after` is the count before the whole of a grant's group.
    assert (grant.after, store.granted) == (101, 102)


async def test_a_start_that_is_held_up_after_its_grant_counts_from_then(anyio_backend: str) -> None:
    store = SlowStore([])
    await take(store, 1, held_up=0.1)
    assert store.restamped == [(100, 0.0)]


async def test_starts_in_time_keep_their_stamps(anyio_backend: str) -> None:
    """A grant that comes back at once is not stamped again."""
    store = SlowStore([])
    await take(store, 5)
    assert store.restamped == []
