"""How a worker process ends: by signals, by recycling, by ill health; whatever the way, its work goes on elsewhere."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from taskq import Queue
from taskq.store.base import DeadFilter
from tests.integration import shutdown_app
from tests.integration.harness import Station, WorkerProcess
from tests.support import eventually, pulse

KINDS = [Queue("open"), Queue("fifo", parallelism=1), Queue("two", parallelism=2)]


@pytest.fixture
async def yard(
    rabbitmq_url: str, sqlite_store_url: str, prefix: str, tmp_path: Path, anyio_backend: str
) -> AsyncIterator[Station]:
    """A station whose workers know tasks that are hard to stop."""
    app = "tests.integration.shutdown_app:app"
    yard = Station(broker=rabbitmq_url, store=sqlite_store_url, prefix=prefix, folder=tmp_path, app=app)
    shutdown_app.extend(yard.app)
    yield yard
    await yard.close()


async def ask(worker: WorkerProcess, path: str) -> tuple[int, dict[str, Any]]:
    """Status and body of a GET to the worker's health address."""
    stream = await anyio.connect_tcp("127.0.0.1", worker.port)
    async with stream:
        await stream.send(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        data = b""
        try:
            while True:
                data += await stream.receive()
        except anyio.EndOfStream:
            pass
    head, _, body = data.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


async def is_well(worker: WorkerProcess) -> bool:
    return (await ask(worker, "/health"))[0] == 200


@pytest.mark.parametrize("queue", KINDS, ids=lambda queue: queue.name)
async def test_sigterm_gives_unfinished_work_to_another_worker(yard: Station, queue: Queue) -> None:
    """What ran is over or starts elsewhere within 5 s, what had not started at once; the exit code is 0."""
    await yard.ensure(queue)
    (first,) = await yard.start_ready(1, [queue.name], grace=1, concurrency=2)
    handles = await yard.send(queue, [{"number": number, "seconds": 30} for number in range(4)])
    wanted = 1 if queue.fifo else 2
    await yard.log.until(lambda: len(yard.log.of("start")) == wanted)
    (second,) = await yard.start_ready(1, [queue.name], concurrency=4)
    first.terminate()
    told = time.time()
    assert await first.ended() == 0
    took = time.time() - told
    await yard.log.until(lambda: yard.log.of("start", pid=second.pid))
    ids = {event.id for event in yard.log.of("start", pid=first.pid)}
    await yard.log.until(lambda: ids <= {event.id for event in yard.log.of("start", pid=second.pid)})
    restarts = [event for event in yard.log.of("start", pid=second.pid) if event.id in ids]
    assert max(event.at for event in restarts) - told < 5 + pulse.lost()
    assert all(event.attempt == 1 for event in restarts)  # being given back costs no attempt
    print(f"{queue.name}: exit after {took:.2f} s, again after {max(e.at for e in restarts) - told:.2f} s")
    for handle in handles:
        await handle.cancel_async()


async def test_sigterm_lets_work_finish_within_the_grace(yard: Station) -> None:
    """A task that needs less than the grace ends well, once, and the worker exits 0 right after it."""
    queue = Queue("open")
    (worker,) = await yard.start_ready(1, ["open"], grace=20)
    (handle,) = await yard.send(queue, [{"seconds": 1.5}])
    await yard.log.until(lambda: yard.log.of("start"))
    worker.terminate()
    told = time.time()
    assert await worker.ended() == 0
    assert time.time() - told < 5 + pulse.lost()
    assert await handle.get_result_async(60) == 0
    assert len(yard.log.of("start")) == len(yard.log.of("end")) == 1


@pytest.mark.parametrize("name", ["step", "thread", "child"])
async def test_a_second_sigterm_gives_back_at_once(yard: Station, name: str) -> None:
    """However long the grace, and wherever the task runs: it exits 0 in 5 s, and another worker starts the work."""
    task = yard.app.get_task(name).options(queue="open")
    (first,) = await yard.start_ready(1, ["open"], grace=600)
    handle = await yard.app.send_async(task.message(seconds=30))
    await yard.log.until(lambda: yard.log.of("start"))
    (second,) = await yard.start_ready(1, ["open"])
    first.terminate()
    await eventually(lambda: "SIGTERM" in first.said())
    assert first.running
    first.terminate()
    told = time.time()
    assert await first.ended() == 0
    await yard.log.until(lambda: len(yard.log.of("start", id=handle.id)) == 2)
    again = yard.log.of("start", id=handle.id)[1]
    assert again.at - told < 5 + pulse.lost()
    assert again.attempt == 1
    print(f"{name}: again after {again.at - told:.2f} s")


async def test_recycling_loses_nothing(yard: Station) -> None:
    """A worker that is replaced once it has run 40 attempts runs 200 messages, each once and in order."""
    queues = [Queue("open"), Queue("fifo", parallelism=1)]
    await yard.ensure(*queues)
    handles = []
    for queue in queues:
        handles += await yard.send(queue, [{"number": number, "seconds": 0.002} for number in range(100)])
    (worker,) = await yard.start_ready(1, ["open", "fifo"], recycle_after_tasks=40, concurrency=4)
    assert await yard.all_recorded(handles) == {"SUCCEEDED": 200}
    assert len(yard.log.of("start")) == 200
    order = [event.number for event in yard.log.of("start", queue="fifo")]
    assert order == list(range(100))
    assert "to be replaced" in worker.said()
    assert worker.running


async def test_health_and_ready_say_what_is(yard: Station) -> None:
    """200 while it serves; 503 with the reason once the loop is blocked for longer than allowed; the task is named."""
    (worker,) = await yard.start_ready(1, ["open"], health_limit=1, exit_after=600)
    assert (await ask(worker, "/health"))[0] == 200
    status, body = await ask(worker, "/ready")
    assert status == 200 and body["ready"] is True and body["queues"] == ["open"]
    task = yard.app.get_task("block").options(queue="open")
    await yard.app.send_async(task.message(seconds=4))
    await yard.log.until(lambda: yard.log.of("start"))

    async def ill() -> dict[str, Any] | None:
        status, body = await ask(worker, "/health")
        return body if status == 503 else None

    body = await eventually(ill)
    assert "blocked" in body["reasons"][0]
    assert (await ask(worker, "/ready"))[0] == 503
    await eventually(lambda: is_well(worker))
    assert "task 'block'" in worker.said() and "time.sleep" in worker.said()


async def test_a_process_that_stood_still_blames_no_task(yard: Station) -> None:
    """Suspended for longer than a task may block the loop: it says that it stood still, and names nobody for it."""
    (worker,) = await yard.start_ready(1, ["open"], heartbeat=60)
    os.kill(worker.pid, signal.SIGSTOP)
    await asyncio.sleep(2.5)  # what is to be told of
    os.kill(worker.pid, signal.SIGCONT)
    await eventually(lambda: "stood still for" in worker.said())
    assert "blocked the event loop" not in worker.said()


async def test_a_worker_that_stays_ill_exits(yard: Station) -> None:
    """Blocked for longer than exit_after it ends by itself, not with 0, and the message runs elsewhere."""
    task = yard.app.get_task("block").options(queue="open")
    (first,) = await yard.start_ready(1, ["open"], health_limit=1, exit_after=1)
    await yard.app.send_async(task.message(seconds=8))
    await yard.log.until(lambda: yard.log.of("start"))
    assert await first.ended() == 70
    assert "exiting" in first.said()
    first.output.write_text("")  # it has said CRITICAL, as it should
    await yard.start_ready(1, ["open"], exit_after=600)
    await yard.log.until(lambda: len(yard.log.of("start")) == 2)


async def test_a_worker_that_stops_is_not_ready(yard: Station) -> None:
    """From the signal on /ready is 503, so that nobody counts on it, while /health stays 200."""
    (worker,) = await yard.start_ready(1, ["open"], grace=20)
    await yard.send(Queue("open"), [{"seconds": 2.5}])
    await yard.log.until(lambda: yard.log.of("start"))
    worker.terminate()

    async def not_ready() -> bool:
        return (await ask(worker, "/ready"))[0] == 503

    await eventually(not_ready)
    assert (await ask(worker, "/health"))[0] == 200
    assert await worker.ended() == 0


async def test_supervised_processes_are_restarted_and_stopped_together(yard: Station) -> None:
    """Of `processes=2` a killed one is replaced, its work done by another; SIGTERM ends them all with 0."""
    (worker,) = await yard.start_ready(1, ["open"], processes=2, grace=5)
    handles = await yard.send(Queue("open"), [{"number": n, "seconds": 0.05} for n in range(100)])
    handles += await yard.send(Queue("open"), [{"number": 100, "dies": 9}])
    await yard.log.until(lambda: len(yard.log.done()) == 100)
    letter_of = (await yard.store()).dead

    async def buried() -> bool:
        return bool((await letter_of(DeadFilter(reason="crashed"))).items)

    await eventually(buried)  # it kills its worker three times
    assert len({event.pid for event in yard.log.of("start")}) >= 3
    await eventually(lambda: is_well(worker))
    worker.terminate()
    assert await worker.ended() == 0
