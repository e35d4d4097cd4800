"""The archive of messages that failed for good."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from taskq.errors import InvalidMessage
from taskq.http.request import Response
from taskq.message import CONTENT_TYPE, Message, decode
from taskq.outcome import Failure
from taskq.store import tables
from taskq.store.base import DeadFilter, DeadLetter, OutboxRow, Page
from taskq.store.gateway import RequestFilter
from taskq.store.lines import Tx
from taskq.store.rows import clean, from_cursor, from_us, maybe_clean, to_cursor, to_us
from taskq.store.sql import messages, outbox, requests
from taskq.store.sql.bulk import insert_many

T = tables.dead_letters
R = tables.requests
_COLUMNS = tuple(column.name for column in T.columns)
_REPLACE = "(id) DO UPDATE SET " + ", ".join(f"{name} = excluded.{name}" for name in _COLUMNS if name != "id")


def archive(tx: Tx, letters: Sequence[DeadLetter]) -> None:
    rows = {clean(letter.id): _row(letter) for letter in letters}
    insert_many(tx, T, _COLUMNS, [rows[key] for key in sorted(rows)], _REPLACE)
    requests.keep(tx, [letter.message for letter in letters if letter.message is not None])


def _row(letter: DeadLetter) -> tuple[Any, ...]:
    failure = letter.failure
    return (
        clean(letter.id),
        clean(letter.message_id),
        clean(letter.queue),
        clean(letter.task),
        clean(letter.reason),
        letter.attempts,
        None if failure is None else clean(failure.type),
        None if failure is None else clean(failure.message),
        None if failure is None else clean(failure.traceback),
        maybe_clean(letter.worker),
        to_us(letter.died_at),
        letter.body,
        maybe_clean(letter.content_type),
        letter.response,
        _response_status(letter),
    )


def _response_status(letter: DeadLetter) -> int | None:
    if letter.response is not None:
        try:
            status = Response.decode(letter.response).status
        except InvalidMessage:
            return 0
        return status if 0 <= status < 1000 else 0  # anybody can write a letter
    return 0 if letter.message is not None and requests.is_request(letter.message) else None


def _letter(row: sa.Row[Any]) -> DeadLetter:
    try:
        message = decode(row.body, row.content_type)
    except InvalidMessage:
        message = None
    failure = None
    if row.failure_type is not None:
        failure = Failure(row.failure_type, row.failure_message, row.failure_traceback)
    return DeadLetter(
        id=row.id,
        message_id=row.message_id,
        queue=row.queue,
        task=row.task,
        reason=row.reason,
        attempts=row.attempts,
        failure=failure,
        worker=row.worker,
        died_at=from_us(row.died_at),
        body=row.body,
        content_type=row.content_type,
        message=message,
        response=row.response,
    )


def _conditions(tx: Tx, which: DeadFilter) -> list[sa.ColumnElement[bool]]:
    found: list[sa.ColumnElement[bool]] = []
    if which.ids is not None:
        found.append(T.c.id.in_([clean(one) for one in which.ids]))
    for column, value in (
        (T.c.queue, which.queue),
        (T.c.task, which.task),
        (T.c.reason, which.reason),
        (T.c.message_id, which.message_id),
    ):
        if value is not None:
            found.append(column == clean(value))
    if which.text is not None:
        text = clean(which.text)
        places = (T.c.reason, T.c.failure_type, T.c.failure_message)
        found.append(sa.or_(*(place.icontains(text, autoescape=True) for place in places)))
    if which.since is not None:
        found.append(T.c.died_at >= to_us(which.since))
    if which.until is not None:
        found.append(T.c.died_at < to_us(which.until))
    if which.statuses:
        found.append(T.c.response_status.in_(which.statuses))
    if which.request is not None:
        found += _of_requests(tx, which.request)
    return found


def _of_requests(tx: Tx, which: RequestFilter) -> list[sa.ColumnElement[bool]]:
    wanted = requests.conditions(tx, which)
    found: list[sa.ColumnElement[bool]] = [
        sa.select(R.c.message_id).where(R.c.message_id == T.c.message_id, *wanted).exists()
    ]
    if which.ids:
        found.append(T.c.message_id.in_([clean(one) for one in which.ids]))
    if which.since is not None:
        found.append(T.c.died_at >= to_us(which.since))
    if which.until is not None:
        found.append(T.c.died_at <= to_us(which.until))
    return found


def list_dead(tx: Tx, which: DeadFilter, cursor: str | None, limit: int, oldest_first: bool) -> Page:
    key = (T.c.died_at, T.c.id)
    order = [part.asc() if oldest_first else part.desc() for part in key]
    select = sa.select(T).where(*_conditions(tx, which)).order_by(*order).limit(limit + 1)
    if cursor is not None:
        here, there = sa.tuple_(*key), sa.tuple_(*map(sa.literal, from_cursor(cursor, str)))
        select = select.where(here > there if oldest_first else here < there)
    rows = tx.connection.execute(select).all()
    more, rows = len(rows) > limit, rows[:limit]
    return Page([_letter(row) for row in rows], to_cursor(rows[-1].died_at, rows[-1].id) if more else None)


def count_dead(tx: Tx, which: DeadFilter) -> int:
    select = sa.select(sa.func.count()).select_from(T).where(*_conditions(tx, which))
    return int(tx.connection.execute(select).scalar_one())


def revive(tx: Tx, ids: Sequence[str], rows: Sequence[OutboxRow]) -> int:
    cleaned = [clean(one) for one in ids]
    there = _delete(tx, T.c.id.in_(cleaned))
    revived = [row for one, row in zip(cleaned, rows, strict=True) if one in there]
    messages.record(tx, _requests(revived))
    outbox.add(tx, revived)
    return len(there)


def _requests(rows: Sequence[OutboxRow]) -> list[Message]:
    """The messages of the rows that are requests."""
    found = []
    for row in rows:
        try:
            message = decode(row.body, row.content_type)
        except InvalidMessage:
            continue
        if requests.is_request(message):
            found.append(message)
    return found


def _delete(tx: Tx, condition: sa.ColumnElement[bool]) -> set[str]:
    """Delete letters, and requests of which nothing else is left; the letters' ids."""
    gone = tx.connection.execute(sa.delete(T).where(condition).returning(T.c.id, T.c.message_id)).all()
    requests.forget(tx, [row.message_id for row in gone])
    return {row.id for row in gone}


def delete_dead(tx: Tx, which: DeadFilter, limit: int) -> int:
    chosen = sa.select(T.c.id).where(*_conditions(tx, which)).order_by(T.c.died_at).limit(limit)
    return len(_delete(tx, T.c.id.in_(chosen)))


def archive_unreadable(tx: Tx, keys: Sequence[tuple[str, int]]) -> None:
    """Move waiting rows that are no messages of this version to the archive: each alone, holding up nobody."""
    W, now = tables.waiting, tx.now()
    for message_id, hop in keys:
        row = tx.connection.execute(
            sa.delete(W).where(W.c.id == message_id, W.c.hop == hop).returning(W.c.queue, W.c.body)
        ).first()
        if row is not None:
            unknown = (None,) * 4  # failure and worker
            letter = (f"{now // 1000}-{message_id}-{hop}", message_id, row.queue, "", "invalid-message", 0)
            insert_many(tx, T, _COLUMNS, [(*letter, *unknown, now, row.body, CONTENT_TYPE, None, None)], _REPLACE)
