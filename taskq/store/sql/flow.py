"""Flow control by key: one place lets messages of a key go, and a permit says who runs.

The keeper's leader reserves (`let_go`), in the order in which messages began to wait, key by
key; a worker turns the reservation into a running permit as it starts (`take_permits`), renews it, and
frees it in the transaction that settles the run. A permit that nobody renews counts no longer after
its lease. Starts are stamped in the windows that queues' rates use, under a name that no queue can have.

Locks are taken in the order message, key, window, permit, waiting row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import EllipsisType
from typing import Any

import sqlalchemy as sa

from taskq.flow import Flow, FlowRecord
from taskq.message import Message
from taskq.queue import RateLimit
from taskq.store import tables
from taskq.store.base import Ask, Page, Permit
from taskq.store.lines import Tx
from taskq.store.rows import clean, from_cursor, from_us, maybe_from_us, to_cursor
from taskq.store.sql import starts
from taskq.store.sql.bulk import IGNORE, for_each, insert_many, locked

F = tables.flow
P = tables.permits
W = tables.waiting
Q = tables.queues

RESERVED_FOR = 10.0  # seconds within which a message that was let go has to begin
HEAD_FOR = 30.0  # seconds for which a head that waits keeps its place without asking again
KEYS = 200  # looked at in one transaction
ALL = "flow//all"  # what is locked where all keys together are limited; a window's name, and no key's
LOOK_AGAIN = 0.05  # seconds, while what was let go has not begun
_COLUMNS = ("key", "parallelism", "rate_limit", "rate_per", "paused", "pinned_parallelism", "pinned_rate", "updated_at")
_PERMIT = ("message_id", "key", "queue", "state", "worker", "since", "until")
# The newest message's limits count, unless they are pinned. A row that stays the same is not written.
_NEWER = (
    "(key) DO UPDATE SET updated_at = excluded.updated_at,"
    " parallelism = CASE WHEN taskq_flow.pinned_parallelism THEN taskq_flow.parallelism ELSE excluded.parallelism END,"
    " rate_limit = CASE WHEN taskq_flow.pinned_rate THEN taskq_flow.rate_limit ELSE excluded.rate_limit END,"
    " rate_per = CASE WHEN taskq_flow.pinned_rate THEN taskq_flow.rate_per ELSE excluded.rate_per END"
    " WHERE taskq_flow.updated_at < excluded.updated_at - 3600000000"
    " OR (NOT taskq_flow.pinned_parallelism"
    " AND coalesce(taskq_flow.parallelism, 0) <> coalesce(excluded.parallelism, 0))"
    " OR (NOT taskq_flow.pinned_rate AND (coalesce(taskq_flow.rate_limit, 0) <> coalesce(excluded.rate_limit, 0)"
    " OR coalesce(taskq_flow.rate_per, 0) <> coalesce(excluded.rate_per, 0)))"
)
_PUT = "(message_id) DO UPDATE SET " + ", ".join(f"{name} = excluded.{name}" for name in _PERMIT[1:])


def window(key: str) -> str:
    """The name of a key's window of starts."""
    return f"flow/{clean(key)}"


# -- at enqueue ------------------------------------------------------------------------------


def meet(tx: Tx, messages: Sequence[Message]) -> None:
    """Make the keys of messages that are new, and take over the limits that they say."""
    now = tx.now()
    said: dict[str, Flow] = {}
    named: dict[str, Flow] = {}
    for message in messages:
        flow = message.flow
        if flow is None:
            continue
        (said if flow.limited and message.hop == 0 else named)[clean(flow.key)] = flow
    rows = [_born(flow, now) for _, flow in sorted(said.items())]
    insert_many(tx, F, _COLUMNS, rows, _NEWER)
    rows = [_born(flow, now) for key, flow in sorted(named.items()) if key not in said]
    insert_many(tx, F, _COLUMNS, rows, f"(key) {IGNORE}")


def _born(flow: Flow, now: int) -> tuple[Any, ...]:
    rate = flow.rate_limit
    return (clean(flow.key), flow.parallelism, rate and rate.limit, rate and rate.per, False, False, False, now)


