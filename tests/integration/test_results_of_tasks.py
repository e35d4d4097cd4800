"""Results: pushed to the process that waits, kept for every other, rebuilt as what they were."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import BaseModel

from taskq import ResultTimeout, TaskFailed
from taskq.client import Client
from taskq.outcome import Status
from taskq.store.base import MessageRecord, Store
from tests.integration.room import Room
from tests.support import pulse


class Invoice(BaseModel):
    number: int
    lines: list[str]


@dataclass(frozen=True)
class Point:
    x: float
    y: float


class Shortage(ValueError):
    pass


def count_reads(client: Client, store: Store) -> list[str]:
    """The ids that this client asks the store about, from now on."""
    reads: list[str] = []
    get = store.get

    async def counted(message_id: str) -> MessageRecord | None:
        reads.append(message_id)
        return await get(message_id)

    store.get = counted  # type: ignore[method-assign]
    return reads


async def test_a_result_is_pushed_to_the_process_that_waits(room: Room) -> None:
    """An unloaded result is there within 100 ms, and the waiter has not read the store for it."""

    @room.app.task(name="add")
    async def add(a: int, b: int) -> int:
        return a + b

    await room.worker()
    reads = count_reads(room.app.client(), await room.store())
    await (await add.enqueue_async(0, 0)).get_result_async(60)
    took = []
    for number in range(20):
        began = time.monotonic()
        assert await (await add.enqueue_async(number, 1)).get_result_async(60) == number + 1
        took.append(time.monotonic() - began)
    took.sort()
    assert took[len(took) // 2] < 0.5 + pulse.lost(), took  # it would take a second to look
    assert reads == []


async def test_a_result_can_be_had_any_number_of_times_and_from_any_process(room: Room) -> None:
    """Repeated, from several waiters at once, before and after the end, by the id alone: always the same."""
    go = asyncio.Event()

    @room.app.task(name="slow")
    async def slow() -> list[int]:
        await go.wait()
        return [1, 2, 3]

    await room.worker()
    handle = await slow.enqueue_async()
    elsewhere = room.twin().handle(handle.id)
    waits = [asyncio.create_task(one.get_result_async(60)) for one in (handle, handle, elsewhere)]
    with pytest.raises(ResultTimeout):
        await handle.get_result_async(0.05)
    go.set()
    assert await asyncio.gather(*waits) == [[1, 2, 3]] * 3
    assert await handle.get_result_async() == [1, 2, 3]
    assert await room.twin().handle(handle.id).get_result_async(60) == [1, 2, 3]
    assert await handle.get_status_async() is Status.SUCCEEDED


async def test_a_failure_is_raised_with_type_text_and_traceback(room: Room) -> None:
    """What the task raised arrives as TaskFailed, by push and from the store alike, with the line that raised."""

    @room.app.task(name="short", retry=0)
    async def short() -> None:
        raise Shortage("only 3 left")

    await room.worker()
    handle = await short.enqueue_async()
    for one in (handle, room.twin().handle(handle.id)):
        with pytest.raises(TaskFailed) as caught:
            await one.get_result_async(60)
        assert caught.value.type.endswith("Shortage")
        assert caught.value.message == "only 3 left"
        assert 'raise Shortage("only 3 left")' in caught.value.traceback


async def test_typed_results_are_rebuilt(room: Room) -> None:
    """A pydantic model and a dataclass come back as such, also inside a container."""

    @room.app.task(name="invoice")
    async def invoice(number: int) -> Invoice:
        return Invoice(number=number, lines=["a"])

    @room.app.task(name="points")
    def points(shift: Point) -> dict[str, list[Point]]:
        return {"both": [Point(1, 2), shift]}

    @room.app.task(name="nothing")
    async def nothing() -> None: ...

    await room.worker()
    assert await (await invoice.enqueue_async(7)).get_result_async(60) == Invoice(number=7, lines=["a"])
    assert await (await points.enqueue_async(Point(3, 4))).get_result_async(60) == {"both": [Point(1, 2), Point(3, 4)]}
    assert await (await nothing.enqueue_async()).get_result_async(60) is None


async def test_results_that_nobody_keeps(room: Room) -> None:
    """`result=False` runs the task and records its failures only."""
    ran: list[bool] = []

    @room.app.task(name="quiet", result=False, retry=0)
    async def quiet(fail: bool) -> int:
        ran.append(fail)
        if fail:
            raise Shortage("none")
        return 1

    await room.worker()
    good = await quiet.enqueue_async(False)
    bad = await quiet.enqueue_async(True)
    assert (await room.has(bad, Status.FAILED)).failure is not None
    assert sorted(ran) == [False, True]
    assert await room.status(good) is Status.UNKNOWN


async def test_messages_that_only_the_store_can_tell_of(room: Room) -> None:
    """An id never seen is UNKNOWN, and a wait for it ends by its timeout; recorded at enqueue it is QUEUED."""

    @room.app.task(name="add")
    async def add(a: int, b: int) -> int:
        return a + b

    nobody = room.app.handle("msg_never")
    assert await nobody.get_status_async() is Status.UNKNOWN
    with pytest.raises(ResultTimeout):
        await nobody.get_result_async(0.2)
    recording = room.twin(record_enqueue=True)
    sent = await recording.send_async(add.message(1, 2))
    assert await sent.get_status_async() is Status.QUEUED
    await room.worker()
    assert await sent.get_result_async(60) == 3
    assert await sent.get_status_async() is Status.SUCCEEDED


async def test_many_waiters_read_the_store_seldom(room: Room) -> None:
    """A waiter in the sending process looks after 1 s and then every 3 s, and no oftener."""
    go = asyncio.Event()

    @room.app.task(name="slow")
    async def slow(number: int) -> int:
        await go.wait()
        return number

    await room.worker(concurrency=20)
    reads = count_reads(room.app.client(), await room.store())
    handles: list[Any] = [await slow.enqueue_async(number) for number in range(20)]
    waits = [asyncio.create_task(handle.get_result_async(60)) for handle in handles]
    await asyncio.sleep(2.0)  # a span in which each may look once
    seen = len(reads)
    go.set()
    assert await asyncio.gather(*waits) == list(range(20))
    assert seen <= 20
