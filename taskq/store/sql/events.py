"""The history of requests, line by line, over all of them."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from taskq.message import Message
from taskq.store import tables
from taskq.store.base import Page
from taskq.store.gateway import Event, RequestFilter
from taskq.store.lines import Tx
from taskq.store.rows import clean, from_cursor, log_entry, to_cursor, to_us
from taskq.store.sql import requests
from taskq.store.sql.finish import STATES

T = tables.log
R = tables.requests
_PLACE = sa.case({state: place for place, state in enumerate(STATES)}, value=T.c.state, else_=len(STATES))
_KEY = (T.c.at, T.c.message_id, _PLACE)


def events(
    tx: Tx, which: RequestFilter, states: Sequence[str], oldest_first: bool, cursor: str | None, limit: int
) -> Page:
    order = [part.asc() if oldest_first else part.desc() for part in _KEY]
    select = sa.select(T, _PLACE.label("place")).where(tables.OF_REQUEST).order_by(*order).limit(limit + 1)
    wanted = requests.conditions(tx, which)
    if wanted:
        select = select.join(R, R.c.message_id == T.c.message_id).where(*wanted)
    if which.ids:
        select = select.where(T.c.message_id.in_([clean(one) for one in which.ids]))
    if states:
        select = select.where(T.c.state.in_([clean(state) for state in states]))
    if which.since is not None:
        select = select.where(T.c.at >= to_us(which.since))
    if which.until is not None:
        select = select.where(T.c.at <= to_us(which.until))
    if cursor is not None:
        here, there = sa.tuple_(*_KEY), sa.tuple_(*map(sa.literal, from_cursor(cursor, str, int)))
        select = select.where(here > there if oldest_first else here < there)
    rows = tx.connection.execute(select).all()
    more, rows = len(rows) > limit, rows[:limit]
    messages = _messages(tx, {row.message_id for row in rows})
    found = [Event(log_entry(row), messages.get(row.message_id)) for row in rows]
    return Page(found, to_cursor(rows[-1].at, rows[-1].message_id, rows[-1].place) if more else None)


def _messages(tx: Tx, ids: set[str]) -> dict[str, Message | None]:
    select = sa.select(R.c.message_id, R.c.envelope).where(R.c.message_id.in_(ids))
    return {row.message_id: requests.to_message(row.envelope) for row in tx.connection.execute(select)}
