"""SIGKILL in the gap between two steps: of a worker, of the keeper, of a sender. `app_dies` says how."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aio_pika
import pytest

from taskq.outcome import Status
from taskq.store.base import DeadFilter
from tests.chaos.app_dies import Death
from tests.chaos.stream import LANES, OPEN, QUEUES, Ledger, Stream
from tests.integration.harness import ROOT, Station
from tests.integration.outcomes import Outcomes
from tests.support import eventually

REPEATED_WITHIN = 10.0  # seconds: what the dead had claimed belongs to it for so long, or its row is due only then
LOOKED_FOR_EVERY = 2.5  # seconds between the keeper's looks
SLACK = 7.0  # seconds for a new leader on a machine that is busy


@pytest.fixture
async def station(
    rabbitmq_url: str, postgres_store_url: str, prefix: str, tmp_path: Path, anyio_backend: str
) -> AsyncIterator[Station]:
    """On the servers that all tests share: only processes of its own die here."""
    app = "tests.chaos.app_dies:app"
    station = Station(broker=rabbitmq_url, store=postgres_store_url, prefix=prefix, folder=tmp_path, app=app)
    yield station
    await station.close()


@pytest.fixture
def asked(rabbitmq_url: str) -> Callable[[], str]:
    """Its broker."""
    return lambda: rabbitmq_url


class Trap:
    """Kills the first process that comes through a gap, once it is armed."""

    def __init__(self, folder: Path, gap: str) -> None:
        self.folder = folder
        self.folder.mkdir()
        self.settings = {"test_die_at": gap, "test_die_in": folder}

    async def death(self, timeout: float = 30) -> Death:  # noqa: ASYNC109 - names the bound
        """Arm it, and wait until somebody has died in it."""
        (self.folder / "armed").touch()
        return await eventually(lambda: Death.read(self.folder), timeout)


async def die_at(gap: str, fault: Stream, during: Callable[[Death], Awaitable[None]]) -> tuple[Death, float]:
    """While the stream flows, the next worker that comes to the gap dies there, and another takes its place.

    Returns the death, and the seconds from then until all was well; `during` is awaited before that.
    """
    trap = Trap(fault.station.folder / "trap", gap)
    async with fault.flowing(**trap.settings):
        death = await trap.death()
        died = fault.station.worker(death.pid)
        died.killed_at = death.at
        assert await died.ended() == -signal.SIGKILL
        await fault.join()
        await during(death)
        back = await fault.mended()
    return death, back


def starts(station: Station, without: int = 0) -> Counter[tuple[str, int]]:
    """How often each attempt of each message began; a process may be left out."""
    return Counter((event.id, event.attempt) for event in station.log.of("start") if event.pid != without)


async def letters(station: Station) -> Counter[str]:
    """Message ids in the dead letters."""
    store, found = await station.store(), Counter[str]()
    page = await store.dead(DeadFilter(), limit=500)
    found.update(letter.message_id for letter in page.items)
    assert page.cursor is None
    return found


async def archived(station: Station, death: Death) -> float:
    """Wait until every message in hand has its dead letter; seconds after the death."""
    ids = {message for message, _ in death.hand}

    async def check() -> bool:
        return ids <= set(await letters(station))

    await eventually(check, REPEATED_WITHIN + LOOKED_FOR_EVERY + SLACK)
    return time.time() - death.at


async def emptied(station: Station, broker: str) -> None:
    """Stop the workers, once nothing waits; then nothing is left anywhere: no message, no copy, no publish to do."""
    store = await station.store()

    async def nothing_waits() -> bool:
        assert not (await store.waiting()).items, "the waiting room is not empty"
        sizes = await store.table_sizes()
        assert sizes["taskq_outbox"] == 0, "the outbox is not empty"
        return True

    await eventually(nothing_waits, REPEATED_WITHIN + LOOKED_FOR_EVERY + SLACK)

    async def no_message() -> bool:
        names = ["waiting", "dead", *(f"q.{queue.name}" for queue in QUEUES if queue is not LANES)]
        names += [f"lane.{LANES.name}.{i}" for i in range(LANES.partitions or 0)]
        async with await aio_pika.connect(broker, timeout=5) as connection:
            channel = await connection.channel()
            for name in names:
                declared = await channel.declare_queue(f"{station.prefix}.{name}", passive=True)
                assert declared.declaration_result.message_count == 0, f"{name} is not empty"
        return True

    await eventually(no_message, 20)  # ready ones
    for worker in station.workers:
        if worker.running:
            worker.terminate()
    for worker in station.workers:
        await worker.ended()
    await eventually(no_message, 20)  # what was in hand is acknowledged, or ready again


# -- workers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("gap", ["ran, not committed", "written, not committed"])
async def test_a_worker_killed_before_the_commit(
    gap: str,
    stream: Callable[..., Stream],
    note: Callable[[Ledger], None],
    consumers: Callable[[], Awaitable[bool]],
    rabbitmq_url: str,
) -> None:
    """What had run and was not recorded runs once more, the same attempt of it."""
    fault = stream(f"worker killed: {gap}")
    death, back = await die_at(f"worker: {gap}", fault, nothing)
    ledger = await fault.checked(back=back)
    await eventually(consumers)
    await emptied(fault.station, rabbitmq_url)
    note(ledger)
    began = starts(fault.station)
    assert death.hand and {began[run] for run in death.hand} == {2}
    assert ledger.runs_again >= len(death.hand)


@pytest.mark.parametrize("gap", ["success committed, not acknowledged", "retry committed, not acknowledged"])
async def test_a_worker_killed_between_commit_and_acknowledgement(
    gap: str,
    stream: Callable[..., Stream],
    note: Callable[[Ledger], None],
    consumers: Callable[[], Awaitable[bool]],
    rabbitmq_url: str,
) -> None:
    """What was recorded does not run again; a retry that was parked in the same transaction comes, once."""
    fault = stream(f"worker killed: {gap}")
    death, back = await die_at(f"worker: {gap}", fault, nothing)
    ledger = await fault.checked(back=back)
    await eventually(consumers)
    await emptied(fault.station, rabbitmq_url)
    note(ledger)
    began = starts(fault.station)
    assert death.hand and {began[run] for run in death.hand} == {1}


@pytest.mark.parametrize(
    "gap",
    [
        "dead letter committed, not published",
        "dead letter published, its row there",
        "dead letter published, not acknowledged",
    ],
)
async def test_a_worker_killed_around_the_publish_of_a_dead_letter(
    gap: str, stream: Callable[..., Stream], note: Callable[[Ledger], None], rabbitmq_url: str
) -> None:
    """The keeper publishes what was not, within its lease; the letter is there once; no attempt runs again."""
    fault = stream(f"worker killed: {gap}")
    took = 0.0

    async def during(death: Death) -> None:
        nonlocal took
        took = await archived(fault.station, death)

    death, back = await die_at(f"worker: {gap}", fault, during)
    ledger = await fault.checked(back=back)
    await emptied(fault.station, rabbitmq_url)
    note(ledger)
    print(f"archived {took:.1f} s after the death")
    began, there = starts(fault.station), await letters(fault.station)
    for message, _ in death.hand:
        assert there[message] == 1
        assert [began[message, attempt] for attempt in range(1, 8)] == [1, 1, 1, 1, 1, 1, 0]


# -- the keeper ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "gap",
    [
        "waiting not booked",
        "booked, not acknowledged",
        "due rows claimed, not published",
        "published, rows not deleted",
    ],
)
async def test_the_keeper_killed_around_the_waiting_room(
    gap: str,
    stream: Callable[..., Stream],
    note: Callable[[Ledger], None],
    consumers: Callable[[], Awaitable[bool]],
    rabbitmq_url: str,
) -> None:
    """What waited starts, after the dead leader's lease at the latest, and no attempt of it starts twice."""
    fault = stream(f"keeper killed: {gap}")
    death, back = await die_at(f"keeper: {gap}", fault, nothing)
    ledger = await fault.checked(back=back)
    await eventually(consumers)
    await emptied(fault.station, rabbitmq_url)
    note(ledger)
    ids = {message for message, _ in death.hand}
    began = starts(fault.station, without=death.pid)
    assert ids and {times for (message, _), times in began.items() if message in ids} <= {1}
    waited = [event.at - death.at for event in fault.station.log.of("start") if event.id in ids]
    late = max(seconds for seconds in waited)
    print(f"the last of what waited started {late:.1f} s after the death")
    assert late < REPEATED_WITHIN + LOOKED_FOR_EVERY + SLACK


