"""One step before the other: nothing is let go before what follows from it is safe.

The store is made to wait by a lock on its file, which another connection holds.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path

import pytest

from taskq import Queue, Retry, TaskCancelled
from taskq.broker import open_broker
from taskq.broker.base import DEAD, WAITING, BrokerQueue, Outgoing
from taskq.clock import SystemClock
from taskq.dispatch import Dispatcher, task_queue
from taskq.errors import InvalidMessage
from taskq.keeper.release import Release
from taskq.message import CONTENT_TYPE, Message
from taskq.outcome import Status
from taskq.store import lines, open_store
from taskq.store.adapter import SqlStore
from taskq.store.base import Store, WaitingRow
from taskq.worker import worker as worker_module
from tests.integration.room import Room
from tests.support import eventually


@pytest.fixture
def locked(
    sqlite_store_url: str, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], contextlib.AbstractContextManager[None]]:
    """Keeps every writer out of the room's store for as long as `with locked():` lasts; readers go on."""
    monkeypatch.setattr(lines, "BUSY_SECONDS", 0.2)
    path = Path(sqlite_store_url.removeprefix("sqlite:///"))

    @contextlib.contextmanager
    def lock() -> Iterator[None]:
        connection = sqlite3.connect(path, isolation_level=None, timeout=10)
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            connection.execute("ROLLBACK")
            connection.close()

    return lock


async def ready(room: Room, queue: BrokerQueue, count: int) -> None:
    """Wait until so many messages lie on a broker queue, in nobody's hands."""
    broker = await room.app.client().broker()

    async def check() -> bool:
        depth = await broker.depth(queue)
        assert depth is not None and depth.ready == count, f"{queue.kind}: {depth}, not {count} ready"
        return True

    await eventually(check)


async def test_a_message_is_the_brokers_until_its_outcome_is_recorded(
    room: Room, locked: Callable[[], contextlib.AbstractContextManager[None]]
) -> None:
    """What has run and is not recorded is on the broker, and nobody is told of it; once recorded it runs no more."""
    queue, ran, go = Queue("open"), list[int](), asyncio.Event()

    @room.app.task(name="note", queue=queue)
    async def note(number: int) -> int:
        ran.append(number)
        await go.wait()
        return number

    worker = await room.worker()
    handle = await note.enqueue_async(7)
    await eventually(lambda: ran == [7])
    await room.set_queue("open", paused=True)
    await eventually(lambda: worker.servers["open"].paused)
    with locked():
        go.set()
        await eventually(lambda: worker.settler.group.failing_since is not None)
        worker.broker.drop_connections()  # type: ignore[attr-defined]
        await ready(room, task_queue("open"), 1)
        assert handle.mailbox is not None and handle.mailbox.ending is None
    await room.has(handle, Status.SUCCEEDED, 10)
    await room.set_queue("open", paused=False)
    await ready(room, task_queue("open"), 0)
    await room.stop(worker)
    assert await room.depth("open") == 0
    assert await handle.get_result_async(60) == 7
    assert ran == [7]


async def test_what_cannot_be_booked_stays_on_the_broker(
    room: Room, locked: Callable[[], contextlib.AbstractContextManager[None]], caplog: pytest.LogCaptureFixture
) -> None:
    """A delayed message that the store does not take outlives the worker that would have booked it."""

    @room.app.task(name="late")
    async def late() -> int:
        return 5

    worker = await room.worker()
    with locked():
        handle = await late.options(delay=0.1).enqueue_async()
        await eventually(lambda: "taking in waiting" in caplog.text)
        await room.stop(worker, now=True)
        await ready(room, WAITING, 1)
    await room.worker()
    assert await handle.get_result_async(60) == 5


