"""Flow control by key: what is let go, who may start, and what a permit outlives."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from taskq.flow import Flow
from taskq.message import Message
from taskq.outcome import Status
from taskq.queue import Queue, RateLimit
from taskq.store.base import Ask, LetGo, Permit, Store
from tests.contract.store_support import StillClock, at, book, claim, end, make, settle, status

LEASE = 20.0


def keyed(key: str = "k", parallelism: int | None = None, rate: RateLimit | None = None, **fields: object) -> Message:
    return make(flow=Flow(key, parallelism, rate), **fields)


async def let_go(store: Store, after: str | None = None, limit: int = 100, most: int = 100) -> LetGo:
    return await store.let_go(after, limit, 10, ahead={}, most=most)


async def let_go_ids(store: Store, most: int = 100) -> list[str]:
    return [row.message.id for row in (await let_go(store, most=most)).rows]


async def take(store: Store, message: Message, worker: str = "worker", in_place: bool = False) -> Permit:
    [permit] = await store.take_permits([Ask(message, worker, in_place)], LEASE)
    return permit


async def booked(store: Store, messages: Sequence[Message]) -> list[str]:
    for message in messages:
        assert await book(store, message, 0)
    return [message.id for message in messages]


async def finish(store: Store, message: Message, worker: str = "worker") -> None:
    """Have it published, and run the released copy to its end."""
    await store.released([(message.id, message.hop)])
    copy = replace(message.released(), not_before=None)
    claimed = await claim(store, copy, worker)
    assert (await take(store, copy, worker)).granted
    await settle(store, end(copy, epoch=claimed.epoch, worker=worker))


class FlowControl:
    async def test_a_limit_of_all_keys_together(self, store: Store, clock: StillClock) -> None:
        """Keys take turns for what is left; who was not let go has no permit; lapsed permits count no more."""
        ids = await booked(store, [keyed(key, parallelism=5) for key in "aabbcc"])
        first = await store.let_go(None, 100, 10, ahead={}, most=100, total=3)
        assert {row.message.id for row in first.rows} == {ids[0], ids[2], ids[4]}
        await store.released([(row.message.id, row.message.hop) for row in first.rows])
        second = await store.let_go(first.last, 100, 10, ahead={}, most=100, total=3)
        assert second.rows == [] and second.next_at is not None
        clock.move((second.next_at - at(0)).total_seconds())
        third = await store.let_go(first.last, 100, 10, ahead={}, most=100, total=3)
        assert {row.message.id for row in third.rows} == {ids[1], ids[3], ids[5]}
        stranger = keyed("d", parallelism=5)
        [denied] = await store.take_permits([Ask(stranger, "worker", False)], LEASE, bounded=True)
        [granted] = await store.take_permits([Ask(stranger, "worker", False)], LEASE)
        assert (denied.granted, granted.granted) == (False, True)

    async def test_parallelism_of_a_key(self, store: Store) -> None:
        """As many as the key allows are let go, oldest first; the next when one of them has ended."""
        messages = [keyed(parallelism=2) for _ in range(4)]
        ids = await booked(store, messages)
        assert await let_go_ids(store) == ids[:2]
        assert await let_go_ids(store) == []
        await store.released([(id, 0) for id in ids[:2]])
        await finish(store, messages[0])
        assert await let_go_ids(store) == ids[2:3]

    async def test_keyed_messages_are_not_claimed_by_their_time(self, store: Store, clock: StillClock) -> None:
        """`claim_due` leaves them to their keys, and `next_due` does not name them."""
        await booked(store, [keyed()])
        assert await store.claim_due(10, 5) == []
        assert await store.next_due() is None
        await book(store, keyed(), 30)
        assert (await let_go(store)).next_at == at(30)
        assert len((await let_go(store)).rows) == 0

    async def test_a_rate_of_a_key(self, store: Store, clock: StillClock) -> None:
        """Starts within the period never exceed the rate, over workers; what was let go counts until it begins."""
        rate = RateLimit(2, per=10)
        messages = [keyed(rate=rate) for _ in range(5)]
        ids = await booked(store, messages)
        assert await let_go_ids(store) == ids[:2]
        await finish(store, messages[0], "one")
        assert await let_go_ids(store) == []
        clock.move(4)
        await finish(store, messages[1], "two")
        found = await let_go(store)
        assert (found.rows, found.next_at) == ([], at(10.02))
        clock.move(6.03)
        assert await let_go_ids(store) == ids[2:3]
        clock.move(4)
        assert await let_go_ids(store) == ids[3:4]

    async def test_keys_take_turns(self, store: Store) -> None:
        """A key that comes late has its turn although another has thousands waiting."""
        await booked(store, [keyed("a") for _ in range(50)])
        [late] = await booked(store, [keyed("b")])
        found = await let_go(store, limit=20)
        assert (len(found.rows), found.more) == (20, True)
        assert late in [row.message.id for row in found.rows]

    async def test_keys_share_what_there_is_room_for(self, store: Store) -> None:
        """Fewer places than keys: the keys that had none come first the next time; one key alone has all of them."""
        await booked(store, [keyed(key) for key in "abcde" for _ in range(2)])
        turns, after = [], None
        for _ in range(3):
            found = await let_go(store, after, limit=3)
            turns.append("".join(sorted(row.message.flow.key for row in found.rows if row.message.flow)))
            after = found.last
        assert turns == ["abc", "ade", "bcd"]
        alone = [keyed("f") for _ in range(5)]
        await booked(store, alone)
        found = await let_go(store, "e", limit=100)
        assert {row.message.id for row in found.rows} >= {one.id for one in alone}

    async def test_a_full_queue_holds_up_no_other(self, store: Store) -> None:
        """A message behind many of its key whose queue takes no more goes, if it goes to another queue."""
        await booked(store, [keyed(queue="full") for _ in range(30)])
        [behind] = await booked(store, [keyed(queue="free")])
        found = await store.let_go(None, 100, 10, ahead={"full": 0}, most=4)
        assert ([row.message.id for row in found.rows], found.full) == ([behind], True)
        for_known = await booked(store, [keyed(queue="known")])
        found = await store.let_go(None, 100, 10, ahead={"full": 0, "known": 1}, most=4)
        assert [row.message.id for row in found.rows] == for_known

    async def test_a_queue_holds_few_that_have_not_begun(self, store: Store) -> None:
        """So that what comes late is not behind all that came before."""
        messages = [keyed() for _ in range(10)]
        ids = await booked(store, messages)
        assert await let_go_ids(store, most=3) == ids[:3]
        found = await let_go(store, most=3)
        assert (found.rows, found.next_at) == ([], at(0.05))
        assert (await take(store, messages[0].released())).granted
        assert await let_go_ids(store, most=3) == ids[3:4]

    async def test_limits_of_the_newest_message(self, store: Store) -> None:
        """They count for its key, unless they are pinned; a message that says none changes none."""
        await booked(store, [keyed(parallelism=3, rate=RateLimit(5, per=2)), keyed()])
        record = await store.get_flow("k")
        assert record is not None
        assert (record.parallelism, record.rate_limit, record.waiting) == (3, RateLimit(5, per=2), 2)
        await booked(store, [keyed(parallelism=7)])
        record = await store.get_flow("k")
        assert record is not None and (record.parallelism, record.rate_limit) == (7, None)
        await store.set_flow("k", parallelism=1, pinned_parallelism=True)
        await booked(store, [keyed(parallelism=9, rate=RateLimit(4))])
        record = await store.get_flow("k")
        assert record is not None and (record.parallelism, record.rate_limit) == (1, RateLimit(4))

    async def test_a_retry_does_not_bring_back_old_limits(self, store: Store) -> None:
        """Only a message's first booking is news of its key."""
        old = keyed(parallelism=1)
        await booked(store, [old, keyed(parallelism=2)])
        await book(store, replace(old, hop=3), 0)
        record = await store.get_flow("k")
        assert record is not None and record.parallelism == 2

    async def test_paused(self, store: Store) -> None:
        """Nothing of a paused key starts, not even what was let go; afterwards it goes on in its order."""
        messages = [keyed(parallelism=2) for _ in range(3)]
        ids = await booked(store, messages)
        assert await let_go_ids(store) == ids[:2]
        assert (await store.set_flow("k", paused=True)).paused
        denied = await take(store, messages[0].released())
        assert (denied.granted, denied.since) == (False, at(0))
        assert await let_go_ids(store) == []
        await store.set_flow("k", paused=False)
        held = messages[0].released().held(denied.since)
        await book(store, held, 0)
        assert await let_go_ids(store) == [held.id]

    async def test_nobody_passes_an_older_waiter(self, store: Store, clock: StillClock) -> None:
        """A message that was not let go starts only if there is room and nobody has waited for longer."""
        older, newer = keyed(parallelism=1), keyed(parallelism=1)
        await booked(store, [older])
        clock.move(1)
        assert not (await take(store, newer.released())).granted
        assert await let_go_ids(store) == [older.id]
        await finish(store, older)
        assert (await take(store, newer.released())).granted

    async def test_a_lapsed_reservation_keeps_its_place(self, store: Store, clock: StillClock) -> None:
        """What was let go and did not begin frees its permit; it comes before those that waited for less long."""
        first, second = keyed(parallelism=1), keyed(parallelism=1)
        await book(store, first, 0)
        clock.move(1)
        await book(store, second, 1)
        assert await let_go_ids(store) == [first.id]
        await store.released([(first.id, 0)])
        clock.move(11)
        assert (await take(store, first.released())).granted
        assert await let_go_ids(store) == []

    async def test_a_dead_workers_permit(self, store: Store, clock: StillClock) -> None:
        """The message takes its permit along to the next worker; without one, the lease frees it."""
        first, second = keyed(parallelism=1), keyed(parallelism=1)
        ids = await booked(store, [first, second])
        assert await let_go_ids(store) == ids[:1]
        await store.released([(first.id, 0)])
        assert (await take(store, first.released(), "dead")).granted
        assert (await take(store, first.released(), "next")).granted
        assert await let_go_ids(store) == []
        assert await store.renew_permits("dead", LEASE) == []
        clock.move(15)
        assert await store.renew_permits("next", LEASE) == [first.id]
        clock.move(19)
        assert await let_go_ids(store) == []
        clock.move(2)
        assert await let_go_ids(store) == ids[1:]
        assert await store.renew_permits("next", LEASE) == []

    async def test_a_late_settle_frees_nobody_elses_permit(self, store: Store) -> None:
        """The permit is the newer run's: the older one's end does not free it."""
        message, waiter = keyed(parallelism=1), keyed(parallelism=1)
        ids = await booked(store, [message, waiter])
        assert await let_go_ids(store) == ids[:1]
        copy = message.released()
        old = await claim(store, copy, "old")
        await take(store, copy, "old")
        new = await claim(store, copy, "new")
        await take(store, copy, "new")
        await settle(store, end(copy, epoch=old.epoch, worker="old"))
        assert await let_go_ids(store) == []
        await settle(store, end(copy, epoch=new.epoch, worker="new"))
        assert await let_go_ids(store) == ids[1:]

    async def test_given_back(self, store: Store, clock: StillClock) -> None:
        """A run that ended without an outcome keeps its place for a while."""
        message, waiter = keyed(parallelism=1), keyed(parallelism=1)
        ids = await booked(store, [message, waiter])
        assert await let_go_ids(store) == ids[:1]
        await store.released([(message.id, 0)])
        assert (await take(store, message.released(), "stops")).granted
        await store.give_back_permits("stops", [message.id])
        assert await let_go_ids(store) == []
        assert (await take(store, message.released(), "next")).granted
        clock.move(LEASE + 1)
        await store.give_back_permits("next", [message.id])  # it had lapsed: it is not brought back
        assert await let_go_ids(store) == ids[1:]

    async def test_a_waiting_retry_holds_no_permit(self, store: Store) -> None:
        message, waiter = keyed(parallelism=1), keyed(parallelism=1)
        ids = await booked(store, [message, waiter])
        assert await let_go_ids(store) == ids[:1]
        copy = message.released()
        claimed = await claim(store, copy)
        await take(store, copy)
        retry = copy.next_attempt(at(100))
        await settle(store, end(copy, Status.WAITING, epoch=claimed.epoch, parked=retry, next_attempt=2))
        assert await let_go_ids(store) == ids[1:]

    async def test_heads_of_ordered_queues(self, store: Store) -> None:
        """Their messages keep the queue's order; the head asks where it is, and has its place in the key's line."""
        await store.ensure_queue(Queue("fifo", parallelism=1))
        running, head, behind = keyed(parallelism=1), keyed(queue="fifo"), keyed()
        await booked(store, [running])
        assert await let_go_ids(store) == [running.id]
        await store.released([(running.id, 0)])
        assert await book(store, head, 0)
        assert [row.message.id for row in await store.claim_due(10, 5)] == [head.id]
        assert not (await take(store, head.released(), in_place=True)).granted
        assert await book(store, behind, 0)
        assert (await let_go(store)).heads == []
        await finish(store, running)
        found = await let_go(store)
        # Both began to wait at one instant: ids decide.
        assert (found.heads, found.rows) == ([head.id], [])
        assert (await take(store, head.released(), in_place=True)).granted

    async def test_heads_need_no_place_in_a_queue(self, store: Store) -> None:
        """They wait where they are: no queue that is full of messages which have not begun holds them up."""
        await store.ensure_queue(Queue("fifo", parallelism=1))
        await booked(store, [keyed("a"), keyed("b")])
        heads = [keyed(key, queue="fifo") for key in "abc"]
        for head in heads:
            await store.set_flow(head.flow.key if head.flow else "", paused=True)
            assert not (await take(store, head.released(), in_place=True)).granted
            await store.set_flow(head.flow.key if head.flow else "", paused=False)
        found = await store.let_go(None, 100, 10, ahead={"q": 0}, most=100)
        assert (sorted(found.heads), found.rows) == ([head.id for head in heads], [])

    async def test_a_cancelled_waiter(self, store: Store) -> None:
        """It leaves the line at once."""
        first, second = keyed(parallelism=1), keyed(parallelism=1)
        ids = await booked(store, [first, second])
        await store.cancel(first.id)
        assert await status(store, first) is Status.CANCELLED
        assert await let_go_ids(store) == ids[1:]

    async def test_keys_listed_and_reset(self, store: Store) -> None:
        rate = RateLimit(1, per=60)
        messages = [keyed("tenant-1", rate=rate), keyed("tenant-1", rate=rate), keyed("other")]
        await booked(store, messages)
        await let_go(store)
        await finish(store, messages[0])
        page = await store.list_flow(search="tenant")
        assert [(one.key, one.waiting, one.started, one.window_at) for one in page.items] == [("tenant-1", 1, 1, at(0))]
        first = await store.list_flow(limit=1)
        rest = await store.list_flow(limit=1, cursor=first.cursor)
        assert [one.key for one in [*first.items, *rest.items]] == ["other", "tenant-1"] and rest.cursor is None
        assert await store.reset_flow("tenant-1") and not await store.reset_flow("unknown")
        assert [row.message.id for row in (await let_go(store)).rows] == [messages[1].id]
        assert await store.get_flow("unknown") is None

    async def test_permits_asked_for_at_once(self, store: Store) -> None:
        """However many ask at the same moment, no more start than the key allows."""
        await store.set_flow("k", parallelism=3)
        messages = [keyed().released() for _ in range(20)]
        permits = await asyncio.gather(*(take(store, one, f"w{index}") for index, one in enumerate(messages)))
        assert sum(permit.granted for permit in permits) == 3
