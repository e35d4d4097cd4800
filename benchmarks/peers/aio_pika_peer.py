"""Plain aio-pika, no framework: JSON bodies, confirms, prefetch, acknowledged after the callback.

It is the raw limit of the library that most of the others stand on. Results go back over
an exclusive reply queue, unconfirmed: the bare round trip.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import signal
import sys
from typing import Any

import aio_pika
from aio_pika.abc import AbstractIncomingMessage

from benchmarks import board, settings
from benchmarks.peers.base import Peer

_settings = settings.from_environment()
_FIFO = _settings.kind == "fifo"
_PREFETCH = 1 if _FIFO else 200
_QUEUE = f"aio-pika-{_settings.queue_type}-{_settings.kind}-{settings.NAME}"
_ARGUMENTS: dict[str, Any] = {"x-queue-type": _settings.queue_type} | (
    {"x-single-active-consumer": True} if _FIFO else {}
)


async def work() -> None:
    """Consume until SIGTERM."""
    marker = board.from_environment()
    connection = await aio_pika.connect(_settings.broker)
    channel = await connection.channel()
    await channel.set_qos(_PREFETCH)
    replies = await connection.channel(publisher_confirms=False)

    async def run(message: AbstractIncomingMessage) -> None:
        number, label = json.loads(message.body)
        marker.mark(number)
        if message.reply_to:
            reply = aio_pika.Message(json.dumps(number).encode(), correlation_id=message.correlation_id)
            await replies.default_exchange.publish(reply, message.reply_to, mandatory=False)
        await message.ack()

    queue = await channel.declare_queue(_QUEUE, durable=True, arguments=_ARGUMENTS)
    await queue.consume(run)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    await ended.wait()
    await connection.close()


class AioPikaPeer(Peer):
    """One connection, one channel with confirms."""

    queue = _QUEUE
    queues = (_QUEUE,)
    kind = _settings.queue_type
    note = f"aio-pika {importlib.metadata.version('aio-pika')}: prefetch {_PREFETCH}, persistent, confirms, uvloop"
    broker = _settings.broker

    async def open(self) -> None:
        self._connection = await aio_pika.connect(_settings.broker)
        self._channel = await self._connection.channel()
        await self._channel.declare_queue(_QUEUE, durable=True, arguments=_ARGUMENTS)
        reply_queue = await self._channel.declare_queue(exclusive=True)
        self._replies: dict[str, asyncio.Future[int]] = {}
        self._reply_to = reply_queue.name
        await reply_queue.consume(self._on_reply, no_ack=True)

    async def close(self) -> None:
        await self._connection.close()

    async def _on_reply(self, message: AbstractIncomingMessage) -> None:
        self._replies.pop(message.correlation_id or "").set_result(json.loads(message.body))

    def worker_commands(self, processes: int) -> list[list[str]]:
        return [[sys.executable, "-m", "benchmarks.peers.aio_pika_peer"] for _ in range(processes)]

    async def asend(self, number: int, **properties: Any) -> None:
        body = json.dumps([number, settings.LABEL]).encode()
        message = aio_pika.Message(body, delivery_mode=aio_pika.DeliveryMode.PERSISTENT, **properties)
        await self._channel.default_exchange.publish(message, _QUEUE)

    def fill(self, count: int) -> None:
        """By itself where the queue is FIFO, for those refuse `basic.get`."""
        if not _FIFO:
            return super().fill(count)
        loop = asyncio.get_event_loop()
        for start in range(0, count, 500):
            loop.run_until_complete(self.asend_many([-1] * min(500, count - start)))

    async def acall(self, number: int) -> int:
        reply = self._replies[str(number)] = asyncio.get_running_loop().create_future()
        await self.asend(number, reply_to=self._reply_to, correlation_id=str(number))
        return await reply


PEER = AioPikaPeer()

if __name__ == "__main__":
    import uvloop

    uvloop.run(work())
