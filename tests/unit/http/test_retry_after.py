"""When a destination says that it may be tried again."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from taskq.http.retry_after import retry_after

NOW = datetime(2026, 11, 21, 13, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("120", 120.0),
        (" 7 ", 7.0),
        ("1.5", 1.5),
        ("86400", 86400.0),
        ("6m5s", 365.0),
        ("900ms", 0.9),
        ("1h", 3600.0),
        ("1h2m3.5s", 3723.5),
        (".5s", 0.5),
        ("250us", 250e-6),
        ("250µs", 250e-6),
        ("3000000000ns", 3.0),
        ("0s", 0.0),
        ("24h", 86400.0),
        ("Sat, 21 Nov 2026 13:00:30 GMT", 30.0),
        ("Saturday, 21-Nov-26 13:01:00 GMT", 60.0),
        ("Sat, 21 Nov 2026 12:59:00 GMT", 0.0),
        ("Sat, 21 Nov 2026 14:00:10 +0100", 10.0),
    ],
)
def test_understood(value: str, seconds: float) -> None:
    """Seconds, durations as Go writes them, and dates, one that has passed meaning at once."""
    assert retry_after((("Retry-After", value),), NOW) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "value",
    ["", "-1", "soon", "86401", "25h", "1d", "5 s", "5s!", "-5s", "Sun, 22 Nov 2026 13:00:01 GMT", "1780000000", "٣",
     "9" * 5000, "1s" * 5000, "nan", "inf", "1e3", "Sat, 99 Nov 2026 13:00:30 GMT", "0x10"],
)  # fmt: skip
def test_ignored(value: str) -> None:
    """What is not understood, lies behind a sign, or more than a day ahead says nothing."""
    assert retry_after((("Retry-After", value),), NOW) is None


@pytest.mark.parametrize(
    "name", ["retry-after", "X-RateLimit-Reset", "x-ratelimit-reset-requests", "X-RATELIMIT-RESET-TOKENS"]
)
def test_names(name: str) -> None:
    """Each of the four headers counts, in any case."""
    assert retry_after((("Content-Type", "text/plain"), (name, "9")), NOW) == 9.0


def test_the_first_that_is_understood_counts() -> None:
    """Retry-After goes first; a header that says nothing leaves it to the next one."""
    assert retry_after((("X-RateLimit-Reset", "5"), ("Retry-After", "3")), NOW) == 3.0
    assert retry_after((("X-RateLimit-Reset", "5"), ("Retry-After", "tomorrow")), NOW) == 5.0
    assert retry_after((("X-RateLimit-Reset", "1780000000"), ("X-RateLimit-Reset-Tokens", "6m0s")), NOW) == 360.0


def test_no_such_header() -> None:
    """None of them, nothing said."""
    assert retry_after((("Date", "Sat, 21 Nov 2026 13:00:30 GMT"),), NOW) is None
