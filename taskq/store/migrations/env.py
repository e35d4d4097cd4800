"""Alembic's entry: runs the revisions on the connection, and in the transaction, that `schema.migrate` holds."""

from __future__ import annotations

from alembic import context

from taskq.store.schema import VERSION_TABLE
from taskq.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
)
with context.begin_transaction():
    context.run_migrations()
