"""Outages of a second or ten: nothing is lost, nothing is recorded twice, everything goes on by itself."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from taskq import BrokerUnavailable, Queue, Retry
from taskq.store.base import MessageRecord
from tests.integration.room import Room
from tests.servers import PostgresServer, RabbitNode
from tests.support import eventually

KINDS = [Queue("open"), Queue("fifo", parallelism=1), Queue("two", parallelism=2)]


@pytest.fixture(scope="module")
async def node(tmp_path_factory: pytest.TempPathFactory, anyio_backend: str) -> AsyncIterator[RabbitNode]:
    """A RabbitMQ that may be killed."""
    node = RabbitNode(tmp_path_factory.mktemp("node") / "rabbit")
    await asyncio.to_thread(node.start)
    yield node
    await asyncio.to_thread(node.stop)


@pytest.fixture
async def server(stores: list[str], anyio_backend: str) -> AsyncIterator[PostgresServer]:
    """A PostgreSQL that may be killed; there before the prefix is made and until it is swept."""
    folder = Path(tempfile.mkdtemp(prefix="taskq-outage-"))
    os.chmod(folder, 0o755)  # the account that PostgreSQL runs as passes through
    server = PostgresServer(folder / "postgres")
    await asyncio.to_thread(server.start)
    stores.append(server.url)
    yield server
    await asyncio.to_thread(server.stop)
    os.rmdir(folder)


@pytest.fixture
async def node_room(node: RabbitNode, sqlite_store_url: str, prefix: str) -> AsyncIterator[Room]:
    """A room on that RabbitMQ."""
    room = Room(broker=node.url, store=sqlite_store_url, prefix=prefix)
    yield room
    await room.close()


async def test_work_goes_on_after_a_broker_restart(node: RabbitNode, node_room: Room) -> None:
    """Every queue has its consumer back within 30 s, all messages run, FIFO in order; delays and new enqueues work."""
    room, order = node_room, list[int]()

    @room.app.task(name="note", retry=Retry(max_retries=3, delay=0.05))
    async def note(number: int) -> int:
        await asyncio.sleep(0.02)
        return number

    @room.app.task(name="ordered", queue=KINDS[1])
    async def ordered(number: int) -> int:
        order.append(number)
        await asyncio.sleep(0.02)
        return number

    for queue in KINDS:
        room.app.declare_queue(queue)
    worker = await room.worker()
    handles = [await note.options(queue=queue).enqueue_async(n) for n in range(60) for queue in (KINDS[0], KINDS[2])]
    handles += await room.app.enqueue_many_async([ordered.message(n) for n in range(120)])
    handles += [await note.options(delay=1 + n / 10).enqueue_async(n) for n in range(10)]
    await eventually(lambda: len(order) > 20)
    await asyncio.to_thread(node.ctl, "stop_app")
    with pytest.raises(BrokerUnavailable):
        await room.twin(publish_timeout=0.5).send_async(note.message(0))
    await asyncio.to_thread(node.ctl, "start_app")
    back = time.monotonic()

    def all_consume() -> bool:
        health = worker.broker.health()
        assert health.connected and not health.unproven, health
        return True

    await eventually(all_consume)
    proven = time.monotonic() - back
    for handle in handles:
        await handle.get_result_async(60)
    assert [number for index, number in enumerate(order) if index == 0 or order[index - 1] != number] == list(
        range(120)
    )
    for queue in KINDS:
        assert await (await note.options(queue=queue).enqueue_async(7)).get_result_async(60) == 7
    print(f"consumers proven {proven:.2f} s after the broker came back")


async def test_a_result_awaited_across_a_broker_restart_arrives(node: RabbitNode, node_room: Room) -> None:
    """The reply queue is gone with its connection: the waiter finds the result in the store, with few reads."""
    room, reads = node_room, list[str]()
    go = asyncio.Event()

    @room.app.task(name="slow")
    async def slow(number: int) -> int:
        await go.wait()
        return number

    await room.worker()
    store = await room.store()
    get = store.get

    async def counted(message_id: str) -> MessageRecord | None:
        reads.append(message_id)
        return await get(message_id)

    store.get = counted  # type: ignore[method-assign]
    handle = await slow.enqueue_async(5)
    wait = asyncio.create_task(handle.get_result_async(60))
    began = time.monotonic()
    await asyncio.to_thread(node.kill)
    await asyncio.to_thread(node.start)
    assert not wait.done()
    go.set()
    assert await wait == 5
    took = time.monotonic() - began
    # Once after a second, every three seconds, and at each reconnect.
    assert len(reads) <= 2 + took / 3 + 3, (len(reads), took)
    print(f"arrived after {took:.1f} s with {len(reads)} reads")


async def test_a_store_outage_stops_settling_and_loses_nothing(
    server: PostgresServer, rabbitmq_url: str, prefix: str
) -> None:
    """While PostgreSQL is away tasks run and stay unacknowledged; back again, each is recorded, once."""
    room, ran = Room(broker=rabbitmq_url, store=server.url, prefix=prefix), list[int]()

    @room.app.task(name="note", retry=Retry(max_retries=3, delay=0.05))
    async def note(number: int) -> int:
        ran.append(number)
        return number

    @room.app.task(name="ordered", queue=KINDS[1])
    async def ordered(number: int) -> int:
        ran.append(number)
        return number

    for queue in KINDS:
        room.app.declare_queue(queue)
    try:
        worker = await room.worker()
        warm = [await note.options(queue=queue).enqueue_async(0) for queue in KINDS]
        for handle in warm:
            await handle.get_result_async(60)
        ran.clear()
        await asyncio.to_thread(server.kill)
        handles = [
            await note.options(queue=queue).enqueue_async(n) for n in range(20) for queue in (KINDS[0], KINDS[2])
        ]
        handles += [await ordered.enqueue_async(n) for n in range(20)]
        handles += [await note.options(delay=0.05).enqueue_async(n) for n in range(5)]
        await eventually(lambda: worker.settler.group.failing_since is not None)
        assert not any(handle.mailbox is not None and handle.mailbox.ending for handle in handles)
        await asyncio.to_thread(server.start)
        back = time.monotonic()
        for handle in handles:
            await handle.get_result_async(60)
        print(
            f"all recorded {time.monotonic() - back:.2f} s after the store came back; {len(ran)} runs of {len(handles)}"
        )
        assert worker.settler.group.failing_since is None
        records = await (await room.store()).get_many([handle.id for handle in handles])
        assert {record.status.value for record in records.values()} == {"SUCCEEDED"}
        assert len(records) == len(handles)
        assert len(ran) == len(handles)
    finally:
        await room.close()
