"""What holds for every cron text, interval and plan."""

from __future__ import annotations

import pickle
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

from croniter import croniter
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from taskq.errors import InvalidSchedule
from taskq.timetable import EPOCH, LATEST, MOST_CAUGHT_UP, Cron, Every, Once, Plan, Timetable
from taskq.timetable.base import TICK
from taskq.timetable.fields import MAX_CHARS
from tests.property.crons import MONTHS, WEEKDAYS, Case, cases
from tests.property.slow_cron import ZONES

SECOND = timedelta(seconds=1)

instants = st.datetimes(datetime(1970, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))
crons = st.builds(
    Cron, st.sampled_from(["* * * * *", "*/7 * * * *", "30 2 * * *", "0 9 L * *"]), st.sampled_from(ZONES)
)
intervals = st.builds(Every, st.floats(1, 86400 * 400), instants)
timetables = st.one_of(crons, intervals, st.builds(Once, instants))


# -- cron texts -----------------------------------------------------------------------------------


@settings(max_examples=200)
@given(case=cases(), start=instants)
def test_day_by_day(case: Case, start: datetime) -> None:
    """The next firing in UTC is the first that a search day by day comes to; a day that never comes is refused."""
    try:
        cron = Cron(case.text)
    except InvalidSchedule as error:
        assert "no such day ever comes" in str(error)
        # The calendar repeats itself after 400 years.
        assert not any(case.meaning.day(date.fromordinal(n)) for n in range(730120, 730120 + 146_098))
        return
    found = cron.next_after(start)
    assert found is not None and found > start
    days_left = (found.date() - start.date()).days
    for n in range(days_left + 1):
        day = start.date() + timedelta(days=n)
        if case.meaning.day(day):
            times = [
                datetime(day.year, day.month, day.day, hour, minute, second, tzinfo=UTC)
                for hour in sorted(case.meaning.hours)
                for minute in sorted(case.meaning.minutes)
                for second in sorted(case.meaning.seconds)
            ]
            later = [time for time in times if time > start]
            if later:
                assert found == later[0]
                return
    raise AssertionError(f"{cron} does not fire on {found}, nor before it")


@st.composite
def plain_fields(draw: st.DrawFn, low: int, high: int, names: list[str]) -> str:
    """What every cron reads alike: `*`, `*/n`, or numbers, names, ranges and their steps, with commas between."""
    if draw(st.booleans()):
        return draw(st.sampled_from(["*", f"*/{draw(st.integers(1, high - low + 1))}"]))
    found = []
    for _ in range(draw(st.integers(1, 3))):
        first, last = sorted(draw(st.lists(st.integers(low, high), min_size=2, max_size=2, unique=True)))
        words = [names[number - low] if names and draw(st.booleans()) else str(number) for number in (first, last)]
        step = draw(st.sampled_from(["", "", f"/{draw(st.integers(1, high - low))}"]))
        found.append(draw(st.sampled_from([words[0], f"{words[0]}-{words[1]}{step}"])))
    return ",".join(found)


@st.composite
def texts_for_both(draw: st.DrawFn) -> str:
    """Texts of five fields that croniter understands as we do; docs/decisions/007-croniter.md has others."""
    minute, hour = draw(plain_fields(0, 59, [])), draw(plain_fields(0, 23, []))
    day, month, weekday = "*", draw(plain_fields(1, 12, MONTHS)), "*"
    match draw(st.sampled_from(["every day", "plain", "last", "nth", "last of its kind"])):
        case "plain":
            day, weekday = draw(plain_fields(1, 31, [])), draw(plain_fields(0, 6, WEEKDAYS))
        case "last":
            day = draw(st.sampled_from(["L", "10,L"]))
        case "nth":
            weekday = f"{draw(st.sampled_from([*range(7), *WEEKDAYS]))}#{draw(st.integers(1, 4))}"
        case "last of its kind":
            weekday = f"L{draw(st.integers(0, 6))}"
    return f"{minute} {hour} {day} {month} {weekday}"


