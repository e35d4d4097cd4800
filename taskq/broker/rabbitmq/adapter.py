"""RabbitMQ behind the broker port: two connections, and each verb of the port in the broker's terms."""

from __future__ import annotations

import asyncio
import logging
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from random import Random
from typing import TypeVar

import aiormq
from aiormq.abc import AbstractChannel

from taskq.broker.base import (
    DEAD,
    WAITING,
    BrokerFacts,
    BrokerHealth,
    BrokerQueue,
    Depth,
    Kind,
    OnBody,
    OnDelivery,
    OnLoss,
    OnOutcome,
    Outgoing,
)
from taskq.broker.rabbitmq.address import Address
from taskq.broker.rabbitmq.connection import Link
from taskq.broker.rabbitmq.consumer import Mailbox, RabbitMQSubscription, is_missing_queue
from taskq.broker.rabbitmq.publisher import Publisher
from taskq.broker.topology import TOKEN, Exchange, Names, arguments
from taskq.clock import Clock
from taskq.errors import (
    AccessRefused,
    BrokerUnavailable,
    PublishUnconfirmed,
    QueueMismatch,
    QueueMissing,
    StoreMismatch,
    TaskqError,
)

log = logging.getLogger("taskq.broker")
T = TypeVar("T")

_UNANSWERED_MOST = 3  # tries to consume a slot, each of `connect_timeout`, after which its queue is made anew


