"""When a destination says that it may be tried again."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from taskq.http.request import Headers

LONGEST = 86400.0  # seconds; what is later is not believed
_NAMES = ("retry-after", "x-ratelimit-reset", "x-ratelimit-reset-requests", "x-ratelimit-reset-tokens")
_LONGEST_TEXT = 64  # characters
_SECONDS = re.compile(r"[0-9]+(\.[0-9]*)?", re.ASCII)
_GO_PART = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
_GO_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def retry_after(headers: Headers, now: datetime) -> float | None:
    """Seconds from `now` after which to try again; 0.0: at once; None: the headers do not say, or more than a day."""
    for wanted in _NAMES:
        for name, value in headers:
            if name.lower() == wanted:
                seconds = _seconds(value.strip(), now)
                if seconds is not None and seconds <= LONGEST:
                    return seconds
    return None


def _seconds(text: str, now: datetime) -> float | None:
    """Of a number, a duration as Go writes it, or a date as HTTP has them."""
    if len(text) > _LONGEST_TEXT:
        return None
    if _SECONDS.fullmatch(text):
        return float(text)
    parts = _GO_PART.findall(text)
    if parts and "".join(number + unit for number, unit in parts) == text:
        return sum(float(number) * _GO_UNITS[unit] for number, unit in parts)
    return _until(text, now)


def _until(text: str, now: datetime) -> float | None:
    try:
        instant = parsedate_to_datetime(text)
        aware = instant if instant.tzinfo is not None else instant.replace(tzinfo=UTC)
        return max(0.0, (aware - now).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None
