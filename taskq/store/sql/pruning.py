"""What is deleted with time, a small batch a transaction: no lock is held for long."""

from __future__ import annotations

import sqlalchemy as sa

from taskq.store import tables
from taskq.store.base import Retention
from taskq.store.lines import Tx
from taskq.store.rows import FINAL
from taskq.store.sql import requests
from taskq.store.sql.bulk import delete_many, once

BATCH = 250
CANCEL_SECONDS = 30 * 86400.0  # a cancel of an id that never shows up
GONE_SECONDS = 86400.0  # a deleted queue's name, for those who look for changes
PERMIT_SECONDS = 600.0  # a permit that counts no longer: until then its message's place in line is known
WINDOW_SECONDS = 8 * 86400.0  # a window that nobody asked; the longest period is seven days


def kinds(keep: Retention) -> list[str]:
    """The kinds of rows that this retention prunes."""
    found = ["cancels", "finished cancels", "dedup", "gone", "windows", "permits", "keys"]
    for name in ("results", "dead_letters", "log"):
        if getattr(keep, name) is not None:
            found.append(name)
    if keep.log is not None:
        found.append("firings")
    return found


# Where to find the id of a message of whose request nothing else may be left.
_OWNERS = {"results": tables.messages.c.id, "dead_letters": tables.dead_letters.c.message_id}
# By which the oldest come first, where there is an index of it.
_AGES = {
    "results": tables.messages.c.ended_at,
    "dead_letters": tables.dead_letters.c.died_at,
    "log": tables.log.c.at,
    "firings": tables.firings.c.fired_at,
    "dedup": tables.dedup.c.expires_at,
}


def prune_batch(tx: Tx, kind: str, keep: Retention, limit: int) -> int:
    """Delete up to `limit` rows of a kind; how many."""
    now = tx.now()
    table, condition = _old(kind, keep, now)
    key = list(table.primary_key.columns)
    chosen = sa.select(*key).where(condition).limit(limit)
    if kind in _AGES:
        # Else PostgreSQL may walk through the table, for it expects to find enough of them soon.
        chosen = chosen.order_by(_AGES[kind])
    # Rows that somebody is writing are left for another time.
    chosen = once(tx, chosen, of=table)
    statement = sa.delete(table).where(sa.tuple_(*key).in_(chosen))
    owner = _OWNERS.get(kind)
    if owner is not None:
        ended = list(tx.connection.execute(statement.returning(owner)).scalars())
        requests.forget(tx, ended)
        return len(ended)
    if kind == "windows":
        gone = list(tx.connection.execute(statement.returning(tables.windows.c.queue)).scalars())
        delete_many(tx, tables.starts.c.queue, gone)
        return len(gone)
    return tx.connection.execute(statement).rowcount


def _old(kind: str, keep: Retention, now: int) -> tuple[sa.Table, sa.ColumnElement[bool]]:
    """The table of a kind, and which of its rows are too old."""

    def before(seconds: float | None) -> int:
        assert seconds is not None
        return now - round(seconds * 1_000_000)

    messages, cancels = tables.messages, tables.cancels
    match kind:
        case "results":
            return messages, sa.and_(messages.c.ended_at < before(keep.results), messages.c.status.in_(FINAL))
        case "dead_letters":
            return tables.dead_letters, tables.dead_letters.c.died_at < before(keep.dead_letters)
        case "log":
            return tables.log, tables.log.c.at < before(keep.log)
        case "firings":
            return tables.firings, tables.firings.c.fired_at < before(keep.log)
        case "cancels":
            return cancels, cancels.c.asked_at < before(CANCEL_SECONDS)
        case "finished cancels":
            ended = sa.select(messages.c.id).where(messages.c.id == cancels.c.message_id, messages.c.status.in_(FINAL))
            return cancels, ended.exists()
        case "dedup":
            return tables.dedup, tables.dedup.c.expires_at <= now
        case "gone":
            return tables.queues_gone, tables.queues_gone.c.deleted_at < before(GONE_SECONDS)
        case "permits":
            return tables.permits, tables.permits.c.until < before(PERMIT_SECONDS)
        case "keys":
            flow, waiting = tables.flow, tables.waiting
            waits = sa.select(waiting.c.id).where(waiting.c.flow_key == flow.c.key, waiting.c.flow_key.is_not(None))
            plain = sa.not_(sa.or_(flow.c.paused, flow.c.pinned_parallelism, flow.c.pinned_rate))
            return flow, sa.and_(flow.c.updated_at < before(WINDOW_SECONDS), plain, ~waits.exists())
        case "windows":
            return tables.windows, tables.windows.c.last_at < before(WINDOW_SECONDS)
    raise ValueError(f"no such kind of rows: {kind!r}")


def table_sizes(tx: Tx) -> dict[str, int]:
    return {
        table.name: int(tx.connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one())
        for table in tables.TABLES
    }
