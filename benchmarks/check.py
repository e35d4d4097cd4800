"""`make bench-check`: is taskq slower than the committed baseline says, by more than noise?

Compared are ratios to plain aio-pika in the same run (rate, latency, CPU per message), so that another machine or a
busy one makes no difference of its own, an idle worker's memory, and instructions per message (`instructions.py`).
A figure has become worse if it is beyond its baseline by more than three times its spread there, and by more than
20 %; a count of instructions if it has grown by more than 3 %. Each such figure is a line, and the exit code is 1.

    python -m benchmarks.check            compare
    python -m benchmarks.check --write    measure, and write benchmarks/baseline.json
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import signal
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.contestants import AIO_PIKA, TASKQ, TASKQ_ASYNC, TASKQ_SQLITE
from benchmarks.counted import WORKS
from benchmarks.instructions import NoValgrind, all_counts, built_for, need_valgrind
from benchmarks.measure import Measure
from benchmarks.measures import drain, enqueue_at_once, enqueue_many, enqueue_one, idle_worker, lone_task
from benchmarks.runner import Row, Table, environment, run_measure
from benchmarks.services import Services
from benchmarks.stage import Scale

BASELINE = Path(__file__).resolve().parent / "baseline.json"
_SCALE = Scale(seconds=0.7, samples=100)
_ROUNDS = 3
_SPREADS, _LEAST, _COUNTS = 3, 0.20, 0.03


@dataclass(frozen=True, slots=True)
class Figure:
    """What is known of one figure.

    median  float
    spread  float, the largest distance of a round from the median, as a share of it
    lower   bool, less is better
    exact   bool, a count of instructions
    """

    median: float
    spread: float
    lower: bool
    exact: bool = False


def figure_of(values: Sequence[float], lower: bool) -> Figure:
    """The figure of some rounds."""
    middle = statistics.median(values)
    return Figure(middle, max(abs(value / middle - 1) for value in values), lower)


def allowed(base: Figure) -> float:
    """By which share a figure may be worse than its baseline."""
    return _COUNTS if base.exact else max(_SPREADS * base.spread, _LEAST)


def worse_by(base: Figure, now: Figure) -> float:
    """By which share it is worse; negative where it is better."""
    return now.median / base.median - 1 if base.lower else base.median / now.median - 1


@dataclass(frozen=True, slots=True)
class Comparison:
    """One figure beside its baseline."""

    name: str
    base: Figure
    now: Figure

    @property
    def regressed(self) -> bool:
        return worse_by(self.base, self.now) > allowed(self.base)

    def __str__(self) -> str:
        share = worse_by(self.base, self.now)
        words = f"{abs(share):.0%} {'worse' if share > 0 else 'better'}, {allowed(self.base):.0%} allowed"
        verdict = "WORSE" if self.regressed else "ok"
        return f"{verdict:6}{self.name:58}{self.base.median:>12,.2f} ->{self.now.median:>12,.2f}   {words}"


def compare(base: dict[str, Figure], now: dict[str, Figure]) -> list[Comparison]:
    """Those that both know."""
    return [Comparison(name, base[name], now[name]) for name in base if name in now]


# -- measuring ----------------------------------------------------------------------------------

_CHOSEN = (
    dataclasses.replace(enqueue_one.MEASURE, contestants=(TASKQ, AIO_PIKA)),
    dataclasses.replace(enqueue_at_once.MEASURE, contestants=(TASKQ_ASYNC, AIO_PIKA)),
    dataclasses.replace(enqueue_many.MEASURE, contestants=(TASKQ, AIO_PIKA)),
    dataclasses.replace(drain.ONE, contestants=(TASKQ, TASKQ_SQLITE, AIO_PIKA)),
    dataclasses.replace(lone_task.MEASURE, contestants=(TASKQ_ASYNC, AIO_PIKA)),
    dataclasses.replace(idle_worker.MEMORY, contestants=(TASKQ_SQLITE,)),
)
_COSTS = {"enqueue": ("sender_cpu_us", "broker_cpu_us"), "drain_": ("worker_cpu_us", "broker_cpu_us")}


def ratios(table: Table) -> dict[str, Figure]:
    """Ours to aio-pika's of the same round, for the figure that is compared and for the CPU."""
    measure = table.measure
    rows = {row.contestant.name: row for row in table.rows}
    bare = rows.pop("aio-pika", None)
    found = {}
    for name, row in rows.items():
        for figure, lower in _names(measure):
            values = _each(row, bare, figure)
            if values:
                found[f"{measure.name}, {name}: {figure}"] = figure_of(values, lower)
    return found


