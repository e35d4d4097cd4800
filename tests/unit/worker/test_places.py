"""Places: how many runs at once, coming back after a wait, being alone."""

from __future__ import annotations

import asyncio

import pytest

from taskq.worker.run import Places

pytestmark = pytest.mark.anyio


def test_capacity_bounds_what_is_free() -> None:
    """Places that are taken are not free, and are again once given."""
    places = Places(2)
    places.take()
    places.take()
    assert places.free == 0
    places.give()
    assert places.free == 1


def test_a_freed_place_is_told_of() -> None:
    """Whoever fills places hears of each that becomes free."""
    places = Places(1)
    heard: list[int] = []
    places.on_free = lambda: heard.append(places.free)
    places.take()
    places.give()
    assert heard == [1]


async def test_who_comes_back_goes_before_new_runs() -> None:
    """A run that had left its place for a wait gets the next one, before any new run."""
    places = Places(1)
    places.take()
    back = asyncio.create_task(places.take_back())
    await asyncio.sleep(0)
    heard: list[int] = []
    places.on_free = lambda: heard.append(places.free)
    places.give()
    await back
    assert (places.taken, heard) == (1, [])


async def test_alone_waits_for_the_others_and_keeps_new_ones_out() -> None:
    """A run that wants to be alone begins when the others have ended, and nothing starts beside it."""
    places = Places(3)
    places.take()
    places.take()
    alone = asyncio.create_task(places.be_alone())
    await asyncio.sleep(0)
    assert (places.free, alone.done()) == (0, False)
    places.give()
    await alone
    assert places.free == 0
    places.give()
    assert places.free == 3


async def test_two_that_want_to_be_alone_take_turns() -> None:
    """Two suspects wait for each other no longer than one run."""
    places = Places(3)
    places.take()
    places.take()
    one, other = asyncio.create_task(places.be_alone()), asyncio.create_task(places.be_alone())
    await asyncio.wait([one, other], return_when=asyncio.FIRST_COMPLETED)
    assert (one.done(), other.done()) == (True, False)
    places.give()
    await other
    places.give()
    assert places.free == 3
