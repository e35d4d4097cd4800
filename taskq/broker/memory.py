"""The broker contract inside one process: what `taskq dev` and tests run on.

A real broker, not a mock: it stores bytes, keeps order, redelivers what is unacknowledged, stands
consumers in line, and can lose connections (`drop_connections`, `delete`). Brokers of one URL share
their state, whatever event loop or thread they live in, as clients of one server do. Nothing outlives the process.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import re
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from taskq.broker.base import (
    DEAD,
    WAITING,
    BrokerFacts,
    BrokerHealth,
    BrokerQueue,
    Depth,
    Kind,
    Loss,
    OnBody,
    OnDelivery,
    OnLoss,
    OnOutcome,
    Outgoing,
)
from taskq.broker.topology import TOKEN, Names
from taskq.clock import Clock
from taskq.errors import (
    BrokerUnavailable,
    InvalidQueue,
    InvalidSetting,
    QueueMismatch,
    QueueMissing,
    StoreMismatch,
    TaskqError,
)

log = logging.getLogger("taskq.broker")
_NO_HEADERS: Mapping[str, Any] = {}


@dataclass(slots=True)
class _Stored:
    """A message in a queue, comparable by its place: larger priority first, then in order of arrival."""

    rank: int
    position: int
    body: bytes
    content_type: str | None
    message_id: str | None
    redelivered: bool = False

    def __lt__(self, other: _Stored) -> bool:
        return (self.rank, self.position) < (other.rank, other.position)


@dataclass(eq=False, slots=True)
class _Queue:
    """A queue: what is ready, as a heap, and the line of its consumers."""

    spec: BrokerQueue
    name: str
    ready: list[_Stored] = field(default_factory=list)
    line: list[_Channel] = field(default_factory=list)
    turn: int = 0
    routed: bool = True

    @property
    def single_active(self) -> bool:
        return self.spec.ordered

    def next_consumer(self) -> _Channel | None:
        """Who gets the next message: the head of the line alone, or in turn whoever has room."""
        if self.single_active:
            return self.line[0] if self.line and self.line[0].has_room else None
        for step in range(len(self.line)):
            index = (self.turn + step) % len(self.line)
            if self.line[index].has_room:
                self.turn = index + 1
                return self.line[index]
        return None


@dataclass(slots=True)
class _Prefix:
    """What one prefix has: its store's id, and who listens."""

    store_id: str | None = None
    listeners: list[_Mailbox] = field(default_factory=list)


