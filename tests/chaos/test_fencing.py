"""Zombies: workers that were cut off, or stood still, and go on with what others have been given meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from taskq.outcome import Status
from taskq.store.base import DeadFilter
from tests.chaos.app_haunted import add_haunt
from tests.chaos.stream import FIFO, LANES, OPEN, POOL, Ledger, Stream
from tests.integration.harness import Event, Station, WorkerProcess
from tests.integration.outcomes import Outcomes
from tests.proxy import Proxy
from tests.support import eventually

HEARTBEAT = 2  # seconds: the broker gives a silent worker's work away after one to three of these
FIRST = 14.0  # seconds of the zombie's run: the broker has given its message away long before
AGAIN = 0.1
WAKES_WITHIN = 2.0  # seconds after a worker goes on until it has stopped its ordered and limited runs, or itself


@pytest.fixture
async def station(
    rabbitmq_url: str, postgres_store_url: str, prefix: str, tmp_path: Path, anyio_backend: str
) -> AsyncIterator[Station]:
    """On the servers that all tests share: only lines and processes of its own are ill-treated."""
    app = "tests.chaos.app_haunted:app"
    station = Station(broker=rabbitmq_url, store=postgres_store_url, prefix=prefix, folder=tmp_path, app=app)
    add_haunt(station.app)
    yield station
    await station.close()


@pytest.fixture
def asked(rabbitmq_url: str) -> Callable[[], str]:
    return lambda: rabbitmq_url


@pytest.fixture
async def line(rabbitmq_url: str, anyio_backend: str) -> AsyncIterator[Proxy]:
    """Between the zombie and the broker; nothing stands between it and the store."""
    url = urlsplit(rabbitmq_url)
    async with Proxy(url.hostname or "127.0.0.1", url.port or 5672) as line:
        yield line


def through(line: Proxy, url: str) -> str:
    """The broker's URL by way of the line."""
    parts = urlsplit(url)
    return url.replace(f"{parts.hostname}:{parts.port or 5672}", f"127.0.0.1:{line.port}")


@contextlib.asynccontextmanager
async def haunted(
    station: Station, line: Proxy, url: str, ending: str, later: float
) -> AsyncIterator[tuple[str, WorkerProcess, WorkerProcess]]:
    """A message runs in a worker that is cut off then, and again in another: its id, the zombie, and the living."""
    zombie, living = await asyncio.gather(
        station.start_ready(1, [OPEN.name], broker=through(line, url), heartbeat=HEARTBEAT),
        station.start_ready(1, ["elsewhere"], heartbeat=HEARTBEAT),
    )
    task = station.app.get_task("haunt").options(queue=OPEN)
    handle = await task.enqueue_async(ending, FIRST, later)
    await station.log.until(lambda: station.log.of("start", id=handle.id))
    living += await station.start_ready(1, [OPEN.name], heartbeat=HEARTBEAT)
    line.silence()
    await station.log.until(lambda: station.log.of("start", id=handle.id, pid=living[1].pid), FIRST - 2)
    yield handle.id, zombie[0], living[1]
    line.heal()


def told(zombie: WorkerProcess) -> Callable[[], bool]:
    return lambda: "is ignored, a newer run or an outcome stands" in zombie.said()


@pytest.mark.parametrize("ending", ["returns", "fails", "is rejected"])
async def test_a_zombie_that_settles_after_its_successor_changes_nothing(
    station: Station, outcomes: Outcomes, line: Proxy, rabbitmq_url: str, ending: str
) -> None:
    """The outcome, its result, the dead letters, the waiting room: all stay as the newer run left them."""
    store = await station.store()
    async with haunted(station, line, rabbitmq_url, ending, AGAIN) as (id, zombie, living):
        assert await station.app.handle(id).get_result_async(10) == "living"
        before = await store.get(id)
        assert before is not None and before.status is Status.SUCCEEDED
        assert before.worker is not None and f"-{living.pid}-" in before.worker
        await eventually(told(zombie), FIRST + 10)
        assert await store.get(id) == before
    await zombie.ready()
    assert await store.get(id) == before
    assert outcomes.recorded()[id] == 1
    assert (await store.dead(DeadFilter())).items == [] and (await store.waiting()).items == []
    kinds = [(event.kind, event.pid == zombie.pid) for event in station.log.read() if event.id == id]
    assert kinds.count(("start", False)) == 1 and kinds.count(("start", True)) == 1


