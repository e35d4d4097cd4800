"""QStash's durations: `"1d10h30m"` on the wire, seconds everywhere else."""

from __future__ import annotations

import re

from taskq.errors import InvalidSetting

LONGEST_SECONDS = 366 * 86400.0

_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_DURATION = re.compile("".join(rf"(?:(?P<{unit}>[0-9]{{1,12}}){unit})?" for unit in _UNITS))


def parse_duration(text: str) -> float:
    """Seconds of a duration: one or more whole numbers with a unit, in the order d, h, m, s.

    Args:
        text: such as `50s`, `90m`, `1d10h30m`.

    Raises:
        InvalidSetting: no unit, a sign, a fraction, another order, or more than 366 days.
    """
    match = _DURATION.fullmatch(text) if isinstance(text, str) and text else None
    if match is None:
        shown = repr(text) if len(repr(text)) <= 80 else repr(text)[:77] + "..."
        raise InvalidSetting(
            f"duration {shown} is not understood: write whole numbers with the units d, h, m, s in that order, "
            "such as 1d10h30m or 50s"
        )
    seconds = float(sum(int(match[unit]) * size for unit, size in _UNITS.items() if match[unit]))
    if seconds > LONGEST_SECONDS:
        raise InvalidSetting(f"duration {text!r} is longer than 366 days")
    return seconds


def format_duration(seconds: float) -> str:
    """The duration as text, such as `1d10h30m`; `0s` for none.

    Args:
        seconds: 0 or more; the wire knows whole seconds only, so a part of one counts as one.

    Raises:
        InvalidSetting: negative, not a number, or more than 366 days.
    """
    if not 0 <= seconds <= LONGEST_SECONDS:
        raise InvalidSetting(f"a duration is 0 to {LONGEST_SECONDS:.0f} seconds, got {seconds!r}")
    rest = -int(-seconds // 1)
    text = ""
    for unit, size in _UNITS.items():
        count, rest = divmod(rest, size)
        if count:
            text += f"{count}{unit}"
    return text or "0s"
