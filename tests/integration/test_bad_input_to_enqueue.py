"""Bad input at the sender: an error that names the value and the mend, and nothing half done."""

from __future__ import annotations

import asyncio
import socket
import time
from datetime import UTC, datetime
from typing import Any

import pytest

from taskq import (
    AccessRefused,
    BrokerUnavailable,
    EnqueueInsideLoop,
    InvalidArguments,
    InvalidQueue,
    InvalidSetting,
    NotSerializable,
    PayloadTooLarge,
    Queue,
    RateLimit,
    StoreUnavailable,
    TaskQ,
    UnknownTask,
)
from tests.integration.room import Room
from tests.servers import free_port
from tests.support import eventually, pulse


class Opaque:
    def __init__(self) -> None:
        self.lock = object()


async def test_wrong_arguments_send_nothing(room: Room) -> None:
    """Missing, surplus, wrongly named and wrongly typed arguments raise InvalidArguments that names task and value."""

    @room.app.task(name="add")
    async def add(a: int, b: int = 1) -> int:
        return a + b

    task: Any = add
    for args, kwargs, named in (
        ((), {}, "a"),
        ((1, 2, 3), {}, "3"),
        ((1,), {"c": 2}, "c"),
        (("one",), {}, "'one'"),
        ((1,), {"b": None}, "b"),
    ):
        with pytest.raises(InvalidArguments, match="add") as caught:
            await task.enqueue_async(*args, **kwargs)
        assert named in str(caught.value)
        assert isinstance(caught.value, TypeError)
    with pytest.raises(InvalidArguments):
        await room.app.enqueue_many_async([task.message(number) for number in (1, "two", 3)])
    assert await room.depth("default") == 0


async def test_what_cannot_be_sent_is_not(room: Room) -> None:
    """An argument without an encoding and a payload over the limit are errors that say which and how much."""

    @room.app.task(name="take")
    async def take(value: Any) -> None: ...

    with pytest.raises(NotSerializable, match="Opaque"):
        await take.enqueue_async(Opaque())
    with pytest.raises(PayloadTooLarge, match="1048576") as caught:
        await take.enqueue_async("x" * 2**20)
    assert caught.value.limit_bytes == 2**20 < caught.value.size_bytes
    await take.enqueue_async("x" * (2**20 - 100))

    async def one_is_there() -> bool:
        return await room.depth("default") == 1

    await eventually(one_is_there)


@pytest.mark.parametrize("name", ["", "a b", "a/b", "ä", "x" * 201, "a\nb", "taskq*", 7])
def test_an_illegal_queue_name_is_refused(name: Any) -> None:
    """At the declaration and at the option alike, and the text says what a name may be."""
    app = TaskQ(broker="memory://", store="sqlite://")
    with pytest.raises(InvalidQueue, match="letters"):
        Queue(name)
    if not isinstance(name, str):
        return

    @app.task(name="note")
    async def note() -> None: ...

    with pytest.raises(InvalidQueue, match="letters"):
        note.options(queue=name).message()


@pytest.mark.parametrize("wrong", [0, -1, 1.5, "2", True, 10**6])
def test_a_parallelism_below_one_is_refused(wrong: Any) -> None:
    """As are numbers that are none, in each of a queue's limits."""
    for option in ("parallelism", "worker_parallelism", "partitions"):
        with pytest.raises(InvalidQueue, match=option):
            Queue("q", **{option: wrong})
    if wrong not in (1.5, 10**6):
        with pytest.raises(InvalidQueue, match="limit"):
            RateLimit(wrong)


@pytest.mark.parametrize(
    ("broker", "named"),
    [("localhost:5672", "broker"), ("redis://h/", "redis"), ("amqp://u:geheim@:x/", "host"), ("http://h/", "http")],
)
def test_a_bad_broker_url_is_refused_at_once(broker: str, named: str) -> None:
    """Not at the first enqueue, and the text names the setting or the scheme."""
    with pytest.raises(InvalidSetting, match=named):
        TaskQ(broker=broker, store="sqlite://")


