"""Three beats in real time: leaders are killed, cut off and suspended at random instants; each tick is sent once."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.chaos.app_beats import CRON, CRON_SECONDS, SECONDS, add_schedules
from tests.integration.harness import ROOT, Station, WorkerProcess
from tests.proxy import Proxy
from tests.servers import free_port
from tests.support import eventually

LASTS = float(os.environ.get("TASKQ_TEST_SECONDS", "60"))  # of real time; `make soak` has it last longer
LATE = 10.0  # seconds: what is promised; the goal is half of it
APP = "tests.chaos.app_beats:app"


@dataclass
class BeatProcess:
    """One `taskq beat`, on a line of its own to the broker."""

    worker: WorkerProcess
    line: Proxy

    async def standing(self) -> str:
        """ "leads" or "stands by"; "" if it does not answer."""
        if not self.worker.running or not await self.worker.health():
            return ""
        return str(json.loads(self.worker.answered).get("beat", ""))


@pytest.fixture
async def station(
    rabbitmq_url: str, postgres_store_url: str, prefix: str, tmp_path: Path, anyio_backend: str
) -> AsyncIterator[Station]:
    """On the servers that all tests share: only processes and lines of its own are ill-treated."""
    station = Station(broker=rabbitmq_url, store=postgres_store_url, prefix=prefix, folder=tmp_path, app=APP)
    add_schedules(station.app)
    yield station
    await station.close()


@pytest.fixture
async def lines(rabbitmq_url: str, anyio_backend: str) -> AsyncIterator[list[Proxy]]:
    url = urlsplit(rabbitmq_url)
    made = [Proxy(url.hostname or "127.0.0.1", url.port or 5672) for _ in range(3)]
    for line in made:
        await line.__aenter__()
    yield made
    for line in made:
        line.heal()
        await line.__aexit__()


def start_beat(station: Station, line: Proxy, url: str, heartbeat: int = 10) -> BeatProcess:
    """Start a `taskq beat`; returns at once."""
    parts, port = urlsplit(url), free_port()
    broker = url.replace(f"{parts.hostname}:{parts.port or 5672}", f"127.0.0.1:{line.port}")
    environment = os.environ | station._environment | {"TASKQ_BROKER": broker, "TASKQ_HEARTBEAT": str(heartbeat)}
    output = station.folder / f"beat-{len(station.workers)}.txt"
    command = [sys.executable, "-m", "taskq", "beat", APP, "--health", f"127.0.0.1:{port}"]
    with output.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT, env=environment)
    station.workers.append(WorkerProcess(process, port, output))
    station.workers[-1].breaks_down = True  # it loses its connections again and again, and says so
    return BeatProcess(station.workers[-1], line)


def ticks(station: Station) -> Counter[tuple[str, datetime]]:
    """How often each tick was seen by its task."""
    found: Counter[tuple[str, datetime]] = Counter()
    for event in station.log.of("tick"):
        id, _, instant = event.key.partition(" ")
        found[id, datetime.fromisoformat(instant)] += 1
    return found


async def leader(beats: list[BeatProcess]) -> BeatProcess:
    async def found() -> BeatProcess | None:
        standings = [(await beat.standing(), beat) for beat in beats]
        return next((beat for standing, beat in standings if standing == "leads"), None)

    return await eventually(found, 30)


async def test_each_tick_once_whatever_becomes_of_the_leader(
    station: Station, lines: list[Proxy], rabbitmq_url: str
) -> None:
    """For a minute leaders are killed, cut off and suspended; no tick is sent twice, left out, or late."""
    rng = random.Random(time.time_ns())
    await station.start_ready(1, ["ticks"])
    beats = [start_beat(station, line, rabbitmq_url) for line in lines]
    for beat in beats:
        await beat.worker.ready()
    await station.log.until(lambda: len({id for id, _ in ticks(station)}) == len(SECONDS) + 1)
    until, faults = time.monotonic() + LASTS, Counter[str]()
    while time.monotonic() < until:
        victim = await leader(beats)
        fault = rng.choice(["killed", "cut off", "suspended", "stopped"])
        faults[fault] += 1
        await ill_treat(station, beats, victim, fault, rng, rabbitmq_url)
    ended = datetime.now(tz=next(iter(ticks(station)))[1].tzinfo)
    gap = await whole(station, ended)
    told = ", ".join(f"{fault} {times}" for fault, times in faults.items())
    print(f"{sum(ticks(station).values())} ticks in {LASTS:g} s, each once; the latest was {gap:.1f} s late; {told}")


async def test_a_leader_that_is_cut_off_for_longer_than_its_heartbeat(
    station: Station, lines: list[Proxy], rabbitmq_url: str
) -> None:
    """With the default heartbeat the broker keeps its seat for a minute and more; meanwhile others stand in for it."""
    heartbeat = int(station.app.settings.heartbeat)
    await station.start_ready(1, ["ticks"])
    beats = [start_beat(station, line, rabbitmq_url, heartbeat) for line in lines]
    for beat in beats:
        await beat.worker.ready()
    await station.log.until(lambda: len({id for id, _ in ticks(station)}) == len(SECONDS) + 1)
    victim = await leader(beats)
    victim.line.silence()
    await asyncio.sleep(1.5 * heartbeat)
    gap = await whole(station, datetime.now(tz=next(iter(ticks(station)))[1].tzinfo))
    print(f"cut off for {1.5 * heartbeat:g} s with a heartbeat of {heartbeat} s: the latest tick was {gap:.1f} s late")


async def ill_treat(
    station: Station, beats: list[BeatProcess], victim: BeatProcess, fault: str, rng: random.Random, url: str
) -> None:
    """Do it, for a random time, and undo it."""
    if fault == "killed":
        victim.worker.kill()
    elif fault == "stopped":
        victim.worker.terminate()
        assert await victim.worker.ended(10) == 0
    elif fault == "cut off":
        victim.line.silence()
    else:
        victim.worker.process.send_signal(signal.SIGSTOP)
    await asyncio.sleep(rng.uniform(1, 8))
    victim.line.heal()
    if victim.worker.running:
        victim.worker.process.send_signal(signal.SIGCONT)
    else:
        beats[beats.index(victim)] = start_beat(station, victim.line, url)
    await asyncio.sleep(rng.uniform(0, 2))


async def whole(station: Station, ended: datetime) -> float:
    """Wait until all ticks up to then are there; each is there once. By how much the latest was late, in seconds."""
    wanted: set[tuple[str, datetime]] = set()
    for id, seconds in {**SECONDS, CRON: CRON_SECONDS}.items():
        first = min(instant for one, instant in ticks(station) if one == id)
        steps = int((ended - first).total_seconds() // seconds)
        wanted |= {(id, first + timedelta(seconds=seconds * step)) for step in range(steps + 1)}

    def all_there() -> bool:
        missing = sorted(wanted - ticks(station).keys(), key=lambda tick: tick[1])
        assert not missing, f"{len(missing)} ticks are missing, the first: {missing[:3]}"
        return True

    await eventually(all_there, LATE + 10)
    twice = {tick: times for tick, times in ticks(station).items() if times > 1}
    assert twice == {}
    late = 0.0
    for event in station.log.of("tick"):
        instant = datetime.fromisoformat(event.key.partition(" ")[2])
        late = max(late, event.at - instant.timestamp())
    assert late <= LATE, f"a tick was {late:.1f} s late"
    return late
