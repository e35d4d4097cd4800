"""Deduplication ids: who holds which."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from taskq.message import Message
from taskq.outcome import Status
from taskq.store import tables
from taskq.store.base import CancelEffect, Deduplicated, OutboxRow
from taskq.store.lines import Contended, Tx
from taskq.store.rows import FINAL, clean
from taskq.store.sql import cancels, outbox
from taskq.store.sql.bulk import IGNORE, insert_many, locked

T = tables.dedup
M = tables.messages
_COLUMNS = ("queue", "dedup_id", "message_id", "expires_at")


def deduplicate(tx: Tx, message: Message, window: float | None, replace: bool, row: OutboxRow) -> Deduplicated:
    key = (clean(message.queue), clean(message.dedup_id or ""))
    mine = clean(message.id)
    now = tx.now()
    expires_at = None if window is None else now + round(window * 1_000_000)
    found = Deduplicated(message.id)
    if insert_many(tx, T, _COLUMNS, [(*key, mine, expires_at)], f"(queue, dedup_id) {IGNORE}") == 0:
        holder = _holder(tx, key, with_message=replace)
        if holder.message_id == mine:
            return Deduplicated(message.id)  # an earlier try of this very call was committed, its outbox row too
        expired = holder.expires_at is not None and holder.expires_at <= now
        if not expired:
            effect = _displace(tx, holder.message_id) if replace else None
            if effect is None:
                return Deduplicated(holder.message_id)
            found = Deduplicated(message.id, holder.message_id, effect)
        passes = "(queue, dedup_id) DO UPDATE SET message_id = excluded.message_id, expires_at = excluded.expires_at"
        insert_many(tx, T, _COLUMNS, [(*key, mine, expires_at)], passes)
    outbox.add(tx, [row])
    return found


def _holder(tx: Tx, key: tuple[str, str], *, with_message: bool) -> sa.Row[Any]:
    """The claim that stands, locked; its message's row locked before it, in the order of those who settle."""
    select = sa.select(T).where(T.c.queue == key[0], T.c.dedup_id == key[1])
    if with_message:
        seen = tx.connection.execute(select).first()
        if seen is not None:
            tx.connection.execute(locked(tx, sa.select(M.c.id).where(M.c.id == seen.message_id)))
    holder = tx.connection.execute(locked(tx, select)).first()
    if holder is None or (with_message and (seen is None or seen.message_id != holder.message_id)):
        raise Contended  # freed or passed on in between
    return holder


def _displace(tx: Tx, holder: str) -> CancelEffect | None:
    """Cancel the holder unless it is known to have started; None: it is, and keeps its claim."""
    known = tx.connection.execute(sa.select(M.c.status, M.c.started_at).where(M.c.id == holder)).first()
    if known is not None and (known.status in (*FINAL, Status.RUNNING) or known.started_at is not None):
        return None
    return cancels.cancel(tx, holder)
