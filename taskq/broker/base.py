"""The broker port: what taskq asks of a message broker, in the job's own verbs.

Two adapters keep this contract, `broker.rabbitmq` and `broker.memory`, and one suite
(tests/contract/broker_contract.py) examines both. Bodies are bytes; the port never looks into them.

An adapter belongs to one event loop: `open` binds it, every other call is made there. It is
meant to live as long as its process: it reconnects by itself, with jittered backoff, and
restores what was subscribed; only `close` ends that.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from taskq.errors import TaskqError


class Kind(enum.StrEnum):
    """What a broker queue is for; its arguments follow from this (`broker.topology`)."""

    TASK = "task"  # taskq.q.<name>: the messages of a logical queue
    LANE = "lane"  # taskq.lane.<name>.<i>: one FIFO lane of a partitioned queue
    SLOT = "slot"  # taskq.slot.<name>.<i>: the right to run one message, or a leader's seat
    WAITING = "waiting"  # taskq.waiting: messages on their way to the waiting room
    DEAD = "dead"  # taskq.dead: messages that failed for good, on their way to the archive


@dataclass(frozen=True, slots=True)
class BrokerQueue:
    """A queue on the broker.

    kind        Kind
    name        str, the logical queue (TASK, LANE, SLOT); "" for WAITING and DEAD
    index       int, which lane or slot
    ordered     bool, a single active consumer (LANE and SLOT always are, whatever is given)
    priorities  bool, obeys `Outgoing.priority` (TASK only)
    """

    kind: Kind
    name: str = ""
    index: int = 0
    ordered: bool = False
    priorities: bool = False

    def __post_init__(self) -> None:
        if self.kind in (Kind.LANE, Kind.SLOT):
            object.__setattr__(self, "ordered", True)


WAITING = BrokerQueue(Kind.WAITING)
DEAD = BrokerQueue(Kind.DEAD)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message to publish.

    to            BrokerQueue: a TASK, LANE, WAITING or DEAD queue (WAITING and DEAD go by their exchanges)
    body          bytes
    message_id    str, for the broker's own tools; taskq reads the body
    content_type  str
    priority      int, 0 to 31, larger first; counts only if `to.priorities`
    """

    to: BrokerQueue
    body: bytes
    message_id: str
    content_type: str
    priority: int = 0


class Delivery(Protocol):
    """A message in this process's hands, unacknowledged until one of its two verbs is called.

    Both verbs are synchronous, take effect in order, may be coalesced, and do nothing once the
    channel that brought the delivery is gone (`valid` is then False): the broker delivers it again.
    """

    @property
    def body(self) -> bytes: ...
    @property
    def content_type(self) -> str | None: ...
    @property
    def message_id(self) -> str | None: ...
    @property
    def redelivered(self) -> bool:
        """It may have been delivered before."""
        ...

    @property
    def headers(self) -> Mapping[str, Any]:
        """The broker's and foreign headers, such as `x-death`; empty for most."""
        ...

    @property
    def valid(self) -> bool:
        """Its channel still stands, so that an acknowledgement means something."""
        ...

    def acknowledge(self) -> None:
        """Done with: the broker may forget it."""
        ...

    def give_back(self) -> None:
        """Requeue it; for deliveries of unordered queues, and for the one token of a slot, which comes straight
        back to its holder. Ordered messages go back when `Subscription.close` ends."""
        ...


class Subscription(Protocol):
    """A consumer with a channel of its own, restored after every loss until it is closed."""

    @property
    def queue(self) -> BrokerQueue: ...

    @property
    def active(self) -> bool:
        """The broker has accepted the consumer on a channel that stands; False after `resize(0)`."""
        ...

    async def resize(self, prefetch: int, *, ahead: bool = False) -> None:
        """Change the prefetch of an unordered queue's subscription, deliveries in hand staying valid.

        `ahead`: most of them wait here for their turn, so that acknowledgements may gather for a while.
        0 stops deliveries (the consumer is cancelled, the channel stays); a later resize starts them again.
        """
        ...

    async def close(self) -> None:
        """Hand over: flush the acknowledgements, wait for the broker to have them, close the channel.

        What is unacknowledged then goes back to its place, in order, to the next consumer. Never
        raises for a channel or connection that is gone already. No delivery follows.

        Source: RabbitMQ documentation, "Single Active Consumer"; measured: `basic.cancel` lets the
        following message overtake, closing the channel does not.
        """
        ...


class Loss(enum.StrEnum):
    """Why a subscription lost its channel."""

    CONNECTION = "connection"  # the connection or channel went; it is being restored
    DELETED = "deleted"  # the queue was deleted and is not to be declared again: the subscription has ended


@dataclass(frozen=True, slots=True)
class BrokerFacts:
    """What the server says of itself.

    product             str, "RabbitMQ" or "memory"
    version             tuple of ints, () when unknown
    queue_ack_timeout   bool: `x-consumer-timeout` of a queue is obeyed (RabbitMQ 3.12 and later)
    strict_priorities   bool: quorum queues obey priorities (RabbitMQ 4.3 and later)
    """

    product: str
    version: tuple[int, ...] = ()
    queue_ack_timeout: bool = True
    strict_priorities: bool = True


def longest_hold(facts: BrokerFacts, configured: float) -> float:
    """Seconds for which a delivery may be kept unacknowledged without work: half of what the broker allows.

    Args:
        facts: the broker's.
        configured: seconds of `consumer_timeout` in the broker's own configuration, which counts where
            it obeys none per queue.
    """
    return 86400.0 if facts.queue_ack_timeout else configured / 2


