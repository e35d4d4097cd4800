"""What ends with a message: its cancel and its deduplication id; and the lines that tell of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from taskq.store import tables
from taskq.store.lines import Tx
from taskq.store.sql.bulk import IGNORE, delete_many, insert_many

# In the order in which they follow each other within one instant.
STATES = (
    "CREATED",
    "ACTIVE",
    "ERROR",
    "SNOOZED",
    "RETRY",
    "DELIVERED",
    "FAILED",
    "EXPIRED",
    "CANCEL_REQUESTED",
    "CANCELED",
)


class LogLine(NamedTuple):
    """A line of history, as it is stored."""

    message_id: str
    at: int
    state: str
    attempt: int | None = None
    worker: str | None = None
    detail: str = ""
    next_at: int | None = None
    response: bytes | None = None
    of_request: bool = False


def drop_cancels(tx: Tx, message_ids: Sequence[str]) -> None:
    """Forget cancels of messages that have their outcome."""
    delete_many(tx, tables.cancels.c.message_id, message_ids)


def free_dedup(tx: Tx, message_ids: Sequence[str]) -> None:
    """Free the deduplication ids that these messages held until they were final."""
    delete_many(tx, tables.dedup.c.message_id, message_ids, "AND expires_at IS NULL")


def write_log(tx: Tx, lines: Sequence[LogLine]) -> None:
    """Add lines of history; known ones stay."""
    unique = {line[:3]: line for line in lines}
    rows = [unique[key] for key in sorted(unique)]
    insert_many(tx, tables.log, LogLine._fields, rows, f"(message_id, at, state) {IGNORE}")
