"""One process's (strictly: one event loop's) way to broker and store: send, wait for results, cancel.

The app keeps one for each loop that uses it. It connects at the first use and opens the store
only when something needs it.
"""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import msgpack

from taskq.broker.base import Broker, OnOutcome
from taskq.clock import Clock
from taskq.dispatch import Dispatcher, control, limits, outbox_row, task_queue
from taskq.errors import BrokerUnavailable, Duplicate, QueueMissing, ResultTimeout, StoreUnavailable, TaskqError
from taskq.handle import Ending, Mailbox
from taskq.message import Message
from taskq.outcome import Failure, Status
from taskq.queue import Queue
from taskq.task import Prepared, with_reply

if TYPE_CHECKING:
    from taskq.settings import Settings
    from taskq.store.base import CancelEffect, MessageRecord, Store

logger = logging.getLogger("taskq.client")
R = TypeVar("R")

# Replies are unconfirmed: a waiter looks into the store as well, this often, in seconds.
OWN_FIRST_LOOK = 1.0
OWN_LOOK_EVERY = 3.0
FOREIGN_SECOND_LOOK = 0.05
FOREIGN_LOOK_EVERY = 1.0
# A message whose claim on a deduplication id was stored, and whose publish is unknown, is repeated then.
REPAIR_AFTER = 5.0


