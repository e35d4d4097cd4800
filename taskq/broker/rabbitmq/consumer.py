"""Consuming: deliveries handed over inline as their frames arrive, acknowledgements coalesced.

A subscription has a channel of its own and makes it again after every loss: of the connection, of
the channel, and of the consumer alone, when the broker sends a cancel.
"""

from __future__ import annotations

import asyncio
import enum
import itertools
import logging
from collections.abc import Awaitable, Callable, Mapping
from random import Random
from typing import Any

import aiormq
from aiormq.abc import AbstractChannel

from taskq.broker.base import BrokerQueue, Loss, OnDelivery, OnLoss
from taskq.broker.rabbitmq import frames
from taskq.broker.rabbitmq.connection import Acknowledger, Connection, Link, Unanswered, keep
from taskq.clock import Clock
from taskq.errors import BrokerUnavailable, InvalidQueue, QueueMismatch, QueueMissing, TaskqError

log = logging.getLogger("taskq.broker")
_FIRST_PAUSE = 0.05  # seconds
_MOST_PAUSE = 5.0  # seconds
_CANCEL_PAUSES = (0.05, 0.15, 0.3)  # seconds between looks at a queue whose consumer was cancelled


class Ending(enum.Enum):
    """How a channel was lost."""

    GONE = "the channel or its connection went"
    CANCELLED = "the broker cancelled the consumer"


class RabbitMQDelivery:
    """A message in hand."""

    __slots__ = ("_channel", "_open", "_properties", "_tag", "body", "redelivered")

    def __init__(
        self, channel: ConsumerChannel, tag: int, redelivered: bool, properties: frames.Properties, body: bytes
    ) -> None:
        self._channel = channel
        self._tag = tag
        self._properties = properties
        self._open = True
        self.redelivered = redelivered
        self.body = body

    @property
    def content_type(self) -> str | None:
        return self._properties.content_type

    @property
    def message_id(self) -> str | None:
        return self._properties.message_id

    @property
    def headers(self) -> Mapping[str, Any]:
        return self._properties.headers

    @property
    def valid(self) -> bool:
        return self._channel.alive

    def acknowledge(self) -> None:
        # A second acknowledgement of one delivery would make the broker close the channel.
        if self._open and self._channel.alive:
            self._open = False
            self._channel.acknowledge(self._tag)

    def give_back(self) -> None:
        if self._open and self._channel.alive:
            self._open = False
            self._channel.give_back(self._tag)


