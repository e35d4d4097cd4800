"""Cron texts and their zones: what is understood, what is refused, and clocks that are changed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from taskq.errors import InvalidSchedule
from taskq.timetable import EPOCH, LATEST, Cron

NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)


def walls(cron: Cron, year: int, month: int, day: int, count: int) -> list[str]:
    """The first firings from the beginning of a day in the cron's zone, as the wall there shows them."""
    zone = ZoneInfo(cron.zone or "")
    found = cron.between(datetime(year, month, day, tzinfo=zone) - timedelta(seconds=1), LATEST, count)
    for earlier, later in pairwise(found):
        assert cron.previous_before(later) == earlier
    return [instant.astimezone(zone).strftime("%d %H:%M%z") for instant in found]


# -- what a text means ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("* * * * *", ["01-01 00:01:00", "01-01 00:02:00", "01-01 00:03:00"]),
        ("*/20 9-17/4 * * *", ["01-01 09:00:00", "01-01 09:20:00", "01-01 09:40:00"]),
        ("5/25 0 * * *", ["01-01 00:05:00", "01-01 00:30:00", "01-01 00:55:00"]),
        ("0 22-1 * * *", ["01-01 01:00:00", "01-01 22:00:00", "01-01 23:00:00"]),
        ("0 0 1 mar,JUN-Jul *", ["03-01 00:00:00", "06-01 00:00:00", "07-01 00:00:00"]),
        ("0 0 1 NOV-FEB *", ["02-01 00:00:00", "11-01 00:00:00", "12-01 00:00:00"]),
        ("0 0 * * FRI-MON", ["01-02 00:00:00", "01-03 00:00:00", "01-04 00:00:00"]),
        ("0 0 * * 0", ["01-04 00:00:00", "01-11 00:00:00", "01-18 00:00:00"]),
        ("0 0 * * 7", ["01-04 00:00:00", "01-11 00:00:00", "01-18 00:00:00"]),
        ("0 0 * * 6-7", ["01-03 00:00:00", "01-04 00:00:00", "01-10 00:00:00"]),
        ("0 0 L * *", ["01-31 00:00:00", "02-28 00:00:00", "03-31 00:00:00"]),
        ("0 0 29,L 2-3 ?", ["02-28 00:00:00", "03-29 00:00:00", "03-31 00:00:00"]),
        ("0 0 ? * MON#1", ["01-05 00:00:00", "02-02 00:00:00", "03-02 00:00:00"]),
        ("0 0 * * FRI#5", ["01-30 00:00:00", "05-29 00:00:00", "07-31 00:00:00"]),
        ("0 0 * * L5", ["01-30 00:00:00", "02-27 00:00:00", "03-27 00:00:00"]),
        ("0 0 * * friL,Lmon", ["01-26 00:00:00", "01-30 00:00:00", "02-23 00:00:00"]),
        # Where croniter differs; see docs/decisions/007-croniter.md.
        ("5-5 * * * *", ["01-01 00:05:00", "01-01 01:05:00", "01-01 02:05:00"]),
        ("0 0 * * 7-0", ["01-04 00:00:00", "01-11 00:00:00", "01-18 00:00:00"]),
        ("0 0 15 * MON#1", ["01-05 00:00:00", "01-15 00:00:00", "02-02 00:00:00"]),
        ("0 0 * * MON#1,FRI", ["01-02 00:00:00", "01-05 00:00:00", "01-09 00:00:00"]),
        ("0 0 * * 1-5#2", ["01-08 00:00:00", "01-09 00:00:00", "01-12 00:00:00"]),
        ("0 0 * * 6-2/2", ["01-03 00:00:00", "01-05 00:00:00", "01-10 00:00:00"]),
        ("0 0 25-5/3 2,3 *", ["02-03 00:00:00", "02-25 00:00:00", "02-28 00:00:00"]),
        ("*/20 30 12 * * *", ["01-01 12:30:00", "01-01 12:30:20", "01-01 12:30:40"]),
        ("@hourly", ["01-01 01:00:00", "01-01 02:00:00", "01-01 03:00:00"]),
        ("@Daily", ["01-02 00:00:00", "01-03 00:00:00", "01-04 00:00:00"]),
        ("@weekly", ["01-04 00:00:00", "01-11 00:00:00", "01-18 00:00:00"]),
        ("@monthly", ["02-01 00:00:00", "03-01 00:00:00", "04-01 00:00:00"]),
    ],
)
def test_understood(text: str, first: list[str]) -> None:
    """Each form of a field means what crontab(5), Quartz or croniter say it does."""
    found = Cron(text).between(NEW_YEAR, LATEST, 3)
    assert [instant.strftime("%m-%d %H:%M:%S") for instant in found] == first


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("0 0 13 * FRI", [2, 9, 13, 16, 23, 30]),  # either
        ("0 0 13 * *", [13]),
        ("0 0 * * FRI", [2, 9, 16, 23, 30]),
        ("0 0 */100,1-7 * FRI", [2]),  # begins with a star: both
        ("0 0 1-7 * */5", [2, 4]),
        ("0 0 */2 * FRI", [9, 23]),
        ("0 0 1-31 * FRI", list(range(2, 32))),  # does not begin with one
    ],
)
def test_both_day_fields(text: str, first: list[int]) -> None:
    """With two day fields either may fit, unless one of them begins with a star."""
    found = Cron(text).between(NEW_YEAR, datetime(2026, 1, 31, 12, tzinfo=UTC), 100)
    assert [instant.day for instant in found] == first


