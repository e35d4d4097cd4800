"""The part of the broker contract that is about messages: publishing, consuming, order and hand-over."""

from __future__ import annotations

import asyncio

import pytest

from taskq.broker.base import DEAD, WAITING, BrokerQueue, Delivery, Kind, Loss, Outgoing
from taskq.errors import BrokerUnavailable, InvalidQueue, QueueMissing
from tests.contract.broker_lab import (
    FIFO,
    OPEN,
    InALab,
    Inbox,
    Lab,
    message,
    numbered,
    ready,
)
from tests.support import eventually


class MessagesContract(InALab):
    """What `taskq.broker.base` promises of messages."""

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
        async with asyncio.timeout(30):
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
