"""The store's contract on schedules: who wins, what a change does, and that a tick exists once."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import datetime

from taskq.outcome import Status
from taskq.store.base import Advance, Retention, ScheduleRecord, ScheduleRow, Store, Tick
from tests.contract.store_support import StillClock, at, end, make, row, settle


def schedule(id: str = "s", **fields: object) -> ScheduleRow:
    return replace(ScheduleRow("app", id, '{"every": 1}', "{}", "task", "q", b"template"), **fields)  # type: ignore[arg-type]


def tick(instant: datetime, member: str = "", *, recorded: bool = False) -> Tick:
    message = make(recorded=recorded)
    return Tick(instant, member, message, row(message, "fire"))


def step(record: ScheduleRecord, *ticks: Tick, to: float, **fields: object) -> Advance:
    """The schedule has dealt with everything up to `to`, and is due again a second later."""
    base = Advance(record.row.app, record.row.id, record.version, at(to), at(to + 1), ticks)
    return replace(base, **fields)  # type: ignore[arg-type]


class ScheduleBook:
    async def test_put_get_list_delete(self, store: Store) -> None:
        """A schedule is its app's own; pages follow each other by id."""
        for id in ("b", "a", "c"):
            await store.put_schedule(schedule(id), next_at=at(1), origin="operator")
        await store.put_schedule(schedule("a", app="other"), next_at=None, origin="operator")
        first = await store.list_schedules("app", limit=2)
        assert [record.row.id for record in first.items] == ["a", "b"]
        second = await store.list_schedules("app", cursor=first.cursor, limit=2)
        assert [record.row.id for record in second.items] == ["c"] and second.cursor is None
        record = await store.get_schedule("app", "b")
        assert record is not None and record.row == schedule("b")
        assert (record.origin, record.paused, record.fired, record.next_at) == ("operator", False, 0, at(1))
        assert (record.seen_at, record.last_at, record.error, record.version) == (at(0), None, None, 1)
        assert await store.delete_schedule("app", "b") is True
        assert await store.delete_schedule("app", "b") is False
        assert await store.get_schedule("app", "b") is None

    async def test_schedule_changes(self, store: Store, clock: StillClock) -> None:
        """Other times begin anew; another message alone leaves the next instant; the same again changes nothing."""
        made = await store.put_schedule(schedule(), next_at=at(100), origin="code")
        assert await store.put_schedule(schedule(), next_at=at(200), origin="code") == made
        clock.move(10)
        other = await store.put_schedule(schedule(template=b"other"), next_at=at(200), origin="code")
        assert (other.row.template, other.next_at, other.seen_at, other.version) == (b"other", at(100), at(0), 2)
        await store.fire([step(other, tick(at(10)), to=10)])
        times = await store.put_schedule(schedule(timing='{"every": 2}'), next_at=at(12), origin="code")
        assert (times.next_at, times.seen_at, times.fired, times.version) == (at(12), at(10), 0, 4)

    async def test_one_that_cannot_go_on_is_put_right_by_a_put(self, store: Store) -> None:
        """Also by the same again: who puts it may be a newer version that understands it."""
        record = await store.put_schedule(schedule(), next_at=at(1), origin="code")
        await store.fire([step(record, to=1, next_at=None, error="cannot go on")])
        again = (await store.reconcile_schedules("app", [(schedule(), at(2))])).kept[0]
        assert (again.error, again.next_at) == (None, at(2))

    async def test_operators_stand_over_code(self, store: Store) -> None:
        """What was changed at run time is not changed back, nor deleted, when the code is read again."""
        await store.reconcile_schedules("app", [(schedule("kept"), at(1)), (schedule("gone"), at(1))])
        await store.put_schedule(schedule("kept", timing='{"every": 9}'), next_at=at(9), origin="operator")
        await store.put_schedule(schedule("made"), next_at=at(5), origin="operator")
        await store.reconcile_schedules("other", [])
        found = await store.reconcile_schedules("app", [(schedule("kept"), at(1)), (schedule("new"), at(2))])
        assert [(record.row.id, record.origin) for record in found.kept] == [("kept", "operator")]
        assert (found.new, found.gone) == (["new"], ["gone"])
        new = await store.get_schedule("app", "new")
        assert new is not None and (new.row, new.next_at, new.origin) == (schedule("new"), at(2), "code")
        listed = (await store.list_schedules("app")).items
        assert [(record.row.id, record.row.timing) for record in listed] == [
            ("kept", '{"every": 9}'),
            ("made", '{"every": 1}'),
            ("new", '{"every": 1}'),
        ]

    async def test_due(self, store: Store, clock: StillClock) -> None:
        """The longest due first; the others' instant is known."""
        for id, seconds in (("later", 9), ("b", 2), ("a", 1)):
            await store.put_schedule(schedule(id), next_at=at(seconds), origin="code")
        await store.put_schedule(schedule("never"), next_at=None, origin="code")
        assert await store.next_schedule("app") == at(1)
        assert await store.next_schedule("other") is None
        clock.move(2)
        now, due = await store.due_schedules("app", 10)
        assert now == at(2) and [record.row.id for record in due] == ["a", "b"]
        assert [record.row.id for record in (await store.due_schedules("app", 1))[1]] == ["a"]

    async def test_pause(self, store: Store, clock: StillClock) -> None:
        """A paused schedule is not due, and what it missed is gone; a step read before the pause moves nothing."""
        record = await store.put_schedule(schedule(), next_at=at(1), origin="code")
        clock.move(5)
        paused = await store.pause_schedule("app", "s")
        assert paused is not None and paused.paused and paused.next_at is None
        assert (await store.due_schedules("app", 10))[1] == []
        assert await store.fire([step(record, tick(at(1)), to=5)]) == [[]]
        changed = await store.put_schedule(schedule(timing='{"every": 3}'), next_at=at(6), origin="code")
        assert changed.paused and changed.next_at is None
        resumed = await store.resume_schedule("app", "s", next_at=at(7))
        assert resumed is not None and not resumed.paused and (resumed.next_at, resumed.seen_at) == (at(7), at(5))
        assert await store.pause_schedule("app", "none") is None
        assert await store.resume_schedule("app", "none", next_at=None) is None

    async def test_fire(self, store: Store) -> None:
        """The ticks with their outbox rows and, where asked for, their messages' rows; and where it stands then."""
        record = await store.put_schedule(schedule(), next_at=at(1), origin="code")
        one, two = tick(at(1)), tick(at(2), recorded=True)
        assert await store.fire([step(record, one, two, to=2)]) == [[one, two]]
        now = await store.get_schedule("app", "s")
        assert now is not None and (now.seen_at, now.next_at, now.fired) == (at(2), at(3), 2)
        assert (now.last_at, now.last_message_id, now.version) == (at(2), two.message.id, 2)
        assert [found.id for found in await store.claim_outbox(10, 5)] == [one.outbox.id, two.outbox.id]
        assert await store.get(one.message.id) is None
        queued = await store.get(two.message.id)
        assert queued is not None and queued.status is Status.QUEUED
        moved = step(now, to=9, next_at=None, error="cannot go on")
        assert await store.fire([moved]) == [[]]
        ended = await store.get_schedule("app", "s")
        assert ended is not None and (ended.error, ended.next_at, ended.fired) == ("cannot go on", None, 2)
        assert ended.last_message_id == two.message.id
        assert await store.fire([]) == []

    async def test_whoever_is_first_fires(self, store: Store) -> None:
        """Of two who read the same version one sends; the other's schedules that nobody moved go on."""
        first = await store.put_schedule(schedule("first"), next_at=at(1), origin="code")
        second = await store.put_schedule(schedule("second"), next_at=at(1), origin="code")
        mine, late, other = tick(at(1)), tick(at(1)), tick(at(1))
        assert await store.fire([step(first, mine, to=1)]) == [[mine]]
        assert await store.fire([step(first, late, to=1), step(second, other, to=1)]) == [[], [other]]
        ids = {found.message_id for found in await store.claim_outbox(10, 5)}
        assert ids == {mine.message.id, other.message.id}
        gone = step(second, tick(at(2)), to=2, version=2)
        await store.delete_schedule("app", "second")
        assert await store.fire([gone]) == [[]]

    async def test_two_leaders_at_once(self, store: Store) -> None:
        """However they meet, each tick is one leader's."""
        records = [await store.put_schedule(schedule(f"s{n}"), next_at=at(1), origin="code") for n in range(20)]

        async def lead(order: list[ScheduleRecord]) -> list[str]:
            steps = [step(record, tick(at(1)), to=1) for record in order]
            done = await store.fire(steps)
            return [one.id for one, ticks in zip(steps, done, strict=True) if ticks]

        results = await asyncio.gather(lead(records), lead(records[::-1]), lead(records[5:] + records[:5]))
        assert sorted(id for result in results for id in result) == sorted(record.row.id for record in records)

    async def test_a_tick_is_not_sent_again_by_a_namesake(self, store: Store) -> None:
        """A schedule that is made anew on a clock that went back finds what its namesake sent."""
        record = await store.put_schedule(schedule(), next_at=at(1), origin="code")
        await store.fire([step(record, tick(at(1)), to=1)])
        await store.delete_schedule("app", "s")
        again = await store.put_schedule(schedule(), next_at=at(1), origin="code")
        second = tick(at(2))
        assert await store.fire([step(again, tick(at(1)), second, to=2)]) == [[second]]

    async def test_run_now_and_history(self, store: Store) -> None:
        """A run by hand is a firing beside the others; the history tells what became of each, newest first."""
        record = await store.put_schedule(schedule(), next_at=at(1), origin="code")
        turn = tick(at(1))
        await store.fire([step(record, turn, to=1)])
        await settle(store, end(turn.message))
        by_hand = tick(at(1), member="x")
        assert await store.run_schedule("app", "s", by_hand) is True
        assert await store.run_schedule("app", "none", tick(at(1), member="y")) is False
        later, earlier = await store.firings("app", "s")
        assert (later.message_id, later.message, later.member) == (by_hand.message.id, None, "x")
        assert earlier.message is not None and earlier.message.status is Status.SUCCEEDED
        now = await store.get_schedule("app", "s")
        assert now is not None and (now.next_at, now.fired) == (at(2), 1)
        assert now.last_message_id == by_hand.message.id
        assert await store.firings("app", "s", limit=1) == [later]

    async def test_old_firings_are_pruned(self, store: Store, clock: StillClock) -> None:
        record = await store.put_schedule(schedule(), next_at=at(1), origin="code")
        await store.fire([step(record, tick(at(1)), to=1)])
        clock.move(100)
        await store.prune(Retention(None, None, 200))
        assert len(await store.firings("app", "s")) == 1
        assert await store.prune(Retention(None, None, 50)) >= 1
        assert await store.firings("app", "s") == []
