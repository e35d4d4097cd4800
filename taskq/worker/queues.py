"""One logical queue in one worker: its units, as many and of the kind that its row asks for, and its rate gate."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from taskq.broker.base import BrokerQueue, Kind
from taskq.dispatch import broker_queues, task_queue
from taskq.errors import TaskqError
from taskq.group import Group
from taskq.queue import QueueRecord, RateLimit
from taskq.store.base import Permits, Store
from taskq.worker.keys import AHEAD_MOST
from taskq.worker.units import RETRY_SUBSCRIBE, FifoUnit, Host, OpenUnit, SlotUnit, Unit

logger = logging.getLogger("taskq.worker")


class QueueServer:
    """See the module. `spawn` runs a coroutine for as long as the worker lives."""

    def __init__(
        self,
        record: QueueRecord,
        *,
        host: Host,
        store: Store,
        spawn: Callable[..., None],
        shared: Callable[[str], bool],
    ) -> None:
        self.record = record
        self.units: list[Unit] = []
        self.closing: list[Unit] = []
        self.stopping = False
        self._host = host
        self._store = store
        self._spawn = spawn
        self._shared = shared
        self._applying = asyncio.Lock()
        self.gate = RateGate(store, host, on_open=self.pump)

    @property
    def paused(self) -> bool:
        return self.record.paused

    @property
    def held(self) -> int:
        """Messages in hand, from their start to their acknowledgement."""
        return sum(len(unit.held) for unit in [*self.units, *self.closing])

    def shared(self) -> bool:
        """Whether other workers serve this queue too."""
        return self._shared(self.record.name)

    def gate_open(self) -> bool:
        """Whether the queue's rate lets anything start now."""
        return self.record.rate_limit is None or self.gate.open

    def pump(self) -> None:
        for unit in self.units:
            unit.pump()
            unit.changed.set()

    # -- units ------------------------------------------------------------------------------

    async def apply(self, record: QueueRecord) -> None:
        """Make the units what the record asks for."""
        async with self._applying:
            if record.version < self.record.version or self.stopping:
                return
            reborn = set(broker_queues(self.record)) != set(broker_queues(record))
            self.record = record
            kind = self._kind()
            if self.units and (reborn or not isinstance(self.units[0], kind)):
                await self._retire(list(self.units))
            if kind is SlotUnit:
                await self._slots(record.parallelism or 1)
            elif not self.units:
                for queue in broker_queues(record):
                    await self._host.broker.declare(queue)
                    self._add(kind(queue, self, self._host))
            for unit in self.units:
                unit.changed.set()
            self.pump()

    def _kind(self) -> type[Unit]:
        if self.record.born_fifo or self.record.partitions is not None:
            return FifoUnit
        return OpenUnit if self.record.parallelism is None else SlotUnit

    async def _slots(self, wanted: int) -> None:
        queue = task_queue(self.record.name, self.record)
        await self._host.broker.declare(queue)
        present = {unit.slot.index: unit for unit in self.units if isinstance(unit, SlotUnit) and not unit.gone}
        for index in range(wanted):
            if index not in present:
                slot = BrokerQueue(Kind.SLOT, self.record.name, index, ordered=True)
                await self._host.broker.declare(slot)
                self._add(SlotUnit(slot, queue, self, self._host, self.rebalance))
        leaving = [unit for index, unit in present.items() if index >= wanted]
        for unit in leaving:  # all at once: a deletion takes a while, and nothing more is to start meanwhile
            unit.gone = True
            self._let_go(unit)
        for unit in leaving:  # a holder elsewhere, too, settles what it runs and lets go
            await self._host.broker.delete(unit.slot)
        self.rebalance()

    def rebalance(self) -> None:
        """Hold no more slots than this process may run, and stand in line for none beyond that."""
        slots = [unit for unit in self.units if isinstance(unit, SlotUnit)]
        most = min(self.record.worker_parallelism or len(slots), self._host.places.capacity)
        holding = [unit for unit in slots if unit.holding]
        for unit in slots:
            excess = len(holding) >= most and (not unit.holding or unit in holding[most:])
            if excess != unit.excess:
                unit.excess = excess
                unit.changed.set()

    def _add(self, unit: Unit) -> None:
        if self.stopping:
            return  # told to stop while the queue was being declared
        self.units.append(unit)
        self._spawn(self._live, unit)

    async def _live(self, unit: Unit) -> None:
        await unit.run()
        if unit in self.units:
            self.units.remove(unit)
        if unit in self.closing:
            self.closing.remove(unit)
        if isinstance(unit, SlotUnit) and unit.gone:
            await self._replace(unit)

    async def _replace(self, unit: SlotUnit) -> None:
        """Somebody deleted the slot, by an older row maybe: when the present row has it, it is made again."""
        while not self.stopping and unit.slot.index < (self.record.parallelism or 0):
            try:
                record = await self._store.get_queue(self.record.name)
                if record is not None:
                    await self.apply(record)
                return
            except TaskqError as error:
                logger.warning("slot %s.%d: %s", unit.slot.name, unit.slot.index, error)
                await self._host.clock.sleep(RETRY_SUBSCRIBE)

    def _let_go(self, unit: Unit) -> None:
        self.units.remove(unit)
        self.closing.append(unit)
        unit.stop()

    async def _retire(self, units: list[Unit]) -> None:
        for unit in units:
            self._let_go(unit)
        for unit in units:
            await unit.ended.wait()

    def stop(self) -> None:
        """Take nothing new."""
        self.stopping = True
        for unit in self.units:
            unit.stop()

    async def stopped(self) -> None:
        """Return once all units have ended."""
        for unit in [*self.units, *self.closing]:
            await unit.ended.wait()


