"""What the HTTP gateway asks of the store, beside what is in `base`: requests, their history, groups, signing keys.

Part of the store port; the same rules hold. A message whose payload is a request (`request_of`) has a row
of its own beside the message's: it is written in the transaction that records the message, whoever does (`accept`,
`record`, `fire`, `run_schedule`, `settle`, `revive`), with a line CREATED in the log, and goes when the message's row
and its dead letters have gone; `archive` writes it anew if it went before its letter came.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from taskq.http.request import Headers
from taskq.message import Message

if TYPE_CHECKING:
    from taskq.store.base import LogEntry, MessageRecord, OutboxRow, Page


@dataclass(frozen=True, slots=True)
class Parcel:
    """A message to be accepted.

    outbox  its publish
    dedup   (scope, id) | None: of two messages with the same within `window` seconds the later is a duplicate
    """

    message: Message
    outbox: OutboxRow
    dedup: tuple[str, str] | None = None
    window: float = 600.0


@dataclass(frozen=True, slots=True)
class Accepted:
    """What became of a parcel. `message_id`: its own, or with `duplicate` that of the first with its id."""

    message_id: str
    duplicate: bool = False


@dataclass(frozen=True, slots=True)
class RequestFilter:
    """Which requests: any of the values given for a condition, and all conditions given.

    since, until  datetime, both included: when it was published (for dead letters: when it died; for events: when)
    queues        names as their senders gave them
    unfinished    bool: only those without an outcome
    uncancelled   bool: only those of which no cancel was asked for that is still to be obeyed
    """

    ids: Sequence[str] = ()
    topics: Sequence[str] = ()
    queues: Sequence[str] = ()
    urls: Sequence[str] = ()
    hosts: Sequence[str] = ()
    paths: Sequence[str] = ()
    labels: Sequence[str] = ()
    flow_keys: Sequence[str] = ()
    schedule_ids: Sequence[str] = ()
    caller_ips: Sequence[str] = ()
    since: datetime | None = None
    until: datetime | None = None
    unfinished: bool = False
    uncancelled: bool = False


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """A message as it was accepted, and what is known of it; None: its row has been pruned."""

    message: Message
    record: MessageRecord | None


@dataclass(frozen=True, slots=True)
class Event:
    """A line of a message's history, with the message; None: its request has been pruned."""

    entry: LogEntry
    message: Message | None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A member of a URL group."""

    url: str
    name: str | None = None


@dataclass(frozen=True, slots=True)
class GroupRecord:
    """A URL group.

    endpoints  in the order in which they were added; one per url, and one per name
    headers    what every publish to the group is sent with, if it does not say otherwise
    """

    name: str
    endpoints: tuple[Endpoint, ...]
    headers: Headers
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class SigningKeys:
    """The keys with which deliveries are signed: `current` signs, receivers try `next` too. Never shown in a log."""

    current: str = field(repr=False)
    next: str = field(repr=False)


class Gateway(Protocol):
    """Requests, events, URL groups and signing keys."""

    async def accept(self, parcels: Sequence[Parcel]) -> list[Accepted]:
        """Record the messages (as `record` does), their requests, flow keys, outbox rows and claims of deduplication
        ids, in one transaction. A duplicate writes nothing. Repeated it answers the same, and a message that holds its
        id by an earlier try is no duplicate of itself. Of two parcels with the same id the first wins."""
        ...

    async def get_request(self, message_id: str) -> RequestRecord | None: ...

    async def list_requests(self, which: RequestFilter, *, cursor: str | None = None, limit: int = 100) -> Page:
        """RequestRecords, newest first."""
        ...

    async def unfinished_callbacks(self, message_id: str) -> bool:
        """Whether a callback's message of this one has no outcome yet."""
        ...

    async def lag(self, queues: Sequence[str]) -> Mapping[str, int]:
        """Of each queue how many recorded messages have no outcome yet."""
        ...

    async def events(
        self,
        which: RequestFilter,
        *,
        states: Sequence[str] = (),
        oldest_first: bool = False,
        cursor: str | None = None,
        limit: int = 100,
    ) -> Page:
        """Events of requests, newest first unless said otherwise; of these states, if any are given."""
        ...

    async def get_group(self, name: str) -> GroupRecord | None: ...

    async def list_groups(self) -> list[GroupRecord]:
        """By name."""
        ...

    async def add_endpoints(self, name: str, endpoints: Sequence[Endpoint]) -> GroupRecord:
        """Add them, making the group if there is none; one with a known url, or a known name, is changed to what is
        given."""
        ...

    async def remove_endpoints(
        self, name: str, endpoints: Sequence[tuple[str | None, str | None]]
    ) -> GroupRecord | None:
        """(url, name), either may be None: remove those that have it. A group without members is deleted; None: there
        is none, or no longer."""
        ...

    async def set_group_headers(self, name: str, headers: Headers) -> GroupRecord | None:
        """None: there is no such group."""
        ...

    async def delete_group(self, name: str) -> bool: ...

    async def signing_keys(self) -> SigningKeys:
        """Made, from the system's randomness, when they are first asked for."""
        ...

    async def rotate_signing_keys(self) -> SigningKeys:
        """The next one becomes the current one, and a new one the next."""
        ...