def test_leap_days() -> None:
    """What comes once in years is found, across a century without its leap year too."""
    assert Cron("0 0 29 2 *").between(datetime(2096, 1, 1, tzinfo=UTC), LATEST, 2) == [
        datetime(2096, 2, 29, tzinfo=UTC),
        datetime(2104, 2, 29, tzinfo=UTC),
    ]
    mondays = Cron("0 0 * 2 MON#5")
    assert mondays.next_after(datetime(2073, 1, 1, tzinfo=UTC)) == datetime(2112, 2, 29, tzinfo=UTC)
    assert mondays.previous_before(datetime(2112, 1, 1, tzinfo=UTC)) == datetime(2072, 2, 29, tzinfo=UTC)


def test_ends_of_time() -> None:
    """There is nothing before the epoch and nothing in the year 9999, and asking about it is no error."""
    cron = Cron("0 0 1 1 *")
    assert cron.next_after(datetime.min.replace(tzinfo=UTC)) == EPOCH
    assert cron.previous_before(EPOCH) is None
    assert cron.previous_before(datetime.max.replace(tzinfo=UTC)) == datetime(9998, 1, 1, tzinfo=UTC)
    assert cron.next_after(datetime(9998, 1, 1, tzinfo=UTC)) is None
    assert cron.next_after(datetime.max.replace(tzinfo=UTC)) is None


def test_instants_of_any_zone() -> None:
    """An instant may come in any zone and between two seconds; the answer is UTC. A naive one is refused."""
    tokyo = datetime(2026, 1, 1, 9, 0, 59, 999_999, tzinfo=timezone(timedelta(hours=9)))
    found = Cron("* * * * *").next_after(tokyo)
    assert found == datetime(2026, 1, 1, 0, 1, tzinfo=UTC) and found.tzinfo is UTC
    assert Cron("* * * * *").previous_before(tokyo) == NEW_YEAR
    with pytest.raises(InvalidSchedule, match="needs a zone"):
        Cron("* * * * *").next_after(datetime(2026, 1, 1))


# -- zones ------------------------------------------------------------------------------------------


def test_zone_before_the_text() -> None:
    """A zone may stand before the text or beside it; what means the same is equal, and its text makes it again."""
    before, beside = Cron("CRON_TZ=Europe/Paris  0 9 * * *"), Cron(" 0 9 * * * ", "Europe/Paris")
    assert before == beside == Cron("TZ=Europe/Paris 0 9 * * *", "Europe/Paris") == Cron(str(before))
    assert (before.text, before.zone) == ("0 9 * * *", "Europe/Paris")
    assert before.next_after(NEW_YEAR) == datetime(2026, 1, 1, 8, tzinfo=UTC)
    assert Cron("TZ=Asia/Kolkata @daily").next_after(NEW_YEAR) == datetime(2026, 1, 1, 18, 30, tzinfo=UTC)
    assert Cron("0 9 * * *") == Cron("0 9 * * *", "UTC") != beside
    assert str(Cron("0 9 * * *")) == "0 9 * * *"


@pytest.mark.parametrize(
    ("zone", "told"),
    [
        ("Europe/Pariss", "did you mean Europe/Paris"),
        ("europe/paris", r"did you mean Europe/Paris\?"),
        ("Paris", r"did you mean Europe/Paris\?"),
        ("America/New York", r"did you mean America/New_York\?"),
        ("UTC+2", "unknown time zone 'UTC\\+2'"),
        ("Europe", "unknown time zone"),
        ("localtime", "unknown time zone"),
        ("right/Europe/Paris", "unknown time zone"),
        ("../../etc/passwd", "unknown time zone"),
        ("/etc/localtime", "unknown time zone"),
        ("Europe/Paris\0", "unknown time zone"),
        ("", "IANA name"),
        ("x" * 5000, "IANA name"),
        (ZoneInfo("Europe/Paris"), "IANA name"),
    ],
)
def test_zones_refused(zone: str, told: str) -> None:
    """A zone that is not known is refused, with those that are spelled alike."""
    with pytest.raises(InvalidSchedule, match=told) as caught:
        Cron("0 9 * * *", zone)
    assert len(str(caught.value)) < 300