def in_place(tx: Tx, messages: Sequence[Message]) -> set[str]:
    """Of these messages' queues those that are ordered: their heads ask for the key in their queue."""
    names = {clean(message.queue) for message in messages if message.flow is not None}
    if not names:
        return set()
    ordered = sa.select(Q.c.name).where(Q.c.name.in_(names), sa.or_(Q.c.born_fifo, Q.c.partitions.is_not(None)))
    return set(tx.connection.execute(ordered).scalars())


# -- letting go ------------------------------------------------------------------------------


@dataclass(slots=True)
class Found:
    """Messages that were let go: (id, hop) of waiting rows, ids of heads; when to look again; the key to go on after;
    whether there are more keys than were looked at."""

    rows: list[tuple[str, int]]
    heads: list[str]
    next_at: int | None
    last: str | None
    more: bool


def let_go(
    tx: Tx, after: str | None, limit: int, lease: float, ahead: Mapping[str, int], most: int, total: int | None
) -> Found:
    """Reserve for the oldest waiters of the next keys after `after`, up to `limit` of them.

    Args:
        lease: seconds for which the waiting rows are the caller's.
        ahead: queue -> how many may be let go and not begun; `most` for queues that are not in it.
        total: at most so many runs of all keys together.
    """
    if total is not None:
        starts.lock(tx, ALL)
    now = tx.now()
    keys = _keys(tx, after or "", None)
    if after is not None and len(keys) < KEYS:
        keys += _keys(tx, "", after)[: KEYS - len(keys)]
    found = Found([], [], _next_due(tx, now), keys[-1] if keys else None, len(keys) == KEYS)
    if not keys:
        return found
    statement = locked(tx, sa.select(F).where(F.c.key.in_(keys)).order_by(F.c.key))
    flows = {row.key: row for row in tx.connection.execute(statement)}
    held = _held(tx, keys, now)
    room = {queue: ahead.get(queue, most) - n for queue, n in _reserved(tx, now).items()}
    left, lapses = _all_room(tx, total, now)
    for key in keys:
        flow = flows[key]
        if flow.paused:
            continue
        free, opens = _room(tx, flow, held, now)
        if free <= 0:
            _sooner(found, opens())
            continue
        if left <= 0:
            _sooner(found, lapses)
            break
        line = _line(tx, flow.key, min(free, left, limit - len(found.rows)), now, flow.key in held["head"])
        chosen, blocked = _oldest(line, room, ahead, most)
        left -= len(chosen)
        if blocked:
            _sooner(found, now + round(LOOK_AGAIN * 1_000_000))
        if len(chosen) == free:
            _sooner(found, opens())
        if chosen:
            _reserve(tx, key, chosen, now, lease, found)
            found.last = key
        if len(found.rows) >= limit:
            found.more = True
            break
    return found


def _keys(tx: Tx, after: str, upto: str | None) -> list[str]:
    """The next keys for which something waits: each found by a step in the index, however many wait for it."""
    statement = sa.text(
        "WITH RECURSIVE following(key) AS ("
        " SELECT (SELECT min(flow_key) FROM taskq_waiting WHERE flow_key IS NOT NULL AND flow_key > :after)"
        " UNION ALL"
        " SELECT (SELECT min(flow_key) FROM taskq_waiting WHERE flow_key IS NOT NULL AND flow_key > following.key)"
        " FROM following WHERE following.key IS NOT NULL)"
        " SELECT key FROM following WHERE key IS NOT NULL LIMIT :most"
    )
    waiting = tx.connection.execute(statement, {"after": after, "most": KEYS}).scalars()
    heads = sa.select(P.c.key).distinct().where(P.c.state == "head", P.c.key > after).limit(KEYS)
    found = {*waiting, *tx.connection.execute(heads.order_by(P.c.key)).scalars()}
    return sorted(key for key in found if upto is None or key <= upto)[:KEYS]


def _next_due(tx: Tx, now: int) -> int | None:
    later = sa.select(sa.func.min(W.c.due_at)).where(W.c.flow_key.is_not(None), W.c.due_at > now)
    instant: int | None = tx.connection.execute(later).scalar_one()
    return instant


_Held = Mapping[str, Mapping[str, int]]


