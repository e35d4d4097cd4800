"""A fixed piece of work, whose instructions are counted: `python -m benchmarks.counted WHAT COUNT [--callgrind]`.

taskq against a broker of paper in one loop and one process, so that nothing depends on another process's pace; while
it is counted the clock stands still, so that no timer falls due. With `--callgrind` valgrind counts from the first
message to the last, and not the imports and connections before.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import tempfile
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from benchmarks.paper import PaperBroker
from benchmarks.settings import LABEL, NAME
from taskq import Queue, TaskQ
from taskq.broker.base import BrokerQueue, Kind
from taskq.broker.topology import Names
from taskq.message import CONTENT_TYPE
from taskq.worker.worker import Worker

_WINDOW = 500
_WARM = 50  # messages before the count: caches are filled
_SETTLE = 1.0  # seconds until the prefetch has found its size
_PATIENCE = 240.0  # seconds that the whole may take
_PREFIX = "counted"

Work = Callable[[int], Awaitable[None]]


class PaperClock:
    """A clock that steps a microsecond at each look. Once it is stopped, nobody wakes from a sleep."""

    def __init__(self) -> None:
        self.stopped = asyncio.Event()
        self._passed = 0.0

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.monotonic())

    def monotonic(self) -> float:
        self._passed += 1e-6
        return self._passed

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        if self.stopped.is_set():
            await asyncio.Event().wait()
        self._passed += seconds


class Count:
    """Switches valgrind's counting on for a block."""

    def __init__(self, on: bool) -> None:
        self._on = on

    def __enter__(self) -> None:
        self._switch("on")

    def __exit__(self, *exc: object) -> None:
        self._switch("off")

    def _switch(self, to: str) -> None:
        if self._on:
            command = ["callgrind_control", "-i", to, str(os.getpid())]
            subprocess.run(command, check=True, capture_output=True)


async def counted(what: str, number: int, count: Count, store: Path) -> int:
    """Do the work with so many messages; how many the broker saw settled."""
    broker = PaperBroker(Names(_PREFIX).queue(BrokerQueue(Kind.TASK, NAME)), CONTENT_TYPE)
    clock = PaperClock()
    app = TaskQ(broker=await broker.start(), store=f"sqlite:///{store}", prefix=_PREFIX, name=NAME, clock=clock)
    queue = Queue(NAME)

    @app.task(name="bench", queue=queue, result=False)
    async def bench(number: int, label: str) -> int:
        return number

    async def one_by_one(number: int) -> None:
        for each in range(number):
            await bench.enqueue_async(each, LABEL)

    async def windows(number: int) -> None:
        for start in range(0, number, _WINDOW):
            ends = min(start + _WINDOW, number)
            await app.enqueue_many_async([bench.message(each, LABEL) for each in range(start, ends)])

    async def at_once(number: int) -> None:
        for start in range(0, number, 100):
            await asyncio.gather(
                *(bench.enqueue_async(start + each, LABEL) for each in range(min(100, number - start)))
            )

    async def drain(number: int) -> None:
        before = broker.acknowledged
        broker.put([stock.pop() for _ in range(number)])
        await broker.until_acknowledged(before + number)

    works: dict[str, Work] = {"one": one_by_one, "many": windows, "at_once": at_once, "drain": drain}
    work = works[what]
    await app.open()
    stock: list[bytes] = []
    worker, job = Worker(app, queues=[NAME], keeper=False), None
    try:
        if what == "drain":
            stock += [bench.message(each, LABEL).message.encode() for each in range(number + _WARM)]
            job = asyncio.create_task(worker.run())
            await worker.started.wait()
        await work(_WARM)
        await asyncio.sleep(_SETTLE)
        clock.stopped.set()
        with count:
            await work(number)
    finally:
        if job is not None:
            worker.stop()
            await job
        await app.close()
        await broker.close()
    return broker.acknowledged


WORKS = {
    "one": "enqueue_async, one by one",
    "at_once": "enqueue_async, 100 at once",
    "many": "enqueue_many, windows of 500",
    "drain": "drain, nothing recorded",
}


def main() -> None:
    """Once."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.counted", description=__doc__)
    parser.add_argument("what", choices=WORKS)
    parser.add_argument("number", type=int)
    parser.add_argument("--callgrind", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="taskq-counted-") as folder:
        work = counted(options.what, options.number, Count(options.callgrind), Path(folder) / "taskq.db")
        asyncio.run(asyncio.wait_for(work, _PATIENCE))


if __name__ == "__main__":
    main()