def test_two_zones() -> None:
    """A text and an argument that name different zones are refused: neither is to win in silence."""
    with pytest.raises(InvalidSchedule, match="name two zones"):
        Cron("CRON_TZ=Europe/Paris 0 9 * * *", "Europe/Berlin")
    with pytest.raises(InvalidSchedule, match="follows CRON_TZ="):
        Cron("CRON_TZ= 0 9 * * *")


# -- what is refused --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "expected five fields .* or six with the second leading, got 0"),
        ("* * * *", "five fields .* got 4"),
        ("0 0 1 1 * 0 2026", "five fields .* got 7"),
        ("@reboot", "unknown alias .*@hourly"),
        ("60 * * * *", "minute field, position 1: 60 is not from 0 to 59"),
        ("* 24 * * *", "hour field, position 3: 24 is not from 0 to 23"),
        ("* * 0 * *", "day field, position 5: 0 is not from 1 to 31"),
        ("* * * 1,13 *", "month field, position 9: 13 is not from 1 to 12"),
        ("* * * * 8", "weekday field, position 9: 8 is not from 0 to 7"),
        ("60 * * * * *", "second field, position 1: 60"),
        ("1-75 * * * *", "minute field, position 3: 75"),
        ("-5 * * * *", "minute field, position 1: '-' is not understood"),
        ("5- * * * *", "minute field, position 2: '-' is not understood"),
        ("1,,2 * * * *", "minute field, position 3: expected a value"),
        ("1, * * * *", "minute field, position 3: expected a value"),
        ("1.5 * * * *", "minute field, position 2: '.' is not understood"),
        ("٣ * * * *", "minute field, position 1"),
        ("1\xa02 * * * *", "minute field, position 2"),
        ("* * * * MONDAY", "weekday field, position 9: unknown name 'MONDAY' .*MON"),
        ("* * * MAI *", "month field, position 7: unknown name 'MAI' .*MAY"),
        ("MON * * * *", "minute field, position 1: unknown name 'MON'"),
        ("*/0 * * * *", "minute field, position 3: a step is 1 or more"),
        ("*/90 * * * *", "minute field, position 3: a step of 90 never comes round.*every="),
        ("* */36 * * *", "hour field, position 5: a step of 36"),
        ("*-5 * * * *", r"minute field, position 1: '\*' takes a step"),
        ("*5 * * * *", "minute field, position 2: '5' is not understood"),
        ("1/2/3 * * * *", "minute field, position 4: '/' is not understood"),
        ("? * * * *", r"minute field, position 1: '\?' stands alone"),
        ("0 0 ?,1 * *", r"day field, position 5: '\?' stands alone"),
        ("0 0 L-3 * *", "day field, position 5: unknown name 'L'"),
        ("0 0 15W * *", "day field.* the nearest working day .* not supported"),
        ("0 0 * * L", "weekday field.* FRIL is the last Friday"),
        ("0 0 * * MON#6", "weekday field, position 13: .* got #6"),
        ("0 0 * * MON#0", "weekday field, position 13: .* got #0"),
        ("0 0 * * 1-5/2#1", "weekday field.* '#' follows a weekday only"),
        ("0 0 1#1 * *", "day field, position 6: '#' follows a weekday only"),
        ("H * * * *", "minute field, position 1: .*jitter"),
        ("0 0 30 2 *", "no such day ever comes"),
        ("0 0 31 4,JUN,9,11 *", "no such day ever comes"),
        ("0 0 30 2 */7", "no such day ever comes"),
        ("0 0 */100 * MON#2", "no such day ever comes"),
        ("9" * 300 + " * * * *", "is not from 0 to 59"),
        ("0" * 600, "at most 512 characters, got 600"),
        (None, "a cron is text, got None"),
        (5, "a cron is text, got 5"),
        (b"* * * * *", "a cron is text"),
    ],
)
def test_refused(text: str, told: str) -> None:
    """What is no cron, or never fires, is refused when it is made, naming the field and the position."""
    with pytest.raises(InvalidSchedule, match=told):
        Cron(text)


