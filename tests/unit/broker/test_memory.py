"""What the broker in memory has of its own; the contract that it shares is examined in tests/contract."""

from __future__ import annotations

import asyncio
import uuid

from taskq.broker.base import BrokerQueue, Kind, Outgoing
from taskq.broker.memory import MemoryBroker, forget
from taskq.clock import SystemClock

OPEN = BrokerQueue(Kind.TASK, "open")


async def test_connections_that_break_twice_at_once_come_back_once() -> None:
    """One consumer stands in line, one listener hears each broadcast: no second one holds what nobody works on."""
    name = uuid.uuid4().hex
    broker = MemoryBroker(f"memory://{name}", prefix="twice", publish_timeout=1, clock=SystemClock())
    bodies: list[bytes] = []
    heard: list[bytes] = []
    await broker.open()
    await broker.declare(OPEN)
    await broker.subscribe(OPEN, lambda delivery: bodies.append(delivery.body), prefetch=10)
    await broker.listen(heard.append, lambda: None)
    broker.drop_connections()
    broker.drop_connections()
    await asyncio.sleep(0)
    depth = await broker.depth(OPEN)
    assert depth is not None and depth.consumers == 1
    for body in (b"1", b"2"):
        await broker.publish(Outgoing(OPEN, body, "id", "text/plain"))
    broker.broadcast(b"hello")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert (bodies, heard) == ([b"1", b"2"], [b"hello"])
    await broker.close()
    forget(name)
