"""Runs measurements: contestants interleaved (A B C A B C), each run on a clean stage of its own."""

from __future__ import annotations

import compileall
import importlib.util
import os
import platform
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.contestants import KEEPERS, Contestant
from benchmarks.measure import Measure
from benchmarks.peers.base import Unsupported
from benchmarks.processes import ContestantFailed, busy_cores
from benchmarks.services import Services
from benchmarks.stage import Scale, Stage

ROOT = Path(__file__).resolve().parent.parent

Say = Callable[[str], None]


@dataclass(slots=True)
class Row:
    """The runs of one contestant in one measurement; each run a dict of figures."""

    contestant: Contestant
    kind: str = ""
    note: str = ""
    runs: list[dict[str, float]] = field(default_factory=list)
    trouble: str = ""


@dataclass(slots=True)
class Table:
    """One measurement's rows."""

    measure: Measure
    rows: list[Row] = field(default_factory=list)
    seconds: float = 0.0
    busy: list[float] = field(default_factory=list)  # cores that others used just before each round


def missing(contestant: Contestant, services: Services) -> str:
    """Why the contestant cannot take part, "" if it can."""
    if importlib.util.find_spec(f"benchmarks.peers.{contestant.module}") is None:
        return "not written"
    keeps = contestant.module in {keeper.module for keeper in KEEPERS} and contestant.settings.get("results")
    if keeps and not services.redis:
        return "no redis-server for its results"
    return ""


def run_measure(measure: Measure, services: Services, folder: Path, scale: Scale, repeats: int, say: Say) -> Table:
    """All rounds of one measurement. A contestant that fails is reported with its trouble and leaves the rounds."""
    # As an installer leaves them: where Python may write no bytecode each process would compile us, and not the peers.
    for package in ("taskq", "benchmarks"):
        compileall.compile_dir(ROOT / package, quiet=2)
    table = Table(measure, [Row(contestant) for contestant in measure.contestants])
    for row in table.rows:
        row.trouble = missing(row.contestant, services)
    begin = time.monotonic()
    for turn in range(1 if measure.once else repeats):
        rows = table.rows if turn % 2 == 0 else table.rows[::-1]  # who runs after whom changes
        table.busy.append(busy_cores())
        for row in [row for row in rows if not row.trouble]:
            _run_row(row, measure, services, folder, scale)
            figure = f"{row.runs[-1][measure.figure]:,.2f}" if not row.trouble else row.trouble.splitlines()[-1]
            say(f"{measure.name} {turn + 1}/{repeats} {row.contestant.name}: {figure}")
    table.seconds = time.monotonic() - begin
    return table


def _run_row(row: Row, measure: Measure, services: Services, folder: Path, scale: Scale) -> None:
    try:
        with Stage(row.contestant, services, folder, scale) as stage:
            row.kind, row.note = stage.description["kind"], stage.description["note"]
            row.runs.append(measure.run(stage))
    except Unsupported:
        row.trouble = "has nothing of the kind"
    except (ContestantFailed, TimeoutError) as error:
        row.trouble = f"failed: {error}"


def environment(services: Services) -> dict[str, Any]:
    """Machine, versions and revision of the run."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.processor(),
    )
    root = Path(__file__).resolve().parent.parent
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=root, capture_output=True, text=True, check=False)
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "revision": git.stdout.strip() or "unknown",
        "python": platform.python_version(),
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "broker": services.broker_version(),
    }


def select(measures: Sequence[Measure], pattern: str | None) -> list[Measure]:
    """Those whose name contains one of the comma-separated patterns; without one, all that need not be named."""
    if not pattern:
        return [measure for measure in measures if not measure.named]
    return [measure for measure in measures if any(part in measure.name for part in pattern.split(","))]