def test_dates_that_need_a_leap_year_are_none_that_never_come() -> None:
    """The 29th of February is a day; the 30th is one if Mondays will do as well."""
    assert Cron("0 0 29 2 *").next_after(NEW_YEAR) == datetime(2028, 2, 29, tzinfo=UTC)
    assert Cron("0 0 30 2 MON").next_after(NEW_YEAR) == datetime(2026, 2, 2, tzinfo=UTC)


# -- clocks that are put forward or back --------------------------------------------------------------
# Berlin, 2026: on 29 March 02:00 becomes 03:00, on 25 October 03:00 becomes 02:00.


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("30 2 * * *", ["29 03:00+0200", "30 02:30+0200"]),  # at the first instant after the gap
        ("0 2 * * *", ["29 03:00+0200", "30 02:00+0200"]),
        ("0,20,40 2 * * *", ["29 03:00+0200", "30 02:00+0200"]),  # once, not three times in one instant
        ("0 1,2,3 * * *", ["29 01:00+0100", "29 03:00+0200", "30 01:00+0200"]),  # 02:00 and 03:00 are one instant
        ("15 2,3 * * *", ["29 03:00+0200", "29 03:15+0200", "30 02:15+0200"]),
        ("30 0-4 * * *", ["29 00:30+0100", "29 01:30+0100", "29 03:00+0200", "29 03:30+0200"]),
        ("*/30 * * * *", ["29 00:00+0100", "29 00:30+0100", "29 01:00+0100", "29 01:30+0100", "29 03:00+0200"]),
        ("*/30 2 * * *", ["30 02:00+0200"]),  # a wildcard: what was skipped is not made up for
        ("0 */2 * * *", ["29 00:00+0100", "29 04:00+0200"]),
        ("30 15 2 * * *", ["29 03:00+0200", "30 02:15+0200"]),
    ],
)
def test_put_forward(text: str, first: list[str]) -> None:
    """A time of the day that is skipped comes right after the gap, once; wildcards go by real time."""
    assert walls(Cron(text, "Europe/Berlin"), 2026, 3, 29, len(first)) == first


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("30 2 * * *", ["25 02:30+0200", "26 02:30+0100"]),
        ("0 1,2,3 * * *", ["25 01:00+0200", "25 02:00+0200", "25 03:00+0100"]),
        ("0,30 2 * * *", ["25 02:00+0200", "25 02:30+0200", "26 02:00+0100"]),
        ("*/30 2 * * *", ["25 02:00+0200", "25 02:30+0200", "25 02:00+0100", "25 02:30+0100", "26 02:00+0100"]),
        ("0 * * * *", ["25 00:00+0200", "25 01:00+0200", "25 02:00+0200", "25 02:00+0100", "25 03:00+0100"]),
        ("0 0-23 * * *", ["25 00:00+0200", "25 01:00+0200", "25 02:00+0200", "25 02:00+0100"]),  # `*`, spelled out
    ],
)
def test_put_back(text: str, first: list[str]) -> None:
    """A time of the day that is repeated comes the first time only; wildcards fire in both hours."""
    assert walls(Cron(text, "Europe/Berlin"), 2026, 10, 25, len(first)) == first


@pytest.mark.parametrize(
    ("zone", "text", "day", "first"),
    [
        # Half an hour: 02:00 becomes 02:30 on 4 October, 02:00 becomes 01:30 on 5 April.
        ("Australia/Lord_Howe", "15 2 * * *", (2026, 10, 4), ["04 02:30+1100", "05 02:15+1100"]),
        ("Australia/Lord_Howe", "45 1 * * *", (2026, 4, 5), ["05 01:45+1100", "06 01:45+1030"]),
        ("Australia/Lord_Howe", "*/30 1 * * *", (2026, 4, 5), ["05 01:00+1100", "05 01:30+1100", "05 01:30+1030"]),
        # Midnight: 00:00 becomes 01:00 on 6 September 2026, 24:00 becomes 23:00 on 4 April.
        ("America/Santiago", "0 0 * * *", (2026, 9, 5), ["05 00:00-0400", "06 01:00-0300", "07 00:00-0300"]),
        ("America/Santiago", "30 23 * * *", (2026, 4, 4), ["04 23:30-0300", "05 23:30-0400"]),
        # A whole day: Samoa had no 30 December 2011. That is a correction, and nothing is made up for.
        ("Pacific/Apia", "0 9 * * *", (2011, 12, 29), ["29 09:00-1000", "31 09:00+1400"]),
    ],
)
def test_odd_changes(zone: str, text: str, day: tuple[int, int, int], first: list[str]) -> None:
    """Half an hour, and midnight, follow the same rules; a change of more than three hours follows the calendar."""
    assert walls(Cron(text, zone), *day, len(first)) == first