@dataclass(frozen=True, slots=True)
class Depth:
    """How full a broker queue is.

    ready      int, messages that are in nobody's hands
    consumers  int, who may get them: all consumers, or of a single-active queue the active one
               (RabbitMQ does not count those who stand in line)
    """

    ready: int
    consumers: int


@dataclass(frozen=True, slots=True)
class BrokerHealth:
    """Whether the broker is there, by what this process itself has seen.

    connected     bool: both connections stand
    silence       float, seconds for which the broker has owed an answer on the consuming connection; 0 if it owes none
    blocked       str: why the broker refuses publishes (a memory or disk alarm), "" if it does not
    unproven      tuple of the broker's queue names whose consumer should stand, and does not at present
    """

    connected: bool
    silence: float
    blocked: str = ""
    unproven: tuple[str, ...] = field(default_factory=tuple)


OnDelivery = Callable[[Delivery], None]
OnLoss = Callable[[Loss], None]
OnBody = Callable[[bytes], None]
OnOutcome = Callable[[TaskqError | None], None]


class Broker(Protocol):
    """A connection to one broker under one prefix."""

    facts: BrokerFacts

    async def open(self) -> None:
        """Connect, once; returns when both connections stand.

        Raises:
            AccessRefused: user, password or vhost refused.
            BrokerUnavailable: no answer within `connect_timeout`, or an address that cannot be.
        """
        ...

    async def close(self) -> None:
        """Close subscriptions and connections. Idempotent; never raises for what is gone already."""
        ...

    def health(self) -> BrokerHealth:
        """At once, from memory."""
        ...

    # -- topology ---------------------------------------------------------------------------

    async def declare_base(self, store_id: str) -> None:
        """Declare the exchanges and the waiting and dead queues, and bind this prefix to that store.

        Raises:
            StoreMismatch: this broker and prefix are already bound to another store.
            QueueMismatch: one of the queues exists with other arguments.
        """
        ...

    async def declare(self, queue: BrokerQueue) -> None:
        """Make sure the queue exists and is bound. A SLOT also gets its one token (again harmless).

        Raises:
            QueueMismatch: it exists with other arguments. (From RabbitMQ 4.3 on a queue with priorities
                has the same arguments as one without: that difference is not seen there.)
        """
        ...

    async def unroute(self, queue: BrokerQueue) -> None:
        """Let nothing more come in: publishes raise QueueMissing until somebody declares it. What it holds stays."""
        ...

    async def delete(self, queue: BrokerQueue) -> None:
        """Delete it with all it holds; nothing happens if it is not there."""
        ...

    async def depth(self, queue: BrokerQueue) -> Depth | None:
        """How full it is, by a passive declaration; None: no such queue."""
        ...

    # -- sending ----------------------------------------------------------------------------

    async def publish(self, outgoing: Outgoing) -> None:
        """Return once the broker has taken responsibility for the message.

        Raises, at the latest after `publish_timeout` seconds:
            QueueMissing: no queue takes it; it was returned, and is not on the broker.
            PublishUnconfirmed: sent, and not confirmed in time: it may arrive, or the broker refused
                it (`x-overflow=reject-publish`).
            BrokerUnavailable: no connection in time; it was not sent.
        """
        ...

    def offer(self, outgoing: Outgoing, on_outcome: OnOutcome) -> bool:
        """Publish without a task that waits, if it can be done at once; False: nothing was done, `publish` is the way.

        `on_outcome` is called once, in the event loop and after this has returned, with None or what `publish` would
        raise. It must not raise.
        """
        ...

    async def publish_many(self, outgoing: Iterable[Outgoing]) -> list[TaskqError | None]:
        """Publish all, in order, waiting for the confirms together; for each None or what `publish` would raise.

        They are asked for one by one, while the first ones are on their way already.
        """
        ...

    def send(self, reply_queue: str, body: bytes) -> None:
        """Send to a reply queue: unconfirmed, not mandatory, lost if nobody is there. Returns at once."""
        ...

    def broadcast(self, body: bytes) -> None:
        """Send to every listener on this prefix, this process included: unconfirmed. Returns at once."""
        ...

    # -- receiving --------------------------------------------------------------------------

    async def subscribe(
        self,
        queue: BrokerQueue,
        on_delivery: OnDelivery,
        *,
        prefetch: int,
        on_loss: OnLoss | None = None,
        redeclare: bool = True,
    ) -> Subscription:
        """Consume the queue on a channel of its own, at the end of the line of its consumers.

        `on_delivery` is called in the event loop, synchronously, for each delivery, in the order
        of the queue, never before this call has returned; an exception from it is logged and the
        delivery left unacknowledged. `on_loss` is called once for each lost channel; its deliveries
        have become invalid. With `redeclare` a queue that is missing, now or later, is declared;
        without, the subscription ends with Loss.DELETED (after Loss.CONNECTION, if the queue went
        while the connection was lost). A cancel sent by the broker is a loss: the channel is closed
        and made again.

        Raises:
            QueueMissing: it does not exist, and redeclare is False.
            QueueMismatch, BrokerUnavailable: as elsewhere.
        """
        ...

    async def listen(self, on_body: OnBody, on_restored: Callable[[], None]) -> None:
        """Hear every broadcast from now on, on an exclusive queue of this process.

        `on_restored` is called after each reconnect: broadcasts made meanwhile were missed. Once per broker.
        """
        ...

    async def reply_queue(self, on_body: OnBody, on_restored: Callable[[str], None]) -> str:
        """The name of this process's exclusive reply queue, made at the first call.

        `on_body` hears what arrives. A reconnect makes a queue of a new name: `on_restored(name)`
        is then called, and replies sent to the old name are lost. Once per broker.
        """
        ...
