"""Queues with limits: a FIFO queue by one worker, and a pool of 8 over two workers beside the open queue."""

from __future__ import annotations

from benchmarks.contestants import AIO_PIKA, TASKQ, TASKQ_POSTGRES, TASKQ_SQLITE, Contestant
from benchmarks.measure import Measure
from benchmarks.measures.drain import drain
from benchmarks.stage import Stage


def _one(stage: Stage) -> dict[str, float]:
    return drain(stage, 1)


def _two(stage: Stage) -> dict[str, float]:
    return drain(stage, 2)


def _of_kind(contestant: Contestant, kind: str, name: str = "") -> Contestant:
    settings = contestant.settings | {"kind": kind}
    return Contestant(name or contestant.name, contestant.module, settings, contestant.store)


_FIFO = tuple(_of_kind(contestant, "fifo") for contestant in (TASKQ, TASKQ_SQLITE, TASKQ_POSTGRES))
_BARE_FIFO = _of_kind(AIO_PIKA, "fifo", "aio-pika, single active consumer, prefetch 1")
_POOL = (_of_kind(TASKQ, "pool", "taskq, pool of 8"), _of_kind(TASKQ, "open", "taskq, open"))
FIFO = Measure("fifo", "FIFO queue, 1 process", "tasks/s", (*_FIFO, _BARE_FIFO), _one)
POOL = Measure("pool", "pool of 8 in 2 processes, and the open queue", "tasks/s", _POOL, _two)
