"""Round trips: enqueue, run, result back in the sender's hands; one at a time, and 100 in flight."""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import Any

from benchmarks.board import Board
from benchmarks.contestants import (
    AIO_PIKA,
    FASTSTREAM,
    KEEPERS,
    TASKQ_RESULT_POSTGRES,
    TASKQ_RESULT_SQLITE,
    Contestant,
)
from benchmarks.measure import Measure, percentiles, rate
from benchmarks.peers.base import Peer
from benchmarks.stage import Stage

_WIDTH = 100


def produce(peer: Peer, board: Board, samples: int = 0, seconds: float = 0) -> Any:
    """So many trips one after the other, or for so long with 100 in flight."""
    if samples:
        return _alone_sync(peer, samples) if peer.sync else _alone_async(peer, samples)
    return _flight_sync(peer, seconds) if peer.sync else _flight_async(peer, seconds)


def _alone_sync(peer: Peer, samples: int) -> dict[str, Any]:
    latencies = []
    for number in range(samples):
        begin = time.perf_counter()
        peer.call(number)
        latencies.append(time.perf_counter() - begin)
    return {"latencies": latencies}


async def _alone_async(peer: Peer, samples: int) -> dict[str, Any]:
    latencies = []
    for number in range(samples):
        begin = time.perf_counter()
        await peer.acall(number)
        latencies.append(time.perf_counter() - begin)
    return {"latencies": latencies}


def _flight_sync(peer: Peer, seconds: float) -> dict[str, Any]:
    """Sync programs send 100, then wait for the 100: the nearest that they offer."""
    count, begin = 0, time.perf_counter()
    end = begin + seconds
    while time.perf_counter() < end:
        peer.call_many(range(count, count + _WIDTH))
        count += _WIDTH
    return {"count": count, "seconds": time.perf_counter() - begin}


async def _flight_async(peer: Peer, seconds: float) -> dict[str, Any]:
    numbers = itertools.count()
    begin = time.perf_counter()
    end = begin + seconds

    async def client() -> int:
        made = 0
        while time.perf_counter() < end:
            await peer.acall(next(numbers))
            made += 1
        return made

    counts = await asyncio.gather(*[client() for _ in range(_WIDTH)])
    return {"count": sum(counts), "seconds": time.perf_counter() - begin}


def _alone(stage: Stage) -> dict[str, float]:
    stage.start_ready_workers(1)
    stage.produce("round_trip", samples=20)
    return percentiles(stage.produce("round_trip", samples=stage.scale.samples)["latencies"])


def _flight(stage: Stage) -> dict[str, float]:
    stage.start_ready_workers(1)
    stage.produce("round_trip", samples=20)
    return rate(stage.produce("round_trip", seconds=stage.scale.seconds))


def _with_results(contestant: Contestant) -> Contestant:
    return Contestant(contestant.name, contestant.module, contestant.settings | {"results": True}, contestant.store)


_OURS = (
    TASKQ_RESULT_SQLITE,
    Contestant("taskq, SQLite, async", "taskq_peer", TASKQ_RESULT_SQLITE.settings | {"mode": "async"}, "sqlite"),
    Contestant(
        "taskq, PostgreSQL, async", "taskq_peer", TASKQ_RESULT_POSTGRES.settings | {"mode": "async"}, "postgres"
    ),
)
_WHO = (*_OURS, *(_with_results(peer) for peer in (*KEEPERS, FASTSTREAM, AIO_PIKA)))
ALONE = Measure("round_trip", "round trip with result", "ms", _WHO, _alone, figure="p50", lower=True)
FLIGHT = Measure("round_trip_100", "round trips, 100 in flight", "results/s", _WHO, _flight)
