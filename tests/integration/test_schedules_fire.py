"""Schedules from end to end, on either broker: what is declared, made and changed is sent, by its policies."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import pytest

from taskq import InvalidArguments, InvalidSchedule, Queue, TaskQ, UnknownTask, current
from taskq.dispatch import Dispatcher
from taskq.message import Message
from taskq.outcome import Status
from taskq.worker.worker import Worker
from tests.integration.room import Room
from tests.support import PATIENCE, eventually

SOON = 2.0  # seconds within which a change counts
BUSY = 6.0  # seconds more, on a machine that has other things to do


class Noted:
    """What the task saw: (word, the instant that its message is for)."""

    def __init__(self, room: Room, **definition: Any) -> None:
        self.words: list[tuple[str, datetime]] = []
        self.gate = asyncio.Event()
        self.gate.set()

        @room.app.task(name="note", **definition)
        async def note(word: str = "tick") -> str:
            headers = current().headers
            self.words.append((word, datetime.fromisoformat(headers["taskq-scheduled-for"])))
            await self.gate.wait()
            return word

        self.task = note

    def of(self, word: str) -> list[datetime]:
        return [instant for one, instant in self.words if one == word]

    async def times(self, word: str, count: int, timeout: float = PATIENCE) -> list[datetime]:  # noqa: ASYNC109
        await eventually(lambda: len(self.of(word)) >= count, timeout)
        return self.of(word)


async def beats(room: Room, **options: Any) -> Worker:
    """A worker with a beat of the schedules that the room's app declares."""
    app = room.twin()
    app.scheduled = room.app.scheduled
    return await room.worker(app=app, beat=True, **options)


def sleep_through(room: Room, id: str, seconds: float) -> None:
    """Have the schedule be as if no beat had looked at it for so long."""
    path = urlsplit(room.urls["store"]).path.removeprefix("/")
    with closing(sqlite3.connect(path, timeout=20)) as connection, connection:
        by = round(seconds * 1_000_000)
        changed = connection.execute(
            "UPDATE taskq_schedules SET seen_at = seen_at - ?, next_at = next_at - ?, version = version + 1"
            " WHERE id = ?",
            (by, by, id),
        )
        assert changed.rowcount == 1


async def until(check: Callable[[], Awaitable[bool]], timeout: float = SOON + BUSY) -> None:  # noqa: ASYNC109
    await eventually(check, timeout)


async def test_cron_and_interval_from_code_fire_at_their_instants(room: Room) -> None:
    """Each second once, named in the message's headers; history and the last status tell of it."""
    noted = Noted(room)
    room.app.schedule("cron", noted.task, cron="* * * * * *", args=["cron"])
    room.app.schedule("every", noted.task, every=1, kwargs={"word": "every"})
    await beats(room)
    cron, every = await noted.times("cron", 3), await noted.times("every", 5)
    assert all(later - earlier == timedelta(seconds=1) for earlier, later in zip(cron, cron[1:], strict=False))
    assert all(later - earlier == timedelta(seconds=1) for earlier, later in zip(every, every[1:], strict=False))
    assert all(instant.microsecond == 0 for instant in cron)
    await until(lambda: _ended(room, "cron"))
    info = await room.app.schedules.get_async("cron")
    assert info is not None and (info.origin, info.when, info.error) == ("code", "* * * * * *", None)
    history = await room.app.schedules.history_async("cron", 2)
    assert [firing.instant for firing in history] == sorted((firing.instant for firing in history), reverse=True)
    assert len({firing.message_id for firing in history}) == 2


async def _ended(room: Room, id: str) -> bool:
    info = await room.app.schedules.get_async(id)
    return info is not None and info.last_status is Status.SUCCEEDED


async def test_a_start_brings_the_store_up_to_the_code(room: Room) -> None:
    """New ones are made, changed ones changed, gone ones deleted; what was made at run time stays."""
    noted = Noted(room)
    for id in ("same", "changed", "gone"):
        room.app.schedule(id, noted.task, cron="0 3 * * *")
    first = await beats(room)
    await until(lambda: _has(room, {"same", "changed", "gone"}))
    await room.app.schedules.upsert_async("made", noted.task, every=3600)
    await room.stop(first)
    same = await room.app.schedules.get_async("same")
    room.app.scheduled.clear()
    room.app.schedule("same", noted.task, cron="0 3 * * *")
    room.app.schedule("changed", noted.task, cron="0 4 * * *")
    room.app.schedule("new", noted.task, cron="0 5 * * *")
    await beats(room)
    await until(lambda: _has(room, {"same", "changed", "new", "made"}))
    assert await room.app.schedules.get_async("same") == same
    changed = await room.app.schedules.get_async("changed")
    assert changed is not None and changed.when == "0 4 * * *"