class _Server:
    """The state that all brokers of one URL share. Every method is called with `lock` held."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.queues: dict[str, _Queue] = {}
        self.prefixes: dict[str, _Prefix] = {}
        self.mailboxes: dict[str, _Mailbox] = {}
        self.positions = itertools.count()

    def put(self, queue: _Queue, body: bytes, content_type: str | None, message_id: str | None, priority: int) -> None:
        rank = -priority if queue.spec.priorities else 0
        heapq.heappush(queue.ready, _Stored(rank, next(self.positions), body, content_type, message_id))
        self.dispatch(queue)

    def give_back(self, queue: _Queue, messages: Iterable[_Stored]) -> None:
        for stored in messages:
            stored.redelivered = True
            heapq.heappush(queue.ready, stored)

    def dispatch(self, queue: _Queue) -> None:
        while queue.ready and (consumer := queue.next_consumer()) is not None:
            if not consumer.hand(heapq.heappop(queue.ready)):
                self.detach(consumer)

    def detach(self, channel: _Channel) -> None:
        """Take a consumer out of its line; what it held goes back to its place."""
        if not channel.alive:
            return
        channel.alive = False
        queue = channel.queue
        if channel in queue.line:
            queue.line.remove(channel)
        self.give_back(queue, channel.unacknowledged.values())
        channel.unacknowledged.clear()
        self.dispatch(queue)


_servers: dict[str, _Server] = {}
_servers_lock = threading.Lock()


def _server(name: str) -> _Server:
    with _servers_lock:
        return _servers.setdefault(name, _Server())


def forget(name: str = "") -> None:
    """Throw away the broker of that name with all it holds, as if its server had been wiped."""
    with _servers_lock:
        _servers.pop(name, None)


class _Channel:
    """One consumer: what it holds unacknowledged, and how deliveries reach its loop."""

    def __init__(
        self,
        server: _Server,
        queue: _Queue,
        *,
        prefetch: int,
        on_delivery: OnDelivery,
        on_cancel: Callable[[], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.server = server
        self.queue = queue
        self.prefetch = prefetch
        self.on_delivery = on_delivery
        self.on_cancel = on_cancel
        self.loop = loop
        self.alive = True
        self.unacknowledged: dict[int, _Stored] = {}
        self._tags = itertools.count(1)
        self._inbox: deque[MemoryDelivery] = deque()

    @property
    def has_room(self) -> bool:
        return self.alive and len(self.unacknowledged) < self.prefetch

    def stand(self, in_line: bool) -> None:
        """Join the end of the line, or leave it with what is in hand."""
        if in_line and self not in self.queue.line:
            self.queue.line.append(self)
        elif not in_line and self in self.queue.line:
            self.queue.line.remove(self)

    def hand(self, stored: _Stored) -> bool:
        """Deliver, from any thread; False when the consumer's loop has ended without a goodbye."""
        tag = next(self._tags)
        self.unacknowledged[tag] = stored
        self._inbox.append(MemoryDelivery(self, tag, stored))
        if len(self._inbox) == 1:
            try:
                self.loop.call_soon_threadsafe(self._drain)
            except RuntimeError:  # the loop is closed
                return False
        return True

    def _drain(self) -> None:
        while self._inbox:
            with self.server.lock:
                batch = list(self._inbox)
                self._inbox.clear()
            for delivery in batch:
                if not self.alive:
                    return
                try:
                    self.on_delivery(delivery)
                except Exception:
                    log.exception("a consumer of %s failed on a delivery; it stays unacknowledged", self.queue.name)

    def settle(self, tag: int, *, requeue: bool) -> None:
        with self.server.lock:
            stored = self.unacknowledged.pop(tag, None)
            if stored is None or not self.alive:
                return
            if requeue:
                self.server.give_back(self.queue, [stored])
            self.server.dispatch(self.queue)


class MemoryDelivery:
    """A message in hand."""

    __slots__ = ("_channel", "_tag", "body", "content_type", "headers", "message_id", "redelivered")

    def __init__(self, channel: _Channel, tag: int, stored: _Stored) -> None:
        self._channel = channel
        self._tag = tag
        self.body = stored.body
        self.content_type = stored.content_type
        self.message_id = stored.message_id
        self.redelivered = stored.redelivered
        self.headers = _NO_HEADERS

    @property
    def valid(self) -> bool:
        return self._channel.alive

    def acknowledge(self) -> None:
        self._channel.settle(self._tag, requeue=False)

    def give_back(self) -> None:
        self._channel.settle(self._tag, requeue=True)


