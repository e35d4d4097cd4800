"""Tasks that block the loop, leak, crash or never return: what becomes of them, and of everything beside them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from taskq import Queue, TaskFailed
from taskq.store.base import DeadFilter
from tests.chaos.app_misbehaves import add_to, last_beat
from tests.chaos.stream import FIFO, POOL, Ledger, Stream
from tests.integration.harness import Span, Station, WorkerProcess, assert_in_order
from tests.integration.outcomes import Outcomes
from tests.support import eventually

QUEUE = Queue("misery")


@pytest.fixture
async def station(
    rabbitmq_url: str, postgres_store_url: str, prefix: str, tmp_path: Path, anyio_backend: str
) -> AsyncIterator[Station]:
    """On the servers that all tests share, with the tasks of `app_misbehaves`."""
    app = "tests.chaos.app_misbehaves:app"
    station = Station(broker=rabbitmq_url, store=postgres_store_url, prefix=prefix, folder=tmp_path, app=app)
    add_to(station.app)
    yield station
    await station.close()


@pytest.fixture
def asked(rabbitmq_url: str) -> Callable[[], str]:
    """Its broker."""
    return lambda: rabbitmq_url


async def ill(worker: WorkerProcess, why: str) -> None:
    """Wait until /health says 503 for this reason."""

    async def check() -> bool:
        status = await worker.health()
        assert status == 503 and why in worker.answered, f"{status}: {worker.answered}"
        return True

    await eventually(check, 15)


# -- the loop is blocked --------------------------------------------------------------------------


@pytest.mark.parametrize("ends", [True, False], ids=["exits", "recovers"])
async def test_a_loop_that_is_blocked_on_an_open_queue(station: Station, outcomes: Outcomes, ends: bool) -> None:
    """The broker gives all of that worker to another; /health says why; the process exits, or goes on afterwards."""
    await station.ensure(QUEUE)
    blocks, step = station.app.get_task("blocks").options(queue=QUEUE), station.step.options(queue=QUEUE)
    (worker,) = await station.start_ready(
        1, [QUEUE.name], heartbeat=1, health_limit=2, exit_after=6 if ends else "none"
    )
    blocked = await blocks.enqueue_async(0, 60.0 if ends else 8.0)
    await eventually(lambda: station.log.of("start", number=0))
    began = time.time()
    worker.breaks_down = ends
    told = asyncio.create_task(ill(worker, "the event loop is blocked"))
    (other,) = await station.start_ready(1, [QUEUE.name])
    others = [await step.enqueue_async(number=number) for number in range(1, 11)]
    await told
    results = await asyncio.gather(*(handle.get_result_async(20) for handle in others))
    assert results == list(range(1, 11))
    assert await blocked.get_result_async(20) == other.pid
    print(f"all is done {time.time() - began:.1f} s after the loop was blocked")
    said = worker.said()
    assert "task 'blocks' (message " in said and "has blocked the event loop" in said
    if ends:
        assert await worker.ended(15) == 70
    else:
        await eventually(lambda: station.log.of("end", number=0, pid=worker.pid), 20)
        await worker.ready()
        assert await worker.health() == 200
        other.terminate()
        await other.ended()
        assert await (await step.enqueue_async(number=11)).get_result_async(15) == 11
    assert set(outcomes.recorded().values()) == {1}
    assert (await (await station.store()).get(blocked.id)).status == "SUCCEEDED"  # type: ignore[union-attr]


@pytest.mark.parametrize("queue", [FIFO, POOL], ids=lambda queue: queue.name)
async def test_a_loop_that_is_blocked_with_ordered_or_limited_work(
    queue: Queue,
    stream: Callable[..., Stream],
    note: Callable[[Ledger], None],
    consumers: Callable[[], Awaitable[bool]],
) -> None:
    """The process is gone before the broker gives its work away: order and cap hold."""
    fault = stream(f"loop blocked on {queue.name}")
    station = fault.station
    async with fault.flowing(health_limit=1):
        handle = await station.app.get_task("blocks").options(queue=queue).enqueue_async(1_000_000, 60.0)
        await station.log.until(lambda: station.log.of("start", id=handle.id))
        first = station.log.of("start", id=handle.id)[0]
        worker = station.worker(first.pid)
        worker.breaks_down = True
        await ill(worker, "the event loop is blocked")
        assert await worker.ended() == 70
        worker.killed_at = last_beat(station.folder, worker.pid)
        await fault.join()
        second = await handle.get_result_async(20)
        back = await fault.mended(consumers)
        assert station.worker(second).running
        (again,) = station.log.of("start", id=handle.id, pid=second)
        note(await fault.checked(back=back))
    lasted, gap = worker.killed_at - first.at, again.at - worker.killed_at
    print(f"it was stopped after {lasted:.1f} s, its successor began {gap:.2f} s later")
    assert gap > 0, "two ran the message at once"
    spans = [span for span in station.spans(queue=queue.name) if span.event.id == handle.id]
    assert len(spans) == 2 and again.attempt == 1


# -- memory ---------------------------------------------------------------------------------------


async def test_a_task_that_leaks_has_its_process_replaced(station: Station, outcomes: Outcomes) -> None:
    """Above the limit the process ends in good order and another takes its place; no message is run twice."""
    await station.ensure(QUEUE)
    leaks = station.app.get_task("leaks").options(queue=QUEUE)
    (worker,) = await station.start_ready(1, [QUEUE.name], processes=2, recycle_after_memory_mb=150)
    handles = []
    while worker.said().count("this worker is to be replaced: it uses") < 2:
        assert len(handles) < 600, worker.said()
        handles.append(await leaks.enqueue_async(len(handles), 4))
        await asyncio.sleep(0.05)
    ran_by = [await handle.get_result_async(20) for handle in handles]
    await worker.ready()
    last = await (await leaks.enqueue_async(10_000, 1)).get_result_async(10)
    assert len({*ran_by, last}) >= 3, "two processes, and at least one successor"
    assert len(station.log.of("start")) == len(handles) + 1
    assert set(outcomes.recorded().values()) == {1}
    print(f"{len(handles)} messages of 4 MB were run by {len(set(ran_by))} processes")


# -- crashes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["segfault", "exit"])
async def test_a_task_that_takes_its_worker_along(station: Station, outcomes: Outcomes, how: str) -> None:
    """The supervisor starts another; after `max_crashes` claimed runs it is dead-lettered, all others are done."""
    await station.ensure(QUEUE)
    (worker,) = await station.start_ready(1, [QUEUE.name], processes=2, max_crashes=2)
    innocent = [{"number": number, "seconds": 0.1} for number in range(30)]
    handles = await station.send(QUEUE, innocent[:10])
    culprit = await station.app.get_task("crashes").options(queue=QUEUE).enqueue_async(99, how)
    handles += await station.send(QUEUE, innocent[10:])
    with pytest.raises(TaskFailed, match="the worker's process died 2 times"):
        await culprit.get_result_async(25)
    assert await station.all_recorded(handles) == {"SUCCEEDED": len(handles)}
    store = await station.store()
    (letter,) = await eventually(lambda: _letters(store, "crashed"))
    assert letter.message_id == culprit.id
    assert len(station.log.of("start", number=99)) == 3, "its first run is not claimed; then two"
    assert {"segfault": "was killed by SIGSEGV", "exit": "ended with exit code 3"}[how] in worker.said()
    assert worker.running
    await worker.ready()
    assert set(outcomes.recorded().values()) == {1}


async def _letters(store: object, reason: str) -> list[object]:
    return list((await store.dead(DeadFilter(reason=reason))).items)  # type: ignore[attr-defined]


@pytest.mark.parametrize("how", ["segfault", "exit"])
async def test_a_task_that_crashes_in_a_process_of_its_own(station: Station, outcomes: Outcomes, how: str) -> None:
    """It costs an attempt each time, the last is final; the worker lives, and the FIFO queue behind it goes on."""
    line = Queue("line", parallelism=1)
    await station.ensure(line)
    (worker,) = await station.start_ready(1, [line.name])
    crashing = await station.app.get_task("crashes_apart").options(queue=line).enqueue_async(0, how)
    behind = await station.send(line, [{"number": number} for number in range(1, 6)])
    with pytest.raises(TaskFailed, match={"segfault": "SIGSEGV", "exit": "exit code 3"}[how]):
        await crashing.get_result_async(25)
    assert [await handle.get_result_async(10) for handle in behind] == [1, 2, 3, 4, 5]
    store = await station.store()
    (letter,) = await eventually(lambda: _letters(store, "crashed"))
    assert (letter.message_id, letter.attempts) == (crashing.id, 2)  # type: ignore[attr-defined]
    assert [event.attempt for event in station.log.of("start", number=0)] == [1, 2]
    assert all(event.pid != worker.pid for event in station.log.of("start", number=0))
    assert worker.running and set(outcomes.recorded().values()) == {1}


# -- a thread that never returns --------------------------------------------------------------------


async def test_a_thread_that_never_returns(station: Station, outcomes: Outcomes) -> None:
    """It fails at its time limit; its process is replaced; on a FIFO queue the next waits for that, elsewhere not."""
    line = Queue("line", parallelism=1)
    await station.ensure(line, QUEUE)
    (worker,) = await station.start_ready(1, [line.name, QUEUE.name], concurrency=4, grace=1)
    stuck = station.app.get_task("never_returns")
    heads = [await stuck.options(queue=queue).enqueue_async(number=0) for queue in (line, QUEUE)]
    behind = [await station.send(queue, [{"number": 1}, {"number": 2}]) for queue in (line, QUEUE)]
    began = time.time()
    for head in heads:
        with pytest.raises(TaskFailed, match=r"time limit of 1 s"):
            await head.get_result_async(10)
    failed = time.time() - began
    for pair in behind:
        assert [await handle.get_result_async(20) for handle in pair] == [1, 2]
    assert "a thread of task 'never_returns' went on after its time limit" in worker.said()
    gone = last_beat(station.folder, worker.pid)
    next_start = station.log.of("start", queue=line.name, number=1, pid=worker.pid)[0].at
    print(f"failed after {failed:.1f} s; the next of the FIFO queue began {next_start - gone:.2f} s after the thread")
    assert next_start > gone, "the next ran while the thread still did"
    assert_in_order([Span(event.at, event.at, event) for event in station.log.of("end", queue=line.name)])
    assert station.log.of("start", queue=QUEUE.name, number=2)[0].at < gone, "an open queue need not wait"
    await worker.ready()
    assert set(outcomes.recorded().values()) == {1}
