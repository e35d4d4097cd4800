"""Many rows in one statement, and the few words in which the two databases differ.

SQLite runs a prepared statement row by row inside the process (1 to 2 µs a row). PostgreSQL gets one
statement whose parameters are arrays, one per column: one round trip, parsed once, whatever the number
of rows.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import CursorResult
from sqlalchemy.sql import Select

from taskq.store.lines import Tx

_TYPES = {
    sa.Text: "text",
    sa.Integer: "integer",
    sa.BigInteger: "bigint",
    sa.LargeBinary: "bytea",
    sa.Boolean: "boolean",
    sa.Float: "double precision",
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
    names = tuple(columns)
    if not tx.postgres:
        return tx.connection.exec_driver_sql(insert_row(table, names, conflict), [tuple(row) for row in rows]).rowcount
    statement, parameters = insert_statement(table, names, rows, conflict)
    return tx.connection.exec_driver_sql(statement, parameters).rowcount


@lru_cache(maxsize=64)
def insert_row(table: sa.Table, columns: tuple[str, ...], conflict: str) -> str:
    """SQLite's statement for `insert_many`, of one row."""
    marks = ", ".join("?" * len(columns))
    return f"INSERT INTO {table.name} ({', '.join(columns)}) VALUES ({marks}) ON CONFLICT {conflict}"


def insert_statement(
    table: sa.Table, columns: tuple[str, ...], rows: Sequence[Sequence[Any]], conflict: str
) -> tuple[str, tuple[Any, ...]]:
    """PostgreSQL's statement for `insert_many`, and its parameters."""
    values = [list(column) for column in zip(*rows, strict=True)]
    # A column whose values are all the same travels once: a third of the cost of a usual group is saved.
    same = tuple(column.count(column[0]) == len(column) for column in values)
    parameters = tuple(column[0] if alike else column for column, alike in zip(values, same, strict=True))
    return _insert_arrays(table, columns, same, conflict), parameters


def insert_and_tell(
    tx: Tx, table: sa.Table, columns: Sequence[str], rows: Sequence[Sequence[Any]], conflict: str, told: str
) -> list[sa.Row[Any]]:
    """`insert_many`, and these columns of each row as it is then, also if it was left as it was.

    The first of `columns`, a text, is the key of the table, and the first of `told`.
    """
    names, ids = tuple(columns), [row[0] for row in rows]
    found: list[sa.Row[Any]] = []
    if tx.postgres:
        statement, parameters = insert_statement(table, names, rows, conflict)
        found += tx.connection.exec_driver_sql(f"{statement} RETURNING {told}", parameters).all()
        known = {row[0] for row in found}
        ids = [one for one in ids if one not in known]
    else:
        insert_many(tx, table, names, rows, conflict)
    if ids:
        found += execute(tx, f"SELECT {told} FROM {table.name} WHERE {names[0]} AMONG ?", ids).all()
    return found


def execute(tx: Tx, statement: str, *parameters: Any) -> CursorResult[*tuple[Any, ...]]:
    """Run a statement of the hot path, written once for both databases.

    It goes to the driver as it is: to compose one from tables costs 100 to 300 µs each time. Each parameter is
    a `?`; `AMONG ?` takes a list of texts. No other `?` may be in it, and no `%`.
    """
    if not tx.postgres:
        parameters = tuple(json.dumps(value) if isinstance(value, list) else value for value in parameters)
    return tx.connection.exec_driver_sql(_spelled(statement, tx.postgres), parameters)


@lru_cache(maxsize=256)
def _spelled(statement: str, postgres: bool) -> str:
    if postgres:
        return statement.replace("AMONG ?", "= ANY(?::text[])").replace("?", "%b")
    # A subquery, so that the text is the same whatever the number of values.
    return statement.replace("AMONG ?", "IN (SELECT value FROM json_each(?))")


