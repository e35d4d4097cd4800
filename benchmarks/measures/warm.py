"""Not a measure: a few tasks that nobody times, to see that workers are there."""

from __future__ import annotations

from typing import Any

from benchmarks.board import Board
from benchmarks.peers.base import Peer


def produce(peer: Peer, board: Board, count: int) -> Any:
    """Enqueue so many tasks."""
    if peer.sync:
        peer.send_many([-1] * count)
        return {}

    async def send() -> dict[str, Any]:
        await peer.asend_many([-1] * count)
        return {}

    return send()
