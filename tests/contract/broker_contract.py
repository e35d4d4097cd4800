"""What every broker adapter must do: one suite, run against each of them.

A subclass gives the fixture `url`; brokers are made by `lab.broker()` and cleaned away afterwards.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator

import pytest

from taskq.broker import open_broker
from taskq.broker.base import DEAD, WAITING, BrokerQueue, Delivery, Depth, Kind, Loss, Outgoing
from taskq.broker.topology import Names
from taskq.clock import SystemClock
from taskq.errors import BrokerUnavailable, InvalidQueue, QueueMismatch, QueueMissing, StoreMismatch
from tests.support import eventually

OPEN = BrokerQueue(Kind.TASK, "open")
FIFO = BrokerQueue(Kind.TASK, "fifo", ordered=True)
RANKED = BrokerQueue(Kind.TASK, "ranked", priorities=True)
SLOT = BrokerQueue(Kind.SLOT, "open", 0, ordered=True)
OTHER_SLOT = BrokerQueue(Kind.SLOT, "open", 1, ordered=True)
LANES = [BrokerQueue(Kind.LANE, "laned", index, ordered=True) for index in range(2)]
ALL = [OPEN, FIFO, RANKED, SLOT, OTHER_SLOT, *LANES]


def message(body: bytes, to: BrokerQueue = OPEN, priority: int = 0) -> Outgoing:
    return Outgoing(to, body, f"msg_{body[:20].decode()}", "application/x-taskq", priority)


def numbered(count: int, to: BrokerQueue = OPEN) -> list[Outgoing]:
    return [message(b"%d" % number, to) for number in range(count)]


class Inbox:
    """A consumer: keeps what it was given, acknowledges if told to, and hears losses."""

    def __init__(self, *, acknowledge: bool = False) -> None:
        self.deliveries: list[Delivery] = []
        self.losses: list[Loss] = []
        self._acknowledge = acknowledge

    def __call__(self, delivery: Delivery) -> None:
        self.deliveries.append(delivery)
        if self._acknowledge:
            delivery.acknowledge()

    def on_loss(self, loss: Loss) -> None:
        self.losses.append(loss)

    @property
    def bodies(self) -> list[bytes]:
        return [delivery.body for delivery in self.deliveries]

    async def holds(self, count: int) -> list[Delivery]:
        await eventually(lambda: len(self.deliveries) >= count)
        assert len(self.deliveries) == count
        return self.deliveries


class Lab:
    """Brokers of one test, under a prefix of their own."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.prefix = f"test-{uuid.uuid4().hex[:12]}"
        self.brokers: list = []

    async def broker(self, *, base: bool = True, prefix: str | None = None, **settings):
        broker = self.make(prefix=prefix, **settings)
        await broker.open()
        if base:
            await broker.declare_base("store-1")
        return broker

    def make(self, *, prefix: str | None = None, url: str | None = None, **settings):
        settings = {"publish_timeout": 5.0, "connect_timeout": 5.0, "heartbeat": 10.0, **settings}
        broker = open_broker(
            url or self.url, prefix=prefix or self.prefix, clock=SystemClock(), name="taskq tests", **settings
        )
        self.brokers.append(broker)
        return broker

    async def close(self) -> None:
        for broker in self.brokers:
            await broker.close()
        for prefix in {self.prefix} | {broker.names.prefix for broker in self.brokers}:
            cleaner = self.make(prefix=prefix)
            await cleaner.open()
            await cleaner.drop_prefix(ALL)
            await cleaner.close()


async def ready(broker, queue: BrokerQueue, count: int) -> None:
    """Wait until so many messages are ready: none of them is in anybody's hands."""

    async def check() -> bool:
        depth = await broker.depth(queue)
        assert depth is not None and depth.ready == count, f"{queue} has {depth}, expected {count} ready"
        return True

    await eventually(check)


