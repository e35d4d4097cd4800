"""The store port: what is known about messages, beside the broker that owns them.

Narrow contracts by purpose; one adapter (`store.sql`) keeps them all on SQLite and PostgreSQL, and
one suite (tests/contract/store_contract.py) examines it on both. Each verb is one transaction.
Instants are aware UTC; those that the store sets are by its own clock (`now`), so that leases,
windows and due times mean the same to every process.

Every verb may raise `StoreUnavailable`: nothing was done, or it cannot be told; each verb can be
repeated with the same arguments, and its effect is that of once.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import EllipsisType
from typing import Any, Protocol

from taskq.flow import Flow, FlowRecord
from taskq.message import Message
from taskq.outcome import Failure, Status
from taskq.queue import Queue, QueueRecord, RateLimit
from taskq.store.gateway import Gateway, RequestFilter


@dataclass(frozen=True, slots=True)
class Claim:
    """A worker asks for the right to run a message that may have run before."""

    message: Message
    worker: str


@dataclass(frozen=True, slots=True)
class Claimed:
    """What a claim found.

    epoch        int, from 1: the number of this claim; a settle with a smaller one is ignored
    status       Status: a final one means that the message has its outcome and must not run
    attempt      int, which attempt is due: the larger of the message's and the row's
    not_before   datetime | None: it may not start earlier (a retry that waits in place)
    cancelled    bool: a cancel was asked for
    crashes      int: claims of this message that had neither an end nor a give-back, before this one
    stale        bool: a copy with a higher hop is known; this one is to be acknowledged and forgotten
    """

    epoch: int
    status: Status
    attempt: int
    not_before: datetime | None = None
    cancelled: bool = False
    crashes: int = 0
    stale: bool = False


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """A publish that must happen, stored in the transaction that caused it.

    id            str, deterministic: parent/kind/hop, so that repeating the transaction adds nothing
    target        str, "queue", "waiting" or "dead"
    queue         str, the logical queue that the body belongs to
    body          bytes, encoded
    content_type  str
    message_id    str
    due_at        datetime: when the keeper publishes it, should its writer not have done so
    attempts      int, how often publishing it has failed for a reason of its own
    """

    id: str
    target: str
    queue: str
    body: bytes
    content_type: str
    message_id: str
    due_at: datetime
    attempts: int = 0


@dataclass(frozen=True, slots=True)
class Settlement:
    """The end of a run, and everything that follows from it.

    message      Message as it was run
    worker       str
    epoch        int: of the claim, 0 for a run that was not claimed
    status       Status: a final one, or WAITING (parked, or waiting in place)
    attempt      int: the attempt that ended
    started_at, ended_at  datetime
    result       bytes | None, result_type str | None: its codec
    reason       str | None: why it is dead, or expired
    failure      Failure | None
    parked       Message | None: the copy that goes to the waiting room (its `not_before` is set)
    in_place     datetime | None: the head stays in its queue until then, and runs as next_attempt
    next_attempt int: attempt of the next run, for WAITING
    outbox       rows written in the same transaction
    response     bytes | None: the answer of a request (`Response.encode`), kept with the log's lines of this end
    born         messages that follow (callbacks): recorded in the same transaction; their publishes are in `outbox`
    """

    message: Message
    worker: str
    epoch: int
    status: Status
    attempt: int
    started_at: datetime
    ended_at: datetime
    result: bytes | None = None
    result_type: str | None = None
    reason: str | None = None
    failure: Failure | None = None
    parked: Message | None = None
    in_place: datetime | None = None
    next_attempt: int = 1
    outbox: tuple[OutboxRow, ...] = ()
    response: bytes | None = None
    born: tuple[Message, ...] = ()


class Settled(enum.StrEnum):
    """What became of a settlement."""

    APPLIED = "applied"
    FENCED = "fenced"  # a newer claim or an outcome stands; nothing was written
    REFUSED = "refused"  # the row itself cannot be stored (its data); nothing of it was written


@dataclass(frozen=True, slots=True)
class MessageRecord:
    """What is known of a message.

    payload and envelope are absent: the message itself lies on the broker, in the waiting room
    or among the dead letters.
    """

    id: str
    task: str
    queue: str
    status: Status
    attempt: int
    epoch: int
    hop: int
    crashes: int
    worker: str | None
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    not_before: datetime | None
    result: bytes | None
    result_type: str | None
    reason: str | None
    failure: Failure | None
    progress: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One line of a message's history.

    state      CREATED ACTIVE ERROR RETRY SNOOZED DELIVERED FAILED EXPIRED CANCEL_REQUESTED CANCELED
    next_at    datetime | None: when it is tried again
    response   bytes | None: the answer of a request
    """

    message_id: str
    at: datetime
    state: str
    attempt: int | None = None
    worker: str | None = None
    detail: str = ""
    next_at: datetime | None = None
    response: bytes | None = None


