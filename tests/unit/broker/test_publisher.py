"""How confirms, refusals and returns find the message that they are about."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pamqp.frame
from hypothesis import given
from hypothesis import strategies as st
from pamqp import commands, header

from taskq.broker.base import BrokerQueue, Kind, Outgoing
from taskq.broker.rabbitmq import frames
from taskq.broker.rabbitmq.publisher import Batch, ConfirmChannel, Refused
from taskq.broker.topology import Names
from taskq.errors import AccessRefused, PublishUnconfirmed, QueueMissing

QUEUE = BrokerQueue(Kind.TASK, "emails")
DEAD_LETTER = BrokerQueue(Kind.DEAD)
SLOT = BrokerQueue(Kind.SLOT, "emails", 0)


class Bench:
    """A confirm channel over no network, with messages published on it."""

    def __init__(self, count: int = 0, *, opened: bool = True) -> None:
        lost = asyncio.get_running_loop().create_future()
        lost.set_result("cut")
        connection: Any = SimpleNamespace(frame_max=1000, write=lambda data: None, lost=lost)
        amqp: Any = SimpleNamespace(number=1)
        self.channel = ConfirmChannel(connection, amqp, Names("taskq"))
        self.ended: list[Batch] = []
        self.channel.route(QUEUE).open = self.channel.route(DEAD_LETTER).open = opened
        if count:
            self.send(*(DEAD_LETTER if index % 2 else QUEUE for index in range(count)))

    def send(self, *targets: BrokerQueue, begun: float = 0.0) -> None:
        """Publish a batch of one message for each."""
        self.batch = Batch(begun, 5.0, self.ended.append)
        for to in targets:
            self.channel.publish(
                self.channel.route(to), Outgoing(to, b"x", "same id", "t"), self.batch, self.batch.add()
            )
        self.batch.complete()

    def hear(self, frame: Any) -> None:
        payload = pamqp.frame.marshal(frame, 1)[7:-1]
        self.channel.method(frames._METHOD_ID.unpack_from(payload)[0], payload)

    def hear_return(self, tag: int) -> None:
        self.hear(commands.Basic.Return(312, "NO_ROUTE", "taskq.tasks", "emails"))
        content = header.ContentHeader(0, 1, commands.Basic.Properties(correlation_id=str(tag), message_id="same id"))
        self.channel.content(frames.HEADER, pamqp.frame.marshal(content, 1)[7:-1])
        self.channel.content(frames.BODY, b"x")

    @property
    def kinds(self) -> list[type]:
        return [type(outcome) for outcome in self.batch.outcomes]


@given(
    steps=st.lists(st.tuples(st.integers(1, 20), st.booleans(), st.booleans()), max_size=20),
    returned=st.sets(st.integers(1, 20), max_size=4),
)
def test_confirms(steps: list[tuple[int, bool, bool]], returned: set[int]) -> None:
    """Confirms and refusals, single and multiple, in any order, settle exactly the messages that they cover, once."""

    async def run() -> None:
        bench = Bench(20)
        expected: dict[int, type] = {}
        for tag in returned:
            bench.hear_return(tag)
            expected[tag] = QueueMissing
        for tag, multiple, refused in [*steps, (20, True, False)]:
            frame = commands.Basic.Nack(tag, multiple) if refused else commands.Basic.Ack(tag, multiple)
            bench.hear(frame)
            for covered in range(1, tag + 1) if multiple else [tag]:
                expected.setdefault(covered, Refused if refused else type(None))
        assert bench.kinds == [expected[tag] for tag in range(1, 21)]
        assert bench.ended == [bench.batch] and issubclass(Refused, PublishUnconfirmed)

    asyncio.run(run())


def test_refusals_condemn_the_channel() -> None:
    """A refused message tells that the channel is to be replaced; a refused token tells of a slot that has one."""

    async def run() -> None:
        bench = Bench(1)
        bench.send(SLOT)
        bench.hear(commands.Basic.Nack(2))
        assert bench.kinds == [Refused] and not bench.channel.refused.done()
        bench.hear(commands.Basic.Nack(1))
        assert bench.channel.refused.done() and not bench.channel.lost.done()

    asyncio.run(run())


def test_first_message() -> None:
    """Others are held until the broker has taken the first for their queue; those for another queue are not."""

    async def run() -> None:
        bench = Bench(opened=False)
        route = bench.channel.route(QUEUE)
        assert route.answered is None
        bench.send(QUEUE)
        answered = route.answered
        assert answered is not None and bench.channel.route(DEAD_LETTER).answered is None
        bench.hear(commands.Basic.Ack(1))
        assert answered.done() and route.answered is None and bench.kinds == [type(None)]
        bench.send(QUEUE, QUEUE)
        assert route.answered is None

    asyncio.run(run())


def test_first_message_refused() -> None:
    """It is kept for the next channel, and those behind it are held until this one has ended."""

    async def run() -> None:
        bench = Bench(opened=False)
        bench.send(QUEUE, begun=asyncio.get_running_loop().time())
        answered = bench.channel.route(QUEUE).answered
        bench.hear(commands.Basic.Nack(1))
        assert answered is not None and not answered.done() and bench.channel.refused.done()
        assert [(batch, index) for _, batch, index in bench.channel.refusals] == [(bench.batch, 0)] and not bench.ended
        bench.channel.gone()
        assert answered.done() and not bench.ended
        bench.batch.expire()
        assert bench.kinds == [Refused]

    asyncio.run(run())


def test_first_message_refused_for_long() -> None:
    """A queue that has refused for seconds is full: the message is told so, and so is each that was held."""

    async def run() -> None:
        bench = Bench(opened=False)
        bench.send(QUEUE, begun=asyncio.get_running_loop().time() - 4.0)
        answered = bench.channel.route(QUEUE).answered
        bench.hear(commands.Basic.Nack(1))
        assert bench.kinds == [Refused] and not bench.channel.refusals
        assert answered is not None and answered.done() and bench.channel.route(QUEUE).answered is None

    asyncio.run(run())


def test_first_message_returned() -> None:
    """Without a queue there is nothing to wait for; the next message is the first again."""

    async def run() -> None:
        bench = Bench(opened=False)
        bench.send(QUEUE)
        answered = bench.channel.route(QUEUE).answered
        bench.hear_return(1)
        bench.hear(commands.Basic.Ack(1))
        assert bench.kinds == [QueueMissing] and answered is not None and answered.done()
        bench.send(QUEUE)
        assert bench.channel.route(QUEUE).answered is not None

    asyncio.run(run())


def test_lost_connection() -> None:
    """What was not confirmed when the connection went is unconfirmed; what was confirmed stays so."""

    async def run() -> None:
        bench = Bench(3)
        bench.hear(commands.Basic.Ack(2))
        bench.channel.gone()
        assert bench.kinds == [PublishUnconfirmed, type(None), PublishUnconfirmed]
        assert bench.channel.lost.done()

    asyncio.run(run())


def test_missing_exchange() -> None:
    """A channel that the broker closes for a missing exchange loses what was for it; the rest may have arrived."""

    async def run() -> None:
        bench = Bench(2)
        bench.hear(commands.Channel.Close(404, "NOT_FOUND - no exchange 'taskq.tasks' in vhost '/'", 60, 40))
        assert bench.kinds == [QueueMissing, PublishUnconfirmed]

    asyncio.run(run())


def test_refused_exchange() -> None:
    """A missing permission is told as such."""

    async def run() -> None:
        bench = Bench(1)
        text = "ACCESS_REFUSED - access to exchange 'taskq.tasks' in vhost '/' refused for user 'u'"
        bench.hear(commands.Channel.Close(403, text, 60, 40))
        assert bench.kinds == [AccessRefused]

    asyncio.run(run())


def test_expiry() -> None:
    """At the deadline what was sent is unconfirmed, and a later confirm changes nothing."""

    async def run() -> None:
        bench = Bench(2)
        bench.batch.expire()
        bench.hear(commands.Basic.Ack(2, True))
        assert bench.kinds == [PublishUnconfirmed] * 2

    asyncio.run(run())