class ConsumerChannel(Acknowledger):
    """One channel with one consumer: reads its deliveries, writes its acknowledgements."""

    def __init__(self, connection: Connection, amqp: AbstractChannel, on_delivery: OnDelivery, name: str) -> None:
        self.connection = connection
        self.amqp = amqp
        self.alive = True
        self.consuming = False
        self.lost: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self._on_delivery = on_delivery
        self._name = name
        self._tag = 0
        self._redelivered = False
        self._properties: frames.Properties | None = None
        self._left = 0
        self._body: list[bytes] = []
        self._held: list[RabbitMQDelivery] | None = []
        self._next = 1  # every delivery below this tag is settled
        self._acknowledged: list[int] = []
        self._given_back: list[int] = []
        self._settled: set[int] = set()  # tags above `_next` that are settled
        self._prefetch = 0
        self._ahead = False
        self._marked = False

    # -- reading ----------------------------------------------------------------------------

    def method(self, method_id: int, payload: bytes) -> bool:
        if method_id == frames.BASIC_DELIVER:
            self._tag, self._redelivered = frames.read_deliver(payload)
            return True
        if method_id == frames.BASIC_CANCEL:
            self._end(Ending.CANCELLED)
        elif method_id == frames.CHANNEL_CLOSE:
            level = logging.WARNING if self.alive else logging.DEBUG
            log.log(level, "the broker closed the channel of %s: %s %s", self._name, *frames.read_close(payload))
            self._end(Ending.GONE)
        return False

    def content(self, kind: int, payload: bytes) -> None:
        if kind == frames.HEADER:
            self._properties = frames.Properties(payload)
            self._left = frames.read_content_header(payload)
            self._body.clear()
        else:
            self._body.append(payload)
            self._left -= len(payload)
        if self._left <= 0 and self._properties is not None:
            body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
            self._body.clear()
            delivery = RabbitMQDelivery(self, self._tag, self._redelivered, self._properties, body)
            self._properties = None
            self._hand(delivery)

    def gone(self) -> None:
        self._end(Ending.GONE)

    def release(self) -> None:
        """Hand over what came while the subscription was not yet in its owner's hands, and all from then on."""
        held, self._held = self._held or [], None
        for delivery in held:
            self._hand(delivery)

    def _hand(self, delivery: RabbitMQDelivery) -> None:
        if not self.alive:
            return
        if self._held is not None:
            self._held.append(delivery)
            return
        try:
            self._on_delivery(delivery)
        except Exception:
            log.exception("a consumer of %s failed on a delivery; it stays unacknowledged", self._name)

    def _end(self, ending: Ending) -> None:
        self.alive = False
        self.consuming = False
        if not self.lost.done():
            self.lost.set_result(ending)

    # -- acknowledgements -------------------------------------------------------------------

    def acknowledge(self, tag: int) -> None:
        """Soon: at the end of this turn of the loop, where nothing might be left to do here before it."""
        self._acknowledged.append(tag)
        self._mark()
        full = not self._ahead and self._unsettled() * 2 >= self._prefetch
        if full or len(self._acknowledged) * 4 >= self._prefetch:
            self.connection.flush_soon()

    def give_back(self, tag: int) -> None:
        """At the end of this turn of the loop."""
        self._given_back.append(tag)
        self._mark()
        self.connection.flush_soon()

    def _mark(self) -> None:
        if not self._marked:
            self._marked = True
            self.connection.write_acknowledgements_of(self)

    def _unsettled(self) -> int:
        """What the broker takes for being in hand."""
        return self._tag + 1 - self._next - len(self._settled)

    def acknowledgements(self) -> bytes:
        """One multiple acknowledgement for all that are next in order, single ones for the rest.

        Frames on a channel that the broker closed would cost the whole connection: none are made then.
        The tag of a multiple one must itself be unsettled: the broker closes the channel otherwise.
        """
        self._marked = False
        if not self.alive:
            return b""
        number = self.amqp.number
        parts = [frames.nack_requeue(number, tag) for tag in self._given_back]
        self._settled.update(self._given_back)
        self._given_back.clear()
        fresh = set(self._acknowledged)
        self._acknowledged.clear()
        last_fresh, upto = 0, self._next
        while True:
            if upto in fresh:
                fresh.discard(upto)
                last_fresh = upto
            elif upto in self._settled:
                self._settled.discard(upto)
            else:
                break
            upto += 1
        self._next = upto
        if last_fresh:
            parts.append(frames.ack(number, last_fresh, multiple=True))
        for tag in sorted(fresh):
            parts.append(frames.ack(number, tag, multiple=False))
        self._settled.update(fresh)
        return b"".join(parts)

    # -- the consumer ----------------------------------------------------------------------

    async def consume(
        self, queue: str, prefetch: int, within: float, *, ahead: bool = False, no_ack: bool = False
    ) -> str:
        """Start the consumer; its tag."""
        self._prefetch, self._ahead = prefetch, ahead
        if not no_ack:
            await self.connection.call(self.amqp.basic_qos(prefetch_count=prefetch), within=within)
        work = self.amqp.basic_consume(queue, _not_reached, no_ack=no_ack)
        tag = (await self.connection.call(work, within=within)).consumer_tag
        self.consuming = self.alive
        return str(tag)

    async def cancel(self, tag: str, within: float) -> None:
        """Stop the consumer; what is in hand stays valid."""
        self.consuming = False
        await self.connection.call(self.amqp.basic_cancel(tag), within=within)

    async def hand_over(self, queue: str, within: float) -> None:
        """Flush the acknowledgements, wait for the queue to have them, close the channel. Never raises for a lost one.

        The round trip asks the queue itself: on 3.10 acknowledgements sent just before a close were undone.
        """
        if self.alive:
            self.connection.flush()
            self._held = []  # from here on nothing more is handed out
            self.alive = False
            try:
                await self.connection.call(self.amqp.queue_declare(queue, passive=True), within=within)
            except (BrokerUnavailable, aiormq.AMQPError) as error:
                log.debug("flushing the acknowledgements of %s: %s", self._name, error)
        await self.discard()

    async def discard(self) -> None:
        """Close the channel as it is."""
        self._end(Ending.GONE)
        await self.connection.close_channel(self.amqp)


async def _not_reached(message: object) -> None:
    """aiormq wants a callback; its deliveries never come here, the splitter takes them."""


