"""Flow control by key: one place lets messages of a key go, and a permit says who runs.

The keeper's leader reserves (`let_go`), in the order in which messages began to wait, key by
key; a worker turns the reservation into a running permit as it starts (`take_permits`), renews it, and
frees it in the transaction that settles the run. A permit that nobody renews counts no longer after
its lease. Starts are stamped in the windows that queues' rates use, under a name that no queue can have.

Locks are taken in the order message, key, window, permit, waiting row.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from operator import itemgetter
from types import EllipsisType
from typing import Any, NamedTuple

import sqlalchemy as sa

from taskq.flow import Flow, FlowRecord
from taskq.message import Message
from taskq.queue import RateLimit
from taskq.store import tables
from taskq.store.base import Ask, Page, Permit
from taskq.store.lines import Tx
from taskq.store.rows import clean, from_cursor, from_us, maybe_from_us, to_cursor
from taskq.store.sql import starts
from taskq.store.sql.bulk import IGNORE, execute, for_each, for_update, insert_many, locked, of_each

F = tables.flow
P = tables.permits
W = tables.waiting
Q = tables.queues

RESERVED_FOR = 10.0  # seconds within which a message that was let go has to begin
RESERVED_US = round(RESERVED_FOR * 1_000_000)
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
    if all(message.flow is None for message in messages):
        return
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
    """Messages that were let go: their waiting rows; ids of heads; when to look again; the key to go on after; whether
    there is more to be looked at; whether more would go if what was let go had begun."""

    rows: list[_Waiter]
    heads: list[str]
    next_at: int | None
    last: str | None
    more: bool
    full: bool = False


class _Waiter(NamedTuple):
    """A message in line. hop: -1 for the head of an ordered queue, which has no body here."""

    since: int
    id: str
    hop: int
    queue: str
    body: bytes | None


@dataclass(slots=True)
class _Held:
    """How many permits of a key count, by their state, and when the first of them lapses."""

    reserved: int = 0
    running: int = 0
    head: int = 0
    lapses: int | None = None


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
    keys, more = _keys(tx, after)
    found = Found([], [], _next_due(tx, now), keys[-1] if keys else None, more)
    if not keys:
        return found
    flows = _flows(tx, keys)
    moving = [flows[key] for key in keys if not flows[key].paused]
    held = _held(tx, keys, now)
    rooms = {flow.key: room for flow, room in zip(moving, _rooms(tx, moving, held, now), strict=True)}
    free = {key: n for key, (n, _) in rooms.items() if n > 0}
    left, lapses = _all_room(tx, total, now)
    places = _Places(ahead, most, _reserved(tx, now))
    budget = min(limit, left)
    chosen = _choose(tx, free, {key for key in free if held[key].head}, places, limit, budget, now, found)
    for key, (n, opens) in rooms.items():
        if n <= 0 or len(chosen.get(key, ())) == n:
            _sooner(found, opens)
    if places.blocked or places.none:
        found.full = True
        _sooner(found, now + round(LOOK_AGAIN * 1_000_000))
    count = sum(map(len, chosen.values()))
    if free and count >= left:
        _sooner(found, lapses)
    found.more |= count >= limit
    _reserve(tx, chosen, now, lease, found)
    return found


class _Places:
    """How many messages each queue takes that have not begun."""

    def __init__(self, ahead: Mapping[str, int], most: int, reserved: Mapping[str, int]) -> None:
        self._most = most
        self._left = {queue: n - reserved.get(queue, 0) for queue, n in ahead.items()}
        self._left |= {queue: most - n for queue, n in reserved.items() if queue not in ahead}
        self.blocked = False  # somebody was refused

    @property
    def none(self) -> bool:
        """No queue that is known takes any more."""
        return bool(self._left) and max(self._left.values()) <= 0

    @property
    def widest(self) -> int:
        """What a queue takes at most."""
        return max(self._most, *self._left.values()) if self._left else self._most

    def take(self, queue: str) -> bool:
        if self._left.setdefault(queue, self._most) <= 0:
            self.blocked = True
            return False
        self._left[queue] -= 1
        return True


def _choose(
    tx: Tx,
    free: Mapping[str, int],
    heads: AbstractSet[str],
    places: _Places,
    limit: int,
    budget: int,
    now: int,
    found: Found,
) -> dict[str, list[_Waiter]]:
    """The first in the line of each key, evenly of all, as far as there is room for them.

    What is read follows what may go, not what waits: a share for each key, and more of those that have more while there
    is room. If nothing has, one key is looked at, as far as its waiters for other queues may be behind.
    """
    chosen: dict[str, list[_Waiter]] = {}
    keys, deeper = list(free), list[str]()
    if places.none:
        keys, width, depth = keys[:1], 1, limit
    else:
        width = max(min(places.widest, budget), 1)
        depth = -(-width // max(len(keys), 1))
    while keys and budget > 0:
        batch, keys = keys[:width], keys[width:]
        wanted = [(key, min(free[key], depth)) for key in batch]
        for (key, n), line in zip(wanted, _lines(tx, wanted, heads, now), strict=True):
            mine = chosen.setdefault(key, [])
            known = {(waiter.id, waiter.hop) for waiter in mine}
            for waiter in line:
                if budget > 0 and waiter[1:3] not in known and (waiter.hop < 0 or places.take(waiter.queue)):
                    mine.append(waiter)
                    budget -= 1
            found.last = key
            if len(line) == n < free[key]:
                deeper.append(key)
            if budget <= 0:
                break
        if places.none:
            break
        width *= 4
        if not keys and depth < limit:
            depth = min(depth * 4, limit)
            keys, deeper, width = deeper, [], max(limit // depth, 1)
    found.more |= bool(keys)
    # Heads need no place in a queue.
    wanted = [
        (key, min(free[key], budget)) for key in free if places.none and budget > 0 and key in heads - set(chosen)
    ]
    for (key, _), line in zip(wanted, _of_heads(tx, wanted, now), strict=True):
        chosen[key] = line[:budget]
        budget -= len(chosen[key])
    return chosen


def _keys(tx: Tx, after: str | None) -> tuple[list[str], bool]:
    """The next keys for which something waits, those after `after` first; whether there are more than these."""
    keys = _following(tx, "")
    if len(keys) < KEYS:
        place = bisect_right(keys, after or "")
        return keys[place:] + keys[:place], False
    if after is not None:
        later = _following(tx, after)
        keys = later + [key for key in keys if key <= after][: KEYS - len(later)]
    return keys, True


def _following(tx: Tx, after: str) -> list[str]:
    """Keys after this one for which something waits: each found by a step in the index, however many wait for it."""
    statement = (
        "WITH RECURSIVE following(key) AS ("
        " SELECT (SELECT min(flow_key) FROM taskq_waiting WHERE flow_key IS NOT NULL AND flow_key > ?)"
        " UNION ALL"
        " SELECT (SELECT min(flow_key) FROM taskq_waiting WHERE flow_key IS NOT NULL AND flow_key > following.key)"
        " FROM following WHERE following.key IS NOT NULL)"
        f" SELECT key FROM (SELECT key FROM following WHERE key IS NOT NULL LIMIT {KEYS}) AS waits"
        " UNION"
        f" SELECT key FROM taskq_permits WHERE state = 'head' AND key > ?"
    )
    return sorted(execute(tx, statement, after, after).scalars())[:KEYS]


def _next_due(tx: Tx, now: int) -> int | None:
    later = "SELECT min(due_at) FROM taskq_waiting WHERE flow_key IS NOT NULL AND due_at > ?"
    instant: int | None = execute(tx, later, now).scalar_one()
    return instant


def _flows(tx: Tx, keys: Sequence[str]) -> dict[str, sa.Row[Any]]:
    """The rows of these keys, locked in the order of the keys."""
    select = "SELECT key, parallelism, rate_limit, rate_per, paused FROM taskq_flow WHERE key AMONG ? ORDER BY key"
    return {row.key: row for row in execute(tx, select + for_update(tx), list(keys))}


def _held(tx: Tx, keys: Sequence[str], now: int) -> dict[str, _Held]:
    """What each of the keys holds."""
    held = {key: _Held() for key in keys}
    select = "SELECT key, state, count(*), min(until) FROM taskq_permits WHERE key AMONG ? AND until > ?"
    for key, state, n, lapses in execute(tx, f"{select} GROUP BY key, state", list(keys), now):
        mine = held[key]
        setattr(mine, state, n)
        if state != "head":
            mine.lapses = lapses if mine.lapses is None else min(mine.lapses, lapses)
    return held


def _reserved(tx: Tx, now: int) -> dict[str, int]:
    """Of each queue how many were let go and have not begun."""
    select = "SELECT queue, count(*) FROM taskq_permits WHERE state = 'reserved' AND until > ? AND worker = ''"
    return {queue: n for queue, n in execute(tx, f"{select} GROUP BY queue", now)}


def _rooms(tx: Tx, flows: Sequence[sa.Row[Any]], held: Mapping[str, _Held], now: int) -> list[tuple[int, int | None]]:
    """How many more each key lets go now, and when that may change by itself."""
    rates = {flow.key: rate for flow in flows if (rate := _rate(flow)) is not None}
    found = starts.within(tx, [(window(key), rate) for key, rate in rates.items()], now)
    windows = dict(zip(rates, found, strict=True))
    rooms = []
    for flow in flows:
        mine = held[flow.key]
        free, opens = 2**31, None
        if flow.parallelism is not None:
            free, opens = flow.parallelism - mine.reserved - mine.running, mine.lapses
        if flow.key in windows:
            started, leaves = windows[flow.key]
            left = flow.rate_limit - started - mine.reserved
            if left < free:
                free, opens = left, leaves
        rooms.append((free, opens))
    return rooms


def _all_room(tx: Tx, total: int | None, now: int) -> tuple[int, int | None]:
    """How many more may be let go of all keys together, and when that may change by itself."""
    if total is None:
        return 2**31, None
    held = "SELECT count(*), min(until) FROM taskq_permits WHERE until > ? AND state <> 'head'"
    count, lapses = execute(tx, held, now).one()
    return total - count, lapses


def _rate(flow: sa.Row[Any]) -> RateLimit | None:
    return None if flow.rate_limit is None else RateLimit(flow.rate_limit, flow.rate_per)


def _sooner(found: Found, instant: int | None) -> None:
    if instant is not None:
        found.next_at = instant if found.next_at is None else min(found.next_at, instant)


_WAITERS = (
    "SELECT due_at, id, hop, queue, body FROM taskq_waiting"
    " WHERE flow_key = {0} AND flow_key IS NOT NULL AND due_at <= {2} AND claimed_until <= {2}"
    " ORDER BY due_at, id LIMIT {1}"
)
_HEADS = (
    "SELECT since, message_id, -1, queue, NULL FROM taskq_permits"
    " WHERE key = {0} AND state = 'head' AND until > {2} ORDER BY since, message_id LIMIT {1}"
)


_WANTED = ("text", "bigint", "bigint")


def _lines(tx: Tx, wanted: Sequence[tuple[str, int]], heads: AbstractSet[str], now: int) -> list[list[_Waiter]]:
    """The first in line of each key, up to as many of them."""
    found = of_each(tx, _WANTED, [(key, n, now) for key, n in wanted], _WAITERS)
    lines = [[_Waiter(*row) for row in rows] for rows in found]
    with_heads = [index for index, (key, _) in enumerate(wanted) if key in heads]
    for index, line in zip(with_heads, _of_heads(tx, [wanted[index] for index in with_heads], now), strict=True):
        lines[index] += line
    return [sorted(line, key=itemgetter(0, 1, 2))[:n] for line, (_, n) in zip(lines, wanted, strict=True)]


def _of_heads(tx: Tx, wanted: Sequence[tuple[str, int]], now: int) -> list[list[_Waiter]]:
    """The same of those alone that are heads of ordered queues."""
    found = of_each(tx, _WANTED, [(key, n, now) for key, n in wanted], _HEADS)
    return [sorted((_Waiter(*row) for row in rows), key=itemgetter(0, 1)) for rows in found]


def _reserve(tx: Tx, chosen: Mapping[str, Sequence[_Waiter]], now: int, lease: float, found: Found) -> None:
    until = now + RESERVED_US
    # Of two copies of one message the permit is that of the older.
    rows = {
        waiter.id: (waiter.id, key, waiter.queue, "reserved", "", waiter.since, until)
        for key, waiters in chosen.items()
        for waiter in reversed(waiters)
    }
    # A run of an older copy that still holds its permit keeps it.
    free = f"{_PUT} WHERE taskq_permits.state <> 'running' OR taskq_permits.until <= excluded.until - {RESERVED_US}"
    insert_many(tx, P, _PERMIT, [rows[id] for id in sorted(rows)], free)
    waiters = [waiter for key in chosen for waiter in chosen[key]]
    found.rows = [waiter for waiter in waiters if waiter.hop >= 0]
    found.heads = [waiter.id for waiter in waiters if waiter.hop < 0]
    mine = sorted((waiter.id, waiter.hop) for waiter in found.rows)
    for_each(tx, "SET claimed_until = ?", W, ("id", "hop"), mine, value=now + round(lease * 1_000_000))


# -- running ---------------------------------------------------------------------------------


def take(tx: Tx, asks: Sequence[Ask], lease: float, bounded: bool) -> list[Permit]:
    flows = _asked(tx, asks)
    now = tx.now()
    ids = [clean(ask.message.id) for ask in asks]
    select = "SELECT message_id, state, since, until FROM taskq_permits WHERE message_id AMONG ?"
    held = {row.message_id: row for row in execute(tx, select, ids)}
    found: list[Permit | None] = [None] * len(asks)
    counted: dict[str, list[int]] = {}
    for index, (ask, message_id) in enumerate(zip(asks, ids, strict=True)):
        if _counts(held.get(message_id), now):
            counted.setdefault(clean(ask.flow.key), []).append(index)
    rows = {}
    for key in sorted(counted):
        for index, permit in zip(counted[key], _start(tx, flows[key], len(counted[key])), strict=True):
            since = held[ids[index]].since
            found[index] = replace(permit, since=from_us(since))
            if permit.granted:
                rows[ids[index]] = _running(asks[index], since, now, lease)
    insert_many(tx, P, _PERMIT, [rows[id] for id in sorted(rows)], _PUT)
    for index in sorted(range(len(asks)), key=lambda index: clean(asks[index].flow.key)):
        ask, told = asks[index], found[index]
        if told is None:
            found[index] = _pass(tx, ask, flows[clean(ask.flow.key)], held.get(ids[index]), lease, bounded)
        elif not told.granted:
            _stand(tx, ask, held[ids[index]].since, now)
    return [permit for permit in found if permit is not None]


def _asked(tx: Tx, asks: Sequence[Ask]) -> dict[str, sa.Row[Any]]:
    """The keys that are asked, locked; made if there are none."""
    keys = sorted({clean(ask.flow.key) for ask in asks})
    news = any(ask.flow.limited and ask.message.hop == 0 for ask in asks)
    flows = {} if news else _flows(tx, keys)
    if len(flows) < len(keys):
        meet(tx, [ask.message for ask in sorted(asks, key=lambda ask: clean(ask.flow.key))])
        flows = _flows(tx, keys)
    return flows


def _counts(held: sa.Row[Any] | None, now: int) -> bool:
    """It was let go, or runs."""
    return held is not None and held.until > now and held.state != "head"


def _start(tx: Tx, flow: sa.Row[Any], wanted: int) -> list[Permit]:
    """Of so many that may start as far as the key's room goes: which do as far as its window goes."""
    nobody = from_us(0)
    if flow.paused:
        return [Permit(False, nobody, retry_in=1.0)] * wanted
    rate = _rate(flow)
    if rate is None:
        return [Permit(True, nobody)] * wanted
    starting = starts.take_starts(tx, window(flow.key), wanted, rate, rate.slack)
    first = starting.reached - starting.granted
    started = [Permit(True, nobody, rate=rate, before=first + number) for number in range(starting.granted)]
    return started + [Permit(False, nobody, retry_in=starting.retry_in)] * (wanted - starting.granted)


