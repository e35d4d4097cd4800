"""Pause: nothing starts any more within a second, whoever missed the word, and nothing is lost."""

from __future__ import annotations

import asyncio
import time

import pytest

from taskq import Queue
from tests.integration.room import Room
from tests.support import eventually, pulse

BACKLOG = 300
KINDS = [Queue("open"), Queue("fifo", parallelism=1), Queue("three", parallelism=3)]


@pytest.mark.parametrize("queue", KINDS, ids=lambda queue: queue.name)
@pytest.mark.parametrize("tell", [True, False], ids=["told", "untold"])
async def test_nothing_starts_later_than_a_second_after_pause(room: Room, queue: Queue, tell: bool) -> None:
    """No start later than 1 s after the pause, by the broadcast and by the look alone; all run after resume."""
    starts: list[float] = []
    ran_most = BACKLOG  # from then on tasks are quick

    @room.app.task(name="tick", queue=queue)
    async def tick(number: int) -> None:
        starts.append(time.monotonic())
        await asyncio.sleep(0.02 if len(starts) < ran_most else 0)

    worker = await room.worker(concurrency=4)
    handles = await room.app.enqueue_many_async([tick.message(number) for number in range(BACKLOG)])
    await eventually(lambda: len(starts) > 10)
    await room.set_queue(queue.name, paused=True, tell=tell)
    paused = time.monotonic()
    await eventually(lambda: worker.servers[queue.name].paused)
    await eventually(lambda: all(not unit.held for unit in worker.servers[queue.name].units))
    ran = len(starts)
    assert ran < BACKLOG

    async def all_given_back() -> bool:
        return await room.depth(queue) == BACKLOG - ran

    await eventually(all_given_back)
    late = await tick.enqueue_async(BACKLOG)
    await asyncio.sleep(0.3)  # time in which a start would be wrong
    assert max(starts) - paused <= 1.0 + pulse.lost()
    assert len(starts) == ran
    assert await room.depth(queue) == BACKLOG + 1 - ran

    ran_most = ran
    await room.set_queue(queue.name, paused=False)
    for handle in (*handles, late):
        await handle.get_result_async(60)
    assert len(starts) == BACKLOG + 1


async def test_a_worker_started_on_a_paused_queue_starts_nothing(room: Room) -> None:
    """The row is what counts: a worker that comes later finds the queue paused, and resumes with it."""
    queue = Queue("later", parallelism=1)
    ran: list[int] = []

    @room.app.task(name="note", queue=queue)
    async def note(number: int) -> None:
        ran.append(number)

    handle = await note.enqueue_async(1)
    await room.set_queue("later", paused=True)
    await room.worker()
    await asyncio.sleep(0.3)  # time in which a start would be wrong
    assert ran == []
    await room.set_queue("later", paused=False)
    await handle.get_result_async(60)
    assert ran == [1]
