"""What taskq promises, shown and checked while it runs.

    python examples/demo.py                                 a broker inside this process, a temporary SQLite file
    python examples/demo.py --broker amqp://guest:guest@localhost/      RabbitMQ, with two worker processes

Everything that is said to be so has been measured: the tasks return when and how often they ran.
Exit code 0 means that every check held.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import json
import os
import socket
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from qstash import AsyncQStash
from qstash.dlq import DlqMessage
from qstash.errors import QStashError
from running import Destination, an_app, api, worker, worker_processes

from taskq import (
    BrokerUnavailable,
    Handle,
    Queue,
    RateLimit,
    Retry,
    Status,
    TaskCancelled,
    TaskFailed,
    TaskqError,
    current,
)
from taskq.admin.replay import Replay
from taskq.broker.base import BrokerQueue, Kind
from taskq.dispatch import broker_queues
from taskq.settings import redact_url
from taskq.store.base import DeadFilter, DeadLetter, Firing
from taskq.worker.worker import Worker

if __name__ == "__main__":
    # The worker processes import this file: what they must know travels in the environment.
    parser = argparse.ArgumentParser(description="Shows what taskq promises, and checks it.")
    parser.add_argument("--broker", default="memory://", help="amqp://user:password@host/, or memory:// (default)")
    parser.add_argument("--store", help="sqlite:///file.db or postgresql://…; a temporary SQLite file by default")
    given = parser.parse_args()
    os.environ["TASKQ_BROKER"] = given.broker
    os.environ["TASKQ_PREFIX"] = f"taskq-demo-{uuid.uuid4().hex[:8]}"
    os.environ.pop("TASKQ_STORE", None)
    if given.store:
        os.environ["TASKQ_STORE"] = given.store

TOKEN = "token-of-the-demo"
app = an_app(api_token=TOKEN, delivery_allow="127.0.0.0/8,::1")
orders = Queue("orders", parallelism=1)
thumbnails = Queue("thumbnails", parallelism=4)
mails = Queue("mails", rate_limit=RateLimit(5, per=1.0))


class Span(NamedTuple):
    """When a task ran, in seconds of the system's clock, and in which attempt and process."""

    begin: float
    end: float
    attempt: int
    process: int


@app.task
async def greet(name: str) -> str:
    return f"hello {name}"


@app.task
def add(a: int, b: int) -> int:
    return a + b


@app.task(queue=orders, retry=Retry(max_retries=3, delay=0.05))
async def book(number: int) -> Span:
    begin = time.time()
    if number % 4 == 3 and current().attempt <= 2:
        raise ConnectionError(f"order {number}: the till does not answer")
    await asyncio.sleep(0.01)
    return Span(begin, time.time(), current().attempt, os.getpid())


@app.task(queue=thumbnails)
async def shrink(picture: int) -> Span:
    begin = time.time()
    await asyncio.sleep(0.25)
    return Span(begin, time.time(), current().attempt, os.getpid())


@app.task(queue=mails)
async def send_mail(number: int) -> float:
    return time.time()


@app.task
async def remind() -> float:
    return time.time()


@app.task(queue=Queue("reports", parallelism=1))
async def report(mark: str) -> None:
    leave(mark)
    await asyncio.sleep(3600)


def leave(mark: str) -> None:
    Path(mark).touch()


@app.task(retry=Retry(max_retries=1, delay=0.05))
def ship(address_book: str) -> str:
    return Path(address_book).read_text()


@app.task
def note(diary: str) -> None:
    with Path(diary).open("a") as file:
        file.write(current().headers["taskq-scheduled-for"] + "\n")


class Checks:
    """Says what is so, and remembers what is not."""

    def __init__(self) -> None:
        self.failed: list[str] = []
        self.held = 0

    def __call__(self, claim: str, holds: bool, seen: object = "") -> None:
        shown = f" ({seen})" if seen != "" else ""
        print(f"   {'ok  ' if holds else 'FAIL'} {claim}{shown}", flush=True)
        if holds:
            self.held += 1
        else:
            self.failed.append(claim)


