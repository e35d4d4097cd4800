"""Many rows in one statement, and the few words in which the two databases differ.

SQLite runs a prepared statement row by row inside the process (1 to 2 µs a row). PostgreSQL gets one
statement whose parameters are arrays, one per column: one round trip, parsed once, whatever the number
of rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.sql import Select

from taskq.store.lines import Tx

_ARRAYS = {
    sa.Text: "text[]",
    sa.Integer: "integer[]",
    sa.BigInteger: "bigint[]",
    sa.LargeBinary: "bytea[]",
    sa.Boolean: "boolean[]",
    sa.Float: "double precision[]",
}
IGNORE = "DO NOTHING"


def insert_many(tx: Tx, table: sa.Table, columns: Sequence[str], rows: Sequence[Sequence[Any]], conflict: str) -> int:
    """Insert the rows; how many were inserted or updated.

    Args:
        columns: names of the columns that the rows give, in their order.
        conflict: what follows ON CONFLICT. No two rows may name the same key.
    """
    if not rows:
        return 0
    statement = _insert(tx.postgres, table, tuple(columns), conflict)
    if tx.postgres:
        return tx.connection.exec_driver_sql(
            statement, tuple(list(column) for column in zip(*rows, strict=True))
        ).rowcount
    return tx.connection.exec_driver_sql(statement, [tuple(row) for row in rows]).rowcount


@lru_cache(maxsize=64)
def _insert(postgres: bool, table: sa.Table, columns: tuple[str, ...], conflict: str) -> str:
    head = f"INSERT INTO {table.name} ({', '.join(columns)})"
    if postgres:
        arrays = ", ".join(f"%b::{_ARRAYS[type(table.c[name].type)]}" for name in columns)
        return f"{head} SELECT * FROM unnest({arrays}) ON CONFLICT {conflict}"
    return f"{head} VALUES ({', '.join('?' * len(columns))}) ON CONFLICT {conflict}"


def locked(tx: Tx, statement: Select[Any]) -> Select[Any]:
    """The statement, taking its rows' locks. SQLite's writers have the whole database."""
    return statement.with_for_update() if tx.postgres else statement


def unlocked_only(tx: Tx, statement: Select[Any], of: sa.Table | None = None) -> Select[Any]:
    """The statement, taking the locks of its rows (in `of`) and leaving out those that others hold."""
    return statement.with_for_update(skip_locked=True, of=of) if tx.postgres else statement


def distinct(keys: Sequence[str]) -> list[list[int]]:
    """Indexes of the keys in passes: none has a key twice, each key's come in their order. Mostly one pass."""
    if len(set(keys)) == len(keys):
        return [list(range(len(keys)))] if keys else []
    passes: list[list[int]] = []
    seen: dict[str, int] = {}
    for index, key in enumerate(keys):
        turn = seen.get(key, 0)
        seen[key] = turn + 1
        if turn == len(passes):
            passes.append([])
        passes[turn].append(index)
    return passes