def _held(tx: Tx, keys: Sequence[str], now: int) -> _Held:
    """How many permits count, by their state, of each key that has any."""
    select = sa.select(P.c.key, P.c.state, sa.func.count()).where(P.c.key.in_(keys), P.c.until > now)
    counts: dict[str, dict[str, int]] = {"reserved": {}, "running": {}, "head": {}}
    for key, state, n in tx.connection.execute(select.group_by(P.c.key, P.c.state)):
        counts[state][key] = n
    return counts


def _reserved(tx: Tx, now: int) -> dict[str, int]:
    """Of each queue how many were let go and have not begun."""
    select = sa.select(P.c.queue, sa.func.count()).where(P.c.state == "reserved", P.c.until > now, P.c.worker == "")
    return {queue: n for queue, n in tx.connection.execute(select.group_by(P.c.queue))}


def _room(tx: Tx, flow: sa.Row[Any], held: _Held, now: int) -> tuple[int, Callable[[], int | None]]:
    """How many more the key lets go now, and what tells when that may change by itself."""
    reserved = held["reserved"].get(flow.key, 0)
    free, opens = 2**31, _never
    if flow.parallelism is not None:
        free = flow.parallelism - reserved - held["running"].get(flow.key, 0)
        opens = partial(_first_lapse, tx, flow.key, now)
    rate = _rate(flow)
    if rate is not None:
        started, leaves = starts.within(tx, window(flow.key), rate, rate.slack, now)
        if rate.limit - started - reserved < free:
            free, opens = rate.limit - started - reserved, lambda: leaves
    return free, opens


def _never() -> int | None:
    return None


def _first_lapse(tx: Tx, key: str, now: int) -> int | None:
    lapses = sa.select(sa.func.min(P.c.until)).where(P.c.key == key, P.c.until > now, P.c.state != "head")
    instant: int | None = tx.connection.execute(lapses).scalar_one()
    return instant


def _all_room(tx: Tx, total: int | None, now: int) -> tuple[int, int | None]:
    """How many more may be let go of all keys together, and when that may change by itself."""
    if total is None:
        return 2**31, None
    held = sa.select(sa.func.count(), sa.func.min(P.c.until)).where(P.c.until > now, P.c.state != "head")
    count, lapses = tx.connection.execute(held).one()
    return total - count, lapses


def _rate(flow: sa.Row[Any]) -> RateLimit | None:
    return None if flow.rate_limit is None else RateLimit(flow.rate_limit, flow.rate_per)


def _sooner(found: Found, instant: int | None) -> None:
    if instant is not None:
        found.next_at = instant if found.next_at is None else min(found.next_at, instant)


_Waiter = tuple[int, str, int, str]  # since, message id, hop (-1: a head), queue


def _line(tx: Tx, key: str, free: int, now: int, has_heads: bool) -> list[_Waiter]:
    """The first in line, up to `free` of them."""
    rows = sa.select(W.c.due_at, W.c.id, W.c.hop, W.c.queue).where(
        W.c.flow_key == key, W.c.flow_key.is_not(None), W.c.due_at <= now, W.c.claimed_until <= now
    )
    line: list[_Waiter] = []
    line += [tuple(row) for row in tx.connection.execute(rows.order_by(W.c.due_at, W.c.id).limit(free))]
    if has_heads:
        heads = sa.select(P.c.since, P.c.message_id, sa.literal(-1), P.c.queue)
        heads = heads.where(P.c.key == key, P.c.state == "head", P.c.until > now)
        line += [tuple(row) for row in tx.connection.execute(heads.order_by(P.c.since, P.c.message_id).limit(free))]
    return sorted(line)[:free]


def _oldest(
    line: Sequence[_Waiter], room: dict[str, int], ahead: Mapping[str, int], most: int
) -> tuple[list[_Waiter], bool]:
    """Those in line that may go, and whether more would if what was let go had begun."""
    chosen, blocked = [], False
    for waiter in line:
        queue = waiter[3]
        if waiter[2] >= 0 and room.setdefault(queue, ahead.get(queue, most)) <= 0:
            blocked = True
            continue
        if waiter[2] >= 0:
            room[queue] -= 1
        chosen.append(waiter)
    return chosen, blocked


