"""Hostile input at workers and keepers: each delivery ends where somebody can see it, and the next good one runs."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import aiormq
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.internal.conjecture import engine

from taskq import dead_letter
from taskq.broker.base import DEAD, WAITING, Outgoing
from taskq.broker.memory import forget
from taskq.dispatch import task_queue
from taskq.errors import InvalidMessage
from taskq.message import CONTENT_TYPE, JSON_CONTENT_TYPE, decode
from taskq.outcome import Status
from taskq.store.base import DeadFilter, DeadLetter
from taskq.worker.worker import Worker, memory_mb
from tests.integration.hostile import TARGETS, TASK, Hostile, deliveries, real
from tests.integration.room import Room
from tests.support import eventually

EXAMPLES = os.environ.get("TASKQ_TEST_EXAMPLES")
SHRINK_SECONDS = 60  # that a failing example may be made smaller
WITHIN = 20.0  # seconds for a batch to end
QUEUES = {"default": task_queue("default"), "waiting": WAITING, "dead": DEAD}


class Target:
    """A worker with its keeper on a broker and store, in a loop that goes on between the examples."""

    def __init__(self, urls: dict[str, str]) -> None:
        self._urls = urls
        self._renewed = 0
        self.loop = asyncio.new_event_loop()
        self.worker: Worker
        self.room: Room
        self._raw: aiormq.Connection | None = None
        self.do(self._start())

    def do(self, work: Any) -> Any:
        """Run a coroutine to its end."""
        return self.loop.run_until_complete(work)

    async def _start(self) -> None:
        self.room = Room(**self._urls)

        @self.room.app.task(name=TASK)
        async def add(a: int, b: int) -> int:
            return a + b

        self.add = add
        self.worker = await self.room.worker(settings={"unknown_task_limit": 1})
        self.running = self.room._workers[self.worker]
        if not self.room.memory:
            self._raw = await aiormq.connect(self.room.urls["broker"])
            self._channel = await self._raw.channel()

    async def _stop(self) -> None:
        if self._raw is not None:
            await self._raw.close()
        if not self.running.done():
            await self.room.close()
        else:
            await self.worker.app.close()
            await self.room.app.close()

    def close(self) -> None:
        """End it all."""
        self.do(self._stop())
        self.do(self.loop.shutdown_default_executor())
        self.loop.close()

    def renew(self) -> None:
        """Another one after a failure, so that the next example does not fail for what this one broke."""
        self.do(asyncio.wait_for(self._stop(), 60))
        self._renewed += 1
        if self.room.memory:
            forget(self._urls["broker"].partition("://")[2])
        else:
            broker = self.do(self._swept())
            assert broker is None
        self.do(self._start())

    async def _swept(self) -> None:
        room = Room(**self._urls)
        broker = await room.app.client().broker()
        for queue in QUEUES.values():
            await broker.delete(queue)  # type: ignore[attr-defined]
        await room.close()

    # -- throwing ---------------------------------------------------------------------------

    async def publish(self, one: Hostile) -> None:
        """Send it as it is."""
        broker = await self.room.app.client().broker()
        if self._raw is None:
            await broker.publish(Outgoing(QUEUES[one.to], one.body, "foreign", one.content_type))  # type: ignore[arg-type]
            return
        properties = aiormq.spec.Basic.Properties(content_type=one.content_type, headers=one.headers or None)
        names = self.room.app.client().dispatcher._broker.names  # type: ignore[union-attr, attr-defined]
        await self._channel.basic_publish(
            one.body, exchange="", routing_key=names.queue(QUEUES[one.to]), properties=properties
        )

    def throw(self, batch: list[Hostile]) -> None:
        """Throw all, see that each has come to its end, and that good messages run afterwards."""
        try:
            self.do(self._throw(batch))
        except BaseException:
            self.renew()
            raise

    async def _throw(self, batch: list[Hostile]) -> None:
        for one in batch:
            await self.publish(one)
        await eventually(lambda: self._all_ended(batch), WITHIN)
        await self.good_ones_run()
        await (await self.room.store()).delete_dead(DeadFilter(), limit=10_000)

    async def _all_ended(self, batch: list[Hostile]) -> bool:
        assert not self.running.done(), f"the worker has ended: {self.running.exception()!r}"
        letters = await self.letters()
        for one in batch:
            await self._ended(one, letters)
        return True

    async def buried(self, number: int) -> bool:
        """So many are in the archive, which is emptied then."""
        assert not self.running.done(), f"the worker has ended: {self.running.exception()!r}"
        store = await self.room.store()
        if await store.count_dead(DeadFilter()) < number:
            return False
        assert await store.delete_dead(DeadFilter(), limit=10_000) == number
        return True

    async def letters(self) -> list[DeadLetter]:
        """The archive, the youngest first."""
        return list((await (await self.room.store()).dead(DeadFilter(), limit=2000)).items)

    async def _ended(self, one: Hostile, letters: list[DeadLetter]) -> None:
        """It is a dead letter that says why, or it is a message of ours whose row says what became of it."""
        buried = [letter for letter in letters if one.body == letter.body]
        message_id = message_id_of(one)
        if message_id is not None:
            buried += [letter for letter in letters if letter.message_id == message_id]
        if buried:
            assert all(letter.reason for letter in buried), buried
            return
        assert one.to != "dead", f"not in the archive: {one}"
        assert message_id is not None, f"no message of ours, and no dead letter: {one}"
        record = await (await self.room.store()).get(message_id)
        assert record is not None, f"nobody knows it: {one}"
        assert record.status in (Status.SUCCEEDED, Status.WAITING) or elsewhere(one), f"{record.status}: {one}"

    async def good_ones_run(self) -> None:
        """The worker runs what comes, and the keeper releases what is due."""
        now = await self.add.enqueue_async(1, 2)
        later = await self.add.options(delay=0.001).enqueue_async(3, 4)
        assert await now.get_result_async(WITHIN) == 3
        assert await later.get_result_async(WITHIN) == 7


def message_id_of(one: Hostile) -> str | None:
    """The id under which it is known if it can be read; None: it is nothing but bytes."""
    try:
        return decode(one.body, one.content_type).id
    except InvalidMessage:
        pass
    if one.to == "dead" and one.content_type == dead_letter.CONTENT_TYPE:
        try:
            return dead_letter._decode(one.body).message_id
        except Exception:
            return None
    return None


def elsewhere(one: Hostile) -> bool:
    """It asks for a queue that nobody serves here."""
    return one.to == "waiting" and decode(one.body, one.content_type).queue != "default"


@contextmanager
def target(urls: dict[str, str]) -> Iterator[Target]:
    """Quiet: what the worker says of each of thousands is not read."""
    logging.disable(logging.CRITICAL)
    try:
        one = Target(urls)
        try:
            yield one
        finally:
            one.close()
    finally:
        logging.disable(logging.NOTSET)


def throw(urls: dict[str, str], *, examples: int, bare: bool) -> None:
    """Have Hypothesis throw batches at a target."""
    with target(urls) as one:

        @settings(
            max_examples=int(EXAMPLES or examples),
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
        )
        @given(st.lists(deliveries(bare=bare), min_size=1, max_size=20))
        def batches(batch: list[Hostile]) -> None:
            one.throw(batch)

        batches()


@pytest.fixture(autouse=True)
def bounded_shrinking(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure is told within a minute or so."""
    monkeypatch.setattr(engine, "MAX_SHRINKING_SECONDS", SHRINK_SECONDS)


