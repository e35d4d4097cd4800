"""How long the import takes in a fresh interpreter, its bytecode compiled: what every producer pays at start."""

from __future__ import annotations

import statistics
import subprocess
import sys

from benchmarks.contestants import PEERS, TASKQ
from benchmarks.measure import Measure
from benchmarks.stage import Stage

_IMPORTS = {
    "taskq_peer": "from taskq import Queue, TaskQ, task",
    "celery_peer": "from celery import Celery",
    "dramatiq_peer": "import dramatiq; from dramatiq.brokers.rabbitmq import RabbitmqBroker",
    "taskiq_peer": "import taskiq; from taskiq_aio_pika import AioPikaBroker",
    "faststream_peer": "import faststream; from faststream.rabbit import RabbitBroker",
    "aio_pika_peer": "import aio_pika",
}
_TRIES = 7


def run(stage: Stage) -> dict[str, float]:
    """Milliseconds, the median of a few interpreters."""
    line = _IMPORTS[stage.contestant.module]
    program = f"import time; begin = time.perf_counter(); {line}; print(time.perf_counter() - begin)"
    times = []
    for _ in range(_TRIES):
        output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
        times.append(float(output) * 1000)
    return {"ms": statistics.median(times)}


MEASURE = Measure("import", "import", "ms", (TASKQ, *PEERS), run, figure="ms", lower=True, once=True)
