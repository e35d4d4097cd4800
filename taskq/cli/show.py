"""How things are printed: tables for people, JSON for programs, progress on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Protocol

import click


def as_json(value: Any) -> None:
    """Print a value as JSON; instants as ISO 8601, bytes as text or hexadecimal."""
    from taskq.admin.shown import plain

    click.echo(json.dumps(value, default=plain, indent=2, ensure_ascii=False))


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, empty: str) -> None:
    """Print rows for people; `empty` when there are none."""
    cells = [[text(value) for value in row] for row in rows]
    if not cells:
        click.echo(empty)
        return
    if not sys.stdout.isatty():
        _aligned([list(columns), *cells])
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for index, column in enumerate(columns):
        numbers = all(row[index].replace(".", "", 1).isdigit() or row[index] in ("", "-") for row in cells)
        shown.add_column(column, justify="right" if numbers else "left", overflow="fold")
    for row in cells:
        shown.add_row(*(Text(cell) for cell in row))
    Console().print(shown)


def _aligned(rows: Sequence[Sequence[str]]) -> None:
    """For a pipe: columns of blanks, nothing cut, a line a row."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (" ".join(cell.split()).ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())


def fields(pairs: Mapping[str, Any]) -> None:
    """Print one thing, a line a field; fields that are None are left out."""
    present = {name: value for name, value in pairs.items() if value is not None}
    width = max(map(len, present), default=0)
    for name, value in present.items():
        click.echo(f"{name:<{width}}  {text(value)}")


def text(value: Any) -> str:
    """A value in a table."""
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case datetime():
            return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
        case float():
            return f"{value:g}"
        case _:
            return str(value)


def first_line(value: str, most: int = 60) -> str:
    """The beginning of a text, in one line."""
    line = value.strip().splitlines()[0] if value.strip() else ""
    return line if len(line) <= most else line[: most - 1] + "…"


def note(value: str) -> None:
    """Say something beside the output."""
    click.echo(value, err=True)


def counted(number: int, one: str, many: str | None = None) -> str:
    """A number and its noun."""
    return f"{number} {one if number == 1 else many or one + 's'}"


class Advance(Protocol):
    """Tells how far the work is."""

    def __call__(self, done: int, total: int | None = None) -> None: ...


@contextmanager
def progress(what: str, total: int | None) -> Iterator[Advance]:
    """A progress bar on standard error, where somebody looks at it; gives the function to move it on."""
    if not sys.stderr.isatty():
        yield lambda done, total=None: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        job = bar.add_task(what, total=total)

        def advance(done: int, total: int | None = None) -> None:
            if total is not None:
                bar.update(job, total=total)
            bar.advance(job, done)

        yield advance
