"""Tables for people, JSON for programs."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as Sheet

from benchmarks.goals import Verdict
from benchmarks.runner import Row, Table


def figures(row: Row, name: str) -> list[float]:
    return [run[name] for run in row.runs]


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _ratio(ours: float, theirs: float) -> str:
    return f"{theirs / ours:.2f}" if ours else ""


def print_table(console: Console, table: Table) -> None:
    """Medians with their spread, and the ratio to our first row."""
    measure = table.measure
    sheet = Sheet(
        title=f"{measure.title} ({measure.unit}{', less is better' if measure.lower else ''})", title_justify="left"
    )
    for column in ("", "queue", "median", "min to max", "to taskq", "also"):
        sheet.add_column(column, justify="left" if column in ("", "queue", "also") else "right")
    ours = next((row for row in table.rows if row.contestant.ours and row.runs), None)
    base = statistics.median(figures(ours, measure.figure)) if ours else 0.0
    for row in table.rows:
        if row.trouble or not row.runs:
            sheet.add_row(
                row.contestant.name, row.kind, "", "", "", row.trouble.splitlines()[-1][:80] if row.trouble else ""
            )
            continue
        values = figures(row, measure.figure)
        middle = statistics.median(values)
        spread = f"{number(min(values))} to {number(max(values))}"
        also = ", ".join(
            f"{name} {number(statistics.median(figures(row, name)))}"
            for name in row.runs[0]
            if name not in (measure.figure, "count", "processes") and any(figures(row, name))
        )
        sheet.add_row(row.contestant.name, row.kind, number(middle), spread, _ratio(base, middle), also)
    console.print(sheet)
    if max(table.busy) > 0.3:
        console.print(f"other programs kept up to {max(table.busy):.1f} cores busy: compare with care", style="yellow")


def print_verdicts(console: Console, verdicts: Sequence[Verdict]) -> None:
    """One line per goal: met, or by how much not."""
    sheet = Sheet(title="goals", title_justify="left")
    for column in ("goal", "promised", "reached", "verdict"):
        sheet.add_column(column, justify="left" if column in ("goal", "verdict") else "right")
    for verdict in verdicts:
        goal = verdict.goal
        promised = f"{'≤' if goal.at_most else '≥'} {goal.limit:g}{goal.unit}"
        if verdict.value is None:
            sheet.add_row(goal.text, promised, "", f"not measured: {verdict.missing}")
            continue
        gap = abs(verdict.value / goal.limit - 1) * 100
        words = "met" if verdict.met else f"missed by {gap:.0f} %"
        sheet.add_row(goal.text, promised, f"{number(verdict.value)}{goal.unit}", words)
    console.print(sheet)


def as_data(environment: dict[str, Any], tables: Sequence[Table], verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Every run's figures, with what is needed to judge them later."""
    return {
        "environment": environment,
        "measures": [
            {
                "name": table.measure.name,
                "unit": table.measure.unit,
                "figure": table.measure.figure,
                "seconds": round(table.seconds, 1),
                "busy_cores_before": [round(each, 2) for each in table.busy],
                "rows": [
                    {
                        "contestant": row.contestant.name,
                        "queue": row.kind,
                        "settings": row.note,
                        "trouble": row.trouble,
                        "runs": [{name: round(value, 3) for name, value in run.items()} for run in row.runs],
                    }
                    for row in table.rows
                ],
            }
            for table in tables
        ],
        "goals": [
            {
                "goal": verdict.goal.text,
                "limit": verdict.goal.limit,
                "unit": verdict.goal.unit,
                "at_most": verdict.goal.at_most,
                "reached": None if verdict.value is None else round(verdict.value, 3),
                "met": None if verdict.value is None else verdict.met,
            }
            for verdict in verdicts
        ],
    }


def place(environment: dict[str, Any], folder: Path) -> Path:
    """`<date>-<revision>.json`, numbered on where that name is taken."""
    stem = f"{environment['at'][:10]}-{environment['revision']}"
    taken = sum(1 for _ in folder.glob(f"{stem}*.json"))
    return folder / (f"{stem}-{taken + 1}.json" if taken else f"{stem}.json")


def save(data: dict[str, Any], path: Path) -> None:
    """Whole or not at all: what stood there is replaced in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".part")
    beside.write_text(json.dumps(data, indent=1) + "\n")
    beside.replace(path)
