"""Which acknowledgements are written at the end of a turn of the loop."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pamqp.frame
from hypothesis import given
from hypothesis import strategies as st

from taskq.broker.rabbitmq.consumer import ConsumerChannel


def channel() -> ConsumerChannel:
    connection: Any = SimpleNamespace(write_acknowledgements_of=lambda channel: None)
    amqp: Any = SimpleNamespace(number=1)
    return ConsumerChannel(connection, amqp, lambda delivery: None, "queue")


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
