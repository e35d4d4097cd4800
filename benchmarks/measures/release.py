"""Messages that wait for a flow key, let go: how many a second run, of one key and of a hundred.

The keys are paused, the messages booked in the waiting room; the clock runs from the call that resumes the first key
to the last record. The parallelism of the keys holds nothing back: it is the way through the waiting room that counts.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from benchmarks.board import Board
from benchmarks.contestants import TASKQ_HTTP_POSTGRES, Contestant, taskq
from benchmarks.measure import Measure
from benchmarks.processes import wait_until
from benchmarks.stage import Stage

_COUNT = 1_000  # messages for each of the aimed seconds
_KEYS = 100


async def produce(peer: Any, board: Board, step: str, keys: int = 0, count: int = 0) -> dict[str, Any]:
    """One step of the measurement; only taskq's peers know them."""
    match step:
        case "fill":
            await _pause(keys, True)
            peer.since = time.time_ns() // 1000
            await peer.asend_keyed(count, keys)
        case "waiting":
            return {"count": peer.count("taskq_waiting")}
        case "resume":
            begin = time.monotonic_ns()
            await _pause(keys, False)
            return {"begin_ns": begin}
    return {}


async def _pause(keys: int, paused: bool) -> None:
    from benchmarks.peers.taskq_peer import app, key_of
    from taskq.admin.flow import look

    store, broker = await app.client().store(), await app.client().broker()
    await asyncio.gather(*(store.set_flow(key_of(number, keys), paused=paused) for number in range(keys)))
    await look(broker, store)


def _run(stage: Stage, keys: int) -> dict[str, float]:
    with stage.endpoint():
        stage.start_ready_workers(1)
        before, count = stage.board.count(), int(_COUNT * stage.scale.seconds)
        stage.produce("release", step="fill", keys=keys, count=count)
        wait_until(lambda: stage.produce("release", step="waiting")["count"] >= count, 60, "booking", stage.workers)
        worker, broker, store = stage.worker_cpu(), stage.broker_cpu(), stage.store_cpu()
        begin = stage.produce("release", step="resume", keys=keys)["begin_ns"]
        stage.wait_count(before + count, timeout=240)
        recorded = stage.driver.ask("recorded", count=count)
        return {
            "rate": count / (recorded - begin) * 1e9,
            "count": float(count),
            "worker_cpu_us": (stage.worker_cpu() - worker) / count * 1e6,
            "broker_cpu_us": (stage.broker_cpu() - broker) / count * 1e6,
            "store_cpu_us": (stage.store_cpu() - store) / count * 1e6,
        }


def _one(stage: Stage) -> dict[str, float]:
    return _run(stage, 1)


def _many(stage: Stage) -> dict[str, float]:
    return _run(stage, _KEYS)


_WHO = (
    taskq("a Python task, PostgreSQL", "postgres", record=True, mode="async"),
    taskq("a Python task, SQLite", record=True, mode="async"),
    Contestant("a URL, PostgreSQL", "taskq_http_peer", TASKQ_HTTP_POSTGRES.settings, "postgres"),
)
ONE = Measure("release_one_key", "messages that waited for their key, 1 key", "messages/s", _WHO, _one)
MANY = Measure("release_100_keys", "messages that waited for their keys, 100 keys", "messages/s", _WHO, _many)
