"""The beat: who holds its seat sends what the schedules say, each tick once.

A tick exists by its row in the store, added in one transaction with its schedule's step and the
outbox row of its message; only who added it publishes it, and the keeper does if he died. So two
leaders at one moment send nothing twice, and a leader that dies between two steps loses nothing.
All instants are compared with the store's clock.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime, timedelta

from taskq.broker.base import Broker, BrokerQueue, Kind
from taskq.clock import Clock
from taskq.dispatch import Dispatcher, limits
from taskq.errors import TaskqError
from taskq.message import Message
from taskq.queue import Queue, QueueRecord
from taskq.schedule import Overlap, Schedule, tick_of
from taskq.seat import Seat
from taskq.settings import Settings
from taskq.store.base import Advance, ScheduleRecord, Store, Tick

logger = logging.getLogger("taskq.beat")

SEAT = BrokerQueue(Kind.SLOT, "beat", ordered=True)
BATCH = 500  # schedules looked at together
LOOK_EVERY = 1.0  # seconds: a change counts within two
KNOWN_FOR = 5.0  # seconds that a queue's row is remembered
HELD_FOR = 1.0  # seconds until a tick that waits for the one before it is looked at again
GRACE = 60.0  # seconds by which a tick may be late and is sent all the same: a leader died, a broker restarted
REPAIR_AFTER = 10.0  # seconds after which the keeper publishes a tick whose leader has not


class Beat:
    """One process's candidate for the seat.

    Args:
        declared: the schedules of the app's code, each with the queue of its messages.
    """

    def __init__(
        self,
        *,
        declared: Sequence[tuple[Schedule, Queue]],
        broker: Broker,
        store: Store,
        dispatcher: Dispatcher,
        clock: Clock,
        settings: Settings,
    ) -> None:
        self.ticks = 0  # sent by this process
        self._app = settings.name
        self._declared = declared
        self._store = store
        self._dispatcher = dispatcher
        self._clock = clock
        self._behind = timedelta(0)  # the store's clock less ours
        self._queues: dict[str, tuple[float, QueueRecord | None]] = {}
        self._seat = Seat(SEAT, self._lead, broker=broker, store=store, clock=clock, settings=settings)

    @property
    def leading(self) -> bool:
        """It holds the seat."""
        return self._seat.leading

    async def run(self) -> None:
        """Bring the store up to what the code declares, stand for the seat, and lead while it is held; until `stop`."""
        await self._seat.insist("bringing schedules up to date", self._reconcile)
        await self._seat.run()

    async def stop(self) -> None:
        """Leave the seat to the next in line."""
        await self._seat.stop()

    async def _reconcile(self) -> None:
        now = await self._store.now()
        for queue in {queue.name: queue for _, queue in self._declared if limits(queue)}.values():
            await self._store.ensure_queue(queue)
        rows = [(schedule.to_row(self._app), schedule.first_after(now)) for schedule, _ in self._declared]
        for record in await self._store.reconcile_schedules(self._app, rows):
            if record.origin != "code":
                logger.warning("schedule %s: what was set at run time stands over the code's", record.row.id)

    async def _lead(self) -> None:
        await self._seat.insist("sending what is scheduled", self._rounds)

    async def _rounds(self) -> None:
        while True:
            if not await self._round():
                await self._sleep()

    async def _round(self) -> bool:
        """Send what is due; False if nothing was."""
        now, records = await self._store.due_schedules(self._app, BATCH)
        self._behind = now - self._clock.now()
        if not records:
            return False
        busy = await self._busy(records)
        advances = [self._advance(record, now, record.last_message_id in busy) for record in records]
        mine = await self._store.fire(advances)
        await self._publish([tick for ticks in mine for tick in ticks])
        return True

    async def _busy(self, records: Sequence[ScheduleRecord]) -> set[str]:
        """Messages of earlier ticks that have no outcome yet, of schedules that care."""
        last = [
            record.last_message_id
            for record in records
            if record.last_message_id is not None and '"overlap"' in record.row.policy
        ]
        known = await self._store.get_many(last) if last else {}
        return {id for id, message in known.items() if not message.status.final}

    def _advance(self, record: ScheduleRecord, now: datetime, busy: bool) -> Advance:
        """What one schedule sends now, and where it stands then. One that cannot be read stops, and says so."""
        row = record.row
        try:
            schedule = Schedule.of(record)
            if busy and schedule.overlap is Overlap.QUEUE:
                later = now + timedelta(seconds=HELD_FOR)
                return Advance(row.app, row.id, record.version, record.seen_at, later, error=record.error)
            turn = schedule.plan.due(row.id, seen=record.seen_at, now=now, runs=record.fired, grace=GRACE)
            instants = turn.instants
            if schedule.overlap is not Overlap.ALLOW:
                instants = () if busy else instants[-1:]
            ticks = tuple(self._tick(schedule, instant, now) for instant in instants)
            return Advance(row.app, row.id, record.version, turn.seen, turn.next_at, ticks)
        except (TaskqError, ValueError) as error:
            logger.error("schedule %s cannot go on: %s", row.id, error)
            return Advance(row.app, row.id, record.version, now, None, error=f"{type(error).__name__}: {error}")

    def _tick(self, schedule: Schedule, instant: datetime, now: datetime) -> Tick:
        return tick_of(schedule, instant, now, repair_at=now + timedelta(seconds=REPAIR_AFTER))

    async def _publish(self, ticks: Sequence[Tick]) -> None:
        if not ticks:
            return
        copies = [(tick.message, await self._queue(tick.message)) for tick in ticks]
        results = await self._dispatcher.send_many(copies)
        done = []
        for tick, error in zip(ticks, results, strict=True):
            if error is None:
                done.append(tick.outbox.id)
            else:
                logger.warning("publishing %s: %s; the keeper will repeat it", tick.message.id, error)
        self.ticks += len(done)
        await self._store.published(done)

    async def _queue(self, message: Message) -> QueueRecord | None:
        """What must be known of the queue to route the message: nothing, for most."""
        if message.key is None and not message.priority:
            return None
        now = self._clock.monotonic()
        known = self._queues.get(message.queue)
        if known is None or now - known[0] > KNOWN_FOR:
            known = self._queues[message.queue] = (now, await self._store.get_queue(message.queue))
        return known[1]

    async def _sleep(self) -> None:
        """Until the next one is due; a second at most, for somebody may have made or changed one."""
        due = await self._store.next_schedule(self._app)
        wait = LOOK_EVERY
        if due is not None:
            wait = min(wait, (due - self._clock.now() - self._behind).total_seconds())
        await self._clock.sleep(max(wait, 0.0))
