"""The other workers, and what processes tell each other: announcements, broadcasts, and who hands over what."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import msgpack

from taskq.broker.base import Broker
from taskq.clock import Clock, to_ms
from taskq.dispatch import control
from taskq.keeper import Keeper
from taskq.worker.queues import QueueServer
from taskq.worker.run import Places
from taskq.worker.spread import ANNOUNCE_EVERY, Peers, share, slot_share
from taskq.worker.units import FifoUnit, SlotUnit, Unit

logger = logging.getLogger("taskq.worker")

STEP_EVERY = 1.0  # seconds between hand-overs
DUE_SOON = timedelta(seconds=3)  # the keeper's leader looks by itself for what is due later


@dataclass(frozen=True, slots=True)
class Hearers:
    """What this worker does about what it hears.

    cancel    the message of this id is to be cancelled
    granted   their flow keys let these messages go
    want      (message id, reply queue): a process waits for it
    changed   the store's queues or cancels have changed
    rotated   the keys that deliveries are signed with have changed
    missed    broadcasts were missed: read everything they could have told
    """

    cancel: Callable[[str], None]
    granted: Callable[[list[str]], None]
    want: Callable[[str, str], None]
    changed: Callable[[], None]
    rotated: Callable[[], None]
    missed: Callable[[], None]


class Neighbours:
    """One worker among the others."""

    def __init__(
        self,
        *,
        worker: str,
        broker: Broker,
        clock: Clock,
        places: Places,
        servers: Mapping[str, QueueServer],
        peers: Peers,
        keeper: Callable[[], Keeper | None],
        beat: Callable[[], str],
        hearers: Hearers,
    ) -> None:
        self.peers = peers
        self._id = worker
        self._broker = broker
        self._clock = clock
        self._places = places
        self._servers = servers
        self._keeper = keeper
        self._beat = beat
        self._hearers = hearers
        self._announce_soon = asyncio.Event()
        self._last_step = 0.0

    async def listen(self) -> None:
        """Hear broadcasts from now on."""
        await self._broker.listen(self._on_control, self._on_restored)

    def leave(self) -> None:
        """Say goodbye."""
        self._broker.broadcast(control({"bye": self._id}))

    async def announcing(self) -> None:
        """Announce this worker every few seconds, and whenever somebody asks; until cancelled."""
        while True:
            try:
                async with asyncio.timeout(ANNOUNCE_EVERY):
                    await self._announce_soon.wait()
            except TimeoutError:
                pass
            self._announce_soon.clear()
            self.peers.prune(self._clock.monotonic())
            self.announce()

    def announce(self, *, join: bool = False) -> None:
        """Say what this worker serves and holds; `join` asks all others to answer."""
        body = {"hello": self._id, "queues": list(self._servers), "join": join, "running": self._places.taken}
        held = {name: server.held for name, server in self._servers.items() if server.held}
        body |= {"places": self._places.capacity, "keeper": self._leads(), "beat": self._beat(), "held": held}
        self._broker.broadcast(control(body))

    def _leads(self) -> bool:
        keeper = self._keeper()
        return keeper is not None and keeper.leading

    def _on_control(self, body: bytes) -> None:
        try:
            said = msgpack.unpackb(body)
            match said:
                case {"cancel": str(message_id)}:
                    self._hearers.cancel(message_id)
                case {"want": str(message_id), "reply": str(reply_to)}:
                    self._hearers.want(message_id, reply_to)
                case {"changed": str()}:
                    self._hearers.changed()
                case {"keys": bool()}:
                    self._hearers.rotated()
                case {"granted": list(message_ids)}:
                    self._hearers.granted(message_ids)
                case {"due": int(due)}:
                    keeper = self._keeper()
                    if keeper is not None:
                        keeper.due(due)
                case {"hello": str(worker), "queues": list(queues), "join": bool(join)}:
                    self._heard(worker, queues, said, join=join)
                case {"bye": str(worker)}:
                    self.peers.left(worker)
                case {"who": bool()}:
                    self._announce_soon.set()
                case _:
                    logger.debug("a broadcast of another version: %.200r", said)
        except (ValueError, msgpack.exceptions.UnpackException) as error:
            logger.warning("a broadcast that cannot be read: %s", error)

    def _on_restored(self) -> None:
        self._hearers.missed()
        self._announce_soon.set()

    def _heard(self, worker: str, queues: list[str], said: dict[str, Any], *, join: bool) -> None:
        if worker == self._id:
            return
        new = self.peers.heard(worker, queues, self._clock.monotonic(), said)
        if join:
            # The newcomer stands at the end of every line: whoever only waits goes behind it.
            for server in self._servers.values():
                for unit in server.units:
                    if unit.ordered and not unit.active and not unit.held:
                        unit.step_back()
        if new:
            self._announce_soon.set()

    def due(self, due: datetime) -> None:
        """A message was parked: tell the keeper's leader if it is due before the leader looks by itself."""
        keeper = self._keeper()
        if keeper is not None and keeper.leading:
            keeper.due(to_ms(due))
        elif due - self._clock.now() < DUE_SOON:
            self._broker.broadcast(control({"due": to_ms(due)}))

    def step(self, now: float) -> None:
        """Hand one queue, lane or slot over if this worker is active on more than its share."""
        if not len(self.peers) or now - self._last_step < STEP_EVERY:
            return
        unit = self._above_share()
        if unit is not None:
            self._last_step = now
            unit.step_back()

    def _above_share(self) -> Unit | None:
        fifo = [unit for server in self._servers.values() for unit in server.units if isinstance(unit, FifoUnit)]
        active = [unit for unit in fifo if unit.active and not unit.stepping and unit.server.shared()]
        if len(active) > share([unit.queue.name for unit in fifo], self.peers):
            return active[0]
        for server in self._servers.values():
            slots = [unit for unit in server.units if isinstance(unit, SlotUnit)]
            holding = [unit for unit in slots if unit.holding and not unit.stepping]
            if server.shared() and len(holding) > slot_share(len(slots), server.record.name, self.peers):
                return holding[0]
        return None
