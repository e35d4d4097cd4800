"""Requests to cancel: kept until the message has its outcome."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet

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
    return cancel_many(tx, [message_id])[0]


def cancel_many(tx: Tx, message_ids: Sequence[str]) -> list[CancelEffect]:
    ids = [clean(one) for one in message_ids]
    known = _known(tx, ids)
    ended = {row.id for row in known if row.status in FINAL}
    waiting = {row.id: row.hop for row in known if row.status == "WAITING"}
    free = _free_to_go(tx, waiting)
    asked = set(ids) - ended - free
    if free:
        _tell(tx, free)
        end_all_waiting(tx, sorted(free))
    if asked:
        _ask(tx, asked)
    return [_effect(one, ended, free) for one in ids]


def _effect(message_id: str, ended: AbstractSet[str], free: AbstractSet[str]) -> CancelEffect:
    if message_id in ended:
        return CancelEffect.FINISHED
    return CancelEffect.DONE if message_id in free else CancelEffect.ASKED


def _ask(tx: Tx, message_ids: AbstractSet[str]) -> None:
    """Tell the workers, of those that they were not told of yet."""
    there = tx.connection.execute(sa.select(T.c.message_id).where(T.c.message_id.in_(message_ids))).scalars()
    new = sorted(message_ids - set(there))
    if not new:
        return
    # Before the change, after which nothing is locked. Whoever asks of the same request waits for its message's row.
    _tell(tx, new)
    now, change = tx.now(), next_change(tx)
    rows = [(one, now, change) for one in new]
    insert_many(tx, T, ("message_id", "asked_at", "change"), rows, f"(message_id) {IGNORE}")


def _tell(tx: Tx, message_ids: Iterable[str]) -> None:
    """Requests tell in their history that a cancel was asked for."""
    now, told = tx.now(), requests.known(tx, list(message_ids))
    write_log(tx, [LogLine(one, now, "CANCEL_REQUESTED", of_request=True) for one in told])


def _known(tx: Tx, message_ids: Iterable[str]) -> Sequence[sa.Row[tuple[str, str, int]]]:
    """The rows of these messages, locked in the order of their ids."""
    select = sa.select(M.c.id, M.c.status, M.c.hop).where(M.c.id.in_(list(message_ids))).order_by(M.c.id)
    return tx.connection.execute(locked(tx, select)).all()


def _free_to_go(tx: Tx, waiting: Mapping[str, int]) -> set[str]:
    """Those messages, with their hops, that lie in the waiting room and that nobody is publishing."""
    if not waiting:
        return set()
    select = sa.select(W.c.id, W.c.hop, W.c.claimed_until).where(W.c.id.in_(list(waiting))).order_by(W.c.id, W.c.hop)
    now, rows = tx.now(), tx.connection.execute(locked(tx, select)).all()
    return {row.id for row in rows if row.hop == waiting[row.id] and row.claimed_until <= now}


def end_waiting(tx: Tx, message_id: str) -> None:
    """Record a waiting message as CANCELLED and take it out of the waiting room; its row is locked."""
    end_all_waiting(tx, [message_id])


def end_all_waiting(tx: Tx, message_ids: Sequence[str]) -> None:
    """Record waiting messages as CANCELLED and take them out of the waiting room; their rows are locked."""
    now = tx.now()
    tx.connection.execute(sa.delete(W).where(W.c.id.in_(message_ids)))
    # The epoch fences whatever may still hold an older copy.
    tx.connection.execute(
        sa.update(M)
        .where(M.c.id.in_(message_ids), tables.STATUS.not_in(FINAL))
        .values(status="CANCELLED", ended_at=now, epoch=M.c.epoch + 1, claimed=False, not_before=None)
    )
    of_requests = requests.known(tx, message_ids)
    write_log(tx, [LogLine(one, now, "CANCELED", of_request=one in of_requests) for one in message_ids])
    free_dedup(tx, message_ids)
    drop_cancels(tx, message_ids)


def end_surfaced(tx: Tx, message_ids: Sequence[str]) -> None:
    """See to due rows of messages whose cancel was asked for: end those that wait, drop what is left over."""
    rows = _known(tx, message_ids)
    waiting = [row.id for row in rows if row.status == "WAITING"]
    if waiting:
        end_all_waiting(tx, waiting)
    for row in rows:
        late = sa.delete(W).where(W.c.id == row.id)
        if row.status in FINAL:
            tx.connection.execute(late)
        elif row.status != "WAITING":
            tx.connection.execute(late.where(W.c.hop < row.hop))