async def _has(room: Room, ids: set[str]) -> bool:
    return {info.id for info in await room.app.schedules.list_async()} == ids


async def test_changes_at_run_time_count_with_no_restart(room: Room) -> None:
    noted = Noted(room)
    await beats(room)
    book = room.app.schedules
    made = await book.upsert_async("s", noted.task, every=1, args=["one"])
    assert (made.origin, made.task, made.when) == ("operator", "note", "every 1 s")
    await noted.times("one", 2, SOON + BUSY)
    await book.upsert_async("s", noted.task, every=1, args=["two"])
    await noted.times("two", 2, SOON + BUSY)
    await book.pause_async("s")
    info = await book.get_async("s")
    assert info is not None and info.paused and info.next_at is None
    await asyncio.sleep(0.1)  # what was begun before the pause may still come
    fired = (await _info(room, "s")).fired
    handle = await book.run_now_async("s")
    assert await handle.get_result_async(60) == "two"
    assert (await _info(room, "s")).fired == fired
    by_hand = (await book.history_async("s", 1))[0]
    assert by_hand.message_id == handle.id and by_hand.member
    seen = len(noted.of("two"))
    await book.resume_async("s")
    await noted.times("two", seen + 2, SOON + BUSY)
    assert await book.delete_async("s") and not await book.delete_async("s")
    assert await book.get_async("s") is None
    for verb in (book.pause_async, book.resume_async, book.run_now_async, book.next_async):
        with pytest.raises(InvalidSchedule, match="'s'"):
            await verb("s")


async def _info(room: Room, id: str) -> Any:
    info = await room.app.schedules.get_async(id)
    assert info is not None
    return info


@pytest.mark.parametrize(
    ("catch_up", "limit", "sent"), [("skip", 100, 0), ("last", 100, 1), ("all", 100, 24), ("all", 5, 5)]
)
async def test_ticks_that_no_beat_was_there_for(room: Room, catch_up: str, limit: int, sent: int) -> None:
    """After a day without a beat: nothing, the last, or all of an hourly schedule, up to a bound, the newest."""
    noted = Noted(room)
    book = room.app.schedules
    minute = (datetime.now(UTC) + timedelta(minutes=30)).minute  # hourly, and not while this runs
    await book.upsert_async("s", noted.task, cron=f"{minute} * * * *", catch_up=catch_up, catch_up_limit=limit)
    before = await _info(room, "s")
    sleep_through(room, "s", 24 * 3600)
    await beats(room)

    async def caught_up() -> bool:
        info = await _info(room, "s")
        return info.next_at is not None and info.next_at >= before.next_at

    await until(caught_up)
    instants = await noted.times("tick", sent)
    assert len(instants) == sent == (await _info(room, "s")).fired
    assert sorted(instants) == [before.next_at - timedelta(hours=back) for back in range(sent, 0, -1)]


async def test_overlap_allow_sends_beside_the_one_before(room: Room) -> None:
    noted = Noted(room)
    noted.gate.clear()
    room.app.schedule("s", noted.task, every=1)
    await beats(room)
    await noted.times("tick", 3)
    noted.gate.set()


async def test_overlap_skip_leaves_out_what_falls_due_meanwhile(room: Room) -> None:
    noted = Noted(room)
    noted.gate.clear()
    room.app.schedule("s", noted.task, every=1, overlap="skip")
    await beats(room)
    (first,) = await noted.times("tick", 1)

    async def seen_past_three() -> bool:
        (record,) = (await (await room.store()).list_schedules(room.app.settings.name)).items
        return bool(record.seen_at >= first + timedelta(seconds=2.5))

    await until(seen_past_three, 20)
    assert noted.of("tick") == [first]
    noted.gate.set()
    later = await noted.times("tick", 2)
    assert later[1] - first > timedelta(seconds=2.5)


async def test_overlap_queue_sends_one_when_the_one_before_has_ended(room: Room) -> None:
    noted = Noted(room)
    noted.gate.clear()
    room.app.schedule("s", noted.task, every=1, overlap="queue")
    await beats(room)
    (first,) = await noted.times("tick", 1)

    async def looked_later() -> bool:
        (record,) = (await (await room.store()).list_schedules(room.app.settings.name)).items
        now = await (await room.store()).now()
        return bool(now > first + timedelta(seconds=3) and record.next_at is not None)

    await until(looked_later, 20)
    assert noted.of("tick") == [first]
    noted.gate.set()
    await noted.times("tick", 2, SOON + BUSY)


