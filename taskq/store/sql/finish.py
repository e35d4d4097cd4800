"""What ends with a message: its cancel and its deduplication id; and the lines that tell of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from taskq.store import tables
from taskq.store.lines import Tx
from taskq.store.sql.bulk import IGNORE, delete_many, insert_many

_LOG = ("message_id", "at", "state", "attempt", "worker", "detail")


def drop_cancels(tx: Tx, message_ids: Sequence[str]) -> None:
    """Forget cancels of messages that have their outcome."""
    delete_many(tx, tables.cancels.c.message_id, message_ids)


def free_dedup(tx: Tx, message_ids: Sequence[str]) -> None:
    """Free the deduplication ids that these messages held until they were final."""
    delete_many(tx, tables.dedup.c.message_id, message_ids, "AND expires_at IS NULL")


def write_log(tx: Tx, lines: Sequence[tuple[Any, ...]]) -> None:
    """Add lines of history: (message id, at, state, attempt, worker, detail). Known ones stay."""
    unique = {line[:3]: line for line in lines}
    insert_many(tx, tables.log, _LOG, [unique[key] for key in sorted(unique)], f"(message_id, at, state) {IGNORE}")