@settings(max_examples=150)
@given(text=texts_for_both(), start=st.datetimes(datetime(2020, 1, 1), datetime(2035, 1, 1), timezones=st.just(UTC)))
def test_croniter_agrees(text: str, start: datetime) -> None:
    """Where no clock is changed, croniter (told to keep Vixie's rule of the star) fires at the same instants."""
    try:
        cron = Cron(text)
    except InvalidSchedule:
        assume(False)
    iterator = croniter(text, start, implement_cron_bug=True, max_years_between_matches=40)
    forth = [iterator.get_next(datetime) for _ in range(8)]
    assert cron.between(start, LATEST, 8) == forth
    back = croniter(text, start, implement_cron_bug=True, max_years_between_matches=40).get_prev(datetime)
    assert cron.previous_before(start) == back


@settings(max_examples=300)
@given(
    text=st.one_of(
        st.text(max_size=40),
        st.text("0123456789*/-,#LW?@ MONJAH", max_size=40),
        st.lists(st.text("0123456789*/-,#L?", min_size=1, max_size=6), min_size=5, max_size=6).map(" ".join),
        st.text("0123456789", min_size=MAX_CHARS - 3, max_size=MAX_CHARS + 3).map(lambda n: f"{n} * * * *"),
    )
)
def test_any_text_is_a_cron_or_refused(text: str) -> None:
    """No text does anything but make a cron that fires, or raise InvalidSchedule with a message of bounded length."""
    try:
        cron = Cron(text)
    except InvalidSchedule as error:
        assert len(str(error)) < 3 * MAX_CHARS + 300
    else:
        found = cron.next_after(EPOCH)
        assert found is not None and found > EPOCH


@given(case=cases(), zone=st.sampled_from(ZONES))
def test_a_cron_is_its_text(case: Case, zone: str) -> None:
    """The text of a cron makes the same cron again, with its zone; so does a pickle."""
    try:
        cron = Cron(case.text, zone)
    except InvalidSchedule:
        assume(False)
    assert Cron(str(cron)) == cron == Cron(f"TZ={zone}  {case.text}\n") == pickle.loads(pickle.dumps(cron))
    assert cron.next_after(EPOCH) == pickle.loads(pickle.dumps(cron)).next_after(EPOCH)
    assert hash(cron) == hash(Cron(str(cron)))


# -- all timetables -------------------------------------------------------------------------------


@given(timetable=timetables, instant=instants)
def test_back_and_forth(timetable: Timetable, instant: datetime) -> None:
    """Next and previous are each other's opposite, and nothing is between them."""
    following, previous = timetable.next_after(instant), timetable.previous_before(instant)
    if following is not None:
        assert following > instant
        assert timetable.next_after(following - TICK) == following
        assert timetable.previous_before(following) in (instant, previous)
    if previous is not None:
        assert previous < instant
        assert timetable.previous_before(previous + TICK) == previous
        assert timetable.next_after(previous) in (instant, following)


@given(seconds=st.integers(1, 10**7), start=instants, instant=instants)
def test_an_interval_counts_from_its_start(seconds: int, start: datetime, instant: datetime) -> None:
    """Every instant of an interval is a whole number of steps from its start, none is before it, none is left out."""
    every = Every(seconds, start)
    found = every.next_after(instant)
    assert found is not None
    steps = (found - every.start) / timedelta(seconds=seconds)
    assert steps == int(steps) >= 0
    assert instant < found and (found == every.start or found - instant <= timedelta(seconds=seconds))


# -- plans ----------------------------------------------------------------------------------------

plans = st.builds(
    Plan,
    st.one_of(crons, st.builds(Every, st.floats(30, 7200), instants)),
    jitter=st.one_of(st.just(0.0), st.floats(0, 86400)),
    catch_up=st.sampled_from(["skip", "last", "all"]),
    catch_up_limit=st.integers(1, 20),
)


