"""Runs: records, claims, settlements, cancels and what can be read of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from taskq.errors import InvalidSetting
from taskq.message import Message
from taskq.outcome import Failure, Status
from taskq.store.base import CancelEffect, Claim, MessageFilter, Settled, Store
from tests.contract.store_support import FAILURE, StillClock, at, book, claim, end, make, parked, row, settle, status


class Runs:
    async def test_record(self, store: Store) -> None:
        """A recorded message reads QUEUED, one whose time is ahead WAITING, and a known one stays as it is."""
        now, later, done = make(), make(not_before=at(60)), make()
        await settle(store, end(done))
        await store.record([now, later, done, now])
        assert [await status(store, one) for one in (now, later, done)] == ["QUEUED", "WAITING", "SUCCEEDED"]
        record = await store.get(later.id)
        assert record is not None
        assert (record.not_before, record.created_at, record.hop) == (at(60), later.created_at, 0)

    async def test_record_then_book(self, store: Store) -> None:
        """A message recorded at enqueue can be booked into the waiting room at its first hop."""
        message = make(not_before=at(60), recorded=True)
        await store.record([message])
        assert await book(store, message, 60)
        assert not await book(store, message, 60)

    async def test_settle_first_run(self, store: Store) -> None:
        """The outcome of a run without a row reads back as it was written."""
        message = make()
        assert await settle(store, end(message)) is Settled.APPLIED
        record = await store.get(message.id)
        assert record is not None
        assert (record.status, record.result, record.result_type) == ("SUCCEEDED", b"result", "application/msgpack")
        assert (record.started_at, record.ended_at, record.created_at) == (at(10), at(11), message.created_at)
        assert (record.attempt, record.epoch, record.worker, record.crashes) == (1, 0, "worker", 0)
        assert record.started_at.tzinfo is not None

    async def test_settle_group(self, store: Store) -> None:
        """A group reports each of its settlements in order, the fenced ones among the applied."""
        group = [end(make()) for _ in range(30)]
        await settle(store, replace(group[7], worker="other"))
        claimed = await claim(store, group[9].message)
        assert claimed.epoch == 1
        settled = await store.settle(group)
        assert [index for index, one in enumerate(settled) if one is Settled.FENCED] == [7, 9]
        record = await store.get(group[7].message.id)
        assert record is not None and record.worker == "other"

    async def test_settle_twice_in_a_group(self, store: Store) -> None:
        """Of two settlements of one message in a group the first applies and the second is fenced."""
        message = make()
        group = [end(make()), end(message), end(message, Status.FAILED, worker="other"), end(make())]
        assert await store.settle(group) == ["applied", "applied", "fenced", "applied"]
        assert await status(store, message) is Status.SUCCEEDED

    async def test_settle_again(self, store: Store, clock: StillClock) -> None:
        """A settlement repeated after a commit that was not heard of is told as applied and adds nothing."""
        message = make()
        one = parked(message, 30, outbox=(row(message, "callback"),))
        group = [one, end(make())]
        assert await store.settle(group) == ["applied"] * 2
        clock.move(60)
        [due] = await store.claim_due(10, 5)
        await store.released([(due.message.id, due.message.hop)])
        await store.published([outgoing.id for outgoing in await store.claim_outbox(10, 5)])
        assert await store.settle(group) == ["applied"] * 2
        assert await store.claim_due(10, 5) == [] and await store.claim_outbox(10, 5) == []

    async def test_settle_claimed(self, store: Store) -> None:
        """A settlement of an older claim is fenced; that of the latest applies."""
        message = make(hop=1)
        first, second = await claim(store, message, "a"), await claim(store, message, "b")
        assert (first.epoch, second.epoch) == (1, 2)
        assert await settle(store, end(message, epoch=1)) is Settled.FENCED
        assert await status(store, message) is Status.RUNNING
        assert await settle(store, end(message, epoch=2)) is Settled.APPLIED
        assert await settle(store, end(message, Status.FAILED, epoch=2)) is Settled.FENCED

    async def test_settle_unclaimed_after_claim(self, store: Store) -> None:
        """An unclaimed run that ends after another worker claimed the message changes nothing."""
        message = make()
        await claim(store, message)
        assert await settle(store, end(message)) is Settled.FENCED

    async def test_settle_parks(self, store: Store, clock: StillClock) -> None:
        """A retry goes to the waiting room in the transaction that settles the attempt, and reads WAITING."""
        message = make()
        one = parked(message, 30)
        assert await settle(store, one) is Settled.APPLIED
        record = await store.get(message.id)
        assert record is not None
        assert (record.status, record.attempt, record.not_before, record.hop) == ("WAITING", 2, at(30), 1)
        assert record.ended_at is None and record.failure == FAILURE
        assert await store.next_due() == at(30)
        clock.move(30)
        [due] = await store.claim_due(10, 5)
        assert due.message == one.parked

    async def test_settle_fenced_parks_nothing(self, store: Store) -> None:
        """What follows from a fenced settlement is not written."""
        message = make(dedup_id="d")
        await store.deduplicate(message, window=None, replace=False, row=row(message))
        await claim(store, message)
        await store.cancel(message.id)
        one = parked(message, 30, outbox=(row(message, "callback"),))
        assert await settle(store, one) is Settled.FENCED
        assert await store.next_due() == at(0)
        assert [outgoing.id for outgoing in await store.claim_outbox(10, 5)] == [row(message).id]
        assert (await store.changes(None)).cancels == [message.id]
        assert [line.state for line in await store.history(message.id)] == ["CREATED"]

    async def test_settle_in_place(self, store: Store) -> None:
        """A head that waits in its queue tells its next claim when it may run and which attempt is due."""
        message = make()
        claimed = await claim(store, message)
        one = end(message, Status.WAITING, epoch=claimed.epoch, in_place=at(99), next_attempt=2, failure=FAILURE)
        assert await settle(store, one) is Settled.APPLIED
        again = await claim(store, message, "other")
        assert (again.epoch, again.attempt, again.not_before, again.crashes) == (2, 2, at(99), 0)
        assert await status(store, message) is Status.WAITING

    async def test_settle_closes_the_claim(self, store: Store) -> None:
        """A claim whose run was settled counts no crash."""
        message = make(hop=1)
        claimed = await claim(store, message, "a")
        one = end(message, Status.WAITING, epoch=claimed.epoch, in_place=at(1), next_attempt=1)
        await settle(store, one)
        assert (await claim(store, message, "b")).crashes == 0

    async def test_settle_outbox(self, store: Store) -> None:
        """Outbox rows come with the settlement, once, whatever their number."""
        message = make()
        rows = tuple(row(message, f"kind{number}", attempts=0) for number in range(3))
        await settle(store, end(message, outbox=rows))
        assert await store.claim_outbox(10, 5) == list(rows)
        await store.add_outbox(rows)
        assert await store.claim_outbox(10, 5) == []

    async def test_settle_bad_rows(self, store: Store) -> None:
        """A settlement that cannot be stored is refused alone; the others of its group apply."""
        bad_count = end(make(), attempt=2**70)
        bad_text = end(make(), result_type=7)
        good = [end(make()), end(make())]
        assert await store.settle([good[0], bad_count, bad_text, good[1]]) == [
            "applied",
            "refused",
            "refused",
            "applied",
        ]
        assert await store.get(bad_count.message.id) is None and await store.get(bad_text.message.id) is None

    async def test_text_is_cleaned(self, store: Store) -> None:
        """NUL and lone surrogates in texts do not keep an outcome from being stored."""
        message = make(id="nul\0id")
        failure = Failure("E", "a\0b\ud800c", "é漢字")
        one = end(message, Status.FAILED, failure=failure, reason="r\0", worker="w\udfff")
        assert await settle(store, one) is Settled.APPLIED
        record = await store.get(message.id)
        assert record is not None
        assert record.failure == Failure("E", "a\ufffdb\ufffdc", "é漢字")
        assert (record.reason, record.worker) == ("r\ufffd", "w\ufffd")
        assert list(await store.get_many([message.id])) == [message.id]

    async def test_large_values(self, store: Store) -> None:
        """A result of megabytes comes back whole."""
        message = make()
        result = bytes(range(256)) * 16384
        await settle(store, end(message, result=result))
        record = await store.get(message.id)
        assert record is not None and record.result == result

    async def test_claim_makes_a_row(self, store: Store) -> None:
        """The first claim of an unknown message has epoch 1 and nothing to tell."""
        message = make(hop=1, attempt=3)
        claimed = await claim(store, message)
        assert (claimed.epoch, claimed.attempt, claimed.crashes, claimed.stale, claimed.cancelled) == (1, 3, 0, 0, 0)
        assert not claimed.status.final and claimed.not_before is None
        assert await status(store, message) is Status.RUNNING

    async def test_claim_of_a_finished_message(self, store: Store) -> None:
        """A message with an outcome is not claimed again: its row stays as it is."""
        message = make()
        await settle(store, end(message))
        before = await store.get(message.id)
        assert (await claim(store, message)).status is Status.SUCCEEDED
        assert await store.get(message.id) == before

    async def test_claim_of_a_stale_copy(self, store: Store) -> None:
        """A copy with a smaller hop than the highest known is stale, whether booked, claimed or parked."""
        booked, claimed, retried = make(), make(), make()
        await book(store, replace(booked, hop=2), 30)
        await claim(store, replace(claimed, hop=2))
        await settle(store, parked(retried, 30))
        found = await store.claim([Claim(message, "w") for message in (booked, claimed, retried)])
        assert [one.stale for one in found] == [True, True, True]
        assert [one.epoch for one in found] == [0, 1, 0]
        again = await store.claim([Claim(replace(message, hop=2), "w") for message in (booked, claimed, retried)])
        assert [one.stale for one in again] == [False, False, False]

    async def test_settle_of_a_stale_copy(self, store: Store) -> None:
        """The end of a run of a smaller hop is fenced, even under the row's own epoch."""
        message = make()
        await book(store, replace(message, hop=1), 30)
        assert await settle(store, end(message)) is Settled.FENCED
        assert await status(store, message) is Status.WAITING

    async def test_claim_order(self, store: Store) -> None:
        """A group of claims is answered in its order, a message twice in it with rising epochs."""
        one, other = make(hop=1), make(hop=1)
        found = await store.claim([Claim(other, "a"), Claim(one, "a"), Claim(other, "b")])
        assert [(claimed.epoch, claimed.crashes) for claimed in found] == [(1, 0), (1, 0), (2, 1)]

    async def test_crashes(self, store: Store) -> None:
        """Claims that another worker left open are counted; those given back, and a repeated call, are not."""
        message = make(hop=1)
        first = await claim(store, message, "a")
        assert (await claim(store, message, "a")).crashes == 0
        await store.give_back([(message.id, first.epoch)])  # of an older epoch: nothing
        second = await claim(store, message, "b")
        assert second.crashes == 1
        await store.give_back([(message.id, second.epoch)])
        assert await status(store, message) is Status.QUEUED
        assert (await claim(store, message, "c")).crashes == 1
        record = await store.get(message.id)
        assert record is not None and record.crashes == 1

    async def test_running(self, store: Store) -> None:
        """A run that goes on shows its worker and start; one of an older claim is told that it is fenced."""
        message = make(hop=1)
        claimed = await claim(store, message, "a")
        assert await store.running(message, worker="a", epoch=claimed.epoch, attempt=1, started_at=at(5))
        record = await store.get(message.id)
        assert record is not None and (record.worker, record.started_at) == ("a", at(5))
        await claim(store, message, "b")
        assert not await store.running(message, worker="a", epoch=1, attempt=1, started_at=at(5))
        await settle(store, end(message, epoch=2))
        assert not await store.running(message, worker="b", epoch=2, attempt=1, started_at=at(5))

    async def test_running_unclaimed(self, store: Store) -> None:
        """A long unclaimed run has an open row of epoch 0: killed, it counts a crash; ended, it settles."""
        killed, ended = make(), make()
        for message in (killed, ended):
            assert await store.running(message, worker="a", epoch=0, attempt=1, started_at=at(5))
            assert await store.running(message, worker="a", epoch=0, attempt=1, started_at=at(5))
        assert not await store.running(killed, worker="b", epoch=0, attempt=1, started_at=at(6))
        assert (await claim(store, killed, "b")).crashes == 1
        assert await settle(store, end(ended)) is Settled.APPLIED

    async def test_give_back_unclaimed(self, store: Store) -> None:
        """Giving back an unclaimed run deletes the row made for it, and leaves one recorded at enqueue QUEUED."""
        shown, recorded = make(), make()
        await store.record([recorded])
        for message in (shown, recorded):
            await store.running(message, worker="a", epoch=0, attempt=1, started_at=at(5))
        await store.give_back([(shown.id, 0), (recorded.id, 0), ("never-seen", 0)])
        assert await store.get(shown.id) is None
        assert await status(store, recorded) is Status.QUEUED
        assert (await claim(store, recorded, "b")).crashes == 0

    async def test_give_back_after_the_end(self, store: Store) -> None:
        """Giving back a run that was settled changes nothing."""
        message = make(hop=1)
        claimed = await claim(store, message)
        await settle(store, end(message, epoch=claimed.epoch))
        await store.give_back([(message.id, claimed.epoch)])
        assert await status(store, message) is Status.SUCCEEDED

    async def test_progress(self, store: Store) -> None:
        """Progress is shown for the claim's own epoch only."""
        message = make(hop=1)
        claimed = await claim(store, message)
        await store.progress(message.id, claimed.epoch, 3, 10)
        await store.progress(message.id, claimed.epoch + 1, 9, 10)
        record = await store.get(message.id)
        assert record is not None and record.progress == (3, 10)

    async def test_get_unknown(self, store: Store) -> None:
        """An id that was never seen has no record, and does not keep others from being read."""
        message = make()
        await settle(store, end(message))
        assert await store.get("never") is None
        assert list(await store.get_many(["never", message.id])) == [message.id]
        assert await store.get_many([]) == {}

    async def test_list(self, store: Store) -> None:
        """Messages are listed newest first, filtered by all conditions, over any number of pages."""
        made = [make(queue="a" if number % 2 else "b", task=f"t{number % 3}") for number in range(12)]
        await store.settle(
            [end(one, Status.FAILED if index % 4 == 0 else Status.SUCCEEDED) for index, one in enumerate(made)]
        )

        async def listed(which: MessageFilter) -> list[str]:
            ids, cursor = [], None
            while True:
                page = await store.list(which, cursor=cursor, limit=5)
                ids += [record.id for record in page.items]
                cursor = page.cursor
                if cursor is None:
                    return ids

        def expected(keep: list[Message]) -> list[str]:
            return [one.id for one in reversed(keep)]

        assert await listed(MessageFilter()) == expected(made)
        assert await listed(MessageFilter(status=[Status.FAILED])) == expected(made[::4])
        assert await listed(MessageFilter(status=[Status.FAILED], queue="a")) == []
        assert await listed(MessageFilter(queue="a", task="t1")) == expected([made[1], made[7]])
        window = MessageFilter(since=made[3].created_at, until=made[6].created_at)
        assert await listed(window) == expected(made[3:6])

    async def test_list_bad_cursor(self, store: Store) -> None:
        """A cursor that is none of this listing is refused, naming it."""
        with pytest.raises(InvalidSetting, match="nonsense"):
            await store.list(MessageFilter(), cursor="nonsense")

    async def test_counts(self, store: Store) -> None:
        """Rows are counted by queue and status; successes and ends of other kinds are not."""
        one = make(queue="a")
        await store.settle([end(make(queue="a")), end(one, Status.FAILED), parked(make(queue="b"), 30)])
        await claim(store, make(queue="b"))
        assert await store.counts() == {"a": {"FAILED": 1}, "b": {"WAITING": 1, "RUNNING": 1}}

    async def test_history_of_an_errorless_run(self, store: Store) -> None:
        """The history of a run that succeeded at once is derived, and takes no row of the log."""
        message = make()
        await settle(store, end(message))
        lines = await store.history(message.id)
        assert [line.state for line in lines] == ["CREATED", "ACTIVE", "DELIVERED"]
        assert [line.at for line in lines] == [message.created_at, at(10), at(11)]
        assert (await store.table_sizes())["taskq_log"] == 0

    async def test_history_of_failures(self, store: Store, clock: StillClock) -> None:
        """Every failed attempt leaves its error and what followed; the last line is how it ended."""
        message = make()
        await settle(store, parked(message, 30))
        clock.move(30)
        [due] = await store.claim_due(1, 5)
        again = due.message.released()
        claimed = await claim(store, again)
        last = end(again, Status.FAILED, epoch=claimed.epoch, started_at=at(31), ended_at=at(32), failure=FAILURE)
        await settle(store, replace(last, reason="failed"))
        lines = await store.history(message.id)
        assert [(line.state, line.attempt) for line in lines] == [
            ("CREATED", None),
            ("ACTIVE", 1),
            ("ERROR", 1),
            ("RETRY", 1),
            ("ACTIVE", 2),
            ("ERROR", 2),
            ("FAILED", 2),
        ]
        assert lines[2].detail == "ValueError: bad value" and lines[2].worker == "worker"

    async def test_history_of_other_ends(self, store: Store) -> None:
        """Snoozed, expired and cancelled messages tell so in their history."""
        snoozed, expired, cancelled = make(), make(), make()
        later = snoozed.snoozed(at(30))
        await store.settle(
            [
                end(snoozed, Status.WAITING, parked=later),
                end(expired, Status.EXPIRED, reason="expired"),
                end(cancelled, Status.CANCELLED),
            ]
        )
        ends = [(await store.history(one.id))[-1].state for one in (snoozed, expired, cancelled)]
        assert ends == ["SNOOZED", "EXPIRED", "CANCELED"]


