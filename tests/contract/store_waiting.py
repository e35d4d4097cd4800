"""The waiting room and the outbox."""

from __future__ import annotations

from dataclasses import replace

from taskq.outcome import Status
from taskq.store.base import Store, WaitingRow
from tests.contract.store_support import StillClock, at, book, claim, end, make, parked, row, settle, status


class WaitingRoom:
    async def test_book(self, store: Store, clock: StillClock) -> None:
        """A booked message reads WAITING and comes out when it is due, with all that it is."""
        message = make(headers={"a": "é"}, dedup_id="d", priority=3, expires_at=at(900))
        assert await book(store, message, 30)
        assert await status(store, message) is Status.WAITING
        assert await store.next_due() == at(30)
        assert await store.claim_due(10, 5) == []
        clock.move(30)
        assert await store.claim_due(10, 5) == [WaitingRow(replace(message, not_before=at(30)), at(30))]

    async def test_book_again(self, store: Store) -> None:
        """A booking whose hop is known already is dropped, one with a higher hop is taken."""
        message = make()
        rows = [WaitingRow(message, at(30)), WaitingRow(message, at(40)), WaitingRow(replace(message, hop=1), at(50))]
        assert await store.book(rows) == [True, False, True]
        assert await store.book(rows) == [False, False, False]
        await store.released([(message.id, 0), (message.id, 1)])
        assert await store.book(rows) == [False, False, False]

    async def test_book_behind_a_claim(self, store: Store) -> None:
        """A booking below the hop of a claim is dropped; the retry of that run is taken."""
        message = make()
        await claim(store, replace(message, hop=3))
        assert not await book(store, replace(message, hop=2), 30)
        assert await book(store, replace(message, hop=4), 30)

    async def test_book_finished(self, store: Store) -> None:
        """A message with an outcome does not enter the waiting room."""
        message = make()
        await settle(store, end(message))
        assert not await book(store, replace(message, hop=5), 30)
        assert await store.next_due() is None

    async def test_book_cancelled(self, store: Store) -> None:
        """A message whose cancel was asked for is recorded CANCELLED at the door."""
        message, other = make(), make()
        await store.cancel(message.id)
        assert await store.book([WaitingRow(message, at(30)), WaitingRow(other, at(30))]) == [False, True]
        assert await status(store, message) is Status.CANCELLED
        assert [one.message.id for one in (await store.waiting()).items] == [other.id]
        assert (await store.changes(None)).cancels == []

    async def test_claim_due_order(self, store: Store, clock: StillClock) -> None:
        """Due rows come oldest due first, whatever the order of their bookings, at most as many as asked."""
        due = {seconds: make() for seconds in (30, 10, 20, 40)}
        for seconds, message in due.items():
            await book(store, message, seconds)
        clock.move(35)
        first = await store.claim_due(2, 5)
        assert [one.message.id for one in first] == [due[10].id, due[20].id]
        assert [one.message.id for one in await store.claim_due(2, 5)] == [due[30].id]
        assert await store.claim_due(2, 5) == []

    async def test_claim_due_lease(self, store: Store, clock: StillClock) -> None:
        """A claimed row that was not released comes again when its lease ends, and next_due says when."""
        message = make()
        await book(store, message, 30)
        clock.move(30)
        assert len(await store.claim_due(10, 5)) == 1
        assert await store.next_due() == at(35)
        clock.move(5)
        assert [one.message.id for one in await store.claim_due(10, 5)] == [message.id]

    async def test_released(self, store: Store, clock: StillClock) -> None:
        """A released row is gone, its message reads QUEUED, and the retry booked meanwhile stays."""
        message, other = make(), make()
        await book(store, message, 10)
        await book(store, other, 10)
        clock.move(10)
        await store.claim_due(10, 5)
        onward = replace(message, hop=1)
        claimed = await claim(store, onward)
        await settle(store, parked(onward, 60, epoch=claimed.epoch))
        await store.released([(message.id, 0), (other.id, 0)])
        assert [(one.message.id, one.message.hop) for one in (await store.waiting()).items] == [(message.id, 2)]
        assert await status(store, message) is Status.WAITING
        assert await status(store, other) is Status.QUEUED
        assert await store.next_due() == at(60)

    async def test_reschedule(self, store: Store, clock: StillClock) -> None:
        """A waiting message can be moved in time; a released, finished or unknown one cannot."""
        message, done = make(), make()
        await book(store, message, 30)
        await settle(store, end(done))
        assert await store.reschedule(message.id, at(5))
        record = await store.get(message.id)
        assert await store.next_due() == at(5) and record is not None and record.not_before == at(5)
        clock.move(5)
        [due] = await store.claim_due(10, 5)
        assert due.due_at == at(5)
        assert not await store.reschedule(message.id, at(50))
        await store.released([(message.id, 0)])
        assert not await store.reschedule(message.id, at(50))
        assert not await store.reschedule(done.id, at(50))
        assert not await store.reschedule("never", at(50))

    async def test_waiting_list(self, store: Store) -> None:
        """The waiting room is listed by due time, whole or by queue, over any number of pages."""
        made = [make(queue="a" if number % 2 else "b") for number in range(9)]
        await store.book([WaitingRow(one, at(100 - index)) for index, one in enumerate(made)])

        async def listed(queue: str | None) -> list[str]:
            ids, cursor = [], None
            while True:
                page = await store.waiting(queue=queue, cursor=cursor, limit=4)
                ids += [one.message.id for one in page.items]
                cursor = page.cursor
                if cursor is None:
                    return ids

        assert await listed(None) == [one.id for one in reversed(made)]
        assert await listed("a") == [one.id for one in reversed(made[1::2])]
        assert await listed("c") == []

    async def test_next_due_of_both(self, store: Store) -> None:
        """The next instant to look is that of waiting and outbox rows together; None when there is none."""
        assert await store.next_due() is None
        message = make()
        await book(store, message, 30)
        await store.add_outbox([row(message, due_at=at(20))])
        assert await store.next_due() == at(20)
        await store.published([row(message).id])
        assert await store.next_due() == at(30)

    async def test_outbox(self, store: Store, clock: StillClock) -> None:
        """Outbox rows come from their due time on, oldest first, claimed for a lease, until published."""
        rows = [row(make(), due_at=at(seconds)) for seconds in (20, 10, 30)]
        await store.add_outbox(rows)
        assert await store.claim_outbox(10, 5) == []
        clock.move(20)
        assert await store.claim_outbox(10, 5) == [rows[1], rows[0]]
        assert await store.claim_outbox(10, 5) == []
        assert await store.next_due() == at(25)
        await store.published([rows[1].id, "never"])
        clock.move(5)
        assert await store.claim_outbox(10, 5) == [rows[0]]

    async def test_outbox_again(self, store: Store) -> None:
        """A known row adds nothing; one that failed once more is put off and counted."""
        one = row(make())
        await store.add_outbox([one])
        await store.add_outbox([one, one])
        assert await store.claim_outbox(10, 50) == [one]
        failed = replace(one, attempts=1, due_at=at(40))
        await store.add_outbox([failed])
        assert await store.next_due() == at(40)
        await store.add_outbox([one])
        assert await store.next_due() == at(40)

    async def test_many_rows(self, store: Store, clock: StillClock) -> None:
        """Batches of a thousand are booked, claimed and released whole."""
        made = [make() for _ in range(1000)]
        assert all(await store.book([WaitingRow(one, at(1)) for one in made]))
        clock.move(2)
        due = await store.claim_due(2000, 5)
        assert {one.message.id for one in due} == {one.id for one in made}
        await store.released([(one.message.id, one.message.hop) for one in due])
        assert (await store.waiting()).items == []
