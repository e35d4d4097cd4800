"""One store a broker and prefix, and a schema that this code can read; what differs is told with the mend."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import aio_pika
import pytest

from taskq import Queue, QueueMismatch, SchemaTooNew, StoreMismatch
from taskq.broker.base import BrokerQueue, Kind
from taskq.dispatch import task_queue
from tests.integration.room import Room


async def test_a_second_store_is_refused(room: Room, tmp_path: Path) -> None:
    """A worker with another file does not start; the text says to share one store."""

    @room.app.task(name="add")
    async def add(a: int, b: int) -> int:
        return a + b

    await room.worker()
    with pytest.raises(StoreMismatch, match="PostgreSQL"):
        await room.worker(settings={"store": f"sqlite:///{tmp_path / 'other.db'}"})
    producer = room.twin(store=f"sqlite:///{tmp_path / 'third.db'}")
    with pytest.raises(StoreMismatch):
        await producer.handle("msg_x").get_status_async()
    await room.worker(settings={"store": f"sqlite:///{tmp_path / 'other.db'}", "prefix": room.urls["prefix"] + "-b"})
    assert await (await add.enqueue_async(1, 2)).get_result_async(60) == 3
    if not room.memory:
        apart = Room(**(room.urls | {"prefix": room.urls["prefix"] + "-b"}))
        await room.close()
        broker = await apart.app.client().broker()
        await broker.drop_prefix([BrokerQueue(Kind.TASK, "default"), BrokerQueue(Kind.SLOT, "keeper")])  # type: ignore[attr-defined]
        await apart.close()


async def test_a_schema_of_a_newer_taskq_is_refused(room: Room, tmp_path: Path) -> None:
    """SchemaTooNew, and the file is left as it is."""
    await room.store()
    await room.app.close()
    with sqlite3.connect(tmp_path / "taskq.db") as database:
        database.execute("UPDATE taskq_version SET version_num = '9999'")
    database.close()
    with pytest.raises(SchemaTooNew):
        await room.worker()
    with sqlite3.connect(tmp_path / "taskq.db") as database:
        assert database.execute("SELECT version_num FROM taskq_version").fetchall() == [("9999",)]
    database.close()


async def test_a_queue_that_exists_with_other_arguments(rabbit_room: Room) -> None:
    """The worker does not start, and the text names the queue and `taskq queues migrate`."""
    room = rabbit_room
    queue = Queue("other", parallelism=1)

    @room.app.task(name="note", queue=queue)
    async def note() -> None: ...

    broker = await room.app.client().broker()
    name = broker.names.queue(task_queue("other"))  # type: ignore[attr-defined]
    connection = await aio_pika.connect(room.urls["broker"])
    channel = await connection.channel()
    await channel.declare_queue(name, durable=True)
    await connection.close()
    with pytest.raises(QueueMismatch, match=r"other.*migrate"):
        await room.worker(queues=["other"])
