"""What a contestant's processes are told, by environment variables: the same for driver and workers."""

from __future__ import annotations

import os
from dataclasses import dataclass

BROKER = "TASKQ_BENCH_BROKER"
REDIS = "TASKQ_BENCH_REDIS"
STORE = "TASKQ_BENCH_STORE"
QUEUE_TYPE = "TASKQ_BENCH_QUEUE_TYPE"
RESULTS = "TASKQ_BENCH_RESULTS"
RECORD = "TASKQ_BENCH_RECORD"
KIND = "TASKQ_BENCH_KIND"
POOL = "TASKQ_BENCH_POOL"
MODE = "TASKQ_BENCH_MODE"
PREFIX = "TASKQ_BENCH_PREFIX"
API = "TASKQ_BENCH_API"
ENDPOINT = "TASKQ_BENCH_ENDPOINT"

NAME = "bench"  # of every contestant's queue, after its own prefix
LABEL = "a short string"  # the second argument of every task


@dataclass(frozen=True, slots=True)
class Settings:
    """One contestant's share of a run.

    broker       str, AMQP URL
    redis        str, URL of the result backend; "": there is none
    store        str, taskq's store
    queue_type   str, "quorum" or "classic", for those that let one choose
    results      bool, the task's result is kept where the producer can read it
    record       bool, taskq: the outcome is recorded in the store (its default)
    kind         str, "open", and for taskq "fifo" or "pool", for aio-pika "fifo"
    mode         str, taskq: its producer's calls, "sync" or "async"
    pool         str, Celery: "threads" or "prefork"
    prefix       str, taskq: of all its names on the broker
    api          str, URL at which the HTTP server is to be
    endpoint     str, URL of the destination of deliveries
    """

    broker: str
    redis: str = ""
    store: str = ""
    queue_type: str = "quorum"
    results: bool = False
    record: bool = False
    kind: str = "open"
    mode: str = "sync"
    pool: str = "threads"
    prefix: str = "taskq-bench"
    api: str = ""
    endpoint: str = ""

    def environment(self) -> dict[str, str]:
        """The variables that `from_environment` reads."""
        return {
            BROKER: self.broker,
            REDIS: self.redis,
            STORE: self.store,
            QUEUE_TYPE: self.queue_type,
            RESULTS: "1" if self.results else "",
            RECORD: "1" if self.record else "",
            KIND: self.kind,
            MODE: self.mode,
            POOL: self.pool,
            PREFIX: self.prefix,
            API: self.api,
            ENDPOINT: self.endpoint,
        }


def from_environment() -> Settings:
    """The settings that the runner gave to this process."""
    get = os.environ.get
    return Settings(
        broker=os.environ[BROKER],
        redis=get(REDIS, ""),
        store=get(STORE, ""),
        queue_type=get(QUEUE_TYPE, "quorum"),
        results=bool(get(RESULTS)),
        record=bool(get(RECORD)),
        kind=get(KIND, "open"),
        mode=get(MODE, "sync"),
        pool=get(POOL, "threads"),
        prefix=get(PREFIX, "taskq-bench"),
        api=get(API, ""),
        endpoint=get(ENDPOINT, ""),
    )