@dataclass(frozen=True, slots=True)
class WaitingRow:
    """A message in the waiting room, keyed by (message.id, message.hop)."""

    message: Message
    due_at: datetime


@dataclass(frozen=True, slots=True)
class LetGo:
    """Messages that their keys let go.

    rows     WaitingRows, the caller's to publish
    heads    ids of heads of ordered queues, which wait where they are
    next_at  datetime | None: when more may follow by itself; None: not before something happens
    last     str | None: the key to go on after, so that keys take turns
    more     bool: there are keys that were not looked at
    full     bool: more would go if what was let go had begun
    """

    rows: list[WaitingRow]
    heads: list[str]
    next_at: datetime | None
    last: str | None
    more: bool
    full: bool


@dataclass(frozen=True, slots=True)
class Ask:
    """A run that is about to start asks its key. `in_place`: if it may not, it waits where it is."""

    message: Message
    worker: str
    in_place: bool

    @property
    def flow(self) -> Flow:
        """What the message says about its key."""
        assert self.message.flow is not None
        return self.message.flow


@dataclass(frozen=True, slots=True)
class Permit:
    """The answer.

    granted   bool
    since     datetime: its place in line
    retry_in  float, seconds after which asking again may help
    rate      RateLimit | None: of the window that the start was stamped in
    before    int: the starts that the window had counted before this one
    """

    granted: bool
    since: datetime
    retry_in: float = 0.0
    rate: RateLimit | None = None
    before: int = 0


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that failed for good, as it is archived.

    id            str, of the archive entry: `<ms>-<random>`; the same message may die again after a retry
    message       Message | None: None when its bytes are no message of ours
    body          bytes, content_type str | None: as they came
    reason        str: failed, rejected, crashed, expired, unknown-task, invalid-message, …
    attempts      int
    failure       Failure | None
    worker        str | None
    died_at       datetime
    queue, task, message_id  str: for filters; "" when they cannot be known
    response      bytes | None: the last answer of a request (`Response.encode`)
    """

    id: str
    message_id: str
    queue: str
    task: str
    reason: str
    attempts: int
    failure: Failure | None
    worker: str | None
    died_at: datetime
    body: bytes
    content_type: str | None
    message: Message | None = None
    response: bytes | None = None


@dataclass(frozen=True, slots=True)
class DeadFilter:
    """Which dead letters: all given conditions hold.

    text      looked for in reason and error
    request   only letters of requests that it fits; its ids are those of messages, its instants those of their deaths
    statuses  only letters of requests whose last answer had one of these statuses; 0: none came
    """

    ids: Sequence[str] | None = None
    queue: str | None = None
    task: str | None = None
    reason: str | None = None
    message_id: str | None = None
    text: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    request: RequestFilter | None = None
    statuses: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class MessageFilter:
    """Which messages: all given conditions hold."""

    status: Sequence[Status] | None = None
    queue: str | None = None
    task: str | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a listing, and where the next begins (None: the end)."""

    items: list[Any]
    cursor: str | None = None


@dataclass(frozen=True, slots=True)
class Changes:
    """What changed since the last look, and the mark to look from next time.

    cancels   ids of unfinished messages whose cancel was asked for
    queues    records that are new or changed
    deleted   names of queues that are gone
    """

    mark: str
    cancels: list[str] = field(default_factory=list)
    queues: list[QueueRecord] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)


class CancelEffect(enum.StrEnum):
    """What a cancel did."""

    DONE = "done"  # it was waiting: recorded CANCELLED, gone
    ASKED = "asked"  # it is queued or running, or not known: workers are to drop or stop it
    FINISHED = "finished"  # it has its outcome already: nothing changed


