"""How the databases go about the frequent statements: on full tables, whether or not they know what is in these."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest

from taskq.flow import Flow
from taskq.outcome import Status
from taskq.queue import RateLimit
from taskq.store import lines, open_store, tables
from taskq.store.base import Ask, Claim, MessageFilter, Retention, Store
from taskq.store.rows import to_us
from taskq.store.sql import pruning
from taskq.store.url import parse
from tests.contract.store_support import START, StillClock, book, end, make, note_statements, row
from tests.contract.test_store_postgres import name, within

__all__ = ["name"]
pytestmark = pytest.mark.anyio

ROWS = 20_000
NOW = to_us(START)
DAY = 86_400_000_000
# A day before, 4 s apart; of what is in the future, as long after.
_PAST, _AHEAD = f"{NOW} - {DAY} + CAST(i AS bigint) * 4000000", f"{NOW} + {DAY} + CAST(i AS bigint) * 1000000"
FILLED = {
    "taskq_messages": f"(id, task, queue, status, attempt, epoch, hop, created_at, ended_at) SELECT 'm' || i, 't', 'q',"
    f" CASE WHEN i % 50 = 0 THEN 'WAITING' ELSE 'SUCCEEDED' END, 1, 0, 0, {_PAST}, {_PAST}",
    "taskq_waiting": "(id, hop, queue, due_at, claimed_until, body, flow_key)"
    f" SELECT 'w' || i, 0, 'q', {_AHEAD}, 0, {{blob}}, CASE WHEN i % 2 = 0 THEN 'k' || (1 + i % 200) END",
    "taskq_outbox": "(id, target, queue, body, content_type, message_id, due_at)"
    f" SELECT 'o' || i, 'queue', 'q', {{blob}}, '', 'm' || i, {_AHEAD}",
    "taskq_permits": "(message_id, key, queue, state, worker, since, until)"
    f" SELECT 'w' || i, 'k' || i, 'q', 'running', 'w' || (i % 50), {_PAST}, {_AHEAD}",
    "taskq_log": f"(message_id, at, state, detail) SELECT 'm' || i, {_PAST}, 'ERROR', ''",
    "taskq_dead_letters": "(id, message_id, queue, task, reason, attempts, died_at, body)"
    f" SELECT 'd' || i, 'm' || i, 'q', 't', 'failed', 1, {_PAST}, {{blob}}",
    "taskq_dedup": f"(queue, dedup_id, message_id, expires_at) SELECT 'q', 'd' || i, 'm' || i, {_AHEAD}",
    "taskq_flow": "(key, paused, pinned_parallelism, pinned_rate, updated_at)"
    f" SELECT 'k' || i, false, false, false, {NOW}",
    "taskq_starts": f"(queue, at, upto) SELECT 'flow/k' || (1 + i % 200), {_PAST}, i",
}
# Of permits there are as many as there are runs with keys; the heads that wait are looked for among them.
LARGE = FILLED.keys() - {"taskq_permits"}


@dataclass
class Plans:
    """The statements of a store, and how its database goes about them.

    run      runs statements on the database
    filling  those that fill its tables
    explain  the lines of a statement's plan
    indexes  finds the names of indexes in such a line;  scan: whether it walks through a whole table
    """

    store: Store
    clock: StillClock
    run: Callable[[list[str]], None]
    filling: list[str]
    explain: Callable[[str, Any], list[str]]
    indexes: re.Pattern[str]
    scan: re.Pattern[str]
    statements: list[tuple[str, Any]] = field(default_factory=list)

    async def of(self, verb: Callable[[], Awaitable[object]]) -> tuple[set[str], list[str]]:
        """The indexes that a verb's statements use, and the steps that walk through a table that has been filled."""
        steps = await self.steps(verb)
        used = {one for step in steps for one in self.indexes.findall(step)}
        scans = [step for step in steps if (found := self.scan.search(step)) and found[1] in LARGE]
        return {re.sub(r"sqlite_autoindex_(\w+)_1", r"\1_pkey", one) for one in used}, scans

    async def steps(self, verb: Callable[[], Awaitable[object]]) -> list[str]:
        """The steps of a verb's statements."""
        self.statements.clear()
        await verb()
        return [step for statement, parameters in self.statements for step in self.explain(statement, parameters)]


def _filling(blob: str) -> list[str]:
    numbers = f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS})"
    inserts = [f"{numbers} INSERT INTO {table} {values} FROM n" for table, values in FILLED.items()]
    return [one.replace("{blob}", blob) for one in inserts]


