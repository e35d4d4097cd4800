"""Dead letters, queues, windows of starts, deduplication and pruning."""

from __future__ import annotations

from dataclasses import replace

import pytest

from taskq.errors import InvalidQueue, StoreUnavailable
from taskq.outcome import Failure, Status
from taskq.queue import Queue, RateLimit
from taskq.store.base import CancelEffect, DeadFilter, Deduplicated, Permits, Retention, Store
from tests.contract.store_support import (
    FAILURE,
    StillClock,
    at,
    book,
    claim,
    end,
    letter,
    make,
    parked,
    row,
    settle,
    status,
)


class DeadLetterBox:
    async def test_archive(self, store: Store) -> None:
        """A dead letter comes back as it was archived, and archiving it again changes nothing."""
        one = letter(1)
        await store.archive([one])
        await store.archive([one, one])
        assert (await store.dead(DeadFilter())).items == [one]

    async def test_archive_strange_bytes(self, store: Store) -> None:
        """Bytes that are no message of ours are kept as they came."""
        body = bytes(range(256))
        one = letter(1, message=None, body=body, content_type=None, failure=None, worker=None, message_id="", task="")
        await store.archive([one])
        assert (await store.dead(DeadFilter())).items == [replace(one, message=None)]

    async def test_filters(self, store: Store) -> None:
        """Dead letters are found by every condition and by all together."""
        odd = Failure("KeyError", "100%_sure", "")
        letters = [
            letter(
                number,
                make(queue="a" if number % 2 else "b", task=f"t{number % 3}"),
                failure=odd if number == 4 else FAILURE,
            )
            for number in range(6)
        ]
        letters[5] = replace(letters[5], reason="crashed")
        await store.archive(letters)

        async def found(**conditions: object) -> list[int]:
            which = DeadFilter(**conditions)
            numbers = [int(one.id[:8]) for one in (await store.dead(which)).items]
            assert await store.count_dead(which) == len(numbers)
            return numbers

        assert await found() == [5, 4, 3, 2, 1, 0]
        assert await found(queue="a") == [5, 3, 1]
        assert await found(task="t1", queue="a") == [1]
        assert await found(reason="crashed") == [5]
        assert await found(ids=[letters[0].id, "never"]) == [0]
        assert await found(ids=[]) == []
        assert await found(message_id=letters[2].message_id) == [2]
        assert await found(text="%_SURE") == [4]
        assert await found(text="value") == [5, 3, 2, 1, 0]
        assert await found(since=at(2), until=at(4)) == [3, 2]

    async def test_pages(self, store: Store) -> None:
        """Pages of dead letters end where the next begins."""
        await store.archive([letter(number) for number in range(5)])
        first = await store.dead(DeadFilter(), limit=3)
        second = await store.dead(DeadFilter(), cursor=first.cursor, limit=3)
        assert [one.id[:8] for one in first.items + second.items] == [f"{number:08d}" for number in (4, 3, 2, 1, 0)]
        assert second.cursor is None

    async def test_revive(self, store: Store) -> None:
        """Reviving deletes the entries and adds the rows of those that were there, once."""
        letters = [letter(number) for number in range(3)]
        await store.archive(letters)
        new = [make() for _ in range(3)]
        ids = [letters[0].id, "never", letters[2].id]
        rows = [row(message) for message in new]
        assert await store.revive(ids, rows) == 2
        assert await store.revive(ids, rows) == 0
        assert {one.message_id for one in await store.claim_outbox(10, 5)} == {new[0].id, new[2].id}
        assert await store.count_dead(DeadFilter()) == 1

    async def test_delete(self, store: Store) -> None:
        """Deleting takes the oldest first, at most as many as asked, of those that fit."""
        await store.archive([letter(number, make(queue="ab"[number % 2])) for number in range(6)])
        assert await store.delete_dead(DeadFilter(queue="a"), limit=2) == 2
        assert [one.id[:8] for one in (await store.dead(DeadFilter())).items] == [f"{n:08d}" for n in (5, 4, 3, 1)]
        assert await store.delete_dead(DeadFilter()) == 4

    async def test_unreadable_waiting_row(self, store: Store, clock: StillClock, spoil) -> None:
        """A waiting row that this version cannot read goes to the dead letters alone and holds up nobody."""
        bad, good = make(), make()
        await book(store, bad, 10)
        await book(store, good, 10)
        spoil(f"UPDATE taskq_waiting SET body = '' WHERE id = '{bad.id}'")
        clock.move(10)
        assert [one.message.id for one in await store.claim_due(10, 5)] == [good.id]
        [dead] = (await store.dead(DeadFilter())).items
        assert (dead.message_id, dead.reason) == (bad.id, "invalid-message")
        assert [one.message_id for one in (await store.dead(DeadFilter())).items] == [bad.id]


