"""Enqueue in windows of 500, one wait for each window's confirms: `enqueue_many`, `gather` of 500, or threads.

No worker runs.
"""

from __future__ import annotations

import time
from typing import Any

from benchmarks.board import Board
from benchmarks.contestants import PEERS, TASKQ, TASKQ_ASYNC
from benchmarks.measure import Measure, rate
from benchmarks.peers.base import Peer
from benchmarks.stage import Stage

_WINDOW = 500


def produce(peer: Peer, board: Board, seconds: float) -> Any:
    """Send for so long; how many, in what time."""
    return _produce_sync(peer, seconds) if peer.sync else _produce_async(peer, seconds)


def _produce_sync(peer: Peer, seconds: float) -> dict[str, Any]:
    count, begin = 0, time.perf_counter()
    end = begin + seconds
    while time.perf_counter() < end:
        peer.send_many(range(count, count + _WINDOW))
        count += _WINDOW
    return {"count": count, "seconds": time.perf_counter() - begin}


async def _produce_async(peer: Peer, seconds: float) -> dict[str, Any]:
    count, begin = 0, time.perf_counter()
    end = begin + seconds
    while time.perf_counter() < end:
        await peer.asend_many(range(count, count + _WINDOW))
        count += _WINDOW
    return {"count": count, "seconds": time.perf_counter() - begin}


def run(stage: Stage) -> dict[str, float]:
    """Messages a second."""
    stage.produce("warm", count=50)
    return rate(stage.produce("enqueue_many", seconds=stage.scale.seconds))


MEASURE = Measure("enqueue_many", "enqueue in windows of 500", "messages/s", (TASKQ, TASKQ_ASYNC, *PEERS), run)
