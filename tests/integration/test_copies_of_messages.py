"""A message of which another copy comes while it runs: what a worker that dies, or is cut off, leaves to others."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from taskq import Queue, Retry, current
from taskq.outcome import Failure, Status
from taskq.store.base import Claim, Settlement
from tests.integration.room import Room
from tests.support import eventually


async def test_a_run_whose_retry_comes_in_meanwhile_makes_way_for_it(room: Room) -> None:
    """Another worker had the message, failed, and parked a retry: that one runs, it is not acknowledged unseen."""
    began: list[int] = []
    gate = asyncio.Event()

    @room.app.task(name="slow", queue=Queue("open"))
    async def slow() -> str:
        began.append(current().attempt)
        if current().attempt == 1:
            await gate.wait()
        return f"attempt {current().attempt}"

    worker = await room.worker()
    handle = await slow.enqueue_async()
    await eventually(lambda: began == [1])
    (run,) = worker.in_hand()
    store, now = await room.store(), datetime.now(UTC)
    (claimed,) = await store.claim([Claim(run.message, "another")])
    failed = Settlement(
        message=run.message,
        worker="another",
        epoch=claimed.epoch,
        status=Status.WAITING,
        attempt=1,
        started_at=now,
        ended_at=now,
        failure=Failure("ValueError", "no"),
        next_attempt=2,
        parked=run.message.next_attempt(now),
    )
    await store.settle([failed])
    await eventually(lambda: len(run.deliveries) > 1 or run.later or began == [1, 2])
    gate.set()
    assert await handle.get_result_async(60) == "attempt 2"
    assert began == [1, 2]
    assert await room.depth("open") == 0


async def test_a_copy_that_comes_during_a_run_which_is_overtaken_runs_after_it(room: Room) -> None:
    """Another worker claimed the message and died: what comes back is run again, though the older run ends first."""
    began: list[int] = []
    gate = asyncio.Event()

    @room.app.task(name="slow", queue=Queue("open"))
    async def slow() -> int:
        began.append(len(began) + 1)
        mine = began[-1]
        if mine == 1:
            await gate.wait()
        return mine

    worker = await room.worker()
    handle = await slow.enqueue_async()
    await eventually(lambda: began == [1])
    (run,) = worker.in_hand()
    store = await room.store()
    await store.claim([Claim(run.message, "another")])
    dispatcher = room.app.client().dispatcher
    assert dispatcher is not None
    await dispatcher.send(replace(run.message, repeated=True))  # as the broker brings it back
    await eventually(lambda: len(run.deliveries) == 2)
    gate.set()
    assert await handle.get_result_async(60) == 2
    assert (await room.has(handle, Status.SUCCEEDED)).epoch == 2
    assert await room.depth("open") == 0


@pytest.mark.parametrize(
    "queue", [Queue("open"), Queue("fifo", parallelism=1), Queue("pair", parallelism=2)], ids=lambda queue: queue.name
)
@pytest.mark.parametrize("ending", ["ok", "fail"])
async def test_a_claim_that_comes_late_and_is_given_back_loses_nothing(room: Room, queue: Queue, ending: str) -> None:
    """A worker lost its delivery while its claim was on the way: the run that it overtook still holds the message."""
    began: list[int] = []
    gate = asyncio.Event()

    @room.app.task(name="slow", queue=queue, retry=Retry(max_retries=1, delay=0.05))
    async def slow() -> int:
        began.append(len(began) + 1)
        mine = began[-1]
        if mine == 1:
            await gate.wait()
            if ending == "fail":
                raise ValueError("no")
        return mine

    worker = await room.worker()
    handle = await slow.enqueue_async()
    await eventually(lambda: began == [1])
    (run,) = worker.in_hand()
    store = await room.store()
    (claimed,) = await store.claim([Claim(run.message, "another")])
    await store.give_back([(run.message.id, claimed.epoch)])
    gate.set()
    assert await handle.get_result_async(60) == 2
    await eventually(lambda: not worker.in_hand())
    assert await room.depth(queue) == 0


async def test_a_run_that_is_overtaken_waits_for_the_one_that_goes_on(room: Room) -> None:
    """Two copies run in two workers: the end of the older run begins nothing anew, that of the newer is the outcome."""
    began: list[int] = []
    gates = [asyncio.Event(), asyncio.Event()]

    @room.app.task(name="slow", queue=Queue("open", worker_parallelism=1))
    async def slow() -> int:
        began.append(len(began) + 1)
        mine = began[-1]
        await gates[mine - 1].wait()
        return mine

    workers = [await room.worker(), await room.worker()]
    handle = await slow.enqueue_async()
    await eventually(lambda: began == [1])
    (older,) = [worker for worker in workers if worker.in_hand()]
    (run,) = older.in_hand()
    dispatcher = room.app.client().dispatcher
    assert dispatcher is not None
    await dispatcher.send(replace(run.message, repeated=True))  # as a sender does that has heard of no confirm
    await eventually(lambda: len(began) == 2)  # the first worker has no room for it
    gates[0].set()
    await eventually(lambda: older.in_hand() and older.in_hand()[0] is not run)
    gates[1].set()
    assert await handle.get_result_async(60) == 2
    await eventually(lambda: not any(worker.in_hand() for worker in workers))
    assert began == [1, 2]


async def test_a_copy_in_the_hands_of_another_slot_runs_when_the_first_lets_go(room: Room) -> None:
    """A slot lost the channel of its message, and another slot of the same worker was given it: it is not forgotten."""
    began: list[int] = []
    gate = asyncio.Event()

    @room.app.task(name="slow", queue=Queue("pair", parallelism=2))
    async def slow() -> int:
        began.append(len(began) + 1)
        mine = began[-1]
        if mine == 1:
            await gate.wait()
        return mine

    worker = await room.worker()
    units = worker.servers["pair"].units
    await eventually(lambda: [unit.active for unit in units] == [True, True])
    handle = await slow.enqueue_async()
    await eventually(lambda: began == [1])
    (run,) = worker.in_hand()
    await run.unit.subscription.close()  # type: ignore[union-attr]
    await eventually(lambda: len(run.copies) == 1 and run.copies[0][1] is not run.unit)
    run.unit.let_go_all()
    assert await handle.get_result_async(60) == 2
    await eventually(lambda: not worker.in_hand())
    assert await room.depth("pair") == 0
