"""Dramatiq: pika, confirm_delivery on, its classic durable queue (it knows no other), threads."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from collections.abc import Sequence

os.environ.setdefault("dramatiq_queue_prefetch", "128")  # read when its worker module is imported

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from benchmarks import board, settings
from benchmarks.peers.base import Peer

_THREADS = "4"
_QUEUE = f"dramatiq-{settings.NAME}"
_settings = settings.from_environment()
_marker = board.from_environment()

broker = RabbitmqBroker(url=_settings.broker, confirm_delivery=True)
if _settings.results:
    broker.add_middleware(Results(backend=RedisBackend(url=_settings.redis)))
dramatiq.set_broker(broker)


@dramatiq.actor(queue_name=_QUEUE, **({"store_results": True} if _settings.results else {}))
def bench(number: int, label: str) -> int | None:
    """Mark the board."""
    _marker.mark(number)
    return number if _settings.results else None


class DramatiqPeer(Peer):
    """Dramatiq's producer: one process, one thread."""

    sync = True
    queue = _QUEUE
    queues = (_QUEUE, f"{_QUEUE}.DQ", f"{_QUEUE}.XQ")
    kind = "classic"
    note = f"Dramatiq {importlib.metadata.version('dramatiq')}: --threads {_THREADS}, confirm_delivery, prefetch 128"
    broker = _settings.broker

    async def open(self) -> None:
        broker.declare_queue(_QUEUE, ensure=True)

    def worker_commands(self, processes: int) -> list[list[str]]:
        command = [sys.executable, "-m", "dramatiq", "benchmarks.peers.dramatiq_peer"]
        return [command + ["--processes", str(processes), "--threads", _THREADS, "--skip-logging"]]

    def send(self, number: int) -> None:
        bench.send(number, settings.LABEL)

    def call(self, number: int) -> int:
        return int(bench.send(number, settings.LABEL).get_result(block=True, timeout=30_000))

    def call_many(self, numbers: Sequence[int]) -> None:
        for message in [bench.send(number, settings.LABEL) for number in numbers]:
            message.get_result(block=True, timeout=30_000)


PEER = DramatiqPeer()