def _reserve(tx: Tx, key: str, chosen: Sequence[_Waiter], now: int, lease: float, found: Found) -> None:
    until = now + round(RESERVED_FOR * 1_000_000)
    rows = [(message_id, key, queue, "reserved", "", since, until) for since, message_id, hop, queue in chosen]
    # A run of an older copy that still holds its permit keeps it.
    free = f"{_PUT} WHERE taskq_permits.state <> 'running' OR taskq_permits.until <= {now}"
    insert_many(tx, P, _PERMIT, sorted(rows), free)
    mine = sorted((message_id, hop) for _, message_id, hop, _ in chosen if hop >= 0)
    for_each(tx, f"SET claimed_until = {now + round(lease * 1_000_000)}", W, ("id", "hop"), mine, "")
    found.rows += [(message_id, hop) for _, message_id, hop, _ in chosen if hop >= 0]
    found.heads += [message_id for _, message_id, hop, _ in chosen if hop < 0]


# -- running ---------------------------------------------------------------------------------


def take(tx: Tx, asks: Sequence[Ask], lease: float, bounded: bool) -> list[Permit]:
    found: dict[int, Permit] = {}
    order = sorted(range(len(asks)), key=lambda index: clean(asks[index].flow.key))
    meet(tx, [asks[index].message for index in order])
    keys = sorted({clean(ask.flow.key) for ask in asks})
    select = locked(tx, sa.select(F).where(F.c.key.in_(keys)).order_by(F.c.key))
    flows = {row.key: row for row in tx.connection.execute(select)}
    for index in order:
        ask = asks[index]
        found[index] = _take(tx, ask, flows[clean(ask.flow.key)], lease, bounded)
    return [found[index] for index in range(len(asks))]


def _take(tx: Tx, ask: Ask, flow: sa.Row[Any], lease: float, bounded: bool) -> Permit:
    now = tx.now()
    message_id = clean(ask.message.id)
    held = tx.connection.execute(sa.select(P).where(P.c.message_id == message_id)).first()
    since = now if held is None else held.since
    counts = held is not None and held.until > now and held.state != "head"
    retry_in: float | None = None
    if flow.paused or not (counts or (not bounded and _next_in_line(tx, flow, since, message_id, now))):
        retry_in = 1.0
    rate, before = _rate(flow), 0
    if retry_in is None and rate is not None:
        starting = starts.take_starts(tx, window(flow.key), 1, rate, rate.slack)
        before = starting.reached - 1
        if not starting.granted:
            retry_in = starting.retry_in
    if retry_in is None:
        row = (message_id, flow.key, clean(ask.message.queue), "running", clean(ask.worker), since)
        insert_many(tx, P, _PERMIT, [(*row, now + round(lease * 1_000_000))], _PUT)
        return Permit(True, from_us(since), rate=rate, before=before)
    if ask.in_place:
        row = (message_id, flow.key, clean(ask.message.queue), "head", clean(ask.worker), since)
        insert_many(tx, P, _PERMIT, [(*row, now + round(HEAD_FOR * 1_000_000))], _PUT)
    else:
        tx.connection.execute(sa.delete(P).where(P.c.message_id == message_id))
    return Permit(False, from_us(since), retry_in=retry_in)


def _next_in_line(tx: Tx, flow: sa.Row[Any], since: int, message_id: str, now: int) -> bool:
    """Whether one that was not let go may run all the same: there is room, and nobody has waited for longer."""
    me = sa.tuple_(sa.literal(since), sa.literal(message_id))
    waits = sa.select(W.c.id).where(
        W.c.flow_key == flow.key,
        W.c.flow_key.is_not(None),
        W.c.due_at <= now,
        W.c.claimed_until <= now,
        sa.tuple_(W.c.due_at, W.c.id) < me,
    )
    heads = sa.select(P.c.message_id).where(
        P.c.key == flow.key, P.c.state == "head", P.c.until > now, sa.tuple_(P.c.since, P.c.message_id) < me
    )
    for older in (waits, heads):
        if tx.connection.execute(older.limit(1)).first() is not None:
            return False
    return _room(tx, flow, _held(tx, [flow.key], now), now)[0] > 0


def renew(tx: Tx, worker: str, lease: float) -> list[str]:
    now = tx.now()
    mine = sa.update(P).where(P.c.worker == clean(worker), P.c.state == "running", P.c.until > now)
    renewed = mine.values(until=now + round(lease * 1_000_000)).returning(P.c.message_id)
    return list(tx.connection.execute(renewed).scalars())


