"""Deduplication: at most one unfinished message of an id, and a free id at every end."""

from __future__ import annotations

import asyncio

import pytest

from taskq import Duplicate, Queue, Reject, TaskCancelled, TaskqError
from taskq.outcome import Status
from tests.integration.room import Room
from tests.support import eventually


async def test_a_second_message_is_refused_until_the_first_has_ended(room: Room) -> None:
    """Duplicate names queue, id and holder; ids of other queues do not meet."""

    @room.app.task(name="note")
    async def note(number: int) -> int:
        return number

    first = await note.options(dedup_id="a").enqueue_async(1)
    with pytest.raises(Duplicate, match="'a'") as caught:
        await note.options(dedup_id="a").enqueue_async(2)
    assert (caught.value.queue, caught.value.dedup_id, caught.value.message_id) == ("default", "a", first.id)
    other = await note.options(dedup_id="a", queue=room.app.declare_queue(Queue("other"))).enqueue_async(3)
    await room.worker()
    assert await first.get_result_async(60) == 1
    assert await other.get_result_async(60) == 3
    assert await (await note.options(dedup_id="a").enqueue_async(4)).get_result_async(60) == 4


async def test_the_holder_is_returned(room: Room) -> None:
    """`return_existing` gives the handle of the message that holds the id; both wait for one result."""

    @room.app.task(name="note")
    async def note(number: int) -> int:
        return number

    first = await note.options(dedup_id="a").enqueue_async(1)
    again = await note.options(dedup_id="a", on_duplicate="return_existing").enqueue_async(2)
    assert again == first
    await room.worker()
    assert await asyncio.gather(first.get_result_async(60), again.get_result_async(60)) == [1, 1]


async def test_the_holder_is_replaced_unless_it_has_started(room: Room) -> None:
    """`replace` cancels what waits or is queued; one that runs keeps the id."""
    go = asyncio.Event()
    ran: list[int] = []

    @room.app.task(name="note")
    async def note(number: int) -> int:
        ran.append(number)
        await go.wait()
        return number

    replacing = note.options(dedup_id="a", on_duplicate="replace")
    waiting = await note.options(dedup_id="a", delay=3600).enqueue_async(1)
    queued = await replacing.enqueue_async(2)
    third = await replacing.enqueue_async(3)
    await room.worker()
    for handle in (waiting, queued):
        with pytest.raises(TaskCancelled):
            await handle.get_result_async(60)
    await room.has(third, Status.RUNNING)  # shown after a second of running
    with pytest.raises(Duplicate):
        await replacing.enqueue_async(4)
    go.set()
    assert await third.get_result_async(60) == 3
    assert ran == [3]


async def test_workers_hear_at_once_of_a_holder_that_was_replaced(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has been replaced does not begin, though nothing but the replacement says so."""
    monkeypatch.setattr("taskq.worker.worker.LOOK_BUSY", 3600.0)
    go = asyncio.Event()
    ran: list[int] = []

    @room.app.task(name="note", queue=Queue("fifo", parallelism=1))
    async def note(number: int) -> int:
        ran.append(number)
        await go.wait()
        return number

    worker = await room.worker()
    await note.enqueue_async(1)
    await eventually(lambda: ran == [1])
    replaced = await note.options(dedup_id="a").enqueue_async(2)
    last = await note.options(dedup_id="a", on_duplicate="replace").enqueue_async(3)
    await eventually(lambda: replaced.id in worker.attempts.cancels)
    go.set()
    assert await last.get_result_async(60) == 3
    assert ran == [1, 3]
    with pytest.raises(TaskCancelled):
        await replaced.get_result_async(60)


async def test_a_window_holds_whatever_happens_to_the_message(room: Room) -> None:
    """Within the window the id is taken, though the message has ended; after it, it is free, though it has not."""

    @room.app.task(name="note")
    async def note(number: int) -> int:
        return number

    await room.worker()
    long = note.options(dedup_id="a", dedup_window=3600.0, on_duplicate="return_existing")
    first = await long.enqueue_async(1)
    assert await first.get_result_async(60) == 1
    assert await long.enqueue_async(2) == first
    short = note.options(dedup_id="b", dedup_window=0.2, on_duplicate="return_existing", delay=3600)
    waits = await short.enqueue_async(3)

    async def another() -> bool:
        return await short.enqueue_async(4) != waits

    await eventually(another)


async def test_the_id_is_free_at_every_end(room: Room) -> None:
    """Succeeded, failed, rejected, cancelled, expired: the next message of that id is taken."""

    @room.app.task(name="ends", retry=0)
    async def ends(how: str) -> None:
        if how == "failed":
            raise ValueError
        if how == "rejected":
            raise Reject("no")

    await room.worker()
    one = ends.options(dedup_id="a")
    for how in ("succeeded", "failed", "rejected", "expired", "cancelled"):
        if how == "expired":
            handle = await one.options(delay=0.05, expires=0.01).enqueue_async(how)
        elif how == "cancelled":
            handle = await one.options(delay=3600).enqueue_async(how)
            await handle.cancel_async()
        else:
            handle = await one.enqueue_async(how)
        try:
            await handle.get_result_async(60)
        except TaskqError as error:
            assert how != "succeeded", error
        else:
            assert how == "succeeded"


async def test_many_senders_at_once(room: Room) -> None:
    """Of twenty enqueues of one id from two processes one is taken."""
    ran: list[int] = []

    @room.app.task(name="note")
    async def note(number: int) -> None:
        ran.append(number)

    one = note.options(dedup_id="a")
    twin = room.twin()
    sent = await asyncio.gather(
        *(app.send_async(one.message(number)) for number in range(10) for app in (room.app, twin)),
        return_exceptions=True,
    )
    taken = [handle for handle in sent if not isinstance(handle, Duplicate)]
    assert len(taken) == 1, sent
    await room.worker()
    await taken[0].get_result_async(60)  # type: ignore[union-attr]
    assert len(ran) == 1