class RabbitMQSubscription:
    """A consumer that is made again after every loss until it is closed."""

    def __init__(
        self,
        queue: BrokerQueue,
        on_delivery: OnDelivery,
        on_loss: OnLoss | None,
        *,
        name: str,
        prefetch: int,
        redeclare: Callable[[bool], Awaitable[None]] | None,
        exists: Callable[[], Awaitable[bool]],
        ended: Callable[[RabbitMQSubscription, bool], None],
        answered: Callable[[bool], Awaitable[None]],
        link: Link,
        timeout: float,
        clock: Clock,
        rng: Random,
    ) -> None:
        self.queue = queue
        self.name = name
        self._on_delivery = on_delivery
        self._on_loss = on_loss
        self._prefetch = prefetch
        self._ahead = False
        self._redeclare = redeclare  # declares the queue; True: although it was declared before
        self._exists = exists
        self._ended = ended  # told whether the queue is gone
        self._answered = answered  # told whether the queue answered who wants to consume it, while the broker does
        self._link = link
        self._timeout = timeout
        self._clock = clock
        self._rng = rng
        self._channel: ConsumerChannel | None = None
        self._tag: str | None = None
        self._lock = asyncio.Lock()
        self._closed = False
        self._keeper: asyncio.Task[None] | None = None

    @property
    def active(self) -> bool:
        return self._channel is not None and self._channel.consuming

    @property
    def proven(self) -> bool:
        """It stands as it should: consuming, or stopped by `resize(0)`."""
        return self._channel is not None and self._channel.alive and (self._channel.consuming or self._prefetch == 0)

    async def open(self) -> None:
        """Consume for the first time; raises as `Broker.subscribe`."""
        await self._attach(suspect=False)
        self._keeper = keep(self._keep(), f"taskq consumer of {self.name}")

    async def resize(self, prefetch: int, *, ahead: bool = False) -> None:
        if self.queue.ordered:
            raise InvalidQueue(f"the prefetch of ordered queue {self.queue.name!r} cannot change: close and subscribe")
        async with self._lock:
            self._prefetch, self._ahead = prefetch, ahead
            channel = self._channel
            if channel is None or not channel.alive:
                return
            try:
                if self._tag is not None:
                    tag, self._tag = self._tag, None
                    await channel.cancel(tag, self._timeout)
                if prefetch:
                    self._tag = await channel.consume(self.name, prefetch, self._timeout, ahead=ahead)
            except (BrokerUnavailable, aiormq.AMQPError) as error:
                log.warning("changing the prefetch of %s: %s", self.name, error)
                await channel.discard()  # the keeper makes it again, with the new prefetch

    async def close(self) -> None:
        self._closed = True
        self._ended(self, False)
        keeper, self._keeper = self._keeper, None
        if keeper is not None and keeper is not asyncio.current_task():
            keeper.cancel()
            await asyncio.wait({keeper})
        async with self._lock:
            channel, self._channel = self._channel, None
            if channel is not None:
                await channel.hand_over(self.name, self._timeout)

    async def _keep(self) -> None:
        while True:
            assert self._channel is not None
            channel = self._channel
            await asyncio.wait({channel.lost})
            ending = channel.lost.result()
            if ending is Ending.CANCELLED:
                await channel.discard()
                if not await self._outlives_cancel() and self._redeclare is None:
                    self._end()
                    return
            self._tell(Loss.CONNECTION)
            if not await self._attach_again(suspect=ending is Ending.CANCELLED):
                self._end()
                return

    async def _outlives_cancel(self) -> bool:
        """Whether the queue is still there some time after the broker cancelled its consumer.

        The cancel of a deletion comes before its end: 4.0 answers a passive declaration for a while, and a
        consumer that comes too early makes 4.3 close the whole connection.
        """
        for pause in _CANCEL_PAUSES:
            await self._clock.sleep(pause)
            try:
                if not await self._exists():
                    return False
            except TaskqError as error:
                log.debug("whether %s still exists: %s", self.name, error)
                return True  # not known now; the next attempt to consume finds out
        return True

    async def _attach_again(self, *, suspect: bool) -> bool:
        """Until it stands; False: the queue is gone, and not to be declared again. `suspect`: it may be gone."""
        for attempt in itertools.count():
            await self._link.standing()
            try:
                async with self._lock:
                    await self._attach(suspect=suspect)
                return True
            except QueueMissing:
                return False
            except (TaskqError, aiormq.AMQPError) as error:
                level = logging.ERROR if isinstance(error, QueueMismatch) else logging.WARNING
                log.log(level, "consuming %s again: %s", self.name, error)
            most = min(_MOST_PAUSE, _FIRST_PAUSE * 2.0 ** min(attempt, 16))
            await self._clock.sleep(most * (0.5 + self._rng.random() / 2))
        raise AssertionError("unreachable")

    async def _attach(self, *, suspect: bool) -> None:
        if self._redeclare is not None:
            await self._redeclare(suspect)
        try:
            await self._consume()
        except QueueMissing:
            if self._redeclare is None:
                raise
            await self._redeclare(True)
            await self._consume()

    async def _consume(self) -> None:
        connection = await self._link.standing(self._timeout)
        amqp = await connection.channel(within=self._timeout)
        channel = ConsumerChannel(connection, amqp, self._on_delivery, self.name)
        connection.take_over(amqp, channel)
        try:
            if self._prefetch:
                self._tag = await channel.consume(self.name, self._prefetch, self._timeout, ahead=self._ahead)
        except aiormq.ChannelNotFoundEntity as error:
            await channel.discard()
            if is_missing_queue(error):
                raise QueueMissing(f"queue {self.name} does not exist") from error
            raise BrokerUnavailable(f"queue {self.name} cannot be consumed now: {error}") from error
        except aiormq.AMQPError as error:
            await channel.discard()
            raise BrokerUnavailable(f"queue {self.name} cannot be consumed: {error}") from error
        except BaseException as error:
            channel.gone()
            connection.leave_channel(amqp)
            if isinstance(error, Unanswered):
                await self._answered(False)
            raise
        await self._answered(True)
        self._channel = channel
        # In the next turn, so that whoever subscribes has the subscription before its first delivery.
        asyncio.get_running_loop().call_soon(channel.release)

    def _end(self) -> None:
        self._closed = True
        self._channel = None
        self._keeper = None
        self._ended(self, True)
        self._tell(Loss.DELETED)

    def _tell(self, loss: Loss) -> None:
        if self._on_loss is None:
            return
        try:
            self._on_loss(loss)
        except Exception:
            log.exception("on_loss of %s failed", self.name)


