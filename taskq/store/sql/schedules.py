"""Schedules, and the firings that make a second message of the same instant impossible."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from taskq.store import tables
from taskq.store.base import Advance, Firing, Page, ScheduleRecord, ScheduleRow, Tick
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
from taskq.store.sql import messages, outbox
from taskq.store.sql.bulk import IGNORE, insert_many, locked

T = tables.schedules
F = tables.firings
_COLUMNS = tuple(column.name for column in T.columns)
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
        return _make(tx, row, next_at, origin)
    if origin == "code" and held.origin == "operator":
        return held
    same_times = (held.row.timing, held.row.policy) == (row.timing, row.policy)
    if same_times and held.row == row and held.origin == origin:
        return held
    values: dict[str, Any] = {**_values(row), "origin": origin, "error": None}
    if not same_times:
        values |= {"seen_at": tx.now(), "next_at": None if held.paused else maybe_us(next_at)}
    return _change(tx, held, values)


def reconcile_schedules(tx: Tx, app: str, rows: Sequence[tuple[ScheduleRow, datetime | None]]) -> list[ScheduleRecord]:
    kept = [clean(row.id) for row, _ in rows]
    gone = sa.delete(T).where(T.c.app == clean(app), T.c.origin == "code", T.c.id.not_in(kept))
    tx.connection.execute(gone)
    return [put_schedule(tx, row, next_at, "code") for row, next_at in rows]


def get_schedule(tx: Tx, app: str, id: str) -> ScheduleRecord | None:
    row = tx.connection.execute(sa.select(T).where(T.c.app == clean(app), T.c.id == clean(id))).first()
    return None if row is None else schedule_record(row)


def list_schedules(tx: Tx, app: str, cursor: str | None, limit: int) -> Page:
    select = sa.select(T).where(T.c.app == clean(app)).order_by(T.c.id).limit(limit + 1)
    if cursor is not None:
        select = select.where(T.c.id > from_cursor(cursor, 2)[1])
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
    there = _sent(tx, added)
    for (_, _, tick), sent in zip(added, there, strict=True):
        if sent:
            mine = [[one for one in ticks if one is not tick] for ticks in mine]
    _add(tx, [one for one, sent in zip(added, there, strict=True) if not sent], tx.now())
    return mine


def run_schedule(tx: Tx, app: str, id: str, tick: Tick) -> bool:
    held = _held(tx, app, id)
    if held is None:
        return False
    _add(tx, [(app, id, tick)], tx.now())
    _change(tx, held, {"last_message_id": clean(tick.message.id), "error": None})
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


def _sent(tx: Tx, ticks: Sequence[tuple[str, str, Tick]]) -> list[bool]:
    """Whether each was sent: by a schedule of the same name before it was deleted, on a clock that went back since."""
    if not ticks:
        return []
    first = min(to_us(tick.instant) for _, _, tick in ticks)
    later = sa.select(F.c.app, F.c.schedule_id, F.c.instant, F.c.member).where(
        F.c.app.in_({clean(app) for app, _, _ in ticks}),
        F.c.schedule_id.in_({clean(id) for _, id, _ in ticks}),
        F.c.instant >= first,
    )
    known = {tuple(row) for row in tx.connection.execute(later)}
    return [(clean(app), clean(id), to_us(tick.instant), clean(tick.member)) in known for app, id, tick in ticks]


def _add(tx: Tx, ticks: Sequence[tuple[str, str, Tick]], now: int) -> None:
    rows = [
        (clean(app), clean(id), to_us(tick.instant), clean(tick.member), clean(tick.message.id), now)
        for app, id, tick in ticks
    ]
    if insert_many(tx, F, _FIRING, rows, IGNORE) != len(rows):
        raise Contended  # somebody else's stands: look again
    messages.record(tx, [tick.message for _, _, tick in ticks if tick.message.recorded])
    outbox.add(tx, [tick.outbox for _, _, tick in ticks])


def _held(tx: Tx, app: str, id: str) -> ScheduleRecord | None:
    """The record, its row locked."""
    select = locked(tx, sa.select(T).where(T.c.app == clean(app), T.c.id == clean(id)))
    row = tx.connection.execute(select).first()
    return None if row is None else schedule_record(row)


def _values(row: ScheduleRow) -> dict[str, Any]:
    return {
        "timing": row.timing,
        "policy": row.policy,
        "task": clean(row.task),
        "queue": clean(row.queue),
        "template": row.template,
    }


def _make(tx: Tx, row: ScheduleRow, next_at: datetime | None, origin: str) -> ScheduleRecord:
    now = tx.now()
    values: dict[str, Any] = {
        "app": clean(row.app),
        "id": clean(row.id),
        **_values(row),
        "origin": origin,
        "paused": False,
        "seen_at": now,
        "next_at": maybe_us(next_at),
        "fired": 0,
        "version": 1,
        "created_at": now,
        "updated_at": now,
    }
    complete = tuple(values.get(name) for name in _COLUMNS)
    if insert_many(tx, T, _COLUMNS, [complete], f"(app, id) {IGNORE}") == 0:
        raise Contended  # made by somebody else just now
    made = get_schedule(tx, row.app, row.id)
    assert made is not None
    return made


def _change(tx: Tx, held: ScheduleRecord, values: dict[str, Any]) -> ScheduleRecord:
    key = (T.c.app == clean(held.row.app), T.c.id == clean(held.row.id))
    values = values | {"version": held.version + 1, "updated_at": tx.now()}
    row = tx.connection.execute(sa.update(T).where(*key).values(**values).returning(T)).one()
    return schedule_record(row)