def of_each(tx: Tx, types: Sequence[str], keys: Sequence[Sequence[Any]], query: str) -> list[list[Sequence[Any]]]:
    """The rows that a query finds for each of the keys; PostgreSQL is asked once for all.

    Args:
        types: PostgreSQL's types of a key's values.
        query: names these {0}, {1} and so on. Each key's rows come in any order.
    """
    found: list[list[Sequence[Any]]] = [[] for _ in keys]
    if not keys:
        return found
    if not tx.postgres:
        statement = query.format(*(f"?{number}" for number in range(1, len(types) + 1)))
        for key, rows in zip(keys, found, strict=True):
            rows += tx.connection.exec_driver_sql(statement, tuple(key)).all()
        return found
    names = [f"v{number}" for number in range(len(types))]
    arrays = ", ".join(f"%b::{one}[]" for one in types)
    query = query.format(*(f"given.{name}" for name in names))
    statement = (
        f"SELECT given.place, found.* FROM unnest({arrays}) WITH ORDINALITY AS given({', '.join(names)}, place)"
        f" CROSS JOIN LATERAL ({query}) AS found"
    )
    values = tuple(list(column) for column in zip(*keys, strict=True))
    for place, *row in tx.connection.exec_driver_sql(statement, values):
        found[place - 1].append(row)
    return found


def delete_many(tx: Tx, column: sa.Column[str], values: Sequence[str], also: str = "") -> None:
    """Delete the rows in which the column has one of the values; `also` narrows them, as `AND …`."""
    execute(tx, f"DELETE FROM {column.table.name} WHERE {column.name} AMONG ? {also}", list(values))


def for_each(
    tx: Tx,
    verb: str,
    table: sa.Table,
    columns: Sequence[str],
    keys: Sequence[Sequence[Any]],
    also: str = "",
    value: int | None = None,
) -> None:
    """Delete or update the rows whose columns have the values of a key, for each key.

    A list of pairs in one WHERE would make SQLite walk through the table.

    Args:
        verb: `DELETE`, or `SET …` for an update.
        also: narrows the rows, as `AND …`.
        value: what the one `?` in `verb` or `also` stands for.
    """
    if not keys:
        return
    deleting = verb == "DELETE"
    head = f"DELETE FROM {table.name}" if deleting else f"UPDATE {table.name} {verb}"
    first, last = () if value is None or "?" in also else (value,), () if value is None or "?" in verb else (value,)
    if not tx.postgres:
        where = " AND ".join(f"{name} = ?" for name in columns)
        tx.connection.exec_driver_sql(f"{head} WHERE {where} {also}", [(*first, *key, *last) for key in keys])
        return
    arrays = ", ".join(f"%b::{_TYPES[type(table.c[name].type)]}[]" for name in columns)
    where = " AND ".join(f"{table.name}.{name} = key.{name}" for name in columns)
    source = f"{'USING' if deleting else 'FROM'} unnest({arrays}) AS key({', '.join(columns)})"
    values = (list(column) for column in zip(*keys, strict=True))
    statement = f"{head} {source} WHERE {where} {also}".replace("?", "%b")
    tx.connection.exec_driver_sql(statement, (*first, *values, *last))


@lru_cache(maxsize=256)
def _insert_arrays(table: sa.Table, columns: tuple[str, ...], same: tuple[bool, ...], conflict: str) -> str:
    """The statement; columns in `same` are one value, the others arrays, in the columns' order."""
    types = [_TYPES[type(table.c[name].type)] for name in columns]
    chosen = [f"%b::{kind}" if alike else f"unnest(%b::{kind}[])" for kind, alike in zip(types, same, strict=True)]
    return f"INSERT INTO {table.name} ({', '.join(columns)}) SELECT {', '.join(chosen)} ON CONFLICT {conflict}"


def locked(tx: Tx, statement: Select[Any]) -> Select[Any]:
    """The statement, taking its rows' locks. SQLite's writers have the whole database."""
    return statement.with_for_update() if tx.postgres else statement


def for_update(tx: Tx) -> str:
    """The same as the end of a statement's text."""
    return " FOR UPDATE" if tx.postgres else ""


def once(tx: Tx, statement: Select[Any], of: sa.Table | None = None) -> Select[Any]:
    """The statement, to choose the rows of an update or delete by their keys: it takes the locks of its
    rows (in `of`) and leaves out those that others hold.

    For PostgreSQL in a WITH: it may run a plain subquery again for every row, which then locks others each
    time. Not for SQLite: its driver counts the rows of statements that begin with their verb only.
    """
    if not tx.postgres:
        return statement
    chosen = statement.with_for_update(skip_locked=True, of=of).cte("chosen")
    return sa.select(*chosen.columns)


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
