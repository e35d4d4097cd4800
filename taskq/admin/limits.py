"""Changing a queue's row as an operator, and telling the workers at once."""

from __future__ import annotations

from typing import Any

from taskq.broker.base import Broker
from taskq.dispatch import control
from taskq.errors import InvalidQueue
from taskq.queue import QueueRecord
from taskq.store.base import Store


async def change(broker: Broker, store: Store, name: str, **changes: Any) -> QueueRecord:
    """Change what is given, as `Store.set_queue` takes it, and broadcast that the queue has changed.

    Raises:
        InvalidQueue: no such queue, or limits that cannot be.
    """
    record = await store.set_queue(name, **changes)
    if record is None:
        raise InvalidQueue(f"no queue is named {name!r}")
    broker.broadcast(control({"changed": name}))
    return record
