"""Three beats over ten thousand ticks of quickened time: leaders die, and two lead at once; each tick is sent once."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from taskq import TaskQ
from taskq.beat import Beat
from taskq.broker import open_broker
from taskq.broker.base import Broker, BrokerQueue, Delivery, Kind, Loss
from taskq.dispatch import Dispatcher
from taskq.keeper import Keeper
from taskq.message import decode
from taskq.schedule import INSTANT_HEADER, SCHEDULE_HEADER
from taskq.store import open_store
from taskq.store.base import Store
from tests.support import eventually

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
SCALE = 60.0  # seconds of its time for each real one
SCHEDULES, SECONDS = 20, 500  # ten thousand ticks


class QuickClock:
    """The machine's time, quickened."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def now(self) -> datetime:
        return START + timedelta(seconds=self.monotonic())

    def monotonic(self) -> float:
        return (time.monotonic() - self._began) * SCALE

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds / SCALE)


@dataclass
class Process:
    """A beat with connections of its own, as a process has them."""

    beat: Beat
    broker: Broker
    store: Store
    running: asyncio.Task[None]


@dataclass
class Scene:
    """Broker, store and clock that the processes share, and what was sent."""

    app: TaskQ
    clock: QuickClock
    beats: list[Process] = field(default_factory=list)
    sent: dict[tuple[str, str], set[str]] = field(default_factory=dict)  # schedule, instant -> message ids
    deaf: list[Process] = field(default_factory=list)  # have lost the seat, and lead on

    def open_broker(self, name: str) -> Broker:
        settings = self.app.settings
        return open_broker(
            settings.broker,
            prefix=settings.prefix,
            publish_timeout=5,
            connect_timeout=5,
            heartbeat=30,
            clock=self.clock,
            name=name,
        )

    async def start(self) -> Process:
        broker, store = self.open_broker("beat"), open_store(self.app.settings.store, clock=self.clock)
        await broker.open()
        await store.open()

        async def the_store() -> Store:
            return store

        beat = Beat(
            declared=list(self.app.scheduled.values()),
            broker=broker,
            store=store,
            dispatcher=Dispatcher(broker=broker, open_store=the_store, clock=self.clock),
            clock=self.clock,
            settings=self.app.settings,
        )
        process = Process(beat, broker, store, asyncio.create_task(beat.run()))
        on_loss = beat._seat._on_loss

        def heard(loss: Loss) -> None:
            if process not in self.deaf:
                on_loss(loss)

        beat._seat._on_loss = heard  # type: ignore[method-assign]
        self.beats.append(process)
        return process

    async def leader(self) -> Process:
        return await eventually(lambda: next((one for one in self.beats if one.beat.leading), None))

    async def kill(self, process: Process) -> None:
        """At once, between any two of its steps; what it had asked of the store may still happen."""
        (self.beats if process in self.beats else self.deaf).remove(process)
        process.running.cancel()
        process.broker.drop_connections()  # type: ignore[attr-defined]
        await asyncio.wait({process.running})
        await process.broker.close()
        await process.store.close()

    def cut_off(self, process: Process) -> None:
        """The broker gives its seat away, and it does not notice: it leads on beside its successor."""
        self.beats.remove(process)
        self.deaf.append(process)
        process.broker.drop_connections()  # type: ignore[attr-defined]

    async def end(self) -> None:
        for process in [*self.beats, *self.deaf]:
            await self.kill(process)


@pytest.fixture
async def scene(sqlite_store_url: str, anyio_backend: str) -> AsyncIterator[Scene]:
    app = TaskQ(broker=f"memory://{uuid.uuid4().hex}", store=sqlite_store_url)
    scene = Scene(app, QuickClock())

    @app.task(name="note", queue="ticks")
    async def note(number: int) -> None: ...

    for number in range(SCHEDULES):
        app.schedule(f"s{number}", note, every=1.0, args=[number], catch_up="all", catch_up_limit=10_000)
    broker, store = scene.open_broker("keeper"), open_store(sqlite_store_url, clock=scene.clock)
    await broker.open()
    await store.open()

    async def the_store() -> Store:
        return store

    dispatcher = Dispatcher(broker=broker, open_store=the_store, clock=scene.clock)
    keeper = Keeper(broker=broker, store=store, dispatcher=dispatcher, clock=scene.clock, settings=app.settings)
    keeping = asyncio.create_task(keeper.run())
    yield scene
    await scene.end()
    await keeper.stop()
    keeping.cancel()
    await asyncio.wait({keeping})
    await broker.close()
    await store.close()


async def test_each_of_ten_thousand_ticks_is_sent_once(scene: Scene) -> None:
    rng = random.Random()
    seed = rng.randrange(2**32)
    rng.seed(seed)
    hearer = scene.open_broker("hearer")
    await hearer.open()
    queue = BrokerQueue(Kind.TASK, "ticks")
    await hearer.declare(queue)

    def heard(delivery: Delivery) -> None:
        message = decode(delivery.body, delivery.content_type)
        key = message.headers[SCHEDULE_HEADER], message.headers[INSTANT_HEADER]
        scene.sent.setdefault(key, set()).add(message.id)  # a copy of a message is known by its id
        delivery.acknowledge()

    await hearer.subscribe(queue, heard, prefetch=1000)
    for _ in range(3):
        await scene.start()
    faults = 0
    began = scene.clock.monotonic()
    while scene.clock.monotonic() - began < SECONDS:
        await asyncio.sleep(rng.uniform(0, 0.5))
        for deaf in list(scene.deaf):
            await scene.kill(deaf)
        leader = await scene.leader()
        if rng.random() < 0.5:
            await scene.kill(leader)
        else:
            scene.cut_off(leader)
        faults += 1
        await scene.start()

    def complete() -> bool:
        """No schedule has left out an instant. The keeper may have to repeat what a killed leader had not published."""
        for number in range(SCHEDULES):
            instants = sorted(datetime.fromisoformat(at) for id, at in scene.sent if id == f"s{number}")
            assert len(instants) > SECONDS - 10, f"seed {seed}: {len(instants)} ticks of schedule {number}"
            left_out = [b for a, b in zip(instants, instants[1:], strict=False) if b - a != timedelta(seconds=1)]
            assert not left_out, f"seed {seed}: schedule {number} left out what came before {left_out[:3]}"
        return True

    await eventually(complete)
    twice = {key: ids for key, ids in scene.sent.items() if len(ids) != 1}
    assert not twice, f"seed {seed}: {twice}"
    print(f"{len(scene.sent)} ticks through {faults} faults, each once (seed {seed})")
    await hearer.close()