def say(text: str) -> None:
    print(f"\n{text}", flush=True)


async def until(fact: Callable[[], Awaitable[object]], within: float = 10) -> bool:
    """Wait for an async fact to become true."""
    deadline = time.monotonic() + within
    while not await fact():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.02)
    return True


# -- the scenes -------------------------------------------------------------------------------


def enqueue_from_sync_code() -> int:
    return add.enqueue(19, 23).get_result(timeout=10)


async def first_tasks(check: Checks, folder: Path) -> None:
    say("1. A task is a function with a decorator. It is enqueued from sync and from async code.")
    total = await asyncio.to_thread(enqueue_from_sync_code)
    check("sync code: add.enqueue(19, 23).get_result() is 42", total == 42, total)
    handle = await greet.enqueue_async("world")
    text = await handle.get_result_async(timeout=10)
    check("async code: await greet.enqueue_async('world') gives 'hello world'", text == "hello world", text)
    check("its status says SUCCEEDED", await handle.get_status_async() is Status.SUCCEEDED)


async def order_under_failures(check: Checks, folder: Path) -> None:
    say("2. Queue('orders', parallelism=1) is FIFO: 20 orders, every fourth fails twice and is retried.")
    handles = await app.enqueue_many_async([book.message(number) for number in range(20)])
    spans = [await handle.get_result_async(timeout=20) for handle in handles]
    retried = sum(span.attempt - 1 for span in spans)
    check("the failing attempts were retried", retried == 10, f"{retried} retries")
    in_order = all(spans[i].end <= spans[i + 1].begin for i in range(len(spans) - 1))
    check("order kept: each order began after the one before had ended, retries included", in_order)


async def limit_held(check: Checks, folder: Path) -> None:
    say("3. Queue('thumbnails', parallelism=4): 16 tasks of 0.25 s, at most 4 at once over all workers.")
    handles = await app.enqueue_many_async([shrink.message(number) for number in range(16)])
    spans = [await handle.get_result_async(timeout=20) for handle in handles]
    most = most_at_once(spans)
    check("the limit was held and used in full: 4 at once, never 5", most == 4, f"most at once: {most}")
    took = max(span.end for span in spans) - min(span.begin for span in spans)
    check("16 tasks took four rounds, not sixteen", took < 2.5, f"{took:.2f} s")


def most_at_once(spans: Sequence[Span]) -> int:
    """The largest number of spans that overlap at one instant."""
    return max(sum(other.begin <= span.begin < other.end for other in spans) for span in spans)


async def rate_held(check: Checks, folder: Path) -> None:
    say("4. Queue('mails', rate_limit=RateLimit(5, per=1.0)): 12 mails, at most 5 starts in any second.")
    handles = await app.enqueue_many_async([send_mail.message(number) for number in range(12)])
    starts = sorted([await handle.get_result_async(timeout=20) for handle in handles])
    gaps = [starts[i + 5] - starts[i] for i in range(len(starts) - 5)]
    check("start[i+5] - start[i] is at least 1 s for every i", min(gaps) >= 1.0, f"least: {min(gaps):.3f} s")
    first = starts[4] - starts[0]
    check("the first window was used in full, at once", first < 0.5, f"5 starts in {first:.3f} s")


async def delay_kept(check: Checks, folder: Path) -> None:
    say("5. options(delay=1): the message waits in the store, not in a worker's memory.")
    due = time.time() + 1.0
    handle = await remind.options(delay=1.0).enqueue_async()
    seen = await until(lambda: _is(handle, Status.WAITING), within=0.9)
    check("meanwhile its status is WAITING", seen)
    late = await handle.get_result_async(timeout=10) - due
    check("it began after its second, and soon", -0.002 <= late < 0.5, f"{late * 1000:.0f} ms late")


