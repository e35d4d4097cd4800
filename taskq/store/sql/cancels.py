"""Requests to cancel: kept until the message has its outcome."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from taskq.store import tables
from taskq.store.base import CancelEffect
from taskq.store.lines import Tx
from taskq.store.rows import FINAL, clean
from taskq.store.sql import requests
from taskq.store.sql.bulk import IGNORE, insert_many, locked
from taskq.store.sql.changes import next_change
from taskq.store.sql.finish import LogLine, drop_cancels, free_dedup, write_log

T = tables.cancels
M = tables.messages
W = tables.waiting


def cancel(tx: Tx, message_id: str) -> CancelEffect:
    message_id = clean(message_id)
    known = _known(tx, message_id)
    if known is not None and known.status in FINAL:
        return CancelEffect.FINISHED
    asked = [LogLine(message_id, tx.now(), "CANCEL_REQUESTED", of_request=True)]
    asked = asked if requests.known(tx, [message_id]) else []
    if known is not None and known.status == "WAITING" and _free_to_go(tx, message_id, known.hop):
        write_log(tx, asked)
        end_waiting(tx, message_id)
        return CancelEffect.DONE
    if tx.connection.execute(sa.select(T.c.message_id).where(T.c.message_id == message_id)).first() is None:
        row = (message_id, tx.now(), next_change(tx))
        if insert_many(tx, T, ("message_id", "asked_at", "change"), [row], f"(message_id) {IGNORE}"):
            write_log(tx, asked)
    return CancelEffect.ASKED


def _known(tx: Tx, message_id: str) -> sa.Row[tuple[str, int]] | None:
    return tx.connection.execute(locked(tx, sa.select(M.c.status, M.c.hop).where(M.c.id == message_id))).first()


def _free_to_go(tx: Tx, message_id: str, hop: int) -> bool:
    """Whether the message lies in the waiting room and nobody is publishing it."""
    select = sa.select(W.c.claimed_until).where(W.c.id == message_id, W.c.hop == hop)
    row = tx.connection.execute(locked(tx, select)).first()
    return row is not None and row.claimed_until <= tx.now()


def end_waiting(tx: Tx, message_id: str) -> None:
    """Record a waiting message as CANCELLED and take it out of the waiting room; its row is locked."""
    now = tx.now()
    tx.connection.execute(sa.delete(W).where(W.c.id == message_id))
    # The epoch fences whatever may still hold an older copy.
    tx.connection.execute(
        sa.update(M)
        .where(M.c.id == message_id, M.c.status.not_in(FINAL))
        .values(status="CANCELLED", ended_at=now, epoch=M.c.epoch + 1, claimed=False, not_before=None)
    )
    of_request = bool(requests.known(tx, [message_id]))
    write_log(tx, [LogLine(message_id, now, "CANCELED", of_request=of_request)])
    free_dedup(tx, [message_id])
    drop_cancels(tx, [message_id])


def end_surfaced(tx: Tx, message_ids: Sequence[str]) -> None:
    """See to due rows of messages whose cancel was asked for: end those that wait, drop what is left over."""
    for message_id in sorted(message_ids):
        known = _known(tx, message_id)
        if known is not None and known.status == "WAITING":
            end_waiting(tx, message_id)
        elif known is not None:
            late = sa.delete(W).where(W.c.id == message_id)
            tx.connection.execute(late if known.status in FINAL else late.where(W.c.hop < known.hop))
