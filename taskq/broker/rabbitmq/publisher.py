"""Publishing: confirms, returns and one deadline for each call, on a channel that is kept open.

A message costs one entry in a map: frames from a template, one write a turn of the loop for all that
were published in it, and no lock, timer or task of its own.

The first message of a channel for a queue goes ahead alone, and the others for this queue follow once the broker has
taken it. For a quorum queue refuses what comes while another process is still declaring it, or while it has no leader:
the first message is then sent again over a new channel, and none has overtaken it.

Source: RabbitMQ documentation, "Consumer Acknowledgements and Publisher Confirms".
"""

from __future__ import annotations

import asyncio
import enum
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

import aiormq
from aiormq.abc import AbstractChannel

from taskq.broker.base import BrokerQueue, Kind, Outgoing
from taskq.broker.rabbitmq import frames
from taskq.broker.rabbitmq.connection import Connection, Link, keep
from taskq.broker.topology import Names
from taskq.errors import AccessRefused, BrokerUnavailable, PublishUnconfirmed, QueueMissing, TaskqError
from taskq.queue import MAX_PRIORITY

log = logging.getLogger("taskq.broker")
_RETRY_PAUSE = 0.2  # seconds between attempts to open a channel on a connection that stands
_FIRST_RENEWAL, _MOST_RENEWAL = 0.1, 2.0  # seconds from a refusal to a new channel, doubled while it goes on
_REFUSED_FOR = 3.0  # seconds for which a message that a queue refuses at first is sent again: an election's time
_TURN = 64  # messages of one call that are written in one turn of the loop
_DRAIN = 1.0  # seconds that a channel to be replaced gets for the confirms that are under way
_NOT_FOUND, _ACCESS_REFUSED = 404, 403

_First = tuple[Outgoing, "Batch", int]
_Opener = Callable[[Connection], Awaitable[object]]


class Refused(PublishUnconfirmed):
    """The broker refused the message with a nack: the queue is full (`x-overflow=reject-publish`) or has no leader."""

    def __init__(self) -> None:
        super().__init__("the broker refused the message: the queue is full, or its leader is down")


class _Open(enum.Enum):
    """How far a message has come that has no outcome yet."""

    HELD = enum.auto()  # not sent yet
    SENT = enum.auto()
    REFUSED = enum.auto()  # to be sent again


class Batch:
    """The messages of one publish call: their outcomes, and who is told once all have theirs."""

    __slots__ = ("begun", "deadline", "ended", "left", "missing", "outcomes")

    def __init__(self, begun: float, timeout: float, ended: Callable[[Batch], None]) -> None:
        self.outcomes: list[TaskqError | None | _Open] = []
        self.missing: dict[str, QueueMissing] = {}  # by the queue's name on the broker
        self.left = 1  # who adds to it, until it is complete
        self.begun = begun
        self.deadline = begun + timeout
        self.ended = ended

    def add(self) -> int:
        """One message more: its index."""
        self.left += 1
        self.outcomes.append(_Open.HELD)
        return len(self.outcomes) - 1

    def complete(self) -> None:
        """No message will be added."""
        self._count_down()

    def hold_back(self, error: TaskqError) -> None:
        """What was not sent will not be, for this reason."""
        for index, outcome in enumerate(self.outcomes):
            if outcome is _Open.HELD:
                self.settle(index, error)

    def miss(self, index: int, queue: str) -> None:
        """One message came back, for there is no such queue."""
        self.missing[queue] = error = QueueMissing(
            f"queue {queue} does not exist: the message was returned and is not on the broker"
        )
        self.settle(index, error)

    def results(self) -> list[TaskqError | None]:
        """For each message None or its error."""
        return [None if isinstance(outcome, _Open) else outcome for outcome in self.outcomes]

    def may_be_repeated(self, index: int, now: float) -> bool:
        """Whether a message that was refused is to be sent again."""
        return isinstance(self.outcomes[index], _Open) and now < min(self.deadline, self.begun + _REFUSED_FOR)

    def settle(self, index: int, error: TaskqError | None) -> None:
        """One message has its outcome; a second one is ignored."""
        if not isinstance(self.outcomes[index], _Open):
            return
        self.outcomes[index] = error
        self._count_down()

    def _count_down(self) -> None:
        self.left -= 1
        if not self.left:
            self.ended(self)

    def expire(self) -> None:
        """The deadline has passed: what was sent is unconfirmed or refused. Who holds a message sees to it."""
        for index, outcome in enumerate(self.outcomes):
            if outcome is _Open.SENT:
                within = f"{self.deadline - self.begun:g} s"
                self.settle(index, PublishUnconfirmed(f"the broker did not confirm within {within}: it may arrive"))
            elif outcome is _Open.REFUSED:
                self.settle(index, Refused())