@dataclass(frozen=True, slots=True)
class Deduplicated:
    """Who holds a deduplication id after a claim on it.

    holder     str, id of a message: the claimant's own, or an earlier one's
    displaced  str | None, id of the message that had to make way
    effect     what its cancel did
    """

    holder: str
    displaced: str | None = None
    effect: CancelEffect = CancelEffect.FINISHED


@dataclass(frozen=True, slots=True)
class Permits:
    """Starts granted by a rate window: `granted` of those asked, and when the next may be asked for.

    reached   int: the starts that the window has counted in all, these included
    """

    granted: int
    retry_in: float = 0.0
    reached: int = 0


@dataclass(frozen=True, slots=True)
class ScheduleRow:
    """A schedule as it is stored; `taskq.schedule` reads and writes its texts.

    app, id    str, its key: apps of one store have schedules of their own
    timing     str, JSON: when
    policy     str, JSON: what is done with instants that were missed, overlap, and bounds
    task, queue  str, for those who look
    template   bytes: the message to send, encoded, as of the epoch
    """

    app: str
    id: str
    timing: str
    policy: str
    task: str
    queue: str
    template: bytes


@dataclass(frozen=True, slots=True)
class ScheduleRecord:
    """A schedule, and how far it has come.

    origin           "code", or "operator": made or changed at run time, which stands over code
    seen_at          datetime: instants up to here have been dealt with
    next_at          datetime | None: when a beat is to look at it; None: never again, or paused
    fired            int: how many messages it has sent in its turn
    last_at          datetime | None: the instant of the latest, last_message_id its message
    error            str | None: why it cannot go on
    version          int, raised by every change: who fires names the one that it has read
    """

    row: ScheduleRow
    origin: str
    paused: bool
    seen_at: datetime
    next_at: datetime | None
    fired: int
    last_at: datetime | None
    last_message_id: str | None
    error: str | None
    version: int
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Tick:
    """One message that a schedule sends.

    instant  datetime: its time by the schedule, whenever it is sent
    member   str: tells apart the messages of one instant; "" when there is but one
    message  Message as it is published; one with `recorded` gets its row at once
    outbox   OutboxRow of that publish
    """

    instant: datetime
    member: str
    message: Message
    outbox: OutboxRow


@dataclass(frozen=True, slots=True)
class Advance:
    """One step of a schedule, as a beat has worked it out from a record: what it sends, and where it stands then."""

    app: str
    id: str
    version: int
    seen_at: datetime
    next_at: datetime | None
    ticks: tuple[Tick, ...] = ()
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What became of the schedules of an app's code.

    kept   records as they are now, of those that were there
    new    ids of those that were not
    gone   ids of those that code declares no longer
    """

    kept: list[ScheduleRecord]
    new: list[str]
    gone: list[str]


@dataclass(frozen=True, slots=True)
class Firing:
    """A tick that was sent, and what became of its message (None: nothing is known of it)."""

    instant: datetime
    member: str
    message_id: str
    fired_at: datetime
    message: MessageRecord | None = None


@dataclass(frozen=True, slots=True)
class Retention:
    """Seconds after which rows may be pruned; None keeps them."""

    results: float | None
    dead_letters: float | None
    log: float | None


class Messages(Protocol):
    """Runs, their outcomes and their history."""

    async def record(self, messages: Sequence[Message]) -> None:
        """Write QUEUED rows (WAITING when `not_before` is ahead) at enqueue; known ids stay as they are."""
        ...

    async def claim(self, claims: Sequence[Claim]) -> list[Claimed]:
        """Take the right to run, in the order given; each raises the row's epoch, makes the row when there
        is none, marks the claim open, and counts a crash if another worker's was open already (a worker's
        name is that of one process: its own open claim is a call repeated, or its channel lost). A row with
        an outcome, or with a higher hop than the message's, is left as it is (`status`, `stale` tell)."""
        ...

    async def running(self, message: Message, *, worker: str, epoch: int, attempt: int, started_at: datetime) -> bool:
        """Show that a run is going on (made for runs of more than a second). False: it is fenced."""
        ...

    async def give_back(self, runs: Sequence[tuple[str, int]]) -> None:
        """(message id, epoch): these claims ended without a run of their own fault; they count no crash.
        RUNNING rows read QUEUED again. A row made for an epoch of 0 is deleted."""
        ...

    async def settle(self, group: Sequence[Settlement]) -> list[Settled]:
        """Record a group in one transaction, with all that follows from each.

        A settlement applies if no row stands, or the row has no outcome and its epoch is the
        settlement's own. Applied ones close the claim, free the deduplication id when final, drop
        the cancel when final, write errors, retries and ends of failed runs to the log, park or
        note the time in place, and add the outbox rows (due by `due_at`). If a row's data makes the
        group fail, the group is repeated row by row and the bad ones are REFUSED.
        """
        ...

    async def get(self, message_id: str) -> MessageRecord | None: ...

    async def get_many(self, message_ids: Sequence[str]) -> dict[str, MessageRecord]: ...

    async def history(self, message_id: str) -> list[LogEntry]:
        """Its log, oldest first; the lines of an errorless run are derived from its instants."""
        ...

    async def progress(self, message_id: str, epoch: int, done: int, total: int) -> None: ...

    async def counts(self) -> dict[str, dict[Status, int]]:
        """queue -> status -> rows, for WAITING, RUNNING and FAILED."""
        ...

    async def oldest(self) -> dict[str, datetime]:
        """queue -> when the oldest of its recorded messages without an outcome was created."""
        ...

    async def list(self, which: MessageFilter, *, cursor: str | None = None, limit: int = 100) -> Page:
        """MessageRecords, newest first."""
        ...


