"""`make bench-scale`: how cost grows, point by point, each kept as soon as it is measured; then plots and tables.

    python -m benchmarks.scale             every point, a quarter of an hour
    ... --only queues,backlog/1000         an axis, and a point of another
    ... --missing                          what a run that was interrupted has not kept
    ... --plots                            measures nothing: plots and docs/scaling.md's tables, of what is kept

A point that is measured again takes the place of the older one in benchmarks/results/scale.json.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.measures.scale import POINTS, Figures, Point
from benchmarks.processes import busy_cores
from benchmarks.runner import environment
from benchmarks.services import Services
from benchmarks.stage import Scale, Stage

KEPT = Path(__file__).resolve().parent / "results" / "scale.json"
_SCALE = Scale(seconds=1.5)


def read(path: Path) -> dict[str, dict[str, Any]]:
    """The points that are kept, by name: figures, and when and where they were measured."""
    if not path.exists():
        return {}
    points: dict[str, dict[str, Any]] = json.loads(path.read_text())["points"]
    return points


def keep(path: Path, name: str, about: dict[str, Any], runs: Sequence[Figures]) -> None:
    """Write a point into the file, in place of an older one of that name."""
    points = read(path)
    medians = {figure: statistics.median(run[figure] for run in runs) for figure in runs[0]}
    rates = [run["rate"] for run in runs if "rate" in run]
    spread = {"rate_min": min(rates), "rate_max": max(rates)} if rates else {}
    points[name] = about | {"figures": {figure: round(value, 3) for figure, value in (medians | spread).items()}}
    order = {point.name: number for number, point in enumerate(POINTS)}
    sorted_points = dict(sorted(points.items(), key=lambda item: order.get(item[0], len(order))))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"points": sorted_points}, indent=1) + "\n")


def chosen(only: str | None, missing: bool, path: Path) -> list[Point]:
    """The points to measure."""
    known = read(path)
    wanted = only.split(",") if only else [""]
    return [
        point
        for point in POINTS
        if any(point.name == each or point.name.startswith(f"{each}/") or not each for each in wanted)
        and not (missing and point.name in known)
    ]


def measure(point: Point, services: Services, folder: Path) -> list[Figures]:
    """Its runs, each on a clean stage."""
    runs = []
    for _ in range(point.rounds):
        with Stage(point.contestant, services, folder, _SCALE) as stage:
            runs.append(point.run(stage, point.value))
    return runs


def main() -> int:
    """Measure, keep, plot. 1 if a point failed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scale", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", metavar="NAME[,NAME]", help="points, or axes: " + ", ".join(p.name for p in POINTS))
    parser.add_argument("--missing", action="store_true", help="only what is not kept yet")
    parser.add_argument("--plots", action="store_true", help="measure nothing")
    parser.add_argument("--kept", type=Path, default=KEPT, help="the file of the points")
    parser.add_argument("--broker", metavar="URL", help="RabbitMQ to use instead of a private one")
    parser.add_argument("--store", metavar="URL", help="PostgreSQL to use for what is recorded there")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what we started is ended too
    failed = 0
    if not options.plots:
        points = chosen(options.only, options.missing, options.kept)
        if not points and not options.missing:
            print(f"no point is named {options.only}", file=sys.stderr)
            return 2
        failed = _measure_all(points, options)
    if options.kept == KEPT:
        from benchmarks.documents import write_scaling
        from benchmarks.plots import draw_all

        for path in [*draw_all(read(KEPT)), write_scaling(read(KEPT))]:
            print(path)
    return 1 if failed else 0


def _measure_all(points: Sequence[Point], options: argparse.Namespace) -> int:
    """How many failed."""
    failed = 0
    with tempfile.TemporaryDirectory(prefix="taskq-bench-") as name:
        folder = Path(name)
        with Services(folder, options.broker, options.store) as services:
            machine = environment(services)
            for point in points:
                about = machine | {"busy_cores_before": round(busy_cores(), 2)}
                begin = time.monotonic()
                try:
                    runs = measure(point, services, folder)
                except Exception as error:  # whatever it is, the other points are worth having
                    failed += 1
                    print(f"{point.name}: failed: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
                    continue
                about["seconds"] = round(time.monotonic() - begin, 1)
                keep(options.kept, point.name, about, runs)
                words = ", ".join(f"{figure} {value:,.1f}" for figure, value in runs[-1].items() if value)
                print(f"{point.name} ({about['seconds']:.0f} s): {words}", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
