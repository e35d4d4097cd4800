"""A lone message over HTTP: from the first byte of its publish to its arrival at the endpoint, one at a time.

The bare path is a round trip to uvicorn and then a post by httpx.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from benchmarks.board import Board
from benchmarks.contestants import BARE_HTTP, TASKQ_HTTP_POSTGRES, TASKQ_HTTP_SQLITE
from benchmarks.http_load import connect, post
from benchmarks.measure import Measure, percentiles
from benchmarks.stage import Stage

_PAUSE = 0.004  # seconds: the worker has acknowledged and lies idle again
_WARM = 20


async def produce(peer: Any, board: Board, samples: int) -> dict[str, Any]:
    """Publish one after the other; the latencies and the round trips to the server, in seconds."""
    connection = await connect(peer.publish_url(0))
    latencies, answers = [], []
    for number in range(samples + _WARM):
        data = post(peer.publish_url(number))
        begin = time.monotonic_ns()
        await connection.request(data)
        answered = time.monotonic_ns()
        await peer.forward(number)
        while not (stamp := board.stamp(number)):
            await asyncio.sleep(0.0002)
            if time.monotonic_ns() - begin > 30e9:
                raise TimeoutError(f"message {number} did not arrive within 30 s")
        latencies.append((stamp - begin) / 1e9)
        answers.append((answered - begin) / 1e9)
        await asyncio.sleep(_PAUSE)
    connection.close()
    return {"latencies": latencies[_WARM:], "answers": answers[_WARM:]}


def run(stage: Stage) -> dict[str, float]:
    """Milliseconds, p50 and p99; `answered_…` those of the publish alone."""
    with stage.endpoint():
        if stage.contestant.ours:
            stage.start_ready_workers(1)
        stage.start_another(stage.produce("api_publish", step="server")["command"])
        answer = stage.produce("api_latency", samples=stage.scale.samples)
        answered = percentiles(answer["answers"])
        return percentiles(answer["latencies"]) | {f"answered_{name}": answered[name] for name in ("p50", "p99")}


_WHO = (TASKQ_HTTP_POSTGRES, TASKQ_HTTP_SQLITE, BARE_HTTP)
MEASURE = Measure("api_latency", "a lone message over HTTP, publish to arrival", "ms", _WHO, run, "p50", lower=True)
