"""Making the schema, or bringing it up to date, by the first process that opens the store.

An empty database gets today's tables at once. Alembic, which takes a tenth of a second and 9 MB to load, is
loaded only for a store that an older taskq made; an up-to-date one costs two look-ups.
"""

from __future__ import annotations

import uuid
from pathlib import Path

import sqlalchemy as sa

from taskq.errors import SchemaTooNew
from taskq.store import tables
from taskq.store.lines import Tx

VERSION_TABLE = "taskq_version"
REVISIONS = ("0001", "0002", "0003", "0004")  # in order; the last is what this code works with
_MIGRATIONS = Path(__file__).parent / "migrations"
MIGRATION_SECONDS = 900.0  # of one that rebuilds large tables, or of the wait for one
_LOCK = 0x7461736B  # "task": with the schema's hash, PostgreSQL's advisory lock of those who migrate


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
    """Make the schema or bring it up to date, in one transaction under a lock; the store's UUID.

    SQLite's transaction is a writer's and excludes others by itself.
    """
    if tx.postgres:
        patience = f"SET LOCAL lock_timeout = {round(MIGRATION_SECONDS * 1000)}; SET LOCAL statement_timeout = 0"
        tx.connection.exec_driver_sql(patience)
        lock = "SELECT pg_advisory_xact_lock(:key, hashtext(coalesce(current_schema(), '')))"
        tx.connection.execute(sa.text(lock), {"key": _LOCK})
    found = store_id(tx)  # another process may have done it while this one waited
    if found is not None:
        return found
    if _version(tx) is None:
        make(tx)
    else:
        upgrade(tx)
    found = store_id(tx)
    assert found is not None, "both ways end with this code's revision"
    return found


def make(tx: Tx) -> None:
    """Today's tables in a database that has none."""
    if tx.postgres:
        tables.complete_for_postgres()
    tables.metadata.create_all(tx.connection, checkfirst=False)
    tx.connection.execute(sa.insert(tables.store).values(id=1, uuid=str(uuid.uuid4()), change=0))
    version = sa.Table(VERSION_TABLE, sa.MetaData(), sa.Column("version_num", sa.String(32), nullable=False))
    version.append_constraint(sa.PrimaryKeyConstraint("version_num", name=f"{VERSION_TABLE}_pkc"))
    version.create(tx.connection)
    tx.connection.execute(sa.insert(version).values(version_num=REVISIONS[-1]))


def upgrade(tx: Tx) -> None:
    """The revisions that the store lacks, one after the other; in a database without tables, all."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = tx.connection
    command.upgrade(config, REVISIONS[-1])


def _version(tx: Tx) -> str | None:
    # By a query, not by to_regclass: that answers from the session's own cache, so that who waited for the lock while
    # another process made the tables was told that there are none.
    catalog = (
        "pg_catalog.pg_class WHERE pg_catalog.pg_table_is_visible(oid) AND relname"
        if tx.postgres
        else "sqlite_master WHERE name"
    )
    there = sa.text(f"SELECT 1 FROM {catalog} = '{VERSION_TABLE}'")
    if tx.connection.execute(there).scalar() is None:
        return None
    version = tx.connection.execute(sa.text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()
    return None if version is None else str(version)
