"""A stream of work on queues of every kind while something breaks, and the ledger of what became of it.

A `Stream` sends from this process, one sender a queue, until it is told to stop; its workers are
processes of a `Station`. Some messages fail once, some are delayed, some fail for good. Numbers
count the messages of one queue in the order of their sending; a send that raised is *unconfirmed*:
its message may run or not, and takes no part in what is checked of order or loss.
"""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field, fields

from taskq import BrokerUnavailable, Queue, TaskqError
from taskq.broker.base import DEAD, WAITING
from taskq.dispatch import task_queue
from taskq.store.base import DeadFilter
from tests.integration.harness import Span, Station, WorkerProcess, most_at_once
from tests.integration.outcomes import Outcomes
from tests.support import eventually

OPEN = Queue("calls")
FIFO = Queue("line", parallelism=1)
LANES = Queue("keyed", parallelism=1, partitions=3)
POOL = Queue("pool", parallelism=3)
QUEUES = (OPEN, FIFO, LANES, POOL)
KEYS = ("a", "b", "c", "d", "e")
BACK_WITHIN = 30.0  # seconds: what is promised of consumers after a fault
# Of the workers: they notice dead connections and ill health within seconds.
QUICK: dict[str, object] = {"heartbeat": 4, "health_limit": 5, "exit_after": "none"}


@dataclass
class Ledger:
    """One fault, in figures; a row of the table that `make chaos` prints.

    fault           str
    confirmed       messages whose enqueue returned
    unconfirmed     messages whose enqueue raised
    done, dead      of the confirmed: recorded SUCCEEDED; FAILED and in the dead letters
    lost            of the confirmed: without an outcome, or failed without a dead letter
    recorded_twice  messages with more than one outcome written
    runs_again      attempts that began more than once, the cost of at-least-once
    out_of_order    starts on FIFO queues and lanes that came before their turn
    most_at_once    on the queue of parallelism 3
    longest_stall   seconds without the end of any run, at most
    back            seconds from the mend until every queue ran again and every consumer stood
    unhealthy       /health answers that said 503
    slowest         seconds that an enqueue took to return or raise, at most
    """

    fault: str
    confirmed: int = 0
    unconfirmed: int = 0
    done: int = 0
    dead: int = 0
    lost: int = 0
    recorded_twice: int = 0
    runs_again: int = 0
    out_of_order: int = 0
    most_at_once: int = 0
    longest_stall: float = 0.0
    back: float = 0.0
    unhealthy: int = 0
    slowest: float = 0.0

    def row(self) -> str:
        """As JSON, for the table at the end of the run."""
        return json.dumps({name: round(v, 2) if isinstance(v, float) else v for name, v in asdict(self).items()})

    @staticmethod
    def table(rows: list[dict[str, object]]) -> str:
        """Rows under their headings, aligned."""
        names = [column.name for column in fields(Ledger)]
        lines = [[name.replace("_", " ") for name in names], *([str(row[name]) for name in names] for row in rows)]
        widths = [max(len(line[i]) for line in lines) for i in range(len(names))]
        return "\n".join(
            "  ".join(
                cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
            )
            for line in lines
        )


@dataclass
class Sent:
    """What one sender did."""

    confirmed: dict[str, int] = field(default_factory=dict)  # message id -> number
    unconfirmed: int = 0
    slowest: float = 0.0  # seconds that one enqueue took, at most
    next: int = 0


@dataclass(frozen=True, slots=True)
class Wish:
    """The next message is to run for so many seconds, or for `again` if it must run once more; its id is told."""

    seconds: float
    again: float | None
    sent: asyncio.Future[str]


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of a worker's /health; status 0: none within 2 s, or refused."""

    at: float
    worker: int
    status: int


