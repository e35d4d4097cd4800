"""What every store must do: one suite, run against each database.

A subclass gives the fixtures `url` (an empty database) and `spoil` (runs SQL behind the store's back).
The suite's parts lie beside this file; here are the store's life and what several processes do at once.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from taskq.errors import SchemaTooNew, StoreUnavailable
from taskq.outcome import Status
from taskq.queue import Queue, RateLimit
from taskq.store import open_store
from taskq.store.base import Claim, Retention, Settled, Store, WaitingRow
from tests.contract.store_flow import FlowControl
from tests.contract.store_keeping import DeadLetterBox, Deduplication, Pruning, QueueBook, Starts
from tests.contract.store_requests import Gateways
from tests.contract.store_runs import Cancelling, Runs
from tests.contract.store_schedules import ScheduleBook
from tests.contract.store_support import StillClock, at, book, claim, end, make, parked, row, settle, status
from tests.contract.store_waiting import WaitingRoom
from tests.support import eventually, pulse


class Together:
    """Several stores on one database, as several processes have them."""

    @pytest.fixture
    async def stores(self, url: str, store: Store, clock: StillClock) -> AsyncIterator[list[Store]]:
        others = [open_store(url, clock=clock) for _ in range(3)]
        for other in others:
            await other.open()
        yield [store, *others]
        for other in others:
            await other.close()

    async def test_one_id(self, stores: list[Store]) -> None:
        """All who open a store read the same id."""
        assert len({one.id for one in stores}) == 1

    async def test_claims(self, stores: list[Store]) -> None:
        """Of claims at the same moment each has an epoch of its own, and only the last may settle."""
        message = make(hop=1)
        found = await asyncio.gather(*(one.claim([Claim(message, f"w{n}")]) for n, one in enumerate(stores)))
        epochs = [claimed.epoch for [claimed] in found]
        assert sorted(epochs) == [1, 2, 3, 4]
        settled = await asyncio.gather(
            *(one.settle([end(message, epoch=epoch)]) for one, epoch in zip(stores, epochs, strict=True))
        )
        assert [epoch for epoch, [one] in zip(epochs, settled, strict=True) if one is Settled.APPLIED] == [4]

    async def test_settlements(self, stores: list[Store]) -> None:
        """Of the ends of unclaimed runs of one message, in groups that overlap, one applies."""
        messages = [make() for _ in range(40)]
        groups = [[end(one, worker=f"w{n}") for one in messages[n * 5 : n * 5 + 25]] for n in range(4)]
        settled = await asyncio.gather(*(one.settle(group) for one, group in zip(stores, groups, strict=True)))
        applied = Counter(
            one.message.id
            for group, results in zip(groups, settled, strict=True)
            for one, result in zip(group, results, strict=True)
            if result is Settled.APPLIED
        )
        assert set(applied) == {one.id for one in messages} and set(applied.values()) == {1}

    async def test_claim_due(self, stores: list[Store], clock: StillClock) -> None:
        """No due row is given to two, and none is left out."""
        messages = [make() for _ in range(300)]
        await stores[0].book([WaitingRow(one, at(1)) for one in messages])
        await stores[0].add_outbox([row(one) for one in messages])
        clock.move(2)

        async def take(store: Store) -> list[str]:
            taken = []
            while due := await store.claim_due(20, 60):
                taken += [one.message.id for one in due]
            while rows := await store.claim_outbox(20, 60):
                taken += [one.id for one in rows]
            return taken

        taken = Counter(one for part in await asyncio.gather(*map(take, stores)) for one in part)
        # A claim leaves out what others hold at that moment: those that end early are not all.
        left = await take(stores[0])
        assert sum(taken.values()) + len(left) == 600 and set((taken + Counter(left)).values()) == {1}

    async def test_bookings(self, stores: list[Store]) -> None:
        """One booking of a hop is taken, however many arrive at once."""
        messages = [make() for _ in range(30)]
        rows = [WaitingRow(one, at(1)) for one in messages]
        booked = await asyncio.gather(*(one.book(rows) for one in stores))
        assert [sum(column) for column in zip(*booked, strict=True)] == [1] * 30

    async def test_starts(self, stores: list[Store], clock: StillClock) -> None:
        """Four takers at once are never granted more than the window holds, and all of it."""
        rate = RateLimit(50, per=10)
        for _ in range(2):
            permits = await asyncio.gather(*(stores[n % 4].take_starts("q", 7, rate, 0) for n in range(16)))
            assert sum(one.granted for one in permits) == 50
            clock.move(10)

    async def test_deduplicate(self, stores: list[Store]) -> None:
        """Of messages that claim one id at the same moment one wins, and all learn which."""
        for attempt in range(5):
            messages = [make(dedup_id=f"d{attempt}") for _ in stores]
            held = await asyncio.gather(
                *(
                    one.deduplicate(message, window=None, replace=False, row=row(message))
                    for one, message in zip(stores, messages, strict=True)
                )
            )
            assert len({one.holder for one in held}) == 1
        assert len(await stores[0].claim_outbox(100, 5)) == 5

    async def test_replace(self, stores: list[Store]) -> None:
        """Claims that replace each other at the same moment leave one holder, and the others cancelled."""
        messages = [make(dedup_id="d") for _ in stores]
        held = await asyncio.gather(
            *(
                one.deduplicate(message, window=None, replace=True, row=row(message))
                for one, message in zip(stores, messages, strict=True)
            )
        )
        assert [one.holder for one in held] == [one.id for one in messages]
        last = make(dedup_id="d")
        found = await stores[0].deduplicate(last, window=None, replace=False, row=row(last))
        assert set((await stores[0].changes(None)).cancels) == {one.id for one in messages} - {found.holder}

    async def test_queue_is_made_once(self, stores: list[Store]) -> None:
        """Processes that start together find one record of their queue."""
        records = await asyncio.gather(*(one.ensure_queue(Queue("a", parallelism=2)) for one in stores))
        assert {record.version for record in records} == {1} and len(set(records)) == 1

    async def test_changes_miss_nothing(self, stores: list[Store]) -> None:
        """Whoever looks again and again hears of every cancel, whichever process commits when."""
        ids = [make().id for _ in range(80)]
        heard: list[str] = []
        done = asyncio.Event()

        async def listen() -> None:
            mark = None
            while True:
                ending = done.is_set()
                changes = await stores[3].changes(mark)
                mark = changes.mark
                heard.extend(changes.cancels)
                if ending:
                    return

        async def ask(n: int) -> None:
            for message_id in ids[n::3]:
                await stores[n].cancel(message_id)

        listening = asyncio.create_task(listen())
        await asyncio.gather(*map(ask, range(3)))
        done.set()
        await listening
        assert sorted(heard) == sorted(ids)

    async def test_cancel_and_release(self, stores: list[Store], clock: StillClock) -> None:
        """A message that is cancelled while it falls due is either CANCELLED or given out with its cancel told."""
        messages = [make() for _ in range(40)]
        await stores[0].book([WaitingRow(one, at(1)) for one in messages])
        clock.move(2)

        async def cancel() -> list[str]:
            return [await stores[1].cancel(one.id) for one in messages]

        async def release() -> set[str]:
            given: set[str] = set()
            while due := await stores[2].claim_due(5, 60):
                given |= {one.message.id for one in due}
                await stores[2].released([(one.message.id, one.message.hop) for one in due])
            return given

        effects, given = await asyncio.gather(cancel(), release())
        asked = set((await stores[0].changes(None)).cancels)
        for message, effect in zip(messages, effects, strict=True):
            if effect == "done":
                assert message.id not in given and await status(stores[0], message) is Status.CANCELLED
            else:
                assert message.id in asked or await status(stores[0], message) is Status.CANCELLED


async def _granted(store: Store, rate: RateLimit) -> bool:
    return (await store.take_starts("q", 1, rate, 0)).granted == 1


class StoreContract(
    Runs,
    Cancelling,
    WaitingRoom,
    DeadLetterBox,
    QueueBook,
    FlowControl,
    ScheduleBook,
    Starts,
    Deduplication,
    Pruning,
    Gateways,
    Together,
):
    pytestmark = pytest.mark.anyio

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    @pytest.fixture
    def clock(self) -> StillClock:
        return StillClock()

    @pytest.fixture
    async def store(self, url: str, clock: StillClock) -> AsyncIterator[Store]:
        store = open_store(url, clock=clock)
        await store.open()
        yield store
        await store.close()

    async def test_now(self, store: Store, clock: StillClock) -> None:
        """The store's clock is the one that it was given."""
        assert await store.now() == at(0)
        clock.move(7)
        assert await store.now() == at(7)

    async def test_own_clock(self, url: str) -> None:
        """Without a clock a store tells the time, aware, as the machine does."""
        store = open_store(url)
        await store.open()
        now = await store.now()
        assert abs((now - datetime.now(UTC)).total_seconds()) < 5 + pulse.lost()
        message = make(dedup_id="d")
        await store.book([WaitingRow(message, now - timedelta(seconds=1)), WaitingRow(make(), now + timedelta(days=1))])
        await store.deduplicate(message, window=60, replace=False, row=replace(row(message), due_at=now))
        assert [one.message.id for one in await store.claim_due(10, 5)] == [message.id]
        assert len(await store.claim_outbox(10, 5)) == 1
        rate = RateLimit(3, per=0.2)
        assert (await store.take_starts("q", 2, rate, 0)).granted == 2
        permits = await store.take_starts("q", 2, rate, 0)
        assert permits.granted == 1 and 0 < permits.retry_in <= 0.2
        await store.restamp("q", 2)
        await eventually(lambda: _granted(store, rate))
        assert await store.cancel("x") == "asked"
        assert await store.prune(Retention(60, 60, 60)) == 0
        await store.close()

    async def test_not_open(self, url: str) -> None:
        """A store that was not opened, or was closed, says so."""
        store = open_store(url)
        with pytest.raises(StoreUnavailable, match="not open"):
            await store.get("a")
        with pytest.raises(StoreUnavailable, match="not open"):
            _ = store.id
        await store.close()

    async def test_opened_again(self, url: str, store: Store) -> None:
        """What one store wrote another reads, under the same id, and a store can be opened twice."""
        message = make()
        await settle(store, end(message))
        other = open_store(url)
        await asyncio.gather(other.open(), other.open())
        await other.open()
        assert other.id == store.id and await status(other, message) is Status.SUCCEEDED
        await other.close()
        await other.open()
        assert await status(other, message) is Status.SUCCEEDED
        await other.close()
        await other.close()

    async def test_first_open_together(self, url: str) -> None:
        """Many processes may open an empty database at the same moment; they find one store."""
        stores = [open_store(url) for _ in range(6)]
        await asyncio.gather(*(one.open() for one in stores))
        assert len({one.id for one in stores}) == 1
        await asyncio.gather(*(one.close() for one in stores))

    async def test_other_loops(self, store: Store) -> None:
        """A store opened in one event loop serves others, at the same time."""
        messages = [make() for _ in range(20)]

        def elsewhere(part: list) -> None:
            async def run() -> None:
                for message in part:
                    assert await settle(store, end(message)) is Settled.APPLIED

            asyncio.run(run())

        await asyncio.gather(asyncio.to_thread(elsewhere, messages[:10]), asyncio.to_thread(elsewhere, messages[10:]))
        assert len(await store.get_many([one.id for one in messages])) == 20

    async def test_schema_too_new(self, url: str, store: Store, spoil: Callable[[str], None]) -> None:
        """A database that a newer taskq wrote is left alone."""
        spoil("UPDATE taskq_version SET version_num = '9999'")
        other = open_store(url)
        with pytest.raises(SchemaTooNew, match="9999.*upgrade"):
            await other.open()
        await other.close()

    async def test_schema_is_that_of_the_tables(self, store: Store, inspect_schema) -> None:
        """The migrations end with exactly the tables, columns and indexes that the statements use."""
        assert inspect_schema() == []

    async def test_table_sizes(self, store: Store) -> None:
        """Every table is counted."""
        await settle(store, parked(make(), 30))
        sizes = await store.table_sizes()
        assert (sizes["taskq_messages"], sizes["taskq_waiting"], sizes["taskq_outbox"]) == (1, 1, 0)

    async def test_life(self, store: Store, clock: StillClock) -> None:
        """A message goes from the waiting room over two failures to its outcome, never in no place."""
        message = make(dedup_id="d")
        await book(store, message, 5)
        for attempt in (1, 2, 3):
            clock.move(60)
            [due] = await store.claim_due(10, 5)
            copy = due.message.released()
            claimed = await claim(store, copy)
            assert (claimed.attempt, claimed.epoch, claimed.crashes) == (attempt, attempt, 0)
            await store.released([(due.message.id, due.message.hop)])
            later = clock.now().timestamp() - at(0).timestamp() + 30
            if attempt < 3:
                one = parked(copy, later, epoch=claimed.epoch, ended_at=clock.now())
            else:
                one = replace(end(copy, epoch=claimed.epoch), ended_at=clock.now(), attempt=3)
            assert await settle(store, one) is Settled.APPLIED
        record = await store.get(message.id)
        assert record is not None and (record.status, record.attempt, record.hop) == ("SUCCEEDED", 3, 5)
        assert await store.next_due() is None

    def test_no_part_hides_a_test_of_another(self) -> None:
        """Parts share one class: of two tests of one name only the first would run."""
        names = Counter(name for part in StoreContract.__mro__ for name in vars(part) if name.startswith("test_"))
        assert [name for name, number in names.items() if number > 1] == []
