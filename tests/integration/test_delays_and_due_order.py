"""Delays: from 10 ms to a year, on time, in due order, listed, changed, and safe when the keeper's process ends."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta

import pytest

from taskq import Queue, RetryAfter, Snooze, TaskCancelled, current
from taskq.outcome import Status
from taskq.worker.units import FAST_PREFETCH, MEASURED
from tests.integration.room import Room
from tests.support import eventually, pulse


async def test_short_delays_are_kept_and_not_by_much(room: Room) -> None:
    """From 10 ms on: nothing starts early, and at least half start within 100 ms of their instant."""
    starts: dict[str, float] = {}

    @room.app.task(name="note")
    async def note() -> None:
        starts[current().id] = time.monotonic()

    worker = await room.worker()
    assert worker.keeper is not None
    await eventually(lambda: worker.keeper is not None and worker.keeper.leading)
    late = []
    for delay in (0.01, 0.05, 0.1, 0.3, 0.02, 0.2, 0.5):
        sent = time.monotonic()
        handle = await note.options(delay=delay).enqueue_async()
        await handle.get_result_async(60)
        late.append(starts[handle.id] - sent - delay)
    # Instants travel in whole milliseconds.
    assert min(late) > -0.002, late
    assert sorted(late)[len(late) // 2] < 0.1 + pulse.lost(), late
    assert max(late) < 1.0 + pulse.lost(), late


async def test_due_order_holds_whatever_the_sending_order(room: Room) -> None:
    """Of messages sent latest first, the one due first starts first; so on a FIFO queue."""
    queue = Queue("line", parallelism=1)
    order: list[int] = []

    @room.app.task(name="note", queue=queue)
    async def note(number: int) -> None:
        order.append(number)

    await room.worker()
    first = datetime.now(UTC) + timedelta(seconds=6)
    handles = [
        await note.options(not_before=first + timedelta(seconds=0.03 * number)).enqueue_async(number)
        for number in reversed(range(20))
    ]
    assert datetime.now(UTC) < first, "the machine was too busy to send all before the first was due"
    for handle in handles:
        await handle.get_result_async(60)
    assert order == list(range(20))


async def test_a_delay_of_a_year_is_listed_moved_and_cancelled(room: Room) -> None:
    """It waits in the store with its instant; moved to now it runs; cancelled it never does."""

    @room.app.task(name="note")
    async def note(text: str) -> str:
        return text

    await room.worker()
    year = timedelta(days=365)
    moved = await note.options(delay=year).enqueue_async("moved")
    cancelled = await note.options(delay=year).enqueue_async("cancelled")
    for handle in (moved, cancelled):
        record = await room.has(handle, Status.WAITING)
        assert record.not_before is not None
        assert abs(record.not_before - datetime.now(UTC) - year) < timedelta(minutes=1)
    store = await room.store()
    listed = (await store.waiting()).items
    assert {row.message.id for row in listed} == {moved.id, cancelled.id}
    assert await store.reschedule(moved.id, await store.now()) is True
    assert await moved.get_result_async(60) == "moved"
    await cancelled.cancel_async()
    with pytest.raises(TaskCancelled):
        await cancelled.get_result_async(60)
    assert (await store.waiting()).items == []


async def test_delays_outlive_the_worker_that_keeps_them(room: Room) -> None:
    """Booked by one leader, released by the next; sent while there is none, booked by whoever comes."""

    @room.app.task(name="note")
    async def note(number: int) -> int:
        return number

    first, second = await room.worker(), await room.worker()
    leader = await eventually(lambda: next((w for w in (first, second) if w.keeper and w.keeper.leading), None))
    booked = await note.options(delay=4.0).enqueue_async(1)
    await room.has(booked, Status.WAITING)
    await room.stop(leader)
    assert await booked.get_result_async(60) == 1
    await room.stop(second if leader is first else first)
    alone = await note.options(delay=0.1).enqueue_async(2)
    await room.worker()
    assert await alone.get_result_async(60) == 2


async def test_a_task_puts_itself_off(room: Room) -> None:
    """Snooze uses no attempt, RetryAfter uses one; both wait as long as they say."""
    seen: list[tuple[str, int, float]] = []

    @room.app.task(name="off", retry=1)
    async def off() -> str:
        seen.append((current().queue, current().attempt, time.monotonic()))
        match len(seen):
            case 1 | 2:
                raise Snooze(0.1)
            case 3:
                raise RetryAfter(0.2)
        return "done"

    queues = [room.app.declare_queue(queue) for queue in (Queue("open"), Queue("line", parallelism=1))]
    await room.worker()
    for queue in queues:
        seen.clear()
        assert await (await off.options(queue=queue).enqueue_async()).get_result_async(60) == "done"
        assert [attempt for _, attempt, _ in seen] == [1, 1, 1, 2]
        pauses = [after[2] - before[2] for before, after in zip(seen, seen[1:], strict=False)]
        assert pauses[0] >= 0.1 and pauses[1] >= 0.1 and pauses[2] >= 0.2


async def test_a_delayed_message_keeps_its_queues_limits(room: Room) -> None:
    """A queue known from a delayed message alone is made as its code says: FIFO stays FIFO."""
    queue = Queue("line", parallelism=1)
    running: list[int] = []
    most: list[int] = []

    @room.app.task(name="note", queue=queue)
    async def note(number: int) -> None:
        running.append(number)
        most.append(len(running))
        await asyncio.sleep(0.02)
        running.remove(number)

    handles = [await note.options(delay=0.05).enqueue_async(number) for number in range(10)]
    record = await (await room.store()).get_queue("line")
    assert record is not None and record.born_fifo
    await room.worker(queues=["line"])
    for handle in handles:
        await handle.get_result_async(60)
    assert max(most) == 1


async def test_a_negative_delay_is_refused(room: Room) -> None:
    """It is an error that names the option and the value, and nothing is sent."""
    from taskq import InvalidSetting

    @room.app.task(name="note")
    async def note() -> None: ...

    for wrong in (-1, -0.001, float("nan"), 400 * 86400, "soon"):
        with pytest.raises(InvalidSetting, match="delay"):
            await note.options(delay=wrong).enqueue_async()  # type: ignore[arg-type]
    assert await room.depth("default") == 0


async def test_what_was_claimed_ahead_and_has_not_begun_goes_to_the_next_worker(room: Room) -> None:
    """At once, and without blame: it counts neither as an attempt nor as a crash. A cancel holds meanwhile."""
    gate = asyncio.Event()
    gate.set()
    starts: list[int] = []

    @room.app.task(name="note", queue=Queue("open"))
    async def note(number: int) -> int:
        starts.append(number)
        await gate.wait()
        return current().attempt

    first = await room.worker(concurrency=1)
    quick = await room.app.enqueue_many_async([note.message(number) for number in range(MEASURED)])
    for handle in quick:
        await handle.get_result_async(60)
    (unit,) = first.servers["open"].units
    await eventually(lambda: unit.prefetch >= FAST_PREFETCH)
    gate.clear()
    starts.clear()
    handles = await room.app.enqueue_many_async([note.options(delay=0.01).message(number) for number in range(10)])
    await eventually(lambda: len(starts) == 1 and len(unit.buffer) == 9)
    unbegun = [handle for number, handle in enumerate(handles) if number not in starts]
    await eventually(lambda: all(run.shown for run in unit.buffer))
    await unbegun[0].cancel_async()
    await eventually(lambda: unbegun[0].id in first.attempts.cancels)
    await room.stop(first, now=True)
    gate.set()
    await room.worker()
    store = await room.store()
    for handle in unbegun[1:]:
        assert await handle.get_result_async(60) == 1
        record = await store.get(handle.id)
        assert record is not None and record.crashes == 0
    with pytest.raises(TaskCancelled):
        await unbegun[0].get_result_async(60)
    assert await handles[starts[0]].get_result_async(60) == 1
