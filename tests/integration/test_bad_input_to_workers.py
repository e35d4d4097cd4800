"""Bad input at the worker: what it cannot read, does not know or cannot return is dead-lettered; it lives on."""

from __future__ import annotations

import asyncio
from typing import Any

import msgpack
import pytest

from taskq import Queue, TaskFailed
from taskq.broker.base import Outgoing
from taskq.dispatch import task_queue
from taskq.message import CONTENT_TYPE, Message, new_id
from taskq.outcome import Status
from taskq.serialization import MSGPACK
from taskq.store.base import DeadFilter
from tests.integration.room import Room
from tests.support import eventually


async def publish(room: Room, body: bytes, content_type: str, *, queue: str = "default") -> None:
    broker = await room.app.client().broker()
    await broker.publish(Outgoing(task_queue(queue), body, "foreign-1", content_type))


async def test_bytes_that_are_no_message_of_ours(room: Room) -> None:
    """Garbage, an unknown codec and a later version are each archived with reason and body; the next message runs."""

    @room.app.task(name="add")
    async def add(a: int, b: int) -> int:
        return a + b

    await room.worker()
    later = {"v": 99, "id": "msg_1", "task": "add", "queue": "default", "at": 0, "body": b"", "type": "x"}
    for body, content_type in (
        (b"\xc1garbage", CONTENT_TYPE),
        (b"<xml/>", "application/xml"),
        (msgpack.packb(later), CONTENT_TYPE),
        (b"{}", "application/json"),
    ):
        await publish(room, body, content_type)
    store = await room.store()

    async def all_four() -> list[Any] | None:
        found = (await store.dead(DeadFilter(reason="invalid-message"))).items
        return found if len(found) == 4 else None

    letters = await eventually(all_four)
    assert {letter.body for letter in letters} == {b"\xc1garbage", b"<xml/>", msgpack.packb(later), b"{}"}
    assert all(letter.failure is not None and letter.queue == "default" and letter.worker for letter in letters)
    assert any("99" in letter.failure.message for letter in letters)
    assert any("application/xml" in letter.failure.message for letter in letters)
    assert await (await add.enqueue_async(1, 2)).get_result_async(60) == 3
    assert await room.depth("default") == 0


async def test_a_message_with_an_unknown_argument_codec(room: Room) -> None:
    """Its envelope is ours, its arguments cannot be read: it fails with that reason, without retries."""

    @room.app.task(name="add")
    async def add(a: int, b: int) -> int:
        return a + b

    now = room.app.clock.now()
    await room.worker()
    await publish(
        room, Message(new_id(now), "add", "default", b"\x00", "application/x-pickle", now).encode(), CONTENT_TYPE
    )
    letter = await room.dead(reason="invalid-arguments")
    assert letter.failure is not None and "x-pickle" in letter.failure.message
    assert letter.attempts == 1
    await publish(room, Message(new_id(now), "add", "default", b"\xc1", MSGPACK, now).encode(), CONTENT_TYPE)
    store = await room.store()

    async def both() -> bool:
        return await store.count_dead(DeadFilter(reason="invalid-arguments")) == 2

    await eventually(both)
    assert await (await add.enqueue_async(1, 2)).get_result_async(60) == 3


async def test_arguments_that_do_not_fit_the_workers_task(room: Room) -> None:
    """A sender with other code: InvalidArguments at the worker, no retry, the waiter is told."""
    ran: list[int] = []
    sender = room.make_app()

    @sender.task(name="add")
    async def old(a: int) -> int:
        return a

    @room.app.task(name="add")
    async def add(a: int, b: int) -> int:
        ran.append(a)
        return a + b

    await room.worker()
    handle = await old.enqueue_async(1)
    with pytest.raises(TaskFailed, match="InvalidArguments"):
        await handle.get_result_async(60)
    assert (await room.dead(message_id=handle.id)).reason == "invalid-arguments"
    assert ran == []
    await sender.close()


