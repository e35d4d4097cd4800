"""The store port on SQLite and PostgreSQL: who runs which statement, on which thread.

Verbs are functions in `sql`; here each becomes one transaction on one of the store's threads.
SQLite has one thread that writes and one that reads beside it (WAL lets it); in memory, one for
both. PostgreSQL has four, each with its connection.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from types import EllipsisType
from typing import Concatenate, ParamSpec, TypeVar

from taskq.clock import Clock, SystemClock
from taskq.errors import InvalidMessage, StoreUnavailable
from taskq.flow import FlowRecord
from taskq.http.request import Headers
from taskq.message import Message
from taskq.outcome import Status
from taskq.queue import Queue, QueueRecord, RateLimit
from taskq.store import schema, sql
from taskq.store.base import (
    Advance,
    Ask,
    CancelEffect,
    Changes,
    Claim,
    Claimed,
    DeadFilter,
    DeadLetter,
    Deduplicated,
    Firing,
    LetGo,
    LogEntry,
    MessageFilter,
    MessageRecord,
    OutboxRow,
    Page,
    Permit,
    Permits,
    Reconciled,
    Retention,
    ScheduleRecord,
    ScheduleRow,
    Settled,
    Settlement,
    Tick,
    WaitingRow,
)
from taskq.store.gateway import (
    Accepted,
    Endpoint,
    GroupRecord,
    Parcel,
    RequestFilter,
    RequestRecord,
    SigningKeys,
)
from taskq.store.lines import CONNECT_SECONDS, Line, Tx, make_engine, make_folder
from taskq.store.rows import from_us
from taskq.store.threads import Threads
from taskq.store.url import StoreURL

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger(__name__)

# What a row that cannot be stored raises, in the database or on the way to it.
BAD_DATA = (InvalidMessage, TypeError, ValueError, AttributeError)
POSTGRES_LINES = 4
ANSWER_SECONDS = 20.0  # after which a verb is given up; above what one statement may take


class SqlStore:
    """One store, by its URL. Bound to no event loop; its threads begin with `open`.

    Args:
        place: where it is.
        clock: the store's clock; None: the server's, or the machine's for SQLite.
    """

    def __init__(self, place: StoreURL, *, clock: Clock | None = None) -> None:
        self._place = place
        self._clock = SystemClock() if clock is None and place.kind == "sqlite" else clock
        self._starting = threading.Lock()
        self._id: str | None = None
        self._writers: Threads[Line] | None = None
        self._readers: Threads[Line] | None = None

    def __repr__(self) -> str:
        return f"<SqlStore {self._place.shown}>"

    @property
    def id(self) -> str:
        if self._id is None:
            raise StoreUnavailable(f"store {self._place.shown} is not open yet: its id is known after open()")
        return self._id

    @property
    def url(self) -> str:
        return self._place.shown

    @property
    def revision(self) -> str:
        return schema.REVISIONS[-1]

    @property
    def own_clock(self) -> bool:
        return self._clock is None

    async def open(self) -> None:
        if self._id is not None and self._writers is not None:
            return
        with self._starting:
            if self._writers is None:
                self._start()
            writers = self._writers
        assert writers is not None
        try:
            found = await writers.call(self._look, within=ANSWER_SECONDS + CONNECT_SECONDS)
            if found is None:
                found = await writers.call(lambda line: line.run(schema.migrate), within=schema.MIGRATION_SECONDS)
            self._id = found
        except TimeoutError:
            raise StoreUnavailable(f"store {self._place.shown} does not answer") from None

    async def close(self) -> None:
        with self._starting:
            groups = {id(group): group for group in (self._writers, self._readers) if group is not None}
            self._writers = self._readers = self._id = None
        for group in groups.values():
            group.stop()
        for group in groups.values():
            await group.stopped(within=CONNECT_SECONDS)

    def _start(self) -> None:
        place, clock = self._place, self._clock
        engine = make_engine(place)
        if place.kind == "postgresql":
            self._writers = self._readers = Threads("taskq-store", POSTGRES_LINES, lambda: Line(engine, place, clock))
            return
        self._writers = self._readers = Threads("taskq-store", 1, lambda: Line(engine, place, clock))
        if place.path is not None:
            self._readers = Threads("taskq-store-read", 1, lambda: Line(engine, place, clock, begin="DEFERRED"))

    def _look(self, line: Line) -> str | None:
        make_folder(self._place)
        return line.run(schema.store_id)

    async def _write(self, verb: Callable[Concatenate[Tx, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._call(self._writers, lambda line: line.run(verb, *args, **kwargs))

    async def _write_alone(self, verb: Callable[Concatenate[Tx, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """For a verb whose change is one statement."""
        return await self._call(self._writers, lambda line: line.run_alone(verb, *args, **kwargs))

    async def _read(self, verb: Callable[Concatenate[Tx, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._call(self._readers, lambda line: line.run_alone(verb, *args, **kwargs))

    async def _call(self, threads: Threads[Line] | None, job: Callable[[Line], T]) -> T:
        if threads is None or self._id is None:
            raise StoreUnavailable(f"store {self._place.shown} is not open")
        try:
            return await threads.call(job, within=ANSWER_SECONDS)
        except TimeoutError:
            raise StoreUnavailable(f"store {self._place.shown} gave no answer within {ANSWER_SECONDS:g} s") from None

    # Messages

    async def record(self, messages: Sequence[Message]) -> None:
        how = self._write if any(map(sql.requests.is_request, messages)) else self._write_alone
        await how(sql.messages.record, messages)

    async def claim(self, claims: Sequence[Claim]) -> list[Claimed]:
        # Each statement stands for itself: what a claim changes is one row, and the cancel is looked for after that.
        return await self._write_alone(sql.messages.claim, claims)

    async def running(self, message: Message, *, worker: str, epoch: int, attempt: int, started_at: datetime) -> bool:
        how = self._write if sql.requests.is_request(message) else self._write_alone
        return await how(sql.messages.running, message, worker, epoch, attempt, started_at)

    async def give_back(self, runs: Sequence[tuple[str, int]]) -> None:
        await self._write(sql.messages.give_back, runs)

    async def settle(self, group: Sequence[Settlement]) -> list[Settled]:
        if not group:
            return []
        return await self._call(self._writers, lambda line: _settle(line, group))

    async def get(self, message_id: str) -> MessageRecord | None:
        return await self._read(sql.messages.get, message_id)

    async def get_many(self, message_ids: Sequence[str]) -> dict[str, MessageRecord]:
        return await self._read(sql.messages.get_many, message_ids)

    async def history(self, message_id: str) -> list[LogEntry]:
        return await self._read(sql.messages.history, message_id)

    async def progress(self, message_id: str, epoch: int, done: int, total: int) -> None:
        await self._write_alone(sql.messages.progress, message_id, epoch, done, total)

    async def counts(self) -> dict[str, dict[Status, int]]:
        return await self._read(sql.messages.counts)

    async def oldest(self) -> dict[str, datetime]:
        return await self._read(sql.messages.oldest)

    # Cancels

    async def cancel(self, message_id: str) -> CancelEffect:
        return await self._write(sql.cancels.cancel, message_id)

    async def cancel_many(self, message_ids: Sequence[str]) -> list[CancelEffect]:
        return await self._write(sql.cancels.cancel_many, message_ids)

    async def changes(self, mark: str | None) -> Changes:
        return await self._read(sql.changes.changes, mark)

    # Waiting

    async def book(self, rows: Sequence[WaitingRow]) -> list[bool]:
        return await self._write(sql.waiting.book, rows)

    async def claim_due(self, limit: int, lease: float) -> list[WaitingRow]:
        due, asked, unreadable = await self._write(sql.waiting.claim_due, limit, lease)
        await self._see_to(asked, unreadable)
        return due

    async def _see_to(self, asked: Sequence[str], unreadable: Sequence[tuple[str, int]]) -> None:
        if asked:
            await self._write(sql.cancels.end_surfaced, asked)
        if unreadable:
            await self._write(sql.dead_letters.archive_unreadable, unreadable)

    async def released(self, keys: Sequence[tuple[str, int]]) -> None:
        await self._write(sql.waiting.released, keys)

    async def next_due(self) -> datetime | None:
        return await self._read(sql.waiting.next_due)

    async def reschedule(self, message_id: str, due_at: datetime) -> bool:
        return await self._write(sql.waiting.reschedule, message_id, due_at)

    async def waiting(self, *, queue: str | None = None, cursor: str | None = None, limit: int = 100) -> Page:
        return await self._read(sql.waiting.list_waiting, queue, cursor, limit)

    async def claim_outbox(self, limit: int, lease: float) -> list[OutboxRow]:
        return await self._write_alone(sql.outbox.claim_outbox, limit, lease)

    async def add_outbox(self, rows: Sequence[OutboxRow]) -> None:
        await self._write_alone(sql.outbox.add, rows)

    async def published(self, ids: Sequence[str]) -> None:
        await self._write_alone(sql.outbox.published, ids)

    # Dead letters

    async def archive(self, letters: Sequence[DeadLetter]) -> None:
        messages = [letter.message for letter in letters if letter.message is not None]
        how = self._write if any(map(sql.requests.is_request, messages)) else self._write_alone
        await how(sql.dead_letters.archive, letters)

    async def dead(
        self, which: DeadFilter, *, cursor: str | None = None, limit: int = 100, oldest_first: bool = False
    ) -> Page:
        return await self._read(sql.dead_letters.list_dead, which, cursor, limit, oldest_first)

    async def count_dead(self, which: DeadFilter) -> int:
        return await self._read(sql.dead_letters.count_dead, which)

    async def revive(self, ids: Sequence[str], rows: Sequence[OutboxRow]) -> int:
        return await self._write(sql.dead_letters.revive, ids, rows)

    async def delete_dead(self, which: DeadFilter, *, limit: int = 1000) -> int:
        return await self._write(sql.dead_letters.delete_dead, which, limit)

    # Queues

    async def ensure_queue(self, queue: Queue, *, origin: str = "code") -> QueueRecord:
        record = await self._read(sql.queues.get_queue, queue.name)
        if record is not None and sql.queues.stands(record, queue, origin):
            return record
        return await self._write(sql.queues.ensure_queue, queue, origin)

    async def get_queue(self, name: str) -> QueueRecord | None:
        return await self._read(sql.queues.get_queue, name)

    async def list_queues(self) -> list[QueueRecord]:
        return await self._read(sql.queues.list_queues)

    async def set_queue(
        self,
        name: str,
        *,
        parallelism: int | None | EllipsisType = ...,
        rate_limit: RateLimit | None | EllipsisType = ...,
        worker_parallelism: int | None | EllipsisType = ...,
        retry_in_place: bool | EllipsisType = ...,
        paused: bool | EllipsisType = ...,
    ) -> QueueRecord | None:
        return await self._write(
            sql.queues.set_queue, name, parallelism, rate_limit, worker_parallelism, retry_in_place, paused
        )

    async def rebirth(self, queue: Queue) -> QueueRecord | None:
        return await self._write(sql.queues.rebirth, queue)

    async def delete_queue(self, name: str) -> bool:
        return await self._write(sql.queues.delete_queue, name)

    async def take_starts(self, queue: str, wanted: int, rate: RateLimit, slack: float) -> Permits:
        return await self._write(sql.starts.take_starts, queue, wanted, rate, slack)

    async def restamp(self, queue: str, after: int, ahead: float = 0.0) -> bool:
        return await self._write(sql.starts.restamp, queue, after, ahead)

    # Flow control

    async def let_go(
        self,
        after: str | None,
        limit: int,
        lease: float,
        *,
        ahead: Mapping[str, int],
        most: int,
        total: int | None = None,
    ) -> LetGo:
        found, asked, unreadable = await self._write(sql.waiting.let_go, after, limit, lease, ahead, most, total)
        await self._see_to(asked, unreadable)
        return found

    async def take_permits(self, asks: Sequence[Ask], lease: float, *, bounded: bool = False) -> list[Permit]:
        return await self._write(sql.flow.take, asks, lease, bounded)

    async def renew_permits(self, worker: str, lease: float) -> list[str]:
        return await self._write(sql.flow.renew, worker, lease)

    async def give_back_permits(self, worker: str, message_ids: Sequence[str]) -> None:
        await self._write(sql.flow.give_back, worker, message_ids)

    async def restamp_flow(self, key: str, after: int, ahead: float = 0.0) -> bool:
        return await self._write(sql.starts.restamp, sql.flow.window(key), after, ahead)

    async def get_flow(self, key: str) -> FlowRecord | None:
        return await self._read(sql.flow.get_flow, key)

    async def list_flow(self, *, search: str = "", cursor: str | None = None, limit: int = 100) -> Page:
        return await self._read(sql.flow.list_flow, search, cursor, limit)

    async def set_flow(
        self,
        key: str,
        *,
        paused: bool | EllipsisType = ...,
        parallelism: int | None | EllipsisType = ...,
        rate_limit: RateLimit | None | EllipsisType = ...,
        pinned_parallelism: bool | EllipsisType = ...,
        pinned_rate: bool | EllipsisType = ...,
    ) -> FlowRecord:
        return await self._write(
            sql.flow.set_flow, key, paused, parallelism, rate_limit, pinned_parallelism, pinned_rate
        )

    async def reset_flow(self, key: str) -> bool:
        return await self._write(sql.flow.reset, key)

    # Deduplication

    async def deduplicate(
        self, message: Message, *, window: float | None, replace: bool, row: OutboxRow
    ) -> Deduplicated:
        return await self._write(sql.dedup.deduplicate, message, window, replace, row)

    # Schedules

    async def put_schedule(self, row: ScheduleRow, *, next_at: datetime | None, origin: str) -> ScheduleRecord:
        return await self._write(sql.schedules.put_schedule, row, next_at, origin)

    async def reconcile_schedules(self, app: str, rows: Sequence[tuple[ScheduleRow, datetime | None]]) -> Reconciled:
        return await self._write(sql.schedules.reconcile_schedules, app, rows)

    async def get_schedule(self, app: str, id: str) -> ScheduleRecord | None:
        return await self._read(sql.schedules.get_schedule, app, id)

    async def list_schedules(self, app: str, *, cursor: str | None = None, limit: int = 100) -> Page:
        return await self._read(sql.schedules.list_schedules, app, cursor, limit)

    async def pause_schedule(self, app: str, id: str) -> ScheduleRecord | None:
        return await self._write(sql.schedules.pause_schedule, app, id)

    async def resume_schedule(self, app: str, id: str, *, next_at: datetime | None) -> ScheduleRecord | None:
        return await self._write(sql.schedules.resume_schedule, app, id, next_at)

    async def delete_schedule(self, app: str, id: str) -> bool:
        return await self._write(sql.schedules.delete_schedule, app, id)

    async def due_schedules(self, app: str, limit: int) -> tuple[datetime, list[ScheduleRecord]]:
        return await self._read(sql.schedules.due_schedules, app, limit)

    async def next_schedule(self, app: str) -> datetime | None:
        return await self._read(sql.schedules.next_schedule, app)

    async def fire(self, advances: Sequence[Advance]) -> list[list[Tick]]:
        return await self._write(sql.schedules.fire, advances)

    async def run_schedule(self, app: str, id: str, tick: Tick) -> bool:
        return await self._write(sql.schedules.run_schedule, app, id, tick)

    async def firings(self, app: str, id: str, *, limit: int = 100) -> list[Firing]:
        return await self._read(sql.schedules.firings, app, id, limit)

    # The gateway

    async def accept(self, parcels: Sequence[Parcel]) -> list[Accepted]:
        return await self._write(sql.accept.accept, parcels) if parcels else []

    async def get_request(self, message_id: str) -> RequestRecord | None:
        return await self._read(sql.requests.get_request, message_id)

    async def list_requests(self, which: RequestFilter, *, cursor: str | None = None, limit: int = 100) -> Page:
        return await self._read(sql.requests.list_requests, which, cursor, limit)

    async def unfinished_callbacks(self, message_id: str) -> bool:
        return await self._read(sql.requests.unfinished_callbacks, message_id)

    async def lag(self, queues: Sequence[str]) -> Mapping[str, int]:
        return await self._read(sql.requests.lag, queues)

    async def events(
        self,
        which: RequestFilter,
        *,
        states: Sequence[str] = (),
        oldest_first: bool = False,
        cursor: str | None = None,
        limit: int = 100,
    ) -> Page:
        return await self._read(sql.events.events, which, states, oldest_first, cursor, limit)

    async def get_group(self, name: str) -> GroupRecord | None:
        return await self._read(sql.groups.get_group, name)

    async def list_groups(self) -> list[GroupRecord]:
        return await self._read(sql.groups.list_groups)

    async def add_endpoints(self, name: str, endpoints: Sequence[Endpoint]) -> GroupRecord:
        return await self._write(sql.groups.add_endpoints, name, endpoints)

    async def remove_endpoints(
        self, name: str, endpoints: Sequence[tuple[str | None, str | None]]
    ) -> GroupRecord | None:
        return await self._write(sql.groups.remove_endpoints, name, endpoints)

    async def set_group_headers(self, name: str, headers: Headers) -> GroupRecord | None:
        return await self._write(sql.groups.set_group_headers, name, headers)

    async def delete_group(self, name: str) -> bool:
        return await self._write_alone(sql.groups.delete_group, name)

    async def signing_keys(self) -> SigningKeys:
        keys = await self._read(sql.signing_keys.get)
        return keys if keys is not None else await self._write(sql.signing_keys.make)

    async def rotate_signing_keys(self) -> SigningKeys:
        # From those that stand now: repeated after a lost answer it rotates them no further.
        return await self._write(sql.signing_keys.rotate, await self.signing_keys())

    # The store itself

    async def now(self) -> datetime:
        return from_us(await self._read(Tx.now))

    async def prune(self, keep: Retention, *, limit: int = 1000) -> int:
        pruned = 0
        for kind in sql.pruning.kinds(keep):
            left = limit
            while left > 0:
                size = min(left, sql.pruning.BATCH)
                deleted = await self._write(sql.pruning.prune_batch, kind, keep, size)
                pruned += deleted
                left -= deleted
                if deleted < size:
                    break
        return pruned

    async def table_sizes(self) -> dict[str, int]:
        return await self._read(sql.pruning.table_sizes)

    # Last: in the rest of the class `list` is the type.
    async def list(self, which: MessageFilter, *, cursor: str | None = None, limit: int = 100) -> Page:
        return await self._read(sql.messages.list_messages, which, cursor, limit)


def _settle(line: Line, group: Sequence[Settlement]) -> list[Settled]:
    """Settle a group: at once if all applies, else looking at each, else one by one around a bad row."""
    try:
        if not sql.settle.is_plain(group):
            return line.run(sql.settle.settle, group)
        how = sql.settle.settle_plain_postgres if line.postgres else sql.settle.settle_plain_sqlite
        found = line.run_plain(how, group)
    except sql.settle.FallsShort:
        found = [None] * len(group)
    except BAD_DATA:
        return [_settle_one(line, one) for one in group]
    left = [one for one, settled in zip(group, found, strict=True) if settled is None]
    if left:
        try:
            looked = iter(line.run(sql.settle.settle_looking, left))
        except BAD_DATA:
            looked = (_settle_one(line, one) for one in left)
        return [settled or next(looked) for settled in found]
    return [settled for settled in found if settled is not None]


def _settle_one(line: Line, one: Settlement) -> Settled:
    try:
        [settled] = line.run(sql.settle.settle_looking, [one])
    except BAD_DATA as error:
        log.error("the outcome of message %s cannot be stored: %s", one.message.id, error)
        return Settled.REFUSED
    return settled