class MemorySubscription:
    """A consumer, put back in line after every loss until it is closed."""

    def __init__(
        self,
        broker: MemoryBroker,
        queue: BrokerQueue,
        on_delivery: OnDelivery,
        on_loss: OnLoss | None,
        prefetch: int,
        redeclare: bool,
    ) -> None:
        self.queue = queue
        self._broker = broker
        self._on_delivery = on_delivery
        self._on_loss = on_loss
        self._prefetch = prefetch
        self._redeclare = redeclare
        self._closed = False
        self._channel: _Channel | None = None

    @property
    def active(self) -> bool:
        return self._channel is not None and self._channel.alive and self._prefetch > 0

    @property
    def proven(self) -> bool:
        """It stands as it should: in line, or stopped by `resize(0)`."""
        return self._channel is not None and self._channel.alive

    def attach(self) -> None:
        """Stand at the end of the line.

        Raises:
            QueueMissing, QueueMismatch: as `Broker.subscribe`.
        """
        server = self._broker.server
        with server.lock:
            if self._redeclare:
                self._broker.declare_now(self.queue)
            stored = server.queues.get(self._broker.names.queue(self.queue))
            if stored is None:
                raise QueueMissing(f"queue {self._broker.names.queue(self.queue)} does not exist")
            loop = asyncio.get_running_loop()
            self._channel = _Channel(
                server,
                stored,
                prefetch=self._prefetch,
                on_delivery=self._on_delivery,
                on_cancel=self.lost,
                loop=loop,
            )
            self._channel.stand(self._prefetch > 0)
            server.dispatch(stored)

    def lost(self) -> None:
        """The channel went: tell the owner, and stand in line again."""
        if self._closed or self.proven:
            return  # told of one loss twice: it stands in line again already
        missing = self._broker.names.queue(self.queue) not in self._broker.server.queues
        if missing and not self._redeclare:
            self._end()
            return
        self._tell(Loss.CONNECTION)
        if not self._closed:
            try:
                self.attach()
            except QueueMissing:
                self._end()

    def _end(self) -> None:
        self._closed = True
        self._broker.forget_subscription(self)
        self._tell(Loss.DELETED)

    def _tell(self, loss: Loss) -> None:
        if self._on_loss is None:
            return
        try:
            self._on_loss(loss)
        except Exception:
            log.exception("on_loss of %s failed", self.queue.name)

    async def resize(self, prefetch: int, *, ahead: bool = False) -> None:
        if self.queue.ordered:
            raise InvalidQueue(f"the prefetch of ordered queue {self.queue.name!r} cannot change: close and subscribe")
        self._prefetch = prefetch
        channel = self._channel
        if channel is not None and channel.alive:
            with self._broker.server.lock:
                channel.prefetch = prefetch
                channel.stand(prefetch > 0)
                self._broker.server.dispatch(channel.queue)

    async def close(self) -> None:
        self._closed = True
        self._broker.forget_subscription(self)
        if self._channel is not None:
            with self._broker.server.lock:
                self._broker.server.detach(self._channel)

    def drop(self) -> None:
        """Lose the channel as when a connection breaks; test hook."""
        if self._channel is not None:
            with self._broker.server.lock:
                self._broker.server.detach(self._channel)


class _Mailbox:
    """An exclusive queue: bodies handed to one callback in one loop."""

    def __init__(self, on_body: OnBody, loop: asyncio.AbstractEventLoop) -> None:
        self._on_body = on_body
        self._loop = loop
        self.alive = True

    def put(self, body: bytes) -> None:
        try:
            self._loop.call_soon_threadsafe(self._hear, body)
        except RuntimeError:  # the loop is closed: nobody hears it any more
            self.alive = False

    def _hear(self, body: bytes) -> None:
        if not self.alive:
            return
        try:
            self._on_body(body)
        except Exception:
            log.exception("a listener failed")


