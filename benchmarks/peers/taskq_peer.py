"""taskq itself, with its default settings, on the queue and the store that the settings name."""

from __future__ import annotations

import sqlite3
import sys
import time
from collections.abc import Sequence
from urllib.parse import unquote

import taskq
from benchmarks import board, settings
from benchmarks.peers.base import Peer
from taskq import Queue, TaskQ
from taskq.broker.base import BrokerQueue, Kind
from taskq.broker.topology import Names

POOL = 8
WINDOW = 2_000
MANY = 1_000  # parallelism of keys that are to hold nothing back
_settings = settings.from_environment()
_marker = board.from_environment()

app = TaskQ(
    broker=_settings.broker,
    store=_settings.store,
    prefix=_settings.prefix,
    name="bench",
    delivery_allow="127.0.0.0/8",
)
_PARALLELISM = {"open": None, "fifo": 1, "pool": POOL}
queue = Queue(f"{settings.NAME}-{_settings.kind}", parallelism=_PARALLELISM[_settings.kind])
bulk = Queue(f"{settings.NAME}-bulk")


@app.task(name="bench", queue=queue, result=_settings.record)
async def bench(number: int, label: str) -> int:
    """Mark the board."""
    _marker.mark(number)
    return number


def key_of(number: int, keys: int) -> str:
    """The flow key of a message, in turn."""
    return f"key-{number % keys}"


class TaskqPeer(Peer):
    """taskq's producer: sync calls from a program without a loop, or async ones, as the settings say."""

    sync = _settings.mode == "sync"
    kind = "quorum"
    note = f"taskq {taskq.__version__}: default settings, {'recorded' if _settings.record else 'result=False'}"
    broker = _settings.broker

    def __init__(self) -> None:
        names = Names(_settings.prefix)
        self.queue = names.queue(BrokerQueue(Kind.TASK, queue.name))
        tasks = [BrokerQueue(Kind.TASK, name) for name in (queue.name, bulk.name, "default", "callbacks")]
        slots = [BrokerQueue(Kind.SLOT, queue.name, index) for index in range(POOL)]
        seats = [BrokerQueue(Kind.SLOT, name) for name in ("keeper", f"beat/{app.settings.name}")]
        self.queues = [names.queue(each) for each in (*tasks, *slots, *seats)] + [names.waiting, names.dead]
        self.exchanges = [exchange.name for exchange in names.exchanges()] + [names.store]
        self.since = 0

    async def open(self) -> None:
        if not self.sync:
            await app.open()

    async def close(self) -> None:
        await app.close()

    def worker_commands(self, processes: int) -> list[list[str]]:
        return [self.worker_command(processes, queue.name)]

    def worker_command(self, processes: int, name: str) -> list[str]:
        """Workers for the queue of that name."""
        several = ["-p", str(processes)] if processes > 1 else []
        return [sys.executable, "-m", "taskq", "worker", f"{__name__}:app", "-q", name, *several]

    def send(self, number: int) -> None:
        bench.enqueue(number, settings.LABEL)

    async def asend(self, number: int) -> None:
        await bench.enqueue_async(number, settings.LABEL)

    def send_many(self, numbers: Sequence[int]) -> None:
        app.enqueue_many([bench.message(number, settings.LABEL) for number in numbers])

    async def asend_many(self, numbers: Sequence[int]) -> None:
        await app.enqueue_many_async([bench.message(number, settings.LABEL) for number in numbers])

    async def asend_keyed(self, count: int, keys: int) -> None:
        """Enqueue so many with flow keys, in turn."""
        for start in range(0, count, WINDOW):
            numbers = range(start, min(start + WINDOW, count))
            await app.enqueue_many_async([
                bench.options(flow_key=key_of(number, keys), flow_parallelism=MANY).message(-1, settings.LABEL)
                for number in numbers
            ])  # fmt: skip

    def call(self, number: int) -> int:
        return bench.enqueue(number, settings.LABEL).get_result(timeout=30)

    async def acall(self, number: int) -> int:
        handle = await bench.enqueue_async(number, settings.LABEL)
        return await handle.get_result_async(timeout=30)

    def call_many(self, numbers: Sequence[int]) -> None:
        for handle in app.enqueue_many([bench.message(number, settings.LABEL) for number in numbers]):
            handle.get_result(timeout=30)

    def fill(self, count: int) -> None:
        """By `enqueue_many`: no copies, for every message has an id of its own."""
        self.since = time.time_ns() // 1000
        for start in range(0, count, WINDOW):
            self.send_many([-1] * min(WINDOW, count - start))

    def recorded(self, count: int) -> int:
        deadline = time.monotonic() + 60
        while (found := self.count("taskq_messages WHERE ended_at >= " + str(self.since))) < count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{found} of {count} outcomes are on record after 60 s")
            time.sleep(0.002)
        return time.monotonic_ns()

    def count(self, rows: str) -> int:
        """How many such rows the store has, by a connection of our own."""
        statement = f"SELECT count(*) FROM {rows}"
        if _settings.store.startswith("sqlite"):
            connection = sqlite3.connect(unquote(_settings.store.removeprefix("sqlite:///")), timeout=30)
            try:
                return int(connection.execute(statement).fetchone()[0])
            finally:
                connection.close()
        import psycopg  # here: workers load this module too, and the driver is 7 MB that most of them do not use

        with psycopg.connect(_settings.store) as postgres:
            found = postgres.execute(statement.encode()).fetchone()
            return int(found[0]) if found else 0


PEER = TaskqPeer()
