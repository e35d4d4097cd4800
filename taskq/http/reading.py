"""What a caller says of a message in headers or query, read and checked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from taskq.duration import parse_duration
from taskq.errors import InvalidQueue, InvalidSchedule, InvalidSetting
from taskq.expression import Expression
from taskq.flow import MAX_KEY_CHARS, Flow
from taskq.http.destination import check_name, check_url
from taskq.http.headers import PREFIX, TOKEN, Said, check_size, forwarded, given, is_ours, text, unprefixed
from taskq.http.request import Callback, Headers, canonical
from taskq.queue import RateLimit
from taskq.retry import MAX_RETRIES
from taskq.timetable import Cron

CALLBACK_PREFIX = f"{PREFIX}Callback-"
FAILURE_CALLBACK_PREFIX = f"{PREFIX}Failure-Callback-"
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
SHORTEST_TIMEOUT = 1.0  # seconds
LONGEST_PERIOD = 7 * 86400.0  # seconds
MAX_LABELS = 50
MAX_LABEL_CHARS = 200
MAX_DEDUP_CHARS = 1024

_COUNT = re.compile(r"[0-9]{1,9}")
_INSTANT = re.compile(r"[0-9]{1,11}")
_DURATION = "write whole numbers with d, h, m, s in that order, such as 1d10h30m, at most 366 days"
_REDACTED_HEADER = re.compile(r"header\[([^\]]*)\]", re.IGNORECASE)
_LIMITS = ("parallelism", "rate", "period")
_FLOW_FORM = "write such as parallelism=5, rate=10, period=1m, with at least one of parallelism and rate"


@dataclass(frozen=True, slots=True)
class Publishing:
    """What a caller said of a message, checked; None or empty: nothing, so that the default holds.

    method       GET, POST (default), PUT, PATCH or DELETE
    headers      to be sent with it, Content-Type among them
    timeout      seconds of one attempt
    retries      attempts after the first, 3 by default
    retry_delay  an expression in milliseconds
    delay        seconds; not_before: unix seconds, which wins over it
    labels       under which it is found again
    dedup_id     of messages with the same one the later is a duplicate; content_dedup: by content, if there is no id
    flow         its key of flow control, and the key's limits
    callback     told of every attempt; failure_callback: of the last one, if it failed
    redact       as `Request.redact`
    cron, schedule_id, queue_name: of schedules
    """

    method: str | None = None
    headers: Headers = ()
    timeout: float | None = None
    retries: int | None = None
    retry_delay: str | None = None
    delay: float | None = None
    not_before: int | None = None
    labels: tuple[str, ...] = ()
    dedup_id: str | None = None
    content_dedup: bool = False
    flow: Flow | None = None
    callback: Callback | None = None
    failure_callback: Callback | None = None
    redact: tuple[str, ...] = ()
    cron: str | None = None
    schedule_id: str | None = None
    queue_name: str | None = None


def read(
    headers: Sequence[tuple[str, str]], query: Sequence[tuple[str, str]] = (), *, defaults: Headers = ()
) -> Publishing:
    """What the headers say, the query where they say nothing, and the defaults where neither does.

    A setting that is given twice with two values is refused; lists (labels, fields to redact) are put together.

    Args:
        headers: of the request, any case; values as latin-1 text.
        query: decoded pairs, of which those count whose key begins with `upstash-`.
        defaults: of a URL group; a header without a prefix is one to be forwarded.

    Raises:
        InvalidRequest: naming the header.
    """
    ours, plain = [], []
    for name, value in given(headers, query, defaults):
        if is_ours(name):
            ours.append((name[len(PREFIX) :], value))
        else:
            plain.append((name, value))
    said = Said(PREFIX, ours)
    return Publishing(
        **_settings(said),
        headers=forwarded(said, unprefixed(plain, everything=said.flag("Header-Forward"))),
        not_before=_instant(said, "Not-Before"),
        dedup_id=_dedup_id(said),
        content_dedup=said.flag("Content-Based-Deduplication"),
        callback=_callback(said, "Callback"),
        failure_callback=_callback(said, "Failure-Callback"),
        cron=_cron(said),
        schedule_id=_name(said, "Schedule-Id"),
        queue_name=_name(said, "Queue-Name"),
    )


def read_overrides(headers: Sequence[tuple[str, str]], query: Sequence[tuple[str, str]] = ()) -> Publishing:
    """What `override` takes: `read` without the request's own headers, whose Content-Type is of its own body.

    Raises:
        InvalidRequest: naming the header.
    """
    return read([(name, value) for name, value in headers if is_ours(name)], query)


def read_callback(headers: Headers, prefix: str = CALLBACK_PREFIX) -> Publishing:
    """What was said of a callback's own message; what `Callback.headers` holds without the prefix.

    Of the settings of a message these count: Method, Timeout, Retries, Retry-Delay, Delay, Label, Flow-Control-Key and
    -Value, Redact-Fields and Forward-<Name>. A callback has no callbacks.

    Raises:
        InvalidRequest: naming the header, prefix included.
    """
    said = Said(prefix, headers)
    return Publishing(**_settings(said), headers=forwarded(said, ()))


def _settings(said: Said) -> dict[str, Any]:
    """What may be said of any message, a callback's too: fields of `Publishing`."""
    return {
        "method": _method(said),
        "timeout": _timeout(said),
        "retries": _retries(said),
        "retry_delay": _retry_delay(said),
        "delay": _duration(said, "Delay"),
        "labels": _labels(said),
        "flow": _flow(said),
        "redact": _redact(said),
    }