class Cancels(Protocol):
    """Durable requests to cancel."""

    async def cancel(self, message_id: str) -> CancelEffect: ...

    async def cancel_many(self, message_ids: Sequence[str]) -> list[CancelEffect]:
        """The same for each, in one transaction."""
        ...

    async def changes(self, mark: str | None) -> Changes:
        """Cancels and queues changed since `mark` (None: all live ones). Cheap: two index look-ups."""
        ...


class Waiting(Protocol):
    """The waiting room, and the outbox."""

    async def book(self, rows: Sequence[WaitingRow]) -> list[bool]:
        """Take messages into the waiting room. A booking whose hop is not above the highest known for its
        id, or whose message has an outcome, is dropped (False); one whose cancel was asked for is
        recorded CANCELLED and dropped (False). The row of the message reads WAITING, made if there is none:
        it is what knows the highest hop when the waiting row has gone."""
        ...

    async def claim_due(self, limit: int, lease: float) -> list[WaitingRow]:
        """Up to `limit` due rows, oldest due first, claimed for `lease` seconds, in which no other caller gets
        them. Those whose cancel was asked for are recorded CANCELLED instead."""
        ...

    async def released(self, keys: Sequence[tuple[str, int]]) -> None:
        """(id, hop): these rows are on their queues now; delete them. Rows of other hops stay. Their messages
        read QUEUED, unless they have moved on."""
        ...

    async def next_due(self) -> datetime | None:
        """The earliest instant at which a waiting or outbox row is to be looked at; claimed ones at their
        lease's end."""
        ...

    async def reschedule(self, message_id: str, due_at: datetime) -> bool:
        """Change when a waiting message is due; False: it is not waiting."""
        ...

    async def waiting(self, *, queue: str | None = None, cursor: str | None = None, limit: int = 100) -> Page:
        """WaitingRows, by due time."""
        ...

    async def claim_outbox(self, limit: int, lease: float) -> list[OutboxRow]:
        """Up to `limit` outbox rows past their `due_at`, claimed for `lease` seconds."""
        ...

    async def add_outbox(self, rows: Sequence[OutboxRow]) -> None:
        """Add rows; a known id adds nothing, unless its `attempts` has grown: then it takes that and the new
        `due_at`, and its claim ends."""
        ...

    async def published(self, ids: Sequence[str]) -> None:
        """These outbox rows are on the broker; delete them."""
        ...


class DeadLetters(Protocol):
    """The archive of messages that failed for good."""

    async def archive(self, letters: Sequence[DeadLetter]) -> None:
        """Add or replace, by id."""
        ...

    async def dead(
        self, which: DeadFilter, *, cursor: str | None = None, limit: int = 100, oldest_first: bool = False
    ) -> Page:
        """DeadLetters, newest first unless said otherwise."""
        ...

    async def count_dead(self, which: DeadFilter) -> int: ...

    async def revive(self, ids: Sequence[str], rows: Sequence[OutboxRow]) -> int:
        """Delete these entries and add the outbox rows of their new messages, in one transaction; how many
        entries were there. A row is added only if the entry at the same place was there."""
        ...

    async def delete_dead(self, which: DeadFilter, *, limit: int = 1000) -> int:
        """Delete up to `limit`; how many."""
        ...


