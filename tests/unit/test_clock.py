"""`FollowingClock`: another clock's time, carried on by this machine's monotonic one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from taskq.clock import FollowingClock
from taskq.errors import StoreUnavailable

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
ELSEWHERE = datetime(2026, 6, 1, 9, tzinfo=UTC)
HOUR = timedelta(hours=1)


class Machine:
    """A clock whose hands the test moves."""

    def __init__(self) -> None:
        self.shown = NOON
        self.passed = 500.0
        self.slept: list[float] = []

    def now(self) -> datetime:
        return self.shown

    def monotonic(self) -> float:
        return self.passed

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    def go_on(self, seconds: float) -> None:
        """Let time pass."""
        self.shown += timedelta(seconds=seconds)
        self.passed += seconds


class Other:
    """The clock that is followed: it runs beside the machine's, and each look at it takes a while."""

    def __init__(self, machine: Machine, takes: float = 0.0) -> None:
        self.machine = machine
        self.takes = takes
        self.offset = ELSEWHERE - timedelta(seconds=machine.passed)
        self.away = False

    def true(self) -> datetime:
        """What it shows now."""
        return self.offset + timedelta(seconds=self.machine.passed)

    async def read(self) -> datetime:
        self.machine.go_on(self.takes / 2)
        seen = self.true()
        self.machine.go_on(self.takes / 2)
        if self.away:
            raise StoreUnavailable("away")
        return seen


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.mark.parametrize("step", [HOUR, -HOUR])
async def test_a_step_of_the_machines_clock_is_not_seen(machine: Machine, step: timedelta) -> None:
    """Not of one that was looked at, nor before the first look; time goes on as the monotonic clock does."""
    other = Other(machine)
    clock = FollowingClock(machine, other.read)
    machine.shown += step
    assert clock.now() == NOON
    await clock.look()
    assert clock.now() == ELSEWHERE
    machine.shown += step
    machine.go_on(90)
    assert clock.now() == ELSEWHERE + timedelta(seconds=90)


async def test_a_look_sees_a_step_of_the_other_clock(machine: Machine) -> None:
    """It is that clock's time that is told, whatever it does; between looks nothing is known of it."""
    other = Other(machine)
    clock = FollowingClock(machine, other.read)
    await clock.look()
    other.offset -= HOUR
    assert clock.now() == ELSEWHERE
    await clock.look()
    assert clock.now() == ELSEWHERE - HOUR


async def test_half_of_the_time_that_a_look_takes_has_passed_since_it_was_read(machine: Machine) -> None:
    """So the error of a look is half of its time at most, in either direction."""
    other = Other(machine, takes=3.0)
    clock = FollowingClock(machine, other.read)
    await clock.look()
    assert clock.now() == other.true() == ELSEWHERE + timedelta(seconds=3)


async def test_a_look_that_took_long_only_corrects_what_it_rules_out(machine: Machine) -> None:
    """A machine that stood still after the answer was read would else set its clock back by half of that time."""
    other = Other(machine)
    clock = FollowingClock(machine, other.read)
    await clock.look()

    async def late(stood: float, step: timedelta) -> datetime:
        other.offset += step
        seen = await other.read()
        machine.go_on(stood)
        return seen

    for stood, step, told in ((4.0, timedelta(), timedelta()), (4.0, HOUR, HOUR - timedelta(seconds=2))):
        clock._read = lambda stood=stood, step=step: late(stood, step)
        before = clock.now()
        await clock.look()
        assert clock.now() == before + timedelta(seconds=4) + told


async def test_a_look_that_fails_changes_nothing(machine: Machine) -> None:
    """It raises, and the time goes on from the look before."""
    other = Other(machine, takes=2.0)
    clock = FollowingClock(machine, other.read)
    await clock.look()
    other.away = True
    machine.shown += HOUR
    with pytest.raises(StoreUnavailable):
        await clock.look()
    assert clock.now() == other.true() == ELSEWHERE + timedelta(seconds=4)


async def test_without_another_clock_it_is_the_machines(machine: Machine) -> None:
    """Steps and all."""
    clock = FollowingClock(machine, None)
    machine.shown += HOUR
    await clock.look()
    assert clock.now() == NOON + HOUR


async def test_durations_and_sleep_are_the_machines(machine: Machine) -> None:
    """Only the instant is another's."""
    clock = FollowingClock(machine, Other(machine).read)
    await clock.sleep(2.5)
    assert machine.slept == [2.5] and clock.monotonic() == 500.0
