"""What every broker adapter must do: one suite, run against each of them.

A subclass gives the fixture `url`; brokers are made by `lab.broker()` and cleaned away afterwards.
"""

from __future__ import annotations

import asyncio

import pytest

from taskq.broker.base import BrokerQueue, Depth, Kind, Loss
from taskq.broker.topology import Names, arguments
from taskq.errors import QueueMismatch, QueueMissing, StoreMismatch
from tests.contract.broker_lab import (
    FIFO,
    LANES,
    OPEN,
    OTHER_SLOT,
    RANKED,
    SLOT,
    Inbox,
    Lab,
    message,
    numbered,
    ready,
)
from tests.contract.broker_messages import MessagesContract
from tests.support import eventually, pulse


class BrokerContract(MessagesContract):
    """The promises of `taskq.broker.base`."""

    # -- loss and restoration -----------------------------------------------------------------

    async def test_loss(self, lab: Lab) -> None:
        """A lost connection is told once, makes deliveries invalid, and the subscription comes back by itself."""
        broker = await lab.broker()
        await broker.declare(OPEN)
        await broker.publish_many(numbered(3))
        inbox = Inbox()
        subscription = await broker.subscribe(OPEN, inbox, prefetch=3, on_loss=inbox.on_loss)
        old = list(await inbox.holds(3))
        broker.drop_connections()
        await eventually(lambda: inbox.losses == [Loss.CONNECTION])
        assert not any(delivery.valid for delivery in old)
        old[0].acknowledge()
        old[1].give_back()
        await eventually(lambda: len(inbox.deliveries) >= 6)
        assert sorted(inbox.bodies[3:]) == [b"0", b"1", b"2"]
        assert all(delivery.redelivered and delivery.valid for delivery in inbox.deliveries[3:])
        await eventually(lambda: subscription.active and broker.health().unproven == ())
        for delivery in inbox.deliveries[3:]:
            delivery.acknowledge()
        await subscription.close()
        await ready(broker, OPEN, 0)
        assert inbox.losses == [Loss.CONNECTION]

    async def test_close_after_loss(self, lab: Lab) -> None:
        """Closing a subscription and a broker whose connections have just broken raises nothing and ends them."""
        broker, other = await lab.broker(), await lab.broker()
        await broker.declare(OPEN)
        subscription = await broker.subscribe(OPEN, Inbox(), prefetch=1)
        broker.drop_connections()
        await subscription.close()
        await broker.close()
        await broker.close()

        async def no_consumers() -> bool:
            depth = await other.depth(OPEN)
            return depth is not None and depth.consumers == 0

        await eventually(no_consumers)
        assert not broker.health().connected

    async def test_deleted_queue_again(self, lab: Lab) -> None:
        """A deleted queue is declared again by its subscription, which then goes on."""
        broker, other = await lab.broker(), await lab.broker()
        await broker.declare(OPEN)
        inbox = Inbox()
        await broker.subscribe(OPEN, inbox, prefetch=1, on_loss=inbox.on_loss)
        await broker.publish(message(b"lost"))
        (old,) = await inbox.holds(1)
        await other.delete(OPEN)
        await eventually(lambda: inbox.losses == [Loss.CONNECTION])
        assert not old.valid
        old.acknowledge()

        async def published() -> bool:
            try:
                await other.publish(message(b"found"))
            except QueueMissing:
                return False
            return True

        await eventually(published)
        await inbox.holds(2)
        assert inbox.bodies == [b"lost", b"found"] and not inbox.deliveries[1].redelivered

    async def test_deleted_queue_for_good(self, lab: Lab) -> None:
        """Without `redeclare` the subscription ends with the queue, says so once, and leaves no trace."""
        broker, other = await lab.broker(), await lab.broker()
        await broker.declare(OPEN)
        inbox = Inbox()
        subscription = await broker.subscribe(OPEN, inbox, prefetch=1, on_loss=inbox.on_loss, redeclare=False)
        await other.delete(OPEN)
        await eventually(lambda: inbox.losses)
        assert inbox.losses == [Loss.DELETED]
        assert not subscription.active and broker.health().unproven == ()
        assert await broker.depth(OPEN) is None
        await subscription.close()

    async def test_unrouted_queue(self, lab: Lab) -> None:
        """Nothing more comes into an unrouted queue, what it holds stays, and a declaration lets messages in again."""
        broker, other = await lab.broker(), await lab.broker()
        await broker.declare(OPEN)
        await other.publish(message(b"before"))
        await broker.unroute(OPEN)
        with pytest.raises(QueueMissing):
            await other.publish(message(b"meanwhile"))
        await broker.declare(OPEN)
        await other.publish(message(b"after"))
        inbox = Inbox(acknowledge=True)
        await broker.subscribe(OPEN, inbox, prefetch=1, redeclare=False)
        await inbox.holds(2)
        assert inbox.bodies == [b"before", b"after"]

    async def test_deleted_elsewhere_is_declared_anew(self, lab: Lab) -> None:
        """A subscription to a queue that was deleted behind this broker's back makes it again."""
        broker, other = await lab.broker(), await lab.broker()
        await broker.declare(OPEN)
        await other.delete(OPEN)
        inbox = Inbox(acknowledge=True)
        await broker.subscribe(OPEN, inbox, prefetch=1)
        await other.publish(message(b"here"))
        await inbox.holds(1)

    async def test_deleted_elsewhere_is_declared_by_its_publisher(self, lab: Lab) -> None:
        """A publish that found no queue says so, and the declaration after it counts, though there was one before."""
        broker, other = await lab.broker(), await lab.broker()
        await broker.declare(FIFO)
        await other.delete(FIFO)
        with pytest.raises(QueueMissing):
            await broker.publish(message(b"nowhere", BrokerQueue(Kind.TASK, FIFO.name)))
        await broker.declare(FIFO)
        await broker.publish(message(b"here", FIFO))
        inbox = Inbox(acknowledge=True)
        await other.subscribe(FIFO, inbox, prefetch=1)
        await inbox.holds(1)
        assert inbox.bodies == [b"here"]

    async def test_subscribe_to_missing(self, lab: Lab) -> None:
        """Subscribing to no queue fails without `redeclare`, and makes it with."""
        broker = await lab.broker()
        with pytest.raises(QueueMissing, match="open"):
            await broker.subscribe(OPEN, Inbox(), prefetch=1, redeclare=False)
        assert await broker.depth(OPEN) is None
        await broker.subscribe(OPEN, Inbox(), prefetch=1)
        assert await broker.depth(OPEN) is not None
        assert broker.health().unproven == ()

    async def test_many_at_once(self, lab: Lab) -> None:
        """Many calls at once do not hinder each other, before and after a loss."""
        broker = await lab.broker()
        inboxes = [Inbox(acknowledge=True) for _ in range(12)]
        await asyncio.gather(
            *(broker.subscribe(OPEN, inbox, prefetch=1, on_loss=inbox.on_loss) for inbox in inboxes),
            *(broker.declare(queue) for queue in (FIFO, RANKED, SLOT, *LANES)),
            broker.listen(lambda body: None, lambda: None),
            broker.reply_queue(lambda body: None, lambda name: None),
        )
        assert await broker.depth(OPEN) == Depth(0, 12)
        broker.drop_connections()
        await eventually(lambda: all(inbox.losses == [Loss.CONNECTION] for inbox in inboxes))
        await eventually(lambda: broker.health().connected and broker.health().unproven == ())
        assert await broker.depth(OPEN) == Depth(0, 12)
        await broker.publish_many(numbered(24))
        await eventually(lambda: sum(len(inbox.deliveries) for inbox in inboxes) == 24)

    # -- slots --------------------------------------------------------------------------------

    async def test_slot(self, lab: Lab) -> None:
        """A slot has one holder, however often it is declared; the next in line follows when that one closes."""
        brokers = [await lab.broker() for _ in range(3)]
        inboxes = [Inbox() for _ in brokers]
        subscriptions = []
        for broker, inbox in zip(brokers, inboxes, strict=True):
            await broker.declare(SLOT)
            subscriptions.append(await broker.subscribe(SLOT, inbox, prefetch=1))
            await broker.declare(SLOT)
        for holder in range(3):
            await inboxes[holder].holds(1)
            assert [len(inbox.deliveries) for inbox in inboxes] == [1] * (holder + 1) + [0] * (2 - holder)
            await brokers[holder].declare(SLOT)
            await subscriptions[holder].close()
        last = Inbox()
        await brokers[0].subscribe(SLOT, last, prefetch=1)
        await last.holds(1)

    async def test_slots_are_apart(self, lab: Lab) -> None:
        """Each slot of a queue has its own holder."""
        broker = await lab.broker()
        inboxes = [Inbox(), Inbox()]
        for slot, inbox in zip((SLOT, OTHER_SLOT), inboxes, strict=True):
            await broker.declare(slot)
            await broker.subscribe(slot, inbox, prefetch=1)
        for inbox in inboxes:
            await inbox.holds(1)

    async def test_deleted_slot(self, lab: Lab) -> None:
        """The holder of a slot that is deleted hears of it, and others cannot take it."""
        broker, other = await lab.broker(), await lab.broker()
        await broker.declare(SLOT)
        inbox = Inbox()
        await broker.subscribe(SLOT, inbox, prefetch=1, on_loss=inbox.on_loss, redeclare=False)
        await inbox.holds(1)
        await other.delete(SLOT)
        await eventually(lambda: inbox.losses == [Loss.DELETED])
        with pytest.raises(QueueMissing):
            await other.subscribe(SLOT, Inbox(), prefetch=1, redeclare=False)
        await broker.declare(SLOT)  # as before, and yet it is made anew, with its token
        again = Inbox()
        await broker.subscribe(SLOT, again, prefetch=1, redeclare=False)
        await again.holds(1)

    # -- other kinds of queues ----------------------------------------------------------------

    async def test_priorities(self, lab: Lab) -> None:
        """Larger priorities come first, and order holds within each."""
        broker = await lab.broker()
        await broker.declare(RANKED)
        ranks = [0, 5, 31, 5, 0, 31, 1]
        await broker.publish_many(
            [message(b"%d:%d" % (rank, n), RANKED, priority=rank) for n, rank in enumerate(ranks)]
        )
        await ready(broker, RANKED, len(ranks))
        inbox = Inbox(acknowledge=True)
        await broker.subscribe(RANKED, inbox, prefetch=1)
        await inbox.holds(len(ranks))
        assert inbox.bodies == [b"31:2", b"31:5", b"5:1", b"5:3", b"1:6", b"0:0", b"0:4"]

    async def test_priorities_ignored(self, lab: Lab) -> None:
        """A queue without priorities keeps the order of arrival."""
        broker = await lab.broker()
        await broker.declare(OPEN)
        await broker.publish_many([message(b"%d" % n, priority=n) for n in range(5)])
        await ready(broker, OPEN, 5)
        inbox = Inbox(acknowledge=True)
        await broker.subscribe(OPEN, inbox, prefetch=1)
        await inbox.holds(5)
        assert inbox.bodies == [b"0", b"1", b"2", b"3", b"4"]

    async def test_lanes(self, lab: Lab) -> None:
        """Lanes of one queue are apart, and each is ordered although its value does not say so."""
        broker = await lab.broker()
        for lane in LANES:
            await broker.declare(BrokerQueue(Kind.LANE, lane.name, lane.index))
            await broker.publish_many([message(b"%d" % lane.index, lane)] * 2)
        inboxes = [Inbox(), Inbox()]
        for inbox, lane in zip(inboxes, LANES, strict=True):
            await broker.subscribe(lane, inbox, prefetch=5)
            await inbox.holds(2)
        assert [inbox.bodies for inbox in inboxes] == [[b"0"] * 2, [b"1"] * 2]

    async def test_depth(self, lab: Lab) -> None:
        """Depth counts what is ready and who gets messages: all consumers, or the active one; no queue is None."""
        broker = await lab.broker()
        for queue, consumers in ((OPEN, 2), (FIFO, 1)):
            assert await broker.depth(queue) is None
            await broker.declare(queue)
            assert await broker.depth(queue) == Depth(0, 0)
            await broker.publish_many(numbered(4, queue))
            inbox = Inbox()
            await broker.subscribe(queue, inbox, prefetch=1)
            await inbox.holds(1)
            other = Inbox()
            subscription = await broker.subscribe(queue, other, prefetch=1)
            await ready(broker, queue, 4 - consumers)
            assert await broker.depth(queue) == Depth(4 - consumers, consumers)
            await subscription.close()
            await ready(broker, queue, 3)
            assert await broker.depth(queue) == Depth(3, 1)

    async def test_delete(self, lab: Lab) -> None:
        """A deleted queue is gone with its messages; deleting nothing does nothing."""
        broker = await lab.broker()
        await broker.declare(OPEN)
        await broker.publish(message(b"gone"))
        await broker.delete(OPEN)
        await broker.delete(OPEN)
        assert await broker.depth(OPEN) is None
        await broker.declare(OPEN)
        await ready(broker, OPEN, 0)

    @pytest.mark.parametrize(
        ("asked", "argument"),
        [
            (BrokerQueue(Kind.TASK, "open", ordered=True), "x-single-active-consumer"),
            (BrokerQueue(Kind.TASK, "open", priorities=True), "x-"),
        ],
    )
    async def test_queue_mismatch(self, lab: Lab, asked: BrokerQueue, argument: str) -> None:
        """A queue of other arguments is refused by name, argument and mend, and nothing else is disturbed."""
        broker = await lab.broker()
        await broker.declare(OPEN)
        names, facts = broker.names, broker.facts
        if facts.product == "RabbitMQ" and arguments(asked, names, facts) == arguments(OPEN, names, facts):
            await broker.declare(asked)  # from 4.3 on priorities are no argument
            return
        inbox = Inbox(acknowledge=True)
        await broker.subscribe(OPEN, inbox, prefetch=1, on_loss=inbox.on_loss)
        for attempt in (broker.declare(asked), broker.subscribe(asked, Inbox(), prefetch=1)):
            with pytest.raises(QueueMismatch) as caught:
                await attempt
            text = str(caught.value)
            assert Names(lab.prefix).queue(OPEN) in text and argument in text
            assert "taskq queues migrate open" in text
        await broker.publish(message(b"still here"))
        await inbox.holds(1)
        assert inbox.losses == []

    async def test_store_mismatch(self, lab: Lab) -> None:
        """A prefix belongs to one store: another is refused with the mend, the same one and other prefixes are not."""
        broker, other = await lab.broker(), await lab.broker(base=False)
        await other.declare_base("store-1")
        with pytest.raises(StoreMismatch, match=r"PostgreSQL.*another prefix"):
            await other.declare_base("store-2")
        await lab.broker(prefix=f"{lab.prefix}-2")
        await broker.declare_base("store-1")

    async def test_prefixes_are_apart(self, lab: Lab) -> None:
        """Queues and broadcasts of one prefix are not seen under another."""
        one, two = await lab.broker(), await lab.broker(prefix=f"{lab.prefix}-2")
        heard: dict[str, list[bytes]] = {"one": [], "two": []}
        await one.listen(heard["one"].append, lambda: None)
        await two.listen(heard["two"].append, lambda: None)
        await one.declare(OPEN)
        assert await two.depth(OPEN) is None
        one.broadcast(b"one's")
        two.broadcast(b"two's")
        await eventually(lambda: heard["one"] and heard["two"])
        assert heard == {"one": [b"one's"], "two": [b"two's"]}

    # -- control and replies ------------------------------------------------------------------

    async def test_broadcast(self, lab: Lab) -> None:
        """A broadcast reaches every listener, the sender's own too, in order."""
        brokers = [await lab.broker() for _ in range(3)]
        heard: list[list[bytes]] = [[], [], []]
        for broker, bodies in zip(brokers, heard, strict=True):
            await broker.listen(bodies.append, lambda: None)
        for number in range(20):
            brokers[0].broadcast(b"%d" % number)
        await eventually(lambda: all(len(bodies) == 20 for bodies in heard))
        assert heard == [[b"%d" % number for number in range(20)]] * 3

    async def test_broadcast_without_base(self, lab: Lab) -> None:
        """A broadcast that nobody can hear disturbs nothing that is published after it."""
        broker = await lab.broker(base=False)
        broker.broadcast(b"unheard")
        await broker.declare_base("store-1")
        heard: list[bytes] = []
        await broker.listen(heard.append, lambda: None)

        async def arrived() -> bool:
            broker.broadcast(b"heard")
            await asyncio.sleep(0)
            return bool(heard)

        await eventually(arrived)
        assert b"unheard" not in heard

    async def test_reply_queue(self, lab: Lab) -> None:
        """Replies reach the process whose queue it is, under a name that stays; one sent to nobody does no harm."""
        waiter, worker = await lab.broker(), await lab.broker()
        replies: list[bytes] = []
        name = await waiter.reply_queue(replies.append, lambda _: None)
        assert name and await waiter.reply_queue(replies.append, lambda _: None) == name
        worker.send("no-such-queue", b"lost")
        worker.send(name, b"result")
        await eventually(lambda: replies == [b"result"])

    async def test_listen_restored(self, lab: Lab) -> None:
        """After a loss listening goes on, and its owner is told."""
        broker, other = await lab.broker(), await lab.broker()
        heard: list[bytes] = []
        restored: list[bool] = []
        await broker.listen(heard.append, lambda: restored.append(True))
        broker.drop_connections()
        await eventually(lambda: restored == [True])
        other.broadcast(b"after")
        await eventually(lambda: heard == [b"after"])

    async def test_reply_queue_restored(self, lab: Lab) -> None:
        """After a loss there is a reply queue of another name, which is told and works."""
        broker, other = await lab.broker(), await lab.broker()
        replies: list[bytes] = []
        names: list[str] = []
        old = await broker.reply_queue(replies.append, names.append)
        broker.drop_connections()
        await eventually(lambda: names)
        assert names != [old]
        assert await broker.reply_queue(replies.append, names.append) == names[0]
        other.send(old, b"too late")
        other.send(names[0], b"in time")
        await eventually(lambda: replies == [b"in time"])

    # -- health -------------------------------------------------------------------------------

    async def test_health(self, lab: Lab) -> None:
        """Health shows a standing broker, and one that was closed."""
        broker = await lab.broker()
        await broker.declare(OPEN)
        await broker.subscribe(OPEN, Inbox(), prefetch=1)
        health = broker.health()
        assert health.connected and health.silence < 5 + pulse.lost() and health.blocked == "" and health.unproven == ()
        await broker.close()
        assert not broker.health().connected

    async def test_close_gives_back(self, lab: Lab) -> None:
        """Closing a broker gives back what it holds unacknowledged, and only that."""
        broker, other = await lab.broker(), await lab.broker()
        await broker.declare(OPEN)
        await broker.publish_many(numbered(4))
        inbox = Inbox()
        await broker.subscribe(OPEN, inbox, prefetch=4)
        deliveries = await inbox.holds(4)
        deliveries[0].acknowledge()
        deliveries[2].acknowledge()
        await broker.close()
        again = Inbox()
        await other.subscribe(OPEN, again, prefetch=4)
        await again.holds(2)
        assert again.bodies == [b"1", b"3"]