@pytest.mark.parametrize(
    ("store", "named"), [("taskq.db", "store"), ("mysql://h/d", "mysql"), ("postgresql://u:geheim@/", "postgresql")]
)
def test_a_bad_store_url_is_refused_at_once(store: str, named: str) -> None:
    """As the broker's, and no password is shown."""
    with pytest.raises(InvalidSetting, match=named) as caught:
        TaskQ(broker="memory://", store=store)
    assert "geheim" not in str(caught.value)


async def test_a_wrong_password_is_told_from_a_broker_that_is_away(rabbitmq_url: str) -> None:
    """AccessRefused, soon, without the password in its text; it is a BrokerUnavailable too."""
    url = rabbitmq_url.replace("guest:guest@", "guest:geheim@")
    assert url != rabbitmq_url
    app = TaskQ(broker=url, store="sqlite://", publish_timeout=5)

    @app.task(name="note")
    async def note() -> None: ...

    began = time.monotonic()
    with pytest.raises(AccessRefused) as caught:
        await note.enqueue_async()
    assert time.monotonic() - began < 5 + pulse.lost()
    assert "geheim" not in str(caught.value)
    assert isinstance(caught.value, BrokerUnavailable)
    await app.close()


async def test_a_broker_that_is_down_costs_the_publish_timeout_at_most() -> None:
    """Refused and silent addresses alike: BrokerUnavailable within publish_timeout, from async and sync code."""
    silent = socket.create_server(("127.0.0.1", 0))  # the kernel answers, and nobody behind it
    for port in (free_port(), silent.getsockname()[1]):
        app = TaskQ(broker=f"amqp://guest:geheim@127.0.0.1:{port}/", store="sqlite://", publish_timeout=1)

        @app.task(name="note")
        async def note() -> None: ...

        for attempt in (note.enqueue_async, lambda: asyncio.to_thread(note.enqueue)):
            began = time.monotonic()
            with pytest.raises(BrokerUnavailable) as caught:
                await attempt()
            assert time.monotonic() - began < 1.5 + pulse.lost()
            assert "geheim" not in str(caught.value)
        await app.close()
    silent.close()


async def test_a_store_that_is_not_there_is_named() -> None:
    """A worker on a store without a server ends with StoreUnavailable, without its password."""
    room = Room(broker="memory://", store=f"postgresql://u:geheim@127.0.0.1:{free_port()}/d", prefix="nowhere")
    with pytest.raises(StoreUnavailable) as caught:
        await room.worker()
    assert "geheim" not in str(caught.value)
    await room.close()


async def test_a_sync_call_inside_a_loop_is_refused(room: Room) -> None:
    """It would stop the loop: the error names the async twin; nothing is sent."""

    @room.app.task(name="note")
    async def note() -> None: ...

    handle = room.app.handle("msg_x")
    for call in (note.enqueue, handle.get_result, handle.get_status, handle.cancel, lambda: room.app.__enter__()):
        with pytest.raises(EnqueueInsideLoop, match="_async"):
            call()
    assert await room.depth("default") == 0


def test_a_task_that_is_not_there_is_named() -> None:
    """get_task says which tasks there are."""
    app = TaskQ(broker="memory://", store="sqlite://")

    @app.task(name="note")
    async def note() -> None: ...

    with pytest.raises(UnknownTask, match="note"):
        app.get_task("nope")


def test_options_that_cannot_be_are_refused() -> None:
    """Each wrong option is an InvalidSetting that names it and its value."""
    app = TaskQ(broker="memory://", store="sqlite://")

    @app.task(name="note")
    async def note() -> None: ...

    wrong: list[tuple[dict[str, Any], str]] = [
        ({"delya": 1}, "delya"),
        ({"expires": 0}, "expires"),
        ({"timeout": -1}, "timeout"),
        ({"priority": 32}, "priority"),
        ({"priority": -1}, "priority"),
        ({"headers": {"a": 1}}, "headers"),
        ({"dedup_id": ""}, "dedup_id"),
        ({"on_duplicate": "raise"}, "dedup_id"),
        ({"dedup_id": "a", "on_duplicate": "maybe"}, "on_duplicate"),
        ({"delay": 1, "not_before": datetime.now(UTC)}, "not both"),
        ({"not_before": datetime.now()}, "aware"),
        ({"retry": 3}, "retry"),
    ]
    for options, named in wrong:
        with pytest.raises(InvalidSetting, match=named):
            note.options(**options)
