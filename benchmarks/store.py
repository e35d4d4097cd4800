"""What the store's frequent verbs cost: statements, CPU and time of a transaction, alone and in groups.

    python -m benchmarks.store [--store postgresql://…] [--rows 20000] [--times 200]

Without --store it measures a SQLite file. Each verb runs on one connection, one transaction after the other; `cpu` is
of the thread that asks, `server` of PostgreSQL's process. `held` is the longest time that one transaction took: nobody
waited for its locks for longer. Pruning runs on tables of --rows rows, of which all are to go.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy as sa

from taskq.clock import SystemClock
from taskq.flow import Flow
from taskq.message import Message
from taskq.outcome import Status
from taskq.store import adapter, schema, sql, tables
from taskq.store.base import Ask, Claim, Retention, Settlement, WaitingRow
from taskq.store.lines import Line, Plain, make_engine
from taskq.store.rows import to_us
from taskq.store.sql.bulk import IGNORE, insert_row, insert_statement
from taskq.store.url import StoreURL, parse

_TICK_US = 10_000


@dataclass
class Bench:
    """One store, and the statements that it was told."""

    line: Line
    server: int | None
    times: int
    statements: int = 0

    def measure(self, name: str, rows: int, prepare: Callable[[int], Any], run: Callable[[Any], object]) -> None:
        """Print what one call costs that works on so many rows."""
        for _ in range(5):
            run(prepare(rows))
        prepared = [prepare(rows) for _ in range(max(self.times // (1 if rows < 50 else 5), 3))]
        told, served, cpu, took = self.statements, self._served(), time.thread_time(), []
        for one in prepared:
            begun = time.perf_counter()
            run(one)
            took.append(time.perf_counter() - begun)
        n = len(prepared)
        cpu, told = (time.thread_time() - cpu) / n * 1e6, self.statements - told
        print(
            f"{name:32} {rows:4} rows {told / n:5.1f} statements, cpu {cpu:7.0f} µs ({cpu / rows:6.1f} a row),"
            f" server {(self._served() - served) / n:6.0f} µs, p50 {statistics.median(took) * 1e3:6.2f} ms,"
            f" held {max(took) * 1e3:6.2f} ms",
            flush=True,
        )

    def _served(self) -> int:
        if self.server is None:
            return 0
        fields = Path(f"/proc/{self.server}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * _TICK_US


def _now() -> datetime:
    return datetime.now(UTC)


def _make(**fields: Any) -> Message:
    message = Message(str(uuid.uuid4()), "task", "q", b"\x92\x01\xa5label", "application/msgpack", _now())
    return replace(message, **fields)


def _end(message: Message) -> Settlement:
    now = _now()
    return Settlement(message, "worker", 0, Status.SUCCEEDED, 1, now, now, result=b"\x01", result_type="msgpack")


def _booked(bench: Bench, count: int, **fields: Any) -> list[Message]:
    messages = [_make(not_before=_now(), **fields) for _ in range(count)]
    bench.line.run(sql.waiting.book, [WaitingRow(message, _now()) for message in messages])
    return messages


def _asks(bench: Bench, count: int) -> list[Ask]:
    messages = _booked(bench, count, flow=Flow("key", 1_000_000))
    bench.line.run(sql.waiting.let_go, None, count, 10.0, {}, 1_000_000, None)
    return [Ask(message.released(), "worker", False) for message in messages]


def run(bench: Bench, rows: int) -> None:
    """All verbs, one after the other."""
    line = bench.line
    for n in (1, 100):
        bench.measure(
            "settle", n, lambda n: [_end(_make()) for _ in range(n)], lambda ends: adapter._settle(line, ends)
        )
        bench.measure("bare insert, the floor of settle", n, _rows, lambda rows: line.run_plain(_insert, rows))
        bench.measure("claim", n, _claims, lambda claims: line.run_alone(sql.messages.claim, claims))
    for n in (1, 16):
        bench.measure("take and free permits", n, lambda n: _asks(bench, n), lambda asks: _take_and_free(bench, asks))
    for n in (1, 500):
        bench.measure("book", n, _waits, lambda booked: line.run(sql.waiting.book, booked))
        bench.measure("claim due", n, lambda n: n, lambda n: line.run(sql.waiting.claim_due, n, 10.0))
        bench.measure("released", n, lambda n: _keys(bench, n), lambda keys: line.run(sql.waiting.released, keys))
    for start in range(0, rows, 500):
        line.run(sql.settle.settle, [_end(_make()) for _ in range(start, start + 500)])
    time.sleep(0.01)
    keep = Retention(results=0.001, dead_letters=None, log=None)
    prune, batch = sql.pruning.prune_batch, sql.pruning.BATCH
    bench.measure("prune results", batch, lambda n: n, lambda n: line.run(prune, "results", keep, n))


def _rows(count: int) -> list[tuple[Any, ...]]:
    now = to_us(_now())
    return [
        (str(uuid.uuid4()), "task", "q", "SUCCEEDED", 1, 0, 0, "worker", now, now, now, b"\x01") for _ in range(count)
    ]


def _insert(tx: Plain, rows: list[tuple[Any, ...]]) -> None:
    """What nobody can do without: the rows, as one statement of the driver, and the commit."""
    names = tuple("id task queue status attempt epoch hop worker created_at started_at ended_at result".split())
    if isinstance(tx.driver, psycopg.Connection):
        tx.execute(*insert_statement(tables.messages, names, rows, IGNORE))
    else:
        tx.execute_many(insert_row(tables.messages, names, IGNORE), rows)


def _claims(count: int) -> list[Claim]:
    return [Claim(_make(hop=1), "worker") for _ in range(count)]


def _waits(count: int) -> list[WaitingRow]:
    return [WaitingRow(_make(not_before=_now()), _now()) for _ in range(count)]


def _keys(bench: Bench, count: int) -> list[tuple[str, int]]:
    return [(message.id, message.hop) for message in _booked(bench, count)]


def _take_and_free(bench: Bench, asks: list[Ask]) -> None:
    assert all(permit.granted for permit in bench.line.run(sql.flow.take, asks, 20.0, False))
    bench.line.run(sql.flow.free, [(ask.message.id, ask.worker) for ask in asks])


def _counted(verb: Callable[..., Any], count: Callable[[], None]) -> Callable[..., Any]:
    def counted(*args: Any) -> Any:
        count()
        return verb(*args)

    return counted


def _measure(place: StoreURL, times: int, rows: int) -> None:
    line = Line(make_engine(place), place, SystemClock() if place.kind == "sqlite" else None)
    line.run(schema.migrate)
    driver: Any = line.connection().connection.driver_connection
    bench = Bench(line, None if place.kind == "sqlite" else driver.info.backend_pid, times)

    def count(*_: object) -> None:
        bench.statements += 1

    sa.event.listen(line.connection().engine, "before_cursor_execute", count)
    for verb in ("execute", "execute_many"):  # of the settlement, which has no SQLAlchemy about it
        setattr(Plain, verb, _counted(getattr(Plain, verb), count))

    run(bench, rows)
    line.close()


def main() -> None:
    """Measure a SQLite file, or the PostgreSQL of --store in a schema of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", metavar="URL", help="PostgreSQL on this machine")
    parser.add_argument("--times", type=int, default=200, help="calls of each verb")
    parser.add_argument("--rows", type=int, default=20_000, help="rows of which a few are pruned")
    options = parser.parse_args()
    if options.store is None:
        with tempfile.TemporaryDirectory() as folder:
            _measure(parse(f"sqlite:///{folder}/bench.db"), options.times, options.rows)
        return
    name = f"bench_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(options.store, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {name}")
        try:
            joint = "&" if "?" in options.store else "?"
            _measure(parse(f"{options.store}{joint}options=-csearch_path%3D{name}"), options.times, options.rows)
        finally:
            connection.execute(f"DROP SCHEMA {name} CASCADE")


if __name__ == "__main__":
    main()
