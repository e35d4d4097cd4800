"""The clock of a worker's machine is stepped by an hour, forwards and backwards, while messages wait (libfaketime)."""

from __future__ import annotations

import asyncio
import glob
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from taskq import Queue, RateLimit
from taskq.handle import Handle
from tests.chaos.app_clock import RETRY_AFTER, made
from tests.integration.harness import Station
from tests.integration.outcomes import Outcomes
from tests.services import need
from tests.support import eventually

OPEN, LINE = Queue("calls"), Queue("line", parallelism=1)
RATED = Queue("rated", rate_limit=RateLimit(2, per=1))
HOUR = 3600
LATE = 5.0  # seconds: far less than an hour; promised are milliseconds on a machine that has nothing else to do


class Clock:
    """Of every worker of a station that is started from now on."""

    def __init__(self, station: Station) -> None:
        need("faketime", "faketime")
        (library,) = glob.glob("/usr/lib/*/faketime/libfaketimeMT.so.1")
        self._file = station.folder / "clock"
        self.show(0)
        station._environment |= {
            "LD_PRELOAD": library,
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": "1",  # second, after which it looks into the file again
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
            "TASKQ_TEST_TRUE_TIME": str(time.time() - time.monotonic()),
        }
        self._ask = station.app.get_task("error_of_clock").options(queue=OPEN)

    def show(self, ahead: int) -> None:
        """Step it."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{ahead:+d}\n")
        new.replace(self._file)

    async def step(self, ahead: int) -> None:
        """Step it, and have the worker say so."""
        self.show(ahead)

        async def seen() -> bool:
            said = await (await self._ask.enqueue_async()).get_result_async(10)
            assert abs(said - ahead) < 5, f"the worker's clock is {said} s ahead, not {ahead} s"
            return True

        await eventually(seen)


@pytest.fixture
async def make_station(
    rabbitmq_url: str, prefix: str, tmp_path: Path, anyio_backend: str
) -> AsyncIterator[Callable[[str], Station]]:
    """A station on a store, with the tasks of `app_clock`."""
    stations: list[Station] = []

    def make(store: str) -> Station:
        app = "tests.chaos.app_clock:app"
        stations.append(Station(broker=rabbitmq_url, store=store, prefix=prefix, folder=tmp_path, app=app))
        stations[0].app = made(broker=rabbitmq_url, store=store, prefix=prefix)
        stations[0].step = stations[0].app.get_task("step")
        return stations[0]

    yield make
    for station in stations:
        await station.close()


class Wave:
    """Messages that wait for something when the clock is stepped: a delay, a retry, a rate, an expiry far ahead."""

    def __init__(self, station: Station) -> None:
        self.station = station
        self.delayed: dict[str, float] = {}  # id -> not to start before
        self.handles: list[Handle[Any]] = []

    async def send(self) -> None:
        """All of them."""
        step, again = self.station.step, self.station.app.get_task("tries_again")
        for delay in (1.0, 3.0):
            due = time.time() + delay
            handle = await step.options(queue=OPEN, delay=delay, expires=60).enqueue_async()
            self.delayed[handle.id] = due
            self.handles.append(handle)
        for queue in (OPEN, LINE):
            self.handles.append(await again.options(queue=queue).enqueue_async(fails=2))
        self.handles += [await step.options(queue=RATED).enqueue_async() for _ in range(4)]

    async def done(self) -> None:
        """Wait for the ends of all, and check when each attempt of each began."""
        await asyncio.gather(*(handle.get_result_async(30) for handle in self.handles))
        log = self.station.log
        for id, due in self.delayed.items():
            (start,) = log.of("start", id=id)
            assert 0 <= start.at - due < LATE, f"started {start.at - due:+.2f} s from its time"
        ids = {handle.id for handle in self.handles}
        for failure in (event for event in log.of("fail") if event.id in ids):
            (start,) = log.of("start", id=failure.id, attempt=failure.attempt + 1)
            waited = start.at - failure.at
            assert RETRY_AFTER - 0.01 <= waited < RETRY_AFTER + LATE, f"{start} came {waited:.2f} s after the failure"


async def test_a_step_of_a_workers_clock_with_postgresql(
    make_station: Callable[[str], Station], postgres_store_url: str
) -> None:
    """The store's clock decides: delays, retries, rates and expiries are neither early nor late."""
    station = make_station(postgres_store_url)
    outcomes = await watched(station, postgres_store_url)
    clock = Clock(station)
    await station.ensure(OPEN, LINE, RATED)
    await station.start_ready(1, [OPEN.name, LINE.name, RATED.name])
    waves = []
    for ahead in (HOUR, -HOUR):
        before, after = Wave(station), Wave(station)
        await before.send()
        await clock.step(ahead)
        await after.send()
        waves += [before, after]
        await asyncio.gather(before.done(), after.done())
    handles = [handle for wave in waves for handle in wave.handles]
    starts = sorted(event.at for event in station.log.of("start", queue=RATED.name))
    gaps = [after - before for before, after in zip(starts, starts[2:], strict=False)]
    print(f"{len(handles)} messages over two steps; two starts of a rate of 2/s are {min(gaps):.3f} s apart at least")
    assert len(starts) == 16 and min(gaps) >= 1.0
    assert max(gaps) < 1.0 + 2 * LATE
    assert len(station.log.of("start")) == len(handles) + 2 * 8, "nothing ran twice"
    recorded = outcomes.recorded()
    assert {recorded[handle.id] for handle in handles} == {1}


async def watched(station: Station, url: str) -> Outcomes:
    """Counts what the station's store records."""
    await station.store()
    outcomes = Outcomes(url)
    outcomes.watch()
    return outcomes


async def test_a_step_of_the_clock_with_sqlite(make_station: Callable[[str], Station], sqlite_store_url: str) -> None:
    """The machine's clock decides: what waits for an instant goes by what the clock says; nothing is lost or stuck."""
    station = make_station(sqlite_store_url)
    clock = Clock(station)
    await station.ensure(OPEN, LINE)
    await station.start_ready(1, [OPEN.name, LINE.name])
    step = station.step.options(queue=OPEN)
    (far,) = [await step.options(delay=HOUR / 2).enqueue_async(number=1)]
    store = await station.store()
    await eventually(lambda: _waits(store))
    assert not station.log.of("start", number=1)
    await clock.step(HOUR)
    stepped = time.time()
    assert await far.get_result_async(20) == 1
    (start,) = station.log.of("start", number=1)
    print(f"what was due in half an hour started {start.at - stepped:.1f} s after the clock was stepped by an hour")
    for ahead in (HOUR, 0):  # what begins after a step waits as long as it should, in either direction
        await clock.step(ahead)
        again = station.app.get_task("tries_again")
        handles = [await again.options(queue=queue).enqueue_async(fails=1) for queue in (OPEN, LINE)]
        await asyncio.gather(*(handle.get_result_async(20) for handle in handles))
        for handle in handles:
            (failure,) = station.log.of("fail", id=handle.id)
            (start,) = station.log.of("start", id=handle.id, attempt=2)
            assert RETRY_AFTER - 0.01 <= start.at - failure.at < RETRY_AFTER + LATE


async def _waits(store: Any) -> list[Any]:
    return list((await store.waiting()).items)
