"""The doctor: what is examined of broker, store and settings, one finding each."""

from __future__ import annotations

import asyncio
import enum
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

from taskq.admin.census import Census
from taskq.broker.base import DEAD, WAITING, Broker, BrokerQueue, Delivery, Kind, Outgoing
from taskq.clock import Clock
from taskq.dispatch import broker_queues
from taskq.errors import AccessRefused, QueueMismatch, StoreMismatch, TaskqError
from taskq.queue import QueueRecord
from taskq.settings import Settings, redact_url
from taskq.store.base import Store

OLDEST = (3, 10)
NEWEST = (4, 3)
CLOCK_DIFFERENCE = 1.0  # seconds
LOCAL = ("", "localhost", "127.0.0.1", "::1")
ANSWER_WITHIN = 5.0  # seconds for a message to come back


class Level(enum.StrEnum):
    """How bad a finding is."""

    OK = "ok"
    WARN = "WARN"
    ERROR = "ERROR"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was examined."""

    level: Level
    subject: str
    text: str


class Patient(Protocol):
    """What is examined: an app."""

    settings: Settings
    clock: Clock

    def make_broker(self) -> Broker: ...
    def make_store(self) -> Store: ...


async def examine(app: Patient) -> list[Finding]:
    """Examine everything that can be reached; an error in one place hides nothing elsewhere."""
    broker, store = app.make_broker(), app.make_store()
    findings = list(_settings(app.settings))
    try:
        reached, opened = await _reach_broker(broker, findings), await _reach_store(store, app, findings)
        bound = reached and opened and await _bind(broker, store, findings)
        if reached:
            findings += [finding async for finding in _permissions(broker)]
        if reached and bound:
            findings += [finding async for finding in _queues(broker, store)]
            findings += [finding async for finding in _workers(broker, store, app.settings)]
    finally:
        await broker.close()
        await store.close()
    return findings


def _settings(settings: Settings) -> list[Finding]:
    found = []
    broker, store = settings.broker, settings.store
    hosts = broker_hosts(broker)
    remote = [host for host in hosts if host not in LOCAL]
    if broker.startswith("memory:"):
        found.append(
            Finding(Level.WARN, "settings", "memory:// lives in one process and keeps nothing: for `dev` only")
        )
    if store.startswith("sqlite") and remote:
        text = (
            f"SQLite serves one machine, and the broker is on another ({remote[0]}): if workers or senders run on "
            "several machines, use postgresql://"
        )
        found.append(Finding(Level.WARN, "settings", text))
    if store in ("sqlite://", "sqlite:///", "sqlite:///:memory:"):
        found.append(Finding(Level.ERROR, "settings", "a SQLite store in memory is gone with its process: name a file"))
    if remote and broker.startswith("amqp://guest:guest@"):
        found.append(Finding(Level.WARN, "settings", f"user guest with its known password on {remote[0]}"))
    if settings.exit_after is None:
        found.append(Finding(Level.WARN, "settings", "exit_after is none: a worker that hangs is never ended"))
    return found or [Finding(Level.OK, "settings", "nothing unsafe")]


def broker_hosts(url: str) -> list[str]:
    """The names of the machines in a broker's URL."""
    authority = url.partition("://")[2].partition("/")[0].rpartition("@")[2]
    return [urlsplit(f"//{part}").hostname or "" for part in authority.split(",")]


async def _reach_broker(broker: Broker, findings: list[Finding]) -> bool:
    try:
        await broker.open()
    except TaskqError as error:
        findings.append(Finding(Level.ERROR, "broker", str(error)))
        return False
    facts = broker.facts
    version = ".".join(map(str, facts.version)) or "of unknown version"
    level, text = Level.OK, f"{facts.product} {version}"
    if facts.product == "RabbitMQ" and facts.version[:2] < OLDEST:
        level, text = Level.ERROR, f"{text}: 3.10 is the oldest that taskq works with"
    elif facts.product == "RabbitMQ" and facts.version[:2] > NEWEST:
        level, text = Level.WARN, f"{text}: newer than 4.3, the newest that taskq was examined with"
    findings.append(Finding(level, "broker", text))
    if not facts.queue_ack_timeout:
        text = (
            f"{facts.product} {version} obeys no acknowledgement timeout of a queue (3.12 and later do): a task that "
            "runs longer than consumer_timeout in rabbitmq.conf (30 minutes unless set) runs again; raise "
            "consumer_timeout there, and say so to taskq with the setting broker_ack_timeout"
        )
        findings.append(Finding(Level.WARN, "timeouts", text))
    else:
        findings.append(Finding(Level.OK, "timeouts", "the acknowledgement timeout of each queue is obeyed"))
    if not facts.strict_priorities:
        text = "queues with priorities are classic queues here, on one node: quorum queues obey them from 4.3 on"
        findings.append(Finding(Level.OK, "priorities", text))
    return True


