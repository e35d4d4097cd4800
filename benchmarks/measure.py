"""What a measurement is, and the arithmetic that they share."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.contestants import Contestant
from benchmarks.stage import Stage


@dataclass(frozen=True, slots=True)
class Measure:
    """One table.

    name         str, for --only and the data
    title, unit  str, as printed
    contestants  who takes part, in the order of the first round
    run          one run of one contestant: figures by name
    figure       str, the one that is compared; the others are printed beside it
    lower        bool, less is better
    once         bool, it is too long to be repeated, or varies too little
    named        bool, it runs only where it is named (`--only`): it has no goal and no peer
    """

    name: str
    title: str
    unit: str
    contestants: tuple[Contestant, ...]
    run: Callable[[Stage], dict[str, float]]
    figure: str = "rate"
    lower: bool = False
    once: bool = False
    named: bool = False


def rate(answer: dict[str, Any]) -> dict[str, float]:
    """Messages a second of a `produce` that counted and took the time, with CPU microseconds per message."""
    count = answer["count"]
    costs = {f"{who}_cpu_us": answer[f"{who}_cpu"] / count * 1e6 for who in ("worker", "broker", "store")}
    return {"rate": count / answer["seconds"], "count": count, "sender_cpu_us": answer["cpu"] / count * 1e6} | costs


def percentiles(seconds: list[float]) -> dict[str, float]:
    """p50 and p99 in milliseconds."""
    cuts = statistics.quantiles(seconds, n=100)
    return {"p50": cuts[49] * 1000, "p99": cuts[98] * 1000, "count": float(len(seconds))}
