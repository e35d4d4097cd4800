"""The part of the broker contract that is about `offer`: publishing where nothing may be awaited."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from taskq.broker.base import BrokerQueue, Kind
from taskq.broker.memory import forget
from taskq.errors import PublishUnconfirmed, QueueMissing, TaskqError
from tests.contract.broker_lab import FIFO, OPEN, BehindAProxy, InALab, Inbox, Lab, message, numbered
from tests.proxy import Proxy
from tests.support import eventually


class Outcomes:
    """Hears what became of offers, in the order in which it is told."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, TaskqError | None]] = []

    def offer(self, broker: Any, body: bytes, to: BrokerQueue = OPEN) -> bool:
        offered = broker.offer(message(body, to), lambda error: self.heard.append((body.decode(), error)))
        assert body.decode() not in dict(self.heard), "it was told before the offer had returned"
        return bool(offered)

    async def of(self, count: int) -> dict[str, type]:
        await eventually(lambda: len(self.heard) >= count)
        return {name: type(error) for name, error in self.heard}


class OffersContract(InALab):
    """What `taskq.broker.base` promises of offers."""

    async def test_offers_keep_their_order(self, lab: Lab) -> None:
        """What is offered and what is published arrive in the order of the calls, each told once."""
        broker, outcomes = await lab.broker(), Outcomes()
        await broker.declare(OPEN)
        await broker.publish(message(b"first"))
        assert all(outcomes.offer(broker, b"%d" % number) for number in range(300))
        await broker.publish(message(b"last"))
        assert await outcomes.of(300) == {str(number): type(None) for number in range(300)}
        inbox = Inbox(acknowledge=True)
        await broker.subscribe(OPEN, inbox, prefetch=50)
        await inbox.holds(302)
        assert inbox.bodies == [b"first", *(b"%d" % number for number in range(300)), b"last"]
        assert len(outcomes.heard) == 300

    async def test_offer_to_a_missing_queue(self, lab: Lab) -> None:
        """Exactly the message without a queue is told to be missing one, and a declaration afterwards counts."""
        broker, outcomes = await lab.broker(), Outcomes()
        await broker.declare(OPEN)
        await broker.publish(message(b"first"))
        nowhere = BrokerQueue(Kind.TASK, "nowhere")
        for body, to in ((b"a", OPEN), (b"b", nowhere), (b"c", OPEN)):
            assert outcomes.offer(broker, body, to)
        assert await outcomes.of(3) == {"a": type(None), "b": QueueMissing, "c": type(None)}
        await broker.declare(nowhere)
        assert outcomes.offer(broker, b"d", nowhere)
        assert (await outcomes.of(4))["d"] is type(None)


class TestMemory(OffersContract):
    @pytest.fixture
    def url(self) -> Iterator[str]:
        name = uuid.uuid4().hex
        yield f"memory://{name}"
        forget(name)


class TestRabbitMQ(BehindAProxy, OffersContract):
    @pytest.fixture
    def url(self, rabbitmq_url: str) -> str:
        return rabbitmq_url

    async def test_unconfirmed_offer(self, lab: Lab, proxy: Proxy) -> None:
        """An offer that nobody confirms is told to be unconfirmed after `publish_timeout`, beside a call that waits."""
        broker, outcomes = await lab.broker(url=self.through(proxy, lab.url), publish_timeout=0.5), Outcomes()
        await broker.declare(OPEN)
        await broker.publish(message(b"confirmed"))
        proxy.silence(to_server=False)
        assert outcomes.offer(broker, b"one") and outcomes.offer(broker, b"two")
        errors = await broker.publish_many(numbered(2))
        assert [type(error) for error in errors] == [PublishUnconfirmed] * 2
        assert await outcomes.of(2) == {"one": PublishUnconfirmed, "two": PublishUnconfirmed}

    async def test_offer_behind_the_first(self, lab: Lab, proxy: Proxy) -> None:
        """While the first message for a queue has no answer there are no offers to it; those to others are taken."""
        broker, outcomes = await lab.broker(url=self.through(proxy, lab.url), publish_timeout=0.5), Outcomes()
        await broker.declare(OPEN)
        await broker.declare(FIFO)
        proxy.silence(to_server=False)
        assert outcomes.offer(broker, b"first") and not outcomes.offer(broker, b"second")
        assert outcomes.offer(broker, b"elsewhere", FIFO)
        assert await outcomes.of(2) == {"first": PublishUnconfirmed, "elsewhere": PublishUnconfirmed}

    async def test_offer_and_a_cut(self, lab: Lab, proxy: Proxy) -> None:
        """A connection that breaks tells of what was offered on it, and takes no offer until the next one stands."""
        broker, outcomes = await lab.broker(url=self.through(proxy, lab.url), publish_timeout=30), Outcomes()
        await broker.declare(OPEN)
        proxy.silence()
        assert outcomes.offer(broker, b"cut")
        await asyncio.sleep(0)
        await proxy.stop()
        assert await outcomes.of(1) == {"cut": PublishUnconfirmed}
        assert not outcomes.offer(broker, b"nobody there")
        proxy.heal()
        await proxy.__aenter__()
        await eventually(lambda: outcomes.offer(broker, b"again"))
        assert (await outcomes.of(2))["again"] is type(None)
        assert "nobody there" not in dict(outcomes.heard)

    async def test_offer_when_the_broker_is_closed(self, lab: Lab, proxy: Proxy) -> None:
        """Who waits for an offer when the broker is closed is told that it is unconfirmed: nobody waits for ever."""
        broker, outcomes = await lab.broker(url=self.through(proxy, lab.url), publish_timeout=600), Outcomes()
        await broker.declare(OPEN)
        proxy.silence(to_server=False)
        assert outcomes.offer(broker, b"a")
        await broker.close()
        assert await outcomes.of(1) == {"a": PublishUnconfirmed}
