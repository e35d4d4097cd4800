"""Who takes part: each name, the module that plays it, and what its settings differ in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Contestant:
    """One row of the table.

    name      str, as printed
    module    str, in `benchmarks.peers`
    settings  dict, fields of `Settings` that differ from the default
    store     str, which store a taskq contestant opens: "sqlite" or "postgres"
    """

    name: str
    module: str
    settings: dict[str, Any] = field(default_factory=dict)
    store: str = ""

    @property
    def ours(self) -> bool:
        return self.module.startswith("taskq_")


def taskq(name: str, store: str = "sqlite", **settings: Any) -> Contestant:
    """taskq with that store; `settings` are fields of `Settings`."""
    return Contestant(name, "taskq_peer", settings, store)


TASKQ = taskq("taskq")  # result=False: nothing recorded, as with the peers
TASKQ_SQLITE = taskq("taskq, recorded in SQLite", record=True)
TASKQ_POSTGRES = taskq("taskq, recorded in PostgreSQL", "postgres", record=True)
TASKQ_RESULT_SQLITE = taskq("taskq, SQLite", record=True, results=True)
TASKQ_RESULT_POSTGRES = taskq("taskq, PostgreSQL", "postgres", record=True, results=True)
TASKQ_ASYNC = taskq("taskq, enqueue_async", mode="async")

CELERY = Contestant("Celery", "celery_peer")
CELERY_PREFORK = Contestant("Celery, prefork", "celery_peer", {"pool": "prefork"})
DRAMATIQ = Contestant("Dramatiq", "dramatiq_peer", {"queue_type": "classic"})
TASKIQ = Contestant("Taskiq", "taskiq_peer")
FASTSTREAM = Contestant("FastStream", "faststream_peer")
AIO_PIKA = Contestant("aio-pika", "aio_pika_peer")
AIO_PIKA_CLASSIC = Contestant("aio-pika, classic", "aio_pika_peer", {"queue_type": "classic"})

TASKQ_HTTP_POSTGRES = Contestant("taskq, PostgreSQL", "taskq_http_peer", {"record": True}, "postgres")
TASKQ_HTTP_SQLITE = Contestant("taskq, SQLite", "taskq_http_peer", {"record": True}, "sqlite")
BARE_HTTP = Contestant("bare uvicorn and httpx", "bare_http_peer")

KEEPERS = (CELERY, DRAMATIQ, TASKIQ)  # they keep results, in Redis
FRAMEWORKS = (*KEEPERS, FASTSTREAM)
PEERS = (*FRAMEWORKS, AIO_PIKA)
