"""The change number: what `changes` compares its mark with.

The number lies in the store's one row. Whoever takes one holds that row until the commit, so numbers
become visible in their order and no reader can pass one that is still to come. Takers lock nothing
after it: it is always the last row of a transaction.
"""

from __future__ import annotations

import sqlalchemy as sa

from taskq.store import tables
from taskq.store.base import Changes
from taskq.store.lines import Tx
from taskq.store.rows import FINAL, queue_record


def next_change(tx: Tx) -> int:
    """The number of this transaction's change."""
    statement = sa.update(tables.store).values(change=tables.store.c.change + 1).returning(tables.store.c.change)
    return int(tx.connection.execute(statement).scalar_one())


def changes(tx: Tx, mark: str | None) -> Changes:
    # Read before the rows, and only rows up to it: what is committed in between is told next time.
    latest = int(tx.connection.execute(sa.select(tables.store.c.change)).scalar_one())
    since = _since(mark, latest)
    if since == latest:
        return Changes(str(latest))
    cancels, messages, queues, gone = tables.cancels, tables.messages, tables.queues, tables.queues_gone
    asked = (
        sa.select(cancels.c.message_id)
        .outerjoin(messages, messages.c.id == cancels.c.message_id)
        .where(_between(cancels, since, latest), sa.or_(messages.c.id.is_(None), messages.c.status.not_in(FINAL)))
        .order_by(cancels.c.change)
    )
    changed = sa.select(queues).where(_between(queues, since, latest)).order_by(queues.c.name)
    deleted = sa.select(gone.c.name).where(_between(gone, since, latest)).order_by(gone.c.name)
    return Changes(
        mark=str(latest),
        cancels=list(tx.connection.execute(asked).scalars()),
        queues=[queue_record(row) for row in tx.connection.execute(changed)],
        deleted=[] if since < 0 else list(tx.connection.execute(deleted).scalars()),
    )


def _between(table: sa.Table, since: int, latest: int) -> sa.ColumnElement[bool]:
    return sa.and_(table.c.change > since, table.c.change <= latest)


def _since(mark: str | None, latest: int) -> int:
    """The number to look from; -1 for everything. A mark from another store's life counts as none."""
    if mark is None or not mark.isdecimal() or int(mark) > latest:
        return -1
    return int(mark)
