"""The authority on every queue."""

from __future__ import annotations

from types import EllipsisType
from typing import Any

import sqlalchemy as sa

from taskq.queue import Queue, QueueRecord, RateLimit
from taskq.store import tables
from taskq.store.lines import Contended, Tx
from taskq.store.rows import clean, queue_record
from taskq.store.sql.bulk import IGNORE, insert_many, locked
from taskq.store.sql.changes import next_change

T = tables.queues
GONE = tables.queues_gone
_COLUMNS = tuple(column.name for column in T.columns)


def get_queue(tx: Tx, name: str) -> QueueRecord | None:
    row = tx.connection.execute(sa.select(T).where(T.c.name == clean(name))).first()
    return None if row is None else queue_record(row)


def list_queues(tx: Tx) -> list[QueueRecord]:
    return [queue_record(row) for row in tx.connection.execute(sa.select(T).order_by(T.c.name))]


def stands(record: QueueRecord, queue: Queue, origin: str) -> bool:
    """Whether a record stays as it is when the queue is asked for."""
    if origin in ("name", "gateway") or (origin == "code" and record.origin == "operator"):
        return True
    return origin == record.origin and _limits_of(record) == _limits_of(queue)


def ensure_queue(tx: Tx, queue: Queue, origin: str) -> QueueRecord:
    record = _held(tx, queue.name)
    if record is None:
        return _make(tx, queue, "code" if origin in ("code", "name") else "operator")
    if stands(record, queue, origin):
        return record
    return _change(tx, record, {**_limits(queue), "origin": origin})


def set_queue(
    tx: Tx,
    name: str,
    parallelism: int | None | EllipsisType,
    rate_limit: RateLimit | None | EllipsisType,
    worker_parallelism: int | None | EllipsisType,
    retry_in_place: bool | EllipsisType,
    paused: bool | EllipsisType,
) -> QueueRecord | None:
    record = _held(tx, name)
    if record is None:
        return None
    wanted = Queue(  # raises InvalidQueue for limits that cannot be
        name,
        parallelism=record.parallelism if parallelism is ... else parallelism,
        rate_limit=record.rate_limit if rate_limit is ... else rate_limit,
        worker_parallelism=record.worker_parallelism if worker_parallelism is ... else worker_parallelism,
        partitions=record.partitions,
        retry_in_place=record.retry_in_place if retry_in_place is ... else retry_in_place,
    )
    values: dict[str, Any] = {}
    if not all(given is ... for given in (parallelism, rate_limit, worker_parallelism, retry_in_place)):
        values = {**_limits(wanted), "origin": "operator"}
    if paused is not ...:
        values["paused"] = paused
    if not values or (
        _limits_of(wanted) == _limits_of(record)
        and values.get("origin", record.origin) == record.origin
        and values.get("paused", record.paused) == record.paused
    ):
        return record
    return _change(tx, record, values)


def rebirth(tx: Tx, queue: Queue) -> QueueRecord | None:
    record = _held(tx, queue.name)
    if record is None:
        return None
    born = _born(queue)
    if all(getattr(record, name) == value for name, value in born.items()) and _limits_of(record) == _limits_of(queue):
        return record
    return _change(tx, record, {**born, **_limits(queue)})


def delete_queue(tx: Tx, name: str) -> bool:
    name = clean(name)
    if _held(tx, name) is None:
        return False
    tx.connection.execute(sa.delete(T).where(T.c.name == name))
    tx.connection.execute(sa.delete(tables.starts).where(tables.starts.c.queue == name))
    tx.connection.execute(sa.delete(tables.windows).where(tables.windows.c.queue == name))
    row = (name, tx.now(), next_change(tx))
    action = "(name) DO UPDATE SET deleted_at = excluded.deleted_at, change = excluded.change"
    insert_many(tx, GONE, ("name", "deleted_at", "change"), [row], action)
    return True


def _held(tx: Tx, name: str) -> QueueRecord | None:
    """The record, its row locked."""
    row = tx.connection.execute(locked(tx, sa.select(T).where(T.c.name == clean(name)))).first()
    return None if row is None else queue_record(row)


def _make(tx: Tx, queue: Queue, origin: str) -> QueueRecord:
    now = tx.now()
    # A queue that comes back is gone no longer.
    tx.connection.execute(sa.delete(GONE).where(GONE.c.name == queue.name))
    values: dict[str, Any] = {"name": queue.name, **_born(queue), **_limits(queue), "paused": False, "version": 1}
    values |= {"origin": origin, "created_at": now, "updated_at": now, "change": 0}
    if insert_many(tx, T, _COLUMNS, [tuple(values[name] for name in _COLUMNS)], f"(name) {IGNORE}") == 0:
        raise Contended  # another process made it just now
    tx.connection.execute(sa.update(T).where(T.c.name == queue.name).values(change=next_change(tx)))
    record = get_queue(tx, queue.name)
    assert record is not None
    return record


def _change(tx: Tx, record: QueueRecord, values: dict[str, Any]) -> QueueRecord:
    values = {**values, "version": record.version + 1, "updated_at": tx.now(), "change": next_change(tx)}
    row = tx.connection.execute(sa.update(T).where(T.c.name == record.name).values(values).returning(T)).one()
    return queue_record(row)


def _born(queue: Queue) -> dict[str, Any]:
    return {"born_fifo": queue.fifo, "born_priorities": queue.priorities, "partitions": queue.partitions}


def _limits(queue: Queue) -> dict[str, Any]:
    rate = queue.rate_limit
    return {
        "parallelism": queue.parallelism,
        "rate_limit": None if rate is None else rate.limit,
        "rate_per": None if rate is None else float(rate.per),
        "worker_parallelism": queue.worker_parallelism,
        "retry_in_place": queue.retry_in_place,
    }


def _limits_of(either: Queue | QueueRecord) -> tuple[object, ...]:
    return (either.parallelism, either.rate_limit, either.worker_parallelism, either.retry_in_place)