async def cancelled(check: Checks, folder: Path) -> None:
    say("6. cancel() is durable: what waits or is queued never starts, what runs is stopped.")
    waiting = await report.options(delay=3600).enqueue_async(str(folder / "waiting"))
    await until(lambda: _is(waiting, Status.WAITING))
    await waiting.cancel_async()
    check("waiting: gone at once", await waiting.get_status_async() is Status.CANCELLED)
    running = await report.enqueue_async(str(folder / "running"))
    queued = await report.enqueue_async(str(folder / "queued"))
    await until(lambda: _is(running, Status.RUNNING))
    await queued.cancel_async()
    asked = time.monotonic()
    await running.cancel_async()
    check("running: the coroutine was cancelled", await _ends_cancelled(running), f"{time.monotonic() - asked:.2f} s")
    check("queued behind it: dropped when its turn came", await _ends_cancelled(queued))
    check("only the running one had ever started", marks(folder) == ["running"], ", ".join(marks(folder)))


def marks(folder: Path) -> list[str]:
    return [name for name in ("waiting", "running", "queued") if (folder / name).exists()]


async def _is(handle: Handle[Any], status: Status) -> bool:
    return await handle.get_status_async() is status


async def _ends_cancelled(handle: Handle[Any]) -> bool:
    try:
        await handle.get_result_async(timeout=10)
    except TaskCancelled:
        return True
    return False


async def dead_letter(check: Checks, folder: Path) -> None:
    say("7. A task that fails for good lies in the dead letters, with its error, until somebody retries it.")
    addresses = folder / "addresses"
    handle = await ship.enqueue_async(str(addresses))
    try:
        await handle.get_result_async(timeout=10)
        error = "none"
    except TaskFailed as failed:
        error = failed.type
    check("its caller is told the error", error == "FileNotFoundError", error)
    store = await app.client().store()
    which = DeadFilter(message_id=handle.id)
    await until(lambda: store.count_dead(which))
    letters = (await store.dead(which)).items
    check("it is listed with task, reason and attempts", [(x.task, x.reason, x.attempts) for x in letters]
          == [(ship.name, "failed", 2)], [f"{x.task} {x.reason} attempts={x.attempts}" for x in letters])  # fmt: skip
    addresses.write_text("12 Harbour Road")
    say("   The address book is there now; the dead letter is retried, as a new message.")
    where = await app.handle(await retry_letter(letters[0])).get_result_async(timeout=10)
    check("the retried message succeeded", where == "12 Harbour Road", where)
    check("and the dead letters are empty", await store.count_dead(which) == 0)


async def ticks_outlive_their_leader(check: Checks, folder: Path) -> None:
    say("8. A schedule of one tick a second, and two beats: one leads, the other stands by. The leader dies.")
    async with a_beat(folder, "one") as one, a_beat(folder, "two") as two:
        await app.schedules.upsert_async("pulse", note, every=1.0, args=[str(folder / "diary")])
        came, led = await until(lambda: _fired(3)), await until(lambda: _leads(one, two), within=60)
        check("the first ticks came, and one of the two leads", came and led)
        leader, heir = (one, two) if one.leads() else (two, one)
        killed = datetime.now(UTC)
        await leader.kill()
        print(f"   {leader.name} led; {leader.death}", flush=True)
        check(f"{heir.name} leads now", await until(lambda: _leads(heir), within=30))
        await until(lambda: _fired(3, after=killed))
        await app.schedules.delete_async("pulse")
    await until(_all_done)
    ticks = await _ticks()
    following = next((tick for tick in ticks if tick.instant > killed), None)
    late = (following.fired_at - following.instant).total_seconds() if following else float("inf")
    check("the next tick after the kill was sent on time", late < 1.0, f"{late * 1000:.0f} ms late")
    steps = {later.instant - tick.instant for tick, later in zip(ticks, ticks[1:], strict=False)}
    check("no tick was left out", steps == {timedelta(seconds=1)}, f"{len(ticks)} ticks, one a second")
    noted = sorted((folder / "diary").read_text().split())
    check("each of them ran once", noted == [tick.instant.isoformat() for tick in ticks])


async def _leads(*beats: ABeat) -> bool:
    return any(beat.leads() for beat in beats)


async def _ticks() -> Sequence[Firing]:
    return (await app.schedules.history_async("pulse", 1000))[::-1]


