"""Flow control by key, as a worker sees it: the permits of the runs that are here."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from taskq.clock import Clock
from taskq.errors import TaskqError
from taskq.group import Group, insist
from taskq.store.base import Ask, Permit, Store
from taskq.worker.run import Abort, Run

logger = logging.getLogger("taskq.worker")

LEASE = 20.0  # seconds for which a permit counts that nobody renews
RENEW_EVERY = 5.0  # seconds
AHEAD_MOST = 5.0  # seconds by which a stamp that is made again may lie ahead
STOP_AFTER = 15.0  # seconds without a renewal after which a run is stopped, before its permit counts no longer


@dataclass(slots=True)
class Held:
    """A permit.

    asked, until  float, monotonic: not later than its stamp; its run is stopped then
    within        float, seconds from `asked`: the key's window allows for a start until then
    """

    run: Run
    permit: Permit
    asked: float
    within: float
    until: float


class Keys:
    """The permits of one worker.

    Args:
        bounded: all keys together are limited.
        spawn: runs a coroutine for as long as the worker lives.
    """

    def __init__(self, *, store: Store, clock: Clock, worker: str, bounded: bool, spawn: Callable[..., None]) -> None:
        self.asks: Group[Ask, Permit] = Group(self._ask, clock=clock, what="asking keys for permits")
        self._store = store
        self._clock = clock
        self._worker = worker
        self._bounded = bounded
        self._spawn = spawn
        self._held: dict[str, Held] = {}
        self._renewed = 0.0

    async def _ask(self, asks: list[Ask]) -> list[Permit]:
        return await self._store.take_permits(asks, LEASE, bounded=self._bounded)

    async def take(self, run: Run) -> Permit:
        """The right to start, or when to ask again."""
        flow, held = run.message.flow, None
        assert flow is not None
        while held is None or self._late(held):
            asked = self._clock.monotonic()
            if held is not None:
                # Its start would be counted too early: it is stamped again, with more allowance each time, unless its
                # stamp has left the window; then somebody else may have started in its place, and it asks anew.
                ahead = min(2 * (asked - held.asked), AHEAD_MOST)
                if await self._insist(flow.key, held.permit.before, ahead):
                    held.asked, held.within = asked, ahead
                    continue
            permit = await self.asks.call(Ask(run.message, self._worker, run.unit.in_place))
            if not permit.granted:
                self._held.pop(run.message.id, None)
                return permit
            held = Held(run, permit, asked, permit.rate.slack if permit.rate else 0.0, asked + STOP_AFTER)
            self._held[run.message.id] = held
        return held.permit

    async def _insist(self, key: str, before: int, ahead: float) -> bool:
        return await insist(
            lambda: self._store.restamp_flow(key, before, ahead), clock=self._clock, what="permits of keys"
        )

    def _late(self, held: Held) -> bool:
        return held.permit.rate is not None and self._clock.monotonic() - held.asked > held.within

    def begun(self, run: Run) -> None:
        """Its user's code begins now: if it was held up since its permit, it counts from now."""
        held = self._held.get(run.message.id)
        if held is not None and held.run is run and self._late(held):
            assert run.message.flow is not None
            self._spawn(self._insist, run.message.flow.key, held.permit.before, 0.0)

    async def give_back(self, run: Run) -> None:
        """It ended without an outcome: its message keeps its place for a while."""
        if self.ended(run):
            await self._try(self._store.give_back_permits(self._worker, [run.message.id]))

    def ended(self, run: Run) -> bool:
        """Its permit is freed by whoever settles it; whether it had one."""
        held = self._held.get(run.message.id)
        if held is None or held.run is not run:
            return False
        del self._held[run.message.id]
        return True

    def tick(self, now: float) -> None:
        """Renew what is held; stop what could not be renewed, before somebody else may start in its place."""
        if not self._held:
            return
        if now - self._renewed >= RENEW_EVERY:
            self._renewed = now
            self._spawn(self._renew, dict(self._held))
        for held in list(self._held.values()):
            if now >= held.until:
                logger.warning("message %s: its permit could not be renewed: this run is stopped", held.run.message.id)
                held.run.abort_with(Abort.LOST)

    async def _renew(self, asked_for: dict[str, Held]) -> None:
        asked = self._clock.monotonic()
        renewed = await self._try(self._store.renew_permits(self._worker, LEASE))
        if renewed is None:
            return
        alive = set(renewed)
        for message_id, held in asked_for.items():
            if message_id.replace("\0", "\ufffd") in alive:  # as the store cleans text
                held.until = asked + STOP_AFTER
            elif self._held.get(message_id) is held:
                held.until = asked  # it has lapsed, or another worker has the message

    async def _try(self, work: Coroutine[Any, Any, Any]) -> Any:
        try:
            return await work
        except TaskqError as error:
            logger.warning("permits of keys: %s", error)
            return None
