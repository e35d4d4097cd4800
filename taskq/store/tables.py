"""The schema, once, for SQLite and PostgreSQL alike.

Instants are whole microseconds since the epoch, UTC, in 64-bit integers: exact, compared and
indexed as numbers, the same arithmetic on both databases, and no time zone or driver's parser
between a lease and its end. `rows` turns them into aware datetimes at the edge.

Names carry the prefix `taskq_`, the version table too, so that a PostgreSQL database can be shared
with an application and its own migrations. No foreign keys: rows of one message come and go on
different days.

    taskq_store         one row: the store's UUID, and the number of the latest change to cancels and queues
    taskq_messages      one row per message that the store has seen; the row of an errorless run is written once
    taskq_requests      of a message that is a request: what it is looked for by, and the message itself
    taskq_log           lines of history that cannot be derived from the message's row; all lines of requests
    taskq_waiting       messages in the waiting room, keyed (id, hop)
    taskq_outbox        publishes that must happen
    taskq_dead_letters  the archive of messages that failed for good
    taskq_queues        the authority on every queue;  taskq_queues_gone  names of deleted ones, for `changes`
    taskq_windows       one row per rate-limited queue: the lock of its window, and starts counted so far
    taskq_starts        the window's stamps: one row per grant, with the count reached by it
    taskq_flow          keys of flow control: their limits, and whether they are paused
    taskq_permits       messages that a key lets go: reserved, running, or a head of an ordered queue that waits
    taskq_dedup         deduplication ids and the message that holds each
    taskq_cancels       requests to cancel unfinished messages
    taskq_schedules     what is to be sent, and when; how far each has come
    taskq_firings       one row per tick that was sent: what makes a second one of the same instant impossible
    taskq_groups        URL groups, with their members
    taskq_signing_keys  one row: the keys with which deliveries are signed
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    false,
    func,
    text,
)

metadata = MetaData()


def _partial(name: str, *columns: str, where: str) -> Index:
    """An index of the rows for which the condition holds; `complete_for_postgres` says it to PostgreSQL, too."""
    return Index(name, *columns, sqlite_where=text(where))


store = Table(
    "taskq_store",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),  # always 1
    Column("uuid", Text, nullable=False),
    Column("change", BigInteger, nullable=False),
)

messages = Table(
    "taskq_messages",
    metadata,
    Column("id", Text, primary_key=True),
    Column("task", Text, nullable=False),
    Column("queue", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("hop", Integer, nullable=False),  # the highest booked, claimed or run; -1: none yet
    Column("crashes", Integer, nullable=False, server_default="0"),
    Column("claimed", Boolean, nullable=False, server_default=false()),  # a claim is open
    Column("transient", Boolean, nullable=False, server_default=false()),  # made for a run of epoch 0, to show it
    Column("worker", Text),
    Column("created_at", BigInteger, nullable=False),
    Column("started_at", BigInteger),
    Column("ended_at", BigInteger),  # of the latest attempt that was settled
    Column("not_before", BigInteger),
    Column("result", LargeBinary),
    Column("result_type", Text),
    Column("reason", Text),
    Column("failure", Text),  # JSON: [type, message, traceback]
    Column("progress_done", BigInteger),
    Column("progress_total", BigInteger),
    Index("taskq_messages_created", "created_at", "id"),
    Index("taskq_messages_ended", "ended_at"),
    # All but the successes, which are most rows and pay nothing for it.
    _partial("taskq_messages_notable", "status", "queue", "created_at", "id", where="status <> 'SUCCEEDED'"),
)

# The status of messages that are found by their ids, in words that no index is of: while few messages wait, the partial
# one looks cheaper to PostgreSQL than so many ids, and it may keep that plan until very many wait.
STATUS = func.coalesce(messages.c.status, "")
UNSUCCESSFUL = text("taskq_messages.status <> 'SUCCEEDED'")  # literal: lets SQLite choose the partial index

requests = Table(
    "taskq_requests",
    metadata,
    Column("message_id", Text, primary_key=True),
    Column("url", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("path", Text, nullable=False),
    Column("topic", Text),
    Column("endpoint", Text),
    Column("schedule_id", Text),
    Column("caller_ip", Text, nullable=False),
    Column("labels", Text, nullable=False),  # each between line feeds
    Column("flow_key", Text),
    Column("queue_name", Text),  # as its sender named it
    Column("callback_of", Text),
    Column("created_at", BigInteger, nullable=False),
    Column("envelope", LargeBinary, nullable=False),  # the message as it was accepted
    Index("taskq_requests_created", "created_at", "message_id"),
    _partial("taskq_requests_callback", "callback_of", where="callback_of IS NOT NULL"),
)

OF_REQUEST = text("taskq_log.of_request")  # literal for the same reason

log = Table(
    "taskq_log",
    metadata,
    Column("message_id", Text, primary_key=True),
    Column("at", BigInteger, primary_key=True, autoincrement=False),
    Column("state", Text, primary_key=True),
    Column("attempt", Integer),
    Column("worker", Text),
    Column("detail", Text, nullable=False),
    Column("next_at", BigInteger),
    Column("response", LargeBinary),
    Column("of_request", Boolean, nullable=False, server_default=false()),
    Index("taskq_log_at", "at"),
    _partial("taskq_log_requests", "at", "message_id", "state", where="of_request"),
)

waiting = Table(
    "taskq_waiting",
    metadata,
    Column("id", Text, primary_key=True),
    Column("hop", Integer, primary_key=True, autoincrement=False),
    Column("queue", Text, nullable=False),
    Column("due_at", BigInteger, nullable=False),
    Column("claimed_until", BigInteger, nullable=False, server_default="0"),  # 0: not claimed
    Column("body", LargeBinary, nullable=False),
    Column("flow_key", Text),  # it is let go by its key, not by its time alone
    _partial("taskq_waiting_due", "due_at", "id", where="flow_key IS NULL"),
    _partial("taskq_waiting_flow", "flow_key", "due_at", "id", where="flow_key IS NOT NULL"),
    _partial("taskq_waiting_flow_due", "due_at", "id", where="flow_key IS NOT NULL"),
    Index("taskq_waiting_queue", "queue", "due_at", "id"),
    _partial("taskq_waiting_claimed", "claimed_until", where="claimed_until > 0"),
)

outbox = Table(
    "taskq_outbox",
    metadata,
    Column("id", Text, primary_key=True),
    Column("target", Text, nullable=False),
    Column("queue", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("content_type", Text, nullable=False),
    Column("message_id", Text, nullable=False),
    Column("due_at", BigInteger, nullable=False),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("claimed_until", BigInteger, nullable=False, server_default="0"),
    Index("taskq_outbox_due", "due_at", "id"),
    _partial("taskq_outbox_claimed", "claimed_until", where="claimed_until > 0"),
)

dead_letters = Table(
    "taskq_dead_letters",
    metadata,
    Column("id", Text, primary_key=True),
    Column("message_id", Text, nullable=False),
    Column("queue", Text, nullable=False),
    Column("task", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("failure_type", Text),
    Column("failure_message", Text),
    Column("failure_traceback", Text),
    Column("worker", Text),
    Column("died_at", BigInteger, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("content_type", Text),
    Column("response", LargeBinary),
    Column("response_status", Integer),  # of a request's last answer, 0: none came; NULL: no request
    Index("taskq_dead_letters_died", "died_at", "id"),
    Index("taskq_dead_letters_queue", "queue", "died_at", "id"),
    Index("taskq_dead_letters_message", "message_id"),
)

queues = Table(
    "taskq_queues",
    metadata,
    Column("name", Text, primary_key=True),
    Column("born_fifo", Boolean, nullable=False),
    Column("born_priorities", Boolean, nullable=False),
    Column("partitions", Integer),
    Column("parallelism", Integer),
    Column("rate_limit", Integer),
    Column("rate_per", Float),
    Column("worker_parallelism", Integer),
    Column("retry_in_place", Boolean, nullable=False),
    Column("paused", Boolean, nullable=False),
    Column("version", Integer, nullable=False),
    Column("origin", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("change", BigInteger, nullable=False),
    Index("taskq_queues_change", "change"),
)

queues_gone = Table(
    "taskq_queues_gone",
    metadata,
    Column("name", Text, primary_key=True),
    Column("deleted_at", BigInteger, nullable=False),
    Column("change", BigInteger, nullable=False),
    Index("taskq_queues_gone_change", "change"),
)

windows = Table(
    "taskq_windows",
    metadata,
    Column("queue", Text, primary_key=True),
    Column("total", BigInteger, nullable=False),  # starts granted so far
    Column("past", BigInteger, nullable=False),  # of these, the ones that have left the window
    Column("last_at", BigInteger, nullable=False),
)

starts = Table(
    "taskq_starts",
    metadata,
    Column("queue", Text, primary_key=True),
    Column("at", BigInteger, primary_key=True, autoincrement=False),
    Column("upto", BigInteger, primary_key=True, autoincrement=False),
)

flow = Table(
    "taskq_flow",
    metadata,
    Column("key", Text, primary_key=True),
    Column("parallelism", Integer),
    Column("rate_limit", Integer),
    Column("rate_per", Float),
    Column("paused", Boolean, nullable=False),
    Column("pinned_parallelism", Boolean, nullable=False),
    Column("pinned_rate", Boolean, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Index("taskq_flow_updated", "updated_at"),
)

permits = Table(
    "taskq_permits",
    metadata,
    Column("message_id", Text, primary_key=True),
    Column("key", Text, nullable=False),
    Column("queue", Text, nullable=False),
    Column("state", Text, nullable=False),  # reserved, running, head
    Column("worker", Text, nullable=False),
    Column("since", BigInteger, nullable=False),  # its place in line
    Column("until", BigInteger, nullable=False),  # it counts no longer then
    Index("taskq_permits_key", "key", "since", "message_id"),
    Index("taskq_permits_until", "until"),
    Index("taskq_permits_worker", "worker"),
)

dedup = Table(
    "taskq_dedup",
    metadata,
    Column("queue", Text, primary_key=True),
    Column("dedup_id", Text, primary_key=True),
    Column("message_id", Text, nullable=False),
    Column("expires_at", BigInteger),  # NULL: until the message is final
    Index("taskq_dedup_message", "message_id"),
    Index("taskq_dedup_expires", "expires_at"),
)

cancels = Table(
    "taskq_cancels",
    metadata,
    Column("message_id", Text, primary_key=True),
    Column("asked_at", BigInteger, nullable=False),
    Column("change", BigInteger, nullable=False),
    Index("taskq_cancels_change", "change"),
    Index("taskq_cancels_asked", "asked_at"),
)

schedules = Table(
    "taskq_schedules",
    metadata,
    Column("app", Text, primary_key=True),
    Column("id", Text, primary_key=True),
    Column("timing", Text, nullable=False),  # JSON
    Column("policy", Text, nullable=False),  # JSON
    Column("task", Text, nullable=False),
    Column("queue", Text, nullable=False),
    Column("template", LargeBinary, nullable=False),  # a message of the epoch, to be moved to the instant of its firing
    Column("origin", Text, nullable=False),
    Column("paused", Boolean, nullable=False),
    Column("seen_at", BigInteger, nullable=False),  # instants up to here have been dealt with
    Column("next_at", BigInteger),  # when a beat is to look at it; NULL: never, or paused
    Column("fired", BigInteger, nullable=False),
    Column("last_at", BigInteger),
    Column("last_message_id", Text),
    Column("error", Text),
    Column("version", Integer, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Index("taskq_schedules_next", "app", "next_at"),
)

firings = Table(
    "taskq_firings",
    metadata,
    Column("app", Text, primary_key=True),
    Column("schedule_id", Text, primary_key=True),
    Column("instant", BigInteger, primary_key=True, autoincrement=False),
    Column("member", Text, primary_key=True),  # "" for the one message of a task; a run by hand has its message's id
    Column("message_id", Text, nullable=False),
    Column("fired_at", BigInteger, nullable=False),
    Index("taskq_firings_fired", "fired_at"),
)

groups = Table(
    "taskq_groups",
    metadata,
    Column("name", Text, primary_key=True),
    Column("endpoints", Text, nullable=False),  # JSON: [[url, name], ...]
    Column("headers", Text, nullable=False),  # JSON: [[name, value], ...]
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
)

signing_keys = Table(
    "taskq_signing_keys",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),  # always 1
    Column("current_key", Text, nullable=False),
    Column("next_key", Text, nullable=False),
)

TABLES = tuple(metadata.sorted_tables)


def complete_for_postgres() -> None:
    """Give partial indexes their condition in PostgreSQL's words, before they are made there.

    Only then: naming PostgreSQL loads its dialect, some 2 MB that a process with SQLite never needs.
    """
    for index in (index for table in TABLES for index in table.indexes):
        if "sqlite_where" in index.dialect_kwargs:
            index.dialect_kwargs["postgresql_where"] = index.dialect_kwargs["sqlite_where"]
