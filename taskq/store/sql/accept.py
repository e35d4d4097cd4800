"""What a gateway accepts: messages with their rows, outbox rows and claims of deduplication ids, in one transaction."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from taskq.store import tables
from taskq.store.gateway import Accepted, Parcel
from taskq.store.lines import Contended, Tx
from taskq.store.rows import clean
from taskq.store.sql import flow, messages, outbox
from taskq.store.sql.bulk import IGNORE, execute, for_each, insert_many

T = tables.dedup
_COLUMNS = ("queue", "dedup_id", "message_id", "expires_at")


def accept(tx: Tx, parcels: Sequence[Parcel]) -> list[Accepted]:
    holders = _claim(tx, parcels)
    found, kept = [], []
    for parcel in parcels:
        mine = clean(parcel.message.id)
        holder = mine if parcel.dedup is None else holders[_key(parcel.dedup)]
        if holder == mine:
            kept.append(parcel)
            found.append(Accepted(parcel.message.id))
        else:
            found.append(Accepted(holder, duplicate=True))
    # What an earlier try committed is there, and may be on the broker by now.
    ids = [clean(parcel.message.id) for parcel in kept]
    select = "SELECT id FROM taskq_messages WHERE id AMONG ?"
    known = set(execute(tx, select, ids).scalars()) if ids else set()
    new = [parcel for parcel, message_id in zip(kept, ids, strict=True) if message_id not in known]
    messages.record(tx, [parcel.message for parcel in new])
    flow.meet(tx, [parcel.message for parcel in new])
    outbox.add(tx, [parcel.outbox for parcel in new])
    return found


def _claim(tx: Tx, parcels: Sequence[Parcel]) -> dict[tuple[str, str], str]:
    """Claim the ids that nobody holds; who holds each."""
    claims: dict[tuple[str, str], Parcel] = {}
    for parcel in parcels:
        if parcel.dedup is not None:
            claims.setdefault(_key(parcel.dedup), parcel)
    if not claims:
        return {}
    now, keys = tx.now(), sorted(claims)
    for_each(tx, "DELETE", T, ("queue", "dedup_id"), keys, "AND expires_at <= ?", now)
    rows = [(*key, clean(claims[key].message.id), now + round(claims[key].window * 1_000_000)) for key in keys]
    insert_many(tx, T, _COLUMNS, rows, f"(queue, dedup_id) {IGNORE}")
    scopes, ids = {scope for scope, _ in keys}, {dedup_id for _, dedup_id in keys}
    select = sa.select(T.c.queue, T.c.dedup_id, T.c.message_id).where(T.c.queue.in_(scopes), T.c.dedup_id.in_(ids))
    holders = {(row.queue, row.dedup_id): row.message_id for row in tx.connection.execute(select)}
    if not claims.keys() <= holders.keys():
        raise Contended  # expired and pruned in between
    return holders


def _key(dedup: tuple[str, str]) -> tuple[str, str]:
    """As it lies beside the claims of queues, whose names have no slash."""
    scope, dedup_id = dedup
    return f"/{clean(scope)}", clean(dedup_id)
