"""taskq's HTTP API: messages for the endpoint of the run, published through it or, to fill a queue, beside it."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from urllib.parse import urlsplit

from benchmarks import settings
from benchmarks.http_load import BODY
from benchmarks.peers import taskq_peer
from benchmarks.peers.taskq_peer import MANY, WINDOW, TaskqPeer, app, key_of
from taskq.api.publisher import Order, Publisher
from taskq.broker.base import BrokerQueue, Kind
from taskq.broker.topology import Names
from taskq.http.request import HTTP_TASK

_settings = settings.from_environment()


class TaskqHttpPeer(TaskqPeer):
    """`taskq api` accepts, a worker of the queue "http" delivers."""

    sync = False

    def __init__(self) -> None:
        super().__init__()
        self.queue = Names(_settings.prefix).queue(BrokerQueue(Kind.TASK, HTTP_TASK))
        self.queues = [*self.queues, self.queue]

    async def open(self) -> None:
        client = app.client()
        store, broker = await client.store(), await client.broker()
        assert client.dispatcher is not None
        self._publisher = Publisher(app=app, store=store, broker=broker, dispatcher=client.dispatcher)
        await self._publisher.prepare()

    async def close(self) -> None:
        await self._publisher.close()
        await app.close()

    def worker_commands(self, processes: int) -> list[list[str]]:
        return [self.worker_command(processes, HTTP_TASK)]

    def server_command(self) -> list[str]:
        port = str(urlsplit(_settings.api).port)
        return [sys.executable, "-m", "taskq", "api", f"{taskq_peer.__name__}:app", "--port", port]

    def publish_url(self, number: int) -> str:
        return f"{_settings.api}/v2/publish/{_settings.endpoint}/{number}"

    async def forward(self, number: int) -> None:
        """The worker does it."""

    async def asend(self, number: int) -> None:
        await self._publisher.send(self._order(number))

    async def asend_many(self, numbers: Sequence[int]) -> None:
        """As a batch."""
        await self._send([self._order(number) for number in numbers])

    async def asend_keyed(self, count: int, keys: int) -> None:
        for start in range(0, count, WINDOW):
            await self._send([self._order(-1, key_of(n, keys)) for n in range(start, min(start + WINDOW, count))])

    async def _send(self, orders: Sequence[Order]) -> None:
        for sent in await self._publisher.send_many(orders):
            if isinstance(sent, Exception):
                raise sent

    def _order(self, number: int, key: str | None = None) -> Order:
        headers: tuple[tuple[str, str], ...] = (("Content-Type", "application/json"),)
        if key is not None:
            limits = ("Upstash-Flow-Control-Value", f"parallelism={MANY}")
            headers = (*headers, ("Upstash-Flow-Control-Key", key), limits)
        return Order(f"{_settings.endpoint}/{number}", headers, (), BODY)

    def fill(self, count: int) -> None:
        self.since = time.time_ns() // 1000
        loop = asyncio.get_event_loop()
        for start in range(0, count, WINDOW):
            loop.run_until_complete(self.asend_many([-1] * min(WINDOW, count - start)))


PEER = TaskqHttpPeer()
