"""Group commit: one call for all that came meanwhile, repeated while the store is away."""

from __future__ import annotations

import asyncio

import pytest

from taskq.clock import SystemClock
from taskq.errors import StoreUnavailable
from taskq.group import MOST, Group

pytestmark = pytest.mark.anyio


async def test_what_comes_during_a_call_goes_into_the_next() -> None:
    """Ten items submitted while the first is worked on are one call, each with its own result."""
    calls: list[list[int]] = []
    begun, gate = asyncio.Event(), asyncio.Event()

    async def work(items: list[int]) -> list[int]:
        calls.append(items)
        begun.set()
        await gate.wait()
        return [item * 10 for item in items]

    group = Group(work, clock=SystemClock(), what="testing")
    running = asyncio.create_task(group.run())
    first = asyncio.create_task(group.call(0))
    await begun.wait()
    others = [asyncio.create_task(group.call(number)) for number in range(1, 11)]
    await asyncio.sleep(0)
    gate.set()
    results = [await task for task in [first, *others]]
    running.cancel()
    assert results == [number * 10 for number in range(11)]
    assert calls == [[0], list(range(1, 11))]


async def test_many_are_answered_together_in_their_order() -> None:
    """More than one call takes; none; and those of a caller that has been cancelled hold nobody up."""
    begun, gate = asyncio.Event(), asyncio.Event()

    async def work(items: list[int]) -> list[int]:
        begun.set()
        await gate.wait()
        return [item * 10 for item in items]

    group = Group(work, clock=SystemClock(), what="testing")
    running = asyncio.create_task(group.run())
    assert await group.call_many([]) == []
    gone = asyncio.create_task(group.call_many([1, 2]))
    await begun.wait()
    gone.cancel()
    many = asyncio.create_task(group.call_many(range(MOST + 1)))
    await asyncio.sleep(0)
    gate.set()
    assert await many == [number * 10 for number in range(MOST + 1)]
    running.cancel()


async def test_a_store_that_is_away_is_waited_for() -> None:
    """The same call is repeated until it works, and nothing of it is lost or done twice."""
    tries: list[list[int]] = []

    async def work(items: list[int]) -> list[int]:
        tries.append(items)
        if len(tries) < 3:
            raise StoreUnavailable("away")
        return items

    group = Group(work, clock=SystemClock(), what="testing")
    running = asyncio.create_task(group.run())
    assert await group.call(7) == 7
    running.cancel()
    assert tries == [[7]] * 3
    assert group.failing_since is None