class Client:
    """See the module."""

    def __init__(
        self,
        *,
        settings: Settings,
        clock: Clock,
        open_broker: Callable[[], Broker],
        open_store: Callable[[], Store],
    ) -> None:
        self.settings = settings
        self.clock = clock
        self._make_broker = open_broker
        self._make_store = open_store
        self._broker: Broker | None = None
        self._store: Store | None = None
        self._opening = asyncio.Lock()
        self._store_opening = asyncio.Lock()
        self._bound = False
        self._waiters: dict[str, set[asyncio.Future[Ending]]] = {}
        self._reply_to: str | None = None
        self._sent: weakref.WeakValueDictionary[str, Mailbox] = weakref.WeakValueDictionary()
        self.dispatcher: Dispatcher | None = None
        self._ready = False

    # -- life -------------------------------------------------------------------------------

    async def broker(self) -> Broker:
        """The broker, connected.

        Raises:
            BrokerUnavailable, AccessRefused: within `connect_timeout`.
        """
        if self._ready and self._broker is not None:
            return self._broker
        async with self._opening:
            if self._broker is None:
                broker = self._make_broker()
                try:
                    await broker.open()
                except BaseException:
                    await broker.close()
                    raise
                self._broker = broker
            if self.dispatcher is None:
                self.dispatcher = Dispatcher(broker=self._broker, open_store=self.store, clock=self.clock)
            if self._reply_to is None:
                self._reply_to = await self._broker.reply_queue(self._on_replies, self._on_reply_queue)
            self._ready = True
        return self._broker

    async def store(self) -> Store:
        """The store, opened, and bound to the broker (one store a broker and prefix).

        Raises:
            StoreUnavailable, SchemaTooNew, StoreMismatch.
        """
        if self._store is not None and self._bound:
            return self._store
        async with self._store_opening:
            if self._store is None:
                self._store = self._make_store()
            store = self._store
            await store.open()  # once it is open this does nothing; one that could not be is tried again, not replaced
            if not self._bound:
                await (await self.broker()).declare_base(store.id)
                self._bound = True
        return store

    async def close(self) -> None:
        """Close connections; waiters are told that nothing will come."""
        self._ready = False
        broker, self._broker = self._broker, None
        store, self._store = self._store, None
        self.dispatcher, self._bound, self._reply_to = None, False, None
        for waiters in list(self._waiters.values()):
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_exception(BrokerUnavailable("the app was closed while a result was awaited"))
        if broker is not None:
            await broker.close()
        if store is not None:
            await store.close()

    # -- sending ----------------------------------------------------------------------------

    def offer(self, prepared: Prepared[Any], on_outcome: OnOutcome) -> tuple[Message, Mailbox] | None:
        """Send a message that needs nothing but the broker, if it can be done at once; None: it is for `send_in_steps`.

        `on_outcome` hears of it as from `Broker.offer`; after QueueMissing, too, `send_in_steps` is the way.
        """
        message = prepared.message
        bare = prepared.dedup is None and message.not_before is None and not self.settings.record_enqueue
        if not bare or not self._ready or self.dispatcher is None:
            return None
        reply_to = self._reply_to if prepared.task.definition.result else None
        if not self.dispatcher.offer(message, prepared.queue, reply_to, on_outcome):
            return None
        mailbox = Mailbox()
        if reply_to is not None:
            self._sent[message.id] = mailbox
        return message, mailbox

    async def send(self, prepared: Prepared[R]) -> tuple[Message, Mailbox]:
        """Send one message; return it once the broker has confirmed it."""
        outcome: asyncio.Future[TaskqError | None] = asyncio.get_running_loop().create_future()
        sent = self.offer(prepared, lambda error: None if outcome.done() else outcome.set_result(error))
        if sent is not None:
            error = await outcome
            if error is None:
                return sent
            if not isinstance(error, QueueMissing):
                raise error
        return await self.send_in_steps(prepared)

    async def send_in_steps(self, prepared: Prepared[R]) -> tuple[Message, Mailbox]:
        """The same where it may take more than a publish: a connection, a row in the store, a queue to be made."""
        if not self._ready:
            await self._within(self.broker(), "connecting to the broker")
        prepared = with_reply(prepared, self._reply_to, self.settings.record_enqueue)
        message = prepared.message
        mailbox = Mailbox()
        if message.reply_to is not None:
            self._sent[message.id] = mailbox
        if prepared.dedup is not None:
            message = await self._within(self._send_deduplicated(prepared), "sending a message")
            return message, mailbox
        if self.settings.record_enqueue:
            await self._within(self._record([message]), "recording a message")
        assert self.dispatcher is not None
        if message.not_before is None:
            # The broker bounds a publish by itself; only the mending of a missing queue can add to it.
            await self.dispatcher.send(message, prepared.queue)
        else:
            await self._send_delayed(prepared)
        return message, mailbox

    async def send_many(self, batch: Sequence[Prepared[Any]]) -> list[tuple[Message, Mailbox, TaskqError | None]]:
        """Send all, in order, with one wait for the confirms."""
        await self._within(self.broker(), "connecting to the broker")
        assert self.dispatcher is not None
        prepared = [with_reply(one, self._reply_to, self.settings.record_enqueue) for one in batch]
        mailboxes = [Mailbox() for _ in prepared]
        for one, mailbox in zip(prepared, mailboxes, strict=True):
            if one.message.reply_to is not None:
                self._sent[one.message.id] = mailbox
        if self.settings.record_enqueue:
            await self._within(self._record([one.message for one in prepared]), "recording messages")
        plain = [index for index, one in enumerate(prepared) if one.dedup is None]
        errors: list[TaskqError | None] = [None] * len(prepared)
        messages = [one.message for one in prepared]
        delayed = {one.queue.name: one.queue for one in prepared if one.message.not_before and limits(one.queue)}
        for queue in delayed.values():
            await self._within(self._ensure(queue), "making a queue")
        sent = await self.dispatcher.send_many([(prepared[i].message, prepared[i].queue) for i in plain])
        for index, error in zip(plain, sent, strict=True):
            errors[index] = error
        for index, one in enumerate(prepared):
            if one.dedup is not None:
                try:
                    messages[index] = await self._within(self._send_deduplicated(one), "sending a message")
                except TaskqError as error:
                    errors[index] = error
        return list(zip(messages, mailboxes, errors, strict=True))

    async def _send_delayed(self, prepared: Prepared[Any]) -> None:
        """By way of the waiting room; a queue with limits gets its row first, for the keeper knows only names."""
        assert self.dispatcher is not None
        if limits(prepared.queue):
            await self._within(self._ensure(prepared.queue), "making a queue")
        await self.dispatcher.send(prepared.message, prepared.queue)

    async def _ensure(self, queue: Queue) -> None:
        broker = await self.broker()
        if await broker.depth(task_queue(queue.name)) is None:
            await (await self.store()).ensure_queue(queue)

    async def _record(self, messages: Sequence[Message]) -> None:
        await (await self.store()).record(messages)

    async def _send_deduplicated(self, prepared: Prepared[Any]) -> Message:
        """Claim the id and store the publish in one transaction, then publish; repeat an unknown publish
        under the same id, marked. The keeper repeats it should this process die."""
        message, dedup = prepared.message, prepared.dedup
        assert dedup is not None and message.dedup_id is not None and self.dispatcher is not None
        store = await self.store()
        repair_at = await store.now() + timedelta(seconds=self.settings.publish_timeout + REPAIR_AFTER)
        row = outbox_row(replace(message, repeated=True), "enqueue", repair_at)
        replacing = dedup.on_duplicate == "replace"
        found = await store.deduplicate(message, window=dedup.window, replace=replacing, row=row)
        if found.displaced is not None:
            await self._tell_of_cancel(found.displaced, found.effect)
        if found.holder != message.id:
            if dedup.on_duplicate == "return_existing":
                return replace(message, id=found.holder)
            raise Duplicate(
                f"queue {message.queue!r} already has message {found.holder} with dedup_id {message.dedup_id!r}",
                queue=message.queue,
                dedup_id=message.dedup_id,
                message_id=found.holder,
            )
        if limits(prepared.queue):
            await store.ensure_queue(prepared.queue)
        await self.dispatcher.send(message, prepared.queue)
        await store.published([row.id])
        return message

    async def _within(self, work: Any, what: str) -> Any:
        try:
            async with asyncio.timeout(self.settings.publish_timeout):
                return await work
        except TimeoutError as error:
            raise BrokerUnavailable(
                f"{what} took longer than publish_timeout ({self.settings.publish_timeout:g} s): "
                "is the broker (or store) reachable and not blocked by an alarm?"
            ) from error

    # -- results ----------------------------------------------------------------------------

    async def wait(self, message_id: str, timeout: float | None, mailbox: Mailbox | None) -> Ending:
        """The ending of a message: by push when this process sent it, by looking into the store otherwise."""
        if mailbox is not None and mailbox.ending is not None:
            return mailbox.ending
        await self.broker()
        waiter: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self._waiters.setdefault(message_id, set()).add(waiter)
        look = asyncio.create_task(self._look(message_id, waiter, own=mailbox is not None and not mailbox.missed))
        try:
            async with asyncio.timeout(timeout):
                return await waiter
        except TimeoutError as error:
            raise ResultTimeout(f"no result of {message_id} within {timeout:g} s") from error
        finally:
            look.cancel()
            waiters = self._waiters.get(message_id)
            if waiters is not None:
                waiters.discard(waiter)
                if not waiters:
                    del self._waiters[message_id]

    async def _look(self, message_id: str, waiter: asyncio.Future[Ending], *, own: bool) -> None:
        pause = OWN_FIRST_LOOK if own else 0.0
        asked = own
        while not waiter.done():
            await self.clock.sleep(pause)
            try:
                ending = ending_of(await (await self.store()).get(message_id))
            except (StoreUnavailable, BrokerUnavailable) as error:
                logger.warning("looking for the result of %s: %s", message_id, error)
                ending = None
            except Exception as error:
                if not waiter.done():
                    waiter.set_exception(error)
                return
            if ending is not None and not waiter.done():
                waiter.set_result(ending)
            if asked:
                pause = OWN_LOOK_EVERY if own else FOREIGN_LOOK_EVERY
            elif not waiter.done():
                # Whoever runs it is to tell this process too; what ended before they hear of it, the next look finds.
                (await self.broker()).broadcast(control({"want": message_id, "reply": self._reply_to}))
                asked, pause = True, FOREIGN_SECOND_LOOK

    def _on_replies(self, body: bytes) -> None:
        for message_id, status, result, result_type, failure in msgpack.unpackb(body):
            ending = Ending(Status(status), result, result_type, Failure(*failure) if failure else None)
            mailbox = self._sent.get(message_id)
            if mailbox is not None:
                mailbox.ending = ending
            for waiter in self._waiters.get(message_id, ()):
                if not waiter.done():
                    waiter.set_result(ending)

    def _on_reply_queue(self, name: str) -> None:
        """Replies of the meantime are lost: whoever waits looks into the store now."""
        self._reply_to = name
        for mailbox in self._sent.values():
            mailbox.missed = True
        for message_id, waiters in self._waiters.items():
            for waiter in waiters:
                task = asyncio.create_task(self._look(message_id, waiter, own=False))
                waiter.add_done_callback(lambda _, task=task: task.cancel())  # type: ignore[misc]

    # -- asking -----------------------------------------------------------------------------

    async def record(self, message_id: str) -> MessageRecord | None:
        """What the store knows of a message."""
        return await (await self.store()).get(message_id)

    async def status(self, message_id: str, mailbox: Mailbox | None) -> Status:
        """Where a message is."""
        if mailbox is not None and mailbox.ending is not None:
            return mailbox.ending.status
        record = await self.record(message_id)
        return Status.UNKNOWN if record is None else record.status

    async def cancel(self, message_id: str) -> CancelEffect:
        """Store the wish, then tell the workers."""
        effect = await (await self.store()).cancel(message_id)
        await self._tell_of_cancel(message_id, effect)
        return effect

    async def cancel_many(self, message_ids: Sequence[str]) -> list[CancelEffect]:
        """The same for each; they are stored together."""
        effects = await (await self.store()).cancel_many(message_ids)
        for message_id, effect in zip(message_ids, effects, strict=True):
            await self._tell_of_cancel(message_id, effect)
        return effects

    async def _tell_of_cancel(self, message_id: str, effect: CancelEffect) -> None:
        from taskq.store.base import CancelEffect  # here: most producers need no store

        if effect is not CancelEffect.FINISHED:
            (await self.broker()).broadcast(control({"cancel": message_id}))
        if effect is CancelEffect.DONE:
            self._on_replies(msgpack.packb([reply(message_id, Ending(Status.CANCELLED))]))


def ending_of(record: MessageRecord | None) -> Ending | None:
    """The ending that a row tells of, if it does."""
    if record is None or not record.status.final:
        return None
    return Ending(record.status, record.result, record.result_type, record.failure)


def reply(message_id: str, ending: Ending) -> list[Any]:
    """One entry of a reply body, which is a list of them: replies of one group travel together."""
    failure = ending.failure
    return [
        message_id,
        ending.status.value,
        ending.result,
        ending.result_type,
        [failure.type, failure.message, failure.traceback] if failure else None,
    ]