def _method(said: Said) -> str | None:
    value = said.one("Method")
    if value is None or value.upper() in METHODS:
        return None if value is None else value.upper()
    raise said.error("Method", value, f"there are {', '.join(METHODS)}")


def _duration(said: Said, name: str) -> float | None:
    value = said.one(name)
    try:
        return None if value is None else parse_duration(value)
    except InvalidSetting:
        raise said.error(name, value or "", _DURATION) from None


def _timeout(said: Said) -> float | None:
    seconds = _duration(said, "Timeout")
    if seconds is not None and seconds < SHORTEST_TIMEOUT:
        raise said.error("Timeout", said.one("Timeout") or "", "an attempt takes at least 1s")
    return seconds


def _retries(said: Said) -> int | None:
    value = said.one("Retries")
    if value is None:
        return None
    if not _COUNT.fullmatch(value) or int(value) > MAX_RETRIES:
        raise said.error("Retries", value, f"write a whole number from 0 to {MAX_RETRIES}")
    return int(value)


def _retry_delay(said: Said) -> str | None:
    value = said.one("Retry-Delay")
    try:
        return None if value is None else Expression.parse(value).text
    except InvalidSetting as error:
        raise said.error("Retry-Delay", value or "", _short(error)) from None


def _instant(said: Said, name: str) -> int | None:
    value = said.one(name)
    if value is None:
        return None
    if not _INSTANT.fullmatch(value):
        raise said.error(name, value, "write seconds since 1970-01-01 UTC as a whole number")
    return int(value)


def _labels(said: Said) -> tuple[str, ...]:
    labels: dict[str, None] = {}
    for value in said.all("Label"):
        for label in text(value).split(","):
            if not 0 < len(label.strip()) <= MAX_LABEL_CHARS:
                raise said.error("Label", value, f"write labels of 1 to {MAX_LABEL_CHARS} characters, with commas")
            labels[label.strip()] = None
    if len(labels) > MAX_LABELS:
        raise said.error("Label", said.all("Label")[0], f"a message has at most {MAX_LABELS} labels, not {len(labels)}")
    return tuple(labels)


