"""Taskiq with taskiq-aio-pika: asyncio, confirms by aio-pika's default, a quorum queue, acknowledged after the run."""

from __future__ import annotations

import importlib.metadata
import sys

from taskiq_aio_pika import AioPikaBroker, Exchange, Queue, QueueType
from taskiq_redis import RedisAsyncResultBackend

from benchmarks import board, settings
from benchmarks.peers.base import Peer

_PREFETCH = 200
_settings = settings.from_environment()
_QUEUE = f"taskiq-{_settings.queue_type}-{settings.NAME}"
_marker = board.from_environment()

broker = AioPikaBroker(
    _settings.broker,
    qos=_PREFETCH,
    exchange=Exchange(name="taskiq-bench"),
    dead_letter_queue=Queue(name=f"{_QUEUE}.dead"),
    task_queues=[Queue(name=_QUEUE, type=QueueType(_settings.queue_type))],
)
if _settings.results:
    broker = broker.with_result_backend(RedisAsyncResultBackend(_settings.redis, result_ex_time=600))


@broker.task(task_name="bench")
async def bench(number: int, label: str) -> int:
    """Mark the board."""
    _marker.mark(number)
    return number


class TaskiqPeer(Peer):
    """Taskiq's producer: one process, one loop."""

    queue = _QUEUE
    queues = (_QUEUE, f"{_QUEUE}.dead")
    exchanges = ("taskiq-bench",)
    kind = _settings.queue_type
    note = (
        f"Taskiq {importlib.metadata.version('taskiq')}, "
        f"taskiq-aio-pika {importlib.metadata.version('taskiq-aio-pika')}: "
        f"qos {_PREFETCH}, max-async-tasks {_PREFETCH}, ack when_executed"
    )
    broker = _settings.broker

    async def open(self) -> None:
        await broker.startup()

    async def close(self) -> None:
        await broker.shutdown()

    def worker_commands(self, processes: int) -> list[list[str]]:
        command = [sys.executable, "-m", "taskiq", "worker", "benchmarks.peers.taskiq_peer:broker"]
        acknowledge = "when_saved" if _settings.results else "when_executed"
        options = ["--workers", str(processes), "--max-async-tasks", str(_PREFETCH), "--ack-type", acknowledge]
        return [command + options + ["--log-level", "ERROR"]]

    async def asend(self, number: int) -> None:
        await bench.kiq(number, settings.LABEL)

    async def acall(self, number: int) -> int:
        task = await bench.kiq(number, settings.LABEL)
        return (await task.wait_result(check_interval=0.002, timeout=30)).return_value


PEER = TaskiqPeer()
