"""Names and arguments of everything taskq has on a broker, by server version: data, no I/O.

Arguments can never be changed or added under a name (a redeclaration answers 406), so all of them
are declared on every version from the first day. None of it is deprecated on any version from
3.10 to 4.3: no transient queues that are not exclusive, no global prefetch, no plugin.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from taskq.broker.base import BrokerFacts, BrokerQueue, Kind
from taskq.errors import InvalidSetting
from taskq.queue import MAX_PRIORITY

# Every graceful channel close counts as a delivery, so this must be out of reach: 4.x drops a message at
# its default of 20, and without any limit 3.10 requeues to the back of the queue.
DELIVERY_LIMIT = 100_000
# A token is never settled, only handed over, maybe once a second for years; were it dropped, the slot would be lost.
TOKEN_DELIVERY_LIMIT = 1_000_000_000
ACK_TIMEOUT_MS = 7 * 86400 * 1000
# Of a consumer whose node of the cluster is gone: then another one has its queue, and what it held. Only 4.3 knows it,
# and holds ordered queues up for more than half a minute otherwise; earlier versions do not wait.
DISCONNECTED_TIMEOUT_MS = 5_000
TOKEN = b"token"

_QUEUE_ACK_TIMEOUT_SINCE = (3, 12)
_STRICT_PRIORITIES_SINCE = (4, 3)
_MAX_PREFIX_CHARS = 40  # 255 bytes hold a name on the broker: prefix, ".lane.", a queue name of 200, an index


@dataclass(frozen=True, slots=True)
class Exchange:
    """An exchange as it is declared; all are durable.

    name       str
    kind       "direct" | "fanout"
    arguments  dict
    """

    name: str
    kind: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Names:
    """The names under one prefix."""

    prefix: str

    @property
    def tasks(self) -> str:
        """The direct exchange to TASK and LANE queues."""
        return f"{self.prefix}.tasks"

    @property
    def waiting(self) -> str:
        """The exchange to the waiting queue, and that queue."""
        return f"{self.prefix}.waiting"

    @property
    def dead(self) -> str:
        """The exchange to the dead queue, and that queue."""
        return f"{self.prefix}.dead"

    @property
    def control(self) -> str:
        """The fanout exchange to every listener."""
        return f"{self.prefix}.control"

    @property
    def store(self) -> str:
        """The exchange that carries the store's id."""
        return f"{self.prefix}.store"

    def queue(self, queue: BrokerQueue) -> str:
        """The queue's name on the broker."""
        match queue.kind:
            case Kind.TASK:
                return f"{self.prefix}.q.{queue.name}"
            case Kind.LANE:
                return f"{self.prefix}.lane.{queue.name}.{queue.index}"
            case Kind.SLOT:
                return f"{self.prefix}.slot.{queue.name}.{queue.index}"
            case Kind.WAITING:
                return self.waiting
            case Kind.DEAD:
                return self.dead

    def route(self, queue: BrokerQueue) -> tuple[str, str]:
        """Exchange and routing key that lead to the queue; a SLOT is reached by the default exchange."""
        match queue.kind:
            case Kind.TASK:
                return self.tasks, queue.name
            case Kind.LANE:
                # "/" cannot be in a queue's name, so a lane is never mistaken for a queue.
                return self.tasks, f"{queue.name}/{queue.index}"
            case Kind.SLOT:
                return "", self.queue(queue)
            case Kind.WAITING:
                return self.waiting, ""
            case Kind.DEAD:
                return self.dead, ""

    def exchanges(self) -> list[Exchange]:
        """The exchanges that messages pass."""
        return [
            Exchange(self.tasks, "direct", {}),
            Exchange(self.waiting, "fanout", {}),
            Exchange(self.dead, "fanout", {}),
            Exchange(self.control, "fanout", {}),
        ]

    def store_exchange(self, store_id: str) -> Exchange:
        """The exchange that binds this prefix to a store: declared with another id, the broker answers 406.

        The id stands where an alternate exchange is named, under the prefix, so that permissions on the prefix
        suffice; nothing is ever published to it.
        """
        return Exchange(self.store, "fanout", {"alternate-exchange": f"{self.store}.{store_id}"})


def arguments(queue: BrokerQueue, names: Names, facts: BrokerFacts) -> dict[str, Any]:
    """The arguments that the queue is declared with on this server.

    Source: RabbitMQ documentation, "Quorum Queues", "Priority Queues", "Consumers"; each measured on 3.10, 4.0 and 4.3.
    """
    if queue.kind is Kind.SLOT:
        # Quorum, though one token needs no replication to survive: these arguments are then the same on every
        # version (a classic queue of 4.3 refuses x-consumer-timeout, one of 3.12 needs it to hold a token for
        # long), and a slot outlives the node that it was born on.
        return {
            "x-queue-type": "quorum",
            "x-single-active-consumer": True,
            "x-max-length": 1,
            "x-overflow": "reject-publish",
            "x-delivery-limit": TOKEN_DELIVERY_LIMIT,
            "x-consumer-timeout": ACK_TIMEOUT_MS,
            "x-consumer-disconnected-timeout": DISCONNECTED_TIMEOUT_MS,
        }
    if queue.priorities and not facts.strict_priorities:
        return _classic_priorities(names, facts)
    table: dict[str, Any] = {
        "x-queue-type": "quorum",
        "x-delivery-limit": DELIVERY_LIMIT,
        "x-overflow": "reject-publish",
        "x-consumer-timeout": ACK_TIMEOUT_MS,
        "x-consumer-disconnected-timeout": DISCONNECTED_TIMEOUT_MS,
    }
    if queue.kind is not Kind.DEAD:
        table["x-dead-letter-exchange"] = names.dead
        table["x-dead-letter-strategy"] = "at-least-once"
    if queue.ordered:
        table["x-single-active-consumer"] = True
    return table


def _classic_priorities(names: Names, facts: BrokerFacts) -> dict[str, Any]:
    # Quorum queues ignore priorities on 3.10 and honour two classes on 4.0. Here the server is older than 4.3,
    # so that a classic queue may carry x-consumer-timeout.
    return {
        "x-queue-type": "classic",
        "x-max-priority": MAX_PRIORITY,
        "x-overflow": "reject-publish",
        "x-dead-letter-exchange": names.dead,
        "x-consumer-timeout": ACK_TIMEOUT_MS,
    }


def facts_of(product: str, version: str) -> BrokerFacts:
    """What follows from the version that a server gives, such as "3.10.8" or "4.3.0-rc.1"."""
    found = re.match(r"\d+(\.\d+){0,2}", version)
    known = tuple(int(part) for part in found.group().split(".")) if found else ()
    return BrokerFacts(
        product=product,
        version=known,
        queue_ack_timeout=known >= _QUEUE_ACK_TIMEOUT_SINCE,
        strict_priorities=known >= _STRICT_PRIORITIES_SINCE,
    )


def check_prefix(prefix: str) -> str:
    """The prefix, if it can be one.

    Raises:
        InvalidSetting: it cannot.
    """
    plain = prefix.replace("-", "").replace("_", "").replace(".", "")
    if not plain.isalnum() or not plain.isascii() or len(prefix) > _MAX_PREFIX_CHARS or prefix.startswith("amq."):
        raise InvalidSetting(
            f"prefix {prefix!r:.60} is not allowed: use 1 to {_MAX_PREFIX_CHARS} letters, digits, '.', '-' or '_'"
        )
    return prefix