@pytest.mark.timeout(300)
def test_hostile_deliveries_end_in_the_dead_letters_in_memory(sqlite_store_url: str, prefix: str) -> None:
    """Whatever is thrown at the task queue, the waiting messages or the dead letters: nothing is lost, nobody dies."""
    throw({"broker": f"memory://{prefix}", "store": sqlite_store_url, "prefix": prefix}, examples=200, bare=True)


@pytest.mark.timeout(300)
def test_hostile_deliveries_end_in_the_dead_letters_on_rabbitmq(
    rabbitmq_url: str, postgres_store_url: str, prefix: str
) -> None:
    """The same with properties and headers of all kinds, and a store that is strict about its values."""
    throw({"broker": rabbitmq_url, "store": postgres_store_url, "prefix": prefix}, examples=40, bare=False)


# -- memory ------------------------------------------------------------------------------------

BODY_BYTES = 20_000
WARM_UP = 500  # messages, after which what is made once has been made
BAD = 2_000  # messages that are weighed
GROWTH_MB = 12.0  # allowed; if each were kept, it would be BAD * BODY_BYTES, 40 MB, at least


def bad_ones(rng: random.Random, number: int) -> Iterator[Hostile]:
    """Of many kinds, none of which can run, each large enough to be missed."""
    for index in range(number):
        noise = rng.randbytes(BODY_BYTES)
        body, content_type = (
            (noise, CONTENT_TYPE),
            (real(noise).encode(), CONTENT_TYPE),
            (real(noise).encode()[: -rng.randint(1, 60)], CONTENT_TYPE),
            (noise, JSON_CONTENT_TYPE),
            (noise, "text/plain"),
            (noise, dead_letter.CONTENT_TYPE),
        )[index % 6]
        yield Hostile(TARGETS[index // 6 % 3], body, content_type)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("broker", ["memory", "rabbitmq"])
def test_memory_stays_flat_while_bad_messages_come(
    broker: str, request: pytest.FixtureRequest, sqlite_store_url: str, prefix: str
) -> None:
    """Neither worker nor keeper keeps anything of thousands of messages that it buried."""
    url = f"memory://{prefix}" if broker == "memory" else str(request.getfixturevalue("rabbitmq_url"))
    rng = random.Random(5)
    with target({"broker": url, "store": sqlite_store_url, "prefix": prefix}) as one:

        async def bury(number: int) -> float:
            batch = []
            for bad in bad_ones(rng, number):
                batch.append(bad)
                await one.publish(bad)
                if len(batch) == 50:
                    await eventually(lambda: one.buried(50), WITHIN)
                    batch.clear()
            await one.good_ones_run()
            gc.collect()
            return memory_mb()

        before = one.do(bury(WARM_UP))
        after = one.do(bury(BAD))
    assert before > 0
    assert after - before < GROWTH_MB, f"{after - before:.1f} MB more after {BAD} bad messages"
