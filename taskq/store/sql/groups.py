"""URL groups: their members, and the headers that every publish to them is sent with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from taskq.http.request import Headers
from taskq.store import tables
from taskq.store.gateway import Endpoint, GroupRecord
from taskq.store.lines import Contended, Tx
from taskq.store.rows import clean, from_us
from taskq.store.sql.bulk import IGNORE, insert_many, locked

T = tables.groups
_COLUMNS = tuple(column.name for column in T.columns)


def get_group(tx: Tx, name: str) -> GroupRecord | None:
    row = tx.connection.execute(sa.select(T).where(T.c.name == clean(name))).first()
    return None if row is None else _record(row)


def list_groups(tx: Tx) -> list[GroupRecord]:
    return [_record(row) for row in tx.connection.execute(sa.select(T).order_by(T.c.name))]


def add_endpoints(tx: Tx, name: str, endpoints: Sequence[Endpoint]) -> GroupRecord:
    held = _held(tx, name)
    members = list(held.endpoints) if held is not None else []
    for endpoint in endpoints:
        members = _with(members, endpoint)
    if held is not None:
        return _change(tx, held, endpoints=members)
    now = tx.now()
    row = (clean(name), _text((one.url, one.name) for one in members), "[]", now, now)
    if insert_many(tx, T, _COLUMNS, [row], f"(name) {IGNORE}") == 0:
        raise Contended  # made by somebody else just now
    return GroupRecord(clean(name), tuple(members), (), from_us(now), from_us(now))


def remove_endpoints(tx: Tx, name: str, endpoints: Sequence[tuple[str | None, str | None]]) -> GroupRecord | None:
    held = _held(tx, name)
    if held is None:
        return None
    members = [one for one in held.endpoints if not any(_is(one, *wanted) for wanted in endpoints)]
    if not members:
        delete_group(tx, name)
        return None
    return _change(tx, held, endpoints=members)


def set_group_headers(tx: Tx, name: str, headers: Headers) -> GroupRecord | None:
    held = _held(tx, name)
    return None if held is None else _change(tx, held, headers=headers)


def delete_group(tx: Tx, name: str) -> bool:
    return tx.connection.execute(sa.delete(T).where(T.c.name == clean(name))).rowcount > 0


def _with(members: Sequence[Endpoint], endpoint: Endpoint) -> list[Endpoint]:
    """The members with this one in the place of the first that has its url or its name, or at the end."""
    same = [one.url == endpoint.url or (one.name is not None and one.name == endpoint.name) for one in members]
    if True not in same:
        return [*members, endpoint]
    place = same.index(True)
    rest = [one for one, known in zip(members[place:], same[place:], strict=True) if not known]
    return [*members[:place], endpoint, *rest]


def _is(member: Endpoint, url: str | None, name: str | None) -> bool:
    if url is None and name is None:
        return False
    return (url is None or member.url == url) and (name is None or member.name == name)


def _held(tx: Tx, name: str) -> GroupRecord | None:
    """The record, its row locked."""
    row = tx.connection.execute(locked(tx, sa.select(T).where(T.c.name == clean(name)))).first()
    return None if row is None else _record(row)


def _change(
    tx: Tx, held: GroupRecord, *, endpoints: Sequence[Endpoint] | None = None, headers: Headers | None = None
) -> GroupRecord:
    members = held.endpoints if endpoints is None else tuple(endpoints)
    headers = held.headers if headers is None else headers
    if (members, headers) == (held.endpoints, held.headers):
        return held
    values = {
        "endpoints": _text((one.url, one.name) for one in members),
        "headers": _text(headers),
        "updated_at": tx.now(),
    }
    row = tx.connection.execute(sa.update(T).where(T.c.name == held.name).values(values).returning(T)).one()
    return _record(row)


def _text(pairs: Any) -> str:
    """Pairs as one column: JSON in ASCII, which holds whatever the texts hold."""
    return json.dumps([list(pair) for pair in pairs])


def _record(row: sa.Row[Any]) -> GroupRecord:
    return GroupRecord(
        name=row.name,
        endpoints=tuple(Endpoint(url, name) for url, name in json.loads(row.endpoints)),
        headers=tuple((name, value) for name, value in json.loads(row.headers)),
        created_at=from_us(row.created_at),
        updated_at=from_us(row.updated_at),
    )
