"""The outbox: publishes that must happen, stored with what caused them."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from taskq.store import tables
from taskq.store.base import OutboxRow
from taskq.store.lines import Tx
from taskq.store.rows import clean, outbox_row, to_us
from taskq.store.sql.bulk import delete_many, insert_many, once

T = tables.outbox
_COLUMNS = ("id", "target", "queue", "body", "content_type", "message_id", "due_at", "attempts")
# The same row again adds nothing; one that failed once more is put off.
_PUT_OFF = (
    "(id) DO UPDATE SET attempts = excluded.attempts, due_at = excluded.due_at, claimed_until = 0"
    " WHERE excluded.attempts > taskq_outbox.attempts"
)


def add(tx: Tx, rows: Sequence[OutboxRow]) -> None:
    values = {
        clean(row.id): (
            clean(row.id),
            clean(row.target),
            clean(row.queue),
            row.body,
            clean(row.content_type),
            clean(row.message_id),
            to_us(row.due_at),
            row.attempts,
        )
        for row in rows
    }
    insert_many(tx, T, _COLUMNS, [values[key] for key in sorted(values)], _PUT_OFF)


def claim_outbox(tx: Tx, limit: int, lease: float) -> list[OutboxRow]:
    now = tx.now()
    due = sa.select(T.c.id).where(T.c.due_at <= now, T.c.claimed_until <= now).order_by(T.c.due_at, T.c.id).limit(limit)
    taken = (
        sa.update(T).where(T.c.id.in_(once(tx, due))).values(claimed_until=now + round(lease * 1_000_000)).returning(T)
    )
    rows = [outbox_row(row) for row in tx.connection.execute(taken)]
    return sorted(rows, key=lambda row: (row.due_at, row.id))


def published(tx: Tx, ids: Sequence[str]) -> None:
    delete_many(tx, T.c.id, sorted(map(clean, ids)))