def run(plan: Plan, looks: list[datetime], grace: float) -> list[tuple[datetime, datetime]]:
    """What fires, and when, if a beat looks at those times: (look, instant)."""
    seen, runs, fired = looks[0], 0, []
    for now in looks:
        due = plan.due("a", seen=seen, now=now, runs=runs, grace=grace)
        fired += [(now, instant) for instant in due.instants]
        assert due.seen >= seen
        assert due.next_at is None or due.next_at > now
        seen, runs = due.seen, runs + len(due.instants)
    return fired


@given(plan=plans, start=instants, waits=st.lists(st.floats(0, 20000), max_size=8), grace=st.floats(0, 60))
def test_no_instant_fires_twice_nor_early(plan: Plan, start: datetime, waits: list[float], grace: float) -> None:
    """Whenever a beat looks, instants fire in their order, once, not before their time, and no more than the limit."""
    looks = [start]
    for wait in waits:
        looks.append(looks[-1] + timedelta(seconds=wait))
    fired = run(plan, looks, grace)
    instants_fired = [instant for _, instant in fired]
    assert instants_fired == sorted(set(instants_fired))
    for now, instant in fired:
        assert start < instant <= plan.fires_at("a", instant) <= now
        assert plan.timetable.previous_before(instant + TICK) == instant
    at_once = Counter(now for now, _ in fired)
    assert all(count <= plan.catch_up_limit * looks.count(now) for now, count in at_once.items())


@given(
    timetable=crons,
    start=instants,
    waits=st.lists(st.floats(1, 5000), min_size=1, max_size=10),
    jitter=st.floats(0, 60),
)
def test_all_means_all(timetable: Cron, start: datetime, waits: list[float], jitter: float) -> None:
    """With catch_up="all" every instant whose time has come has fired, however seldom a beat looks."""
    plan = Plan(timetable, catch_up="all", catch_up_limit=MOST_CAUGHT_UP, jitter=jitter)
    looks = [start]
    for wait in waits:
        looks.append(looks[-1] + timedelta(seconds=wait))
    due = [one for one in timetable.between(start, looks[-1], 10**6) if plan.fires_at("a", one) <= looks[-1]]
    assert [instant for _, instant in run(plan, looks, grace=0)] == due


@given(plan=plans, start=instants, seconds=st.floats(0, 50_000), grace=st.floats(0, 3600))
def test_what_catching_up_means(plan: Plan, start: datetime, seconds: float, grace: float) -> None:
    """After a pause, of what is late: none fires, or the newest if nothing else does, or all, up to the limit."""
    now = start + timedelta(seconds=seconds)
    come = [one for one in plan.timetable.between(start, now, 10**6) if plan.fires_at("a", one) <= now]
    on_time = [one for one in come if plan.fires_at("a", one) >= now - timedelta(seconds=grace)]
    wanted = {"skip": on_time, "last": on_time or come[-1:], "all": come}[plan.catch_up][-plan.catch_up_limit :]
    due = plan.due("a", seen=start, now=now, grace=grace)
    assert list(due.instants) == wanted
    assert due.missed == (come[0] if come and come[:1] != wanted[:1] else None)
    assert due.seen == (come[-1] if come else start)
    following = plan.timetable.next_after(due.seen)
    assert due.next_at == (None if following is None else plan.fires_at("a", following))


@given(timetable=timetables, jitter=st.floats(0, 86400), id=st.text(), start=instants)
def test_jitter_keeps_order(timetable: Timetable, jitter: float, id: str, start: datetime) -> None:
    """An instant is put off by no more than the jitter, the same for all who ask, and never as far as the next one."""
    plan = Plan(timetable, jitter=jitter)
    found = plan.upcoming(start, 4)
    for instant, following in pairwise([*found, None]):
        assert instant is not None
        at = plan.fires_at(id, instant)
        assert at == Plan(timetable, jitter=jitter).fires_at(id, instant)
        assert timedelta(0) <= at - instant <= timedelta(seconds=jitter)
        assert following is None or at < following
