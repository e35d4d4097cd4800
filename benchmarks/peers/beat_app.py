"""taskq's app with schedules, for `taskq beat`: so many crons of one tick a minute, by what the environment says."""

from __future__ import annotations

import os

from benchmarks.peers.taskq_peer import app, bench
from benchmarks.settings import LABEL

COUNT = "TASKQ_BENCH_SCHEDULES"
SECOND = "TASKQ_BENCH_SECOND"  # the second of all of them; unset: they are spread over the minute
JITTER = "TASKQ_BENCH_JITTER"  # seconds of it

if COUNT in os.environ:
    _jitter = float(os.environ.get(JITTER, 0))
    for _number in range(int(os.environ[COUNT])):
        _second = os.environ.get(SECOND) or _number % 60
        app.schedule(f"s{_number}", bench, cron=f"{_second} * * * * *", args=[_number, LABEL], jitter=_jitter)
