"""The revisions of the schema, and the indexes that the frequent statements rely on."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy.dialects import sqlite

from taskq.flow import Flow
from taskq.outcome import Status
from taskq.queue import RateLimit
from taskq.store import open_store, schema, tables
from taskq.store.base import Ask, Claim, DeadFilter, MessageFilter, Retention, Store
from taskq.store.gateway import RequestFilter
from tests.contract.store_requests import asking, parcel
from tests.contract.store_support import StillClock, at, book, end, letter, make, note_statements, row


def test_revisions() -> None:
    """The revisions that the code knows are those in the folder, in their order, with one head."""
    scripts = ScriptDirectory(str(schema._MIGRATIONS))
    assert tuple(script.revision for script in reversed(list(scripts.walk_revisions()))) == schema.REVISIONS
    assert scripts.get_heads() == [schema.REVISIONS[-1]]


# One row, a row a queue, or a row per cancel that is asked for and not yet obeyed.
SMALL = ("taskq_store", "taskq_windows", "taskq_queues_gone", "taskq_cancels")


@pytest.mark.anyio
async def test_no_scans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No statement of a working day walks through a table, however many rows lie in it."""
    statements = note_statements(monkeypatch)
    path = tmp_path / "t.db"
    clock = StillClock()
    store = open_store(f"sqlite:///{path}", clock=clock)
    await store.open()
    statements.clear()
    await _working_day(store, clock)
    await store.close()
    connection = sqlite3.connect(path)
    scans = set()
    for statement, parameters in statements:
        for *_, step in connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters):
            if step.startswith("SCAN taskq_") and step.split()[1] not in SMALL:
                scans.add((step, statement))
    connection.close()
    # Walking an index from its end, until the page is full or the first row is found, is no scan.
    names = ("taskq_messages_created", "taskq_waiting_due", "taskq_waiting_flow_due", "sqlite_autoindex_taskq_flow_1")
    names += ("taskq_requests_created", "taskq_log_requests", "taskq_dead_letters_died", "taskq_outbox_due")
    walks = tuple(f"USING INDEX {name}" for name in names)
    assert {one for one in scans if not one[0].endswith(walks)} == set()


async def _keys(store: Store, clock: StillClock) -> None:
    messages = [make(flow=Flow(f"k{number % 2}", 1, RateLimit(5))) for number in range(6)]
    for message in messages:
        await book(store, message, 0)
    clock.move(1)
    found = await store.let_go(None, 10, 5, ahead={}, most=10)
    [permit, *_] = await store.take_permits([Ask(row.message, "w", False) for row in found.rows], 10)
    assert permit.granted
    await store.renew_permits("w", 10)
    await store.give_back_permits("w", [found.rows[0].message.id])
    await store.restamp_flow("k0", 0)
    await store.settle([end(found.rows[1].message)])
    await store.list_flow()
    await store.get_flow("k0")
    await store.set_flow("k0", paused=True)
    await store.reset_flow("k0")


async def _working_day(store: Store, clock: StillClock) -> None:
    await _keys(store, clock)
    messages = [make(dedup_id=f"d{number}", hop=1) for number in range(3)]
    for message in messages:
        await store.deduplicate(message, window=None, replace=False, row=row(message))
        await book(store, message, 5)
    clock.move(10)
    due = await store.claim_due(10, 5)
    await store.released([(one.message.id, one.message.hop) for one in due])
    rows = await store.claim_outbox(10, 5)
    await store.published([one.id for one in rows])
    await store.next_due()
    copies = [one.message.released() for one in due]
    await store.claim([Claim(copy, "w") for copy in copies])
    await store.cancel(copies[0].id)
    await store.changes("0")
    await store.running(copies[1], worker="w", epoch=1, attempt=1, started_at=at(1))
    await store.progress(copies[1].id, 1, 1, 2)
    await store.give_back([(copies[2].id, 1)])
    await store.settle([end(copies[1], epoch=1), end(make()), end(make(), Status.FAILED)])
    await store.get(copies[1].id)
    await store.get_many([copy.id for copy in copies])
    await store.history(copies[1].id)
    await store.list(MessageFilter())
    await store.list(MessageFilter(status=[Status.FAILED], queue="q"))
    await store.waiting()
    await store.waiting(queue="q")
    await store.reschedule(messages[0].id, at(100))
    await _requests(store)
    await store.prune(Retention(1, 1, 1))


async def _requests(store: Store) -> None:
    messages = [asking(topic="t", labels=("a",)) for _ in range(3)]
    await store.accept([parcel(one, f"d{number}") for number, one in enumerate(messages)])
    born = asking(callback_of=messages[0].id)
    await store.settle([end(messages[0], response=b"", born=(born,), outbox=(row(born),))])
    await store.running(messages[1], worker="w", epoch=0, attempt=1, started_at=at(1))
    await store.cancel(messages[1].id)
    await store.unfinished_callbacks(messages[0].id)
    await store.get_request(messages[0].id)
    await store.history(messages[0].id)
    await store.lag(["q", "other"])
    cursors = []
    for which in (RequestFilter(), RequestFilter(topics=["t"], labels=["a"]), RequestFilter(ids=[messages[0].id])):
        cursors.append((await store.list_requests(which, limit=1)).cursor)
        for oldest_first in (True, False):
            page = await store.events(which, states=["CREATED"], oldest_first=oldest_first, limit=1)
            await store.events(which, oldest_first=oldest_first, limit=1, cursor=page.cursor)
    await store.list_requests(RequestFilter(), cursor=cursors[0])
    await store.list_requests(RequestFilter(unfinished=True))
    dead = letter(1, messages[2])
    await store.archive([dead])
    which = DeadFilter(request=RequestFilter(topics=["t"]), statuses=[0])
    await store.dead(which, oldest_first=True)
    await store.revive([dead.id], [row(asking())])
    await store.archive([dead])
    await store.delete_dead(which)


def test_statements_are_for_both() -> None:
    """Every partial index says the same to both databases."""
    tables.complete_for_postgres()
    for table in tables.TABLES:
        for index in table.indexes:
            conditions = {str(index.dialect_options[name]["where"]) for name in ("sqlite", "postgresql")}
            assert len(conditions) == 1, index.name
    assert sqlite.dialect().name == "sqlite"
