"""The end of a run: outcome and everything that follows, in one transaction.

The hot path is a group of first runs that succeeded: one upsert writes them all, and its count of
rows says that each was applied. Only when it falls short is the transaction rolled back and the
group looked at row by row.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from operator import itemgetter
from typing import Any

import sqlalchemy as sa

from taskq.message import Message
from taskq.outcome import Failure, Status
from taskq.store import tables
from taskq.store.base import OutboxRow, Settled, Settlement
from taskq.store.lines import Contended, Plain, Tx
from taskq.store.rows import FINAL, clean, from_failure, maybe_clean, maybe_us, to_us
from taskq.store.sql import cancels, flow, outbox, waiting
from taskq.store.sql.bulk import distinct, insert_many, insert_row, insert_statement, locked
from taskq.store.sql.finish import LogLine, drop_cancels, free_dedup, write_log
from taskq.store.sql.messages import NOT_FINAL, cancelled, record, wait
from taskq.store.sql.requests import is_request

T = tables.messages


_ANSWERED = ("ERROR", "DELIVERED")  # the lines that keep a response


class FallsShort(Exception):
    """Some of the group do not apply: roll back, and settle them with `settle_looking`."""


_COLUMNS = (
    "id",
    "task",
    "queue",
    "status",
    "attempt",
    "epoch",
    "hop",
    "worker",
    "created_at",
    "started_at",
    "ended_at",
    "not_before",
    "result",
    "result_type",
    "reason",
    "failure",
)
_KEPT = ("id", "task", "queue", "epoch", "created_at")
_APPLY = (
    "(id) DO UPDATE SET "
    + ", ".join(f"{name} = excluded.{name}" for name in _COLUMNS if name not in _KEPT)
    + ", claimed = false, transient = false"
    f" WHERE {NOT_FINAL} AND taskq_messages.epoch = excluded.epoch AND taskq_messages.hop <= excluded.hop"
)


def _row(one: Settlement) -> tuple[Any, ...]:
    message = one.message
    final = one.status.final
    return (
        clean(message.id),
        clean(message.task),
        clean(message.queue),
        one.status.value,
        one.attempt if final else one.next_attempt,
        one.epoch,
        message.hop,
        clean(one.worker),
        to_us(message.created_at),
        to_us(one.started_at),
        to_us(one.ended_at),
        None if one.in_place is None else to_us(one.in_place),
        one.result,
        maybe_clean(one.result_type),
        maybe_clean(one.reason),
        from_failure(one.failure),
    )


def settle(tx: Tx, group: Sequence[Settlement]) -> list[Settled]:
    """Settle a group all of which applies.

    Raises:
        FallsShort: not all of it does; nothing is to be committed.
    """
    rows = _rows(group)
    if insert_many(tx, T, _COLUMNS, rows, _APPLY) != len(rows):
        raise FallsShort
    _follow(tx, group)
    return [Settled.APPLIED] * len(group)


def _rows(group: Sequence[Settlement]) -> list[tuple[Any, ...]]:
    """Rows in the order of their ids, which is the order of their locks; none twice."""
    rows = sorted(map(_row, group), key=itemgetter(0))
    for one, other in pairwise(rows):
        if one[0] == other[0]:
            raise FallsShort
    return rows


def is_plain(group: Sequence[Settlement]) -> bool:
    """Whether nothing follows from any of the group but its row, and the end of its cancel and its permit."""
    return all(
        one.status is Status.SUCCEEDED
        and one.parked is None
        and not one.outbox
        and one.message.dedup_id is None
        and not one.born
        and not is_request(one.message)
        for one in group
    )


def settle_plain_postgres(tx: Plain, group: Sequence[Settlement]) -> list[Settled | None]:
    """Settle a plain group by one statement; None for those that do not apply as they are.

    Raises:
        FallsShort: a message is in it twice; nothing was done.
    """
    insert, parameters = insert_statement(T, _COLUMNS, _rows(group), _APPLY)
    statement = (
        f"WITH put AS ({insert} RETURNING id, worker),"
        " dropped AS (DELETE FROM taskq_cancels WHERE message_id IN (SELECT id FROM put))"
    )
    if any(one.message.flow is not None for one in group):
        statement += (
            ", freed AS (DELETE FROM taskq_permits USING put"
            " WHERE taskq_permits.message_id = put.id AND taskq_permits.worker = put.worker)"
        )
    statement += " SELECT id FROM put"
    applied = {row[0] for row in tx.execute(statement, parameters)}
    return [Settled.APPLIED if clean(one.message.id) in applied else None for one in group]


def settle_plain_sqlite(tx: Plain, group: Sequence[Settlement]) -> list[Settled | None]:
    """Settle a plain group, all of which applies; raises as `settle`."""
    rows = _rows(group)
    if tx.execute_many(insert_row(T, _COLUMNS, _APPLY), rows) != len(rows):
        raise FallsShort
    # Nobody else writes meanwhile, and mostly nobody wants to cancel anything.
    if tx.execute("SELECT 1 FROM taskq_cancels LIMIT 1").fetchone():
        tx.execute_many("DELETE FROM taskq_cancels WHERE message_id = ?", [row[:1] for row in rows])
    permits = [(clean(one.message.id), clean(one.worker)) for one in group if one.message.flow is not None]
    if permits:
        tx.execute_many("DELETE FROM taskq_permits WHERE message_id = ? AND worker = ?", permits)
    return [Settled.APPLIED] * len(group)


def settle_looking(tx: Tx, group: Sequence[Settlement]) -> list[Settled]:
    """Settle what applies of a group, in its order."""
    settled = [Settled.FENCED] * len(group)
    for indexes in distinct([one.message.id for one in group]):
        found = _settle_distinct(tx, [group[index] for index in indexes])
        for index, one in zip(indexes, found, strict=True):
            settled[index] = one
    return settled


def _settle_distinct(tx: Tx, group: Sequence[Settlement]) -> list[Settled]:
    rows = [_row(one) for one in group]
    select: sa.Select[Any] = sa.select(T.c.id, T.c.status, T.c.epoch, T.c.hop, T.c.worker, T.c.ended_at)
    select = locked(tx, select.where(T.c.id.in_([row[0] for row in rows])).order_by(T.c.id))
    standing: dict[str, sa.Row[Any]] = {row.id: row for row in tx.connection.execute(select)}
    settled, applying = [], []
    for one, row in zip(group, rows, strict=True):
        verdict = _verdict(one, row, standing.get(row[0]))
        if verdict is None:
            applying.append((row, one))
        settled.append(verdict or Settled.APPLIED)
    wanted = sorted(row for row, _ in applying)
    if insert_many(tx, T, _COLUMNS, wanted, _APPLY) != len(wanted):
        raise Contended  # a row was made in between; it will be seen next time
    _follow(tx, [one for _, one in applying])
    return settled


def _verdict(one: Settlement, row: tuple[Any, ...], standing: sa.Row[Any] | None) -> Settled | None:
    """What becomes of a settlement in the face of the row that stands; None: it is to be written."""
    if standing is None:
        return None
    # The commit of an earlier try may have been the last thing that the connection did. A parked
    # message may have been released since, which changes its status.
    written = (standing.epoch, standing.worker, standing.ended_at) == (one.epoch, row[7], row[10])
    if written and (standing.status == one.status if one.status.final else standing.status not in FINAL):
        return Settled.APPLIED
    if standing.status in FINAL or standing.epoch != one.epoch or standing.hop > one.message.hop:
        return Settled.FENCED
    return None


def _follow(tx: Tx, group: Sequence[Settlement]) -> None:
    """Everything that follows from settlements that applied."""
    finished: list[str] = []
    parked: list[Message] = []
    lines: list[LogLine] = []
    rows: list[OutboxRow] = []
    born: list[Message] = []
    holders: list[str] = []
    permits: list[tuple[str, str]] = []
    for one in group:
        if one.message.flow is not None:
            permits.append((one.message.id, one.worker))
        if one.status.final:
            finished.append(clean(one.message.id))
            if one.message.dedup_id is not None:
                holders.append(clean(one.message.id))
        if one.parked is not None:
            parked.append(one.parked)
        if one.outbox:
            rows.extend(one.outbox)
        if one.born:
            born.extend(one.born)
        if one.status is not Status.SUCCEEDED or is_request(one.message):
            lines.extend(_lines(one))
    if permits:
        flow.free(tx, permits)
    if finished:
        drop_cancels(tx, finished)
    if holders:
        free_dedup(tx, holders)
    if parked:
        _park(tx, parked)
    if born:
        record(tx, born)
    if rows:
        outbox.add(tx, rows)
    if lines:
        write_log(tx, lines)


def _park(tx: Tx, parked: Sequence[Message]) -> None:
    waiting.add(tx, [(message, to_us(message.not_before or message.created_at)) for message in parked])
    wait(tx, parked)
    # A cancel that came during the run would else wait as long as its message does.
    for message_id in sorted(cancelled(tx, [clean(message.id) for message in parked])):
        cancels.end_waiting(tx, message_id)


def _lines(one: Settlement) -> list[LogLine]:
    """The lines of history of an attempt that did not succeed, or of a request."""
    started, ended, of_request = to_us(one.started_at), to_us(one.ended_at), is_request(one.message)
    until = one.in_place or (one.parked.not_before if one.parked is not None else None)
    states: list[tuple[int, str, str]] = [(started, "ACTIVE", "")]
    if of_request and started == ended:
        states = []  # it ended before it began
    if one.failure is not None:
        states.append((ended, "ERROR", _told(one.failure)))
    match one.status:
        case Status.SUCCEEDED:
            states.append((ended, "DELIVERED", ""))
        case Status.FAILED:
            states.append((ended, "FAILED", one.reason or ""))
        case Status.EXPIRED:
            states = [(ended, "EXPIRED", one.reason or "")]
        case Status.CANCELLED:
            states.append((ended, "CANCELED", one.reason or ""))
        case _:
            if until is not None and until <= one.ended_at and one.failure is None:
                return []  # it waits for its key, not for a time: nothing has begun
            detail = "" if until is None else f"until {until.isoformat()}"
            states.append((ended, "RETRY" if one.failure is not None else "SNOOZED", detail))
    message_id, worker = clean(one.message.id), clean(one.worker)
    lines = [
        LogLine(message_id, at, state, one.attempt, worker, clean(detail), of_request=of_request)
        for at, state, detail in states
    ]
    lines[-1] = lines[-1]._replace(next_at=maybe_us(until))
    if one.response is not None:
        place = next((n for n, line in enumerate(lines) if line.state in _ANSWERED), -1)
        lines[place] = lines[place]._replace(response=one.response)
    return lines


def _told(failure: Failure) -> str:
    return f"{failure.type}: {failure.message}" if failure.message else failure.type