@pytest.mark.parametrize("gap", ["dead letter not archived", "archived, not acknowledged"])
async def test_the_keeper_killed_around_the_archive(
    gap: str, stream: Callable[..., Stream], note: Callable[[Ledger], None], rabbitmq_url: str
) -> None:
    """Every dead letter is in the archive, once."""
    fault = stream(f"keeper killed: {gap}")
    death, back = await die_at(f"keeper: {gap}", fault, nothing)
    ledger = await fault.checked(back=back)
    await emptied(fault.station, rabbitmq_url)
    note(ledger)
    there = await letters(fault.station)
    assert death.hand and set(there.values()) == {1}
    assert {message for message, _ in death.hand} <= set(there)


async def nothing(death: Death) -> None:
    """There is nothing to look at before the stream is well again."""


# -- senders ------------------------------------------------------------------------------------


class Sender:
    """A process that sends until it is killed in its gap."""

    def __init__(self, station: Station, gap: str, kind: str = "PLAIN") -> None:
        self.gap = gap
        self.trap = Trap(station.folder / gap, f"sender: {gap}")
        variables = {f"TASKQ_{name.upper()}": str(value) for name, value in self.trap.settings.items()}
        command = [sys.executable, "-m", "tests.chaos.app_sends", OPEN.name, kind]
        environment = os.environ | station._environment | variables
        with (self.trap.folder / "said").open("wb") as said:
            self.process = subprocess.Popen(command, stdout=said, stderr=said, cwd=ROOT, env=environment)

    def journal(self) -> tuple[list[str], list[str]]:
        """Ids that it was about to send, and ids whose enqueue had returned."""
        path = self.trap.folder / "journal"
        lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
        return [id for what, id in lines if what == "sending"], [id for what, id in lines if what == "returned"]

    async def died(self) -> tuple[str, Death]:
        """Let it send some, kill it in its gap: the id that it was about, and its death."""
        try:
            await eventually(lambda: len(self.journal()[1]) > 2, 30)
            death = await self.trap.death()
            assert await asyncio.to_thread(self.process.wait, 10) == -signal.SIGKILL
        finally:
            self.process.kill()
            self.process.wait()
        return self.journal()[0][-1], death


