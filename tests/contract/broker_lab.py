"""What a test of a broker's contract works with: brokers under a prefix of their own, consumers, queues."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest

from taskq.broker import open_broker
from taskq.broker.base import BrokerQueue, Delivery, Kind, Loss, Outgoing
from taskq.clock import SystemClock
from tests.proxy import Proxy
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
        self.prefix = f"contract-{uuid.uuid4().hex[:12]}"
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


class InALab:
    """Tests of a broker, whose `url` a subclass gives."""

    pytestmark = pytest.mark.anyio

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    @pytest.fixture
    async def lab(self, url: str, anyio_backend: str) -> AsyncIterator[Lab]:
        lab = Lab(url)
        yield lab
        await lab.close()


class BehindAProxy:
    """Tests of a broker behind a network that can fail."""

    @pytest.fixture
    async def proxy(self, url: str, anyio_backend: str, lab: Lab) -> AsyncIterator[Proxy]:
        parts = urlsplit(url)
        async with Proxy(parts.hostname or "", parts.port or 5672) as proxy:
            yield proxy
            proxy.heal()
            for broker in lab.brokers:
                await broker.close()

    @staticmethod
    def through(proxy: Proxy, url: str) -> str:
        parts = urlsplit(url)
        return parts._replace(netloc=f"{parts.username}:{parts.password}@127.0.0.1:{proxy.port}").geturl()
