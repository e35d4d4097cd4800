"""Cron texts by chance, each with what it is to mean (see `slow_cron`), put together item by item."""

from __future__ import annotations

from calendar import monthrange
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date

from hypothesis import strategies as st

from tests.property.slow_cron import Meaning

MONTHS = "JAN FEB MAR APR MAY JUN JUL AUG SEP OCT NOV DEC".split()
WEEKDAYS = "SUN MON TUE WED THU FRI SAT".split()

DayRule = Callable[[date], bool]


@dataclass(frozen=True)
class Item:
    """One item of a field, and the numbers that it means."""

    text: str
    numbers: frozenset[int]


@dataclass(frozen=True)
class Case:
    """A cron text and its meaning."""

    text: str
    meaning: Meaning


def counted(low: int, high: int, first: int, last: int, step: int = 1) -> frozenset[int]:
    """From the first to the last, going round from high to low if need be; every `step`th of them."""
    numbers = [first]
    while numbers[-1] != last:
        numbers.append(low if numbers[-1] == high else numbers[-1] + 1)
    return frozenset(numbers[::step])


@st.composite
def items(draw: st.DrawFn, low: int, high: int, names: tuple[str, ...] = (), star: bool = True) -> Item:
    """`*`, `*/n`, `a`, `a/n`, `a-b`, `a-b/n`; numbers may be written as names, in any case, or with a nought."""
    first, last = draw(st.integers(low, high)), draw(st.integers(low, high))
    step = draw(st.integers(1, high - low + 1))

    def word(number: int) -> str:
        plain = [str(number), f"{number:02d}"]
        return draw(st.sampled_from([*plain, names[number - low], names[number - low].lower()] if names else plain))

    kinds = ["a", "a/n", "a-b", "a-b/n"] + ["*", "*/n"] * star
    match draw(st.sampled_from(kinds)):
        case "*":
            return Item("*", counted(low, high, low, high))
        case "*/n":
            return Item(f"*/{step}", counted(low, high, low, high, step))
        case "a":
            return Item(word(first), frozenset({first}))
        case "a/n":
            return Item(f"{word(first)}/{step}", counted(low, high, first, high, step))
        case "a-b":
            return Item(f"{word(first)}-{word(last)}", counted(low, high, first, last))
        case _:
            return Item(f"{word(first)}-{word(last)}/{step}", counted(low, high, first, last, step))


@st.composite
def fields(draw: st.DrawFn, low: int, high: int, names: tuple[str, ...] = ()) -> Item:
    """Items with commas between."""
    found = draw(st.lists(items(low, high, names), min_size=1, max_size=3))
    return Item(",".join(item.text for item in found), frozenset().union(*(item.numbers for item in found)))


def is_last_of_its_weekday(day: date) -> bool:
    return day.day + 7 > monthrange(day.year, day.month)[1]


def is_nth_of_its_weekday(day: date, nth: int) -> bool:
    return (day.day + 6) // 7 == nth


@st.composite
def days(draw: st.DrawFn) -> tuple[str, DayRule]:
    """The third field."""
    kind = draw(st.sampled_from(["*", "?", "field", "field", "L", "with L"]))
    if kind in ("*", "?"):
        return kind, lambda day: True
    found = draw(fields(1, 31))
    if kind == "field":
        return found.text, lambda day: day.day in found.numbers

    def last(day: date) -> bool:
        return day.day == monthrange(day.year, day.month)[1]

    if kind == "L":
        return draw(st.sampled_from("Ll")), last
    return f"{found.text},L", lambda day: day.day in found.numbers or last(day)


@st.composite
def weekday_items(draw: st.DrawFn) -> tuple[str, DayRule]:
    """An item of the fifth field."""
    item = draw(items(0, 6, tuple(WEEKDAYS)))
    one = draw(st.sampled_from([*range(8), *WEEKDAYS]))
    number = WEEKDAYS.index(one) if isinstance(one, str) else one % 7
    nth = draw(st.integers(1, 5))
    start = draw(st.integers(0, 6))
    match draw(
        st.sampled_from(["item", "item", "one", "to 7", "from 7", "nth", "nth of range", "last", "last by croniter"])
    ):
        case "item":
            return item.text, lambda day: day.isoweekday() % 7 in item.numbers
        case "one":
            return str(one), lambda day: day.isoweekday() % 7 == number
        case "to 7":
            return f"{start}-7", lambda day: day.isoweekday() >= start
        case "from 7":
            return f"7-{start}", lambda day: day.isoweekday() % 7 <= start
        case "nth":
            return f"{one}#{nth}", lambda day: day.isoweekday() % 7 == number and is_nth_of_its_weekday(day, nth)
        case "nth of range":
            return f"{start}-6#{nth}", lambda day: day.isoweekday() % 7 >= start and is_nth_of_its_weekday(day, nth)
        case "last":
            return f"{one}L", lambda day: day.isoweekday() % 7 == number and is_last_of_its_weekday(day)
        case _:
            return f"L{one}", lambda day: day.isoweekday() % 7 == number and is_last_of_its_weekday(day)


@st.composite
def weekdays(draw: st.DrawFn) -> tuple[str, DayRule]:
    """The fifth field."""
    if draw(st.booleans()):
        return draw(st.sampled_from("*?")), lambda day: True
    found = draw(st.lists(weekday_items(), min_size=1, max_size=2))
    return ",".join(text for text, _ in found), lambda day: any(rule(day) for _, rule in found)


@st.composite
def cases(draw: st.DrawFn, every_day: bool = False, seconds: bool = True) -> Case:
    """A cron of five fields, or of six.

    Args:
        every_day: no day and no month is left out.
        seconds: whether there may be six fields.
    """
    minute, hour = draw(fields(0, 59)), draw(fields(0, 23))
    day, month, weekday = "*", Item("*", frozenset(range(1, 13))), "*"

    def fits(day: date) -> bool:
        return True

    if not every_day:
        month = draw(st.one_of(st.just(month), fields(1, 12, tuple(MONTHS))))
        (day, day_fits), (weekday, weekday_fits) = draw(days()), draw(weekdays())
        either = day[0] not in "*?" and weekday[0] not in "*?"

        def fits(day: date) -> bool:  # noqa: F811 - the one that counts
            both = day_fits(day), weekday_fits(day)
            return day.month in month.numbers and (any(both) if either else all(both))

    texts = [minute.text, hour.text, day, month.text, weekday]
    second = Item("0", frozenset({0}))
    if seconds and draw(st.booleans()):
        second = draw(fields(0, 59))
        texts.insert(0, second.text)
    whole = len(minute.numbers) == 60 or len(hour.numbers) == 24
    wildcard = whole or minute.text.startswith("*") or hour.text.startswith("*")
    meaning = Meaning(minute.numbers, hour.numbers, wildcard, fits, second.numbers)
    return Case(draw(st.sampled_from([" ", "  ", "\t"])).join(texts), meaning)