async def _fired(count: int, after: datetime | None = None) -> bool:
    return sum(after is None or tick.instant > after for tick in await _ticks()) >= count


async def _all_done() -> bool:
    return all(tick.message is not None and tick.message.status.final for tick in await _ticks())


async def over_http(check: Checks, folder: Path) -> None:
    say("9. A message for a URL, by QStash's own Python client; then one that fails, and is retried from the DLQ.")
    with Destination() as shop:
        async with an_api(folder) as url:
            client = AsyncQStash(TOKEN, base_url=url)
            await delivered(check, client, shop)
            await found_in_the_dlq(check, client, shop)


async def delivered(check: Checks, client: AsyncQStash, shop: Destination) -> None:
    sent = await client.message.publish_json(url=shop.url("/orders"), body={"order": 7}, callback=shop.url("/told"))
    came = await shop.at("/orders")
    check("the destination was sent it, signed, once", [(json.loads(one.body), one.headers["Upstash-Message-Id"])
          for one in came if one.headers["Upstash-Signature"]] == [({"order": 7}, sent.message_id)])  # fmt: skip
    [told] = [json.loads(one.body) for one in await shop.at("/told")]
    said = told["sourceMessageId"], told["status"], base64.b64decode(told["body"])
    check("its callback says what the destination answered", said == (sent.message_id, 200, b"seen"), said[1:])


async def found_in_the_dlq(check: Checks, client: AsyncQStash, shop: Destination) -> None:
    shop.answers["/stock"] = [500, 500]
    lost = await client.message.publish(url=shop.url("/stock"), body="-1 lamp", retries=1, retry_delay="50")

    async def dead() -> list[DlqMessage]:
        return (await client.dlq.list(filter={"message_id": lost.message_id})).messages

    await until(dead)
    letters = await dead()
    seen = [(one.response_status, one.body) for one in letters]
    check("after its retry it lies in the DLQ, with the last answer", seen == [(500, "-1 lamp")], seen)
    say("   The shop is well again; the dead letter is retried, as a new message.")
    revived = await client.http.request(path=f"/v2/dlq/retry/{letters[0].dlq_id}", method="POST")
    came = (await shop.at("/stock", 3))[2]
    check("the same body came under a new id", (came.body, came.headers["Upstash-Message-Id"])
          == (b"-1 lamp", revived["messageId"]) and revived["messageId"] != lost.message_id)  # fmt: skip
    check("and the DLQ is empty", await dead() == [])


SCENES = (
    first_tasks,
    order_under_failures,
    limit_held,
    rate_held,
    delay_kept,
    cancelled,
    dead_letter,
    ticks_outlive_their_leader,
    over_http,
)


async def retry_letter(letter: DeadLetter) -> str:
    """What `taskq dlq retry` does; the id of the new message."""
    client = app.client()
    assert client.dispatcher is not None
    replay = Replay(
        broker=await client.broker(), store=await client.store(), dispatcher=client.dispatcher, clock=app.clock
    )
    revived = [one async for batch in replay.revive([letter.id]) for one in batch]
    return revived[0].message_id


# -- the stage --------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def workers(folder: Path) -> AsyncIterator[str]:
    """A worker in this process on memory://; on RabbitMQ two processes. Gives what to call them."""
    if app.settings.broker.startswith("memory:"):
        async with worker(app):
            yield "one worker, in this process"
    else:
        with worker_processes("demo:app", 2, "-c", "8", log=folder / "workers.log") as pids:
            yield f"two worker processes, {pids[0]} and {pids[1]}"
        await sweep()
        await app.close()


class ABeat(NamedTuple):
    """One of several beats: what to call it, whether it leads, how it is made to die, and what that is."""

    name: str
    leads: Callable[[], bool]
    kill: Callable[[], Awaitable[None]]
    death: str


def a_beat(folder: Path, name: str) -> contextlib.AbstractAsyncContextManager[ABeat]:
    """A beat that is up: `taskq beat`, or on memory:// one in this process."""
    return _beat_here(name) if app.settings.broker.startswith("memory:") else _beat_process(folder, name)


