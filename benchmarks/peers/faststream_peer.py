"""FastStream on RabbitMQ: asyncio, confirms by aio-pika's default, a quorum queue, acknowledged after the run.

Its reply of its own (`broker.request`, direct reply-to) is the round trip: nothing is kept.
"""

from __future__ import annotations

import importlib.metadata
import sys

from faststream import AckPolicy, FastStream
from faststream.rabbit import Channel, QueueType, RabbitBroker, RabbitQueue

from benchmarks import board, settings
from benchmarks.peers.base import Peer

_PREFETCH = 200
_settings = settings.from_environment()
_QUEUE = f"faststream-{settings.NAME}"
_marker = board.from_environment()

broker = RabbitBroker(_settings.broker, default_channel=Channel(prefetch_count=_PREFETCH), logger=None)
app = FastStream(broker, logger=None)
queue = RabbitQueue(_QUEUE, queue_type=QueueType.QUORUM)


@broker.subscriber(queue, ack_policy=AckPolicy.NACK_ON_ERROR)
async def bench(number: int, label: str) -> int:
    """Mark the board."""
    _marker.mark(number)
    return number


class FastStreamPeer(Peer):
    """FastStream's producer: one process, one loop."""

    queue = _QUEUE
    queues = (_QUEUE,)
    kind = "quorum"
    note = f"FastStream {importlib.metadata.version('faststream')}: prefetch {_PREFETCH}, persist, ack after the run"
    broker = _settings.broker

    async def open(self) -> None:
        await broker.connect()
        await broker.declare_queue(queue)

    async def close(self) -> None:
        await broker.stop()

    def worker_commands(self, processes: int) -> list[list[str]]:
        command = [sys.executable, "-m", "faststream", "run", "benchmarks.peers.faststream_peer:app"]
        return [[*command, "--loop", "uvloop:new_event_loop"] for _ in range(processes)]

    async def asend(self, number: int) -> None:
        await broker.publish({"number": number, "label": settings.LABEL}, queue=_QUEUE, persist=True)

    async def acall(self, number: int) -> int:
        body = {"number": number, "label": settings.LABEL}
        reply = await broker.request(body, queue=_QUEUE, persist=True, timeout=30)
        return int(str(await reply.decode()))


PEER = FastStreamPeer()
