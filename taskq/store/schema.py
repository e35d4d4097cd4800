"""Bringing the schema up to date, by the first process that opens the store.

Alembic takes a tenth of a second to load, so it is loaded only when there is something to do; an
up-to-date store costs two look-ups.
"""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from taskq.errors import SchemaTooNew
from taskq.store import tables
from taskq.store.lines import Tx

VERSION_TABLE = "taskq_version"
REVISIONS = ("0001", "0002", "0003", "0004")  # in order; the last is what this code works with
_MIGRATIONS = Path(__file__).parent / "migrations"
_LOCK = 0x7461736B71  # "taskq": PostgreSQL's advisory lock of those who migrate


def store_id(tx: Tx) -> str | None:
    """The store's UUID if its schema is this code's; None: it is to be brought up to date.

    Raises:
        SchemaTooNew: a newer taskq wrote it.
    """
    version = _version(tx)
    if version is not None and version not in REVISIONS:
        raise SchemaTooNew(
            f"the store's schema is revision {version!r}, this taskq knows up to {REVISIONS[-1]!r}: upgrade taskq here"
        )
    if version != REVISIONS[-1]:
        return None
    return str(tx.connection.execute(sa.select(tables.store.c.uuid)).scalar_one())


def migrate(tx: Tx) -> str:
    """Bring the schema up to date, in one transaction under a lock; the store's UUID.

    SQLite's transaction is a writer's and excludes others by itself.
    """
    if tx.postgres:
        tx.connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    found = store_id(tx)  # another process may have done it while this one waited
    if found is not None:
        return found
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = tx.connection
    command.upgrade(config, REVISIONS[-1])
    found = store_id(tx)
    assert found is not None, "the migrations end with this code's revision"
    return found


def _version(tx: Tx) -> str | None:
    if tx.postgres:
        there = sa.select(sa.func.to_regclass(VERSION_TABLE))
    else:
        there = (
            sa.select(sa.literal_column("1"))
            .select_from(sa.text("sqlite_master"))
            .where(sa.literal_column("name") == VERSION_TABLE)
        )
    if tx.connection.execute(there).scalar() is None:
        return None
    version = tx.connection.execute(sa.text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()
    return None if version is None else str(version)
