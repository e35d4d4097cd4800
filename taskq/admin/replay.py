"""Dead letters brought back: each becomes a new message, stored for sending in the transaction that deletes the letter.

A new lap, no way back: id, attempt and hop are new, so that nothing of the old run stands against it.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from taskq.broker.base import Broker
from taskq.clock import Clock
from taskq.dispatch import Dispatcher, outbox_row
from taskq.errors import InvalidMessage, TaskqError
from taskq.http.request import request_of
from taskq.message import Message, new_id
from taskq.queue import QueueRecord
from taskq.store.base import DeadFilter, DeadLetter, OutboxRow, Store

logger = logging.getLogger("taskq.admin")

BATCH = 200
REPAIR_AFTER = 10.0  # seconds after which the keeper publishes what this process has not

Change = Callable[[Message], Message]


@dataclass(frozen=True, slots=True)
class Revived:
    """A dead letter that is a message again; `published` False: the keeper will publish it."""

    letter_id: str
    message_id: str
    queue: str
    published: bool


class NotOurs(TaskqError):
    """A dead letter whose bytes are no message of ours cannot be retried."""


class UnknownLetter(TaskqError):
    """No dead letter has this id, nor holds a message of this id."""


def again(message: Message, now: datetime) -> Message:
    """The new message of a dead one: same task, arguments, queue, headers and keys; a life of its own.

    Neither `not_before` nor `expires_at` is kept: the one has passed, the other would kill it again.
    One that is a request has a row from the start, as when it was published.

    Raises:
        InvalidMessage: it is a request, and damaged.
    """
    request = request_of(message)
    return replace(
        message,
        payload=message.payload if request is None else replace(request, not_before=None).encode(),
        id=new_id(now),
        created_at=now,
        attempt=1,
        snoozes=0,
        hop=0,
        misses=0,
        not_before=None,
        expires_at=None,
        dedup_id=None,
        reply_to=None,
        granted=False,
        recorded=request is not None,
        # It may be published twice, here and by the keeper: its first start asks the store.
        repeated=True,
    )


class Replay:
    """Revives dead letters in batches."""

    def __init__(self, *, broker: Broker, store: Store, dispatcher: Dispatcher, clock: Clock) -> None:
        self._broker = broker
        self._store = store
        self._dispatcher = dispatcher
        self._clock = clock
        self._records: dict[str, QueueRecord | None] = {}

    async def letters(self, which: DeadFilter) -> list[str]:
        """The ids of the letters that fit, the oldest first."""
        ids: list[str] = []
        async for page in pages(self._store, which):
            ids += [letter.id for letter in page]
        return ids[::-1]

    async def revive(self, ids: Sequence[str], change: Change | None = None) -> AsyncIterator[list[Revived]]:
        """Bring these letters back, in this order, a batch at a time; a letter that is gone meanwhile is left out.

        Args:
            change: makes of each new message the one that is sent; it keeps the id. What it raises ends the call.

        Raises:
            NotOurs: one of a batch is no message of ours; nothing of that batch was done.
        """
        for start in range(0, len(ids), BATCH):
            yield await self._batch(list(dict.fromkeys(ids[start : start + BATCH])), change)

    async def _batch(self, ids: list[str], change: Change | None) -> list[Revived]:
        found = {letter.id: letter for letter in (await self._store.dead(DeadFilter(ids=ids), limit=BATCH)).items}
        letters = [found[one] for one in ids if one in found]
        messages = [self._message(letter) for letter in letters]
        if change is not None:
            messages = [change(message) for message in messages]
        due_at = await self._store.now() + timedelta(seconds=REPAIR_AFTER)
        rows = [
            replace(outbox_row(message, "retry", due_at), id=f"{letter.id}/retry/0")
            for letter, message in zip(letters, messages, strict=True)
        ]
        there = await self._store.revive([letter.id for letter in letters], rows)
        laps = list(zip(letters, messages, rows, strict=True))
        if there == len(laps):
            return await self._sent(laps)
        logger.warning("%d dead letters were taken by somebody else meanwhile", len(laps) - there)
        # Which messages without a row came back, only the outbox knows: the keeper publishes them.
        known = await self._store.get_many([message.id for message in messages if message.recorded])
        ours = await self._sent([lap for lap in laps if lap[1].id in known])
        others = [_revived(letter, message, False) for letter, message, _ in laps if not message.recorded]
        return ours + others[: max(0, there - len(ours))]

    async def _sent(self, laps: Sequence[tuple[DeadLetter, Message, OutboxRow]]) -> list[Revived]:
        published = await self._publish([message for _, message, _ in laps], [row for _, _, row in laps])
        return [_revived(letter, message, done) for (letter, message, _), done in zip(laps, published, strict=True)]

    def _message(self, letter: DeadLetter) -> Message:
        try:
            if letter.message is not None:
                return again(letter.message, self._clock.now())
        except InvalidMessage as error:
            raise _not_ours(letter) from error
        raise _not_ours(letter)

    async def _publish(self, messages: Sequence[Message], rows: Sequence[OutboxRow]) -> list[bool]:
        try:
            pairs = [(message, await self._record(message.queue)) for message in messages]
            results = await self._dispatcher.send_many(pairs)
            sent = [error is None for error in results]
            await self._store.published([row.id for row, done in zip(rows, sent, strict=True) if done])
        except TaskqError as error:
            logger.warning("publishing: %s; the keeper will do it", error)
            return [False] * len(rows)
        for problem in results:
            if problem is not None:
                logger.warning("publishing: %s; the keeper will do it", problem)
        return sent

    async def _record(self, name: str) -> QueueRecord | None:
        if name not in self._records:
            self._records[name] = await self._store.get_queue(name)
        return self._records[name]


def _not_ours(letter: DeadLetter) -> NotOurs:
    return NotOurs(
        f"dead letter {letter.id} is no message of taskq ({letter.reason}): it can be shown and deleted, not retried"
    )


def _revived(letter: DeadLetter, message: Message, published: bool) -> Revived:
    return Revived(letter.id, message.id, message.queue, published)


async def pages(store: Store, which: DeadFilter) -> AsyncIterator[list[DeadLetter]]:
    """The letters that fit, the newest first, page by page."""
    cursor: str | None = None
    while True:
        page = await store.dead(which, cursor=cursor, limit=500)
        yield page.items
        cursor = page.cursor
        if cursor is None:
            return


async def resolve(store: Store, ids: Sequence[str]) -> list[str]:
    """Ids of letters, for ids of letters or of the messages that they hold.

    Raises:
        UnknownLetter: some are neither; they are named.
    """
    wanted = list(dict.fromkeys(ids))
    known: set[str] = set()
    for start in range(0, len(wanted), BATCH):
        page = await store.dead(DeadFilter(ids=wanted[start : start + BATCH]), limit=BATCH)
        known |= {letter.id for letter in page.items}
    resolved: dict[str, None] = {}
    missing = []
    for one in wanted:
        if one in known:
            resolved[one] = None
            continue
        letters = (await store.dead(DeadFilter(message_id=one))).items
        if not letters:
            missing.append(one)
        resolved |= dict.fromkeys(letter.id for letter in letters)
    if missing:
        raise UnknownLetter(f"no dead letter {', '.join(map(repr, missing[:10]))}: `taskq dlq list` shows them")
    return list(resolved)
