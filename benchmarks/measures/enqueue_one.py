"""Enqueue one by one: each call returns after the broker's confirm, then the next is made. No worker runs."""

from __future__ import annotations

import time
from typing import Any

from benchmarks.board import Board
from benchmarks.contestants import PEERS, TASKQ, TASKQ_ASYNC
from benchmarks.measure import Measure, rate
from benchmarks.peers.base import Peer
from benchmarks.stage import Stage


def produce(peer: Peer, board: Board, seconds: float) -> Any:
    """Send for so long; how many, in what time."""
    return _produce_sync(peer, seconds) if peer.sync else _produce_async(peer, seconds)


def _produce_sync(peer: Peer, seconds: float) -> dict[str, Any]:
    count, begin = 0, time.perf_counter()
    end = begin + seconds
    while time.perf_counter() < end:
        peer.send(count)
        count += 1
    return {"count": count, "seconds": time.perf_counter() - begin}


async def _produce_async(peer: Peer, seconds: float) -> dict[str, Any]:
    count, begin = 0, time.perf_counter()
    end = begin + seconds
    while time.perf_counter() < end:
        await peer.asend(count)
        count += 1
    return {"count": count, "seconds": time.perf_counter() - begin}


def run(stage: Stage) -> dict[str, float]:
    """Messages a second."""
    stage.produce("warm", count=50)
    return rate(stage.produce("enqueue_one", seconds=stage.scale.seconds))


MEASURE = Measure("enqueue_one", "enqueue one by one", "messages/s", (TASKQ, TASKQ_ASYNC, *PEERS), run)
