"""Names and arguments on the broker."""

from __future__ import annotations

import pytest

from taskq.broker.base import DEAD, WAITING, BrokerFacts, BrokerQueue, Kind
from taskq.broker.topology import Names, arguments, check_prefix, facts_of
from taskq.errors import InvalidSetting

NAMES = Names("taskq")
TASK = BrokerQueue(Kind.TASK, "emails")
FIFO = BrokerQueue(Kind.TASK, "emails", ordered=True)
RANKED = BrokerQueue(Kind.TASK, "emails", priorities=True)
LANE = BrokerQueue(Kind.LANE, "orders", 3)
SLOT = BrokerQueue(Kind.SLOT, "thumbs", 7)
EVERY = [TASK, FIFO, RANKED, LANE, SLOT, WAITING, DEAD]
VERSIONS = [facts_of("RabbitMQ", version) for version in ("3.10.8", "3.12.0", "4.0.5", "4.2.1", "4.3.6")]


@pytest.mark.parametrize(
    ("queue", "name", "route"),
    [
        (TASK, "taskq.q.emails", ("taskq.tasks", "emails")),
        (LANE, "taskq.lane.orders.3", ("taskq.tasks", "orders/3")),
        (SLOT, "taskq.slot.thumbs.7", ("", "taskq.slot.thumbs.7")),
        (WAITING, "taskq.waiting", ("taskq.waiting", "")),
        (DEAD, "taskq.dead", ("taskq.dead", "")),
    ],
)
def test_names(queue: BrokerQueue, name: str, route: tuple[str, str]) -> None:
    """Every kind of queue has the name and the route that the design gives it."""
    assert NAMES.queue(queue) == name and NAMES.route(queue) == route


def test_longest_names() -> None:
    """The longest prefix, queue name and index fit the broker's 255 bytes."""
    names = Names(check_prefix("p" * 40))
    for kind in (Kind.TASK, Kind.LANE, Kind.SLOT):
        assert len(names.queue(BrokerQueue(kind, "q" * 200, 1023))) <= 255


@pytest.mark.parametrize("facts", VERSIONS, ids=str)
@pytest.mark.parametrize("queue", EVERY, ids=str)
def test_every_queue(queue: BrokerQueue, facts: BrokerFacts) -> None:
    """A queue refuses what exceeds it; a quorum queue has a delivery limit out of reach, and a long timeout."""
    table = arguments(queue, NAMES, facts)
    assert table["x-overflow"] == "reject-publish"
    if table["x-queue-type"] == "quorum":
        assert table["x-delivery-limit"] >= 100_000
        assert table["x-consumer-timeout"] == 7 * 86400 * 1000
        assert table["x-consumer-disconnected-timeout"] == 5000
        assert "x-max-priority" not in table


@pytest.mark.parametrize("facts", VERSIONS, ids=str)
@pytest.mark.parametrize("queue", [TASK, FIFO, LANE, SLOT, WAITING, DEAD], ids=str)
def test_arguments_never_change(queue: BrokerQueue, facts: BrokerFacts) -> None:
    """A server's upgrade changes no arguments of a queue without priorities: they could not be declared again."""
    assert arguments(queue, NAMES, facts) == arguments(queue, NAMES, VERSIONS[0])


@pytest.mark.parametrize("facts", VERSIONS, ids=str)
def test_dead_letters_end(facts: BrokerFacts) -> None:
    """Dead letters and slots dead-letter nowhere; everything else into the dead letters, at least once where it can."""
    for queue in EVERY:
        table = arguments(queue, NAMES, facts)
        if queue.kind in (Kind.DEAD, Kind.SLOT):
            assert "x-dead-letter-exchange" not in table
        else:
            assert table["x-dead-letter-exchange"] == "taskq.dead"
            assert table["x-queue-type"] == "classic" or table["x-dead-letter-strategy"] == "at-least-once"


def test_single_active() -> None:
    """FIFO queues, lanes and slots have a single active consumer, other queues have not."""
    single = [q for q in EVERY if arguments(q, NAMES, VERSIONS[0]).get("x-single-active-consumer")]
    assert single == [FIFO, LANE, SLOT]


def test_slot_holds_one_token() -> None:
    """A slot has room for one message."""
    assert arguments(SLOT, NAMES, VERSIONS[0])["x-max-length"] == 1


@pytest.mark.parametrize("facts", VERSIONS, ids=str)
def test_priorities(facts: BrokerFacts) -> None:
    """Priorities take a quorum queue where it obeys them, else a classic one of 32 levels."""
    table = arguments(RANKED, NAMES, facts)
    if facts.version >= (4, 3):
        assert table["x-queue-type"] == "quorum"
    else:
        assert (table["x-queue-type"], table["x-max-priority"]) == ("classic", 31)


def test_store_exchange() -> None:
    """Two stores ask for two different exchanges of one name."""
    one, two = NAMES.store_exchange("a"), NAMES.store_exchange("b")
    assert one.name == two.name == "taskq.store" and one != two


@pytest.mark.parametrize(
    ("version", "numbers", "timeout", "priorities"),
    [
        ("3.10.8", (3, 10, 8), False, False),
        ("3.12.0-rc.1", (3, 12, 0), True, False),
        ("4.3.0+5.gabc", (4, 3, 0), True, True),
        ("", (), False, False),
        ("unknown", (), False, False),
    ],
)
def test_facts(version: str, numbers: tuple[int, ...], timeout: bool, priorities: bool) -> None:
    """What follows from a version, odd ones included."""
    facts = facts_of("RabbitMQ", version)
    assert (facts.version, facts.queue_ack_timeout, facts.strict_priorities) == (numbers, timeout, priorities)


@pytest.mark.parametrize("prefix", ["", "a b", "ä", "amq.x", "x" * 41, "a/b", "..", "a\n"])
def test_bad_prefix(prefix: str) -> None:
    """A prefix that could not begin a name is refused, and shown."""
    with pytest.raises(InvalidSetting, match="prefix"):
        check_prefix(prefix)