@contextlib.asynccontextmanager
async def _beat_here(name: str) -> AsyncIterator[ABeat]:
    """Nobody can be killed -9 alone here: its code is stopped where it stands, and its connections break."""
    own = an_app()
    one = Worker(own, queues=[], beat=True)
    serving = asyncio.create_task(one.run())

    async def kill() -> None:
        serving.cancel()
        one.broker.drop_connections()  # type: ignore[attr-defined]
        await asyncio.wait({serving})
        await own.close()

    try:
        await asyncio.wait_for(one.started.wait(), 30)
        death = "its code was stopped where it stood and its connections cut (on RabbitMQ its process is killed -9)"
        yield ABeat(f"beat {name}", lambda: one.beat is not None and one.beat.leading, kill, death)
    finally:
        one.stop()
        await asyncio.gather(serving, return_exceptions=True)
        await own.close()


@contextlib.asynccontextmanager
async def _beat_process(folder: Path, name: str) -> AsyncIterator[ABeat]:
    log, health = folder / f"beat-{name}.log", f"127.0.0.1:{free_port()}"
    line = [sys.executable, "-m", "taskq", "beat", "demo:app", "--health", health]
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(*line, stdout=output, stderr=output)

    async def kill() -> None:
        process.kill()
        await process.wait()

    try:
        await until(lambda: asyncio.to_thread(answers, f"http://{health}/ready"), within=30)
        death = f"its process, {process.pid}, was killed -9"
        yield ABeat(f"beat {name}", lambda: "this process is the beat" in log.read_text(), kill, death)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


@contextlib.asynccontextmanager
async def an_api(folder: Path) -> AsyncIterator[str]:
    """`taskq api`, or on memory:// the same in this process; gives its URL."""
    if app.settings.broker.startswith("memory:"):
        async with api(app) as url:
            yield url
        return
    port = free_port()
    line = [sys.executable, "-m", "taskq", "api", "demo:app", "--port", str(port)]
    with (folder / "api.log").open("wb") as output:
        process = await asyncio.create_subprocess_exec(*line, stdout=output, stderr=output)
    try:
        url = f"http://127.0.0.1:{port}"
        await until(lambda: asyncio.to_thread(answers, f"{url}/ready"), within=30)
        yield url
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def answers(url: str) -> bool:
    """Whether it says 200."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


async def sweep() -> None:
    """Delete what the demo made on the broker: its prefix is its own."""
    broker, store = await app.client().broker(), await app.client().store()
    leaders = ("keeper", f"beat/{app.settings.name}")
    queues = [BrokerQueue(Kind.SLOT, name, ordered=True) for name in leaders]
    for record in await store.list_queues():
        queues += broker_queues(record)
        queues += [BrokerQueue(Kind.SLOT, record.name, i, ordered=True) for i in range(record.parallelism or 0)]
    await broker.drop_prefix(queues)  # type: ignore[attr-defined]


async def main() -> int:
    check = Checks()
    began = time.monotonic()
    print(f"taskq demo: broker {redact_url(app.settings.broker)}, store {redact_url(app.settings.store)}")
    try:
        await app.open()
    except BrokerUnavailable as error:
        print(f"\n{error}\nIs RabbitMQ running there? `make up` starts one and prints its URL; "
              "without --broker the demo needs none.", file=sys.stderr)  # fmt: skip
        return 2
    with tempfile.TemporaryDirectory(prefix="taskq-demo-") as name:
        async with workers(Path(name)) as who:
            print(f"Running the tasks: {who}.")
            for scene in SCENES:
                try:
                    await scene(check, Path(name))
                except (TaskqError, QStashError, AssertionError) as error:
                    check(f"{scene.__name__} came to its end", False, repr(error))
    took = time.monotonic() - began
    if check.failed:
        print(f"\n{len(check.failed)} of {check.held + len(check.failed)} checks FAILED after {took:.1f} s:")
        print("\n".join(f" - {claim}" for claim in check.failed))
        return 1
    print(f"\nAll {check.held} checks held, in {took:.1f} s.")
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
