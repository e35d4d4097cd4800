"""Publishes through one `taskq api` process, and what uvicorn itself answers: 100 connections, one request on each.

No worker runs. An answer of taskq's is a row in the store and a confirm of the broker.
"""

from __future__ import annotations

from typing import Any

from benchmarks.board import Board
from benchmarks.contestants import BARE_HTTP, TASKQ_HTTP_POSTGRES, TASKQ_HTTP_SQLITE
from benchmarks.http_load import load
from benchmarks.measure import Measure, rate
from benchmarks.stage import Stage

_WARM = 0.5  # seconds


async def produce(peer: Any, board: Board, step: str, seconds: float = 0.0) -> dict[str, Any]:
    """The server's command, or requests for so long; only the peers of HTTP know them."""
    if step == "server":
        return {"command": peer.server_command()}
    return await load(peer.publish_url(-1), seconds)


def run(stage: Stage) -> dict[str, float]:
    """Messages a second; `worker_cpu_us` is the server's."""
    stage.start_another(stage.produce("api_publish", step="server")["command"])
    stage.produce("api_publish", step="load", seconds=_WARM)
    return rate(stage.produce("api_publish", step="load", seconds=stage.scale.seconds))


_WHO = (TASKQ_HTTP_POSTGRES, TASKQ_HTTP_SQLITE, BARE_HTTP)
MEASURE = Measure("api_publish", "publishes over HTTP, 1 process, 100 connections", "messages/s", _WHO, run)