@pytest.fixture
def noted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """What stores that are opened now tell their databases."""
    return note_statements(monkeypatch)


@pytest.fixture
def on_sqlite(tmp_path: Path, noted: list[tuple[str, Any]]) -> Iterator[Plans]:
    path, clock = tmp_path / "t.db", StillClock()
    connection = sqlite3.connect(path)

    def run(statements: list[str]) -> None:
        with connection:
            for one in statements:
                connection.execute(one)

    def explain(statement: str, parameters: Any) -> list[str]:
        return [step for *_, step in connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)]

    store = open_store(f"sqlite:///{path}", clock=clock)
    scan = re.compile(r"^SCAN (\w+)$")
    indexes = re.compile(r"USING (?:COVERING )?INDEX (\w+)")
    yield Plans(store, clock, run, _filling("x'00'"), explain, indexes, scan, noted)
    connection.close()


@pytest.fixture
def on_postgres(postgres_url: str, name: str, noted: list[tuple[str, Any]]) -> Iterator[Plans]:
    clock, url = StillClock(), within(postgres_url, name)
    # A connection as the store makes them: what it sets decides plans.
    raw = lines.make_engine(parse(url)).raw_connection()
    connection: psycopg.Connection[Any] = raw.driver_connection
    connection.autocommit = True

    def run(statements: list[str]) -> None:
        for one in statements:
            connection.execute(one)

    def explain(statement: str, parameters: Any) -> list[str]:
        # As a prepared statement, which has the plan that is kept for any parameters where the test asks for that.
        values: list[Any] = []

        def number(mark: re.Match[str]) -> str:
            values.append(parameters[mark[1] or len(values)])
            return f"${len(values)}"

        cursor = psycopg.ClientCursor(connection)
        cursor.execute("PREPARE one AS " + re.sub(r"%(?:[(](\w+)[)])?[bs]", number, statement))
        given = f"({', '.join(['%s'] * len(values))})" if values else ""
        cursor.execute(f"EXPLAIN EXECUTE one{given}", values)
        steps = [step for (step,) in cursor]
        cursor.execute("DEALLOCATE one")
        return steps

    store = open_store(url, clock=clock)
    indexes = re.compile(r"(?:Index(?: Only)? Scan(?: Backward)? using|Bitmap Index Scan on) (\w+)")
    yield Plans(store, clock, run, _filling("'\\x00'"), explain, indexes, re.compile(r"Seq Scan on (\w+)"), noted)
    raw.close()


_FINISHED = [
    "INSERT INTO taskq_messages (id, task, queue, status, attempt, epoch, hop, created_at, ended_at)"
    f" SELECT 'f' || i, 't', 'q', 'SUCCEEDED', 1, 0, 0, {NOW}, {NOW} FROM generate_series(1, 1000) AS i",
    "INSERT INTO taskq_requests (message_id, url, host, path, caller_ip, labels, created_at, envelope)"
    f" SELECT 'f' || i, 'u', 'h', '/', '', '', {NOW}, '' FROM generate_series(1, 1000) AS i",
]
_KEPT = "SET plan_cache_mode = force_generic_plan"