class Cancelling:
    async def test_cancel_waiting(self, store: Store, clock: StillClock) -> None:
        """A waiting message that is cancelled is CANCELLED and gone, and no worker hears of it."""
        message = make()
        await settle(store, parked(message, 30))
        clock.move(20)
        assert await store.cancel(message.id) is CancelEffect.DONE
        assert await status(store, message) is Status.CANCELLED
        clock.move(60)
        assert await store.claim_due(10, 5) == [] and await store.next_due() is None
        assert (await store.changes(None)).cancels == []
        assert await store.cancel(message.id) is CancelEffect.FINISHED
        assert (await store.history(message.id))[-1].state == "CANCELED"

    async def test_cancel_queued(self, store: Store) -> None:
        """The cancel of an unknown, queued or running message is told to workers until it has its outcome."""
        unknown, queued, running = make(), make(), make(hop=1)
        await store.record([queued])
        claimed = await claim(store, running)
        messages = (unknown, queued, running)
        assert [await store.cancel(one.id) for one in messages] == ["asked"] * 3
        assert [await store.cancel(one.id) for one in messages] == ["asked"] * 3
        changes = await store.changes(None)
        assert changes.cancels == [one.id for one in messages]
        assert [(await claim(store, one)).cancelled for one in (unknown, queued)] == [True, True]
        assert await settle(store, end(running, Status.CANCELLED, epoch=claimed.epoch)) is Settled.APPLIED
        assert (await store.changes(None)).cancels == [unknown.id, queued.id]

    async def test_cancel_too_late(self, store: Store) -> None:
        """A run that succeeds all the same ends the request to cancel it, and no other one."""
        done, other, fenced = make(), make(), make(hop=1)
        await claim(store, fenced)
        assert await store.cancel_many([done.id, other.id, fenced.id]) == ["asked"] * 3
        assert await store.settle([end(done), end(fenced)]) == [Settled.APPLIED, Settled.FENCED]
        assert sorted((await store.changes(None)).cancels) == sorted([other.id, fenced.id])
        assert await settle(store, end(other)) is Settled.APPLIED
        assert (await store.changes(None)).cancels == [fenced.id]
        assert (await store.table_sizes())["taskq_cancels"] == 1

    async def test_cancel_many(self, store: Store, clock: StillClock) -> None:
        """Many cancels at once do to each what one does, in the order in which they were asked for."""
        waiting, queued, unknown, done = (make() for _ in range(4))
        await settle(store, parked(waiting, 30))
        await store.record([queued])
        await settle(store, end(done))
        clock.move(20)
        ids = [one.id for one in (queued, done, waiting, unknown, queued)]
        assert await store.cancel_many(ids) == ["asked", "finished", "done", "asked", "asked"]
        assert await status(store, waiting) is Status.CANCELLED
        assert sorted((await store.changes(None)).cancels) == sorted([queued.id, unknown.id])
        mark = (await store.changes(None)).mark
        assert await store.cancel_many(ids) == ["asked", "finished", "finished", "asked", "asked"]
        assert (await store.changes(mark)).mark == mark
        assert await store.cancel_many([]) == []
        assert (await store.history(waiting.id))[-1].state == "CANCELED"

    async def test_cancel_finished(self, store: Store) -> None:
        """A message with an outcome is not cancelled."""
        message = make()
        await settle(store, end(message))
        assert await store.cancel(message.id) is CancelEffect.FINISHED
        assert await status(store, message) is Status.SUCCEEDED

    async def test_cancel_in_place(self, store: Store) -> None:
        """The cancel of a head that waits in its queue is its worker's to perform."""
        message = make()
        await settle(store, end(message, Status.WAITING, in_place=at(60), next_attempt=2, failure=FAILURE))
        assert await store.cancel(message.id) is CancelEffect.ASKED
        assert (await claim(store, message)).cancelled

    async def test_cancel_while_released(self, store: Store, clock: StillClock) -> None:
        """A message that the keeper is publishing is cancelled by the workers, or when its claim lapses."""
        message = make()
        await book(store, message, 30)
        clock.move(30)
        await store.claim_due(10, 5)
        assert await store.cancel(message.id) is CancelEffect.ASKED
        clock.move(6)
        assert await store.claim_due(10, 5) == []
        assert await status(store, message) is Status.CANCELLED
        assert await store.next_due() is None and (await store.changes(None)).cancels == []

    async def test_cancel_before_parking(self, store: Store) -> None:
        """A cancel that came during a run ends the message when it is parked for its retry."""
        message = make(dedup_id="d")
        await store.deduplicate(message, window=None, replace=False, row=row(message))
        await store.cancel(message.id)
        assert await settle(store, parked(message, 30)) is Settled.APPLIED
        assert await status(store, message) is Status.CANCELLED
        other = make(dedup_id="d")
        assert (await store.deduplicate(other, window=None, replace=False, row=row(other))).holder == other.id

    async def test_cancel_fences(self, store: Store) -> None:
        """The outcome of a copy that still ran when its message was cancelled in the waiting room is ignored."""
        message = make()
        await book(store, message, 30)
        assert await store.cancel(message.id) is CancelEffect.DONE
        assert await settle(store, end(message)) is Settled.FENCED

    async def test_changes(self, store: Store) -> None:
        """Changes since a mark are told once, and nothing changed is nothing told."""
        first, second = make(), make()
        await store.cancel(first.id)
        seen = await store.changes(None)
        assert seen.cancels == [first.id]
        assert (await store.changes(seen.mark)).cancels == []
        await store.cancel(second.id)
        again = await store.changes(seen.mark)
        assert again.cancels == [second.id]
        assert await store.changes(again.mark) == replace(again, cancels=[])
        # A mark from another store's life is no mark: all is told.
        assert (await store.changes("99999")).cancels == [first.id, second.id]
