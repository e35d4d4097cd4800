"""A cancel: durable, obeyed wherever the message is, and final."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from taskq import Queue, Retry, TaskCancelled, current
from taskq.outcome import Status
from tests.integration.room import Room
from tests.support import eventually, pulse


async def test_a_waiting_message_is_gone_at_once(room: Room) -> None:
    """A delayed message that is cancelled reads CANCELLED at once, is no longer listed, and its waiter is told."""

    @room.app.task(name="never")
    async def never() -> None: ...

    await room.worker()
    handle = await never.options(delay=3600).enqueue_async()
    await room.has(handle, Status.WAITING)
    assert await handle.cancel_async() is True
    assert await handle.get_status_async() is Status.CANCELLED
    assert (await (await room.store()).waiting()).items == []
    with pytest.raises(TaskCancelled, match=handle.id):
        await handle.get_result_async(60)


async def test_a_delayed_message_cancelled_before_it_is_booked_never_starts(room: Room) -> None:
    """A cancel that comes while no keeper runs is found when the message is booked."""
    ran: list[str] = []

    @room.app.task(name="never")
    async def never() -> None:
        ran.append("never")

    @room.app.task(name="after")
    async def after() -> None: ...

    handle = await never.options(delay=0.2).enqueue_async()
    assert await handle.cancel_async() is True
    await room.worker()
    await room.has(handle, Status.CANCELLED)
    await (await after.options(delay=0.4).enqueue_async()).get_result_async(60)
    assert ran == []


@pytest.mark.parametrize(
    "queue", [Queue("open"), Queue("fifo", parallelism=1), Queue("two", parallelism=2)], ids=lambda queue: queue.name
)
async def test_a_queued_message_never_starts_also_on_a_worker_started_later(room: Room, queue: Queue) -> None:
    """Cancelled before any worker exists: it is dropped by the worker that comes, and its neighbours run."""
    ran: list[int] = []

    @room.app.task(name="note", queue=queue)
    async def note(number: int) -> None:
        ran.append(number)

    handles = [await note.enqueue_async(number) for number in range(3)]
    assert await handles[1].cancel_async() is True
    await room.worker()
    await handles[2].get_result_async(60)
    await room.has(handles[1], Status.CANCELLED)
    with pytest.raises(TaskCancelled):
        await handles[1].get_result_async(60)
    assert sorted(ran) == [0, 2]


async def test_a_message_in_a_workers_hands_never_starts(room: Room) -> None:
    """Cancelled while it is prefetched and waits for a place: it is dropped without a start."""
    ran: list[int] = []
    go = asyncio.Event()

    @room.app.task(name="note")
    async def note(number: int) -> None:
        ran.append(number)
        await go.wait()

    worker = await room.worker(concurrency=1)
    first = await note.enqueue_async(0)
    await eventually(lambda: ran)
    second = await note.enqueue_async(1)
    await second.cancel_async()
    await eventually(lambda: second.id in worker.attempts.cancels)
    go.set()
    await first.get_result_async(60)
    with pytest.raises(TaskCancelled):
        await second.get_result_async(60)
    assert ran == [0]


@pytest.mark.parametrize("queue", [Queue("open"), Queue("fifo", parallelism=1)], ids=lambda queue: queue.name)
async def test_a_running_async_task_is_cancelled_within_a_second(room: Room, queue: Queue) -> None:
    """CancelledError reaches the coroutine within 1 s, its clean-up runs, what it would have returned is dropped."""
    seen: list[float] = []
    started = asyncio.Event()

    @room.app.task(name="long", queue=queue)
    async def long() -> str:
        started.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            seen.append(time.monotonic())
        return "late"

    await room.worker()
    handle = await long.enqueue_async()
    await asyncio.wait_for(started.wait(), 60)
    asked = time.monotonic()
    assert await handle.cancel_async() is True
    with pytest.raises(TaskCancelled):
        await handle.get_result_async(60)
    assert seen and seen[0] - asked < 1 + pulse.lost()
    record = await room.has(handle, Status.CANCELLED)
    assert record.result is None
    assert await handle.cancel_async() is False


async def test_a_running_thread_sees_the_cancel_and_its_late_result_is_dropped(room: Room) -> None:
    """`current().cancelled` turns True in a thread; what it returns afterwards counts for nothing."""
    started = threading.Event()
    seen: list[bool] = []

    @room.app.task(name="long")
    def long() -> str:
        started.set()
        end = time.monotonic() + 60
        while not current().cancelled and time.monotonic() < end:
            time.sleep(0.01)
        seen.append(current().cancelled)
        return "late"

    await room.worker()
    handle = await long.enqueue_async()
    assert await asyncio.to_thread(started.wait, 60)
    await handle.cancel_async()
    with pytest.raises(TaskCancelled):
        await handle.get_result_async(60)
    assert seen == [True]
    assert await handle.get_status_async() is Status.CANCELLED
    assert (await room.has(handle, Status.CANCELLED)).result is None


async def test_a_message_that_waits_for_its_retry_is_cancelled(room: Room) -> None:
    """Between two attempts a cancel is final, in the waiting room and at the head of a FIFO queue."""
    fifo = Queue("fifo", parallelism=1)
    ran: list[str] = []

    @room.app.task(name="fails", retry=Retry(max_retries=5, delay=30))
    async def fails() -> None:
        ran.append(current().queue)
        raise RuntimeError

    @room.app.task(name="next", queue=fifo)
    async def next_one() -> int:
        return 1

    await room.worker()
    waiting = await fails.enqueue_async()
    head = await fails.options(queue=fifo).enqueue_async()
    behind = await next_one.enqueue_async()
    for handle in (waiting, head):
        await room.has(handle, Status.WAITING)
        await handle.cancel_async()
        with pytest.raises(TaskCancelled):
            await handle.get_result_async(60)
    assert await behind.get_result_async(60) == 1
    assert sorted(ran) == ["default", "fifo"]


async def test_a_cancel_that_no_broadcast_told_of_is_found_by_looking(room: Room) -> None:
    """The durable row alone stops a running task: a lost broadcast costs a second, not the cancel."""
    started = asyncio.Event()

    @room.app.task(name="long")
    async def long() -> None:
        started.set()
        await asyncio.sleep(60)

    await room.worker()
    handle = await long.enqueue_async()
    await asyncio.wait_for(started.wait(), 60)
    asked = time.monotonic()
    await (await room.store()).cancel(handle.id)
    with pytest.raises(TaskCancelled):
        await handle.get_result_async(60)
    assert time.monotonic() - asked < 2 + pulse.lost()


async def test_a_finished_message_cannot_be_cancelled(room: Room) -> None:
    """A cancel after the end says False and changes nothing."""

    @room.app.task(name="add")
    async def add(a: int, b: int) -> int:
        return a + b

    await room.worker()
    handle = await add.enqueue_async(1, 2)
    assert await handle.get_result_async(60) == 3
    assert await handle.cancel_async() is False
    assert await room.app.handle(handle.id).get_result_async(60) == 3