class BrokerContract:
    """The promises of `taskq.broker.base`."""

    pytestmark = pytest.mark.anyio

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    @pytest.fixture
    async def lab(self, url: str, anyio_backend: str) -> AsyncIterator[Lab]:
        lab = Lab(url)
        yield lab
        await lab.close()

    # -- publishing ---------------------------------------------------------------------------

    async def test_order(self, lab: Lab) -> None:
        """One consumer gets the messages in the order in which they were published, singly or many at once."""
        broker = await lab.broker()
        await broker.declare(OPEN)
        await broker.publish(message(b"first"))
        assert await broker.publish_many(numbered(300)) == [None] * 300
        await broker.publish(message(b"last"))
        inbox = Inbox(acknowledge=True)
        await broker.subscribe(OPEN, inbox, prefetch=50)
        await inbox.holds(302)
        assert inbox.bodies == [b"first", *(b"%d" % n for n in range(300)), b"last"]

    async def test_publish_returns_when_stored(self, lab: Lab) -> None:
        """A published message is in the queue although the publisher's connections break at once."""
        broker, other = await lab.broker(), await lab.broker()
        await broker.declare(OPEN)
        await broker.publish(message(b"safe"))
        broker.drop_connections()
        await ready(other, OPEN, 1)

    @pytest.mark.parametrize("size", [0, 1, 131_064, 131_065, 400_000])
    async def test_content(self, lab: Lab, size: int) -> None:
        """Body, content type and id arrive as they were sent, whatever the size."""
        broker = await lab.broker()
        await broker.declare(OPEN)
        body = bytes(n % 251 for n in range(size))
        await broker.publish(Outgoing(OPEN, body, "msg_1", "application/json"))
        inbox = Inbox()
        await broker.subscribe(OPEN, inbox, prefetch=1)
        (delivery,) = await inbox.holds(1)
        assert delivery.body == body
        assert (delivery.content_type, delivery.message_id) == ("application/json", "msg_1")
        assert not delivery.redelivered and not delivery.headers and delivery.valid

    async def test_publish_to_missing_queue(self, lab: Lab) -> None:
        """A message without a queue is returned to exactly its publisher, among many others that arrive."""
        broker = await lab.broker()
        await broker.declare(OPEN)
        nowhere = BrokerQueue(Kind.TASK, "nowhere")
        with pytest.raises(QueueMissing, match="nowhere"):
            await broker.publish(message(b"lost", nowhere))
        outcomes = await broker.publish_many(
            [message(b"a"), message(b"b", nowhere), message(b"a"), message(b"c", nowhere), message(b"d")]
        )
        assert [type(outcome) for outcome in outcomes] == [
            type(None), QueueMissing, type(None), QueueMissing, type(None),
        ]  # fmt: skip
        await ready(broker, OPEN, 3)

    async def test_publish_before_base(self, lab: Lab) -> None:
        """Without the base a publish says that the queue is missing, and the broker stays usable."""
        broker = await lab.broker(base=False)
        with pytest.raises(QueueMissing):
            await broker.publish(message(b"lost"))
        await broker.declare_base("store-1")
        await broker.declare(OPEN)
        await broker.publish(message(b"kept"))
        await ready(broker, OPEN, 1)

    async def test_publish_nothing(self, lab: Lab) -> None:
        """Publishing no messages gives no outcomes."""
        broker = await lab.broker()
        assert await broker.publish_many([]) == []

    async def test_concurrent_publishes(self, lab: Lab) -> None:
        """A hundred tasks that publish at once all get their own outcome."""
        broker = await lab.broker()
        await broker.declare(OPEN)
        nowhere = BrokerQueue(Kind.TASK, "nowhere")
        outcomes = await asyncio.gather(
            *(broker.publish(message(b"%d" % n, nowhere if n % 10 == 3 else OPEN)) for n in range(100)),
            return_exceptions=True,
        )
        assert [n for n, outcome in enumerate(outcomes) if isinstance(outcome, QueueMissing)] == list(range(3, 100, 10))
        assert outcomes.count(None) == 90
        await ready(broker, OPEN, 90)

    async def test_publish_after_loss(self, lab: Lab) -> None:
        """A publish right after the connections broke waits for the next connection."""
        broker = await lab.broker()
        await broker.declare(OPEN)
        for number in range(5):
            broker.drop_connections()
            while True:
                try:
                    await broker.publish(message(b"%d" % number))
                    break
                except BrokerUnavailable:  # sent in the very turn in which the socket broke
                    continue
        depth = await broker.depth(OPEN)
        assert depth is not None and depth.ready >= 5

    async def test_publish_unopened(self, lab: Lab) -> None:
        """A broker that is not open refuses to publish, within the bound."""
        broker = lab.make(publish_timeout=0.2)
        async with asyncio.timeout(2):
            with pytest.raises(BrokerUnavailable):
                await broker.publish(message(b"lost"))

    async def test_waiting_and_dead(self, lab: Lab) -> None:
        """Messages for the waiting room and the dead letters come out of their queues."""
        broker = await lab.broker()
        for queue in (WAITING, DEAD):
            await broker.publish(message(b"to " + queue.kind.encode(), queue))
            inbox = Inbox(acknowledge=True)
            await broker.subscribe(queue, inbox, prefetch=5)
            await inbox.holds(1)
            assert inbox.bodies == [b"to " + queue.kind.encode()]

    # -- consuming ----------------------------------------------------------------------------

    async def test_prefetch(self, lab: Lab) -> None:
        """No more than `prefetch` are in hand; an acknowledgement makes room for one."""
        broker = await lab.broker()
        await broker.declare(OPEN)
        await broker.publish_many(numbered(10))
        inbox = Inbox()
        await broker.subscribe(OPEN, inbox, prefetch=3)
        await inbox.holds(3)
        await ready(broker, OPEN, 7)
        inbox.deliveries[1].acknowledge()
        await inbox.holds(4)
        await ready(broker, OPEN, 6)

    async def test_acknowledged_out_of_order(self, lab: Lab) -> None:
        """Exactly the unacknowledged ones come back, whatever the order of the acknowledgements."""
        broker = await lab.broker()
        await broker.declare(OPEN)
        await broker.publish_many(numbered(12))
        inbox = Inbox()
        subscription = await broker.subscribe(OPEN, inbox, prefetch=12)
        await inbox.holds(12)
        for turn in ([5, 3], [0, 1, 11], [2, 9], [4, 6]):
            for index in turn:
                inbox.deliveries[index].acknowledge()
            await asyncio.sleep(0)
        await subscription.close()
        again = Inbox()
        await broker.subscribe(OPEN, again, prefetch=12)
        await again.holds(3)
        assert again.bodies == [b"7", b"8", b"10"]

    async def test_acknowledged_twice(self, lab: Lab) -> None:
        """A second acknowledgement of one delivery does nothing, and the channel lives on."""
        broker = await lab.broker()
        await broker.declare(OPEN)
        await broker.publish_many(numbered(3))
        inbox = Inbox()
        subscription = await broker.subscribe(OPEN, inbox, prefetch=1)
        for count in (1, 2, 3):
            delivery = (await inbox.holds(count))[-1]
            delivery.acknowledge()
            await asyncio.sleep(0)
            delivery.acknowledge()
            delivery.give_back()
        await ready(broker, OPEN, 0)
        assert subscription.active and inbox.bodies == [b"0", b"1", b"2"]

    async def test_give_back(self, lab: Lab) -> None:
        """What is given back goes to another consumer, marked as redelivered."""
        broker = await lab.broker()
        await broker.declare(OPEN)
        first, second = Inbox(), Inbox()
        subscription = await broker.subscribe(OPEN, first, prefetch=5)
        await broker.publish_many(numbered(2))
        await first.holds(2)
        await subscription.resize(0)
        await broker.subscribe(OPEN, second, prefetch=5)
        first.deliveries[0].give_back()
        first.deliveries[1].acknowledge()
        (delivery,) = await second.holds(1)
        assert delivery.body == b"0" and delivery.redelivered
        delivery.acknowledge()
        await ready(broker, OPEN, 0)

    async def test_failing_consumer(self, lab: Lab) -> None:
        """An exception from the consumer leaves that delivery unacknowledged and the others coming."""
        broker = await lab.broker()
        await broker.declare(OPEN)
        inbox = Inbox(acknowledge=True)

        def consumer(delivery: Delivery) -> None:
            if delivery.body == b"1" and not delivery.redelivered:
                raise RuntimeError("a bug")
            inbox(delivery)

        subscription = await broker.subscribe(OPEN, consumer, prefetch=5)
        await broker.publish_many(numbered(3))
        await inbox.holds(2)
        await subscription.close()
        again = Inbox(acknowledge=True)
        await broker.subscribe(OPEN, again, prefetch=5)
        (delivery,) = await again.holds(1)
        assert delivery.body == b"1" and delivery.redelivered

    async def test_subscription_before_delivery(self, lab: Lab) -> None:
        """Whoever subscribes has the subscription in hand before its first delivery."""
        broker = await lab.broker()
        await broker.declare(OPEN)
        await broker.publish(message(b"early"))
        subscription = None
        seen: list[bool] = []
        subscription = await broker.subscribe(
            OPEN, lambda delivery: seen.append(subscription is not None and subscription.active), prefetch=1
        )
        await eventually(lambda: seen)
        assert seen == [True]

    async def test_resize(self, lab: Lab) -> None:
        """A larger prefetch brings more; what was in hand can still be acknowledged."""
        broker = await lab.broker()
        await broker.declare(OPEN)
        await broker.publish_many(numbered(10))
        inbox = Inbox()
        subscription = await broker.subscribe(OPEN, inbox, prefetch=1)
        await inbox.holds(1)
        await subscription.resize(4)
        await eventually(lambda: len(inbox.deliveries) >= 4)
        assert inbox.deliveries[0].valid
        acknowledged = list(inbox.deliveries)
        for delivery in acknowledged:
            delivery.acknowledge()
        await eventually(lambda: len(inbox.deliveries) >= 8)
        await subscription.close()
        await ready(broker, OPEN, 10 - len(acknowledged))

    async def test_resize_to_nothing(self, lab: Lab) -> None:
        """A prefetch of 0 stops deliveries, keeps those in hand, survives a loss, and a later resize starts again."""
        broker = await lab.broker()
        await broker.declare(OPEN)
        inbox = Inbox(acknowledge=True)
        subscription = await broker.subscribe(OPEN, inbox, prefetch=2, on_loss=inbox.on_loss)
        await subscription.resize(0)
        assert not subscription.active and broker.health().unproven == ()
        await broker.publish_many(numbered(3))
        await ready(broker, OPEN, 3)
        broker.drop_connections()
        await eventually(lambda: inbox.losses == [Loss.CONNECTION])
        await eventually(lambda: broker.health().connected)
        await ready(broker, OPEN, 3)
        await eventually(lambda: broker.health().unproven == ())
        assert inbox.deliveries == []
        await subscription.resize(2)
        await inbox.holds(3)
        assert subscription.active

    async def test_resize_ordered(self, lab: Lab) -> None:
        """An ordered queue's prefetch cannot change: its consumer would let the next message overtake."""
        broker = await lab.broker()
        await broker.declare(FIFO)
        subscription = await broker.subscribe(FIFO, Inbox(), prefetch=1)
        with pytest.raises(InvalidQueue, match="fifo"):
            await subscription.resize(2)

    # -- order and hand-over ------------------------------------------------------------------

    async def test_single_active(self, lab: Lab) -> None:
        """Of an ordered queue's consumers one alone gets messages, one at a time at prefetch 1."""
        one, two = await lab.broker(), await lab.broker()
        await one.declare(FIFO)
        active, standby = Inbox(), Inbox()
        await one.subscribe(FIFO, active, prefetch=1)
        await two.subscribe(FIFO, standby, prefetch=1)
        await one.publish_many(numbered(5, FIFO))
        for count in range(1, 6):
            deliveries = await active.holds(count)
            await ready(two, FIFO, 5 - count)
            deliveries[-1].acknowledge()
        assert active.bodies == [b"%d" % n for n in range(5)] and standby.bodies == []

    async def test_hand_over(self, lab: Lab) -> None:
        """The next in line gets the unacknowledged head first, then what follows, through twenty hand-overs."""
        broker = await lab.broker()
        await broker.declare(FIFO)
        await broker.publish_many(numbered(20, FIFO))
        inboxes = [Inbox() for _ in range(21)]
        subscriptions = [await broker.subscribe(FIFO, inbox, prefetch=1) for inbox in inboxes[:2]]
        for number in range(20):
            inbox = inboxes[number]
            wanted = b"%d" % number
            await eventually(lambda inbox=inbox, wanted=wanted: inbox.bodies[-1:] == [wanted])
            if number % 3 == 0:  # hand over the head itself once in a while
                await subscriptions[number].close()
                await eventually(lambda n=number, wanted=wanted: inboxes[n + 1].bodies == [wanted])
                assert inboxes[number + 1].deliveries[0].redelivered
                inboxes[number + 1].deliveries[0].acknowledge()
            else:
                inbox.deliveries[-1].acknowledge()
                await subscriptions[number].close()
            if number + 2 < 21:
                subscriptions.append(await broker.subscribe(FIFO, inboxes[number + 2], prefetch=1))
        await subscriptions[-1].close()
        await ready(broker, FIFO, 0)

    async def test_hand_over_by_loss(self, lab: Lab) -> None:
        """A consumer whose connection breaks is followed by the next in line, head first."""
        one, two = await lab.broker(), await lab.broker()
        await one.declare(FIFO)
        await one.publish_many(numbered(3, FIFO))
        first, second = Inbox(), Inbox()
        await one.subscribe(FIFO, first, prefetch=1)
        await first.holds(1)
        await two.subscribe(FIFO, second, prefetch=1)
        one.drop_connections()
        for number in range(3):
            await eventually(lambda number=number: second.bodies[-1:] == [b"%d" % number])
            second.deliveries[-1].acknowledge()
        await ready(two, FIFO, 0)
        assert second.bodies == [b"0", b"1", b"2"] and first.bodies == [b"0"]

    async def test_end_of_the_line(self, lab: Lab) -> None:
        """Who closes and subscribes again stands behind all others."""
        broker = await lab.broker()
        await broker.declare(FIFO)
        inboxes = {name: Inbox() for name in "abc"}
        subscriptions = {name: await broker.subscribe(FIFO, inboxes[name], prefetch=1) for name in "abc"}
        for name, follower in (("a", "b"), ("b", "c"), ("c", "a")):
            await broker.publish(message(name.encode(), FIFO))
            await eventually(lambda name=name: inboxes[name].bodies[-1:] == [name.encode()])
            inboxes[name].deliveries[-1].acknowledge()
            await subscriptions[name].close()
            subscriptions[name] = await broker.subscribe(FIFO, inboxes[name], prefetch=1)
            await broker.publish(message(b"next", FIFO))
            await eventually(lambda follower=follower: inboxes[follower].bodies[-1:] == [b"next"])
            inboxes[follower].deliveries[-1].acknowledge()

    async def test_close_flushes(self, lab: Lab) -> None:
        """What was acknowledged just before a close does not come back, in thirty rounds."""
        broker = await lab.broker()
        for queue in (OPEN, FIFO):
            await broker.declare(queue)
            for _ in range(15):
                inbox = Inbox()
                subscription = await broker.subscribe(queue, inbox, prefetch=4)
                await broker.publish_many(numbered(4, queue))
                for delivery in await inbox.holds(4):
                    delivery.acknowledge()
                await subscription.close()
                await ready(broker, queue, 0)

    async def test_close(self, lab: Lab) -> None:
        """After a close nothing comes, deliveries are invalid, their verbs do nothing; a second close is harmless."""
        broker = await lab.broker()
        await broker.declare(OPEN)
        inbox = Inbox()
        subscription = await broker.subscribe(OPEN, inbox, prefetch=2, on_loss=inbox.on_loss)
        await broker.publish_many(numbered(3))
        deliveries = await inbox.holds(2)
        await subscription.close()
        await subscription.close()
        assert not subscription.active and not any(delivery.valid for delivery in deliveries)
        deliveries[0].acknowledge()
        deliveries[1].give_back()
        await ready(broker, OPEN, 3)
        await inbox.holds(2)
        assert inbox.losses == []

    async def test_redelivered(self, lab: Lab) -> None:
        """A message that was in a hand before is marked, a fresh one is not."""
        broker = await lab.broker()
        await broker.declare(OPEN)
        await broker.publish_many(numbered(2))
        inbox = Inbox()
        subscription = await broker.subscribe(OPEN, inbox, prefetch=1)
        await inbox.holds(1)
        await subscription.close()
        again = Inbox()
        await broker.subscribe(OPEN, again, prefetch=2)
        await again.holds(2)
        assert {delivery.body: delivery.redelivered for delivery in again.deliveries} == {b"0": True, b"1": False}

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

    async def test_deleted_elsewhere_is_declared_anew(self, lab: Lab) -> None:
        """A subscription to a queue that was deleted behind this broker's back makes it again."""
        broker, other = await lab.broker(), await lab.broker()
        await broker.declare(OPEN)
        await other.delete(OPEN)
        inbox = Inbox(acknowledge=True)
        await broker.subscribe(OPEN, inbox, prefetch=1)
        await other.publish(message(b"here"))
        await inbox.holds(1)

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
        assert health.connected and health.silence < 5 and health.blocked == "" and health.unproven == ()
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
