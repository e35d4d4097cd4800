"""The keys with which deliveries are signed."""

from __future__ import annotations

import secrets

import sqlalchemy as sa

from taskq.store import tables
from taskq.store.gateway import SigningKeys
from taskq.store.lines import Tx
from taskq.store.sql.bulk import IGNORE, insert_many, locked

T = tables.signing_keys
_COLUMNS = ("id", "current_key", "next_key")
_SELECT = sa.select(T.c.current_key, T.c.next_key).where(T.c.id == 1)


def get(tx: Tx) -> SigningKeys | None:
    """None: nobody has asked yet."""
    row = tx.connection.execute(_SELECT).first()
    return None if row is None else SigningKeys(row.current_key, row.next_key)


def make(tx: Tx) -> SigningKeys:
    """The keys, made if there are none; of two who make them at once the later takes the earlier's."""
    insert_many(tx, T, _COLUMNS, [(1, _new(), _new())], f"(id) {IGNORE}")
    keys = get(tx)
    assert keys is not None
    return keys


def rotate(tx: Tx, seen: SigningKeys) -> SigningKeys:
    """The keys after those that were seen; once they have been rotated, those that stand."""
    row = tx.connection.execute(locked(tx, _SELECT)).one()
    if row.current_key != seen.current:
        return SigningKeys(row.current_key, row.next_key)
    keys = SigningKeys(row.next_key, _new())
    tx.connection.execute(sa.update(T).where(T.c.id == 1).values(current_key=keys.current, next_key=keys.next))
    return keys


def _new() -> str:
    return f"sig_{secrets.token_urlsafe(32)}"
