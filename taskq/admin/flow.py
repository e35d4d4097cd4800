"""What operators do to keys of flow control."""

from __future__ import annotations

from typing import Any

from taskq.broker.base import Broker
from taskq.clock import to_ms
from taskq.dispatch import control
from taskq.errors import InvalidSetting
from taskq.flow import FlowRecord
from taskq.store.base import Store


async def change(broker: Broker, store: Store, key: str, **changes: Any) -> FlowRecord:
    """Change a key as `Store.set_flow` does, and have what may go now go at once.

    Raises:
        InvalidSetting: no message has named the key yet.
    """
    await known(store, key)
    record = await store.set_flow(key, **changes)
    await look(broker, store)
    return record


async def reset(broker: Broker, store: Store, key: str) -> None:
    """Forget the starts of the key's present window: as many as its rate says may start now.

    Raises:
        InvalidSetting: no message has named the key yet.
    """
    await known(store, key)
    await store.reset_flow(key)
    await look(broker, store)


async def known(store: Store, key: str) -> FlowRecord:
    """The key.

    Raises:
        InvalidSetting: no message has named it yet.
    """
    record = await store.get_flow(key)
    if record is None:
        raise InvalidSetting(f"no message has named flow key {key!r}: `taskq flow list` shows those that there are")
    return record


async def look(broker: Broker, store: Store) -> None:
    """Have the keeper's leader look what may go now."""
    broker.broadcast(control({"due": to_ms(await store.now())}))