class RabbitMQBroker:
    """The broker at an address; see `broker.base.Broker`."""

    def __init__(
        self,
        address: Address,
        *,
        prefix: str,
        publish_timeout: float,
        connect_timeout: float,
        heartbeat: float,
        clock: Clock,
        name: str,
        rng: Random | None = None,
    ) -> None:
        self.facts = BrokerFacts(product="RabbitMQ")
        self.names = Names(prefix)
        self._rng = rng or Random()
        self._clock = clock
        self._timeout = connect_timeout
        self._consuming = self._link(address, f"{name} (consuming)", heartbeat)
        self._publishing = self._link(address, f"{name} (publishing)", heartbeat)
        self._consuming.on_lost = self._forget_declared
        self._publisher = Publisher(
            self._publishing, self.names, publish_timeout=publish_timeout, on_missing=self._forget_name
        )
        self._subscriptions: list[RabbitMQSubscription] = []
        self._listener: Mailbox | None = None
        self._replies: Mailbox | None = None
        self._replies_lock = asyncio.Lock()
        self._declared: set[BrokerQueue] = set()
        self._unanswered: Counter[BrokerQueue] = Counter()

    def _link(self, address: Address, name: str, heartbeat: float) -> Link:
        return Link(
            address,
            name=name,
            heartbeat=heartbeat,
            connect_timeout=self._timeout,
            clock=self._clock,
            rng=self._rng,
        )

    async def open(self) -> None:
        results = await asyncio.gather(self._consuming.open(), self._publishing.open(), return_exceptions=True)
        try:
            for result in results:
                if isinstance(result, BaseException):
                    raise result
            self.facts = (await self._consuming.standing(self._timeout)).facts
            await self._publisher.open()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        await asyncio.gather(*(subscription.close() for subscription in list(self._subscriptions)))
        for mailbox in (self._listener, self._replies):
            if mailbox is not None:
                await mailbox.close()
        self._listener = self._replies = None
        await self._publisher.close()
        await asyncio.gather(self._consuming.close(), self._publishing.close())

    def health(self) -> BrokerHealth:
        unproven = [subscription.name for subscription in self._subscriptions if not subscription.proven]
        if self._listener is not None and not self._listener.active:
            unproven.append(self.names.control)
        return BrokerHealth(
            connected=self._consuming.connection is not None and self._publishing.connection is not None,
            silence=self._consuming.silence(),
            blocked=self._publisher.blocked,
            unproven=tuple(unproven),
        )

    def drop_connections(self) -> None:
        """Cut both sockets without a word, as a network would. For tests."""
        for link in (self._consuming, self._publishing):
            if link.connection is not None:
                link.connection.abort()

    # -- topology ---------------------------------------------------------------------------

    async def declare_base(self, store_id: str) -> None:
        async def declare_exchanges(channel: AbstractChannel) -> None:
            for exchange in self.names.exchanges():
                await _declare_exchange(channel, exchange)

        async def declare_store(channel: AbstractChannel) -> None:
            await _declare_exchange(channel, self.names.store_exchange(store_id))

        try:
            await self._on_throwaway(declare_store)
        except aiormq.ChannelPreconditionFailed as error:
            raise StoreMismatch(
                f"another store already serves this broker under prefix {self.names.prefix!r}: use the same store in "
                "every process (PostgreSQL for several machines), or another prefix"
            ) from error
        try:
            await self._on_throwaway(declare_exchanges)
        except aiormq.ChannelPreconditionFailed as error:
            raise QueueMismatch(f"an exchange of prefix {self.names.prefix!r} is not ours: {_text(error)}") from error
        # The dead letters first: the waiting queue dead-letters into them.
        await self.declare(DEAD)
        await self.declare(WAITING)

    async def declare(self, queue: BrokerQueue) -> None:
        if queue not in self._declared:
            await self._declare_now(queue)

    async def _declare_now(self, queue: BrokerQueue) -> None:
        name = self.names.queue(queue)
        table = arguments(queue, self.names, self.facts)
        exchange, key = self.names.route(queue)

        async def work(channel: AbstractChannel) -> int:
            declared = await channel.queue_declare(name, durable=True, arguments=table)
            if exchange:
                kind = "direct" if exchange == self.names.tasks else "fanout"
                await _declare_exchange(channel, Exchange(exchange, kind, {}))
                await channel.queue_bind(name, exchange, key)
            return declared.message_count or 0

        try:
            held = await self._on_throwaway(work)
        except aiormq.ChannelPreconditionFailed as error:
            raise QueueMismatch(_mismatch(name, queue, _text(error))) from error
        except aiormq.ChannelNotFoundEntity as error:
            # Seen on 4.0 while nodes of a cluster come and go: what was just declared is not known to be bound.
            raise BrokerUnavailable(f"queue {name} was declared and is not known yet: {_text(error)}") from error
        if queue.kind is Kind.SLOT and not held:
            await self._put_token(queue)
        self._declared.add(queue)

    async def _put_token(self, slot: BrokerQueue) -> None:
        """A full queue refuses the token; one that slips in while the first is held waits behind it, for good."""
        token = Outgoing(to=slot, body=TOKEN, message_id="", content_type="")
        (error,) = await self._publisher.publish_many((token,))
        # Seen on 3.10 after a kill of its node: no answer to a token for a queue that has one. Whether it has one is
        # found by consuming it.
        if error is not None and not isinstance(error, PublishUnconfirmed):
            raise error

    def _forget_declared(self) -> None:
        self._declared.clear()

    def _forget(self, queue: BrokerQueue) -> None:
        self._forget_name(self.names.queue(queue))

    def _forget_name(self, name: str) -> None:
        """It is gone. Who publishes to it may not know how it was declared: its name counts."""
        self._declared = {declared for declared in self._declared if self.names.queue(declared) != name}

    async def unroute(self, queue: BrokerQueue) -> None:
        self._declared.discard(queue)
        name, (exchange, key) = self.names.queue(queue), self.names.route(queue)
        await self._on_throwaway(lambda channel: channel.queue_unbind(name, exchange, key))

    async def delete(self, queue: BrokerQueue) -> None:
        self._declared.discard(queue)
        name = self.names.queue(queue)
        # The broker gives a queue without a leader five seconds before it deletes it all the same.
        await self._on_throwaway(lambda channel: channel.queue_delete(name), within=3 * self._timeout)

    async def depth(self, queue: BrokerQueue) -> Depth | None:
        name = self.names.queue(queue)
        try:
            answer = await self._on_throwaway(lambda channel: channel.queue_declare(name, passive=True))
        except aiormq.ChannelNotFoundEntity as error:
            if is_missing_queue(error):
                return None
            raise BrokerUnavailable(f"queue {name} cannot be reached now: {_text(error)}") from error
        return Depth(ready=answer.message_count or 0, consumers=answer.consumer_count or 0)

    async def drop_prefix(self, queues: Iterable[BrokerQueue]) -> None:
        """Delete these queues and all else under the prefix. For tests."""
        for queue in [*queues, WAITING, DEAD]:
            await self.delete(queue)

        async def work(channel: AbstractChannel) -> None:
            for exchange in [*self.names.exchanges(), self.names.store_exchange("")]:
                await channel.exchange_delete(exchange.name)

        await self._on_throwaway(work)

    async def _deaf(self, queue: BrokerQueue) -> None:
        """A queue let somebody who wanted to consume it wait in vain, while the broker answers others.

        A RabbitMQ of one node that is killed within a second of a quorum queue's declaration has forgotten the
        queue's log when it comes back: the queue has no leader, and never will. A slot holds nothing but its token,
        so it is deleted, for its owners to declare it anew. Of another queue nobody can tell from here whether its
        messages are gone or only away: an operator decides.
        """
        self._unanswered[queue] += 1
        name = self.names.queue(queue)
        if self._unanswered[queue] < _UNANSWERED_MOST:
            return
        if queue.kind is not Kind.SLOT:
            log.error(
                "queue %s answers nobody: it has no leader. If its node was killed just after the queue was made, and "
                "no other node has a copy, its messages are lost: `rabbitmqctl delete_queue %s` lets it be made anew",
                name,
                name,
            )
            return
        log.warning("slot %s answers nobody: it is made anew", name)
        self._unanswered[queue] = 0
        await self.delete(queue)

    async def _on_throwaway(self, work: Callable[[AbstractChannel], Awaitable[T]], *, within: float | None = None) -> T:
        """Run work on a channel of its own, so that a refusal closes nothing else; `connect_timeout` is its bound.

        Raises:
            AccessRefused, BrokerUnavailable: as elsewhere.
            aiormq.ChannelClosed: other refusals (404, 406).
        """
        connection = await self._consuming.standing(self._timeout)
        channel = await connection.channel(within=self._timeout)

        async def run() -> T:
            return await work(channel)

        try:
            return await connection.call(run(), within=within or self._timeout)
        except aiormq.ChannelAccessRefused as error:
            raise AccessRefused(f"the broker at {connection.at} refuses: {_text(error)}") from error
        except (aiormq.ChannelPreconditionFailed, aiormq.ChannelNotFoundEntity):
            raise
        except aiormq.AMQPError as error:
            raise BrokerUnavailable(f"the broker at {connection.at} refuses: {_text(error)}") from error
        finally:
            await connection.close_channel(channel)

    # -- sending ----------------------------------------------------------------------------

    async def publish(self, outgoing: Outgoing) -> None:
        (error,) = await self._publisher.publish_many((outgoing,))
        if error is not None:
            raise error

    def offer(self, outgoing: Outgoing, on_outcome: OnOutcome) -> bool:
        return self._publisher.offer(outgoing, on_outcome)

    async def publish_many(self, outgoing: Iterable[Outgoing]) -> list[TaskqError | None]:
        return await self._publisher.publish_many(outgoing)

    def send(self, reply_queue: str, body: bytes) -> None:
        self._publisher.send("", reply_queue, body)

    def broadcast(self, body: bytes) -> None:
        self._publisher.send(self.names.control, "", body)

    # -- receiving --------------------------------------------------------------------------

    async def subscribe(
        self,
        queue: BrokerQueue,
        on_delivery: OnDelivery,
        *,
        prefetch: int,
        on_loss: OnLoss | None = None,
        redeclare: bool = True,
    ) -> RabbitMQSubscription:
        async def declare(again: bool) -> None:
            if again:
                self._forget(queue)
            await self.declare(queue)

        async def exists() -> bool:
            return await self.depth(queue) is not None

        async def answered(yes: bool) -> None:
            if yes:
                self._unanswered.pop(queue, None)
            else:
                await self._deaf(queue)

        subscription = RabbitMQSubscription(
            queue,
            on_delivery,
            on_loss,
            name=self.names.queue(queue),
            prefetch=prefetch,
            redeclare=declare if redeclare else None,
            exists=exists,
            ended=self._forget_subscription,
            answered=answered,
            link=self._consuming,
            timeout=self._timeout,
            clock=self._clock,
            rng=self._rng,
        )
        try:
            await subscription.open()
        except QueueMissing:
            self._forget(queue)
            raise
        self._subscriptions.append(subscription)
        return subscription

    def _forget_subscription(self, subscription: RabbitMQSubscription, deleted: bool) -> None:
        if deleted:
            self._forget(subscription.queue)
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)

    async def listen(self, on_body: OnBody, on_restored: Callable[[], None]) -> None:
        self._listener = self._mailbox(self.names.control, on_body, lambda name: on_restored())
        await self._listener.open()

    async def reply_queue(self, on_body: OnBody, on_restored: Callable[[str], None]) -> str:
        async with self._replies_lock:
            if self._replies is None:
                replies = self._mailbox(None, on_body, on_restored)
                await replies.open()
                self._replies = replies
        return self._replies.name

    def _mailbox(self, exchange: str | None, on_body: OnBody, on_restored: Callable[[str], None]) -> Mailbox:
        return Mailbox(
            exchange=exchange,
            on_body=on_body,
            on_restored=on_restored,
            link=self._consuming,
            timeout=self._timeout,
            clock=self._clock,
            rng=self._rng,
        )


async def _declare_exchange(channel: AbstractChannel, exchange: Exchange) -> None:
    await channel.exchange_declare(
        exchange.name, exchange_type=exchange.kind, durable=True, arguments=exchange.arguments
    )


def _text(error: BaseException) -> str:
    return str(error.args[0]) if error.args else str(error)


def _mismatch(name: str, queue: BrokerQueue, text: str) -> str:
    """The server's text names the first argument that differs: "inequivalent arg 'x-max-priority' for queue …"."""
    found = re.search(r"inequivalent arg '([^']+)'", text)
    argument = found.group(1) if found else "argument"
    return (
        f"queue {name} exists with another {argument}: arguments of a queue cannot change; "
        f"run `taskq queues migrate {queue.name}` ({text})"
    )
