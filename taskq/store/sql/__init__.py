"""Statements by purpose. A verb is a function of a transaction (`lines.Tx`) and its arguments; the two
databases differ in `bulk` alone."""

from taskq.store.sql import (
    accept,
    cancels,
    changes,
    dead_letters,
    dedup,
    events,
    flow,
    groups,
    messages,
    outbox,
    pruning,
    queues,
    requests,
    schedules,
    settle,
    signing_keys,
    starts,
    waiting,
)

__all__ = [
    "accept",
    "cancels",
    "changes",
    "dead_letters",
    "dedup",
    "events",
    "flow",
    "groups",
    "messages",
    "outbox",
    "pruning",
    "queues",
    "requests",
    "schedules",
    "settle",
    "signing_keys",
    "starts",
    "waiting",
]
