"""An idle worker: its memory after a few tasks; and the time from its start to its first task's first line."""

from __future__ import annotations

import time

from benchmarks.contestants import CELERY_PREFORK, PEERS, TASKQ, TASKQ_POSTGRES, TASKQ_SQLITE
from benchmarks.measure import Measure
from benchmarks.processes import memory_mb
from benchmarks.stage import Stage


def _memory(stage: Stage) -> dict[str, float]:
    stage.start_ready_workers(1)
    stage.produce("warm", count=200)
    stage.wait_count(220)
    time.sleep(1.0)
    trees = [memory_mb(worker.pid) for worker in stage.workers]
    return {"pss": sum(tree["pss"] for tree in trees), "rss": sum(tree["rss"] for tree in trees)}


def _start(stage: Stage) -> dict[str, float]:
    stage.produce("warm", count=1)
    begin = time.monotonic_ns()
    stage.start_workers(1)
    stage.wait_count(1, timeout=40)
    return {"ms": (stage.board.lines()[0].first_ns - begin) / 1e6}


_WHO = (TASKQ, TASKQ_SQLITE, TASKQ_POSTGRES, *PEERS, CELERY_PREFORK)
MEMORY = Measure("idle_memory", "memory of an idle worker", "MB", _WHO, _memory, figure="rss", lower=True, once=True)
START = Measure("start", "worker start to its first task", "ms", _WHO, _start, figure="ms", lower=True)