class Queues(Protocol):
    """The authority on every queue."""

    async def ensure_queue(self, queue: Queue, *, origin: str = "code") -> QueueRecord:
        """The queue's record, made if there is none.

        A record made by code takes the code's limits whenever code asks for others; one whose limits
        an operator set keeps them. A bare name (a Queue with no limits) never changes a record that
        exists: pass origin="name" for it; or "gateway", which makes a missing queue as an operator would.
        """
        ...

    async def get_queue(self, name: str) -> QueueRecord | None: ...

    async def list_queues(self) -> list[QueueRecord]: ...

    async def set_queue(
        self,
        name: str,
        *,
        parallelism: int | None | EllipsisType = ...,
        rate_limit: RateLimit | None | EllipsisType = ...,
        worker_parallelism: int | None | EllipsisType = ...,
        retry_in_place: bool | EllipsisType = ...,
        paused: bool | EllipsisType = ...,
    ) -> QueueRecord | None:
        """Change what is given, as an operator; None: no such queue. Pausing alone leaves the origin as it is."""
        ...

    async def rebirth(self, queue: Queue) -> QueueRecord | None:
        """Change how the queue is born (fifo, priorities, partitions) and its limits, for `taskq queues migrate`."""
        ...

    async def delete_queue(self, name: str) -> bool: ...

    async def take_starts(self, queue: str, wanted: int, rate: RateLimit, slack: float) -> Permits:
        """Stamp up to `wanted` starts into the queue's rolling window, at the store's now.

        A start is granted if fewer than `rate.limit` starts were stamped within the last
        `rate.per + slack` seconds. `retry_in`: seconds until the next could be granted, when
        fewer were than wanted. Repeated after a lost answer it stamps anew: the window then holds
        fewer starts than it could, never more.
        """
        ...

    async def restamp(self, queue: str, after: int, ahead: float = 0.0) -> bool:
        """Starts beyond the count `after` happen late: they count from `ahead` seconds from now, and with them all that
        came later. False: the first of them has left the window; nothing was done, and others may start in its place.
        """
        ...


class FlowKeys(Protocol):
    """Flow control by key: who may start. Messages that have a key wait in the waiting room when they are due."""

    async def let_go(
        self,
        after: str | None,
        limit: int,
        lease: float,
        *,
        ahead: Mapping[str, int],
        most: int,
        total: int | None = None,
    ) -> LetGo:
        """Reserve permits for the oldest waiters of the keys, as far as these allow; the keys after
        `after` come first.

        lease: seconds for which the waiting rows are the caller's, as with `claim_due`.
        ahead: queue -> how many may be let go and not yet begun; `most` for other queues.
        total: at most so many runs of all keys together; None: no such limit.
        """
        ...

    async def take_permits(self, asks: Sequence[Ask], lease: float, *, bounded: bool = False) -> list[Permit]:
        """The right to start, for each: one that was let go has it, unless its key was paused, or its rate is full
        meanwhile; others have it if there is room and nobody has waited for longer. It counts for `lease` seconds.

        bounded: all keys together are limited, so that nobody has it who was not let go."""
        ...

    async def renew_permits(self, worker: str, lease: float) -> list[str]:
        """All of the worker's permits count for so long from now; ids of their messages. One that has lapsed is not
        among them."""
        ...

    async def give_back_permits(self, worker: str, message_ids: Sequence[str]) -> None:
        """These runs ended without an outcome; their messages keep their places for a while."""
        ...

    async def restamp_flow(self, key: str, after: int, ahead: float = 0.0) -> bool:
        """`restamp`, of a key's window."""
        ...

    async def get_flow(self, key: str) -> FlowRecord | None: ...

    async def list_flow(self, *, search: str = "", cursor: str | None = None, limit: int = 100) -> Page:
        """FlowRecords, by key; those whose key contains `search`."""
        ...

    async def set_flow(
        self,
        key: str,
        *,
        paused: bool | EllipsisType = ...,
        parallelism: int | None | EllipsisType = ...,
        rate_limit: RateLimit | None | EllipsisType = ...,
        pinned_parallelism: bool | EllipsisType = ...,
        pinned_rate: bool | EllipsisType = ...,
    ) -> FlowRecord:
        """Change what is given; the key is made if there is none."""
        ...

    async def reset_flow(self, key: str) -> bool:
        """Forget the starts of its present window; False: no such key."""
        ...


