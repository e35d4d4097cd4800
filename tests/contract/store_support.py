"""What the store's tests share: a clock that stands still, and messages and settlements in one line."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from taskq.message import CONTENT_TYPE, Message
from taskq.outcome import Failure, Status
from taskq.store import lines, schema, tables
from taskq.store.base import Claim, Claimed, DeadLetter, OutboxRow, Settled, Settlement, Store, WaitingRow

START = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
HOUR = 3600.0  # seconds: millions of messages
_numbers = itertools.count()


class StillClock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self._now = START

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._now.timestamp()

    async def sleep(self, seconds: float) -> None:
        self.move(seconds)

    def move(self, seconds: float) -> None:
        self._now += timedelta(seconds=seconds)


def at(seconds: float) -> datetime:
    """So many seconds after the clock's start."""
    return START + timedelta(seconds=seconds)


def make(**fields: Any) -> Message:
    """A message of queue q, with the next id: made a millisecond after the last one, and before the clock's start."""
    number = next(_numbers)
    base = Message(f"msg-{number:07d}", "task", "q", b"payload", "application/msgpack", at(number / 1000 - HOUR))
    return replace(base, **fields)


def end(message: Message, status: Status = Status.SUCCEEDED, **fields: Any) -> Settlement:
    """The settlement of an unclaimed first attempt."""
    base = Settlement(message, "worker", 0, status, message.attempt, at(10), at(11))
    if status is Status.SUCCEEDED:
        base = replace(base, result=b"result", result_type="application/msgpack")
    return replace(base, **fields)


FAILURE = Failure("ValueError", "bad value", "Traceback: ...")


def parked(message: Message, seconds: float, **fields: Any) -> Settlement:
    """The settlement of an attempt that is tried again after `seconds` in the waiting room."""
    copy = message.next_attempt(at(seconds))
    return end(message, Status.WAITING, parked=copy, next_attempt=copy.attempt, failure=FAILURE, **fields)


def row(message: Message, kind: str = "send", **fields: Any) -> OutboxRow:
    """An outbox row due at the clock's start."""
    base = OutboxRow(f"{message.id}/{kind}", "queue", message.queue, message.encode(), CONTENT_TYPE, message.id, START)
    return replace(base, **fields)


def letter(number: int, message: Message | None = None, **fields: Any) -> DeadLetter:
    """A dead letter that died `number` seconds after the clock's start."""
    message = message or make()
    base = DeadLetter(
        id=f"{number:08d}-x",
        message_id=message.id,
        queue=message.queue,
        task=message.task,
        reason="failed",
        attempts=4,
        failure=FAILURE,
        worker="worker",
        died_at=at(number),
        body=message.encode(),
        content_type=CONTENT_TYPE,
        message=message,
    )
    return replace(base, **fields)


async def claim(store: Store, message: Message, worker: str = "worker") -> Claimed:
    [claimed] = await store.claim([Claim(message, worker)])
    return claimed


async def settle(store: Store, settlement: Settlement) -> Settled:
    [settled] = await store.settle([settlement])
    return settled


async def book(store: Store, message: Message, seconds: float) -> bool:
    """Book the message, due `seconds` after the clock's start."""
    due = at(seconds)
    [booked] = await store.book([WaitingRow(replace(message, not_before=due), due)])
    return booked


async def status(store: Store, message: Message) -> Status:
    record = await store.get(message.id)
    return Status.UNKNOWN if record is None else record.status


def differences(engine: sa.Engine) -> list[Any]:
    """What Alembic would change in a database to make it that of the tables."""
    with engine.connect() as connection:
        options = {"version_table": schema.VERSION_TABLE, "compare_server_default": True}
        found = compare_metadata(MigrationContext.configure(connection, opts=options), tables.metadata)
    engine.dispose()
    return [one for one in found if not (one[0] == "remove_table" and one[1].name == schema.VERSION_TABLE)]


def structure(engine: sa.Engine) -> dict[str, Any]:
    """Of each table its columns, primary key and indexes, each as the database describes them."""
    inspector = sa.inspect(engine)

    def described(one: Any) -> list[tuple[str, str]]:
        told = one | one.get("dialect_options", {})
        return sorted((key, str(value)) for key, value in told.items() if key != "dialect_options")

    return {
        name: (
            sorted(map(described, inspector.get_columns(name))),
            described(inspector.get_pk_constraint(name)),
            sorted(map(described, inspector.get_indexes(name))),
        )
        for name in inspector.get_table_names()
    }


def note_statements(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """What stores that are opened from now on tell their databases."""
    statements: list[tuple[str, Any]] = []
    make_engine, execute, execute_many = lines.make_engine, lines.Plain.execute, lines.Plain.execute_many

    def listening(place):
        engine = make_engine(place)

        @sa.event.listens_for(engine, "before_cursor_execute")
        def note(_connection, _cursor, statement, parameters, _context, many) -> None:
            if not statement.startswith(("BEGIN", "PRAGMA")):
                statements.append((statement, parameters[0] if many else parameters))

        return engine

    def one(self, statement, parameters=()):
        statements.append((statement, parameters))
        return execute(self, statement, parameters)

    def many(self, statement, rows):
        statements.append((statement, rows[0]))
        return execute_many(self, statement, rows)

    monkeypatch.setattr("taskq.store.adapter.make_engine", listening)
    monkeypatch.setattr(lines.Plain, "execute", one)
    monkeypatch.setattr(lines.Plain, "execute_many", many)
    return statements