@pytest.mark.parametrize(
    ("where", "state"),
    [
        ("sqlite", "known"),
        ("postgres", "known"),
        # Autovacuum looks once a minute, and a prepared statement may keep the plan that was right before.
        ("postgres", "filled at once"),
        ("postgres", "filled after a quiet time"),
        ("postgres", "planned while empty"),
        ("postgres", "planned in a quiet time"),
    ],
)
async def test_plans_of_the_hot_statements(where: str, state: str, request: pytest.FixtureRequest) -> None:
    """Each finds its rows by the index that is there for it, and none walks through a table."""
    plans: Plans = request.getfixturevalue(f"on_{where}")
    store, clock = plans.store, plans.clock
    await store.open()
    if state != "known":
        plans.run([f"ALTER TABLE {table.name} SET (autovacuum_enabled = false)" for table in tables.TABLES])
    if "quiet" in state:
        plans.run([*_FINISHED, "ANALYZE"])
    plans.run([_KEPT] if "planned" in state else plans.filling)
    if state == "known":
        plans.run(["ANALYZE"])
    waits = [make(hop=1) for _ in range(5)]
    keyed = [make(flow=Flow(f"k{number}", 5, RateLimit(9)), hop=1) for number in (1, 2)]
    for message in waits + keyed:
        await book(store, message, 0)
    clock.move(1)
    due = await store.claim_due(2, 5)
    let = (await store.let_go(None, 10, 5, ahead={}, most=10)).rows
    copies = [one.message.released() for one in let]
    await store.add_outbox([row(waits[0])])
    expected: list[tuple[str, Callable[[], Awaitable[object]], set[str]]] = [
        ("settle", lambda: store.settle([end(make()), end(make())]), set()),
        ("settle what failed", lambda: store.settle([end(make(), Status.FAILED, outbox=(row(make()),))]), set()),
        ("claim", lambda: store.claim([Claim(one, "w") for one in waits]), set()),
        ("get", lambda: store.get("m5"), {"taskq_messages_pkey"}),
        ("get_many", lambda: store.get_many(["m5", "m6"]), {"taskq_messages_pkey"}),
        ("history", lambda: store.history("m5"), {"taskq_messages_pkey", "taskq_log_pkey"}),
        ("list", lambda: store.list(MessageFilter(), limit=10), {"taskq_messages_created"}),
        ("book", lambda: book(store, make(), 5), {"taskq_messages_pkey"}),
        ("claim_due", lambda: store.claim_due(2, 5), {"taskq_waiting_due"}),
        (
            "released",
            lambda: store.released([(one.message.id, one.message.hop) for one in due]),
            {"taskq_messages_pkey", "taskq_waiting_pkey"},
        ),
        (
            "next_due",
            lambda: store.next_due(),
            {f"taskq_{one}" for one in ("waiting_due", "waiting_claimed", "outbox_due")},
        ),
        ("claim_outbox", lambda: store.claim_outbox(2, 5), {"taskq_outbox_due"}),
        ("published", lambda: store.published(["o5", "o6"]), {"taskq_outbox_pkey"}),
        (
            "let_go",
            lambda: store.let_go(None, 10, 5, ahead={}, most=10),
            {"taskq_waiting_flow", "taskq_waiting_flow_due", "taskq_permits_key", "taskq_flow_pkey"},
        ),
        (
            "take_permits",
            lambda: store.take_permits([Ask(one, "w", False) for one in copies], 20),
            {"taskq_permits_pkey", "taskq_flow_pkey"},
        ),
        ("renew_permits", lambda: store.renew_permits("w", 20), {"taskq_permits_worker"}),
        ("cancel", lambda: store.cancel("m5"), {"taskq_messages_pkey"}),
        (
            "cancel of one that waits",
            lambda: store.cancel(waits[-1].id),
            {"taskq_messages_pkey", "taskq_waiting_pkey", "taskq_requests_pkey"},
        ),
        ("progress", lambda: store.progress("m5", 1, 1, 2), {"taskq_messages_pkey"}),
        (
            "prune",
            lambda: store.prune(Retention(80_000, 80_000, 80_000), limit=10),
            {"taskq_messages_ended", "taskq_log_at", "taskq_dead_letters_died", "taskq_dedup_expires"},
        ),
    ]
    # An index by which these find nothing; and that holds every message that waits.
    broad = {"taskq_messages_notable", "taskq_requests_created"}
    for what, verb, indexes in expected:
        used, scans = await plans.of(verb)
        assert (what, scans, indexes - used, used & broad) == (what, [], set(), set())
    # What is next takes the first row of each index, and does not look for the least of all that qualify.
    if where == "postgres":
        assert sum("Limit" in step for step in await plans.steps(store.next_due)) == 4
    await store.close()


@pytest.mark.parametrize("where", ["sqlite", "postgres"])
async def test_pruning_takes_a_small_batch_at_a_time(
    where: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much there is to delete, a transaction deletes few rows, so that nobody waits long for its locks."""
    plans: Plans = request.getfixturevalue(f"on_{where}")
    await plans.store.open()
    plans.run([*plans.filling, "ANALYZE"])
    prune_batch, batches = pruning.prune_batch, []

    def note(tx: Any, kind: str, *args: Any) -> int:
        deleted = prune_batch(tx, kind, *args)
        batches.append((kind, deleted))
        return deleted

    monkeypatch.setattr(pruning, "prune_batch", note)
    assert await plans.store.prune(Retention(1, 1, 1), limit=1000) >= 3000
    full = {kind: sum(1 for one, deleted in batches if (one, deleted) == (kind, pruning.BATCH)) for kind, _ in batches}
    assert max(deleted for _, deleted in batches) == pruning.BATCH
    assert (full["results"], full["log"], full["dead_letters"]) == (4, 4, 4)
    await plans.store.close()