async def test_start_end_most_runs_and_once(room: Room) -> None:
    noted = Noted(room)
    book = room.app.schedules
    now = await (await room.store()).now()
    await book.upsert_async("window", noted.task, every=1, args=["window"], starts_at=now + timedelta(seconds=1),
                            ends_at=now + timedelta(seconds=4))  # fmt: skip
    await book.upsert_async("three", noted.task, every=1, args=["three"], max_runs=3)
    at = (now + timedelta(seconds=1)).replace(microsecond=0) + timedelta(seconds=1)
    await book.upsert_async("once", noted.task, at=at, args=["once"])
    await beats(room)

    async def over() -> bool:
        return all([(await _info(room, id)).next_at is None for id in ("window", "three", "once")])

    await until(over, 20)
    window = await noted.times("window", 2)
    assert all(now + timedelta(seconds=1) <= instant <= now + timedelta(seconds=4) for instant in window)
    await noted.times("three", 3)
    assert await noted.times("once", 1) == [at]
    assert (len(noted.of("three")), len(noted.of("once"))) == (3, 1)
    assert await book.next_async("once") == [] and await book.next_async("three") == []


async def test_destinations_of_all_kinds(room: Room) -> None:
    """A FIFO queue, a limited one, lanes by key, priorities; a delay and an expiry count from the tick."""
    queues = {
        "line": Queue("line", parallelism=1),
        "pair": Queue("pair", parallelism=2),
        "lanes": Queue("lanes", parallelism=1, partitions=3),
        "ranks": Queue("ranks", priorities=True),
    }
    noted = Noted(room)
    for name, queue in queues.items():
        more = {"lanes": {"key": "a"}, "ranks": {"priority": 5}, "pair": {"delay": 0.1, "expires": 60}}.get(name, {})
        room.app.schedule(name, noted.task.options(queue=queue, **more), every=1, args=[name], max_runs=2)  # type: ignore[arg-type]
    await beats(room)
    for name in queues:
        await noted.times(name, 2, 20)
    for name in queues:
        info = await _info(room, name)
        assert (info.queue, info.fired) == (name, 2)


async def test_a_task_that_is_gone_ends_in_the_dead_letters_and_stops_no_other(room: Room) -> None:
    """The schedule shows the error; the others go on."""
    noted = Noted(room)

    @room.app.task(name="gone")
    async def gone() -> None: ...

    room.app.schedule("lost", gone, every=1, max_runs=1)
    room.app.schedule("other", noted.task, every=1)
    del room.app.tasks["gone"]
    app = room.twin(unknown_task_limit=1)
    app.scheduled = room.app.scheduled
    await room.worker(app=app, beat=True)
    letter = await room.dead(timeout=20, reason="unknown-task")
    assert letter.task == "gone"
    await noted.times("tick", 2)
    info = await _info(room, "lost")
    assert info.last_status is Status.FAILED and "unknown-task" in str(info.error)


async def test_one_that_cannot_be_read_says_so_and_stops_no_other(room: Room) -> None:
    """A newer taskq wrote it, perhaps: it is looked at again, and put right by a put."""
    noted = Noted(room)
    book = room.app.schedules
    for id in ("broken", "whole"):
        await book.upsert_async(id, noted.task, every=1, args=[id])
    path = urlsplit(room.urls["store"]).path.removeprefix("/")
    with closing(sqlite3.connect(path, timeout=20)) as connection, connection:
        connection.execute("""UPDATE taskq_schedules SET timing = '{"moon": "full"}' WHERE id = 'broken'""")
    await beats(room)
    await noted.times("whole", 2)

    async def says_so() -> bool:
        info = await _info(room, "broken")
        return info.error is not None and "cannot be read" in info.error and info.next_at is None

    await until(says_so)
    assert noted.of("broken") == []
    await book.upsert_async("broken", noted.task, every=1, args=["broken"])
    await noted.times("broken", 1, SOON + BUSY)