def _dedup_id(said: Said) -> str | None:
    value = said.one("Deduplication-Id")
    if value is not None and not 0 < len(value) <= MAX_DEDUP_CHARS:
        raise said.error("Deduplication-Id", value, f"write 1 to {MAX_DEDUP_CHARS} characters")
    return None if value is None else text(value)


def _flow(said: Said) -> Flow | None:
    key, value = said.one("Flow-Control-Key"), said.one("Flow-Control-Value")
    if key is None and value is None:
        return None
    if key is None:
        raise said.error("Flow-Control-Value", value or "", f"it goes with {said.prefix}Flow-Control-Key: give both")
    if value is None:
        raise said.error("Flow-Control-Key", key, f"it goes with {said.prefix}Flow-Control-Value: give both")
    if not 0 < len(key) <= MAX_KEY_CHARS:
        raise said.error("Flow-Control-Key", key, f"write 1 to {MAX_KEY_CHARS} characters")
    limits = _flow_limits(said, value)
    try:
        rate = RateLimit(limits["rate"], limits.get("period", 1)) if "rate" in limits else None
        return Flow(text(key), limits.get("parallelism"), rate)
    except (InvalidQueue, InvalidSetting) as error:
        raise said.error("Flow-Control-Value", value, _short(error)) from None


def _flow_limits(said: Said, value: str) -> dict[str, int]:
    """The limits of a flow key: starts, starts, seconds."""
    limits: dict[str, int] = {}
    for part in value.split(","):
        name, equals, number = (word.strip() for word in part.partition("="))
        if not equals or name not in _LIMITS or name in limits:
            raise said.error("Flow-Control-Value", value, _FLOW_FORM)
        limits[name] = _period(said, value, number) if name == "period" else _count(said, value, number)
    if not limits.keys() & {"parallelism", "rate"}:
        raise said.error("Flow-Control-Value", value, _FLOW_FORM)
    return limits


def _count(said: Said, value: str, number: str) -> int:
    if not _COUNT.fullmatch(number) or int(number) < 1:
        raise said.error("Flow-Control-Value", value, "parallelism and rate are whole numbers of at least 1")
    return int(number)


def _period(said: Said, value: str, number: str) -> int:
    try:
        seconds = int(number) if _COUNT.fullmatch(number) else int(parse_duration(number))
    except InvalidSetting:
        seconds = 0
    if not 1 <= seconds <= LONGEST_PERIOD:
        raise said.error("Flow-Control-Value", value, "period is 1s to 7d, such as 10, 10s or 1h30m")
    return seconds


def _redact(said: Said) -> tuple[str, ...]:
    fields: dict[str, None] = {}
    for value in said.all("Redact-Fields"):
        for part in value.split(","):
            field = _redacted(part.strip())
            if field is None:
                raise said.error("Redact-Fields", value, "write body, headers or header[Name], with commas")
            fields[field] = None
    return tuple(fields)


def _redacted(field: str) -> str | None:
    if field.lower() == "body":
        return "body"
    if field.lower() in ("header", "headers"):
        return "headers"
    named = _REDACTED_HEADER.fullmatch(field)
    name = named[1].strip() if named else ""
    return f"header:{canonical(name)}" if TOKEN.fullmatch(name) else None


def _callback(said: Said, name: str) -> Callback | None:
    url = said.one(name)
    if url is None:
        return None
    callback = Callback(check_url(f"{said.prefix}{name}", url), said.under(f"{name}-"))
    check_size(f"{said.prefix}{name}-*", callback.headers)
    read_callback(callback.headers, f"{said.prefix}{name}-")
    return callback


def _cron(said: Said) -> str | None:
    value = said.one("Cron")
    try:
        if value is not None:
            Cron(value)
    except InvalidSchedule as error:
        raise said.error("Cron", value or "", _short(error)) from None
    return value


def _name(said: Said, name: str) -> str | None:
    value = said.one(name)
    return None if value is None else check_name(f"{said.prefix}{name}", value)


def _short(error: Exception) -> str:
    return str(error)[:300]
