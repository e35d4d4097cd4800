"""How code without an event loop sends: the loop that its calls share, and what they hear from it."""

from __future__ import annotations

import asyncio
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from taskq import InvalidSetting, TaskQ
from taskq.broker.base import Delivery
from taskq.client import Client
from taskq.dispatch import task_queue
from tests.support import eventually


def make_app(folder: Path, **settings: Any) -> TaskQ:
    return TaskQ(broker=f"memory://{uuid.uuid4().hex}", store=f"sqlite:///{folder}/taskq.db", **settings)


def kind_of_loop(app: TaskQ) -> str:
    async def kind() -> str:
        return type(asyncio.get_running_loop()).__module__

    with app:
        return app.run(kind).split(".")[0]


@pytest.mark.parametrize(("setting", "found"), [("auto", "uvloop"), ("uvloop", "uvloop"), ("asyncio", "asyncio")])
def test_the_loop_of_sync_callers_is_the_one_that_is_set(tmp_path: Path, setting: str, found: str) -> None:
    """uvloop where it is installed, unless asyncio's own is asked for."""
    pytest.importorskip("uvloop")
    assert kind_of_loop(make_app(tmp_path, loop=setting)) == found


def test_without_uvloop_the_loop_is_that_of_asyncio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where uvloop is not installed "auto" does without, and asking for it says how to get it."""
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert kind_of_loop(make_app(tmp_path)) == "asyncio"
    with pytest.raises(InvalidSetting, match="fast"):
        kind_of_loop(make_app(tmp_path, loop="uvloop"))


def test_threads_share_the_loop(tmp_path: Path) -> None:
    """Enqueues of many threads, to a queue that is not there yet, arrive: each thread's in its order."""
    app = make_app(tmp_path)

    @app.task(name="note", queue="notes")
    def note(thread: int, number: int) -> None: ...

    def enqueue(thread: int) -> list[str]:
        return [note.enqueue(thread, number).id for number in range(50)]

    async def arrived(count: int) -> list[str]:
        found: list[str] = []

        def take(delivery: Delivery) -> None:
            found.append(delivery.message_id or "")
            delivery.acknowledge()

        subscription = await (await app.client().broker()).subscribe(task_queue("notes"), take, prefetch=100)
        await eventually(lambda: len(found) >= count)
        await subscription.close()
        return found

    with app, ThreadPoolExecutor(8) as threads:
        sent = list(threads.map(enqueue, range(8)))
        found = app.run(lambda: arrived(400))
    for ids in sent:
        assert [one for one in found if one in set(ids)] == ids
    assert len(found) == 400


def test_what_fails_in_the_loop_is_raised_where_it_was_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that nobody foresaw leaves no caller waiting."""
    app = make_app(tmp_path)

    @app.task(name="note", queue="notes")
    def note() -> None: ...

    def fail(*_: object) -> None:
        raise ZeroDivisionError("unforeseen")

    with app:
        note.enqueue()
        monkeypatch.setattr(Client, "offer", fail)
        with pytest.raises(ZeroDivisionError, match="unforeseen"):
            note.enqueue()
        monkeypatch.undo()
        note.enqueue()


def test_a_missing_queue_is_made_for_either_kind_of_caller(tmp_path: Path) -> None:
    """A queue that somebody deleted is made again by the next enqueue, sync or async; the message is on it once."""
    app = make_app(tmp_path)

    @app.task(name="note", queue="notes")
    def note() -> None: ...

    async def delete() -> None:
        await (await app.client().broker()).delete(task_queue("notes"))

    async def depth() -> int:
        found = await (await app.client().broker()).depth(task_queue("notes"))
        return -1 if found is None else found.ready

    async def enqueue() -> None:
        await note.enqueue_async()

    def enqueue_in_async_code() -> None:
        app.run(enqueue)

    with app:
        for send in (note.enqueue, enqueue_in_async_code):
            app.run(delete)
            send()
            send()
            assert app.run(depth) == 2
