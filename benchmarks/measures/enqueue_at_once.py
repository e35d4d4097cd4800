"""Enqueue with 100 publishes under way at once: `gather` in async programs, 8 threads in sync ones. No worker runs."""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import Any

from benchmarks.board import Board
from benchmarks.contestants import PEERS, TASKQ_ASYNC
from benchmarks.measure import Measure, rate
from benchmarks.peers.base import Peer
from benchmarks.stage import Stage

_WIDTH = 100


def produce(peer: Peer, board: Board, seconds: float) -> Any:
    """Send for so long; how many, in what time."""
    return _produce_sync(peer, seconds) if peer.sync else _produce_async(peer, seconds)


def _produce_sync(peer: Peer, seconds: float) -> dict[str, Any]:
    count, begin = 0, time.perf_counter()
    end = begin + seconds
    while time.perf_counter() < end:
        peer.send_many(range(count, count + _WIDTH))
        count += _WIDTH
    return {"count": count, "seconds": time.perf_counter() - begin}


async def _produce_async(peer: Peer, seconds: float) -> dict[str, Any]:
    numbers = itertools.count()
    begin = time.perf_counter()
    end = begin + seconds

    async def client() -> int:
        sent = 0
        while time.perf_counter() < end:
            await peer.asend(next(numbers))
            sent += 1
        return sent

    counts = await asyncio.gather(*[client() for _ in range(_WIDTH)])
    return {"count": sum(counts), "seconds": time.perf_counter() - begin}


def run(stage: Stage) -> dict[str, float]:
    """Messages a second."""
    stage.produce("warm", count=50)
    return rate(stage.produce("enqueue_at_once", seconds=stage.scale.seconds))


MEASURE = Measure("enqueue_at_once", "enqueue, 100 at once", "messages/s", (TASKQ_ASYNC, *PEERS), run)