@dataclass(frozen=True, slots=True)
class Grant:
    """The right to one start.

    asked   float, monotonic: not later than its stamp
    after   int: the starts that the window had counted before this grant
    within  float, seconds from `asked`: the window allows for a start until then
    """

    asked: float
    after: int
    within: float


class RateGate:
    """A queue's rolling window, asked for in groups; closed until the window names the next start.

    A grant that comes late, so that its start would be counted too early, is stamped again, with more allowance each
    time, and asked for anew if its stamp has left the window meanwhile: a window is never exceeded.
    """

    def __init__(self, store: Store, host: Host, *, on_open: Callable[[], None]) -> None:
        self.open = True
        self._store = store
        self._host = host
        self._on_open = on_open
        self._queue = ""
        self._rate = RateLimit(1)
        self._grants: Group[None, int | None] | None = None
        self._again: Group[tuple[int, float], bool] | None = None
        self._spawn: Callable[..., None]

    async def take(self, queue: str, rate: RateLimit, spawn: Callable[..., None]) -> Grant | None:
        """The right to start at once, to be shown to `begun` then; None: the gate is closed until the window says."""
        self._queue, self._rate, self._spawn = queue, rate, spawn
        if self._grants is None or self._again is None:
            clock = self._host.clock
            self._grants = Group(self._ask, clock=clock, what=f"asking for the rate of {queue}")
            self._again = Group(self._restamp, clock=clock, what=f"stamping late starts of {queue}")
            spawn(self._grants.run)
            spawn(self._again.run)
        grant: Grant | None = None
        while grant is None or self._late(grant):
            asked = self._host.clock.monotonic()
            if grant is not None:
                ahead = min(2 * (asked - grant.asked), AHEAD_MOST)
                if await self._again.call((grant.after, ahead)):
                    grant = Grant(asked, grant.after, ahead)
                    continue
            after = await self._grants.call(None)
            if after is None:
                return None
            grant = Grant(asked, after, rate.slack)
        return grant

    def begun(self, grant: Grant) -> None:
        """The start happens now; if it was held up since its grant, it counts from now."""
        if self._late(grant):
            assert self._again is not None
            self._spawn(self._again.call, (grant.after, 0.0))

    def _late(self, grant: Grant) -> bool:
        return self._host.clock.monotonic() - grant.asked > grant.within

    async def _restamp(self, late: list[tuple[int, float]]) -> list[bool]:
        """(starts before it, seconds ahead), of all that are late together: later stamps are always safe."""
        after, ahead = min(after for after, _ in late), max(ahead for _, ahead in late)
        return [await self._store.restamp(self._queue, after, ahead)] * len(late)

    async def _ask(self, asked: list[None]) -> list[int | None]:
        """For each the count of starts before its grant, or None."""
        permits: Permits = await self._store.take_starts(self._queue, len(asked), self._rate, self._rate.slack)
        if permits.granted < len(asked):
            self.open = False
            asyncio.get_running_loop().call_later(max(permits.retry_in, 0.001), self._reopen)
        before = permits.reached - permits.granted
        return [before if index < permits.granted else None for index in range(len(asked))]

    def _reopen(self) -> None:
        self.open = True
        self._on_open()
