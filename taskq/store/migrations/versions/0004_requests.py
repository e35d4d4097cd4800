"""Messages for URLs: requests, their history and answers; URL groups; signing keys."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "taskq_requests",
        sa.Column("message_id", sa.Text(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("topic", sa.Text(), nullable=True),
        sa.Column("endpoint", sa.Text(), nullable=True),
        sa.Column("schedule_id", sa.Text(), nullable=True),
        sa.Column("caller_ip", sa.Text(), nullable=False),
        sa.Column("labels", sa.Text(), nullable=False),
        sa.Column("flow_key", sa.Text(), nullable=True),
        sa.Column("queue_name", sa.Text(), nullable=True),
        sa.Column("callback_of", sa.Text(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("envelope", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("message_id"),
    )
    op.create_index("taskq_requests_created", "taskq_requests", ["created_at", "message_id"], unique=False)
    answers = sa.text("callback_of IS NOT NULL")
    op.create_index(
        "taskq_requests_callback", "taskq_requests", ["callback_of"], sqlite_where=answers, postgresql_where=answers
    )
    op.add_column("taskq_log", sa.Column("next_at", sa.BigInteger(), nullable=True))
    op.add_column("taskq_log", sa.Column("response", sa.LargeBinary(), nullable=True))
    op.add_column("taskq_log", sa.Column("of_request", sa.Boolean(), nullable=False, server_default=sa.false()))
    ours = sa.text("of_request")
    op.create_index(
        "taskq_log_requests", "taskq_log", ["at", "message_id", "state"], sqlite_where=ours, postgresql_where=ours
    )
    op.add_column("taskq_dead_letters", sa.Column("response", sa.LargeBinary(), nullable=True))
    op.add_column("taskq_dead_letters", sa.Column("response_status", sa.Integer(), nullable=True))
    op.create_table(
        "taskq_groups",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("endpoints", sa.Text(), nullable=False),
        sa.Column("headers", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "taskq_signing_keys",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("current_key", sa.Text(), nullable=False),
        sa.Column("next_key", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
