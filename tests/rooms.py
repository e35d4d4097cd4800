"""Rooms on the shared servers: an empty store, and a prefix of the broker that is swept afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import uuid
from collections.abc import Coroutine, Iterator
from typing import Any


@contextlib.contextmanager
def empty_schema(postgres_url: str) -> Iterator[str]:
    """URL of a schema of the PostgreSQL that nothing is in; it is dropped after the block."""
    import psycopg

    schema = f"test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f'CREATE SCHEMA "{schema}"')
        joint = "&" if "?" in postgres_url else "?"
        yield f"{postgres_url}{joint}options=-csearch_path%3D{schema}"
        connection.execute("SET client_min_messages = error")
        connection.execute(f'DROP SCHEMA "{schema}" CASCADE')


def new_prefix() -> str:
    """A prefix that nothing on any broker begins with."""
    return f"test-{uuid.uuid4().hex[:12]}"


def sweep(url: str, prefix: str, stores: list[str]) -> None:
    """Delete what was left on the broker under the prefix: the queues that these stores know, and the fixed ones."""
    _in_a_thread(_sweep(url, prefix, stores))


def _in_a_thread(work: Coroutine[Any, Any, None]) -> None:
    """Run it on a loop of its own: the test's loop may still stand in this thread."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(work)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


async def _sweep(url: str, prefix: str, stores: list[str]) -> None:
    from taskq.broker import open_broker
    from taskq.broker.base import BrokerQueue, Kind
    from taskq.clock import SystemClock
    from taskq.errors import TaskqError
    from taskq.store import open_store

    fixed = ("default", "keeper", "beat", "callbacks", "http")
    names: dict[str, tuple[int, int]] = dict.fromkeys(fixed, (1, 0))
    for store_url in stores:
        store = open_store(store_url)
        with contextlib.suppress(TaskqError):  # a test may have left a store that cannot be opened
            await store.open()
            for record in await store.list_queues():
                names[record.name] = (record.parallelism or 1, record.partitions or 0)
        await store.close()
    queues = [BrokerQueue(Kind.TASK, name) for name in names]
    for name, (slots, lanes) in names.items():
        queues += [BrokerQueue(Kind.SLOT, name, index) for index in range(slots)]
        queues += [BrokerQueue(Kind.LANE, name, index) for index in range(lanes)]
    broker = open_broker(
        url, prefix=prefix, publish_timeout=5, connect_timeout=5, heartbeat=30, clock=SystemClock(), name="taskq tests"
    )
    await broker.open()
    await broker.drop_prefix(queues)  # type: ignore[attr-defined]
    await broker.close()