@pytest.mark.parametrize("ending", ["returns", "fails", "is rejected"])
async def test_a_zombie_that_settles_while_its_successor_runs_changes_nothing(
    station: Station, outcomes: Outcomes, line: Proxy, rabbitmq_url: str, ending: str
) -> None:
    """The newer run goes on, and its outcome is the one."""
    store = await station.store()
    async with haunted(station, line, rabbitmq_url, ending, FIRST) as (id, zombie, living):
        await eventually(told(zombie), FIRST + 10)
        running = await store.get(id)
        assert running is not None and running.status is Status.RUNNING
        assert running.worker is not None and f"-{living.pid}-" in running.worker
        assert station.log.of("end", id=id, pid=living.pid) == []
        assert await station.app.handle(id).get_result_async(FIRST + 10) == "living"
    assert outcomes.recorded()[id] == 1
    assert (await store.dead(DeadFilter())).items == [] and (await store.waiting()).items == []


async def test_a_worker_that_stood_still_begins_nothing_of_what_others_have(
    stream: Callable[..., Stream], note: Callable[[Ledger], None]
) -> None:
    """SIGSTOP for longer than the broker waits. Others have its queues and slots by then; when it goes on it stops what
    it ran there, starts nothing more of that, and records none of it."""
    work = stream("worker suspended beyond the heartbeat")
    station = work.station
    async with work.flowing(heartbeat=HEARTBEAT):
        head = await work.send_long(FIFO, FIRST, AGAIN)
        (begun,) = await station.log.until(lambda: station.log.of("start", id=head), 20)
        zombie = station.worker(begun.pid)
        for _ in range(2):
            await work.send_long(POOL, FIRST, AGAIN)
        slept_at = time.time()
        zombie.process.send_signal(signal.SIGSTOP)
        await station.log.until(lambda: [one for one in station.log.of("start", id=head) if one.pid != zombie.pid], 20)
        zombie.process.send_signal(signal.SIGCONT)
        woke_at = time.time()
        overlap = await gone(station, zombie, head, woke_at)
        zombie.breaks_down = True  # its watchdog may end a process with ordered work whose loop stood still
        if not zombie.running:
            await work.join(heartbeat=HEARTBEAT)
        back = await work.mended()
        await station.all_recorded([station.app.handle(head)])
        row = await (await station.store()).get(head)
        assert row is not None and row.status is Status.SUCCEEDED and f"-{zombie.pid}-" not in str(row.worker)
        print(f"the zombie's head ran on for {overlap:.3f} s beside its successor's, after {woke_at - slept_at:.1f} s")
        asleep_from(station, zombie, slept_at, woke_at)
        note(await work.checked(back=back))


async def gone(station: Station, zombie: WorkerProcess, head: str, woke_at: float) -> float:
    """Wait until the zombie's run of the head has stopped, or its process; the seconds since it woke."""

    def stopped() -> list[Event] | bool:
        mine = [one for kind in ("stop", "end", "fail") for one in station.log.of(kind, id=head, pid=zombie.pid)]
        return mine or not zombie.running

    found = await eventually(stopped, WAKES_WITHIN)
    until = found[0].at if isinstance(found, list) else time.time()
    begun = [
        one
        for queue in (FIFO, LANES, POOL)
        for one in station.log.of("start", queue=queue.name, pid=zombie.pid)
        if woke_at <= one.at <= until
    ]
    assert begun == []
    return until - woke_at


def asleep_from(station: Station, zombie: WorkerProcess, slept_at: float, woke_at: float) -> None:
    """What stood still did not run meanwhile: for order and limits its runs ended when it fell asleep."""
    for index, event in enumerate(station.log.events):
        if event.pid == zombie.pid and event.kind != "start" and slept_at < event.at < woke_at + WAKES_WITHIN:
            started = [one for one in station.log.of("start", id=event.id, pid=zombie.pid) if one.at < slept_at]
            if started and event.queue in (FIFO.name, LANES.name, POOL.name):
                station.log.events[index] = replace(event, at=slept_at)
    if not zombie.running:
        zombie.killed_at = slept_at
