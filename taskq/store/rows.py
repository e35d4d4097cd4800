"""Values to columns and back: instants, text, failures, messages. The one place where text is cleaned."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Row

from taskq.errors import InvalidSetting
from taskq.outcome import Failure, Status
from taskq.queue import QueueRecord, RateLimit
from taskq.store.base import LogEntry, MessageRecord, OutboxRow, ScheduleRecord, ScheduleRow

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
FINAL = tuple(status.value for status in Status if status.final)
OPEN = (Status.QUEUED.value, Status.WAITING.value, Status.RUNNING.value)
_BIGGEST = 2**63


def to_us(instant: datetime) -> int:
    """Microseconds since the epoch."""
    # Not by `timestamp()`: from 2106 on a float of seconds is off by one at times.
    return (instant - _EPOCH) // _MICROSECOND


def maybe_us(instant: datetime | None) -> int | None:
    return None if instant is None else to_us(instant)


def from_us(value: int) -> datetime:
    """The aware UTC instant."""
    return _EPOCH + timedelta(microseconds=value)


def maybe_from_us(value: int | None) -> datetime | None:
    return None if value is None else _EPOCH + timedelta(microseconds=value)


def clean(text: str) -> str:
    """The text as both databases can hold it: NUL and lone surrogates become U+FFFD."""
    if text.isascii() and "\0" not in text:
        return text
    return _UNSTORABLE.sub("\ufffd", text)


def maybe_clean(text: str | None) -> str | None:
    return None if text is None else clean(text)


def from_failure(failure: Failure | None) -> str | None:
    """A failure as one column."""
    if failure is None:
        return None
    parts = [clean(failure.type), clean(failure.message), clean(failure.traceback)]
    return json.dumps(parts, ensure_ascii=False)


def to_failure(value: str | None) -> Failure | None:
    return None if value is None else Failure(*json.loads(value))


def message_record(row: Row[Any]) -> MessageRecord:
    """A row of `messages`, all columns, as its value."""
    status = Status(row.status)
    return MessageRecord(
        id=row.id,
        task=row.task,
        queue=row.queue,
        status=status,
        attempt=row.attempt,
        epoch=row.epoch,
        hop=max(row.hop, 0),
        crashes=row.crashes,
        worker=row.worker,
        created_at=from_us(row.created_at),
        started_at=maybe_from_us(row.started_at),
        ended_at=maybe_from_us(row.ended_at) if status.final else None,
        not_before=maybe_from_us(row.not_before),
        result=row.result,
        result_type=row.result_type,
        reason=row.reason,
        failure=to_failure(row.failure),
        progress=None if row.progress_done is None else (row.progress_done, row.progress_total),
    )


def queue_record(row: Row[Any]) -> QueueRecord:
    """A row of `queues`, all columns, as its value."""
    return QueueRecord(
        name=row.name,
        born_fifo=row.born_fifo,
        born_priorities=row.born_priorities,
        partitions=row.partitions,
        parallelism=row.parallelism,
        rate_limit=None if row.rate_limit is None else RateLimit(row.rate_limit, row.rate_per),
        worker_parallelism=row.worker_parallelism,
        retry_in_place=row.retry_in_place,
        paused=row.paused,
        version=row.version,
        origin=row.origin,
        created_at=from_us(row.created_at),
        updated_at=from_us(row.updated_at),
    )


def outbox_row(row: Row[Any]) -> OutboxRow:
    return OutboxRow(
        id=row.id,
        target=row.target,
        queue=row.queue,
        body=row.body,
        content_type=row.content_type,
        message_id=row.message_id,
        due_at=from_us(row.due_at),
        attempts=row.attempts,
    )


def schedule_record(row: Row[Any]) -> ScheduleRecord:
    """A row of `schedules`, all columns, as its value."""
    return ScheduleRecord(
        row=ScheduleRow(row.app, row.id, row.timing, row.policy, row.task, row.queue, row.template),
        origin=row.origin,
        paused=row.paused,
        seen_at=from_us(row.seen_at),
        next_at=maybe_from_us(row.next_at),
        fired=row.fired,
        last_at=maybe_from_us(row.last_at),
        last_message_id=row.last_message_id,
        error=row.error,
        version=row.version,
        created_at=from_us(row.created_at),
        updated_at=from_us(row.updated_at),
    )


def log_entry(row: Row[Any]) -> LogEntry:
    return LogEntry(
        row.message_id,
        from_us(row.at),
        row.state,
        row.attempt,
        row.worker,
        row.detail,
        maybe_from_us(row.next_at),
        row.response,
    )


def to_cursor(instant_us: int, *rest: str | int) -> str:
    """Where a page ends: the sort key of its last row, as text."""
    return json.dumps([instant_us, *rest], separators=(",", ":"))


def from_cursor(cursor: str, *rest: type[str] | type[int]) -> list[Any]:
    """The sort key in a cursor: an instant, and parts of the types in `rest`.

    Raises:
        InvalidSetting: not a cursor of this listing.
    """
    try:
        key = json.loads(cursor)
    except (ValueError, RecursionError):
        key = None
    if not isinstance(key, list) or tuple(map(type, key)) != (int, *rest) or not all(map(_storable, key)):
        raise InvalidSetting(f"cursor {cursor!r:.80} is not one of this listing")
    return key


def _storable(part: str | int) -> bool:
    return clean(part) == part if isinstance(part, str) else -_BIGGEST <= part < _BIGGEST
