"""Flow control by key: keys, permits, and the wait list."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("taskq_waiting", sa.Column("flow_key", sa.Text(), nullable=True))
    plain, keyed = sa.text("flow_key IS NULL"), sa.text("flow_key IS NOT NULL")
    op.drop_index("taskq_waiting_due", table_name="taskq_waiting")
    for name, columns, where in (
        ("taskq_waiting_due", ["due_at", "id"], plain),
        ("taskq_waiting_flow", ["flow_key", "due_at", "id"], keyed),
        ("taskq_waiting_flow_due", ["due_at", "id"], keyed),
    ):
        op.create_index(name, "taskq_waiting", columns, sqlite_where=where, postgresql_where=where)
    op.create_table(
        "taskq_flow",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("parallelism", sa.Integer(), nullable=True),
        sa.Column("rate_limit", sa.Integer(), nullable=True),
        sa.Column("rate_per", sa.Float(), nullable=True),
        sa.Column("paused", sa.Boolean(), nullable=False),
        sa.Column("pinned_parallelism", sa.Boolean(), nullable=False),
        sa.Column("pinned_rate", sa.Boolean(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("key"),
    )
    op.create_index("taskq_flow_updated", "taskq_flow", ["updated_at"], unique=False)
    op.create_table(
        "taskq_permits",
        sa.Column("message_id", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("worker", sa.Text(), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("message_id"),
    )
    op.create_index("taskq_permits_key", "taskq_permits", ["key", "since", "message_id"], unique=False)
    op.create_index("taskq_permits_until", "taskq_permits", ["until"], unique=False)
    op.create_index("taskq_permits_worker", "taskq_permits", ["worker"], unique=False)