class QueueBook:
    async def test_ensure(self, store: Store) -> None:
        """The first to name a queue makes its record; it tells how the queue was born and its limits."""
        rate = RateLimit(50, per=30)
        queue = Queue("a", parallelism=1, rate_limit=rate, partitions=4, retry_in_place=True)
        record = await store.ensure_queue(queue)
        assert (record.name, record.born_fifo, record.born_priorities, record.partitions) == ("a", True, False, 4)
        assert (record.parallelism, record.rate_limit, record.worker_parallelism) == (1, rate, None)
        assert (record.retry_in_place, record.paused, record.version, record.origin) == (True, False, 1, "code")
        assert record.created_at == record.updated_at == at(0)
        assert await store.ensure_queue(queue) == record == await store.get_queue("a")

    async def test_ensure_by_code(self, store: Store) -> None:
        """Code that asks for other limits changes them; how the queue was born stays."""
        await store.ensure_queue(Queue("a", parallelism=3))
        record = await store.ensure_queue(Queue("a", parallelism=1, rate_limit=RateLimit(5)))
        assert (record.parallelism, record.rate_limit, record.born_fifo) == (1, RateLimit(5), False)
        assert record.version == 2

    async def test_ensure_by_name(self, store: Store) -> None:
        """A bare name makes an open queue if there is none, and changes none that exists."""
        assert (await store.ensure_queue(Queue("bare"), origin="name")).parallelism is None
        record = await store.ensure_queue(Queue("a", parallelism=3))
        assert await store.ensure_queue(Queue("a"), origin="name") == record
        assert (await store.ensure_queue(Queue("bare", parallelism=2))).parallelism == 2

    async def test_operator_stands(self, store: Store) -> None:
        """Limits that an operator set stand over code's."""
        await store.ensure_queue(Queue("a", parallelism=3))
        changed = await store.set_queue("a", parallelism=7, rate_limit=RateLimit(5, per=2))
        assert changed is not None and (changed.parallelism, changed.origin, changed.version) == (7, "operator", 2)
        assert await store.ensure_queue(Queue("a", parallelism=3)) == changed
        opened = await store.set_queue("a", parallelism=None, rate_limit=None)
        assert opened is not None and (opened.parallelism, opened.rate_limit) == (None, None)

    async def test_pause_queue(self, store: Store) -> None:
        """Pausing leaves the limits to code, and doing it twice changes nothing more."""
        await store.ensure_queue(Queue("a", parallelism=3))
        paused = await store.set_queue("a", paused=True)
        assert paused is not None and (paused.paused, paused.origin, paused.version) == (True, "code", 2)
        assert await store.set_queue("a", paused=True) == paused
        again = await store.ensure_queue(Queue("a", parallelism=4))
        assert (again.parallelism, again.paused) == (4, True)

    async def test_set_unknown(self, store: Store) -> None:
        """A queue that does not exist is not made by setting it."""
        assert await store.set_queue("never", parallelism=2) is None
        assert await store.get_queue("never") is None
        assert await store.rebirth(Queue("never")) is None
        assert not await store.delete_queue("never")

    async def test_set_impossible(self, store: Store) -> None:
        """Limits that cannot be are refused and leave the record alone."""
        record = await store.ensure_queue(Queue("a", parallelism=1, partitions=4))
        with pytest.raises(InvalidQueue, match="partitions"):
            await store.set_queue("a", parallelism=2)
        with pytest.raises(InvalidQueue, match="parallelism"):
            await store.set_queue("a", parallelism=0)
        assert await store.get_queue("a") == record

    async def test_rebirth(self, store: Store) -> None:
        """A migration changes how a queue is born."""
        await store.ensure_queue(Queue("a", parallelism=3))
        record = await store.rebirth(Queue("a", parallelism=1, partitions=8))
        assert record is not None and (record.born_fifo, record.partitions, record.version) == (True, 8, 2)
        assert await store.rebirth(Queue("a", parallelism=1, partitions=8)) == record

    async def test_list_queues(self, store: Store) -> None:
        """Queues are listed by name."""
        for name in ("b", "a", "c"):
            await store.ensure_queue(Queue(name), origin="name")
        assert [record.name for record in await store.list_queues()] == ["a", "b", "c"]

    async def test_queue_changes(self, store: Store) -> None:
        """New, changed and deleted queues are told since the mark; one that comes back is not told as gone."""
        record = await store.ensure_queue(Queue("a", parallelism=3))
        await store.ensure_queue(Queue("b"))
        seen = await store.changes(None)
        assert [one.name for one in seen.queues] == ["a", "b"] and seen.deleted == []
        assert seen.queues[0] == record
        paused = await store.set_queue("a", paused=True)
        assert await store.delete_queue("b")
        again = await store.changes(seen.mark)
        assert (again.queues, again.deleted) == ([paused], ["b"])
        assert (await store.changes(again.mark)).queues == []
        await store.ensure_queue(Queue("b"))
        back = await store.changes(seen.mark)
        assert ([one.name for one in back.queues], back.deleted) == (["a", "b"], [])


