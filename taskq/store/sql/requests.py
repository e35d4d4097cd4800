"""Messages that are requests: what they are looked for by, beside the message's row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import sqlalchemy as sa

from taskq.errors import InvalidMessage
from taskq.http.request import PAYLOAD_TYPE, Request
from taskq.message import Message, decode
from taskq.store import tables
from taskq.store.base import Page
from taskq.store.gateway import RequestFilter, RequestRecord
from taskq.store.lines import Tx
from taskq.store.rows import OPEN, clean, from_cursor, maybe_clean, message_record, to_cursor, to_us
from taskq.store.sql.bulk import IGNORE, execute, for_update, insert_many
from taskq.store.sql.finish import LogLine, write_log

T = tables.requests
M = tables.messages
D = tables.dead_letters
C = tables.cancels
_COLUMNS = tuple(column.name for column in T.columns)
_AMONG = "SELECT message_id FROM taskq_requests WHERE message_id AMONG ? ORDER BY message_id"


def is_request(message: Message) -> bool:
    """It came as a request, whatever runs it."""
    return message.payload_type == PAYLOAD_TYPE


# -- writing ---------------------------------------------------------------------------------


def add(tx: Tx, messages: Sequence[Message]) -> None:
    """Write the rows of those that are requests, and that they were created; known ones stay."""
    rows = _rows(messages)
    insert_many(tx, T, _COLUMNS, rows, f"(message_id) {IGNORE}")
    write_log(tx, [LogLine(row[0], row[12], "CREATED", of_request=True) for row in rows])


def keep(tx: Tx, messages: Sequence[Message]) -> None:
    """Write the rows of those that are requests if they have gone: their letters need them."""
    # The lock of one that is there holds off whoever is about to forget it.
    insert_many(tx, T, _COLUMNS, _rows(messages), "(message_id) DO UPDATE SET message_id = excluded.message_id")


def _rows(messages: Sequence[Message]) -> list[tuple[Any, ...]]:
    rows = {}
    for message in messages:
        row = _row(message) if is_request(message) else None
        if row is not None:
            rows[row[0]] = row
    return [rows[key] for key in sorted(rows)]


def _row(message: Message) -> tuple[Any, ...] | None:
    """None: its payload is damaged, and nothing is known to look for."""
    try:
        request = Request.decode(message.payload)
    except InvalidMessage:
        return None
    host, path = place_of(request.url)
    return (
        clean(message.id),
        clean(request.url),
        clean(host),
        clean(path),
        maybe_clean(request.topic),
        maybe_clean(request.endpoint),
        maybe_clean(request.schedule_id),
        clean(request.caller_ip),
        "".join(f"\n{_label(label)}" for label in request.labels) + "\n" if request.labels else "",
        None if message.flow is None else clean(message.flow.key),
        maybe_clean(request.queue_name),
        maybe_clean(request.callback_of),
        to_us(message.created_at),
        message.encode(),
    )


def _label(label: str) -> str:
    return clean(label).replace("\n", " ")


def place_of(url: str) -> tuple[str, str]:
    """Host, with the port if it is given, and path of a URL; empty for one that has none."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "", ""
    host = parts.netloc.rpartition("@")[2]
    return host.lower() if parts.scheme in ("http", "https") else host, parts.path or "/"


def forget(tx: Tx, message_ids: Sequence[str]) -> None:
    """Delete the rows of which neither the message's row nor a dead letter is left, once either has gone."""
    ids = sorted(set(message_ids))
    # Two who each delete one of the two meet here, and the later one sees both gone.
    held = list(execute(tx, _AMONG + for_update(tx), ids).scalars())
    if not held:
        return
    tx.connection.execute(
        sa.delete(T).where(
            T.c.message_id.in_(held),
            ~sa.select(M.c.id).where(M.c.id == T.c.message_id).exists(),
            ~sa.select(D.c.id).where(D.c.message_id == T.c.message_id).exists(),
        )
    )


