"""Schedules, and the firings that make a second message of the same instant impossible."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from taskq.message import Message
from taskq.store import tables
from taskq.store.base import Advance, Firing, Page, Reconciled, ScheduleRecord, ScheduleRow, Tick
from taskq.store.lines import Contended, Tx
from taskq.store.rows import (
    clean,
    from_cursor,
    from_us,
    maybe_clean,
    maybe_us,
    schedule_record,
    to_cursor,
    to_us,
)
from taskq.store.sql import messages, outbox, requests
from taskq.store.sql.bulk import IGNORE, for_each, insert_many, locked

T = tables.schedules
F = tables.firings
_GIVEN = ("app", "id", "timing", "policy", "task", "queue", "template")
_MADE = (*_GIVEN, "origin", "paused", "seen_at", "next_at", "fired", "version", "created_at", "updated_at")
_FIRING = ("app", "schedule_id", "instant", "member", "message_id", "fired_at")
# A step from the version that was read; a null keeps the last tick that stands.
_STEP = {
    "app": "text",
    "id": "text",
    "version": "integer",
    "seen_at": "bigint",
    "next_at": "bigint",
    "fired": "bigint",
    "last_at": "bigint",
    "last_message_id": "text",
    "error": "text",
}
_SET = (
    "UPDATE taskq_schedules AS old SET seen_at = step.seen_at, next_at = step.next_at, fired = old.fired + step.fired,"
    " last_at = coalesce(step.last_at, old.last_at),"
    " last_message_id = coalesce(step.last_message_id, old.last_message_id), error = step.error,"
    " version = old.version + 1, updated_at = {now}"
)
_WHERE = " WHERE old.app = step.app AND old.id = step.id AND old.version = step.version AND NOT old.paused"
_SQLITE_STEP = ", ".join(f"? AS {name}" for name in _STEP)
_SQLITE_ADVANCE = f"{_SET.format(now='?')} FROM (SELECT {_SQLITE_STEP}) AS step{_WHERE}"
_POSTGRES_ARRAYS = ", ".join(f"%b::{kind}[]" for kind in _STEP.values())
_POSTGRES_ADVANCE = (
    f"{_SET.format(now='%b::bigint')} FROM unnest({_POSTGRES_ARRAYS}) AS step({', '.join(_STEP)}){_WHERE}"
    " RETURNING old.app, old.id"
)


def put_schedule(tx: Tx, row: ScheduleRow, next_at: datetime | None, origin: str) -> ScheduleRecord:
    held = _held(tx, row.app, row.id)
    if held is None:
        return _make(tx, [(row, next_at)], origin)[0]
    return _put(tx, held, row, next_at, origin)


def reconcile_schedules(tx: Tx, app: str, rows: Sequence[tuple[ScheduleRow, datetime | None]]) -> Reconciled:
    every = locked(tx, sa.select(T).where(T.c.app == clean(app)).order_by(T.c.id))
    held = {record.row.id: record for record in map(schedule_record, tx.connection.execute(every))}
    declared = {clean(row.id) for row, _ in rows}
    gone = [id for id, record in held.items() if record.origin == "code" and id not in declared]
    for_each(tx, "DELETE", T, ("app", "id"), [(clean(app), id) for id in gone])
    new = [(row, next_at) for row, next_at in rows if clean(row.id) not in held]
    _make(tx, new, "code")
    kept = [(held[clean(row.id)], row, next_at) for row, next_at in rows if clean(row.id) in held]
    records = [_put(tx, record, row, next_at, "code") for record, row, next_at in kept]
    return Reconciled(records, [row.id for row, _ in new], gone)


def get_schedule(tx: Tx, app: str, id: str) -> ScheduleRecord | None:
    row = tx.connection.execute(sa.select(T).where(T.c.app == clean(app), T.c.id == clean(id))).first()
    return None if row is None else schedule_record(row)


def list_schedules(tx: Tx, app: str, cursor: str | None, limit: int) -> Page:
    select = sa.select(T).where(T.c.app == clean(app)).order_by(T.c.id).limit(limit + 1)
    if cursor is not None:
        select = select.where(T.c.id > from_cursor(cursor, str)[1])
    found = [schedule_record(row) for row in tx.connection.execute(select)]
    more = len(found) > limit
    return Page(found[:limit], to_cursor(0, found[limit - 1].row.id) if more else None)


def pause_schedule(tx: Tx, app: str, id: str) -> ScheduleRecord | None:
    held = _held(tx, app, id)
    if held is None or held.paused:
        return held
    return _change(tx, held, {"paused": True, "next_at": None})


def resume_schedule(tx: Tx, app: str, id: str, next_at: datetime | None) -> ScheduleRecord | None:
    held = _held(tx, app, id)
    if held is None or not held.paused:
        return held
    return _change(tx, held, {"paused": False, "seen_at": tx.now(), "next_at": maybe_us(next_at)})


def delete_schedule(tx: Tx, app: str, id: str) -> bool:
    return tx.connection.execute(sa.delete(T).where(T.c.app == clean(app), T.c.id == clean(id))).rowcount > 0


def due_schedules(tx: Tx, app: str, limit: int) -> tuple[datetime, list[ScheduleRecord]]:
    now = tx.now()
    due = sa.select(T).where(T.c.app == clean(app), T.c.next_at <= now).order_by(T.c.next_at).limit(limit)
    return from_us(now), [schedule_record(row) for row in tx.connection.execute(due)]


def next_schedule(tx: Tx, app: str) -> datetime | None:
    first = sa.select(T.c.next_at).where(T.c.app == clean(app), T.c.next_at.is_not(None)).order_by(T.c.next_at).limit(1)
    found = tx.connection.execute(first).scalar()
    return None if found is None else from_us(found)


def fire(tx: Tx, advances: Sequence[Advance]) -> list[list[Tick]]:
    if not advances:
        return []
    moved = _advance(tx, advances)
    mine = [list(one.ticks) if (clean(one.app), clean(one.id)) in moved else [] for one in advances]
    added = [(one.app, one.id, tick) for one, ticks in zip(advances, mine, strict=True) for tick in ticks]
    stand = {tick.message.id for tick in _add(tx, added, tx.now())}
    return [[tick for tick in ticks if tick.message.id in stand] for ticks in mine]


def run_schedule(tx: Tx, app: str, id: str, tick: Tick) -> bool:
    held = _held(tx, app, id)
    if held is None:
        return False
    _add(tx, [(app, id, tick)], tx.now())
    _change(tx, held, {"last_message_id": clean(tick.message.id)})
    return True


def firings(tx: Tx, app: str, id: str, limit: int) -> list[Firing]:
    select = (
        sa.select(F)
        .where(F.c.app == clean(app), F.c.schedule_id == clean(id))
        .order_by(F.c.instant.desc(), F.c.member.desc())
        .limit(limit)
    )
    rows = tx.connection.execute(select).all()
    known = messages.get_many(tx, [row.message_id for row in rows])
    return [
        Firing(from_us(row.instant), row.member, row.message_id, from_us(row.fired_at), known.get(row.message_id))
        for row in rows
    ]


def _advance(tx: Tx, advances: Sequence[Advance]) -> set[tuple[str, str]]:
    """Move those whose version is the stored one; which they were. Their rows are locked from here on."""
    now = tx.now()
    steps = [
        (
            clean(one.app),
            clean(one.id),
            one.version,
            to_us(one.seen_at),
            maybe_us(one.next_at),
            len(one.ticks),
            *_last(one.ticks),
            maybe_clean(one.error),
        )
        for one in advances
    ]
    if tx.postgres:
        columns = tuple(list(column) for column in zip(*steps, strict=True))
        return {(row.app, row.id) for row in tx.connection.exec_driver_sql(_POSTGRES_ADVANCE, (now, *columns))}
    run = tx.connection.exec_driver_sql
    return {step[:2] for step in steps if run(_SQLITE_ADVANCE, (now, *step)).rowcount}


def _last(ticks: Sequence[Tick]) -> tuple[int | None, str | None]:
    return (to_us(ticks[-1].instant), clean(ticks[-1].message.id)) if ticks else (None, None)


def _add(tx: Tx, ticks: Sequence[tuple[str, str, Tick]], now: int) -> list[Tick]:
    """Add them, with all that belongs to them; those that were not there already."""
    rows = [
        (clean(app), clean(id), to_us(tick.instant), clean(tick.member), clean(tick.message.id), now)
        for app, id, tick in ticks
    ]
    added = [tick for _, _, tick in ticks]
    if insert_many(tx, F, _FIRING, rows, IGNORE) != len(rows):
        # Sent by a schedule of the same name, before it was deleted, or on a clock that went back since.
        added = [tick for tick, row in zip(added, rows, strict=True) if _message_of(tx, row[:4]) == row[4]]
    messages.record(tx, [tick.message for tick in added if _is_kept(tick.message)])
    outbox.add(tx, [tick.outbox for tick in added])
    return added


def _is_kept(message: Message) -> bool:
    """Whether it has its row at once: who sent it says so, or it is a request."""
    return message.recorded or requests.is_request(message)


def _message_of(tx: Tx, key: tuple[str, str, int, str]) -> str | None:
    """The message of a firing."""
    app, id, instant, member = key
    where = (F.c.app == app, F.c.schedule_id == id, F.c.instant == instant, F.c.member == member)
    found: str | None = tx.connection.execute(sa.select(F.c.message_id).where(*where)).scalar()
    return found


def _held(tx: Tx, app: str, id: str) -> ScheduleRecord | None:
    """The record, its row locked."""
    select = locked(tx, sa.select(T).where(T.c.app == clean(app), T.c.id == clean(id)))
    row = tx.connection.execute(select).first()
    return None if row is None else schedule_record(row)


def _texts(row: ScheduleRow) -> dict[str, str]:
    return {"timing": row.timing, "policy": row.policy, "task": clean(row.task), "queue": clean(row.queue)}


def _make(tx: Tx, rows: Sequence[tuple[ScheduleRow, datetime | None]], origin: str) -> list[ScheduleRecord]:
    now, made = tx.now(), []
    for row, next_at in rows:
        row = ScheduleRow(clean(row.app), clean(row.id), template=row.template, **_texts(row))
        at = from_us(now)
        made.append(ScheduleRecord(row, origin, False, at, next_at, 0, None, None, None, 1, at, at))
    values = [
        (*(getattr(one.row, name) for name in _GIVEN), origin, False, now, maybe_us(one.next_at), 0, 1, now, now)
        for one in made
    ]
    if insert_many(tx, T, _MADE, values, f"(app, id) {IGNORE}") != len(values):
        raise Contended  # made by somebody else just now
    return made


def _put(tx: Tx, held: ScheduleRecord, row: ScheduleRow, next_at: datetime | None, origin: str) -> ScheduleRecord:
    """Change one that is there, its row locked. One that could not go on begins anew, too."""
    if origin == "code" and held.origin == "operator":
        return held
    goes_on = held.error is None and (held.row.timing, held.row.policy) == (row.timing, row.policy)
    if goes_on and held.row == row and held.origin == origin:
        return held
    values: dict[str, Any] = {**_texts(row), "template": row.template, "origin": origin, "error": None}
    if not goes_on:
        values |= {"seen_at": tx.now(), "next_at": None if held.paused else maybe_us(next_at), "fired": 0}
    return _change(tx, held, values)


def _change(tx: Tx, held: ScheduleRecord, values: dict[str, Any]) -> ScheduleRecord:
    key = (T.c.app == clean(held.row.app), T.c.id == clean(held.row.id))
    values = values | {"version": held.version + 1, "updated_at": tx.now()}
    row = tx.connection.execute(sa.update(T).where(*key).values(**values).returning(T)).one()
    return schedule_record(row)
