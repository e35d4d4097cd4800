"""One Outcome made true: one transaction, then publish what is due, then acknowledge.

A crash before the commit repeats the run; between commit and publish the keeper publishes;
before the acknowledgement the message comes back, is claimed, and is found to be done.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, assert_never

import msgpack

from taskq import dead_letter
from taskq.broker.base import DEAD, Broker, Outgoing
from taskq.client import reply
from taskq.clock import Clock
from taskq.dispatch import Dispatcher, outbox_row
from taskq.errors import InvalidMessage, InvalidRequest, TaskqError
from taskq.group import Group
from taskq.handle import Ending
from taskq.http.request import PAYLOAD_TYPE, Response, request_of
from taskq.message import Message
from taskq.outcome import (
    Again,
    Cancelled,
    Dead,
    Done,
    Expired,
    Failure,
    GivenBack,
    Held,
    Later,
    Missed,
    Outcome,
    Status,
)
from taskq.serialization import MSGPACK
from taskq.store.base import DeadLetter, OutboxRow, Settled, Settlement, Store
from taskq.worker.run import Run

logger = logging.getLogger("taskq.worker")

WANTED_MOST = 10_000  # messages that other processes wait for, as far as they are remembered here
REPAIR_AFTER = 10.0  # seconds after which the keeper publishes an outbox row whose worker has not


class Settler:
    """Performs outcomes, in groups."""

    def __init__(
        self,
        *,
        store: Store,
        broker: Broker,
        dispatcher: Dispatcher,
        clock: Clock,
        worker: str,
        on_due: Callable[[datetime], None],
    ) -> None:
        self._store = store
        self._broker = broker
        self._dispatcher = dispatcher
        self._clock = clock
        self._worker = worker
        self.on_due = on_due
        self.group: Group[Settlement, Settled] = Group(store.settle, clock=clock, what="recording outcomes")
        self.wanted: dict[str, set[str]] = {}
        self._replies: dict[str, list[Any]] = {}
        self._publishing: set[asyncio.Task[None]] = set()

    def settle(self, run: Run, outcome: Outcome, then: Callable[[Settled], None]) -> None:
        """Record the outcome and what follows; `then` is called when the delivery may be acknowledged."""
        settlement = self.settlement(run, outcome)

        def recorded(settled: Settled) -> None:
            match settled:
                case Settled.APPLIED:
                    self._follow(run, settlement, outcome, then)
                case Settled.FENCED:
                    logger.warning(
                        "message %s: what attempt %d did is ignored, a newer run or an outcome stands",
                        run.message.id,
                        run.attempt,
                    )
                    then(settled)
                case Settled.REFUSED:
                    logger.error("message %s: its outcome cannot be stored; dead-lettered", run.message.id)
                    self._background(self._bury_unrecorded(run, settlement, then))
                case _:
                    assert_never(settled)

        self.group.submit(settlement, recorded)

    async def drained(self) -> None:
        """Return once everything is recorded, published and acknowledged."""
        await self.group.drained()
        while self._publishing:
            await asyncio.wait(self._publishing)

    def settlement(self, run: Run, outcome: Outcome) -> Settlement:
        """What is to be recorded of an outcome: a value, from which nothing has happened yet."""
        message, now = run.message, self._clock.now()
        status, attempt = Status.FAILED, run.attempt
        extra: dict[str, Any] = {}
        match outcome:
            case Done(result, response):
                status = Status.SUCCEEDED
                extra = {"result": result, "result_type": MSGPACK if result is not None else None}
                extra |= {"response": response}
            case Again(delay, failure, response):
                status = Status.WAITING
                start = now + timedelta(seconds=delay)
                extra = {"failure": failure, "next_attempt": attempt + 1, "response": response}
                extra |= _waits(run, start, _at_attempt(run).next_attempt(start))
            case Later(delay):
                status = Status.WAITING
                start = now + timedelta(seconds=delay)
                extra = {"next_attempt": attempt} | _waits(run, start, _at_attempt(run).snoozed(start))
            case Missed(delay):
                status = Status.WAITING
                start = now + timedelta(seconds=delay)
                extra = {"next_attempt": attempt, "parked": _at_attempt(run).missed(start)}
            case Held(since):
                status = Status.WAITING
                extra = {"next_attempt": attempt, "parked": _at_attempt(run).held(since)}
            case Dead(reason, failure, response):
                letter = self._obituary(run, reason, failure, now, response)
                extra = {"reason": reason, "failure": failure, "outbox": (letter,), "response": response}
            case Expired():
                status = Status.EXPIRED
                failure = Failure("expired", f"expires_at {message.expires_at} had passed before it could start")
                extra = {"reason": "expired", "outbox": (self._obituary(run, "expired", failure, now),)}
            case Cancelled():
                status = Status.CANCELLED
            case GivenBack():
                raise AssertionError("a run that is given back has nothing to settle")
            case _:
                assert_never(outcome)
        settlement = Settlement(
            message=message,
            worker=self._worker,
            epoch=run.epoch,
            status=status,
            attempt=attempt,
            started_at=run.started_at or now,
            ended_at=now,
            **extra,
        )
        return self._with_callbacks(settlement) if message.payload_type == PAYLOAD_TYPE else settlement

    def _with_callbacks(self, settlement: Settlement) -> Settlement:
        """With the messages that tell of a request's answer, if any attempt was made."""
        from taskq.http.callbacks import callbacks_of

        failed = settlement.status in (Status.FAILED, Status.EXPIRED)
        answered = failed or settlement.response is not None
        try:
            request = request_of(settlement.message) if answered else None
        except InvalidMessage:
            request = None  # damaged: it is dead for that, and names nobody to be told
        if request is None or (request.callback is None and request.failure_callback is None):
            return settlement
        response = Response(0) if settlement.response is None else Response.decode(settlement.response)
        try:
            born = callbacks_of(
                settlement.message,
                request,
                response,
                attempt=settlement.attempt,
                epoch=settlement.epoch,
                failed=failed,
                dead_letter_id=dead_letter.letter_id(
                    settlement.message.id, settlement.message.hop, settlement.ended_at, b""
                ),
                now=settlement.ended_at,
            )
        except InvalidRequest as error:
            # Checked when it was published, by a version that allowed more.
            logger.error("message %s: its callback cannot be made: %s", settlement.message.id, error)
            return settlement
        due_at = settlement.ended_at + timedelta(seconds=REPAIR_AFTER)
        rows = tuple(outbox_row(message, "born", due_at) for message in born)
        return replace(settlement, born=tuple(born), outbox=settlement.outbox + rows)

    def _obituary(
        self, run: Run, reason: str, failure: Failure, now: datetime, response: bytes | None = None
    ) -> OutboxRow:
        letter = dead_letter.of_message(
            run.message,
            reason=reason,
            attempts=run.attempt,
            failure=failure,
            worker=self._worker,
            died_at=now,
            response=response,
        )
        return OutboxRow(
            id=f"{run.message.id}/dead/{run.message.hop}.{run.epoch}",
            target="dead",
            queue=run.message.queue,
            body=dead_letter.encode(letter),
            content_type=dead_letter.CONTENT_TYPE,
            message_id=run.message.id,
            due_at=now + timedelta(seconds=REPAIR_AFTER),
        )

    def _follow(self, run: Run, settlement: Settlement, outcome: Outcome, then: Callable[[Settled], None]) -> None:
        if settlement.parked is not None and settlement.parked.not_before is not None:
            self.on_due(settlement.parked.not_before)
        elif run.message.flow is not None:
            self.on_due(settlement.ended_at)  # the next of its key may start
        if settlement.status.final:
            self.reply(run, Ending(settlement.status, settlement.result, settlement.result_type, settlement.failure))
        if settlement.outbox:
            self._background(self._publish(settlement.outbox, then))
        else:
            then(Settled.APPLIED)

    def reply(self, run: Run, ending: Ending) -> None:
        """Tell the process that enqueued the message, and those that asked; replies of one group travel together."""
        targets = self.wanted.pop(run.message.id, set())
        if run.message.reply_to is not None:
            targets.add(run.message.reply_to)
        if not targets:
            return
        if not self._replies:
            asyncio.get_running_loop().call_soon(self._send_replies)
        entry = reply(run.message.id, ending)
        for target in targets:
            self._replies.setdefault(target, []).append(entry)

    def want(self, message_id: str, reply_to: str) -> None:
        """Another process waits for this message, which may be under way here, or come here."""
        self.wanted.setdefault(message_id, set()).add(reply_to)
        if len(self.wanted) > WANTED_MOST:
            del self.wanted[next(iter(self.wanted))]

    def _send_replies(self) -> None:
        replies, self._replies = self._replies, {}
        for reply_to, entries in replies.items():
            self._broker.send(reply_to, msgpack.packb(entries, unicode_errors="surrogatepass"))

    async def _publish(self, rows: tuple[OutboxRow, ...], then: Callable[[Settled], None]) -> None:
        sent = await asyncio.gather(*map(self._send, rows))
        try:
            await self._store.published([row.id for row, done in zip(rows, sent, strict=True) if done])
        except TaskqError as error:
            logger.warning("publishes that were made are not noted: %s; the keeper will repeat them", error)
        then(Settled.APPLIED)

    async def _send(self, row: OutboxRow) -> bool:
        try:
            await self._dispatcher.send_row(row)
        except TaskqError as error:
            logger.warning("publishing %s: %s; the keeper will repeat it", row.id, error)
            return False
        return True

    async def _bury_unrecorded(self, run: Run, settlement: Settlement, then: Callable[[Settled], None]) -> None:
        failure = settlement.failure or Failure("StoreRefused", "the outcome cannot be stored")
        now = self._clock.now()
        letter = dead_letter.of_message(
            run.message, reason="not-storable", attempts=run.attempt, failure=failure, worker=self._worker, died_at=now
        )
        await self.bury(letter)
        then(Settled.REFUSED)

    async def bury(self, letter: DeadLetter) -> None:
        """Publish a dead letter that no outbox row stands for; insist, for until then the message is unacknowledged."""
        outgoing = Outgoing(DEAD, dead_letter.encode(letter), letter.message_id, dead_letter.CONTENT_TYPE)
        while True:
            try:
                await self._broker.publish(outgoing)
                return
            except TaskqError as error:
                logger.warning("dead-lettering %s: %s; trying again", letter.message_id or letter.id, error)
                await self._clock.sleep(1.0)

    def _background(self, work: Coroutine[Any, Any, None]) -> None:
        job = asyncio.get_running_loop().create_task(work)
        self._publishing.add(job)
        job.add_done_callback(self._publishing.discard)


def _at_attempt(run: Run) -> Message:
    """The message as it is at the attempt that ran: a claim may know a later one than the envelope."""
    return run.message if run.message.attempt == run.attempt else replace(run.message, attempt=run.attempt)


def _waits(run: Run, start: datetime, copy: Message) -> dict[str, Any]:
    """Where a message waits for its next run: at the head of its queue, or in the waiting room."""
    return {"in_place": start} if run.unit.in_place else {"parked": copy}
