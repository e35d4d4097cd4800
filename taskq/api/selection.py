"""What a caller says of which messages, dead letters or events it means: the query, and for bulk calls a JSON body.

A filter's values may be repeated or joined by commas; any of them fits, and all filters must. Parameters that are not
known are passed over, but not where that would make a bulk call mean everything.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from taskq.clock import from_ms
from taskq.errors import InvalidRequest
from taskq.store.gateway import RequestFilter

MAX_VALUES = 500
MOST_CANCELLED = 500
LAST_MS = 253_370_764_799_999  # the end of the year 9998
HALF_MS = timedelta(microseconds=500)  # instants are shown rounded: all that read the same ms belong to it

NAMES = {
    "topics": ("topicName",),
    "queues": ("queueName",),
    "urls": ("url",),
    "hosts": ("host",),
    "paths": ("path",),
    "labels": ("label",),
    "flow_keys": ("flowControlKey",),
    "schedule_ids": ("scheduleId",),
    "caller_ips": ("callerIp", "callerIP"),
}
MESSAGE_IDS = ("messageIds", "messageId")
DEAD_IDS, STATUS = "dlqIds", "responseStatus"
FROM, TO = "fromDate", "toDate"
FILTERS = frozenset(name for names in NAMES.values() for name in names) | {FROM, TO, *MESSAGE_IDS}
NO_FILTERS = frozenset({"count", "cursor", "order", "qstash_token"})
SETTINGS = "upstash-"

# What a caller may ask for -> states of lines.
STATES = {
    "CREATED": ("CREATED",),
    "ACTIVE": ("ACTIVE",),
    "ERROR": ("ERROR",),
    "RETRY": ("RETRY", "SNOOZED"),
    "DELIVERED": ("DELIVERED",),
    "FAILED": ("FAILED", "EXPIRED"),
    "CANCEL_REQUESTED": ("CANCEL_REQUESTED",),
    "CANCELED": ("CANCELED",),
    "CANCELLED": ("CANCELED",),
    "IN_PROGRESS": ("ACTIVE", "RETRY", "SNOOZED", "ERROR"),
}

# A comma within a URL or a path is told from one between two of them by what follows.
COMMAS = {"url": re.compile(r",(?=\s*[a-z]+://)", re.IGNORECASE), "path": re.compile(r",(?=\s*/)")}
COMMA = re.compile(",")
_UNTYPED = re.compile("[\\x00\\ud800-\\udfff]")


class Selection:
    """The parameters of one call, by name.

    Args:
        pairs: of the query, in their order.
    """

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        self._values: dict[str, list[str]] = {}
        for name, value in pairs:
            if _UNTYPED.search(value):
                raise InvalidRequest(f"parameter {name[:80]!r} has characters that no text has: {value!r:.80}")
            self._values.setdefault(name, []).append(value)

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def many(self, *names: str) -> tuple[str, ...]:
        """The values of a filter, under any of its names.

        Raises:
            InvalidRequest: one is empty, or there are too many.
        """
        found: dict[str, None] = {}
        for name in names:
            for joined in self._values.get(name, ()):
                for value in COMMAS.get(name, COMMA).split(joined):
                    if not value.strip():
                        raise InvalidRequest(f"parameter {name} has an empty value: give one, or leave {name} out")
                    found[value.strip()] = None
        return tuple(found)

    def number(self, name: str, *, low: int, high: int, default: int | None = None) -> int | None:
        """A whole number.

        Raises:
            InvalidRequest: it is none, or not within its bounds.
        """
        text = self._one(name)
        if text is None:
            return default
        if re.fullmatch(r"[0-9]{1,18}", text) is None or not low <= int(text) <= high:
            raise InvalidRequest(f"parameter {name} takes a whole number from {low} to {high}, got {text!r:.80}")
        return int(text)

    def count(self, *, most: int, default: int) -> int:
        """How many the caller wants."""
        count = self.number("count", low=1, high=most, default=default)
        assert count is not None
        return count

    def statuses(self) -> tuple[int, ...]:
        """Those of `responseStatus`; 0 means that no answer came."""
        values = self.many(STATUS)
        for value in values:
            if re.fullmatch(r"[0-9]{1,3}", value) is None:
                raise InvalidRequest(f"parameter {STATUS} takes HTTP statuses such as 503, got {value!r:.80}")
        return tuple(map(int, values))

    def states(self) -> list[str]:
        """The states of lines that `state` means.

        Raises:
            InvalidRequest: one is not known.
        """
        found: dict[str, None] = {}
        for value in self.many("state"):
            states = STATES.get(value.upper())
            if states is None:
                raise InvalidRequest(f"parameter state is one of {', '.join(STATES)}, got {value!r:.80}")
            found |= dict.fromkeys(states)
        return list(found)

    def oldest_first(self, *, default: bool) -> bool:
        """The order of a listing."""
        order = self._one("order")
        if order is None:
            return default
        if order not in ("earliestFirst", "latestFirst"):
            raise InvalidRequest(f"parameter order is earliestFirst or latestFirst, got {order!r:.80}")
        return order == "earliestFirst"

    def cursor(self) -> str | None:
        """Where the page begins; an empty one is none."""
        return self._one("cursor") or None

    def requests(self, *, cancellable: bool = False, most_ids: int | None = MAX_VALUES) -> RequestFilter:
        """All of the filters.

        Args:
            cancellable: only those that have not ended, and that nobody has cancelled yet.
            most_ids: ids that there may be; None: any number.

        Raises:
            InvalidRequest: one of them cannot be.
        """
        ids = self.many(*MESSAGE_IDS)
        given = {field: self.many(*names) for field, names in NAMES.items()}
        for field, values in given.items():
            _check_number(NAMES[field][0], values, MAX_VALUES)
        if most_ids is not None:
            _check_number(MESSAGE_IDS[0], ids, most_ids)
        since, until = self._instant(FROM), self._instant(TO)
        return RequestFilter(
            ids=ids,
            **given,
            since=None if since is None else since - HALF_MS,
            until=None if until is None else until + HALF_MS,
            unfinished=cancellable,
            uncancelled=cancellable,
        )

    def check_bulk(self, *, also: Sequence[str] = ()) -> None:
        """That a bulk call which means everything says nothing that is not known: it may be a filter, misspelled.

        Args:
            also: the filters of this call that are not messages' own.

        Raises:
            InvalidRequest
        """
        filters = FILTERS | set(also)
        if any(name in filters for name in self._values):
            return
        for name in self._values:
            if name not in NO_FILTERS and not name.lower().startswith(SETTINGS):
                raise InvalidRequest(
                    f"parameter {name[:80]!r} is not known, and without a filter all would be meant: "
                    f"the filters are {', '.join(sorted(filters))}"
                )

    def _one(self, name: str) -> str | None:
        values = self._values.get(name)
        if values is None:
            return None
        if len(set(values)) > 1:
            raise InvalidRequest(f"parameter {name} is given {len(values)} times: give it once")
        return values[0]

    def _instant(self, name: str) -> datetime | None:
        value = self.number(name, low=0, high=LAST_MS)
        return None if value is None else from_ms(value)


def _check_number(name: str, values: Sequence[str], most: int) -> None:
    if len(values) > most:
        raise InvalidRequest(f"parameter {name} has {len(values)} values, {most} are allowed: ask in parts")


def said(pairs: Iterable[tuple[str, str]], body: bytes) -> tuple[Selection, dict[str, list[str]]]:
    """What a bulk call says: its query and its body, which is empty or a JSON object of filters.

    Returns:
        The selection, and the lists of ids that the body names: one that is empty means none, not all.

    Raises:
        InvalidRequest: the body is not such an object.
    """
    given = _object(body)
    more: list[tuple[str, str]] = []
    lists: dict[str, list[str]] = {}
    for name, value in given.items():
        values = value if isinstance(value, list) else [value]
        if not all(isinstance(one, str | int) and not isinstance(one, bool) for one in values):
            raise InvalidRequest(f"{name[:80]!r} in the body takes text, a number, or a list of them")
        if name.endswith("Ids") and isinstance(value, list):
            lists[name] = [str(one) for one in values]
        elif not values:
            raise InvalidRequest(f"{name[:80]!r} in the body is an empty list: give values, or leave it out")
        more += [(name, str(one)) for one in values]
    return Selection([*pairs, *more]), lists


def _object(body: bytes) -> dict[str, object]:
    if not body.strip():
        return {}
    try:
        given = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"the body is no JSON: {str(error)[:80]}; leave it out, or send an object") from error
    if not isinstance(given, dict):
        raise InvalidRequest(f'the body must be a JSON object such as {{"messageIds": []}}, got {body[:40]!r}')
    return given


def described(filters: Iterable[str], *others: str, most: int = 100, body: str | None = None) -> dict[str, Any]:
    """What OpenAPI says of such a call.

    Args:
        filters: the names that it knows.
        others: of count, cursor and order those that it knows.
        most: of `count`.
        body: the name of the list of ids that its body may hold.
    """
    count = {"type": "integer", "minimum": 1, "maximum": most}
    schemas = {name: _SCHEMAS.get(name, _values(_VALUE)) for name in (*sorted(filters), *others)} | {"count": count}
    names = [*sorted(filters), *others]
    extra: dict[str, Any] = {"parameters": [{"name": name, "in": "query", "schema": schemas[name]} for name in names]}
    if body is not None:
        schema = {"type": "object", "properties": {body: _values(_VALUE)}, "additionalProperties": False}
        extra["requestBody"] = {"required": False, "content": {"application/json": {"schema": schema}}}
    return extra


def _values(schema: dict[str, Any]) -> dict[str, Any]:
    """Any of several values."""
    return {"type": "array", "items": schema, "description": "any of them, repeated or joined by commas"}


_VALUE = {"type": "string", "pattern": r"^[^,\s\x00]+$"}
_INSTANT = {"type": "integer", "format": "int64", "minimum": 0, "maximum": LAST_MS, "description": "ms since the epoch"}
_SCHEMAS: dict[str, dict[str, Any]] = {
    FROM: _INSTANT,
    TO: _INSTANT,
    STATUS: _values({"type": "integer", "minimum": 0, "maximum": 999}),
    "state": _values({"type": "string", "enum": list(STATES)}),
    "cursor": {"type": "string", "description": "of the page before"},
    "order": {"type": "string", "enum": ["earliestFirst", "latestFirst"]},
}
