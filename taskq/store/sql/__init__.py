"""Statements by purpose. A verb is a function of a transaction (`lines.Tx`) and its arguments; the two
databases differ in `bulk` alone."""

from taskq.store.sql import (
    cancels,
    changes,
    dead_letters,
    dedup,
    flow,
    messages,
    outbox,
    pruning,
    queues,
    schedules,
    settle,
    starts,
    waiting,
)

__all__ = [
    "cancels",
    "changes",
    "dead_letters",
    "dedup",
    "flow",
    "messages",
    "outbox",
    "pruning",
    "queues",
    "schedules",
    "settle",
    "starts",
    "waiting",
]