class Stream:
    """See the module.

    Args:
        pace: seconds between two messages of one queue.
    """

    def __init__(self, station: Station, outcomes: Outcomes, fault: str, *, pace: float = 0.04) -> None:
        self.station = station
        self.fault = fault
        self.began = time.time()
        self.mended_at: float | None = None
        self.sent: dict[str, Sent] = {queue.name: Sent() for queue in QUEUES}
        self.statuses: dict[str, str] = {}  # of the confirmed messages that have an outcome
        self.answers: list[Answer] = []
        self._wishes: dict[str, Wish] = {}  # by queue
        self._outcomes = outcomes
        self._pace = pace
        self._sending = asyncio.Event()
        self._paused = False
        self._tasks: list[asyncio.Task[None]] = []

    @contextlib.asynccontextmanager
    async def flowing(
        self, workers: int = 2, *, each: Sequence[dict[str, object]] = ({},), **settings: object
    ) -> AsyncIterator[Stream]:
        """Start so many workers on every queue and all senders; enter once every queue has run something.

        Settings are the workers', beside QUICK; with `each` so many workers with each of these, too.
        """
        await self.station.ensure(*QUEUES)
        await asyncio.gather(*(self.join(workers, **(settings | own)) for own in each))
        self._sending.set()
        self._tasks = [asyncio.create_task(self._send(queue)) for queue in QUEUES]
        self._tasks.append(asyncio.create_task(self._ask_health()))
        await self.ran_everywhere(since=self.began)
        try:
            yield self
        finally:
            self._sending.clear()
            await self.stopped()

    async def join(self, workers: int = 1, **settings: object) -> None:
        """Start so many workers on every queue, and return when they are ready."""
        await self.station.start_ready(workers, [queue.name for queue in QUEUES], **(QUICK | settings))

    async def stopped(self) -> None:
        """End the senders and the asking for health."""
        self._sending.clear()
        *senders, asking = self._tasks or [None]  # type: ignore[list-item]
        if asking is None:
            return
        await asyncio.gather(*senders)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        self._tasks = []

    async def _send(self, queue: Queue) -> None:
        sent = self.sent[queue.name]
        while self._sending.is_set():
            if self._paused:
                await asyncio.sleep(self._pace)
                continue
            number, sent.next = sent.next, sent.next + 1
            wish = self._wishes.pop(queue.name, None)
            arguments: dict[str, object] = {"number": number, "seconds": 0.05 if queue is POOL else 0.005}
            if wish is not None:
                arguments |= {"seconds": wish.seconds, "again": wish.again}
            options: dict[str, object] = {"queue": queue}
            if queue is LANES:
                options["key"] = arguments["key"] = KEYS[number % len(KEYS)]
            if wish is not None:
                pass  # it runs well
            elif number % 7 == 3:
                arguments["fails"] = 1
            elif number % 31 == 30:
                arguments["fails"] = 99  # for good
            elif queue is OPEN and number % 5 == 1:
                options["delay"] = 0.3
            began = time.monotonic()
            try:
                handle = await self.station.step.options(**options).enqueue_async(**arguments)
                sent.confirmed[handle.id] = number
                if wish is not None:
                    wish.sent.set_result(handle.id)
            except BrokerUnavailable as error:
                sent.unconfirmed += 1
                if wish is not None:
                    wish.sent.set_exception(error)
            sent.slowest = max(sent.slowest, time.monotonic() - began)
            await asyncio.sleep(self._pace)

    @contextlib.asynccontextmanager
    async def quiet(self, within: float = 20.0) -> AsyncIterator[None]:
        """Send nothing for a while; entered when all that was sent has its outcome, and the dead their letters."""
        self._paused = True
        await asyncio.sleep(2 * self._pace)  # who is sending now has its answer
        await self._archived(await self._recorded(within))
        try:
            yield
        finally:
            self._paused = False

    async def send_long(self, queue: Queue, seconds: float, again: float | None = None) -> str:
        """Have the next message of a queue run for so long, or for `again` if it must run once more.

        Its id, once it is confirmed.
        """
        sent: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._wishes[queue.name] = Wish(seconds, again, sent)
        return await sent

    async def _ask_health(self) -> None:
        while True:
            for worker in self.station.workers:
                if worker.running:
                    self.answers.append(Answer(time.time(), worker.pid, await worker.health()))
            await asyncio.sleep(0.25)

    # -- facts to wait for --------------------------------------------------------------------

    async def ran_everywhere(self, since: float, timeout: float = BACK_WITHIN) -> float:  # noqa: ASYNC109
        """Wait until a run has ended on every queue (and so far used lane) after an instant; the seconds since then."""

        log, first = self.station.log, self._first_after(since)

        def check() -> bool:
            seen = {event.queue for event in log.read()[first:] if event.kind == "end" and event.at > since}
            missing = {queue.name for queue in QUEUES} - seen
            assert not missing, f"nothing has run on {sorted(missing)} since"
            return True

        await self.station.log.until(check, timeout)
        return time.time() - since

    def _first_after(self, since: float) -> int:
        """Where in the log to begin to look for what came after an instant; lines come in order, or nearly."""
        return max(0, bisect.bisect(self.station.log.read(), since, key=lambda event: event.at) - 100)

    async def mended(self, consumers: Callable[[], Awaitable[bool]] | None = None) -> float:
        """The fault is over: wait until every queue runs, /health says 200 everywhere, and the given check holds.

        The seconds that it took, which are bounded by what is promised.
        """
        self.mended_at = time.time()
        await self.ran_everywhere(since=self.mended_at)

        async def healthy() -> bool:
            for worker in self.station.workers:
                if worker.running:
                    asked_at, status = time.time(), await worker.health()
                    self.answers.append(Answer(asked_at, worker.pid, status))
                    said = f"{worker.answered}\n{worker.said()[-2000:]}"
                    assert status == 200, f"worker {worker.pid} answers {status} on /health: {said}"
            return True

        left = BACK_WITHIN - (time.time() - self.mended_at)
        await eventually(healthy, left)
        if consumers is not None:
            await eventually(consumers, BACK_WITHIN - (time.time() - self.mended_at))
        return time.time() - self.mended_at

    # -- the ledger ---------------------------------------------------------------------------

    async def checked(self, *, back: float = 0.0, within: float = 60.0) -> Ledger:
        """Stop sending, wait until every confirmed message has its outcome, and check every promise."""
        await self.stopped()
        ledger = Ledger(self.fault, back=back)
        statuses = await self._recorded(within)
        await self._archived(statuses)
        ledger.confirmed = len(statuses)
        ledger.unconfirmed = sum(sent.unconfirmed for sent in self.sent.values())
        ledger.done = sum(status == "SUCCEEDED" for status in statuses.values())
        ledger.dead = sum(status == "FAILED" for status in statuses.values())
        ledger.lost = ledger.confirmed - ledger.done - ledger.dead
        ledger.recorded_twice = sum(times > 1 for times in self._outcomes.recorded().values())
        starts = Counter((event.id, event.attempt) for event in self.station.log.of("start"))
        ledger.runs_again = sum(times - 1 for times in starts.values())
        ledger.most_at_once = most_at_once(self.station.spans(queue=POOL.name))
        ledger.out_of_order = self._out_of_order()
        ends = sorted(event.at for event in self.station.log.read() if event.kind in ("end", "fail"))
        ledger.longest_stall = max(after - before for before, after in zip(ends, ends[1:], strict=False))
        ledger.unhealthy = sum(answer.status == 503 for answer in self.answers)
        ledger.slowest = max(sent.slowest for sent in self.sent.values())
        print(ledger)
        assert ledger.confirmed > 0 and ledger.lost == 0, ledger
        assert ledger.recorded_twice == 0, ledger
        assert ledger.out_of_order == 0, ledger
        assert ledger.most_at_once <= 3, ledger
        assert ledger.back <= BACK_WITHIN, ledger
        bound = self.station.app.settings.publish_timeout
        assert ledger.slowest <= bound + 1, f"an enqueue is to return or raise within {bound:g} s: {ledger}"
        return ledger

    async def sweep(self) -> int:
        """Note the outcomes of what was confirmed and had none so far; how many still have none."""
        store = await self.station.store()
        confirmed = [id for sent in self.sent.values() for id in sent.confirmed if id not in self.statuses]
        for part in (confirmed[i : i + 500] for i in range(0, len(confirmed), 500)):
            rows = await store.get_many(part)
            self.statuses |= {id: str(row.status) for id, row in rows.items() if row.status.final}
        return sum(id not in self.statuses for id in confirmed)

    async def _recorded(self, within: float) -> dict[str, str]:
        async def check() -> bool:
            try:
                left = await self.sweep()
            except TaskqError as error:
                raise AssertionError(f"the store does not answer: {error}") from error
            assert not left, f"{left} confirmed messages have no outcome"
            return True

        try:
            await self.station.log.until(check, within)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{await self._what_is_known()}") from None
        return self.statuses

    async def _what_is_known(self) -> str:
        """Of confirmed messages without an outcome: all that log, store and broker tell."""
        store = await self.station.store()
        lines = []
        waiting = {row.message.id: row for row in (await store.waiting(limit=1000)).items}
        for name, sent in self.sent.items():
            for id, number in sent.confirmed.items():
                if id in self.statuses:
                    continue
                lines.append(f"{name} {number} {id}: {await store.get(id)}")
                lines += [f"    {event}" for event in self.station.log.read() if event.id == id]
                lines += [f"    {entry}" for entry in await store.history(id)]
                lines.append(f"    in the waiting room: {waiting.get(id)}")
        broker = await self.station.app.client().broker()
        for queue in (OPEN, FIFO, POOL):
            lines.append(f"{queue.name}: {await broker.depth(task_queue(queue.name))}")
        for named in (WAITING, DEAD):
            lines.append(f"{named.kind}: {await broker.depth(named)}")
        lines.append(f"rows: {await store.table_sizes()}")
        return "\n".join(lines)

    async def _archived(self, statuses: dict[str, str]) -> None:
        """Wait until every failed message is in the dead letters."""
        store = await self.station.store()
        letters: set[str] = set()

        async def check() -> bool:
            page = await store.dead(DeadFilter(), limit=500)
            letters.update(letter.message_id for letter in page.items)
            while page.cursor is not None:
                page = await store.dead(DeadFilter(), cursor=page.cursor, limit=500)
                letters.update(letter.message_id for letter in page.items)
            missing = {id for id, status in statuses.items() if status == "FAILED"} - letters
            assert not missing, f"{len(missing)} failed messages are not in the dead letters"
            return True

        await eventually(check, 30)

    def _out_of_order(self) -> int:
        """Starts on an ordered queue or lane that overlap the run before, or come before their turn."""
        wrong = 0
        by_lane: dict[str, list[Span]] = {}
        for queue in (FIFO, LANES):
            confirmed = self.sent[queue.name].confirmed
            for span in self.station.spans(queue=queue.name):
                if span.event.id in confirmed:
                    by_lane.setdefault(f"{queue.name}/{span.event.key}", []).append(span)
        for lane, spans in by_lane.items():
            name, _, key = lane.partition("/")
            numbers = sorted(n for n in self.sent[name].confirmed.values() if not key or KEYS[n % len(KEYS)] == key)
            place = {number: index for index, number in enumerate(numbers)}
            for before, after in zip(spans, spans[1:], strict=False):
                step = place[after.event.number] - place[before.event.number]
                if step not in (0, 1) or after.start < before.end:
                    print(f"{lane}: {after} came after {before}")
                    wrong += 1
        return wrong

    def told_of_illness(self, workers: list[WorkerProcess] | None = None) -> None:
        """Check that each of these workers has answered 503 on /health during the fault, and 200 after the mend."""
        assert self.mended_at is not None
        for worker in workers if workers is not None else self.station.workers:
            mine = [answer for answer in self.answers if answer.worker == worker.pid]
            seen = Counter(answer.status for answer in mine)
            assert seen[503], f"worker {worker.pid} never said on /health that it was ill: {seen}"
            well = any(answer.status == 200 and answer.at >= self.mended_at for answer in mine)
            assert well or not worker.running, f"worker {worker.pid} never said that it was well again: {seen}"