class Starts:
    async def test_window(self, store: Store, clock: StillClock) -> None:
        """At most `limit` starts fall into any window, its far edge included, and the next instant is told."""
        rate = RateLimit(5, per=10)
        assert (await store.take_starts("q", 3, rate, 0.5)).granted == 3
        clock.move(4)
        second = await store.take_starts("q", 3, rate, 0.5)
        assert (second.granted, second.retry_in) == (2, pytest.approx(6.5))
        clock.move(6)
        assert await store.take_starts("q", 1, rate, 0.5) == replace(second, granted=0, retry_in=pytest.approx(0.5))
        clock.move(0.5)
        third = await store.take_starts("q", 9, rate, 0.5)
        assert (third.granted, third.retry_in) == (3, pytest.approx(4.0))
        clock.move(4)
        assert (await store.take_starts("q", 2, rate, 0.5)).granted == 2

    async def test_windows_are_apart(self, store: Store) -> None:
        """A queue's starts do not count against another's."""
        assert (await store.take_starts("a", 5, RateLimit(5), 0)).granted == 5
        assert (await store.take_starts("b", 5, RateLimit(5), 0)).granted == 5

    async def test_stamps_do_not_gather(self, store: Store, clock: StillClock) -> None:
        """Stamps that left the window are deleted."""
        for _ in range(50):
            await store.take_starts("q", 2, RateLimit(100, per=5), 0)
            clock.move(1)
        assert (await store.table_sizes())["taskq_starts"] <= 6

    async def test_restamp(self, store: Store, clock: StillClock) -> None:
        """Starts that happened late count from when they happened; those before them keep their stamps."""
        rate = RateLimit(4, per=10)
        await store.take_starts("q", 2, rate, 0)
        clock.move(2)
        assert (await store.take_starts("q", 2, rate, 0)).reached == 4
        clock.move(3)
        assert await store.restamp("q", 1)
        clock.move(5)
        assert (await store.take_starts("q", 4, rate, 0)).granted == 1
        clock.move(2)
        assert (await store.take_starts("q", 4, rate, 0)).granted == 0
        clock.move(3)
        assert (await store.take_starts("q", 4, rate, 0)).granted == 3

    async def test_restamp_of_a_start_that_has_left(self, store: Store, clock: StillClock) -> None:
        """Others may have started in its place: nothing is done, and it is told."""
        rate = RateLimit(1, per=10)
        await store.take_starts("q", 1, rate, 0)
        clock.move(10)
        assert (await store.take_starts("q", 1, rate, 0)).granted == 1
        assert not await store.restamp("q", 0)
        clock.move(10)
        assert (await store.take_starts("q", 1, rate, 0)).granted == 1

    async def test_restamp_ahead(self, store: Store, clock: StillClock) -> None:
        """A stamp may lie ahead, for a start that may yet happen then; none that follows lies before it."""
        rate = RateLimit(2, per=10)
        await store.take_starts("q", 1, rate, 0)
        assert await store.restamp("q", 0, 3.0)
        clock.move(1)
        assert (await store.take_starts("q", 1, rate, 0)).granted == 1
        clock.move(11)
        assert (await store.take_starts("q", 2, rate, 0)).granted == 0
        clock.move(1)
        assert (await store.take_starts("q", 2, rate, 0)).granted == 2

    async def test_restamp_ahead_keeps_the_window(self, store: Store, clock: StillClock) -> None:
        """A stamp that lies ahead lets the starts before it leave the window no earlier."""
        rate = RateLimit(3, per=1)
        await store.take_starts("q", 3, rate, 0)
        assert await store.restamp("q", 2, 2.0)
        clock.move(0.5)
        assert await store.take_starts("q", 1, rate, 0) == Permits(0, pytest.approx(0.5), 3)
        clock.move(0.5)
        assert (await store.take_starts("q", 3, rate, 0)).granted == 2
        clock.move(1.9)
        assert (await store.take_starts("q", 1, rate, 0)).granted == 0
        clock.move(0.1)
        assert (await store.take_starts("q", 3, rate, 0)).granted == 3

    async def test_restamps_ahead_do_not_add_up(self, store: Store, clock: StillClock) -> None:
        """Each lies as far ahead of now as was asked for, also if others lie ahead already; none before those."""
        rate = RateLimit(2, per=1)
        await store.take_starts("q", 2, rate, 0)
        for after in (1, 0, 1):
            assert await store.restamp("q", after, 2.0)
        assert await store.restamp("q", 1, 0.5)
        clock.move(2.9)
        assert (await store.take_starts("q", 1, rate, 0)).granted == 0
        clock.move(0.1)
        assert (await store.take_starts("q", 2, rate, 0)).granted == 2

    async def test_restamp_more_than_there_are(self, store: Store, clock: StillClock) -> None:
        """Stamping anew from before the window's first start moves all that it holds."""
        rate = RateLimit(2, per=10)
        await store.restamp("q", 0)
        await store.take_starts("q", 2, rate, 0)
        clock.move(9)
        await store.restamp("q", 0)
        clock.move(9)
        assert (await store.take_starts("q", 2, rate, 0)).granted == 0
        clock.move(1)
        assert (await store.take_starts("q", 2, rate, 0)).granted == 2

    async def test_changed_limit(self, store: Store) -> None:
        """A limit lowered below what was granted grants nothing until enough starts have left."""
        await store.take_starts("q", 5, RateLimit(5, per=10), 0)
        permits = await store.take_starts("q", 1, RateLimit(2, per=10), 0)
        assert (permits.granted, permits.retry_in) == (0, pytest.approx(10))


