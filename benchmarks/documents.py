"""The tables of docs/performance.md and docs/scaling.md, written from kept figures: nobody copies a figure by hand.

A table stands between `<!-- measured: NAME -->` and `<!-- end -->`; what is between them is replaced.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.model import Model, fit, readings, residuals
from benchmarks.report import number

DOCS = Path(__file__).resolve().parent.parent / "docs"
_PEERS = ("Celery", "Dramatiq", "Taskiq", "FastStream", "aio-pika")
_AXES = {
    "processes": "worker processes, nothing recorded",
    "processes_sqlite": "worker processes, recorded in SQLite",
    "processes_postgres": "worker processes, recorded in PostgreSQL",
    "backlog": "messages waiting in the queue",
    "payload": "bytes of payload",
    "queues": "queues served by one worker",
    "waiting": "delayed messages waiting",
}
_PLOTS = {
    "processes": "Drained a second, and worker CPU per message, by worker processes",
    "backlog": "CPU per message and memory, by backlog",
    "payload": "CPU per message and rates, by payload",
    "queues": "CPU per message and memory, by queues",
    "waiting": "Lateness and memory, by waiting messages",
}
_FIGURES = {
    "rate": "drained/s",
    "send_rate": "sent/s",
    "book_rate": "booked/s",
    "late_p99": "late p99, ms",
    "worker_cpu_us": "worker CPU, µs",
    "broker_cpu_us": "broker CPU, µs",
    "store_cpu_us": "PostgreSQL CPU, µs",
    "worker_mb": "worker, MB",
    "broker_mb": "broker, MB",
    "store_mb": "PostgreSQL, MB",
}

Points = Mapping[str, Mapping[str, Any]]


def replace(text: str, name: str, table: str) -> str:
    """The text with that table in its place.

    Raises:
        LookupError: it has no such place.
    """
    pattern = rf"(<!-- measured: {re.escape(name)} -->\n).*?(<!-- end -->)"
    text, times = re.subn(pattern, lambda found: f"{found[1]}{table}\n{found[2]}", text, flags=re.DOTALL)
    if not times:
        raise LookupError(f"there is no place for the table {name!r}")
    return text


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


# -- a run beside the peers ---------------------------------------------------------------------


def about(environment: Mapping[str, Any]) -> str:
    """Where and when, in a sentence."""
    return (
        f"{environment['at'][:10]}, revision {environment['revision']}: {environment['cores']} cores "
        f"({environment['cpu']}) shared by everything, {environment['broker']}, Python {environment['python']}."
    )


def goals(data: Mapping[str, Any]) -> str:
    """A line per goal: met, or by how much not."""
    rows = []
    for goal in data["goals"]:
        unit = goal.get("unit", "")
        promised = f"{'≤' if goal['at_most'] else '≥'} {goal['limit']:g}{unit}"
        reached = goal["reached"]
        if reached is None:
            rows.append([goal["goal"], promised, "", "not measured"])
            continue
        gap = abs(reached / goal["limit"] - 1)
        rows.append(
            [goal["goal"], promised, f"{number(reached)}{unit}", "met" if goal["met"] else f"missed by {gap:.0%}"]
        )
    return _table(["work", "promised", "reached", ""], rows)


def peers(data: Mapping[str, Any]) -> str:
    """Medians of all contestants, and the smallest and largest round."""
    rows = []
    for measure in data["measures"]:
        by_name = {row["contestant"]: row for row in measure["rows"] if row["runs"]}
        if not by_name.keys() & set(_PEERS):
            continue
        cells = {name: _cell(row, measure["figure"]) for name, row in by_name.items()}
        ours = [f"{name.removeprefix('taskq, ')}: {cell}" for name, cell in cells.items() if name.startswith("taskq")]
        title = f"{measure['name']}, {measure['unit']}"
        rows.append([title, "<br>".join(ours), *(cells.get(name, "") for name in _PEERS)])
    return _table(["", "taskq", *_PEERS], rows)


def _cell(row: Mapping[str, Any], figure: str) -> str:
    values = [run[figure] for run in row["runs"]]
    middle = number(statistics.median(values))
    return middle if len(values) == 1 else f"{middle} ({number(min(values))} to {number(max(values))})"


def write_performance(data: Mapping[str, Any]) -> Path:
    """Put a run's goals and medians into docs/performance.md."""
    path = DOCS / "performance.md"
    text = path.read_text()
    busy = max((each for measure in data["measures"] for each in measure["busy_cores_before"]), default=0.0)
    where = about(data["environment"]) + f" Other programs kept up to {busy:.1f} cores busy before a round."
    path.write_text(replace(replace(text, "goals", f"{where}\n\n{goals(data)}"), "peers", peers(data)))
    return path


