"""How throughput grows beyond one machine: a bottleneck law, its parameters taken from the kept points of `scale.py`.

Every message costs CPU in the worker (w), in the broker (b) and, where it is recorded, in the store (s). A machine of
C cores on which all of them run, with W worker processes of one core each, can do no more than

    X(W, C) = e * min(W / w, C / (w + b + s))

where e, the one fitted parameter, is the share of that bound that is reached (scheduling, hand-overs, caches). In a
cluster each part has cores of its own, and a queue (a partition) has one leader, an Erlang process:

    X = e * min(W / w, P / b, sum of the brokers' cores / (b * copies), 1 / s)

The store is one server, of which the model takes one core: commits are one after the other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

CORES = 2  # of the machine that was measured, if a point does not say
FOLLOWER = 0.5  # of a leader's CPU that a follower needs for its copy; assumed, not measured


@dataclass(frozen=True, slots=True)
class Reading:
    """One measured point: processes, cores, messages a second, and CPU seconds per message."""

    processes: int
    cores: int
    rate: float
    worker: float
    broker: float
    store: float


@dataclass(frozen=True, slots=True)
class Model:
    """Costs in CPU seconds per message, and the share of the bound that is reached."""

    worker: float
    broker: float
    store: float
    share: float

    def one_machine(self, processes: int, cores: int) -> float:
        """Messages a second where workers, broker and store share one machine."""
        bound = min(processes / self.worker, cores / (self.worker + self.broker + self.store))
        return self.share * bound

    def cluster(self, workers: int, partitions: int, nodes: int, node_cores: int) -> tuple[float, str]:
        """Messages a second, and what bounds them.

        Args:
            workers: cores for worker processes, one process each.
            partitions: queues or lanes, each led by one node.
            nodes: of the broker; each message has a copy on every one.
            node_cores: cores of one node.
        """
        copies = 1 + FOLLOWER * (nodes - 1)
        bounds = {
            "workers": workers / self.worker,
            "leaders": partitions / self.broker,
            "broker": nodes * node_cores / (self.broker * copies),
        }
        if self.store:
            bounds["store"] = 1 / self.store
        what = min(bounds, key=lambda name: bounds[name])
        return self.share * bounds[what], what


def fit(readings: Sequence[Reading]) -> Model:
    """Costs are means, weighted alike; the share is the one whose logarithmic residuals have the least squares."""
    worker = sum(each.worker for each in readings) / len(readings)
    broker = sum(each.broker for each in readings) / len(readings)
    store = sum(each.store for each in readings) / len(readings)
    bare = Model(worker, broker, store, 1.0)
    logs = [math.log(each.rate / bare.one_machine(each.processes, each.cores)) for each in readings]
    return Model(worker, broker, store, math.exp(sum(logs) / len(logs)))


def residuals(model: Model, readings: Sequence[Reading]) -> list[float]:
    """By which share each measured rate is above (below, if negative) the model's."""
    return [each.rate / model.one_machine(each.processes, each.cores) - 1 for each in readings]


def readings(points: Mapping[str, Mapping[str, Any]], axis: str) -> list[Reading]:
    """The kept points of an axis whose values are worker processes."""
    found = []
    for name, point in points.items():
        start, _, value = name.partition("/")
        if start == axis:
            figures = point["figures"]
            costs = [figures.get(f"{who}_cpu_us", 0.0) / 1e6 for who in ("worker", "broker", "store")]
            found.append(Reading(int(value), int(point.get("cores", CORES)), figures["rate"], *costs))
    return sorted(found, key=lambda reading: reading.processes)