@dataclass(slots=True)
class _Route:
    """Where messages of one queue go: the publish frame on this channel, and names for errors."""

    method: bytes
    exchange: str
    queue: str
    slot: bool
    open: bool = False  # the broker has taken a message on it, or is not waited for
    first: _First | None = None  # the one that is sent alone
    answered: asyncio.Future[None] | None = None  # set while others are held behind the first

    def let_go(self) -> None:
        """What is held need not wait for the first any more."""
        if self.answered is not None:
            self.answered.set_result(None)
            self.first = self.answered = None


class ConfirmChannel:
    """The channel in confirm mode, and what on it has no outcome yet."""

    def __init__(self, connection: Connection, amqp: AbstractChannel, names: Names) -> None:
        self.connection = connection
        self.amqp = amqp
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.refused: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._idle: asyncio.Future[str] | None = None  # of one that is retired: nothing is pending
        self._names = names
        self.refusals: list[_First] = []  # to be sent again, over the next channel
        self._routes: dict[BrokerQueue, _Route] = {}
        self._content_types: dict[str, bytes] = {}
        self._sequence = 0
        self._lowest = 1  # no message below this number is pending
        self._pending: dict[int, tuple[Batch, int, _Route]] = {}
        self._returned: list[bytes] = []  # the content header of a return, once it has come
        self._return_left = 0

    def route(self, queue: BrokerQueue) -> _Route:
        """Where messages for this queue go on this channel. While its `answered` is pending they are to be held."""
        return self._routes.get(queue) or self._new_route(queue)

    def publish(self, route: _Route, message: Outgoing, batch: Batch, index: int) -> None:
        """Write the message at the end of this turn of the loop; its outcome goes to the batch."""
        content_type = self._content_types.get(message.content_type)
        if content_type is None:
            content_type = self._content_types[message.content_type] = frames.short(message.content_type)
        self._sequence = sequence = self._sequence + 1
        self._pending[sequence] = (batch, index, route)
        number = self.amqp.number
        # From 4.3 on every quorum queue obeys priorities, which would break the order of those that must not.
        priority = min(max(message.priority, 0), MAX_PRIORITY) if message.to.priorities else 0
        header = frames.content_header(
            number, len(message.body), content_type, priority, str(sequence), message.message_id
        )
        body = frames.body_frames(number, message.body, self.connection.frame_max)
        self.connection.write(route.method + header + body)
        batch.outcomes[index] = _Open.SENT
        if not route.open:
            route.first = (message, batch, index)
            route.answered = asyncio.get_running_loop().create_future()

    def _new_route(self, queue: BrokerQueue) -> _Route:
        exchange, key = self._names.route(queue)
        method = frames.publish_method(self.amqp.number, exchange, key, mandatory=True)
        slot = queue.kind is Kind.SLOT
        route = self._routes[queue] = _Route(method, exchange, self._names.queue(queue), slot, open=slot)
        return route

    def method(self, method_id: int, payload: bytes) -> bool:
        if method_id == frames.BASIC_ACK:
            self._confirmed(payload, None)
            return True
        if method_id == frames.BASIC_NACK:
            self._confirmed(payload, Refused())
            return True
        if method_id == frames.BASIC_RETURN:
            self._returned.clear()
            return True
        if method_id == frames.CHANNEL_CLOSE:
            self._closed(*frames.read_close(payload))
        return False

    def content(self, kind: int, payload: bytes) -> None:
        """The content of a return: the message comes back whole; its correlation id tells which it was."""
        if kind == frames.HEADER:
            self._returned.append(payload)
            self._return_left = frames.read_content_header(payload)
        else:
            self._return_left -= len(payload)
        if self._return_left <= 0 and self._returned:
            self._settle_return(self._returned.pop())

    def gone(self) -> None:
        self._end(f"connection lost ({self.connection.lost.result()})")

    async def retire(self) -> None:
        """Close the channel, once what is under way on it has its outcome, or a second later."""
        if self._pending:
            self._idle = asyncio.get_running_loop().create_future()
            await asyncio.wait({self._idle, self.lost}, timeout=_DRAIN, return_when=asyncio.FIRST_COMPLETED)
        self._end("the channel was replaced")
        self.connection.leave_channel(self.amqp)

    def _confirmed(self, payload: bytes, error: Refused | None) -> None:
        tag, multiple = frames.read_confirm(payload)
        if not multiple:
            self._settle(tag, error)
            return
        for each in range(self._lowest, tag + 1):
            self._settle(each, error)
        self._lowest = max(self._lowest, tag + 1)

    def _settle(self, tag: int, error: Refused | None) -> None:
        entry = self._pending.pop(tag, None)
        if entry is not None:
            batch, index, route = entry
            if route.open:
                batch.settle(index, error)
            else:
                self._settle_first(route, error)
            # A slot has its token already, usually; that says nothing of the channel.
            if error is not None and not route.slot and not self.refused.done():
                self.refused.set_result("")
            if self._idle is not None and not self._pending and not self._idle.done():
                self._idle.set_result("")

    def _settle_first(self, route: _Route, error: Refused | None) -> None:
        assert route.first is not None
        message, batch, index = route.first
        if error is not None and batch.may_be_repeated(index, asyncio.get_running_loop().time()):
            batch.outcomes[index] = _Open.REFUSED
            self.refusals.append((message, batch, index))
            return  # what is held waits for the next channel, where this one goes first again
        route.open = True
        route.let_go()
        batch.settle(index, error)

    def _settle_return(self, header: bytes) -> None:
        correlation = frames.correlation_of(header)
        entry = self._pending.pop(int(correlation), None) if correlation and correlation.isdigit() else None
        if entry is not None:
            batch, index, route = entry
            route.let_go()
            batch.miss(index, route.queue)

    def _closed(self, code: int, text: str) -> None:
        """The broker closed the channel. A missing exchange does that: whatever was for it, is nowhere."""
        for tag, (batch, index, route) in list(self._pending.items()):
            if code == _NOT_FOUND and f"'{route.exchange}'" in text:
                del self._pending[tag]
                batch.miss(index, route.queue)
            elif code == _ACCESS_REFUSED and f"'{route.exchange}'" in text:
                del self._pending[tag]
                batch.settle(index, AccessRefused(f"the broker refuses publishing to {route.exchange}: {text}"))
        self._end(f"channel closed by the broker: {code} {text}")

    def _end(self, reason: str) -> None:
        if self.lost.done():
            return
        self.lost.set_result(reason)
        for batch, index, _ in self._pending.values():
            batch.settle(index, PublishUnconfirmed(f"{reason} before the broker confirmed: it may arrive"))
        self._pending.clear()
        for route in self._routes.values():
            route.let_go()


