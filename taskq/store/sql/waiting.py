"""The waiting room: messages that may not run yet, keyed (id, hop).

Whatever takes the lock of a message's row and of its waiting row takes the message's first; a claim
of due rows locks waiting rows alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from operator import itemgetter
from typing import Any

import sqlalchemy as sa

from taskq.errors import InvalidMessage
from taskq.message import CONTENT_TYPE, Message, decode
from taskq.store import tables
from taskq.store.base import LetGo, Page, WaitingRow
from taskq.store.lines import Contended, Tx
from taskq.store.rows import FINAL, clean, from_cursor, from_us, maybe_from_us, to_cursor, to_us
from taskq.store.sql import cancels, flow
from taskq.store.sql.bulk import IGNORE, execute, for_each, for_update, insert_many, locked, once
from taskq.store.sql.messages import cancelled, wait

T = tables.waiting
M = tables.messages
_COLUMNS = ("id", "hop", "queue", "due_at", "body", "flow_key")


def add(tx: Tx, rows: Sequence[tuple[Message, int]]) -> None:
    """Add waiting rows, each a message and when it is due; known ones stay."""
    keyed = [message for message, _ in rows if message.flow is not None]
    ordered: set[str] = set()
    if keyed:
        flow.meet(tx, keyed)
        ordered = flow.in_place(tx, keyed)
    values = {}
    for message, due in rows:
        queue = clean(message.queue)
        # Messages of an ordered queue keep its order: they ask for their key when they are its head.
        key = None if message.flow is None or queue in ordered else clean(message.flow.key)
        row = (clean(message.id), message.hop, queue, due, message.encode(), key)
        values[row[:2]] = row
    insert_many(tx, T, _COLUMNS, [values[key] for key in sorted(values)], f"(id, hop) {IGNORE}")


def book(tx: Tx, rows: Sequence[WaitingRow]) -> list[bool]:
    ids = [clean(row.message.id) for row in rows]
    select = "SELECT id, status, hop FROM taskq_messages WHERE id AMONG ? ORDER BY id"
    highest: dict[str, int] = {}
    for known in execute(tx, select + for_update(tx), ids):
        highest[known.id] = 2**31 if known.status in FINAL else known.hop
    booked = []
    latest: dict[str, WaitingRow] = {}
    for message_id, row in zip(ids, rows, strict=True):
        new = row.message.hop > highest.get(message_id, -1)
        if new:
            highest[message_id] = row.message.hop
            latest[message_id] = row
        booked.append(new)
    moved = [replace(row.message, not_before=row.due_at) for row in latest.values()]
    if wait(tx, moved) != len(moved):
        raise Contended  # a row was made in between; it will be seen next time
    add(tx, [(row.message, to_us(row.due_at)) for row, new in zip(rows, booked, strict=True) if new])
    asked = cancelled(tx, list(latest)) if latest else set()
    for message_id in sorted(asked):
        cancels.end_waiting(tx, message_id)
    return [new and message_id not in asked for message_id, new in zip(ids, booked, strict=True)]


def claim_due(tx: Tx, limit: int, lease: float) -> tuple[list[WaitingRow], list[str], list[tuple[str, int]]]:
    """Claim due rows: the rows, ids whose cancel was asked for, and keys of rows that cannot be read.

    The last two are to be seen to in a transaction of its own, which locks messages first.
    """
    now = tx.now()
    due = (
        sa.select(T.c.id, T.c.hop)
        .where(T.c.due_at <= now, T.c.claimed_until <= now, T.c.flow_key.is_(None))
        .order_by(T.c.due_at, T.c.id)
        .limit(limit)
    )
    taken = (
        sa.update(T)
        .where(sa.tuple_(T.c.id, T.c.hop).in_(once(tx, due)))
        .values(claimed_until=now + round(lease * 1_000_000))
        .returning(T.c.id, T.c.hop, T.c.due_at, T.c.body)
    )
    return _sorted_out(tx, tx.connection.execute(taken).all())


def let_go(
    tx: Tx, after: str | None, limit: int, lease: float, ahead: Mapping[str, int], most: int, total: int | None
) -> tuple[LetGo, list[str], list[tuple[str, int]]]:
    """`claim_due` for those that wait for a key."""
    found = flow.let_go(tx, after, limit, lease, ahead, most, total)
    good, asked, unreadable = _sorted_out(tx, [(row.id, row.hop, row.since, row.body) for row in found.rows])
    let = LetGo(good, found.heads, maybe_from_us(found.next_at), found.last, found.more, found.full)
    return let, asked, unreadable


def _sorted_out(tx: Tx, rows: Iterable[Sequence[Any]]) -> tuple[list[WaitingRow], list[str], list[tuple[str, int]]]:
    """Claimed rows: id, hop, due, body."""
    rows = sorted(rows, key=itemgetter(2, 0, 1))
    asked = cancelled(tx, [row[0] for row in rows])
    good, unreadable = [], []
    for message_id, hop, due_at, body in rows:
        if message_id in asked:
            continue
        try:
            good.append(WaitingRow(decode(body, CONTENT_TYPE), from_us(due_at)))
        except InvalidMessage:
            unreadable.append((message_id, hop))
    return good, sorted(asked), unreadable


def released(tx: Tx, keys: Sequence[tuple[str, int]]) -> None:
    keys = sorted((clean(message_id), hop) for message_id, hop in keys)
    onward = "SET status = 'QUEUED', not_before = NULL"
    for_each(tx, onward, M, ("id", "hop"), keys, "AND coalesce(status, '') = 'WAITING'")  # as `STATUS`
    for_each(tx, "DELETE", T, ("id", "hop"), keys)


# The first in the order of an index; a minimum may be looked for among all the rows that qualify.
_NEXT_DUE = "SELECT min(at) FROM ({}) AS instants".format(
    " UNION ALL ".join(
        f"SELECT (SELECT {instant} FROM {table} WHERE {which} ORDER BY {order} LIMIT 1) AS at"
        for instant, table, which, order in (
            ("due_at", "taskq_waiting", "flow_key IS NULL AND claimed_until = 0", "due_at, id"),
            ("claimed_until", "taskq_waiting", "claimed_until > 0", "claimed_until"),
            ("due_at", "taskq_outbox", "claimed_until = 0", "due_at, id"),
            ("claimed_until", "taskq_outbox", "claimed_until > 0", "claimed_until"),
        )
    )
)


def next_due(tx: Tx) -> datetime | None:
    return maybe_from_us(execute(tx, _NEXT_DUE).scalar_one())


def reschedule(tx: Tx, message_id: str, due_at: datetime) -> bool:
    message_id, now, due = clean(message_id), tx.now(), to_us(due_at)
    known = tx.connection.execute(locked(tx, sa.select(M.c.hop, M.c.status).where(M.c.id == message_id))).first()
    if known is None or known.status != "WAITING":
        return False
    changed = tx.connection.execute(
        sa.update(T)
        .where(T.c.id == message_id, T.c.hop == known.hop, T.c.claimed_until <= now)
        .values(due_at=due, claimed_until=0)
    ).rowcount
    if changed:
        tx.connection.execute(sa.update(M).where(M.c.id == message_id).values(not_before=due))
    return changed > 0


def list_waiting(tx: Tx, queue: str | None, cursor: str | None, limit: int) -> Page:
    select = sa.select(T).order_by(T.c.due_at, T.c.id, T.c.hop).limit(limit + 1)
    if queue is not None:
        select = select.where(T.c.queue == clean(queue))
    if cursor is not None:
        due, message_id, hop = from_cursor(cursor, str, int)
        after = sa.tuple_(sa.literal(due), sa.literal(message_id), sa.literal(hop))
        select = select.where(sa.tuple_(T.c.due_at, T.c.id, T.c.hop) > after)
    # Each half has an index of its own.
    halves = (T.c.flow_key.is_(None), T.c.flow_key.is_not(None))
    rows = [row for half in halves for row in tx.connection.execute(select.where(half))]
    rows.sort(key=lambda row: (row.due_at, row.id, row.hop))
    more, rows = len(rows) > limit, rows[:limit]
    end = to_cursor(rows[-1].due_at, rows[-1].id, rows[-1].hop) if more else None
    return Page([WaitingRow(decode(row.body, CONTENT_TYPE), from_us(row.due_at)) for row in rows], end)