def known(tx: Tx, message_ids: Sequence[str]) -> set[str]:
    """Those of the ids that are requests."""
    return set(execute(tx, _AMONG, list(message_ids)).scalars())


# -- reading ---------------------------------------------------------------------------------


def conditions(tx: Tx, which: RequestFilter) -> list[sa.ColumnElement[bool]]:
    """What the filter asks of a request's own row; its ids and instants are for others to look at."""
    found: list[sa.ColumnElement[bool]] = []
    for column, values in (
        (T.c.topic, which.topics),
        (T.c.queue_name, which.queues),
        (T.c.url, which.urls),
        (T.c.host, which.hosts),
        (T.c.path, which.paths),
        (T.c.flow_key, which.flow_keys),
        (T.c.schedule_id, which.schedule_ids),
        (T.c.caller_ip, which.caller_ips),
    ):
        if values:
            found.append(column.in_([clean(value) for value in values]))
    if which.labels:
        place = sa.func.strpos if tx.postgres else sa.func.instr
        found.append(sa.or_(*(place(T.c.labels, f"\n{_label(label)}\n") > 0 for label in which.labels)))
    if which.unfinished:
        found.append(T.c.message_id.in_(sa.select(M.c.id).where(tables.UNSUCCESSFUL, M.c.status.in_(OPEN))))
    if which.uncancelled:
        found.append(~sa.select(C.c.message_id).where(C.c.message_id == T.c.message_id).exists())
    return found


_SELECT = sa.select(M, T.c.message_id, T.c.created_at.label("accepted_at"), T.c.envelope).select_from(
    T.outerjoin(M, M.c.id == T.c.message_id)
)


def get_request(tx: Tx, message_id: str) -> RequestRecord | None:
    row = tx.connection.execute(_SELECT.where(T.c.message_id == clean(message_id))).first()
    return None if row is None else _record(row)


def list_requests(tx: Tx, which: RequestFilter, cursor: str | None, limit: int) -> Page:
    select = _SELECT.where(*conditions(tx, which)).order_by(T.c.created_at.desc(), T.c.message_id.desc())
    if which.ids:
        select = select.where(T.c.message_id.in_([clean(one) for one in which.ids]))
    if which.since is not None:
        select = select.where(T.c.created_at >= to_us(which.since))
    if which.until is not None:
        select = select.where(T.c.created_at <= to_us(which.until))
    if cursor is not None:
        at, message_id = from_cursor(cursor, str)
        after = sa.tuple_(sa.literal(at), sa.literal(message_id))
        select = select.where(sa.tuple_(T.c.created_at, T.c.message_id) < after)
    rows = tx.connection.execute(select.limit(limit + 1)).all()
    more, rows = len(rows) > limit, rows[:limit]
    records = [record for record in map(_record, rows) if record is not None]
    return Page(records, to_cursor(rows[-1].accepted_at, rows[-1].message_id) if more else None)


def _record(row: sa.Row[Any]) -> RequestRecord | None:
    message = to_message(row.envelope)
    if message is None:
        return None
    return RequestRecord(message, None if row.id is None else message_record(row))


def to_message(envelope: bytes) -> Message | None:
    """None: another version wrote it."""
    try:
        return decode(envelope)
    except InvalidMessage:
        return None


def unfinished_callbacks(tx: Tx, message_id: str) -> bool:
    answers = (
        sa.select(T.c.message_id)
        .join(M, M.c.id == T.c.message_id)
        .where(T.c.callback_of == clean(message_id), tables.STATUS.in_(OPEN))
    )
    return tx.connection.execute(answers.limit(1)).first() is not None


def lag(tx: Tx, queues: Sequence[str]) -> Mapping[str, int]:
    names = {clean(queue): queue for queue in queues}
    select = (
        sa.select(M.c.queue, sa.func.count())
        .where(tables.UNSUCCESSFUL, M.c.status.in_(OPEN), M.c.queue.in_(list(names)))
        .group_by(M.c.queue)
    )
    counted = {names[queue]: int(number) for queue, number in tx.connection.execute(select)}
    return {queue: counted.get(queue, 0) for queue in queues}
