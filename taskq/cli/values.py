"""Values as they are written on a command line: instants, rates, counts that may be none."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from taskq.errors import InvalidSetting

if TYPE_CHECKING:
    from taskq.queue import RateLimit

    ParamType = click.ParamType[Any]
else:
    ParamType = click.ParamType  # older versions of click know no type arguments

NONE = "none"


class Instant(ParamType):
    """An ISO date or time (without a zone: this machine's own), or how long ago, such as `2h` or `1d12h`."""

    name = "WHEN"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        from taskq.duration import parse_duration

        try:
            return datetime.now(UTC) - timedelta(seconds=parse_duration(value))
        except InvalidSetting:
            try:
                return datetime.fromisoformat(value).astimezone(UTC)
            except (ValueError, OverflowError, OSError):
                self.fail(f"{value!r} is neither an instant (2026-01-31T12:00) nor how long ago (2h)", param, ctx)


class Seconds(ParamType):
    """Seconds as a number, or a duration such as `90m` or `1d`."""

    name = "SECONDS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        from taskq.duration import parse_duration

        try:
            seconds = float(value)
        except ValueError:
            try:
                return parse_duration(value)
            except InvalidSetting:
                self.fail(f"{value!r} is neither seconds (1.5) nor a duration (1h30m)", param, ctx)
        if not math.isfinite(seconds):
            self.fail(f"{value!r} is no number of seconds", param, ctx)
        return seconds


class CountOrNone(ParamType):
    """A whole number, or `none`. Which numbers are allowed is checked where the queue is."""

    name = "N|none"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        if value == NONE or isinstance(value, int):
            return value  # type: ignore[no-any-return]
        try:
            return int(value)
        except ValueError:
            self.fail(f"{value!r} is neither a whole number nor none", param, ctx)


class Rate(ParamType):
    """STARTS/PERIOD, such as `50/30` (seconds) or `100/1m`, or `none`."""

    name = "STARTS/PERIOD|none"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> RateLimit | str:
        from taskq.queue import RateLimit

        if isinstance(value, RateLimit) or value == NONE:
            return value  # type: ignore[no-any-return]
        limit, _, period = value.partition("/")
        period = "1" + period if period in ("s", "m", "h", "d") else period or "1"
        try:
            starts = int(limit)
        except ValueError:
            self.fail(f"{value!r} is no rate: write STARTS/PERIOD, such as 50/30 or 100/1m", param, ctx)
        return RateLimit(starts, per=SECONDS.convert(period, param, ctx))


def unless_none(value: Any) -> Any:
    """None for the word, `...` for what was not given."""
    if value is None:
        return ...
    return None if value == NONE else value


INSTANT = Instant()
SECONDS = Seconds()
COUNT_OR_NONE = CountOrNone()
RATE = Rate()
