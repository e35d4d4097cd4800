"""The beat: who holds its seat sends what the schedules say, each tick once.

A tick exists by its row in the store, added in one transaction with its schedule's step and the
outbox row of its message; only who added it publishes it, and the keeper does if he died. So two
leaders at one moment send nothing twice, and a leader that dies between two steps loses nothing.
Hence beats that stand by may watch the leader: a tick that he leaves lying is sent by one of them,
long before the broker has given up a leader that hangs or is cut off. All instants are compared
with the store's clock.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import anyio

from taskq.broker.base import Broker, BrokerQueue, Kind
from taskq.clock import Clock
from taskq.dispatch import Dispatcher, limits
from taskq.errors import TaskqError
from taskq.message import Message
from taskq.queue import Queue, QueueRecord
from taskq.schedule import Overlap, Schedule, group_of, ticks_of
from taskq.seat import Seat
from taskq.settings import Settings
from taskq.store.base import Advance, MessageRecord, ScheduleRecord, ScheduleRow, Store, Tick
from taskq.store.gateway import GroupRecord
from taskq.timetable import Due

logger = logging.getLogger("taskq.beat")

BATCH = 500  # schedules looked at together
LOOK_EVERY = 1.0  # seconds: a change counts within two
BREATH = 0.05  # seconds from one round that sent something to the next: what falls due meanwhile goes together
KNOWN_FOR = 5.0  # seconds that a queue's row is remembered
HELD_FOR = 1.0  # seconds until a tick that waits for the one before it is looked at again
UNREADABLE_AGAIN = 60.0  # seconds until a schedule that cannot go on is looked at again, by a newer version perhaps
GRACE = 60.0  # seconds by which a tick may be late and is sent all the same: a leader died, a broker restarted
OVERDUE = 1.0  # seconds; a tick that is so late at two looks, and no step made, is sent by who stands by
STANDS_IN_FOR = 10.0  # seconds for which he goes on, unless the leader is seen to work
PROVEN_FOR = 1.0  # seconds for which the broker counts as there after an answer
REPAIR_AFTER = 3.0  # seconds after which a tick whose leader has not published it is published by somebody else
TRY_AGAIN = 1.0  # seconds after an error of the store
REMEMBERED = 50_000  # schedules, as they were read
REPAIR_EVERY = 2.0  # seconds between looks for such ticks, by who stands in: the leader may be the keeper, too
REPAIR_LEASE = 10.0  # seconds for which they are his


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
        self.failing_since: float | None = None  # by the monotonic clock: no round could be made since
        self._app = settings.name
        self._declared = declared
        self._broker = broker
        self._store = store
        self._dispatcher = dispatcher
        self._clock = clock
        self._repair_after = timedelta(seconds=REPAIR_AFTER)
        self._behind = timedelta(0)  # the store's clock less ours
        self._queues: dict[str, tuple[float, QueueRecord | None]] = {}
        self._read: dict[str, tuple[ScheduleRow, Schedule]] = {}
        self._late: tuple[str, int] | None = None  # the tick that was overdue at the last look: schedule, version
        self._stands_in_until = self._proven_at = self._repaired_at = float("-inf")
        self._looking: anyio.CancelScope | None = None
        self._slot = BrokerQueue(Kind.SLOT, f"beat/{self._app}", ordered=True)  # "/" is in no queue's name
        self._seat = Seat(self._slot, self._lead, broker=broker, store=store, clock=clock, settings=settings)

    @property
    def leading(self) -> bool:
        """It holds the seat."""
        return self._seat.leading

    @property
    def standing(self) -> str:
        """For people: whether it leads or stands by."""
        return "leads" if self.leading else "stands by"

    async def run(self) -> None:
        """Bring the store up to what the code declares, stand for the seat, and lead while it is held; until `stop`."""
        await self._insist(self._reconcile)
        async with anyio.create_task_group() as group:
            group.start_soon(self._insist, self._work)
            await self._seat.run()
            group.cancel_scope.cancel()

    async def stop(self) -> None:
        """Leave the seat to the next in line."""
        await self._seat.stop()

    async def _insist(self, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await work()
                return
            except TaskqError as error:
                self.failing_since = self.failing_since or self._clock.monotonic()
                logger.warning("schedules: %s; trying again", error)
                await self._clock.sleep(TRY_AGAIN)

    async def _reconcile(self) -> None:
        now = await self._store.now()
        for queue in {queue.name: queue for _, queue in self._declared if limits(queue)}.values():
            await self._store.ensure_queue(queue)
        rows = [(schedule.to_row(self._app), schedule.first_after(now)) for schedule, _ in self._declared]
        found = await self._store.reconcile_schedules(self._app, rows)
        for id in found.gone:
            logger.info("schedule %s: the code of %s declares it no longer: deleted", id, self._app)
        for row, first in rows:
            if first is None and row.id in found.new:
                logger.warning("schedule %s: its time is over, it will never fire", row.id)
        for record in found.kept:
            if record.origin != "code":
                logger.warning("schedule %s: what was set at run time stands over the code's", record.row.id)

    # -- whose turn it is -------------------------------------------------------------------

    async def _lead(self) -> None:
        if self._looking is not None:
            self._looking.cancel()  # `_work` does the rest
        await anyio.sleep_forever()

    async def _work(self) -> None:
        while True:
            stands_in = self._stands_in_until > self._clock.monotonic()
            if stands_in and not self.leading:
                await self._repair()
            if self.leading or stands_in:
                seen = await self._round()
                if seen < BATCH:
                    await self._sleep(BREATH if seen else 0.0)
            else:
                await self._watch()
            self.failing_since = None

    async def _watch(self) -> None:
        """Look whether the leader leaves something lying, once; and stand in for him then."""
        now, records = await self._store.due_schedules(self._app, 1)
        late = None
        for record in records:
            if record.next_at is not None and (now - record.next_at).total_seconds() > OVERDUE:
                late = record.row.id, record.version
        if late is not None and late == self._late:
            logger.warning("schedule %s is overdue, and whoever leads does nothing: standing in", late[0])
            self._stands_in_until = self._clock.monotonic() + STANDS_IN_FOR
            return
        self._late = late
        if not self.leading:
            with anyio.CancelScope() as self._looking:
                await self._clock.sleep(LOOK_EVERY)
            self._looking = None

    async def _repair(self) -> None:
        """Publish what a leader that is cut off had begun: the keeper that should may be in the same process."""
        if self._clock.monotonic() - self._repaired_at < REPAIR_EVERY:
            return
        self._repaired_at = self._clock.monotonic()
        done = []
        for row in await self._store.claim_outbox(BATCH, REPAIR_LEASE):
            try:
                await self._dispatcher.send_row(row)
                done.append(row.id)
            except TaskqError as error:
                logger.warning("publishing %s: %s; the keeper will repeat it", row.id, error)
        await self._store.published(done)

    # -- a round ----------------------------------------------------------------------------

    async def _round(self) -> int:
        """Send what is due; how many schedules were, `BATCH` if there may be more."""
        now, records = await self._store.due_schedules(self._app, BATCH)
        self._behind = now - self._clock.now()
        if not records:
            return 0
        if self._clock.monotonic() - self._proven_at > PROVEN_FOR:
            # What is begun without a broker is sent late; what is not begun, another beat sends in time.
            await self._broker.depth(self._slot)
            self._proven_at = self._clock.monotonic()
            return BATCH
        before = await self._before(records)
        groups = await self._groups(records)
        advances = [self._advance(record, now, before.get(record.last_message_id or ""), groups) for record in records]
        mine = await self._store.fire(advances)
        if any(advance.ticks and not ticks for advance, ticks in zip(advances, mine, strict=True)):
            self._stands_in_until = float("-inf")  # the leader works
        elif not self.leading:
            self._stands_in_until = self._clock.monotonic() + STANDS_IN_FOR
        await self._publish([tick for ticks in mine for tick in ticks])
        return len(records)

    async def _before(self, records: Sequence[ScheduleRecord]) -> Mapping[str, MessageRecord]:
        """The messages of earlier ticks, of schedules that care what became of them."""
        last = [
            record.last_message_id
            for record in records
            if record.last_message_id is not None and '"overlap"' in record.row.policy
        ]
        return await self._store.get_many(last) if last else {}

    async def _groups(self, records: Sequence[ScheduleRecord]) -> Mapping[str, GroupRecord | None]:
        """The URL groups to which these schedules send, by name."""
        names = set()
        for record in records:
            try:
                names.add(group_of(self._schedule(record.row)))
            except TaskqError:
                continue  # `_advance` says so
        return {name: await self._store.get_group(name) for name in names if name is not None}

    def _advance(
        self,
        record: ScheduleRecord,
        now: datetime,
        before: MessageRecord | None,
        groups: Mapping[str, GroupRecord | None],
    ) -> Advance:
        """What one schedule sends now, and where it stands then. One that cannot go on says so, and stops no other."""
        row = record.row
        step = Advance(row.app, row.id, record.version, record.seen_at, None)
        try:
            schedule = self._schedule(row)
            busy = before is not None and not before.status.final
            if busy and schedule.overlap is Overlap.QUEUE:
                return replace(step, next_at=now + timedelta(seconds=HELD_FOR))
            due = self._due(schedule, record, now, before)
            instants = due.instants
            if schedule.overlap is not Overlap.ALLOW:
                instants = () if busy else instants[-1:]
            next_at = due.next_at
            if len(instants) < len(due.instants):  # of the runs that it may have, it has more left
                next_at = schedule.first_after(due.seen, runs=record.fired + len(instants))
            group = groups.get(group_of(schedule) or "")
            repair_at = now + self._repair_after
            ticks = tuple(
                tick
                for instant in instants
                for tick in ticks_of(schedule, instant, now, repair_at=repair_at, group=group)
            )
            return replace(step, seen_at=due.seen, next_at=next_at, ticks=ticks)
        except Exception as error:  # whatever a row may bring about: it is this schedule's alone
            logger.error("schedule %s cannot go on: %s", row.id, error, exc_info=not isinstance(error, TaskqError))
            again = now + timedelta(seconds=UNREADABLE_AGAIN)
            return replace(step, next_at=again, error=f"{type(error).__name__}: {error}")

    def _due(self, schedule: Schedule, record: ScheduleRecord, now: datetime, before: MessageRecord | None) -> Due:
        """What the plan says; a tick that waited for the message before it is not late."""
        plan, grace = schedule.plan, GRACE
        if schedule.overlap is Overlap.QUEUE and before is not None and before.ended_at is not None:
            first = plan.next_after(record.seen_at, runs=record.fired)
            if first is not None and first <= before.ended_at:
                grace = max(grace, (now - first).total_seconds())
        due = plan.due(record.row.id, seen=record.seen_at, now=now, runs=record.fired, grace=grace)
        if due.missed is not None:
            text = "schedule %s: ticks from %s on were missed; catch_up=%s sends %d of them"
            logger.warning(text, record.row.id, due.missed.isoformat(), plan.catch_up, len(due.instants))
        return due

    def _schedule(self, row: ScheduleRow) -> Schedule:
        known = self._read.get(row.id)
        if known is None or known[0] != row:
            if len(self._read) >= REMEMBERED:
                self._read.clear()
            known = self._read[row.id] = (row, Schedule.of(row))
        return known[1]

    async def _publish(self, ticks: Sequence[Tick]) -> None:
        if not ticks:
            return
        copies = [(tick.message, await self._queue(tick.message)) for tick in ticks]
        results = await self._dispatcher.send_many(copies)
        done = []
        for tick, error in zip(ticks, results, strict=True):
            if error is None:
                done.append(tick.outbox.id)
                continue
            logger.warning("publishing %s: %s; the keeper will repeat it", tick.message.id, error)
            self._proven_at = float("-inf")
        if len(done) == len(ticks):
            self._proven_at = self._clock.monotonic()
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

    async def _sleep(self, least: float) -> None:
        """Until the next one is due; a second at most, for somebody may have made or changed one."""
        due = await self._store.next_schedule(self._app)
        wait = LOOK_EVERY
        if due is not None:
            wait = min(wait, (due - self._clock.now() - self._behind).total_seconds())
        await self._clock.sleep(max(wait, least))
