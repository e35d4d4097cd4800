"""Queues, messages and dead letters as operators see them, by command line and HTTP: plain values, for JSON."""

from __future__ import annotations

import math
from dataclasses import asdict, is_dataclass
from datetime import datetime
from typing import Any

from taskq.admin.queues import ready
from taskq.broker.base import Broker
from taskq.errors import TaskqError
from taskq.outcome import Status
from taskq.queue import QueueRecord, RateLimit
from taskq.serialization import decode_arguments, decode_value
from taskq.store.base import DeadLetter, MessageRecord, Store

Shown = dict[str, Any]


def plain(value: Any) -> Any:
    """What JSON knows of a value that it does not know: an instant in ISO 8601, bytes as text or hexadecimal."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value.hex()
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, set | frozenset):
        return list(value)
    return str(value)


def whole(value: Any) -> Any:
    """The value as JSON knows it throughout, for encoders that take no other: numbers that are none become text."""
    match value:
        case None | bool() | int():
            return value
        case str():
            return value.encode("utf-8", "backslashreplace").decode()
        case float():
            return value if math.isfinite(value) else str(value)
        case dict():
            return {whole(key if isinstance(key, str) else str(plain(key))): whole(one) for key, one in value.items()}
        case list() | tuple():
            return [whole(one) for one in value]
    return whole(plain(value))


# -- queues -----------------------------------------------------------------------------------


async def queues(broker: Broker, store: Store, records: list[QueueRecord] | None = None) -> list[Shown]:
    """Queues with their counts, all of the store's by default; `ready` is None where the broker has no such queue.

    `oldest_at`: when the oldest message that is recorded and not finished was created.
    """
    records = await store.list_queues() if records is None else records
    counts, oldest = await store.counts(), await store.oldest()
    depths = await ready(broker, records)
    return [
        {
            "name": record.name,
            "kind": kind(record),
            "parallelism": record.parallelism,
            "worker_parallelism": record.worker_parallelism,
            "rate_limit": rate(record.rate_limit),
            "partitions": record.partitions,
            "priorities": record.born_priorities,
            "retry_in_place": record.retry_in_place,
            "paused": record.paused,
            "origin": record.origin,
            "ready": depth,
            "waiting": counts.get(record.name, {}).get(Status.WAITING, 0),
            "running": counts.get(record.name, {}).get(Status.RUNNING, 0),
            "failed": counts.get(record.name, {}).get(Status.FAILED, 0),
            "oldest_at": oldest.get(record.name),
        }
        for record, depth in zip(records, depths, strict=True)
    ]


def kind(record: QueueRecord) -> str:
    """How the queue was born, in a word or two."""
    if record.partitions is not None:
        return f"fifo, {record.partitions} lanes"
    if record.born_fifo:
        return "fifo"
    limited = "limited" if record.parallelism is not None else "open"
    return f"{limited}, priorities" if record.born_priorities else limited


def rate(limit: RateLimit | None) -> str | None:
    """The rate as it is written on a command line."""
    return None if limit is None else f"{limit.limit}/{limit.per:g}"


# -- messages ---------------------------------------------------------------------------------


def message(record: MessageRecord) -> Shown:
    """What is known of a message: the result decoded, internals left out."""
    values = asdict(record)
    for name in ("epoch", "hop", "result_type"):
        del values[name]
    if record.result is not None and record.result_type is not None:
        values["result"] = decode_value(record.result, record.result_type)
    return values


# -- dead letters -----------------------------------------------------------------------------


def letter(found: DeadLetter) -> Shown:
    """A dead letter for a listing: without its bytes."""
    return {
        "id": found.id,
        "message_id": found.message_id,
        "queue": found.queue,
        "task": found.task,
        "reason": found.reason,
        "attempts": found.attempts,
        "error": error(found),
        "worker": found.worker,
        "died_at": found.died_at,
        "retryable": found.message is not None,
    }


def letter_in_full(found: DeadLetter) -> Shown:
    """A dead letter with its traceback and its arguments, or its bytes where it is no message of ours."""
    message = found.message
    return letter(found) | {
        "traceback": found.failure.traceback if found.failure is not None else None,
        "enqueued_at": message.created_at if message is not None else None,
        "headers": dict(message.headers) if message is not None else None,
        "arguments": arguments(found),
        "content_type": found.content_type,
        "body": None if message is not None else found.body,
    }


def error(found: DeadLetter) -> str | None:
    """Its error, in a line."""
    failure = found.failure
    return None if failure is None else f"{failure.type}: {failure.message}"


def arguments(found: DeadLetter) -> Shown | None:
    """The arguments as the task got them; None when they cannot be read here."""
    if found.message is None:
        return None
    try:
        args, kwargs = decode_arguments(found.message.payload, found.message.payload_type)
    except TaskqError:
        return None
    return {"args": list(args), "kwargs": kwargs}
