"""QStash's durations."""

from __future__ import annotations

import pytest

from taskq.duration import format_duration, parse_duration
from taskq.errors import InvalidSetting


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("50s", 50), ("10h", 36000), ("1d", 86400), ("90m", 5400), ("1d10h30m", 124200), ("0s", 0), ("1d0h0m1s", 86401)],
)
def test_parse(text: str, seconds: float) -> None:
    """Whole numbers with units add up to seconds, as a float."""
    parsed = parse_duration(text)
    assert parsed == seconds and type(parsed) is float


@pytest.mark.parametrize("text", ["", "5", "-5s", "1.5h", "1h1d", "1s1s", "5 s", "5S", "s", "5ms", "٣s", "5s\n", "1w"])
def test_refused(text: str) -> None:
    """What is no duration is refused, quoting it and showing what one looks like."""
    with pytest.raises(InvalidSetting, match="such as 1d10h30m") as caught:
        parse_duration(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize("text", ["367d", "9999999999999s", "9" * 5000 + "s"])
def test_too_long(text: str) -> None:
    """More than a year is refused, and a hostile text is not quoted whole."""
    with pytest.raises(InvalidSetting) as caught:
        parse_duration(text)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (59.2, "1m"), (61, "1m1s"), (124200.0, "1d10h30m"), (0.001, "1s"), (86400, "1d")]
)
def test_format(seconds: float, text: str) -> None:
    """Seconds become the shortest text; a part of a second counts as one."""
    assert format_duration(seconds) == text


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), 1e12])
def test_not_formatted(seconds: float) -> None:
    """What is no duration has no text."""
    with pytest.raises(InvalidSetting, match="a duration is 0 to"):
        format_duration(seconds)