class Mailbox:
    """An exclusive, server-named queue of this process, made again under a new name after every loss."""

    def __init__(
        self,
        *,
        exchange: str | None,
        on_body: Callable[[bytes], None],
        on_restored: Callable[[str], None],
        link: Link,
        timeout: float,
        clock: Clock,
        rng: Random,
    ) -> None:
        self.name = ""
        self._exchange = exchange  # the fanout exchange that it hears; None: only what is sent to its name
        self._on_body = on_body
        self._on_restored = on_restored
        self._link = link
        self._timeout = timeout
        self._clock = clock
        self._rng = rng
        self._channel: ConsumerChannel | None = None
        self._keeper: asyncio.Task[None] | None = None

    @property
    def active(self) -> bool:
        return self._channel is not None and self._channel.consuming

    async def open(self) -> None:
        """Make it for the first time."""
        await self._attach()
        self._keeper = keep(self._keep(), f"taskq mailbox {self._exchange or 'for replies'}")

    async def close(self) -> None:
        """End it; the broker deletes the queue with its channel's connection."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait({self._keeper})
        if self._channel is not None:
            await self._channel.discard()

    async def _keep(self) -> None:
        while True:
            assert self._channel is not None
            await asyncio.wait({self._channel.lost})
            await self._channel.discard()
            await self._attach_again()
            try:
                self._on_restored(self.name)
            except Exception:
                log.exception("on_restored failed")

    async def _attach_again(self) -> None:
        for attempt in itertools.count():
            await self._link.standing()
            try:
                await self._attach()
                return
            except BrokerUnavailable as error:
                log.warning("hearing again: %s", error)
            most = min(_MOST_PAUSE, _FIRST_PAUSE * 2.0 ** min(attempt, 16))
            await self._clock.sleep(most * (0.5 + self._rng.random() / 2))

    async def _attach(self) -> None:
        connection = await self._link.standing(self._timeout)
        amqp = await connection.channel(within=self._timeout)
        channel = ConsumerChannel(
            connection, amqp, lambda delivery: self._on_body(delivery.body), self._exchange or "replies"
        )
        connection.take_over(amqp, channel)
        timeout = self._timeout
        try:
            declared = await connection.call(amqp.queue_declare("", exclusive=True), within=timeout)
            name = str(declared.queue)
            if self._exchange is not None:
                work = amqp.exchange_declare(self._exchange, exchange_type="fanout", durable=True)
                await connection.call(work, within=timeout)
                await connection.call(amqp.queue_bind(name, self._exchange, ""), within=timeout)
            await channel.consume(name, 0, timeout, no_ack=True)
        except aiormq.AMQPError as error:
            await channel.discard()
            raise BrokerUnavailable(f"the broker refuses a queue of this process's own: {error}") from error
        self.name = name
        self._channel = channel
        channel.release()


def is_missing_queue(error: aiormq.ChannelNotFoundEntity) -> bool:
    """The queue does not exist; a queue whose node is down answers 404 too."""
    return "no queue" in str(error)