class Deduplication:
    async def test_until_final(self, store: Store) -> None:
        """A deduplication id is held until its message is final; whoever comes meanwhile gets the holder's id."""
        first, second = make(dedup_id="d"), make(dedup_id="d")
        assert (await store.deduplicate(first, window=None, replace=False, row=row(first))).holder == first.id
        assert (await store.deduplicate(second, window=None, replace=False, row=row(second))).holder == first.id
        assert [one.message_id for one in await store.claim_outbox(10, 5)] == [first.id]
        await settle(store, parked(first, 30))
        assert (await store.deduplicate(second, window=None, replace=False, row=row(second))).holder == first.id
        retry = first.next_attempt(at(30)).released()
        claimed = await claim(store, retry)
        await settle(store, end(retry, Status.FAILED, epoch=claimed.epoch))
        assert (await store.deduplicate(second, window=None, replace=False, row=row(second))).holder == second.id

    async def test_window_of_an_id(self, store: Store, clock: StillClock) -> None:
        """A claim by window lasts its time, whatever becomes of the message, and no longer."""
        first, second = make(dedup_id="d"), make(dedup_id="d")
        await store.deduplicate(first, window=60, replace=False, row=row(first))
        await settle(store, end(first))
        clock.move(59)
        assert (await store.deduplicate(second, window=60, replace=False, row=row(second))).holder == first.id
        clock.move(1)
        assert (await store.deduplicate(second, window=60, replace=False, row=row(second))).holder == second.id

    async def test_again(self, store: Store) -> None:
        """The same call again is answered with the message's own id, and adds no second row."""
        message = make(dedup_id="d")
        await store.deduplicate(message, window=None, replace=False, row=row(message))
        await store.published([row(message).id])
        assert (await store.deduplicate(message, window=None, replace=False, row=row(message))).holder == message.id
        assert await store.claim_outbox(10, 5) == []

    async def test_claim_and_row_are_one(self, store: Store, spoil) -> None:
        """A message whose outbox row cannot be stored does not hold its id: nobody would ever publish it."""
        first, second = make(dedup_id="d"), make(dedup_id="d")
        spoil("ALTER TABLE taskq_outbox RENAME TO taskq_elsewhere")
        with pytest.raises(StoreUnavailable):
            await store.deduplicate(first, window=None, replace=False, row=row(first))
        spoil("ALTER TABLE taskq_elsewhere RENAME TO taskq_outbox")
        assert (await store.deduplicate(second, window=None, replace=False, row=row(second))).holder == second.id
        assert [one.message_id for one in await store.claim_outbox(10, 5)] == [second.id]

    async def test_apart(self, store: Store) -> None:
        """The same id on another queue is another id."""
        first, second = make(dedup_id="d"), make(dedup_id="d", queue="other")
        await store.deduplicate(first, window=None, replace=False, row=row(first))
        assert (await store.deduplicate(second, window=None, replace=False, row=row(second))).holder == second.id

    async def test_replace_waiting(self, store: Store) -> None:
        """A holder in the waiting room is cancelled at once, and the claim passes."""
        first, second, third = make(dedup_id="d"), make(dedup_id="d"), make(dedup_id="d")
        await store.deduplicate(first, window=None, replace=False, row=row(first))
        await book(store, first, 60)
        found = await store.deduplicate(second, window=None, replace=True, row=row(second))
        assert found == Deduplicated(second.id, first.id, CancelEffect.DONE)
        assert await status(store, first) is Status.CANCELLED
        assert (await store.deduplicate(third, window=None, replace=False, row=row(third))).holder == second.id

    async def test_replace_queued(self, store: Store) -> None:
        """A holder that is queued is to be dropped when it surfaces, and its end does not free the new claim."""
        first, second, third = make(dedup_id="d"), make(dedup_id="d"), make(dedup_id="d")
        await store.deduplicate(first, window=None, replace=False, row=row(first))
        found = await store.deduplicate(second, window=None, replace=True, row=row(second))
        assert found == Deduplicated(second.id, first.id, CancelEffect.ASKED)
        assert (await store.changes(None)).cancels == [first.id]
        await settle(store, end(first, Status.CANCELLED))
        assert (await store.deduplicate(third, window=None, replace=False, row=row(third))).holder == second.id

    async def test_replace_started(self, store: Store) -> None:
        """A holder that runs, or has run, keeps its claim."""
        first, second = make(dedup_id="d"), make(dedup_id="d")
        await store.deduplicate(first, window=None, replace=False, row=row(first))
        await claim(store, first)
        assert await store.deduplicate(second, window=None, replace=True, row=row(second)) == Deduplicated(first.id)
        assert (await store.changes(None)).cancels == []


