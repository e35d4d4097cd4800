"""The broker contract on `memory://`, and what only it must do: serve several threads at once."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Iterator

import pytest

from taskq.broker.memory import forget
from tests.contract.broker_contract import BrokerContract
from tests.contract.broker_lab import FIFO, OPEN, Inbox, Lab, numbered
from tests.support import eventually


class TestMemory(BrokerContract):
    @pytest.fixture
    def url(self) -> Iterator[str]:
        name = uuid.uuid4().hex
        yield f"memory://{name}"
        forget(name)

    async def test_threads(self, lab: Lab) -> None:
        """Producers in threads and loops of their own reach a consumer in this loop, each in its order."""
        consumer = await lab.broker()
        await consumer.declare(OPEN)
        inbox = Inbox(acknowledge=True)
        await consumer.subscribe(OPEN, inbox, prefetch=7)

        def produce() -> None:
            async def run() -> None:
                broker = lab.make()
                await broker.open()
                for outgoing in numbered(200):
                    await broker.publish(outgoing)
                await broker.close()

            asyncio.run(run())

        threads = [threading.Thread(target=produce) for _ in range(4)]
        for thread in threads:
            thread.start()
        await eventually(lambda: len(inbox.deliveries) == 800)
        for thread in threads:
            thread.join()
        assert sorted(inbox.bodies) == sorted(outgoing.body for outgoing in numbered(200) * 4)

    async def test_loop_that_ended(self, lab: Lab) -> None:
        """A consumer whose loop ended without a goodbye is passed over, and what it held comes to the next in line."""
        broker = await lab.broker()
        await broker.declare(FIFO)
        held = Inbox()

        def consume() -> None:
            async def run() -> None:
                other = lab.make()
                await other.open()
                await other.subscribe(FIFO, held, prefetch=1)

            asyncio.run(run())

        thread = threading.Thread(target=consume)
        thread.start()
        thread.join()
        await broker.publish_many(numbered(3, FIFO))
        inbox = Inbox(acknowledge=True)
        await broker.subscribe(FIFO, inbox, prefetch=1)
        await inbox.holds(3)
        assert inbox.bodies == [b"0", b"1", b"2"] and held.bodies == []
