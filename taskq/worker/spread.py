"""Who should hold how much: workers announce what they are active on, and those above their share hand over.

Values and arithmetic; `worker.worker` sends the announcements and performs the hand-overs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

ANNOUNCE_EVERY = 10.0  # seconds
FORGET_AFTER = 35.0  # seconds without an announcement


@dataclass(slots=True)
class Peer:
    """Another worker, as it last announced itself.

    queues   names of the queues that it serves
    seen     float, monotonic, by this process's clock
    """

    queues: frozenset[str]
    seen: float
    info: dict[str, Any] = field(default_factory=dict)


class Peers:
    """The workers on this broker and prefix, this one left out."""

    def __init__(self) -> None:
        self._peers: dict[str, Peer] = {}

    def heard(self, worker: str, queues: Iterable[str], now: float, info: dict[str, Any] | None = None) -> bool:
        """Note an announcement; True for a worker that was not known, or serves other queues now."""
        before = self._peers.get(worker)
        peer = Peer(frozenset(queues), now, info or {})
        self._peers[worker] = peer
        return before is None or before.queues != peer.queues

    def left(self, worker: str) -> None:
        """It said goodbye."""
        self._peers.pop(worker, None)

    def prune(self, now: float) -> None:
        """Forget those that have not been heard of."""
        for worker in [worker for worker, peer in self._peers.items() if now - peer.seen > FORGET_AFTER]:
            del self._peers[worker]

    def serving(self, queue: str) -> int:
        """How many others serve the queue."""
        return sum(queue in peer.queues for peer in self._peers.values())

    def __len__(self) -> int:
        return len(self._peers)

    def __contains__(self, worker: str) -> bool:
        return worker in self._peers


def share(queues: Iterable[str], peers: Peers) -> int:
    """How many of these FIFO queues and lanes (a name for each) one worker should be active on at most."""
    fair = sum(1 / (1 + peers.serving(queue)) for queue in queues)
    return math.ceil(fair - 1e-9)


def slot_share(slots: int, queue: str, peers: Peers) -> int:
    """How many slots of a limited queue one worker should hold at most."""
    return math.ceil(slots / (1 + peers.serving(queue)))