def _pass(tx: Tx, ask: Ask, flow: sa.Row[Any], held: sa.Row[Any] | None, lease: float, bounded: bool) -> Permit:
    """One that was not let go runs all the same if it is the next in line and there is room."""
    now = tx.now()
    since = now if held is None else held.since
    permit = Permit(False, from_us(since), retry_in=1.0)
    if not flow.paused and not bounded and _next_in_line(tx, flow, since, clean(ask.message.id), now):
        permit = replace(_start(tx, flow, 1)[0], since=permit.since)
    if permit.granted:
        insert_many(tx, P, _PERMIT, [_running(ask, since, now, lease)], _PUT)
    else:
        _stand(tx, ask, since, now)
    return permit


def _running(ask: Ask, since: int, now: int, lease: float) -> tuple[Any, ...]:
    """The permit of a run."""
    until = now + round(lease * 1_000_000)
    message = ask.message
    return (clean(message.id), clean(ask.flow.key), clean(message.queue), "running", clean(ask.worker), since, until)


def _stand(tx: Tx, ask: Ask, since: int, now: int) -> None:
    """It may not start: a head stands in line where it is; others go back to the waiting room, and have no permit."""
    message_id = clean(ask.message.id)
    if ask.in_place:
        row = (message_id, clean(ask.flow.key), clean(ask.message.queue), "head", clean(ask.worker), since)
        insert_many(tx, P, _PERMIT, [(*row, now + round(HEAD_FOR * 1_000_000))], _PUT)
    else:
        execute(tx, "DELETE FROM taskq_permits WHERE message_id = ?", message_id)


