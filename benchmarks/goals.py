"""What taskq sets out to reach, as arithmetic over the tables of a run."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.contestants import FRAMEWORKS, KEEPERS
from benchmarks.runner import Row, Table

_FRAMEWORKS = tuple(peer.name for peer in FRAMEWORKS)
_KEEPERS = tuple(peer.name for peer in KEEPERS)


class Unmeasured(Exception):
    """A figure that the goal needs was not measured in this run."""


class Figures:
    """Medians by measurement and contestant."""

    def __init__(self, tables: Sequence[Table]) -> None:
        self._tables = {table.measure.name: table for table in tables}

    def _row(self, measure: str, contestant: str) -> Row:
        table = self._tables.get(measure)
        for row in table.rows if table else ():
            if row.contestant.name == contestant and row.runs:
                return row
        raise Unmeasured(f"{contestant} in {measure}")

    def of(self, measure: str, contestant: str, figure: str = "") -> float:
        """The median of one contestant's figure."""
        row = self._row(measure, contestant)
        name = figure or self._tables[measure].measure.figure
        if any(name not in run for run in row.runs):
            raise Unmeasured(f"{name} of {contestant} in {measure}")
        return statistics.median(run[name] for run in row.runs)

    def best(self, measure: str, among: Sequence[str] = _FRAMEWORKS, kind: str = "") -> float:
        """The best median among those contestants, on that queue type if one is named."""
        found = []
        for name in among:
            try:
                row = self._row(measure, name)
            except Unmeasured:
                continue
            if not kind or row.kind == kind:
                found.append(self.of(measure, name))
        if not found:
            raise Unmeasured(f"any of {', '.join(among)} in {measure}")
        return min(found) if self._tables[measure].measure.lower else max(found)


@dataclass(frozen=True, slots=True)
class Goal:
    """One promise.

    text     str, as printed
    value    what was reached
    limit    float, what is promised
    at_most  bool, the promise is an upper bound
    unit     str, "×" or a unit
    """

    text: str
    value: Callable[[Figures], float]
    limit: float
    at_most: bool = False
    unit: str = "×"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A goal beside what was reached; value is None where it was not measured."""

    goal: Goal
    value: float | None
    missing: str = ""

    @property
    def met(self) -> bool:
        assert self.value is not None
        return self.value <= self.goal.limit if self.goal.at_most else self.value >= self.goal.limit


def _against(measure: str, ours: str) -> Callable[[Figures], float]:
    return lambda figures: figures.of(measure, ours) / figures.best(measure)


def _to_aio_pika(measure: str, ours: str) -> Callable[[Figures], float]:
    return lambda figures: figures.of(measure, ours) / figures.of(measure, "aio-pika")


def _of_beat(store: str, figure: str) -> Callable[[Figures], float]:
    return lambda figures: figures.of("beat", f"taskq, {store}", figure)


_LITE, _PG = "taskq, recorded in SQLite", "taskq, recorded in PostgreSQL"
_QUORUM = "quorum"

GOALS = (
    Goal("enqueue one by one, against the best peer", _against("enqueue_one", "taskq"), 1.1),
    Goal("enqueue_async 100 at once, against the best peer", _against("enqueue_at_once", "taskq, enqueue_async"), 2),
    Goal("enqueue_many, windows of 500, against aio-pika", _to_aio_pika("enqueue_many", "taskq"), 2.5),
    Goal("drain, 1 process, nothing recorded, against the best peer", _against("drain_one", "taskq"), 4),
    Goal("drain, 1 process, recorded in SQLite, against the best peer", _against("drain_one", _LITE), 2),
    Goal("drain, 1 process, recorded in PostgreSQL, against the best peer", _against("drain_one", _PG), 2),
    Goal("drain, 2 processes, nothing recorded, against the best peer", _against("drain_two", "taskq"), 3),
    Goal("a lone task p50, against bare quorum", _to_aio_pika("lone_task", "taskq, enqueue_async"), 1.15, at_most=True),
    Goal(
        "a lone task p50, against the best peer on a quorum queue",
        lambda f: f.of("lone_task", "taskq, enqueue_async") / f.best("lone_task", kind=_QUORUM),
        1,
        at_most=True,
    ),
    Goal("round trip p50, against bare quorum", _to_aio_pika("round_trip", "taskq, SQLite, async"), 1.3, at_most=True),
    Goal(
        "round trips, 100 in flight, against the best peer that keeps results",
        lambda f: f.of("round_trip_100", "taskq, SQLite, async") / f.best("round_trip_100", among=_KEEPERS),
        2,
    ),
    Goal("FIFO queue, recorded in SQLite", lambda f: f.of("fifo", _LITE), 1000, unit=" messages/s"),
    Goal("FIFO queue, recorded in PostgreSQL", lambda f: f.of("fifo", _PG), 1000, unit=" messages/s"),
    Goal(
        "pool of 8 in 2 processes, against the open queue",
        lambda f: f.of("pool", "taskq, pool of 8") / f.of("pool", "taskq, open"),
        0.7,
    ),
    Goal("memory of an idle worker", lambda f: f.of("idle_memory", _LITE), 65, at_most=True, unit=" MB"),
    Goal("import taskq", lambda f: f.of("import", "taskq"), 200, at_most=True, unit=" ms"),
    Goal("worker start to its first task", lambda f: f.of("start", _LITE), 800, at_most=True, unit=" ms"),
    Goal(
        "delayed messages, lateness p99 while 2,000/s fall due",
        lambda f: f.of("backlog", "taskq", "late_p99"),
        1000,
        at_most=True,
        unit=" ms",
    ),
    Goal(
        "worker memory beside the backlog, against without",
        lambda f: f.of("backlog", "taskq", "rss") / f.of("backlog", "taskq", "rss_before"),
        1.3,
        at_most=True,
    ),
    *(
        Goal(f"a beat at 167 ticks a second, {store}: {text}", _of_beat(store, figure), limit, at_most=True, unit=unit)
        for store in ("SQLite", "PostgreSQL")
        for text, figure, limit, unit in (("CPU", "cpu", 15, " % of a core"), ("lateness p99", "late_p99", 1000, " ms"))
    ),
)


def judge(tables: Sequence[Table]) -> list[Verdict]:
    """Every goal, in order."""
    figures, verdicts = Figures(tables), []
    for goal in GOALS:
        try:
            verdicts.append(Verdict(goal, goal.value(figures)))
        except Unmeasured as gap:
            verdicts.append(Verdict(goal, None, str(gap)))
    return verdicts
