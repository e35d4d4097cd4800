"""Schedules at run time: `app.schedules` lists, makes, changes, pauses, resumes, runs and deletes them.

What it does counts within two seconds, whoever beats, with no restart. Every method has an `_async` twin.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from taskq.dispatch import limits
from taskq.errors import InvalidSchedule, TaskqError
from taskq.handle import Handle
from taskq.outcome import Status
from taskq.schedule import Schedule, describe, group_of, ticks_of
from taskq.store.base import Firing, ScheduleRecord, Store
from taskq.task import Task

if TYPE_CHECKING:
    from taskq.app import TaskQ

REPAIR_AFTER = 10.0  # seconds after which the keeper publishes what a run by hand did not
HISTORY_MOST = 1000


@dataclass(frozen=True, slots=True)
class ScheduleInfo:
    """A schedule as people look at it.

    id, task, queue   str
    when              str: the cron text, "every 30 s" or the one instant, with its zone
    origin            "code" or "operator" (made or changed at run time)
    paused            bool
    next_at           datetime | None: its next tick; None: never, paused, or it cannot go on
    fired             int: messages it has sent in its turn
    last_at           datetime | None: the instant of its latest tick
    last_message_id   str | None
    last_status       Status | None: what became of that message; UNKNOWN while it has not started
    error             str | None: why it cannot go on, or why its last message failed
    policy            Schedule: all else that was said
    """

    id: str
    task: str
    queue: str
    when: str
    origin: str
    paused: bool
    next_at: datetime | None
    fired: int
    last_at: datetime | None
    last_message_id: str | None
    last_status: Status | None
    error: str | None
    policy: Schedule | None


class Schedules:
    """See the module. Schedules are kept by the app's name: another app's are another's."""

    def __init__(self, app: TaskQ) -> None:
        self._app = app
        self._name = app.settings.name

    # -- looking ----------------------------------------------------------------------------

    def get(self, id: str) -> ScheduleInfo | None:
        """One of them; None: there is none of that id."""
        return self._app.run(lambda: self.get_async(id))

    async def get_async(self, id: str) -> ScheduleInfo | None:
        """`get` for async code."""
        record = await (await self._store()).get_schedule(self._name, id)
        return None if record is None else (await self._describe([record]))[0]

    def next(self, id: str, n: int = 10) -> Sequence[datetime]:
        """The instants of its next ticks, at most n.

        Raises:
            InvalidSchedule: there is none of that id.
        """
        return self._app.run(lambda: self.next_async(id, n))

    async def next_async(self, id: str, n: int = 10) -> Sequence[datetime]:
        """`next` for async code."""
        store = await self._store()
        record = _found(id, await store.get_schedule(self._name, id))
        after = max(await store.now(), record.seen_at)
        return Schedule.of(record.row).plan.upcoming(after, n, runs=record.fired)

    def history(self, id: str, n: int = 100) -> Sequence[Firing]:
        """Its latest ticks, newest first, with what became of their messages."""
        return self._app.run(lambda: self.history_async(id, n))

    async def history_async(self, id: str, n: int = 100) -> Sequence[Firing]:
        """`history` for async code."""
        return await (await self._store()).firings(self._name, id, limit=min(n, HISTORY_MOST))

    # -- changing ---------------------------------------------------------------------------

    def upsert(self, id: str, task: Task[..., Any] | str, **options: Any) -> ScheduleInfo:
        """Make the schedule, or change it: takes what `app.schedule` takes. It stands over code from then on.

        Raises:
            InvalidSchedule, InvalidArguments, UnknownTask: nothing was changed.
        """
        return self._app.run(lambda: self.upsert_async(id, task, **options))

    async def upsert_async(self, id: str, task: Task[..., Any] | str, **options: Any) -> ScheduleInfo:
        """`upsert` for async code."""
        schedule, queue = self._app.plan_schedule(id, task, **options)
        store = await self._store()
        if limits(queue):
            await store.ensure_queue(queue)
        first = schedule.first_after(await store.now())
        if first is None:
            raise InvalidSchedule(f"schedule {id} would never fire: its time is over")
        record = await store.put_schedule(schedule.to_row(self._name), next_at=first, origin="operator")
        return (await self._describe([record]))[0]

    def pause(self, id: str) -> None:
        """It sends nothing until it is resumed. Raises InvalidSchedule if there is none."""
        self._app.run(lambda: self.pause_async(id))

    async def pause_async(self, id: str) -> None:
        """`pause` for async code."""
        _found(id, await (await self._store()).pause_schedule(self._name, id))

    def resume(self, id: str) -> None:
        """It goes on; what it would have sent meanwhile is not sent. Raises InvalidSchedule if there is none."""
        self._app.run(lambda: self.resume_async(id))

    async def resume_async(self, id: str) -> None:
        """`resume` for async code."""
        store = await self._store()
        record = _found(id, await store.get_schedule(self._name, id))
        first = Schedule.of(record.row).first_after(await store.now(), runs=record.fired)
        _found(id, await store.resume_schedule(self._name, id, next_at=first))

    def delete(self, id: str) -> bool:
        """It is gone; one that code declares comes back when a beat starts. Whether there was one."""
        return self._app.run(lambda: self.delete_async(id))

    async def delete_async(self, id: str) -> bool:
        """`delete` for async code."""
        return await (await self._store()).delete_schedule(self._name, id)

    def run_now(self, id: str) -> Handle[Any]:
        """Send its message once, out of turn; also when it is paused. The handle of a URL group's is the first's.

        Raises:
            InvalidSchedule: there is none of that id.
            BrokerUnavailable: the message may be sent within seconds all the same.
        """
        return self._app.run(lambda: self.run_now_async(id))

    async def run_now_async(self, id: str) -> Handle[Any]:
        """`run_now` for async code."""
        store, client = await self._store(), self._app.client()
        record = _found(id, await store.get_schedule(self._name, id))
        now = await store.now()
        repair_at = now + timedelta(seconds=REPAIR_AFTER)
        schedule = Schedule.of(record.row)
        name = group_of(schedule)
        group = None if name is None else await store.get_group(name)
        ticks = ticks_of(schedule, now, now, repair_at=repair_at, group=group, by_hand=True)
        await client.broker()
        assert client.dispatcher is not None
        for tick in ticks:
            if not await store.run_schedule(self._name, id, tick):
                raise InvalidSchedule(f"there is no schedule {id!r}")
            await client.dispatcher.send(tick.message, await store.get_queue(tick.message.queue))
            await store.published([tick.outbox.id])
        return self._app.handle(ticks[0].message.id)

    # -- parts ------------------------------------------------------------------------------

    async def _store(self) -> Store:
        return await self._app.client().store()

    async def _describe(self, records: Sequence[ScheduleRecord]) -> Sequence[ScheduleInfo]:
        store = await self._store()
        known = await store.get_many([record.last_message_id for record in records if record.last_message_id])
        described = []
        for record in records:
            message = known.get(record.last_message_id or "")
            error, schedule = record.error, None
            try:
                schedule = Schedule.of(record.row)
            except TaskqError as unreadable:
                error = error or str(unreadable)
            status = None if record.last_message_id is None else message.status if message else Status.UNKNOWN
            if error is None and message is not None and message.status is Status.FAILED:
                why = f": {message.failure.type}: {message.failure.message}" if message.failure else ""
                error = f"its last message failed ({message.reason}){why}"
            described.append(
                ScheduleInfo(
                    id=record.row.id,
                    task=record.row.task,
                    queue=record.row.queue,
                    when=describe(schedule.plan.timetable) if schedule else record.row.timing,
                    origin=record.origin,
                    paused=record.paused,
                    next_at=None if record.error else record.next_at,
                    fired=record.fired,
                    last_at=record.last_at,
                    last_message_id=record.last_message_id,
                    last_status=status,
                    error=error,
                    policy=schedule,
                )
            )
        return described

    # Last: in the rest of the class `list` is the type.
    def list(self) -> Sequence[ScheduleInfo]:
        """All of them, by id."""
        return self._app.run(self.list_async)

    async def list_async(self) -> Sequence[ScheduleInfo]:
        """`list` for async code."""
        store = await self._store()
        page = await store.list_schedules(self._name, limit=1000)
        records = page.items
        while page.cursor is not None:
            page = await store.list_schedules(self._name, cursor=page.cursor, limit=1000)
            records += page.items
        return await self._describe(records)


def _found(id: str, record: ScheduleRecord | None) -> ScheduleRecord:
    if record is None:
        raise InvalidSchedule(f"there is no schedule {id!r}")
    return record