def _next_in_line(tx: Tx, flow: sa.Row[Any], since: int, message_id: str, now: int) -> bool:
    """Whether there is room for one that was not let go, and nobody has waited for longer."""
    waits = (
        "SELECT id FROM taskq_waiting WHERE flow_key = ? AND flow_key IS NOT NULL AND due_at <= ?"
        " AND claimed_until <= ? AND (due_at < ? OR (due_at = ? AND id < ?)) LIMIT 1"
    )
    heads = (
        "SELECT message_id FROM taskq_permits WHERE key = ? AND state = 'head' AND until > ?"
        " AND (since < ? OR (since = ? AND message_id < ?)) LIMIT 1"
    )
    me = (since, since, message_id)
    if execute(tx, waits, flow.key, min(now, since), now, *me).first() is not None:
        return False
    if execute(tx, heads, flow.key, now, *me).first() is not None:
        return False
    [(free, _)] = _rooms(tx, [flow], _held(tx, [flow.key], now), now)
    return free > 0


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
    for_each(tx, "DELETE", P, ("message_id", "worker"), keys)


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
    held = _held(tx, [row.key], now)[row.key]
    rate, started, window_at = _rate(row), 0, None
    if rate is not None:
        [(started, leaves)] = starts.within(tx, [(window(row.key), rate)], now)
        window_at = None if leaves is None else leaves - round((rate.per + rate.slack) * 1_000_000)
    return FlowRecord(
        key=row.key,
        parallelism=row.parallelism,
        rate_limit=rate,
        paused=row.paused,
        pinned_parallelism=row.pinned_parallelism,
        pinned_rate=row.pinned_rate,
        waiting=tx.connection.execute(waits).scalar_one() + held.head,
        running=held.reserved + held.running,
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
