"""Drain a queue that was filled beforehand, by one and by two worker processes.

The clock runs from the instant at which all processes have begun their first task to the last task's
first line, and for what records outcomes to the instant at which all of them are on record.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from benchmarks.contestants import (
    AIO_PIKA_CLASSIC,
    CELERY_PREFORK,
    PEERS,
    TASKQ,
    TASKQ_POSTGRES,
    TASKQ_SQLITE,
    Contestant,
)
from benchmarks.measure import Measure
from benchmarks.processes import memory_mb
from benchmarks.stage import Stage

_PILOT = 2_500  # tasks for each process, at least; of the first drain it tells how many make up the aimed seconds
_OURS = 6_000  # the same of ours, which are quicker: all must have begun before the queue is empty
_MOST = 150_000
_TIMEOUT = 60.0  # seconds
_known: dict[tuple[str, int], float] = {}


@dataclass(frozen=True, slots=True)
class Reading:
    """How far a drain is, and what it has cost so far: an instant (ns), tasks begun, CPU seconds."""

    at_ns: int
    done: int
    worker_cpu: float
    broker_cpu: float
    store_cpu: float


def _read(stage: Stage, done: int) -> Reading:
    return Reading(time.monotonic_ns(), done, stage.worker_cpu(), stage.broker_cpu(), stage.store_cpu())


def _watch(stage: Stage, count: int, processes: int) -> tuple[Reading, Reading]:
    """The readings when all processes were at work, and when the last task had begun."""
    begin: Reading | None = None
    deadline = time.monotonic() + _TIMEOUT
    while (done := stage.board.count()) < count:
        at_work = sum(1 for line in stage.board.lines() if line.count)
        if begin is None and at_work >= processes:
            begin = _read(stage, done)
        if time.monotonic() > deadline:
            raise TimeoutError(f"{stage.contestant.name} ran {done} of {count} tasks in {_TIMEOUT} s")
        for worker in stage.workers:
            worker.check()
        time.sleep(0.003)
    end = _read(stage, done)
    if begin is None or begin.done > count * 0.8:
        raise TimeoutError(f"{stage.contestant.name}: {count} tasks were gone before {processes} processes had begun")
    return begin, end


def timed(stage: Stage, count: int, processes: int) -> dict[str, float]:
    """Fill, start the workers, wait for the last task; the rate and what a task cost."""
    stage.board.clear()
    stage.empty()
    stage.fill(count)
    stage.start_workers(processes)
    begin, end = _watch(stage, count, processes)
    last = max(line.last_ns for line in stage.board.lines())
    recorded = stage.driver.ask("recorded", count=count) if stage.settings.record else 0
    timed = count - begin.done
    figures = {
        "rate": timed / (max(last, recorded) - begin.at_ns) * 1e9,
        "count": float(timed),
        "worker_cpu_us": (end.worker_cpu - begin.worker_cpu) / timed * 1e6,
        "broker_cpu_us": (end.broker_cpu - begin.broker_cpu) / timed * 1e6,
        "store_cpu_us": (end.store_cpu - begin.store_cpu) / timed * 1e6,
        "worker_mb": sum(memory_mb(worker.pid)["rss"] for worker in stage.workers),
    }
    stage.stop_workers()
    return figures | {"again": float(stage.board.count() - count), "left": float(stage.depth())}


def drain(stage: Stage, processes: int) -> dict[str, float]:
    """A drain of about the aimed length."""
    key = (stage.contestant.name, processes)
    quick = stage.contestant.ours and stage.settings.kind != "fifo"
    least = processes * (_OURS if quick else _PILOT)
    if key not in _known:
        _known[key] = timed(stage, least, processes)["rate"]
    count = min(max(int(_known[key] * stage.scale.seconds), least), _MOST)
    figures = timed(stage, count, processes)
    _known[key] = figures["rate"]
    return figures


def _one(stage: Stage) -> dict[str, float]:
    return drain(stage, 1)


def _two(stage: Stage) -> dict[str, float]:
    return drain(stage, 2)


_ALL: tuple[Contestant, ...] = (TASKQ, TASKQ_SQLITE, TASKQ_POSTGRES, *PEERS)
_VARIANTS = (CELERY_PREFORK, AIO_PIKA_CLASSIC)
ONE = Measure("drain_one", "drain, 1 process", "tasks/s", (*_ALL, *_VARIANTS), _one)
TWO = Measure("drain_two", "drain, 2 processes", "tasks/s", _ALL, _two)
