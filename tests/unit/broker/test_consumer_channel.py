"""Which acknowledgements are written at the end of a turn of the loop."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pamqp.frame
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskq.broker.rabbitmq import frames
from taskq.broker.rabbitmq.consumer import ConsumerChannel


class Connection:
    """Notes whether it was told to send at the end of this turn."""

    def __init__(self) -> None:
        self.soon = False

    def write_acknowledgements_of(self, channel: ConsumerChannel) -> None:
        pass

    def flush_soon(self) -> None:
        self.soon = True

    async def call(self, work: Any, *, within: float) -> Any:
        return await work


class Amqp:
    """A channel of the broker that agrees to everything."""

    number = 1

    async def basic_qos(self, **_: Any) -> None:
        pass

    async def basic_consume(self, *_: Any, **__: Any) -> Any:
        return SimpleNamespace(consumer_tag="tag")


def channel() -> ConsumerChannel:
    connection: Any = Connection()
    amqp: Any = Amqp()
    return ConsumerChannel(connection, amqp, lambda delivery: None, "queue")


def deliver(subject: ConsumerChannel, tag: int) -> None:
    """Frames of a message, as RabbitMQ sends them."""
    payload = b"\x00\x3c\x00\x3c\x01c" + tag.to_bytes(8, "big") + b"\x00\x00\x00"
    subject.method(frames.BASIC_DELIVER, payload)
    subject.content(frames.HEADER, frames.bare_header(1, 1)[7:-1])
    subject.content(frames.BODY, b"x")


class Broker:
    """What RabbitMQ holds as unacknowledged on the channel, and what makes it close one."""

    def __init__(self, count: int) -> None:
        self.unacknowledged = set(range(1, count + 1))
        self.acknowledged: set[int] = set()
        self.requeued: list[int] = []

    def read(self, data: bytes) -> None:
        while data:
            used, _, frame = pamqp.frame.unmarshal(data)
            data = data[used:]
            tag = frame.delivery_tag
            assert tag in self.unacknowledged, f"unknown delivery tag {tag}: RabbitMQ closes the channel"
            covered = {each for each in self.unacknowledged if each <= tag} if frame.multiple else {tag}
            self.unacknowledged -= covered
            if frame.name == "Basic.Ack":
                self.acknowledged |= covered
            else:
                self.requeued.extend(covered)


@given(
    order=st.permutations(range(1, 25)),
    back=st.sets(st.integers(1, 24)),
    turns=st.lists(st.integers(1, 6), max_size=24),
)
def test_any_order(order: list[int], back: set[int], turns: list[int]) -> None:
    """In whatever order and turns messages are settled, the broker learns exactly that and never closes the channel."""

    async def run() -> None:
        broker, subject, left = Broker(24), channel(), list(order)
        settled: set[int] = set()
        for size in [*turns, 24]:
            for tag in left[:size]:
                (subject.give_back if tag in back else subject.acknowledge)(tag)
                settled.add(tag)
            del left[:size]
            broker.read(subject.acknowledgements())
            assert broker.acknowledged == settled - back and set(broker.requeued) == settled & back

    asyncio.run(run())


def test_in_order_is_one_frame() -> None:
    """Messages acknowledged in order in one turn cost one frame."""

    async def run() -> None:
        subject = channel()
        for tag in range(1, 101):
            subject.acknowledge(tag)
        data = subject.acknowledgements()
        used, _, frame = pamqp.frame.unmarshal(data)
        assert used == len(data) and (frame.delivery_tag, frame.multiple) == (100, True)

    asyncio.run(run())


def test_lost_channel_writes_nothing() -> None:
    """On a channel that is gone nothing is written: the broker would close the connection for it."""

    async def run() -> None:
        subject = channel()
        subject.acknowledge(1)
        subject.gone()
        assert subject.acknowledgements() == b""

    asyncio.run(run())


@pytest.mark.parametrize(
    "prefetch, ahead, delivered, acknowledged, soon",
    [
        (1, False, 1, 1, True),
        (2, False, 2, 1, True),
        (100, False, 30, 1, False),
        (100, False, 30, 24, False),
        (100, False, 30, 25, True),  # a quarter of the window
        (100, False, 50, 1, True),  # half of the window is in hand: the broker may soon have to wait for us
        (100, True, 100, 24, False),  # what is here ahead of its turn is work enough meanwhile
        (100, True, 100, 25, True),
    ],
)
def test_acknowledgements_wait_while_the_broker_does_not(
    prefetch: int, ahead: bool, delivered: int, acknowledged: int, soon: bool
) -> None:
    """They are written at the end of the turn where the broker has little left to send without them."""

    async def run() -> None:
        subject = channel()
        await subject.consume("queue", prefetch, 1.0, ahead=ahead)
        for tag in range(1, delivered + 1):
            deliver(subject, tag)
        for tag in range(1, acknowledged + 1):
            subject.acknowledge(tag)
        connection: Any = subject.connection
        assert connection.soon is soon

    asyncio.run(run())


def test_what_is_given_back_does_not_wait() -> None:
    """Others may run it at once."""

    async def run() -> None:
        subject = channel()
        await subject.consume("queue", 100, 1.0)
        deliver(subject, 1)
        subject.give_back(1)
        connection: Any = subject.connection
        assert connection.soon

    asyncio.run(run())
