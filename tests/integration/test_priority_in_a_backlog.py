"""Priorities: larger first, also out of a long backlog."""

from __future__ import annotations

import random

from taskq import Queue
from tests.integration.room import Room
from tests.support import eventually


async def test_larger_first_out_of_ten_thousand(rabbit_room: Room) -> None:
    """Of 10,000 shuffled messages each priority is started before the next smaller one, but for what was prefetched."""
    room, order = rabbit_room, list[int]()
    queue = Queue("urgent", priorities=True, worker_parallelism=1)

    @room.app.task(name="note", queue=queue, result=False)
    async def note(priority: int) -> None:
        order.append(priority)

    wanted = [number % 10 for number in range(10_000)]
    random.Random(1).shuffle(wanted)
    batch = [note.options(priority=priority).message(priority) for priority in wanted]
    for start in range(0, len(batch), 1000):
        await room.app.enqueue_many_async(batch[start : start + 1000])
    await room.worker(concurrency=8)
    await eventually(lambda: len(order) == 10_000)
    assert order == sorted(wanted, reverse=True)
    assert await room.depth(queue) == 0


async def test_an_urgent_message_overtakes_what_waits(room: Room) -> None:
    """Sent last, it starts before everything that no worker has in hand."""
    order: list[int] = []
    queue = Queue("urgent", parallelism=2, priorities=True)

    @room.app.task(name="note", queue=queue)
    async def note(number: int) -> None:
        order.append(number)

    handles = [await note.enqueue_async(number) for number in range(50)]
    handles.append(await note.options(priority=31).enqueue_async(99))
    await room.worker()
    for handle in handles:
        await handle.get_result_async(60)
    assert order.index(99) <= 2
