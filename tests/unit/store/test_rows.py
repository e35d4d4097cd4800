"""Columns and values: nothing is lost between them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskq.errors import InvalidSetting
from taskq.outcome import Failure
from taskq.store.rows import clean, from_cursor, from_failure, from_us, to_cursor, to_failure, to_us

INSTANTS = st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))


@given(INSTANTS)
def test_instants(instant: datetime) -> None:
    """An instant comes back to the microsecond."""
    assert from_us(to_us(instant)) == instant


def test_other_zones() -> None:
    """An instant of another zone is stored as the same moment, and comes back in UTC."""
    instant = datetime(2026, 1, 1, 12, tzinfo=timezone(timedelta(hours=5)))
    assert from_us(to_us(instant)) == instant and from_us(to_us(instant)).tzinfo is UTC


@given(st.text(alphabet=st.characters(), max_size=30))
def test_clean(text: str) -> None:
    """Cleaned text can be encoded, has no NUL and keeps its length; text that could be stored is untouched."""
    cleaned = clean(text)
    cleaned.encode()
    assert "\0" not in cleaned and len(cleaned) == len(text)
    if "\0" not in text and not any(0xD800 <= ord(one) < 0xE000 for one in text):
        assert cleaned == text


@given(st.builds(Failure, st.text(), st.text(), st.text()))
def test_failures(failure: Failure) -> None:
    """A failure comes back as its cleaned self."""
    cleaned = Failure(clean(failure.type), clean(failure.message), clean(failure.traceback))
    assert to_failure(from_failure(failure)) == cleaned


def test_cursors() -> None:
    """A cursor gives back its key, and one of another listing is refused."""
    assert from_cursor(to_cursor(17, "a", 3), str, int) == [17, "a", 3]
    wrongs = ("", "x", "[]", '["a","b"]', "[1]", "17", "null", "[1,2]", '[true,"a"]', '[1,"\\u0000"]', "[" * 9999)
    for wrong in (*wrongs, f'[{2**63},"a"]', '[1,["a"]]'):
        with pytest.raises(InvalidSetting, match="cursor"):
            from_cursor(wrong, str)
