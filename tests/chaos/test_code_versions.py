"""Workers with different code on one queue: what one does not know goes to the others, and to the dead letters only
if nobody knows it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from taskq import Queue, TaskFailed
from taskq.handle import Handle
from taskq.store.base import DeadFilter
from tests.chaos.app_versions import add_new
from tests.chaos.stream import FIFO, LANES, OPEN, POOL
from tests.integration.harness import Station, WorkerProcess, assert_in_order, most_at_once
from tests.integration.outcomes import Outcomes
from tests.support import eventually

NARROW = Queue("narrow", parallelism=2)  # is lowered to one slot, which the older code holds
KINDS = pytest.mark.parametrize("queue", [OPEN, FIFO, LANES, POOL, NARROW], ids=lambda queue: queue.name)
LIMIT = 3  # workers that may not know a task
PAUSES = 1.0 + 2.0  # seconds, between so many looks
TURNS = 120.0  # seconds: of pauses that double, as many as chance may have, more of them before a slow machine is ready


@pytest.fixture
async def station(
    rabbitmq_url: str, postgres_store_url: str, prefix: str, tmp_path: Path, anyio_backend: str
) -> AsyncIterator[Station]:
    """On the servers that all tests share; its own app has the newer code."""
    app = "tests.chaos.app_versions:app"
    station = Station(broker=rabbitmq_url, store=postgres_store_url, prefix=prefix, folder=tmp_path, app=app)
    add_new(station.app)
    yield station
    await station.close()


async def made(station: Station, queue: Queue) -> None:
    """The queue is there before any worker."""
    await station.ensure(queue)
    if queue is NARROW:
        await station.limit(NARROW.name, 1)


async def send(station: Station, queue: Queue, number: int, *, new: bool) -> Handle[Any]:
    """One step, or one of the newer code's; all of one key where the queue has keys, so that they stand in one line."""
    task = station.app.get_task("new_step" if new else "step").options(queue=queue)
    if queue.partitions is not None:
        return await task.options(key="a").enqueue_async(number=number, key="a")
    return await task.enqueue_async(number=number)


def misses(workers: list[WorkerProcess]) -> int:
    """How often these workers said that they do not know the newer code's task."""
    return sum(worker.said().count("task 'new_step' is not known here") for worker in workers)


@KINDS
async def test_a_task_that_only_newer_code_knows(station: Station, outcomes: Outcomes, queue: Queue) -> None:
    """The older code passes it on, and works on beside the newer; order and limits hold."""
    await made(station, queue)
    (old,) = await station.start_ready(1, [queue.name], test_code="old")
    handles = [await send(station, queue, number, new=number % 2 == 0) for number in range(8)]
    await eventually(lambda: misses([old]) > 0, 15)
    newer = await station.start_ready(2, [queue.name], test_code="new")
    began = time.time()
    for number, handle in enumerate(handles):
        assert await handle.get_result_async(TURNS) == number
    print(
        f"{queue.name}: {misses([old])} looks of the older code, all done {time.time() - began:.1f} s after the newer"
    )
    knowing = {worker.pid for worker in newer}
    for number in range(0, 8, 2):
        (start,) = station.log.of("start", number=number)
        assert start.pid in knowing and start.attempt == 1
    assert len(station.log.of("start")) == len(handles)
    if queue in (FIFO, LANES):
        assert_in_order(station.spans())
    if queue.parallelism is not None:
        assert most_at_once(station.spans()) <= (1 if queue is NARROW else queue.parallelism)
    recorded = outcomes.recorded()
    assert {handle.id for handle in handles} <= set(recorded) and set(recorded.values()) == {1}
    assert (await (await station.store()).dead(DeadFilter())).items == []
    assert misses(newer) == 0 and old.running


@KINDS
async def test_a_task_that_no_worker_knows(station: Station, outcomes: Outcomes, queue: Queue) -> None:
    """It is a dead letter after `unknown_task_limit` looks, of each worker where it may not leave its place in line;
    what was sent behind it is done."""
    await made(station, queue)
    workers = await station.start_ready(2, [queue.name], unknown_task_limit=LIMIT)
    began = time.time()
    unknown = await send(station, queue, 0, new=True)
    behind = [await send(station, queue, number, new=False) for number in range(1, 4)]
    with pytest.raises(TaskFailed, match=rf"no worker knows task 'new_step' \({LIMIT} looked\)"):
        await unknown.get_result_async(TURNS)
    took = time.time() - began
    assert [await handle.get_result_async(TURNS) for handle in behind] == [1, 2, 3]
    store = await station.store()

    async def letters() -> list[Any]:
        return list((await store.dead(DeadFilter())).items)

    (letter,) = await eventually(letters)
    assert (letter.message_id, letter.reason) == (unknown.id, "unknown-task")
    looks, lines = misses(workers) + 1, len(workers) if queue in (FIFO, LANES) else 1
    print(f"{queue.name}: {looks} looks, dead after {took:.1f} s")
    assert LIMIT <= looks <= lines * (LIMIT - 1) + 1
    assert PAUSES - 0.1 <= took
    assert set(outcomes.recorded().values()) == {1} and len(station.log.of("start")) == 3