def _names(measure: Measure) -> list[tuple[str, bool]]:
    costs = next((names for start, names in _COSTS.items() if measure.name.startswith(start)), ())
    return [(measure.figure, measure.lower), *((name, True) for name in costs)]


def _each(row: Row, bare: Row | None, figure: str) -> list[float]:
    ours = [run[figure] for run in row.runs]
    if bare is None:
        return ours
    theirs = [run[figure] for run in bare.runs]
    return [mine / other for mine, other in zip(ours, theirs, strict=False) if mine and other]


def measure_all(services: Services, folder: Path) -> dict[str, Figure]:
    """Every figure but the counts.

    Raises:
        RuntimeError: a contestant failed.
    """
    found: dict[str, Figure] = {}
    for measure in _CHOSEN:
        table = run_measure(measure, services, folder, _SCALE, _ROUNDS, lambda text: print(text, file=sys.stderr))
        troubles = [f"{measure.name}, {row.contestant.name}: {row.trouble}" for row in table.rows if row.trouble]
        if troubles:
            raise RuntimeError("; ".join(troubles))
        found |= ratios(table)
    return found


def counts() -> dict[str, Figure]:
    """Instructions per message."""
    return {
        f"instructions: {WORKS[what]}": Figure(value, 0, lower=True, exact=True) for what, value in all_counts().items()
    }


def write(path: Path, about: dict[str, Any], figures: dict[str, Figure]) -> None:
    """Keep a baseline."""
    kept = {name: asdict(figure) for name, figure in figures.items()}
    for figure in kept.values():
        figure["median"], figure["spread"] = round(figure["median"], 4), round(figure["spread"], 4)
    path.write_text(json.dumps({"environment": about, "built_for": built_for(), "figures": kept}, indent=1) + "\n")


def read(path: Path) -> tuple[str, dict[str, Figure]]:
    """What its counts were built for, and its figures."""
    data = json.loads(path.read_text())
    return data["built_for"], {name: Figure(**figure) for name, figure in data["figures"].items()}


def main() -> int:
    """Measure; compare or keep."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="keep what is measured as the baseline")
    parser.add_argument("--baseline", type=Path, default=BASELINE)
    parser.add_argument("--broker", metavar="URL", help="RabbitMQ to use instead of a private one")
    parser.add_argument(
        "--store", metavar="URL", help="PostgreSQL to use; none is measured, but one is started without"
    )
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what we started is ended too
    if not options.write and not options.baseline.exists():
        print(f"there is no {options.baseline}: --write makes one of what is measured here", file=sys.stderr)
        return 2
    try:
        need_valgrind()
    except NoValgrind as error:
        print(error, file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="taskq-bench-") as name:
        with Services(Path(name), options.broker, options.store) as services:
            about = environment(services)
            now = measure_all(services, Path(name))
    now |= counts()
    if options.write:
        write(options.baseline, about, now)
        print(f"kept in {options.baseline}")
        return 0
    built, base = read(options.baseline)
    if built != built_for():
        print(f"instructions are not compared: the baseline's are of {built}, here is {built_for()}", file=sys.stderr)
        base = {name: figure for name, figure in base.items() if not figure.exact}
    comparisons = compare(base, now)
    for comparison in comparisons:
        print(comparison)
    worse = [comparison for comparison in comparisons if comparison.regressed]
    print(f"{len(worse)} of {len(comparisons)} figures are worse than the baseline, beyond noise")
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