def give_back(tx: Tx, worker: str, message_ids: Sequence[str]) -> None:
    """Runs that ended without an outcome: their messages start elsewhere soon, and keep their places till then."""
    now = tx.now()
    # One that has lapsed counts no more, and keeps its place in line.
    until = sa.case((P.c.until > now, now + round(RESERVED_FOR * 1_000_000)), else_=P.c.until)
    mine = sa.update(P).where(P.c.message_id.in_([clean(id) for id in message_ids]), P.c.worker == clean(worker))
    tx.connection.execute(mine.where(P.c.state == "running").values(state="reserved", worker="", until=until))


def free(tx: Tx, runs: Sequence[tuple[str, str]]) -> None:
    """(message id, worker): these runs have ended."""
    keys = sorted({(clean(message_id), clean(worker)) for message_id, worker in runs})
    for_each(tx, "DELETE", P, ("message_id", "worker"), keys, "")


# -- what people ask and set -------------------------------------------------------------------


def get_flow(tx: Tx, key: str) -> FlowRecord | None:
    row = tx.connection.execute(sa.select(F).where(F.c.key == clean(key))).first()
    return None if row is None else _record(tx, row)


def list_flow(tx: Tx, search: str, cursor: str | None, limit: int) -> Page:
    select = sa.select(F).order_by(F.c.key).limit(limit + 1)
    if search:
        select = select.where(F.c.key.contains(clean(search), autoescape=True))
    if cursor is not None:
        select = select.where(F.c.key > from_cursor(cursor, str)[1])
    rows = tx.connection.execute(select).all()
    more, rows = len(rows) > limit, rows[:limit]
    return Page([_record(tx, row) for row in rows], to_cursor(0, rows[-1].key) if more else None)


def _record(tx: Tx, row: sa.Row[Any]) -> FlowRecord:
    now = tx.now()
    waits = sa.select(sa.func.count()).where(
        W.c.flow_key == row.key, W.c.flow_key.is_not(None), W.c.due_at <= now, W.c.claimed_until <= now
    )
    held = _held(tx, [row.key], now)
    rate, started, window_at = _rate(row), 0, None
    if rate is not None:
        started, leaves = starts.within(tx, window(row.key), rate, rate.slack, now)
        window_at = None if leaves is None else leaves - round((rate.per + rate.slack) * 1_000_000)
    return FlowRecord(
        key=row.key,
        parallelism=row.parallelism,
        rate_limit=rate,
        paused=row.paused,
        pinned_parallelism=row.pinned_parallelism,
        pinned_rate=row.pinned_rate,
        waiting=tx.connection.execute(waits).scalar_one() + held["head"].get(row.key, 0),
        running=held["reserved"].get(row.key, 0) + held["running"].get(row.key, 0),
        started=started,
        window_at=maybe_from_us(window_at),
        updated_at=from_us(row.updated_at),
    )


def set_flow(
    tx: Tx,
    key: str,
    paused: bool | EllipsisType,
    parallelism: int | None | EllipsisType,
    rate_limit: RateLimit | None | EllipsisType,
    pinned_parallelism: bool | EllipsisType,
    pinned_rate: bool | EllipsisType,
) -> FlowRecord:
    insert_many(tx, F, _COLUMNS, [_born(Flow(key), tx.now())], f"(key) {IGNORE}")
    values: dict[str, Any] = {"updated_at": tx.now()}
    given = {"paused": paused, "parallelism": parallelism, "pinned_parallelism": pinned_parallelism}
    values |= {name: value for name, value in (given | {"pinned_rate": pinned_rate}).items() if value is not ...}
    if not isinstance(rate_limit, EllipsisType):
        values["rate_limit"] = None if rate_limit is None else rate_limit.limit
        values["rate_per"] = None if rate_limit is None else rate_limit.per
    tx.connection.execute(sa.update(F).where(F.c.key == clean(key)).values(**values))
    record = get_flow(tx, key)
    assert record is not None
    return record


def reset(tx: Tx, key: str) -> bool:
    """Forget the starts of the present window; False: no such key."""
    if tx.connection.execute(locked(tx, sa.select(F.c.key).where(F.c.key == clean(key)))).first() is None:
        return False
    for table in (tables.starts, tables.windows):
        tx.connection.execute(sa.delete(table).where(table.c.queue == window(key)))
    return True