async def test_a_sender_killed_around_its_confirm(
    stream: Callable[..., Stream], note: Callable[[Ledger], None], outcomes: Outcomes, rabbitmq_url: str
) -> None:
    """What an enqueue returned for is done, once. The one under way is done once or never, by how far it had come."""
    fault = stream("sender killed around its confirm (5 gaps)", pace=0.1)
    async with fault.flowing():
        kinds = {
            "frames not sent": "PLAIN",
            "sent, confirm not read": "PLAIN",
            "confirmed": "PLAIN",
            "claimed its dedup_id, not sent": "DEDUP",
            "claimed its dedup_id, sent, its row there": "DEDUP",
        }
        senders = [Sender(fault.station, gap, kind) for gap, kind in kinds.items()]
        deaths = await asyncio.gather(*(sender.died() for sender in senders))
        last = {sender.gap: death for sender, death in zip(senders, deaths, strict=True)}
        store = await fault.station.store()
        unsent = last["frames not sent"][0]
        sent = {id for sender in senders for id in sender.journal()[0]} - {unsent}

        async def done() -> bool:
            rows = await store.get_many(sorted(sent))
            missing = [id for id in sent if id not in rows or rows[id].status is not Status.SUCCEEDED]
            assert not missing, f"{missing} are not done; deaths: {last}"
            return True

        await eventually(done, REPEATED_WITHIN + LOOKED_FOR_EVERY + SLACK)
        note(await fault.checked())
    await emptied(fault.station, rabbitmq_url)
    began, recorded = starts(fault.station), outcomes.recorded()
    assert {began[id, 1] for id in sent} == {1}
    assert {recorded[id] for id in sent} == {1}
    assert began[unsent, 1] == 0 and unsent not in await store.get_many([unsent])
    id, death = last["claimed its dedup_id, not sent"]
    (start,) = [event for event in fault.station.log.of("start") if event.id == id]
    print(f"what had only claimed its dedup_id started {start.at - death.at:.1f} s after the sender's death")