# -- scale ----------------------------------------------------------------------------------------


def axis_table(points: Points, axis: str) -> str:
    """The plot of an axis, and its points with every figure that one of them has."""
    found = sorted(
        (int(name.partition("/")[2]), point["figures"])
        for name, point in points.items()
        if name.partition("/")[0] == axis
    )
    known = [name for name in _FIGURES if any(figures.get(name) for _, figures in found)]
    rows = [[f"{value:,}", *(number(figures.get(name, 0.0)) for name in known)] for value, figures in found]
    table = _table([_AXES[axis], *(_FIGURES[name] for name in known)], rows)
    return f"![{_PLOTS[axis]}](plots/{axis}.svg)\n\n{table}" if axis in _PLOTS else table


def _model_rows(name: str, points: Points, axis: str) -> tuple[Model | None, list[str]]:
    measured = readings(points, axis)
    if not measured:
        return None, []
    model = fit(measured)
    costs = [f"{cost * 1e6:.0f} µs" for cost in (model.worker, model.broker, model.store)]
    left = ", ".join(
        f"{reading.processes}: {share:+.0%}"
        for reading, share in zip(measured, residuals(model, measured), strict=True)
    )
    return model, [name, *costs, f"{model.share:.2f}", left]


def predictions(model: Model) -> str:
    """What the model says of machines that were not there."""
    rows = []
    for nodes in (1, 3):
        for partitions in (1, 4, 16):
            cells = []
            for workers in (1, 4, 16, 64):
                rate, what = model.cluster(workers, partitions, nodes, node_cores=4)
                cells.append(f"{rate:,.0f} ({what})")
            rows.append([str(nodes), str(partitions), *cells])
    return _table(["nodes of 4 cores", "queues or partitions", *(f"{n} worker cores" for n in (1, 4, 16, 64))], rows)


def scaling_tables(points: Points) -> dict[str, str]:
    """Every table of docs/scaling.md, by name."""
    tables = {axis: axis_table(points, axis) for axis in _AXES if any(name.startswith(f"{axis}/") for name in points)}
    open_model, open_row = _model_rows("nothing recorded", points, "processes")
    store_model, store_row = _model_rows("recorded in PostgreSQL", points, "processes_postgres")
    head = ["", "worker w", "broker b", "store s", "share e", "residuals, by worker processes"]
    rows = [row for row in (open_row, store_row) if row]
    if rows:
        tables["model"] = _table(head, rows)
    if open_model:
        tables["predictions"] = predictions(open_model)
    if store_model:
        tables["predictions_recorded"] = predictions(store_model)
    return tables


def write_scaling(points: Points) -> Path:
    """Put the kept points into docs/scaling.md."""
    path = DOCS / "scaling.md"
    text = path.read_text()
    if points:
        newest = max(points.values(), key=lambda point: str(point["at"]))
        busy = max(point["busy_cores_before"] for point in points.values())
        where = about(newest) + f" Other programs kept up to {busy:.1f} cores busy before a point."
        text = replace(text, "machine", where)
    for name, table in scaling_tables(points).items():
        text = replace(text, name, table)
    path.write_text(text)
    return path