@pytest.mark.parametrize(
    "queue", [Queue("open"), Queue("fifo", parallelism=1), Queue("two", parallelism=2)], ids=lambda q: q.name
)
async def test_an_unknown_task_goes_round_to_a_worker_that_knows_it(
    room: Room, queue: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker with older code passes it on, unharmed; the one that knows the task runs it."""
    newer = room.make_app()

    @newer.task(name="new", queue=queue)
    async def new(number: int) -> int:
        return number

    room.app.declare_queue(queue)
    await room.worker()
    handle = await new.enqueue_async(7)
    await eventually(lambda: "'new' is not known here" in caplog.text)
    await room.worker(app=newer)
    assert await handle.get_result_async(60) == 7
    for worker in list(room._workers):
        await room.stop(worker)
    await newer.close()


async def test_the_only_slot_goes_on_to_a_worker_that_knows_the_task(
    room: Room, caplog: pytest.LogCaptureFixture
) -> None:
    """The worker with older code does not keep it while it knows nothing of what is to run."""
    queue = room.app.declare_queue(Queue("two", parallelism=2))
    newer = room.make_app()

    @newer.task(name="new", queue=queue)
    async def new() -> str:
        return "ran"

    await (await room.store()).ensure_queue(queue)
    await room.set_queue(queue.name, parallelism=1)
    await room.worker(settings={"unknown_task_limit": 3})
    handle = await new.enqueue_async()
    await eventually(lambda: "'new' is not known here" in caplog.text)
    await room.worker(app=newer)
    assert await handle.get_result_async(60) == "ran"
    for worker in list(room._workers):
        await room.stop(worker)
    await newer.close()


async def test_a_task_that_no_worker_knows_is_dead_lettered_after_the_bound(room: Room) -> None:
    """With the task's name and how many looked; the messages behind it run."""
    sender = room.make_app()
    fifo = room.app.declare_queue(Queue("fifo", parallelism=1))

    @sender.task(name="nope", queue=fifo)
    async def nope() -> None: ...

    @room.app.task(name="add", queue=fifo)
    async def add(a: int, b: int) -> int:
        return a + b

    await room.worker(settings={"unknown_task_limit": 2})
    first = await nope.enqueue_async()
    second = await nope.options(queue="default").enqueue_async()
    behind = await add.enqueue_async(1, 2)
    for handle in (first, second):
        letter = await room.dead(10, message_id=handle.id)
        assert letter.reason == "unknown-task"
        assert letter.failure is not None and "'nope'" in letter.failure.message and "2" in letter.failure.message
        with pytest.raises(TaskFailed, match="UnknownTask"):
            await handle.get_result_async(60)
    assert await behind.get_result_async(60) == 3
    await sender.close()


async def test_a_result_that_cannot_be_encoded(room: Room) -> None:
    """The message fails at once with that reason: running it again would not help."""
    ran: list[int] = []

    @room.app.task(name="opaque")
    async def opaque() -> Any:
        ran.append(1)
        return asyncio.Lock()

    await room.worker()
    handle = await opaque.enqueue_async()
    with pytest.raises(TaskFailed, match="Lock"):
        await handle.get_result_async(60)
    letter = await room.dead(message_id=handle.id)
    assert letter.reason == "result-not-serializable"
    assert ran == [1]
    assert await handle.get_status_async() is Status.FAILED


async def test_a_message_for_a_deleted_queue_mends_it(room: Room) -> None:
    """Gone from the broker, its row is not: the enqueue declares it anew, and the worker serves it again."""
    queue = Queue("gone", parallelism=1)

    @room.app.task(name="add", queue=queue)
    async def add(a: int, b: int) -> int:
        return a + b

    worker = await room.worker()
    assert await (await add.enqueue_async(1, 1)).get_result_async(60) == 2
    record = worker.servers["gone"].record
    await (await room.app.client().broker()).delete(task_queue("gone", record))
    assert await (await add.enqueue_async(1, 2)).get_result_async(60) == 3
    assert await (await add.options(delay=0.01).enqueue_async(2, 2)).get_result_async(60) == 4