class Pruning:
    async def test_retention(self, store: Store, clock: StillClock) -> None:
        """Rows past their retention go, younger and unfinished ones stay; None keeps all."""
        old, young, unfinished = make(), make(), make()
        await store.settle([end(old, Status.FAILED, failure=FAILURE), parked(unfinished, 9999)])
        await store.archive([letter(0), letter(900)])
        await settle(store, end(young, Status.FAILED, started_at=at(899), ended_at=at(900), failure=FAILURE))
        clock.move(1000)
        assert await store.prune(Retention(None, None, None)) == 0
        assert await store.prune(Retention(200, 200, 200)) > 0
        assert [await status(store, one) for one in (old, young, unfinished)] == ["UNKNOWN", "FAILED", "WAITING"]
        assert [one.id[:8] for one in (await store.dead(DeadFilter())).items] == ["00000900"]
        assert await store.history(old.id) == []
        assert [line.state for line in await store.history(young.id)] == ["CREATED", "ACTIVE", "ERROR", "FAILED"]

    async def test_limit(self, store: Store, clock: StillClock) -> None:
        """No more rows of a kind are pruned than asked."""
        await store.settle([end(make()) for _ in range(600)])
        clock.move(1000)
        keep = Retention(1, 1, 1)
        assert await store.prune(keep, limit=400) == 400
        assert await store.prune(keep, limit=400) == 200
        assert await store.prune(keep) == 0

    async def test_leftovers(self, store: Store, clock: StillClock) -> None:
        """Expired deduplication ids, old cancels, windows and names of deleted queues go with time."""
        message = make(dedup_id="d")
        await store.deduplicate(message, window=60, replace=False, row=row(message))
        await store.published([row(message).id])
        await store.cancel("never-seen")
        await store.take_starts("q", 3, RateLimit(5), 0)
        await store.ensure_queue(Queue("gone"))
        await store.delete_queue("gone")
        keep = Retention(None, None, None)
        assert await store.prune(keep) == 0
        clock.move(31 * 86400)
        assert await store.prune(keep) == 4
        sizes = await store.table_sizes()
        assert {table: rows for table, rows in sizes.items() if rows} == {"taskq_store": 1}
