"""Drain a queue that was filled beforehand, by one and by two worker processes.

The clock runs from the instant at which all processes have begun their first task to the last task's
first line, and for what records outcomes to the instant at which all of them are on record.
"""

from __future__ import annotations

import time

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
from benchmarks.stage import Stage

_PILOT = 3_000  # tasks of the first drain of a contestant, which tells how many make up the aimed seconds
_MOST = 150_000
_TIMEOUT = 60.0  # seconds
_known: dict[tuple[str, int], float] = {}


def timed(stage: Stage, count: int, processes: int) -> dict[str, float]:
    """Fill, start the workers, wait for the last task; rates and what it cost."""
    stage.board.clear()
    stage.empty()
    stage.fill(count)
    broker = stage.broker_cpu()
    stage.start_workers(processes)
    samples: list[tuple[int, int]] = []
    deadline = time.monotonic() + _TIMEOUT
    while (done := stage.board.count()) < count:
        samples.append((time.monotonic_ns(), done))
        if time.monotonic() > deadline:
            raise TimeoutError(f"{stage.contestant.name} ran {done} of {count} tasks in {_TIMEOUT} s")
        for worker in stage.workers:
            worker.check()
        time.sleep(0.003)
    lines = [line for line in stage.board.lines() if line.count]
    begin = max(line.first_ns for line in lines)
    begin, before = next(((at, done) for at, done in samples if at >= begin), (begin, len(lines)))
    end = max(line.last_ns for line in lines)
    recorded = stage.driver.ask("recorded", count=count) if stage.settings.record else 0
    figures = {
        "rate": (count - before) / (max(end, recorded) - begin) * 1e9,
        "count": float(count),
        "processes": float(len(lines)),
        "worker_cpu_us": stage.worker_cpu() / count * 1e6,
        "broker_cpu_us": (stage.broker_cpu() - broker) / count * 1e6,
    }
    stage.stop_workers()
    return figures | {"again": float(stage.board.count() - count), "left": float(stage.depth())}


def drain(stage: Stage, processes: int) -> dict[str, float]:
    """A drain of about the aimed length."""
    key = (stage.contestant.name, processes)
    if key not in _known:
        _known[key] = timed(stage, _PILOT, processes)["rate"]
    count = min(max(int(_known[key] * stage.scale.seconds), _PILOT), _MOST)
    figures = timed(stage, count, processes)
    _known[key] = figures["rate"]
    return figures


def _one(stage: Stage) -> dict[str, float]:
    return drain(stage, 1)


def _two(stage: Stage) -> dict[str, float]:
    return drain(stage, 2)


_ALL: tuple[Contestant, ...] = (TASKQ, TASKQ_SQLITE, TASKQ_POSTGRES, *PEERS, CELERY_PREFORK, AIO_PIKA_CLASSIC)
ONE = Measure("drain_one", "drain, 1 process", "tasks/s", _ALL, _one)
TWO = Measure("drain_two", "drain, 2 processes", "tasks/s", _ALL, _two)