async def test_what_no_store_can_hold_takes_nobody_along(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of delayed messages that are booked together the one that the store refuses is a dead letter; the others run."""

    @room.app.task(name="late")
    async def late(n: int) -> int:
        return n

    book = SqlStore.book

    async def refusing(store: SqlStore, rows: Sequence[WaitingRow]) -> list[bool]:
        if any(row.message.key == "too large" for row in rows):
            raise InvalidMessage("the store cannot hold a value")
        return await book(store, rows)

    monkeypatch.setattr(SqlStore, "book", refusing)
    keys = ["", "too large", ""]
    handles = await room.app.enqueue_many_async(
        [late.options(delay=0.1, key=key or None).message(n) for n, key in enumerate(keys)]
    )
    await room.worker()
    assert [await handles[n].get_result_async(60) for n in (0, 2)] == [0, 2]
    letter = await room.dead()
    assert (letter.message_id, letter.reason) == (handles[1].id, "invalid-message")
    assert letter.failure is not None and "cannot hold a value" in letter.failure.message


async def test_what_cannot_be_archived_stays_on_the_broker(
    room: Room, locked: Callable[[], contextlib.AbstractContextManager[None]], caplog: pytest.LogCaptureFixture
) -> None:
    """A dead letter that the store does not take outlives the worker that would have archived it."""
    worker = await room.worker()
    broker = await room.app.client().broker()
    with locked():
        await broker.publish(Outgoing(task_queue("default"), b"no message", "strange", CONTENT_TYPE))
        await eventually(lambda: "taking in dead" in caplog.text)
        await room.stop(worker, now=True)
        await ready(room, DEAD, 1)
    await room.worker()
    assert (await room.dead(10)).reason == "invalid-message"


@pytest.fixture
async def store(sqlite_store_url: str, anyio_backend: str) -> AsyncIterator[Store]:
    """An open one."""
    store = open_store(sqlite_store_url)
    await store.open()
    yield store
    await store.close()


async def test_what_is_due_keeps_its_row_until_it_is_published(
    store: Store, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    """While the broker takes nothing, what is due stays in the waiting room, and reads WAITING."""
    clock = SystemClock()
    broker = open_broker(
        f"memory://{prefix}", prefix=prefix, publish_timeout=0.1, connect_timeout=1, heartbeat=10, clock=clock, name=""
    )  # not opened: nothing can be published

    async def opened() -> Store:
        return store

    now = await store.now()
    message = Message("m1", "task", "q", b"", CONTENT_TYPE, now, not_before=now)
    assert await store.book([WaitingRow(message, now)]) == [True]
    dispatcher = Dispatcher(broker=broker, open_store=opened, clock=clock)
    release = Release(store=store, dispatcher=dispatcher, clock=clock, flow_parallelism=None, on_heads=list)
    releasing = asyncio.create_task(release.run())
    await eventually(lambda: "releasing m1" in caplog.text)
    releasing.cancel()
    await asyncio.wait({releasing})
    assert releasing.cancelled()
    assert [row.message.id for row in (await store.waiting()).items] == ["m1"]
    record = await store.get("m1")
    assert record is not None and record.status is Status.WAITING


async def test_a_cancel_is_seen_by_the_claim_itself(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancel of which no worker has heard, nor looked for, keeps the next attempt from starting."""
    monkeypatch.setattr(worker_module, "LOOK_BUSY", 600.0)
    queue, ran = Queue("fifo", parallelism=1), list[str]()

    @room.app.task(name="fails", queue=queue, retry=Retry(max_retries=3, delay=4.0))
    async def fails() -> None:
        ran.append("fails")
        raise RuntimeError

    worker = await room.worker()
    handle = await fails.enqueue_async()
    await room.has(handle, Status.WAITING)
    await (await room.store()).cancel(handle.id)
    with pytest.raises(TaskCancelled):
        await handle.get_result_async(60)
    assert ran == ["fails"]
    assert handle.id not in worker.attempts.cancels


@pytest.mark.parametrize(
    "queue", [Queue("fifo", parallelism=1), Queue("two", parallelism=2)], ids=lambda queue: queue.name
)
async def test_an_ordered_run_ends_with_its_channel(room: Room, queue: Queue) -> None:
    """When the connection goes, the run is stopped before the message starts again: never both at once."""
    events: list[str] = []
    go = asyncio.Event()

    @room.app.task(name="long", queue=queue)
    async def long() -> str:
        events.append("start")
        try:
            await go.wait()
        except asyncio.CancelledError:
            events.append("stop")
            raise
        return "done"

    worker = await room.worker()
    handle = await long.enqueue_async()
    await eventually(lambda: events == ["start"])
    worker.broker.drop_connections()  # type: ignore[attr-defined]
    await eventually(lambda: events == ["start", "stop", "start"])
    go.set()
    assert await handle.get_result_async(60) == "done"
    assert events == ["start", "stop", "start"]


async def test_a_worker_that_stops_keeps_its_slots_until_its_runs_have_ended(room: Room) -> None:
    """Of a queue with parallelism 2 a second worker starts nothing while the first still runs two in its grace."""
    queue, running, most, done = Queue("two", parallelism=2), 0, list[int](), set[int]()

    @room.app.task(name="count", queue=queue)
    async def count(number: int) -> None:
        nonlocal running
        running += 1
        most.append(running)
        try:
            await asyncio.sleep(0.7)
        finally:
            running -= 1
        done.add(number)

    first = await room.worker(concurrency=2, grace=20)
    handles = [await count.enqueue_async(number) for number in range(6)]
    await eventually(lambda: running == 2)
    await room.worker(concurrency=2)
    first.stop()
    await room.ended(first)
    for handle in handles:
        await handle.get_result_async(60)
    assert done == set(range(6))
    assert max(most) == 2