async def _reach_store(store: Store, app: Patient, findings: list[Finding]) -> bool:
    try:
        await store.open()
        sizes = await store.table_sizes()
        before = app.clock.now()
        drift = abs((await store.now() - before).total_seconds())
    except TaskqError as error:
        findings.append(Finding(Level.ERROR, "store", str(error)))
        return False
    findings.append(Finding(Level.OK, "store", f"{redact_url(store.url)}, schema {store.revision}"))
    rows = ", ".join(f"{table} {rows}" for table, rows in sorted(sizes.items()) if rows)
    findings.append(Finding(Level.OK, "tables", rows or "empty"))
    if drift > CLOCK_DIFFERENCE:
        text = f"the store's clock and this machine's differ by {drift:.1f} s: run an NTP client on both"
        findings.append(Finding(Level.WARN, "clock", text))
    return True


async def _bind(broker: Broker, store: Store, findings: list[Finding]) -> bool:
    try:
        await broker.declare_base(store.id)
    except (StoreMismatch, QueueMismatch, AccessRefused) as error:
        findings.append(Finding(Level.ERROR, "binding", str(error)))
        return False
    findings.append(Finding(Level.OK, "binding", "this store is the broker's own"))
    return True


async def _permissions(broker: Broker) -> AsyncIterator[Finding]:
    """Declare, publish, consume and delete a queue that nothing else uses ("/" is in no queue's name)."""
    queue = BrokerQueue(Kind.TASK, f"doctor/{os.urandom(6).hex()}")
    came: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def on_delivery(delivery: Delivery) -> None:
        delivery.acknowledge()
        if not came.done():
            came.set_result(delivery.body)

    doing = "declare"
    try:
        await broker.declare(queue)
        doing = "publish"
        await broker.publish(Outgoing(queue, b"doctor", "doctor", "application/octet-stream"))
        doing = "consume"
        subscription = await broker.subscribe(queue, on_delivery, prefetch=1)
        async with asyncio.timeout(ANSWER_WITHIN):
            await came
        await subscription.close()
    except TimeoutError:
        yield Finding(Level.ERROR, "permissions", f"a message did not come back within {ANSWER_WITHIN:g} s")
    except TaskqError as error:
        yield Finding(Level.ERROR, "permissions", f"cannot {doing}: {error}")
        return
    try:
        await broker.delete(queue)
    except TaskqError as error:
        yield Finding(Level.ERROR, "permissions", f"cannot delete: {error}")
        return
    yield Finding(Level.OK, "permissions", "declare, publish, consume and delete are allowed")


async def _queues(broker: Broker, store: Store) -> AsyncIterator[Finding]:
    """Compare the arguments of every queue that is on the broker with those that it should have."""
    records, wrong = await store.list_queues(), 0
    for record in records:
        for queue in _on_broker(record):
            try:
                if await broker.depth(queue) is not None:
                    await broker.declare(queue)
            except TaskqError as error:
                wrong += 1
                yield Finding(Level.ERROR, f"queue {record.name}", str(error))
        if record.paused:
            yield Finding(Level.WARN, f"queue {record.name}", "is paused: `taskq queues resume` starts it again")
        if record.parallelism == 1 and not record.born_fifo:
            text = (
                "runs one at a time, but was not born FIFO: order may break when a worker dies (queues migrate --fifo)"
            )
            yield Finding(Level.WARN, f"queue {record.name}", text)
    if not wrong:
        yield Finding(Level.OK, "queues", f"{len(records)} with the arguments that they should have")


def _on_broker(record: QueueRecord) -> list[BrokerQueue]:
    queues = broker_queues(record)
    if record.parallelism is not None and not record.born_fifo and record.partitions is None:
        queues += [BrokerQueue(Kind.SLOT, record.name, index) for index in range(record.parallelism)]
    return queues


async def _workers(broker: Broker, store: Store, settings: Settings) -> AsyncIterator[Finding]:
    census = Census(broker)
    await census.listen()
    workers = (await census.ask()).values()
    hosts = sorted({worker.host for worker in workers})
    if len(hosts) > 1 and settings.store.startswith("sqlite"):
        text = f"workers run on {len(hosts)} machines ({', '.join(hosts)}), and SQLite serves one: use postgresql://"
        yield Finding(Level.ERROR, "workers", text)
    elif not workers:
        yield Finding(Level.WARN, "workers", "none answers")
    else:
        yield Finding(Level.OK, "workers", f"{len(workers)} on {', '.join(hosts)}")
    if workers and not any(worker.keeper for worker in workers):
        text = "no worker keeps the waiting room and the dead letters at this moment"
        yield Finding(Level.WARN, "keeper", text)
    if not any(worker.beat for worker in workers):
        schedules = (await store.list_schedules(settings.name, limit=1)).items
        if schedules:
            text = "schedules exist, and no beat runs: start `taskq beat APP`, or `taskq worker APP --beat`"
            yield Finding(Level.WARN, "beat", text)
    for queue, what in ((WAITING, "delayed messages to be booked"), (DEAD, "dead letters to be archived")):
        depth = await broker.depth(queue)
        if depth is not None and depth.ready:
            yield Finding(Level.WARN, "keeper", f"{depth.ready} {what} lie on the broker until a worker runs")
    served = {queue for worker in workers for queue in worker.queues}
    for record in await store.list_queues():
        depths = [await broker.depth(queue) for queue in broker_queues(record)]
        ready = sum(depth.ready for depth in depths if depth is not None)
        if ready and record.name not in served:
            yield Finding(Level.WARN, f"queue {record.name}", f"{ready} messages are ready, and no worker serves it")