class Dedup(Protocol):
    """Deduplication ids."""

    async def deduplicate(
        self, message: Message, *, window: float | None, replace: bool, row: OutboxRow
    ) -> Deduplicated:
        """Claim the message's (queue, dedup_id), with its outbox row, in one transaction.

        window: seconds that the claim lasts whatever happens; None: until the message is final.
        replace: a holder that has not started is cancelled, and the claim passes to this message.
        If an earlier message holds the claim still, nothing was written.
        """
        ...


class Schedules(Protocol):
    """What is to be sent, and when; and the firings, each of which exists once."""

    async def put_schedule(self, row: ScheduleRow, *, next_at: datetime | None, origin: str) -> ScheduleRecord:
        """Make the schedule, or change it. A change of its timing or policy makes it begin anew, now, as if it had
        sent nothing, and so does any change of one that cannot go on; a change of the message alone leaves its next
        instant as it is. Code does not change what an operator did."""
        ...

    async def reconcile_schedules(self, app: str, rows: Sequence[tuple[ScheduleRow, datetime | None]]) -> Reconciled:
        """Put all that an app's code declares (with their next instants), and delete those that code had declared
        before and does no longer, in one transaction."""
        ...

    async def get_schedule(self, app: str, id: str) -> ScheduleRecord | None: ...

    async def list_schedules(self, app: str, *, cursor: str | None = None, limit: int = 100) -> Page:
        """ScheduleRecords, by id."""
        ...

    async def pause_schedule(self, app: str, id: str) -> ScheduleRecord | None:
        """It sends nothing until it is resumed; None: there is none."""
        ...

    async def resume_schedule(self, app: str, id: str, *, next_at: datetime | None) -> ScheduleRecord | None:
        """What it would have sent while it was paused is not sent any more; None: there is none."""
        ...

    async def delete_schedule(self, app: str, id: str) -> bool: ...

    async def due_schedules(self, app: str, limit: int) -> tuple[datetime, list[ScheduleRecord]]:
        """The store's now, and up to `limit` schedules to look at, the longest due first."""
        ...

    async def next_schedule(self, app: str) -> datetime | None:
        """When the next one is due."""
        ...

    async def fire(self, advances: Sequence[Advance]) -> list[list[Tick]]:
        """Move schedules on, with their ticks, outbox rows and messages' rows, in one transaction; for each the
        ticks that are now its caller's to publish. One whose version is not the stored one any more, or that is
        gone, moves nothing, and a tick that exists is not sent again: whoever was first publishes it."""
        ...

    async def run_schedule(self, app: str, id: str, tick: Tick) -> bool:
        """Add a tick out of turn, with its outbox row; False: there is no such schedule."""
        ...

    async def firings(self, app: str, id: str, *, limit: int = 100) -> list[Firing]:
        """The latest ticks, newest first."""
        ...


class Store(Messages, Cancels, Waiting, DeadLetters, Queues, FlowKeys, Dedup, Schedules, Gateway, Protocol):
    """All of it, and the life of the adapter. Bound to no event loop; safe to call from one at a time."""

    @property
    def id(self) -> str:
        """The store's own UUID, made with its schema; the broker is bound to it. Known after `open`."""
        ...

    @property
    def url(self) -> str:
        """Where it is, without password."""
        ...

    @property
    def revision(self) -> str:
        """The schema's revision that this code works with; the store is at it after `open`."""
        ...

    @property
    def own_clock(self) -> bool:
        """Whether it has a clock of its own, which `now` tells, and does not go by this process's."""
        ...

    async def open(self) -> None:
        """Connect and bring the schema up to date, under a lock.

        Raises:
            StoreUnavailable: no answer; refused.
            SchemaTooNew: written by a newer taskq.
        """
        ...

    async def close(self) -> None: ...

    async def now(self) -> datetime:
        """The store's clock."""
        ...

    async def prune(self, keep: Retention, *, limit: int = 1000) -> int:
        """Delete up to `limit` rows of each kind past their retention, and stale leases, windows, cancels
        and deduplication claims; how many."""
        ...

    async def table_sizes(self) -> dict[str, int]:
        """table -> rows, for `taskq doctor`."""
        ...
