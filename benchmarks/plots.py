"""The plots of docs/plots, SVG, readable on light and on dark pages, from the kept points."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.model import fit, readings

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "plots"
_INK = "#7f868d"  # grey of the same distance to black and white
_COLOURS = ("#2f81f7", "#e3712b", "#3fa34d", "#b05cc6")

Points = Mapping[str, Mapping[str, Any]]
Series = tuple[list[int], list[float]]


def series(points: Points, axis: str, figure: str, scale: float = 1.0) -> Series:
    """Values of an axis, and a figure at each, where it is known."""
    found = []
    for name, point in points.items():
        start, _, value = name.partition("/")
        if start == axis and figure in point["figures"]:
            found.append((int(value), point["figures"][figure] * scale))
    found.sort()
    return [value for value, _ in found], [reading for _, reading in found]


def draw_all(points: Points, folder: Path = FOLDER) -> list[Path]:
    """Write every plot that has points; their paths."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({
        "svg.fonttype": "none", "svg.hashsalt": "taskq", "font.size": 10, "axes.grid": True, "grid.alpha": 0.25,
        "grid.color": _INK, "text.color": _INK, "axes.labelcolor": _INK, "axes.edgecolor": _INK, "xtick.color": _INK,
        "ytick.color": _INK, "axes.spines.top": False, "axes.spines.right": False,
    })  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    axes = {name.partition("/")[0] for name in points}
    drawn = []
    for name, (needs, draw) in _PLOTS.items():
        if needs in axes:
            drawn.append(_save(folder / f"{name}.svg", points, draw))
    return drawn


def _save(path: Path, points: Points, draw: Callable[[Any, Points], None]) -> Path:
    from matplotlib import pyplot

    figure, pair = pyplot.subplots(1, 2, figsize=(9, 3.2))
    draw(pair, points)
    for axes in pair:
        axes.set_ylim(bottom=0 if axes.get_yscale() == "linear" else None)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, labelcolor=_INK)
    figure.tight_layout()
    figure.savefig(path, transparent=True, metadata={"Date": None})
    pyplot.close(figure)
    return path


def _lines(axes: Any, title: str, below: str, lines: Mapping[str, Series], logarithmic: bool = True) -> None:
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(below)
    if logarithmic:
        axes.set_xscale("log")
    for (label, (x, y)), colour in zip(lines.items(), _COLOURS, strict=False):
        if x:
            axes.plot(x, y, "o-", label=label, color=colour)


def _costs(points: Points, axis: str) -> dict[str, Series]:
    return {who: series(points, axis, f"{who}_cpu_us") for who in ("worker", "broker")}


def _memory(points: Points, axis: str) -> dict[str, Series]:
    return {who: series(points, axis, f"{who}_mb") for who in ("worker", "broker", "store")}


def _processes(pair: Any, points: Points) -> None:
    kinds = {"nothing recorded": "processes", "SQLite": "processes_sqlite", "PostgreSQL": "processes_postgres"}
    rates = {label: series(points, axis, "rate") for label, axis in kinds.items()}
    _lines(pair[0], "drained a second", "worker processes", rates, False)
    costs = {label: series(points, axis, "worker_cpu_us") for label, axis in kinds.items()}
    _lines(pair[1], "worker CPU per message, µs", "worker processes", costs, False)
    for axis, colour in zip(kinds.values(), _COLOURS, strict=False):
        measured = readings(points, axis)
        if measured:
            model = fit(measured)
            x = [each.processes for each in measured]
            y = [model.one_machine(each.processes, each.cores) for each in measured]
            pair[0].plot(x, y, ":", color=colour)
    pair[0].plot([], [], ":", color=_INK, label="model")
    for axes in pair:
        axes.set_xticks([1, 2, 4])


def _backlog(pair: Any, points: Points) -> None:
    _lines(pair[0], "CPU per drained message, µs", "messages waiting in the queue", _costs(points, "backlog"))
    _lines(pair[1], "memory, MB", "messages waiting in the queue", _memory(points, "backlog"))


def _payload(pair: Any, points: Points) -> None:
    lines = {"sender": series(points, "payload", "sender_cpu_us")} | _costs(points, "payload")
    _lines(pair[0], "CPU per message, µs", "bytes of payload", lines)
    pair[0].set_yscale("log")
    rates = {"sent": series(points, "payload", "send_rate"), "drained": series(points, "payload", "rate")}
    _lines(pair[1], "messages a second", "bytes of payload", rates)
    pair[1].set_yscale("log")


def _queues(pair: Any, points: Points) -> None:
    _lines(pair[0], "CPU per drained message, µs", "queues served by one worker", _costs(points, "queues"))
    _lines(pair[1], "memory, MB", "queues served by one worker", _memory(points, "queues"))


def _waiting(pair: Any, points: Points) -> None:
    late = {
        name: series(points, "waiting", f"late_{name}", 0.001) for name in ("p50", "p99")
    }  # milliseconds to seconds
    _lines(pair[0], "seconds late while 2,000 a second fall due", "delayed messages waiting", late)
    _lines(pair[1], "memory, MB", "delayed messages waiting", _memory(points, "waiting"))


_PLOTS: dict[str, tuple[str, Callable[[Any, Points], None]]] = {
    "processes": ("processes", _processes),
    "backlog": ("backlog", _backlog),
    "payload": ("payload", _payload),
    "queues": ("queues", _queues),
    "waiting": ("waiting", _waiting),
}
