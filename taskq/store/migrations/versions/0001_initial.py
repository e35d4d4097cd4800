"""The first schema."""

from __future__ import annotations

import uuid

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "taskq_cancels",
        sa.Column("message_id", sa.Text(), nullable=False),
        sa.Column("asked_at", sa.BigInteger(), nullable=False),
        sa.Column("change", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("message_id"),
    )
    op.create_index("taskq_cancels_asked", "taskq_cancels", ["asked_at"], unique=False)
    op.create_index("taskq_cancels_change", "taskq_cancels", ["change"], unique=False)
    op.create_table(
        "taskq_dead_letters",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("message_id", sa.Text(), nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("failure_type", sa.Text(), nullable=True),
        sa.Column("failure_message", sa.Text(), nullable=True),
        sa.Column("failure_traceback", sa.Text(), nullable=True),
        sa.Column("worker", sa.Text(), nullable=True),
        sa.Column("died_at", sa.BigInteger(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("content_type", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("taskq_dead_letters_died", "taskq_dead_letters", ["died_at", "id"], unique=False)
    op.create_index("taskq_dead_letters_message", "taskq_dead_letters", ["message_id"], unique=False)
    op.create_index("taskq_dead_letters_queue", "taskq_dead_letters", ["queue", "died_at", "id"], unique=False)
    op.create_table(
        "taskq_dedup",
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("dedup_id", sa.Text(), nullable=False),
        sa.Column("message_id", sa.Text(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("queue", "dedup_id"),
    )
    op.create_index("taskq_dedup_expires", "taskq_dedup", ["expires_at"], unique=False)
    op.create_index("taskq_dedup_message", "taskq_dedup", ["message_id"], unique=False)
    op.create_table(
        "taskq_log",
        sa.Column("message_id", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=True),
        sa.Column("worker", sa.Text(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("message_id", "at", "state"),
    )
    op.create_index("taskq_log_at", "taskq_log", ["at"], unique=False)
    op.create_table(
        "taskq_messages",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("hop", sa.Integer(), nullable=False),
        sa.Column("crashes", sa.Integer(), server_default="0", nullable=False),
        sa.Column("claimed", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("transient", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("worker", sa.Text(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=True),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.Column("not_before", sa.BigInteger(), nullable=True),
        sa.Column("result", sa.LargeBinary(), nullable=True),
        sa.Column("result_type", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("failure", sa.Text(), nullable=True),
        sa.Column("progress_done", sa.BigInteger(), nullable=True),
        sa.Column("progress_total", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("taskq_messages_created", "taskq_messages", ["created_at", "id"], unique=False)
    op.create_index("taskq_messages_ended", "taskq_messages", ["ended_at"], unique=False)
    op.create_index(
        "taskq_messages_notable",
        "taskq_messages",
        ["status", "queue", "created_at", "id"],
        unique=False,
        sqlite_where=sa.text("status <> 'SUCCEEDED'"),
        postgresql_where=sa.text("status <> 'SUCCEEDED'"),
    )
    op.create_table(
        "taskq_outbox",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("content_type", sa.Text(), nullable=False),
        sa.Column("message_id", sa.Text(), nullable=False),
        sa.Column("due_at", sa.BigInteger(), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("claimed_until", sa.BigInteger(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "taskq_outbox_claimed",
        "taskq_outbox",
        ["claimed_until"],
        unique=False,
        sqlite_where=sa.text("claimed_until > 0"),
        postgresql_where=sa.text("claimed_until > 0"),
    )
    op.create_index("taskq_outbox_due", "taskq_outbox", ["due_at", "id"], unique=False)
    op.create_table(
        "taskq_queues",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("born_fifo", sa.Boolean(), nullable=False),
        sa.Column("born_priorities", sa.Boolean(), nullable=False),
        sa.Column("partitions", sa.Integer(), nullable=True),
        sa.Column("parallelism", sa.Integer(), nullable=True),
        sa.Column("rate_limit", sa.Integer(), nullable=True),
        sa.Column("rate_per", sa.Float(), nullable=True),
        sa.Column("worker_parallelism", sa.Integer(), nullable=True),
        sa.Column("retry_in_place", sa.Boolean(), nullable=False),
        sa.Column("paused", sa.Boolean(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.Column("change", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_index("taskq_queues_change", "taskq_queues", ["change"], unique=False)
    op.create_table(
        "taskq_queues_gone",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("deleted_at", sa.BigInteger(), nullable=False),
        sa.Column("change", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_index("taskq_queues_gone_change", "taskq_queues_gone", ["change"], unique=False)
    op.create_table(
        "taskq_starts",
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("upto", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("queue", "at", "upto"),
    )
    op.create_table(
        "taskq_store",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("uuid", sa.Text(), nullable=False),
        sa.Column("change", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "taskq_waiting",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("hop", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("due_at", sa.BigInteger(), nullable=False),
        sa.Column("claimed_until", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", "hop"),
    )
    op.create_index(
        "taskq_waiting_claimed",
        "taskq_waiting",
        ["claimed_until"],
        unique=False,
        sqlite_where=sa.text("claimed_until > 0"),
        postgresql_where=sa.text("claimed_until > 0"),
    )
    op.create_index("taskq_waiting_due", "taskq_waiting", ["due_at", "id"], unique=False)
    op.create_index("taskq_waiting_queue", "taskq_waiting", ["queue", "due_at", "id"], unique=False)
    op.create_table(
        "taskq_windows",
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("total", sa.BigInteger(), nullable=False),
        sa.Column("past", sa.BigInteger(), nullable=False),
        sa.Column("last_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("queue"),
    )
    op.get_bind().execute(
        sa.text("INSERT INTO taskq_store (id, uuid, change) VALUES (1, :uuid, 0)"), {"uuid": str(uuid.uuid4())}
    )
