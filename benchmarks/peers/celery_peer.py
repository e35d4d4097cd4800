"""Celery: py-amqp, confirms on, acknowledged after the run, a quorum queue.

The threads pool is its fastest for trivial tasks among those that acknowledge all they ran: about twice
prefork, its default, which is measured beside it. The solo pool is about half as fast again, but stopping one gave
back up to 93 tasks that had run (Celery 5.7.0). Events and remote control are off, and results where they are
not measured.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import celery
from celery import Celery

from benchmarks import board, settings
from benchmarks.peers.base import Peer

_settings = settings.from_environment()
_QUEUE = f"celery-{_settings.queue_type}-{settings.NAME}"
_marker = board.from_environment()

app = Celery("bench", broker=_settings.broker, backend=_settings.redis if _settings.results else None)
app.conf.update(
    broker_transport_options={"confirm_publish": True},
    broker_connection_retry_on_startup=True,
    task_acks_late=True,
    task_default_queue=_QUEUE,
    task_default_exchange_type="direct",
    task_default_queue_type=_settings.queue_type,
    task_ignore_result=not _settings.results,
    worker_prefetch_multiplier=128,
    worker_send_task_events=False,
    worker_enable_remote_control=False,
    worker_hijack_root_logger=False,
)


@app.task(name="bench")
def bench(number: int, label: str) -> int:
    """Mark the board."""
    _marker.mark(number)
    return number


class CeleryPeer(Peer):
    """Celery's producer: one process, one thread."""

    sync = True
    queue = _QUEUE
    queues = (_QUEUE, *(f"celery_delayed_{i}" for i in range(28)))
    exchanges = (_QUEUE, "celery_delayed_delivery", *(f"celery_delayed_{i}" for i in range(28)))
    kind = _settings.queue_type
    note = f"Celery {celery.__version__}: {_settings.pool}, acks_late, confirm_publish, prefetch 128"
    broker = _settings.broker

    async def open(self) -> None:
        with app.producer_or_acquire() as producer:
            app.amqp.queues[_QUEUE](producer.channel).declare()

    def worker_commands(self, processes: int) -> list[list[str]]:
        command = [sys.executable, "-m", "celery", "-A", "benchmarks.peers.celery_peer:app", "worker", "-l", "error"]
        command += ["--without-gossip", "--without-mingle", "--without-heartbeat", "--pool", _settings.pool]
        if _settings.pool == "prefork":
            return [[*command, "-c", str(processes)]]
        return [[*command, "-c", "2", "-n", f"bench{i}@%h"] for i in range(processes)]

    def send(self, number: int) -> None:
        bench.delay(number, settings.LABEL)

    def call(self, number: int) -> int:
        return int(bench.delay(number, settings.LABEL).get(timeout=30))

    def call_many(self, numbers: Sequence[int]) -> None:
        for result in [bench.delay(number, settings.LABEL) for number in numbers]:
            result.get(timeout=30)


PEER = CeleryPeer()
