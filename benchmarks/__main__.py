"""`python -m benchmarks`: taskq beside its peers on one broker, a table for people and data to keep."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from benchmarks.catalogue import MEASURES
from benchmarks.documents import write_performance
from benchmarks.goals import judge
from benchmarks.report import as_data, place, print_table, print_verdicts, save
from benchmarks.runner import Table, environment, run_measure, select
from benchmarks.services import Services
from benchmarks.stage import Scale

_RESULTS = Path(__file__).resolve().parent / "results"
_QUICK = Scale(seconds=0.5, samples=50, backlog=20_000)


def _arguments() -> argparse.Namespace:
    names = ", ".join(measure.name for measure in MEASURES)
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__, epilog=f"measurements: {names}")
    parser.add_argument("--quick", action="store_true", help="one short round: does everything run?")
    parser.add_argument("--only", metavar="TEXT[,TEXT]", help="measurements whose name contains it")
    parser.add_argument("--repeats", type=int, help="rounds (default 3, quick 1)")
    parser.add_argument("--seconds", type=float, help="aimed length of one timed stretch (default 1)")
    parser.add_argument(
        "--backlog", type=int, help="messages queued beside the worker (default 1,000,000; a tenth more delayed)"
    )
    parser.add_argument("--broker", metavar="URL", help="RabbitMQ to use instead of a private one")
    parser.add_argument("--store", metavar="URL", help="PostgreSQL to use for what is recorded there")
    parser.add_argument(
        "--results", type=Path, help="folder for the data (default benchmarks/results; quick runs keep none)"
    )
    parser.add_argument(
        "--write-docs", type=Path, metavar="RESULTS", help="measure nothing: docs/performance.md's tables of that file"
    )
    return parser.parse_args()


def main() -> int:
    """Run, print, keep after each measurement. 1 if a contestant failed."""
    options = _arguments()
    if options.write_docs:
        print(write_performance(json.loads(options.write_docs.read_text())))
        return 0
    scale = _QUICK if options.quick else Scale()
    scale = Scale(options.seconds or scale.seconds, scale.samples, options.backlog or scale.backlog)
    repeats = options.repeats or (1 if options.quick else 3)
    chosen = select(MEASURES, options.only)
    if not chosen:
        print(f"no measurement is named {options.only}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what we started is ended too
    console, progress = Console(width=150 if not sys.stdout.isatty() else None), Console(stderr=True)
    tables: list[Table] = []
    path: Path | None = None
    try:
        with tempfile.TemporaryDirectory(prefix="taskq-bench-") as name:
            folder = Path(name)
            with Services(folder, options.broker, options.store) as services:
                about = environment(services)
                machine = f"{about['cpu']}, {about['cores']} cores, Python {about['python']}"
                console.print(f"taskq {about['revision']} on {machine}, {about['broker']}")
                if options.results or not options.quick:
                    path = place(about, options.results or _RESULTS)
                for measure in chosen:
                    table = run_measure(
                        measure, services, folder, scale, repeats, lambda text: progress.print(text, highlight=False)
                    )
                    tables.append(table)
                    print_table(console, table)
                    if path:
                        save(as_data(about, tables, judge(tables)), path)
    finally:  # also where the run is ended before its end
        verdicts = judge(tables)
        print_verdicts(console, [each for each in verdicts if each.value is not None or not options.only])
        if path and tables:
            console.print(f"kept in {path}")
    troubles = [row for table in tables for row in table.rows if row.trouble.startswith("failed")]
    for row in troubles:
        console.print(f"{row.contestant.name}: {row.trouble}", style="red", markup=False)
    return 1 if troubles else 0


if __name__ == "__main__":
    sys.exit(main())
