"""Every measurement, in the order in which they run."""

from __future__ import annotations

from benchmarks.measure import Measure
from benchmarks.measures import (
    api_deliver,
    api_latency,
    api_publish,
    backlog,
    beat,
    drain,
    enqueue_at_once,
    enqueue_many,
    enqueue_one,
    idle_worker,
    import_time,
    limited,
    lone_task,
    release,
    round_trip,
)

MEASURES: tuple[Measure, ...] = (
    enqueue_one.MEASURE,
    enqueue_at_once.MEASURE,
    enqueue_many.MEASURE,
    drain.ONE,
    drain.TWO,
    lone_task.MEASURE,
    round_trip.ALONE,
    round_trip.FLIGHT,
    limited.FIFO,
    limited.POOL,
    idle_worker.MEMORY,
    idle_worker.START,
    import_time.MEASURE,
    backlog.MEASURE,
    beat.SPREAD,
    beat.JITTERED,
    beat.AT_ONCE,
    api_publish.MEASURE,
    api_deliver.MEASURE,
    api_latency.MEASURE,
    release.ONE,
    release.MANY,
)
