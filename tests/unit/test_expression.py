"""QStash's delay expressions."""

from __future__ import annotations

import pickle

import pytest

from taskq.errors import InvalidSetting
from taskq.expression import FALLBACK_MS, LONGEST_MS, MAX_CHARS, MAX_DEPTH, Expression


@pytest.mark.parametrize(
    ("text", "retried", "expected"),
    [
        ("1000", 0, 1000),
        ("pow(2, retried) * 1000", 3, 8000),
        ("1 + 2 * 3", 0, 7),
        ("(1 + 2) * 3", 0, 9),
        ("10 - 4 - 3", 0, 3),
        ("100 / 10 / 5", 0, 2),
        ("2 * -3 + 10", 0, 4),
        ("--5", 0, 5),
        ("-(2 - 7)", 0, 5),
        (".5e3 + 1.", 0, 501),
        ("exp(0) + sqrt(16) + abs(0 - 3)", 0, 8),
        ("floor(2.9) + ceil(2.1)", 0, 5),
        ("round(2.5) + round(1.4)", 0, 4),
        ("abs(round(0 - 2.5))", 0, 3),
        ("min(5, retried) + max(1, 2, 3)", 9, 8),
        (" \t1\n+ 1 ", 0, 2),
    ],
)
def test_values(text: str, retried: int, expected: float) -> None:
    """Precedence, associativity and every function give what a calculator gives."""
    assert Expression.parse(text).evaluate(retried) == expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "position 1, found the end"),
        ("1 +", "position 4, found the end"),
        ("1 2", "position 3, found '2'"),
        ("2 ** 3", "position 4, found '*'"),
        ("(1", "expected '\\)' at position 3"),
        ("1)", "position 2"),
        ("1 $ 2", "unknown character at position 3"),
        ("٣", "unknown character at position 1"),
        ("retries", "unknown name .* position 1"),
        ("__import__('os')", "unknown name"),
        ("retried(1)", "position 8"),
        ("pow(1)", "pow at position 1 takes 2 arguments, got 1"),
        ("sqrt(1, 2)", "takes 1 arguments, got 2"),
        ("min()", "position 5"),
        ("pow", "expected '\\('"),
        ("+1", "position 1"),
        ("1e999", "too large"),
        ("1 / 0", "cannot be computed"),
        ("sqrt(-1)", "cannot be computed"),
        ("pow(10, 400)", "cannot be computed"),
        ("1 " * MAX_CHARS, "at most 512 characters"),
        ("(" * (MAX_DEPTH + 1) + "1" + ")" * (MAX_DEPTH + 1), "nested deeper than 32"),
        ("-" * (MAX_DEPTH + 1) + "1", "nested deeper than 32"),
    ],
)
def test_refused(text: str, says: str) -> None:
    """What is no expression is refused when it is read, and the error says where."""
    with pytest.raises(InvalidSetting, match=says):
        Expression.parse(text)


def test_not_text() -> None:
    """A number is no expression."""
    with pytest.raises(InvalidSetting, match="is text, got 5"):
        Expression.parse(5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "retried", "expected"),
    [
        ("1 / retried", 0, FALLBACK_MS),
        ("sqrt(retried - 2)", 1, FALLBACK_MS),
        ("exp(retried * 1000)", 1, FALLBACK_MS),
        ("exp(700) * exp(retried)", 700, FALLBACK_MS),
        ("5 - retried * 10", 1, 0),
        ("pow(10, retried)", 300, LONGEST_MS),
        ("retried", 10**400, LONGEST_MS),
    ],
)
def test_no_result(text: str, retried: int, expected: float) -> None:
    """A negative result is nothing, a huge one a year, one that cannot be computed a day; none raises."""
    assert Expression.parse(text).evaluate(retried) == expected


def test_is_a_value() -> None:
    """Equal texts make equal expressions, which can be hashed, pickled and evaluated again."""
    one, two = Expression.parse("retried * 2"), Expression.parse("retried * 2")
    assert one == two and hash(one) == hash(two) and one != Expression.parse("retried*2")
    assert pickle.loads(pickle.dumps(one)).evaluate(4) == one.evaluate(4) == 8
