"""The store's threads: whose calls they serve, and how they end."""

from __future__ import annotations

import asyncio
import threading

import pytest

from taskq.store.sql.bulk import distinct
from taskq.store.threads import Threads

pytestmark = pytest.mark.anyio


class Resource:
    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.closed = False

    def close(self) -> None:
        self.closed = True


async def test_each_has_its_own() -> None:
    """A job runs in a thread of the group, with that thread's own resource, which is closed at the end."""
    made: list[Resource] = []

    def make() -> Resource:
        made.append(Resource())
        return made[-1]

    threads = Threads("t", 3, make)
    barrier = threading.Barrier(3)

    def job(resource: Resource) -> int:
        barrier.wait(5)
        assert resource.thread == threading.get_ident()
        return resource.thread

    assert len(set(await asyncio.gather(*(threads.call(job, within=5) for _ in range(3))))) == 3
    threads.stop()
    assert await threads.stopped(within=5)
    assert [resource.closed for resource in made] == [True] * 3


async def test_the_last_one_again() -> None:
    """One job after the other is done by the same thread, so that the others' resources lie idle."""
    threads = Threads("t", 3, Resource)
    assert len({await threads.call(lambda resource: resource.thread, within=5) for _ in range(20)}) == 1
    threads.stop()
    assert await threads.stopped(within=5)


async def test_errors_come_back() -> None:
    """What a job raises its caller hears, and the thread goes on."""
    threads = Threads("t", 1, Resource)

    def bad(_: Resource) -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        await threads.call(bad, within=5)
    assert await threads.call(lambda resource: resource.closed, within=5) is False
    threads.stop()
    assert await threads.stopped(within=5)


async def test_no_answer() -> None:
    """A job that takes too long is given up; one that had not begun by then never runs."""
    threads = Threads("t", 1, Resource)
    release, ran = threading.Event(), []
    stuck = asyncio.create_task(threads.call(lambda _: release.wait(10), within=0.05))
    queued = asyncio.create_task(threads.call(lambda _: ran.append(1), within=0.05))
    for task in (stuck, queued):
        with pytest.raises(TimeoutError):
            await task
    threads.stop()
    assert not await threads.stopped(within=0.01)
    release.set()
    assert await threads.stopped(within=5)
    assert ran == []


async def test_distinct() -> None:
    """Passes name every index once, no key twice in one, and each key's indexes in their order."""
    assert distinct([]) == []
    assert distinct(["a", "b"]) == [[0, 1]]
    assert distinct(["a", "b", "a", "a", "b", "c"]) == [[0, 1, 5], [2, 4], [3]]