class LooseChannel:
    """The channel for what needs no confirm: replies and broadcasts."""

    def __init__(self, connection: Connection, amqp: AbstractChannel) -> None:
        self.connection = connection
        self.amqp = amqp
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def send(self, exchange: str, routing_key: str, body: bytes) -> None:
        """Write a transient message."""
        number = self.amqp.number
        self.connection.write(
            frames.publish_method(number, exchange, routing_key, mandatory=False)
            + frames.bare_header(number, len(body))
            + frames.body_frames(number, body, self.connection.frame_max)
        )

    def method(self, method_id: int, payload: bytes) -> bool:
        if method_id == frames.CHANNEL_CLOSE and not self.lost.done():
            code, text = frames.read_close(payload)
            self.lost.set_result(f"{code} {text}")
        return False

    def content(self, kind: int, payload: bytes) -> None:
        """Nothing is delivered or returned here."""

    def gone(self) -> None:
        if not self.lost.done():
            self.lost.set_result("connection lost")


class Publisher:
    """Publishes on the link's connection, whichever it is."""

    def __init__(self, link: Link, names: Names, *, publish_timeout: float, on_missing: Callable[[str], None]) -> None:
        self._link = link
        self._names = names
        self._on_missing = on_missing
        self._timeout = publish_timeout
        self._channel: ConfirmChannel | None = None
        self._loose: LooseChannel | None = None
        self._ready = asyncio.Event()
        self._repeated: list[_First] = []  # refused by a channel that is gone
        self._batches: deque[Batch] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        """Open both channels on the connection that stands now, and keep them from then on."""
        connection = await self._link.standing(self._timeout)
        await self._open_confirms(connection)
        await self._open_loose(connection)
        self._tasks = [
            keep(self._keep_confirms(), "taskq publishing channel"),
            keep(self._keep_loose(), "taskq replying channel"),
        ]

    async def close(self) -> None:
        """End it; what is unconfirmed by now is told so."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._tasks = []
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for _, batch, index in (*self._repeated, *(self._channel.refusals if self._channel is not None else ())):
            batch.settle(index, Refused())

    @property
    def blocked(self) -> str:
        """Why the broker refuses publishes, "" if it does not."""
        connection = self._link.connection
        return connection.splitter.blocked if connection is not None else ""

    async def publish_many(self, messages: Iterable[Outgoing]) -> list[TaskqError | None]:
        """As `Broker.publish_many`."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        batch = self._batch(loop, lambda _: None if done.done() else done.set_result(None))
        left = iter(messages)
        try:
            held = await self._write(((batch.add(), message) for message in left), batch)
            while held:
                await self._answer(held[0][1].to, batch.deadline)
                held = await self._write(held, batch)
        except BrokerUnavailable as error:
            for _ in left:
                batch.add()
            batch.hold_back(error)
        batch.complete()
        await done
        return self._results(batch)

    def _results(self, batch: Batch) -> list[TaskqError | None]:
        for queue in batch.missing:
            self._on_missing(queue)
        return batch.results()

    async def _write(self, messages: Iterable[tuple[int, Outgoing]], batch: Batch) -> list[tuple[int, Outgoing]]:
        """Write them in their order, but for those that are to be held, which it gives.

        Raises:
            BrokerUnavailable: not all until the deadline.
        """
        held: list[tuple[int, Outgoing]] = []
        behind: set[BrokerQueue] = set()
        for index, message in messages:
            if index % _TURN == _TURN - 1:  # the broker begins with these while the others are encoded
                await asyncio.sleep(0)
                if asyncio.get_running_loop().time() >= batch.deadline:
                    raise self._unsent("those before it in the same call took as long")
            channel = self._writable() or await self._usable(batch.deadline)
            route = channel.route(message.to)
            if batch.missing and route.queue in batch.missing:  # even if it is there by now: it would overtake those
                batch.settle(index, batch.missing[route.queue])
            elif route.answered is not None or (behind and message.to in behind):
                held.append((index, message))
                behind.add(message.to)
            else:
                channel.publish(route, message, batch, index)
        return held

    async def _answer(self, queue: BrokerQueue, deadline: float) -> None:
        """Return once messages for this queue need not be held any more.

        Raises:
            BrokerUnavailable: not until the deadline.
        """
        channel = await self._usable(deadline)
        answered = channel.route(queue).answered
        if answered is not None:
            await asyncio.wait({answered}, timeout=max(0.0, deadline - asyncio.get_running_loop().time()))
            if not answered.done():
                raise self._unsent("an earlier message for the same queue has no answer yet")

    def offer(self, message: Outgoing, ended: Callable[[TaskqError | None], None]) -> bool:
        """As `Broker.offer`."""
        channel = self._writable()
        if channel is None:
            return False
        route = channel.route(message.to)
        if route.answered is not None:
            return False
        batch = self._batch(asyncio.get_running_loop(), lambda batch: ended(self._results(batch)[0]))
        channel.publish(route, message, batch, batch.add())
        batch.complete()
        return True

    def _writable(self) -> ConfirmChannel | None:
        """The channel, if messages can be written to it now."""
        channel = self._channel
        if channel is None or channel.lost.done() or not self._ready.is_set() or channel.connection.congested:
            return None
        return channel

    def send(self, exchange: str, routing_key: str, body: bytes) -> None:
        """Unconfirmed; lost while there is no connection, or while an alarm blocks it."""
        loose = self._loose
        if loose is not None and not loose.lost.done() and not loose.connection.splitter.blocked:
            loose.send(exchange, routing_key, body)

    async def _usable(self, deadline: float) -> ConfirmChannel:
        """The channel, once messages can be written to it.

        Raises:
            BrokerUnavailable: not until the deadline.
        """
        try:
            async with asyncio.timeout_at(deadline):
                while True:
                    channel = self._channel
                    if channel is None or channel.lost.done() or not self._ready.is_set():
                        await self._ready.wait()
                        if self._channel is channel:  # lost in this turn; its keeper has yet to run
                            await asyncio.sleep(0)
                    elif channel.connection.congested:
                        await channel.connection.drained()
                    else:
                        return channel
        except TimeoutError:
            blocked = self.blocked
            why = f"it blocks publishing ({blocked})" if blocked else "there is no connection to it"
            raise self._unsent(why) from None

    def _unsent(self, why: str) -> BrokerUnavailable:
        return BrokerUnavailable(
            f"the broker did not take the message within {self._timeout} s, it was not sent: {why}"
        )

    # -- deadlines: calls begin in the order of their deadlines, so one timer serves all ---------

    def _batch(self, loop: asyncio.AbstractEventLoop, ended: Callable[[Batch], None]) -> Batch:
        batch = Batch(loop.time(), self._timeout, ended)
        while self._batches and not self._batches[0].left:
            self._batches.popleft()
        self._batches.append(batch)
        if self._timer is None:
            self._timer = loop.call_at(batch.deadline, self._expire, loop)
        return batch

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now = loop.time()
        while self._batches:
            batch = self._batches[0]
            if batch.left:
                if batch.deadline > now:
                    self._timer = loop.call_at(batch.deadline, self._expire, loop)
                    return
                batch.expire()
            self._batches.popleft()

    # -- channels ---------------------------------------------------------------------------

    async def _open_confirms(self, connection: Connection) -> ConfirmChannel:
        amqp = await connection.channel(confirms=True, within=self._timeout)
        channel = ConfirmChannel(connection, amqp, self._names)
        connection.take_over(amqp, channel)
        connection.splitter.on_blocked = self._on_blocked
        self._channel = channel
        repeated, self._repeated = self._repeated, []
        for message, batch, index in repeated:
            if batch.may_be_repeated(index, asyncio.get_running_loop().time()):
                channel.publish(channel.route(message.to), message, batch, index)
            else:
                batch.settle(index, Refused())
        self._on_blocked(connection.splitter.blocked)
        return channel

    async def _open_loose(self, connection: Connection) -> LooseChannel:
        amqp = await connection.channel(within=self._timeout)
        loose = self._loose = LooseChannel(connection, amqp)
        connection.take_over(amqp, loose)
        return loose

    def _on_blocked(self, reason: str) -> None:
        if reason:
            self._ready.clear()
            log.warning("the broker blocks publishing: %s", reason)
        elif self._channel is not None and not self._channel.lost.done():
            self._ready.set()

    async def _keep_confirms(self) -> None:
        pause, renewed = _FIRST_RENEWAL, 0.0
        loop = asyncio.get_running_loop()
        while True:
            channel = self._channel
            assert channel is not None
            await asyncio.wait({channel.lost, channel.refused}, return_when=asyncio.FIRST_COMPLETED)
            if not channel.lost.done():
                # Seen on 3.10: a channel that came to a quorum queue between the death of its leader's node and the
                # election of the next asks the dead node for ever, and refuses whatever is for that queue. Another
                # channel finds the new leader.
                pause = min(2 * pause, _MOST_RENEWAL) if loop.time() - renewed < 2 * pause else _FIRST_RENEWAL
                await asyncio.wait({channel.lost}, timeout=pause)
                self._ready.clear()
                await channel.retire()
                renewed = loop.time()
            self._ready.clear()
            self._repeated += channel.refusals
            await self._again(self._open_confirms)

    async def _keep_loose(self) -> None:
        while True:
            assert self._loose is not None
            await asyncio.wait({self._loose.lost})
            await self._again(self._open_loose)

    async def _again(self, open_channel: _Opener) -> None:
        while True:
            connection = await self._link.standing()
            try:
                await open_channel(connection)
                return
            except (BrokerUnavailable, aiormq.AMQPError) as error:
                log.debug("opening a publishing channel: %s", error)
                await asyncio.sleep(_RETRY_PAUSE)
