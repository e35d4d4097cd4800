"""Rolling windows of starts: at most `limit` in any `per` seconds, over all processes.

Starts are counted, from the first on. A stamp says when the count reached a number, one row per
grant; so the starts inside the window are the count now less the count at its far edge, whatever
the limit, and stamps that left the window are deleted. A window's row is locked before the clock
is read: stamps never run backwards. One may lie ahead; which have left is told by the clock alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from taskq.queue import RateLimit
from taskq.store import tables
from taskq.store.base import Permits
from taskq.store.lines import Tx
from taskq.store.rows import clean
from taskq.store.sql.bulk import IGNORE, insert_many, of_each

W = tables.windows
S = tables.starts
_WITHIN = (
    "SELECT total, past,"
    " (SELECT max(upto) FROM taskq_starts WHERE queue = {0} AND at <= {1}),"
    " (SELECT min(at) FROM taskq_starts WHERE queue = {0} AND at > {1})"
    " FROM taskq_windows WHERE queue = {0}"
)


def take_starts(tx: Tx, queue: str, wanted: int, rate: RateLimit, slack: float) -> Permits:
    queue = clean(queue)
    window, now = _held(tx, queue)
    span = round((rate.per + slack) * 1_000_000)
    left = sa.delete(S).where(S.c.queue == queue, S.c.at <= now - span).returning(S.c.upto)
    past = max(tx.connection.execute(left).scalars(), default=window.past)
    granted = max(0, min(wanted, rate.limit - (window.total - past)))
    total = window.total + granted
    if granted:
        insert_many(tx, S, ("queue", "at", "upto"), [(queue, window.last_at, total)], f"(queue, at, upto) {IGNORE}")
    tx.connection.execute(sa.update(W).where(W.c.queue == queue).values(total=total, past=past))
    if granted >= wanted:
        return Permits(granted, reached=total)
    # The next may start when enough stamps have left for one more: all up to this count.
    enough = total - rate.limit + 1
    leaving = sa.select(sa.func.min(S.c.at)).where(S.c.queue == queue, S.c.upto >= enough)
    at = tx.connection.execute(leaving).scalar_one()
    return Permits(granted, (at + span - now) / 1_000_000, total)


def within(tx: Tx, rates: Sequence[tuple[str, RateLimit]], now: int) -> list[tuple[int, int | None]]:
    """Of each window, named with its rate: the starts that it holds, and when the next leaves it."""
    spans = [round((rate.per + rate.slack) * 1_000_000) for _, rate in rates]
    edges = [(clean(queue), now - span) for (queue, _), span in zip(rates, spans, strict=True)]
    found: list[tuple[int, int | None]] = []
    for span, rows in zip(spans, of_each(tx, ("text", "bigint"), edges, _WITHIN), strict=True):
        total, past, left, first = rows[0] if rows else (0, 0, None, None)
        found.append((total - max(past, left or 0), None if first is None else first + span))
    return found


def restamp(tx: Tx, queue: str, after: int, ahead: float) -> bool:
    queue = clean(queue)
    window, now = _held(tx, queue)
    if after < window.past:
        return False
    if after >= window.total:
        return True
    stamp = max(window.last_at, now + round(ahead * 1_000_000))
    if stamp > window.last_at:
        tx.connection.execute(sa.update(W).where(W.c.queue == queue).values(last_at=stamp))
    # The stamp that holds the last start to stay is shortened to it, the later ones go.
    tail = sa.delete(S).where(S.c.queue == queue, S.c.upto > after).returning(S.c.at)
    cut = min(tx.connection.execute(tail).scalars(), default=None)
    before = tx.connection.execute(sa.select(sa.func.max(S.c.upto)).where(S.c.queue == queue)).scalar_one()
    rows = [(queue, stamp, window.total)]
    if cut is not None and after > (window.past if before is None else before):
        rows.append((queue, cut, after))
    insert_many(tx, S, ("queue", "at", "upto"), sorted(rows), f"(queue, at, upto) {IGNORE}")
    return True


def lock(tx: Tx, name: str) -> None:
    """Keep others who lock the same name waiting until the transaction ends."""
    _held(tx, name)


def _held(tx: Tx, queue: str) -> tuple[sa.Row[Any], int]:
    """The window's row, made if there is none and locked, and the clock read after that.

    The row's `last_at` is where the next stamp goes: now, or where one lies ahead.
    """
    # SET is evaluated when the lock is held: the instant is not one from before a wait for it.
    statement = sa.text(
        f"INSERT INTO taskq_windows (queue, total, past, last_at) VALUES (:queue, 0, 0, {tx.now_sql})"
        f" ON CONFLICT (queue) DO UPDATE SET last_at = {tx.greatest}(taskq_windows.last_at, {tx.now_sql})"
        f" RETURNING total, past, last_at, {tx.now_sql} AS now"
    )
    window = tx.connection.execute(statement, {"queue": queue, **tx.now_parameters()}).one()
    return window, int(window.now)
