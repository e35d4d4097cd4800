"""The harness's app in a process that kills itself, once, in one gap between two steps of the product.

`TASKQ_TEST_DIE_AT` names the gap, `TASKQ_TEST_DIE_IN` a folder. The process lives until the test makes
`armed` in that folder; the first process that comes through the gap after that writes `death` there
(who, when, with which messages in hand) and is gone: nobody else dies.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskq.broker.rabbitmq.publisher import ConfirmChannel
from taskq.dispatch import Dispatcher
from taskq.outcome import Status
from taskq.store import sql
from taskq.store.adapter import SqlStore
from taskq.worker.settle import Settler
from tests.integration.harness_app import app as app

Hand = list[tuple[str, int]]  # messages with the attempts that ran


@dataclass(frozen=True, slots=True)
class Death:
    """What a process left behind.

    at    float, time.time()
    hand  the messages that the step in question was about, with their attempts
    """

    gap: str
    pid: int
    at: float
    hand: Hand

    @staticmethod
    def read(folder: Path) -> Death | None:
        """None: nobody has died yet."""
        path = folder / "death"
        if not path.exists():
            return None
        gap, pid, at, hand = json.loads(path.read_text())
        return Death(gap, pid, at, [(message, attempt) for message, attempt in hand])


def pass_by(gap: str, hand: Iterable[tuple[str, int]] = ()) -> None:
    """Die here if this is the gap, it is armed, and nobody has died in it."""
    if gap != os.environ.get("TASKQ_TEST_DIE_AT"):
        return
    folder = Path(os.environ["TASKQ_TEST_DIE_IN"])
    if not (folder / "armed").exists():
        return
    mine = folder / f"death-{os.getpid()}"
    mine.write_text(json.dumps([gap, os.getpid(), time.time(), list(hand)]))
    try:
        os.link(mine, folder / "death")  # atomic, and fails for the second
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


def around(owner: Any, name: str, before: Callable[..., None] | None, after: Callable[..., None] | None) -> None:
    """Have an async method call `before(*arguments)` and `after(result, *arguments)`, without self."""
    original = getattr(owner, name)

    @functools.wraps(original)
    async def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        if before is not None:
            before(*args)
        result = await original(self, *args, **kwargs)
        if after is not None:
            after(result, *args)
        return result

    setattr(owner, name, wrapped)


def attempts(group: Sequence[Any]) -> Hand:
    """Of settlements."""
    return [(one.message.id, one.attempt) for one in group]


def messages(rows: Iterable[Any]) -> Hand:
    """Of rows of the waiting room: they wait for this attempt."""
    return [(row.message.id, row.message.attempt) for row in rows]


def in_settle() -> None:
    """The gaps of a worker at the store."""

    def before(group: Sequence[Any]) -> None:
        pass_by("worker: ran, not committed", attempts(group))

    def after(_: Any, group: Sequence[Any]) -> None:
        if all(one.status is Status.SUCCEEDED for one in group):
            pass_by("worker: success committed, not acknowledged", attempts(group))
        if any(one.parked is not None for one in group):
            pass_by("worker: retry committed, not acknowledged", attempts(group))
        if any(one.outbox for one in group):
            pass_by("worker: dead letter committed, not published", attempts(one for one in group if one.outbox))

    around(SqlStore, "settle", before, after)
    transaction = sql.settle.settle

    def settle(tx: Any, group: Sequence[Any]) -> Any:
        settled = transaction(tx, group)
        pass_by("worker: written, not committed", attempts(group))
        return settled

    sql.settle.settle = settle


def in_publish() -> None:
    """The gaps of a worker at the broker: ids of outbox rows begin with their message's."""
    publish = Settler._publish

    async def wrapped(self: Any, rows: Sequence[Any], then: Callable[[Any], None]) -> None:
        hand = [(row.message_id, 0) for row in rows]

        def acknowledge(settled: Any) -> None:
            pass_by("worker: dead letter published, not acknowledged", hand)
            then(settled)

        await publish(self, rows, acknowledge)

    Settler._publish = wrapped  # type: ignore[method-assign]

    def published(ids: Sequence[str]) -> None:
        letters = [(one.partition("/")[0], 0) for one in ids if "/dead/" in one]
        if letters:
            pass_by("worker: dead letter published, its row there", letters)
        if any("/enqueue/" in one for one in ids):
            pass_by("sender: claimed its dedup_id, sent, its row there")

    around(SqlStore, "published", published, None)


def in_keeper() -> None:
    """The gaps of the keeper. One that claims nothing, or writes nothing, passes by no gap."""

    def claimed(rows: Sequence[Any], *_: Any) -> None:
        if rows:
            pass_by("keeper: due rows claimed, not published", messages(rows))

    def released(keys: Sequence[tuple[str, int]]) -> None:
        if keys:
            pass_by("keeper: published, rows not deleted", [(message, 0) for message, _ in keys])

    def letters(rows: Sequence[Any]) -> Hand:
        return [(row.message_id, 0) for row in rows]

    around(SqlStore, "claim_due", None, claimed)
    around(SqlStore, "released", released, None)
    around(
        SqlStore,
        "book",
        lambda rows: pass_by("keeper: waiting not booked", messages(rows)),
        lambda _, rows: pass_by("keeper: booked, not acknowledged", messages(rows)),
    )
    around(
        SqlStore,
        "archive",
        lambda rows: pass_by("keeper: dead letter not archived", letters(rows)),
        lambda _, rows: pass_by("keeper: archived, not acknowledged", letters(rows)),
    )


def in_sender() -> None:
    """The gaps of a sender; what is after its confirm, it passes by itself."""
    publish, confirmed = ConfirmChannel.publish, ConfirmChannel._confirmed

    def before_frames(self: Any, *args: Any) -> None:
        pass_by("sender: frames not sent")
        publish(self, *args)

    def before_confirm(self: Any, *args: Any) -> None:
        pass_by("sender: sent, confirm not read")
        confirmed(self, *args)

    ConfirmChannel.publish = before_frames  # type: ignore[method-assign]
    ConfirmChannel._confirmed = before_confirm  # type: ignore[method-assign]
    around(SqlStore, "deduplicate", None, lambda *_: pass_by("sender: claimed its dedup_id, not sent"))


def in_api() -> None:
    """The gaps of the HTTP API between a request and its answer."""

    def before(parcels: Sequence[Any]) -> None:
        pass_by("api: not committed", [(parcel.message.id, 0) for parcel in parcels])

    def after(_: Any, parcels: Sequence[Any]) -> None:
        pass_by("api: committed, not published", [(parcel.message.id, 0) for parcel in parcels])

    def published(_: Any, sent: Sequence[Any]) -> None:
        pass_by("api: published, not answered", [(message.id, 0) for message, _ in sent])

    around(SqlStore, "accept", before, after)
    around(Dispatcher, "send_many", None, published)


for install in (in_settle, in_publish, in_keeper, in_sender, in_api):
    install()