class MemoryBroker:
    """The broker in this process; see `broker.base.Broker`."""

    def __init__(self, url: str, *, prefix: str, publish_timeout: float, clock: Clock) -> None:
        name = url.partition("://")[2].rstrip("/")
        if not re.fullmatch(r"[A-Za-z0-9._-]*", name):
            raise InvalidSetting(f"broker URL {url!r:.80} is not allowed: use memory:// or memory://name")
        self.facts = BrokerFacts(product="memory")
        self.names = Names(prefix)
        self.server = _server(name)
        self._publish_timeout = publish_timeout
        self._clock = clock
        self._loop: asyncio.AbstractEventLoop | None = None
        self._open = False
        self._subscriptions: list[MemorySubscription] = []
        self._listening: tuple[OnBody, Callable[[], None]] | None = None
        self._listener: _Mailbox | None = None
        self._replying: tuple[OnBody, Callable[[str], None]] | None = None
        self._reply_name = ""
        self._reply_counter = itertools.count(1)

    async def open(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._open = True

    async def close(self) -> None:
        for subscription in list(self._subscriptions):
            await subscription.close()
        self._drop_mailboxes()
        self._open = False

    def health(self) -> BrokerHealth:
        unproven = tuple(self.names.queue(s.queue) for s in self._subscriptions if not s.proven)
        return BrokerHealth(connected=self._open, silence=0.0, unproven=unproven)

    def drop_connections(self) -> None:
        """Break both connections as a network would; they come back at once. For tests."""
        with self.server.lock:
            for subscription in self._subscriptions:
                subscription.drop()
            self._drop_mailboxes()
        for subscription in list(self._subscriptions):
            self._call_soon(subscription.lost)
        self._call_soon(self._restore_mailboxes)

    # -- topology ---------------------------------------------------------------------------

    async def declare_base(self, store_id: str) -> None:
        self._require_open()
        with self.server.lock:
            prefix = self.server.prefixes.setdefault(self.names.prefix, _Prefix())
            if prefix.store_id not in (None, store_id):
                raise StoreMismatch(
                    f"another store already serves this broker under prefix {self.names.prefix!r}: use the same store "
                    "in every process (PostgreSQL for several machines), or another prefix"
                )
            prefix.store_id = store_id
            for queue in (WAITING, DEAD):
                self.declare_now(queue)

    async def declare(self, queue: BrokerQueue) -> None:
        self._require_open()
        with self.server.lock:
            self.declare_now(queue)

    def declare_now(self, queue: BrokerQueue) -> None:
        """`declare`, with the server's lock held."""
        name = self.names.queue(queue)
        stored = self.server.queues.get(name)
        if stored is None:
            stored = self.server.queues[name] = _Queue(queue, name)
        elif stored.spec != queue:
            argument = "x-single-active-consumer" if stored.spec.ordered != queue.ordered else "x-max-priority"
            raise QueueMismatch(
                f"queue {name} exists with another {argument}: arguments of a queue cannot change; "
                f"run `taskq queues migrate {queue.name}`"
            )
        stored.routed = True
        if queue.kind is Kind.SLOT and not stored.ready and not any(c.unacknowledged for c in stored.line):
            self.server.put(stored, TOKEN, None, None, 0)

    async def unroute(self, queue: BrokerQueue) -> None:
        self._require_open()
        with self.server.lock:
            stored = self.server.queues.get(self.names.queue(queue))
            if stored is not None:
                stored.routed = False

    async def delete(self, queue: BrokerQueue) -> None:
        self._require_open()
        with self.server.lock:
            stored = self.server.queues.pop(self.names.queue(queue), None)
            if stored is None:
                return
            stored.ready.clear()
            cancelled = list(stored.line)
            stored.line.clear()
            for channel in cancelled:
                channel.alive = False
                channel.unacknowledged.clear()
        for channel in cancelled:
            _cancelled(channel)

    async def depth(self, queue: BrokerQueue) -> Depth | None:
        self._require_open()
        with self.server.lock:
            stored = self.server.queues.get(self.names.queue(queue))
            if stored is None:
                return None
            return Depth(len(stored.ready), min(len(stored.line), 1) if stored.single_active else len(stored.line))

    async def drop_prefix(self, queues: Iterable[BrokerQueue]) -> None:
        """Delete these queues and all else under the prefix. For tests."""
        for queue in [*queues, WAITING, DEAD]:
            await self.delete(queue)
        with self.server.lock:
            self.server.prefixes.pop(self.names.prefix, None)

    # -- sending ----------------------------------------------------------------------------

    async def publish(self, outgoing: Outgoing) -> None:
        self._put(outgoing)
        await asyncio.sleep(
            0
        )  # a confirm takes a turn of the loop at least; a tight loop of publishes must not hold it

    def offer(self, outgoing: Outgoing, on_outcome: OnOutcome) -> bool:
        error: TaskqError | None = None
        try:
            self._put(outgoing)
        except TaskqError as caught:
            error = caught
        asyncio.get_running_loop().call_soon(on_outcome, error)
        return True

    async def publish_many(self, outgoing: Iterable[Outgoing]) -> list[TaskqError | None]:
        results: list[TaskqError | None] = []
        for message in outgoing:
            try:
                self._put(message)
            except TaskqError as error:
                results.append(error)
            else:
                results.append(None)
        await asyncio.sleep(0)
        return results

    def _put(self, message: Outgoing) -> None:
        self._require_open()
        name = self.names.queue(message.to)
        with self.server.lock:
            queue = self.server.queues.get(name)
            if queue is None or not queue.routed:
                raise QueueMissing(f"queue {name} does not exist: the message {message.message_id} was returned")
            priority = message.priority if message.to.priorities else 0
            self.server.put(queue, bytes(message.body), message.content_type, message.message_id, priority)

    def send(self, reply_queue: str, body: bytes) -> None:
        with self.server.lock:
            mailbox = self.server.mailboxes.get(reply_queue)
        if mailbox is not None and self._open:
            mailbox.put(body)

    def broadcast(self, body: bytes) -> None:
        if not self._open:
            return
        with self.server.lock:
            prefix = self.server.prefixes.setdefault(self.names.prefix, _Prefix())
            prefix.listeners = [mailbox for mailbox in prefix.listeners if mailbox.alive]
            for mailbox in prefix.listeners:
                mailbox.put(body)

    # -- receiving --------------------------------------------------------------------------

    async def subscribe(
        self,
        queue: BrokerQueue,
        on_delivery: OnDelivery,
        *,
        prefetch: int,
        on_loss: OnLoss | None = None,
        redeclare: bool = True,
    ) -> MemorySubscription:
        self._require_open()
        subscription = MemorySubscription(self, queue, on_delivery, on_loss, prefetch, redeclare)
        subscription.attach()
        self._subscriptions.append(subscription)
        return subscription

    async def listen(self, on_body: OnBody, on_restored: Callable[[], None]) -> None:
        self._require_open()
        self._listening = (on_body, on_restored)
        self._attach_listener()

    async def reply_queue(self, on_body: OnBody, on_restored: Callable[[str], None]) -> str:
        self._require_open()
        if self._replying is None:
            self._replying = (on_body, on_restored)
            self._attach_replies()
        return self._reply_name

    def _attach_listener(self) -> None:
        assert self._listening is not None and self._loop is not None
        self._listener = _Mailbox(self._listening[0], self._loop)
        with self.server.lock:
            self.server.prefixes.setdefault(self.names.prefix, _Prefix()).listeners.append(self._listener)

    def _attach_replies(self) -> None:
        assert self._replying is not None and self._loop is not None
        self._reply_name = f"reply-{id(self):x}-{next(self._reply_counter)}"
        with self.server.lock:
            self.server.mailboxes[self._reply_name] = _Mailbox(self._replying[0], self._loop)

    def _drop_mailboxes(self) -> None:
        with self.server.lock:
            if self._listener is not None:
                self._listener.alive = False
                listeners = self.server.prefixes.setdefault(self.names.prefix, _Prefix()).listeners
                if self._listener in listeners:
                    listeners.remove(self._listener)
            mailbox = self.server.mailboxes.pop(self._reply_name, None)
            if mailbox is not None:
                mailbox.alive = False

    def _restore_mailboxes(self) -> None:
        if not self._open:
            return
        if self._listening is not None and not (self._listener and self._listener.alive):
            self._attach_listener()
            self._listening[1]()
        if self._replying is not None and self._reply_name not in self.server.mailboxes:
            self._attach_replies()
            self._replying[1](self._reply_name)

    def forget_subscription(self, subscription: MemorySubscription) -> None:
        """It has ended and is not to be restored."""
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)

    def _call_soon(self, callback: Callable[[], None]) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(callback)

    def _require_open(self) -> None:
        if not self._open:
            raise BrokerUnavailable("the memory broker is not open: call open() first")


def _cancelled(channel: _Channel) -> None:
    """Tell the owner, in its own loop, that its queue was deleted."""
    try:
        channel.loop.call_soon_threadsafe(channel.on_cancel)
    except RuntimeError:
        log.debug("the owner of a consumer of %s has ended", channel.queue.name)
