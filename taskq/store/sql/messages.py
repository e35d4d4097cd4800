"""Runs and what is known of them: records, claims, reads. Their ends are in `settle`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa

from taskq.errors import InvalidSetting
from taskq.message import Message
from taskq.outcome import Status
from taskq.store import tables
from taskq.store.base import Claim, Claimed, LogEntry, MessageFilter, MessageRecord, Page
from taskq.store.lines import Contended, Tx
from taskq.store.rows import (
    FINAL,
    clean,
    from_cursor,
    from_us,
    log_entry,
    maybe_from_us,
    maybe_us,
    message_record,
    to_cursor,
    to_us,
)
from taskq.store.sql import requests
from taskq.store.sql.bulk import IGNORE, distinct, execute, for_each, insert_and_tell, insert_many
from taskq.store.sql.finish import STATES, LogLine, write_log

T = tables.messages
NOT_FINAL = f"taskq_messages.status NOT IN ({', '.join(repr(status) for status in FINAL)})"
_BORN = ("id", "task", "queue", "status", "attempt", "epoch", "hop", "created_at", "not_before")


def _born(message: Message, status: Status, hop: int) -> tuple[object, ...]:
    return (
        clean(message.id),
        clean(message.task),
        clean(message.queue),
        status.value,
        message.attempt,
        0,
        hop,
        to_us(message.created_at),
        maybe_us(message.not_before),
    )


def record(tx: Tx, messages: Sequence[Message]) -> None:
    now = tx.now()
    rows: dict[str, tuple[object, ...]] = {}
    for message in messages:
        ahead = message.not_before is not None and to_us(message.not_before) > now
        # hop -1: no copy was booked or run yet, so the booking of this very copy is a new one.
        rows.setdefault(message.id, _born(message, Status.WAITING if ahead else Status.QUEUED, message.hop - 1))
    insert_many(tx, T, _BORN, [rows[key] for key in sorted(rows)], f"(id) {IGNORE}")
    requests.add(tx, messages)


def wait(tx: Tx, messages: Sequence[Message]) -> int:
    """Make the rows of these messages read WAITING at their hop; how many could: a final one or one of
    the same or a higher hop stays. The ids are distinct."""
    rows = [_born(message, Status.WAITING, message.hop) for message in sorted(messages, key=_by_id)]
    return insert_many(
        tx,
        T,
        _BORN,
        rows,
        "(id) DO UPDATE SET status = excluded.status, hop = excluded.hop, not_before = excluded.not_before,"
        " attempt = excluded.attempt, claimed = false, transient = false"
        f" WHERE {NOT_FINAL} AND taskq_messages.hop < excluded.hop",
    )


def _by_id(message: Message) -> str:
    return message.id


_CLAIM = ("id", "task", "queue", "status", "attempt", "epoch", "hop", "claimed", "worker", "created_at")
# The row stays WAITING while a time in place is ahead; the claim is open all the same.
_CLAIM_AGAIN = (
    "(id) DO UPDATE SET epoch = taskq_messages.epoch + 1, hop = excluded.hop, worker = excluded.worker,"
    " claimed = true, transient = false,"
    " crashes = taskq_messages.crashes"
    " + CASE WHEN taskq_messages.claimed AND taskq_messages.worker <> excluded.worker THEN 1 ELSE 0 END,"
    " attempt = CASE WHEN taskq_messages.attempt > excluded.attempt"
    " THEN taskq_messages.attempt ELSE excluded.attempt END,"
    " status = CASE WHEN taskq_messages.status = 'WAITING' AND taskq_messages.hop = excluded.hop"
    " THEN 'WAITING' ELSE excluded.status END,"
    " not_before = CASE WHEN taskq_messages.hop = excluded.hop THEN taskq_messages.not_before ELSE NULL END"
    f" WHERE {NOT_FINAL} AND taskq_messages.hop <= excluded.hop"
)
_CLAIMED = "id, epoch, status, attempt, not_before, crashes, hop"


def claim(tx: Tx, claims: Sequence[Claim]) -> list[Claimed]:
    found: list[Claimed | None] = [None] * len(claims)
    for indexes in distinct([one.message.id for one in claims]):
        for index, one in zip(indexes, _claim(tx, [claims[index] for index in indexes]), strict=True):
            found[index] = one
    return [one for one in found if one is not None]


def _claim(tx: Tx, claims: Sequence[Claim]) -> list[Claimed]:
    rows = sorted(
        (
            clean(one.message.id),
            clean(one.message.task),
            clean(one.message.queue),
            Status.RUNNING.value,
            one.message.attempt,
            1,
            one.message.hop,
            True,
            clean(one.worker),
            to_us(one.message.created_at),
        )
        for one in claims
    )
    after = {row.id: row for row in insert_and_tell(tx, T, _CLAIM, rows, _CLAIM_AGAIN, _CLAIMED)}
    # After the claim: a cancel that came before it is seen, and one that comes later finds the claim.
    asked = cancelled(tx, list(after))
    found = []
    for one in claims:
        row = after.get(clean(one.message.id))
        if row is None:
            raise Contended
        found.append(
            Claimed(
                epoch=row.epoch,
                status=Status(row.status),
                attempt=max(row.attempt, one.message.attempt),
                not_before=maybe_from_us(row.not_before),
                cancelled=row.id in asked,
                crashes=row.crashes,
                stale=row.hop > one.message.hop,
            )
        )
    return found


def cancelled(tx: Tx, ids: Sequence[str]) -> set[str]:
    """Those of the ids whose cancel was asked for."""
    if not ids:
        return set()
    select = "SELECT message_id FROM taskq_cancels WHERE message_id AMONG ?"
    return set(execute(tx, select, list(ids)).scalars())


_RUN = (*_CLAIM, "started_at", "transient")
_RUN_AGAIN = (
    "(id) DO UPDATE SET status = excluded.status, attempt = excluded.attempt, worker = excluded.worker,"
    " started_at = excluded.started_at, claimed = true, hop = excluded.hop, not_before = NULL"
    f" WHERE {NOT_FINAL} AND taskq_messages.epoch = excluded.epoch AND taskq_messages.hop <= excluded.hop"
    # Of two unclaimed runs, which share epoch 0, the first to be shown is the one that counts.
    " AND (taskq_messages.epoch > 0 OR NOT taskq_messages.claimed OR taskq_messages.worker = excluded.worker)"
)


def running(tx: Tx, message: Message, worker: str, epoch: int, attempt: int, started_at: datetime) -> bool:
    row = (
        clean(message.id),
        clean(message.task),
        clean(message.queue),
        Status.RUNNING.value,
        attempt,
        epoch,
        message.hop,
        True,
        clean(worker),
        to_us(message.created_at),
        to_us(started_at),
        epoch == 0,
    )
    shown = insert_many(tx, T, _RUN, [row], _RUN_AGAIN) == 1
    if shown and requests.is_request(message):
        line = LogLine(row[0], row[10], "ACTIVE", attempt, row[8], of_request=True)
        write_log(tx, [line])
    return shown


def give_back(tx: Tx, runs: Sequence[tuple[str, int]]) -> None:
    mine = sorted((clean(message_id), epoch) for message_id, epoch in runs)
    unclaimed = [key for key in mine if key[1] == 0]
    for_each(tx, "DELETE", T, ("id", "epoch"), unclaimed, "AND claimed AND transient")
    back = "SET claimed = false, status = CASE WHEN status = 'RUNNING' THEN 'QUEUED' ELSE status END"
    for_each(tx, back, T, ("id", "epoch"), mine, "AND claimed")


def get(tx: Tx, message_id: str) -> MessageRecord | None:
    row = tx.connection.execute(sa.select(T).where(T.c.id == clean(message_id))).first()
    return None if row is None else message_record(row)


def get_many(tx: Tx, message_ids: Sequence[str]) -> dict[str, MessageRecord]:
    wanted = {clean(message_id): message_id for message_id in message_ids}
    rows = tx.connection.execute(sa.select(T).where(T.c.id.in_(list(wanted))))
    return {wanted[row.id]: message_record(row) for row in rows}


def list_messages(tx: Tx, which: MessageFilter, cursor: str | None, limit: int) -> Page:
    select = sa.select(T).order_by(T.c.created_at.desc(), T.c.id.desc()).limit(limit + 1)
    if which.status is not None:
        values = [Status(status).value for status in which.status]
        select = select.where(T.c.status.in_(values))
        if Status.SUCCEEDED.value not in values:
            select = select.where(tables.UNSUCCESSFUL)
    if which.queue is not None:
        select = select.where(T.c.queue == clean(which.queue))
    if which.task is not None:
        select = select.where(T.c.task == clean(which.task))
    if which.since is not None:
        select = select.where(T.c.created_at >= to_us(which.since))
    if which.until is not None:
        select = select.where(T.c.created_at < to_us(which.until))
    if cursor is not None:
        at, message_id = from_cursor(cursor, str)
        select = select.where(sa.tuple_(T.c.created_at, T.c.id) < sa.tuple_(sa.literal(at), sa.literal(message_id)))
    rows = tx.connection.execute(select).all()
    more = len(rows) > limit
    rows = rows[:limit]
    return Page([message_record(row) for row in rows], to_cursor(rows[-1].created_at, rows[-1].id) if more else None)


_ORDER = {state: place for place, state in enumerate(STATES)}


def history(tx: Tx, message_id: str) -> list[LogEntry]:
    message_id = clean(message_id)
    rows = tx.connection.execute(sa.select(tables.log).where(tables.log.c.message_id == message_id)).all()
    lines = {(row.at, row.state): log_entry(row) for row in rows}
    told = any(row.of_request for row in rows)  # a request's lines are all there
    row = None if told else tx.connection.execute(sa.select(T).where(T.c.id == message_id)).first()
    if row is not None:
        lines.setdefault((row.created_at, "CREATED"), LogEntry(message_id, from_us(row.created_at), "CREATED"))
        if row.started_at is not None:
            active = LogEntry(message_id, from_us(row.started_at), "ACTIVE", row.attempt, row.worker)
            lines.setdefault((row.started_at, "ACTIVE"), active)
        if row.status == Status.SUCCEEDED:
            done = LogEntry(message_id, from_us(row.ended_at), "DELIVERED", row.attempt, row.worker)
            lines.setdefault((row.ended_at, "DELIVERED"), done)
    return [lines[key] for key in sorted(lines, key=lambda key: (key[0], _ORDER.get(key[1], len(_ORDER))))]


def progress(tx: Tx, message_id: str, epoch: int, done: int, total: int) -> None:
    tx.connection.execute(
        sa.update(T)
        .where(T.c.id == clean(message_id), T.c.epoch == epoch, tables.STATUS.not_in(FINAL))
        .values(progress_done=done, progress_total=total)
    )


def counts(tx: Tx) -> dict[str, dict[Status, int]]:
    states = (Status.WAITING.value, Status.RUNNING.value, Status.FAILED.value)
    select = (
        sa.select(T.c.queue, T.c.status, sa.func.count())
        .where(tables.UNSUCCESSFUL, T.c.status.in_(states))
        .group_by(T.c.status, T.c.queue)
    )
    found: dict[str, dict[Status, int]] = {}
    for queue, status, number in tx.connection.execute(select):
        found.setdefault(queue, {})[Status(status)] = number
    return found


def oldest(tx: Tx) -> dict[str, datetime]:
    states = (Status.QUEUED.value, Status.WAITING.value, Status.RUNNING.value)
    select = (
        sa.select(T.c.queue, sa.func.min(T.c.created_at))
        .where(tables.UNSUCCESSFUL, T.c.status.in_(states))
        .group_by(T.c.queue)
    )
    return {queue: from_us(created_at) for queue, created_at in tx.connection.execute(select)}


def check_limit(limit: int) -> int:
    """The size of a page, if it can be one."""
    if not 1 <= limit <= 10_000:
        raise InvalidSetting(f"a page has 1 to 10000 items, got limit={limit!r}")
    return limit
