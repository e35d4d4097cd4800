"""A lone task: from the call of enqueue to the first line of the task, one at a time, with pauses between."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from benchmarks.board import Board
from benchmarks.contestants import AIO_PIKA_CLASSIC, PEERS, TASKQ, TASKQ_ASYNC, TASKQ_SQLITE
from benchmarks.measure import Measure, percentiles
from benchmarks.peers.base import Peer
from benchmarks.stage import Stage

_PAUSE = 0.004  # seconds: the worker has acknowledged and lies idle again


def produce(peer: Peer, board: Board, samples: int) -> Any:
    """Send one after the other; the latencies in seconds."""
    return _produce_sync(peer, board, samples) if peer.sync else _produce_async(peer, board, samples)


def _produce_sync(peer: Peer, board: Board, samples: int) -> dict[str, Any]:
    latencies = []
    for number in range(samples):
        begin = time.monotonic_ns()
        peer.send(number)
        latencies.append((board.wait_stamp(number, 30) - begin) / 1e9)
        time.sleep(_PAUSE)
    return {"latencies": latencies}


async def _produce_async(peer: Peer, board: Board, samples: int) -> dict[str, Any]:
    latencies = []
    for number in range(samples):
        begin = time.monotonic_ns()
        await peer.asend(number)
        while not (stamp := board.stamp(number)):
            await asyncio.sleep(0.0002)
            if time.monotonic_ns() - begin > 30e9:
                raise TimeoutError(f"task {number} did not begin within 30 s")
        latencies.append((stamp - begin) / 1e9)
        await asyncio.sleep(_PAUSE)
    return {"latencies": latencies}


def run(stage: Stage) -> dict[str, float]:
    """Milliseconds, p50 and p99."""
    stage.start_ready_workers(1)
    return percentiles(stage.produce("lone_task", samples=stage.scale.samples)["latencies"])


_WHO = (TASKQ, TASKQ_ASYNC, TASKQ_SQLITE, *PEERS, AIO_PIKA_CLASSIC)
MEASURE = Measure("lone_task", "a lone task, enqueue to first line", "ms", _WHO, run, figure="p50", lower=True)