async def test_a_copy_of_a_tick_that_arrives_late_does_not_run_again(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A leader that was cut off still had it on the way when somebody else sent it."""
    noted = Noted(room, queue=Queue("line", parallelism=1))
    sent: list[Message] = []
    send_many = Dispatcher.send_many

    async def send(self: Dispatcher, messages: Sequence[tuple[Message, Any]]) -> Any:
        sent.extend(message for message, _ in messages)
        return await send_many(self, messages)

    monkeypatch.setattr(Dispatcher, "send_many", send)
    room.app.schedule("s", noted.task, every=1, max_runs=1)
    room.app.schedule("after", noted.task, cron="0 0 1 1 *", args=["after"])
    await beats(room)
    await noted.times("tick", 1)
    await until(lambda: _ended(room, "s"))
    (tick,) = sent
    dispatcher = room.app.client().dispatcher
    assert dispatcher is not None
    await dispatcher.send(tick)
    await (await room.app.schedules.run_now_async("after")).get_result_async(60)
    assert [word for word, _ in noted.words] == ["tick", "after"]


async def test_apps_of_other_names_have_schedules_of_their_own(room: Room) -> None:
    noted = Noted(room)
    room.app.schedule("s", noted.task, every=1)
    await beats(room)
    await noted.times("tick", 1)
    other = room.twin(name="other")
    assert await other.schedules.list_async() == []
    assert [info.id for info in await room.app.schedules.list_async()] == ["s"]
    other.scheduled.clear()
    await room.worker(app=other, beat=True)
    seen = len(noted.of("tick"))
    await noted.times("tick", seen + 2)


def _twice(app: TaskQ, task: Any) -> None:
    app.schedule("s", task, every=1)
    app.schedule("s", task, every=2)


PAST = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"cron": "61 * * * *"}, "minute"),
        ({"cron": "* * * *"}, "fields"),
        ({"cron": "0 0 30 2 *"}, "no such day"),
        ({"cron": "* * * * *", "timezone": "Mars/Olympus"}, "Mars/Olympus"),
        ({"cron": "CRON_TZ=Nowhere * * * * *"}, "Nowhere"),
        ({"every": 0}, "interval"),
        ({"every": -5}, "interval"),
        ({"every": float("nan")}, "interval"),
        ({"every": "soon"}, "interval"),
        ({}, "one of cron=, every= and at="),
        ({"cron": "* * * * *", "every": 5}, "one of cron=, every= and at="),
        ({"every": 5, "timezone": "UTC"}, "timezone"),
        ({"every": 5, "kind": 1}, "unknown option 'kind'"),
        ({"every": 5, "overlap": "maybe"}, "overlap"),
        ({"every": 5, "catch_up": "some"}, "catch_up"),
        ({"every": 5, "catch_up_limit": 0}, "catch_up_limit"),
        ({"every": 5, "jitter": -1}, "jitter"),
        ({"every": 5, "max_runs": 0}, "max_runs"),
        ({"every": 5, "args": "word"}, "args"),
        ({"every": 5, "starts_at": datetime(2030, 1, 1)}, "starts_at"),
        ({"every": 5, "starts_at": PAST + timedelta(days=1), "ends_at": PAST}, "ends_at"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else None,
)
def test_what_cannot_be_is_refused_where_it_is_written(room: Room, options: dict[str, Any], says: str) -> None:
    noted = Noted(room)
    for make in (room.app.schedule, room.app.schedules.upsert):
        with pytest.raises(InvalidSchedule, match=says):
            make("s", noted.task, **options)
    assert room.app.scheduled == {} and room.app.schedules.list() == []


def test_tasks_and_arguments_are_checked_where_a_schedule_is_made(room: Room) -> None:
    noted = Noted(room)
    with pytest.raises(InvalidSchedule, match="declared twice"):
        _twice(room.app, noted.task)
    room.app.scheduled.clear()
    for make in (room.app.schedule, room.app.schedules.upsert):
        with pytest.raises(UnknownTask, match="nothing"):
            make("s", "nothing", every=5)
        with pytest.raises(InvalidArguments, match="word"):
            make("s", noted.task, every=5, args=[5, 6])
        for id in ("", "a b", "x" * 201, "ü", None):
            with pytest.raises(InvalidSchedule, match="id"):
                make(id, noted.task, every=5)  # type: ignore[arg-type]
        for option, value in {"id": "one", "dedup_id": "d", "not_before": PAST}.items():
            with pytest.raises(InvalidSchedule, match=option):
                make("s", noted.task.options(**{option: value}), every=5)  # type: ignore[misc]
        with pytest.raises(InvalidSchedule, match="a task, its name or a URL"):
            make("s", print, every=5)  # type: ignore[arg-type]
    with pytest.raises(InvalidSchedule, match="never fire"):
        room.app.schedules.upsert("s", noted.task, at=PAST)
    assert room.app.schedule("s", noted.task, at=PAST).id == "s"  # a module may be read again tomorrow
    assert room.app.schedules.list() == []
