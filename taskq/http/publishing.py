"""What a caller says of a message in headers or query, read and checked; and the message that it makes.

`read` turns the headers of a publish into a `Publishing`, `compose` a `Publishing` into a `Message`. Neither knows
routes, queues or groups: who calls them does.

What is forwarded: `Content-Type`; every `Upstash-Forward-<Name>`; with `Upstash-Header-Forward: true` the headers
without a prefix too, but for credentials of this API (Authorization, Cookie, Proxy-Authorization), which go only where
`Upstash-Forward-` sends them. Headers that belong to a connection and not to a message (Host, Content-Length,
Transfer-Encoding, Connection and its kin) are left out, however they are given.

`Upstash-` headers that are not known here, those of telemetry and workflows among them, are ignored: newer clients
may send them. They are never forwarded.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from taskq.clock import to_ms
from taskq.duration import parse_duration
from taskq.errors import InvalidQueue, InvalidRequest, InvalidSchedule, InvalidSetting
from taskq.expression import Expression
from taskq.flow import MAX_KEY_CHARS, Flow
from taskq.http.destination import Destination, check_name, check_url, destination, refused, shown
from taskq.http.request import HTTP_TASK, PAYLOAD_TYPE, TASK_SCHEME, Callback, Headers, Request, canonical, request_of
from taskq.message import Message, new_id
from taskq.queue import RateLimit
from taskq.retry import MAX_RETRIES, Retry
from taskq.timetable import Cron

__all__ = [
    "Destination",
    "Publishing",
    "check_name",
    "check_url",
    "compose",
    "dedup_key",
    "destination",
    "override",
    "read",
    "read_callback",
    "read_overrides",
    "split_query",
]

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
DEFAULT_METHOD = "POST"
DEFAULT_RETRIES = 3
DEFAULT_RETRY_DELAY = "min(86400000, exp(2.5 * (retried + 1)) * 1000)"  # milliseconds
SHORTEST_TIMEOUT = 1.0  # seconds
LONGEST_DELAY = timedelta(days=366)
LONGEST_PERIOD = 7 * 86400.0  # seconds
MAX_LABELS = 50
MAX_LABEL_CHARS = 200
MAX_DEDUP_CHARS = 1024
MAX_PLAIN_DEDUP_CHARS = 150  # longer ids are kept as their hash
MAX_HEADERS = 200
MAX_HEADER_BYTES = 64 * 1024

PREFIX = "Upstash-"
CALLBACK_PREFIX = "Upstash-Callback-"
FAILURE_CALLBACK_PREFIX = "Upstash-Failure-Callback-"

_OF_THE_CONNECTION = frozenset({
    "host", "content-length", "transfer-encoding", "connection", "keep-alive", "proxy-connection", "te", "trailer",
    "upgrade", "expect",
})  # fmt: skip
_OF_THE_CALLER = _OF_THE_CONNECTION | {"authorization", "cookie", "proxy-authorization"}

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_COUNT = re.compile(r"[0-9]{1,9}")
_INSTANT = re.compile(r"[0-9]{1,11}")
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
    labels
    dedup_id     content_dedup: by content, if there is no id
    flow         its key and limits
    callback, failure_callback
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
    pairs = _given(headers, query, defaults)
    said = _Said(PREFIX, [(name[len(PREFIX) :], value) for name, value in pairs if _is_ours(name)])
    plain = [(name, value) for name, value in pairs if not _is_ours(name)]
    return replace(
        _settings(said),
        headers=_forwarded(said, _unprefixed(plain, everything=said.flag("Header-Forward"))),
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
    return read([(name, value) for name, value in headers if _is_ours(name)], query)


def read_callback(headers: Headers, prefix: str = CALLBACK_PREFIX) -> Publishing:
    """What was said of a callback's own message; what `Callback.headers` holds without the prefix.

    Of the settings of a message these count: Method, Timeout, Retries, Retry-Delay, Delay, Label, Flow-Control-Key and
    -Value, Redact-Fields and Forward-<Name>. A callback has no callbacks.

    Raises:
        InvalidRequest: naming the header, prefix included.
    """
    said = _Said(prefix, headers)
    return replace(_settings(said), headers=_forwarded(said, ()))


def split_query(query: str) -> tuple[str, str]:
    """A request's raw query in two: the destination's own part, byte for byte, and what is said to this API
    (`upstash-…` keys, and `qstash_token`), still encoded."""
    theirs: list[str] = []
    ours: list[str] = []
    for part in query.split("&"):
        key = part.partition("=")[0].lower()
        (ours if key.startswith("upstash-") or key == "qstash_token" else theirs).append(part)
    return "&".join(theirs), "&".join(ours)


class _Said:
    """The settings under a prefix, any case; knows how they are called in full."""

    def __init__(self, prefix: str, pairs: Iterable[tuple[str, str]]) -> None:
        self.prefix = prefix
        self.pairs: Headers = tuple(pairs)
        self._values: dict[str, list[str]] = {}
        for name, value in self.pairs:
            self._values.setdefault(name.lower(), []).append(value)

    def all(self, name: str) -> list[str]:
        """Every value of a setting, in order."""
        values = self._values.get(name.lower(), [])
        for value in values:
            if _CONTROL.search(value) or _SURROGATE.search(value):
                raise self.error(name, value, "control characters are not allowed")
        return [value.strip(" \t") for value in values]

    def one(self, name: str) -> str | None:
        """The value of a setting; None: it was not given."""
        values = self.all(name)
        if len(set(values)) > 1:
            raise self.error(name, values[1], f"it is given twice, first as {shown(values[0])}: leave one of them out")
        return values[0] if values else None

    def flag(self, name: str) -> bool:
        """A setting that is true or false, in any case."""
        value = self.one(name)
        if value is not None and value.lower() not in ("true", "false"):
            raise self.error(name, value, "write true or false")
        return value is not None and value.lower() == "true"

    def under(self, start: str) -> Headers:
        """The pairs whose name begins so, without that beginning."""
        return tuple(
            (name[len(start) :], value) for name, value in self.pairs if name.lower().startswith(start.lower())
        )

    def error(self, name: str, value: str, mend: str) -> InvalidRequest:
        return refused(f"{self.prefix}{name}", value, mend)


def _given(
    headers: Sequence[tuple[str, str]], query: Sequence[tuple[str, str]], defaults: Headers
) -> list[tuple[str, str]]:
    """All that is said, each thing by whoever comes first, with names as headers have them."""
    known = {name.lower() for name, _ in headers}
    pairs = [*headers, *((canonical(key), value) for key, value in query if _is_ours(key) and key.lower() not in known)]
    everything = any(name.lower() == "upstash-header-forward" for name, _ in pairs)
    said = {_subject(name) for name, _ in pairs if everything or _is_ours(name) or _is_content_type(name)}
    for name, value in defaults:
        if _subject(name) not in said:
            pairs.append((name if _is_ours(name) or _is_content_type(name) else f"{PREFIX}Forward-{name}", value))
    return pairs


def _is_ours(name: str) -> bool:
    return name.lower().startswith("upstash-")


def _is_content_type(name: str) -> bool:
    return name.lower() == "content-type"


def _subject(name: str) -> str:
    """What a header is about: the same for one to be forwarded, with the prefix or without."""
    return name.lower().removeprefix("upstash-forward-")


def _settings(said: _Said) -> Publishing:
    """What may be said of any message, a callback's too."""
    return Publishing(
        method=_method(said),
        timeout=_timeout(said),
        retries=_retries(said),
        retry_delay=_retry_delay(said),
        delay=_duration(said, "Delay"),
        labels=_labels(said),
        flow=_flow(said),
        redact=_redact(said),
    )


def _method(said: _Said) -> str | None:
    value = said.one("Method")
    if value is None or value.upper() in METHODS:
        return None if value is None else value.upper()
    raise said.error("Method", value, f"there are {', '.join(METHODS)}")


def _duration(said: _Said, name: str) -> float | None:
    value = said.one(name)
    try:
        return None if value is None else parse_duration(value)
    except InvalidSetting:
        raise said.error(
            name, value or "", "write whole numbers with d, h, m, s in that order, such as 1d10h30m, at most 366 days"
        ) from None


def _timeout(said: _Said) -> float | None:
    seconds = _duration(said, "Timeout")
    if seconds is not None and seconds < SHORTEST_TIMEOUT:
        raise said.error("Timeout", said.one("Timeout") or "", "an attempt takes at least 1s")
    return seconds


def _retries(said: _Said) -> int | None:
    value = said.one("Retries")
    if value is None:
        return None
    if not _COUNT.fullmatch(value) or int(value) > MAX_RETRIES:
        raise said.error("Retries", value, f"write a whole number from 0 to {MAX_RETRIES}")
    return int(value)


def _retry_delay(said: _Said) -> str | None:
    value = said.one("Retry-Delay")
    try:
        return None if value is None else Expression.parse(value).text
    except InvalidSetting as error:
        raise said.error("Retry-Delay", value or "", _short(error)) from None


def _instant(said: _Said, name: str) -> int | None:
    value = said.one(name)
    if value is None:
        return None
    if not _INSTANT.fullmatch(value):
        raise said.error(name, value, "write seconds since 1970-01-01 UTC as a whole number")
    return int(value)


def _labels(said: _Said) -> tuple[str, ...]:
    labels: dict[str, None] = {}
    for value in said.all("Label"):
        for label in _text(value).split(","):
            if not 0 < len(label.strip()) <= MAX_LABEL_CHARS:
                raise said.error("Label", value, f"write labels of 1 to {MAX_LABEL_CHARS} characters, with commas")
            labels[label.strip()] = None
    if len(labels) > MAX_LABELS:
        raise said.error("Label", said.all("Label")[0], f"a message has at most {MAX_LABELS} labels, not {len(labels)}")
    return tuple(labels)


def _dedup_id(said: _Said) -> str | None:
    value = said.one("Deduplication-Id")
    if value is not None and not 0 < len(value) <= MAX_DEDUP_CHARS:
        raise said.error("Deduplication-Id", value, f"write 1 to {MAX_DEDUP_CHARS} characters")
    return None if value is None else _text(value)


def _flow(said: _Said) -> Flow | None:
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
        return Flow(_text(key), limits.get("parallelism"), rate)
    except (InvalidQueue, InvalidSetting) as error:
        raise said.error("Flow-Control-Value", value, _short(error)) from None


def _flow_limits(said: _Said, value: str) -> dict[str, int]:
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


def _count(said: _Said, value: str, number: str) -> int:
    if not _COUNT.fullmatch(number) or int(number) < 1:
        raise said.error("Flow-Control-Value", value, "parallelism and rate are whole numbers of at least 1")
    return int(number)


def _period(said: _Said, value: str, number: str) -> int:
    try:
        seconds = int(number) if _COUNT.fullmatch(number) else int(parse_duration(number))
    except InvalidSetting:
        seconds = 0
    if not 1 <= seconds <= LONGEST_PERIOD:
        raise said.error("Flow-Control-Value", value, "period is 1s to 7d, such as 10, 10s or 1h30m")
    return seconds


def _redact(said: _Said) -> tuple[str, ...]:
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
    return f"header:{canonical(name)}" if _TOKEN.fullmatch(name) else None


def _callback(said: _Said, name: str) -> Callback | None:
    url = said.one(name)
    if url is None:
        return None
    callback = Callback(check_url(f"{said.prefix}{name}", url), said.under(f"{name}-"))
    read_callback(callback.headers, f"{said.prefix}{name}-")
    return callback


def _cron(said: _Said) -> str | None:
    value = said.one("Cron")
    try:
        if value is not None:
            Cron(value)
    except InvalidSchedule as error:
        raise said.error("Cron", value or "", _short(error)) from None
    return value


def _name(said: _Said, name: str) -> str | None:
    value = said.one(name)
    return None if value is None else check_name(f"{said.prefix}{name}", value)


def _unprefixed(plain: Sequence[tuple[str, str]], *, everything: bool) -> Headers:
    """The request's own headers that are to be forwarded."""
    if everything:
        return tuple((name, value) for name, value in plain if name.lower() not in _OF_THE_CALLER)
    return tuple((name, value) for name, value in plain if _is_content_type(name))


def _forwarded(said: _Said, plain: Headers) -> Headers:
    """The headers to be sent, checked. Those with a prefix stand in for those of the same name without one."""
    forwarded = [one for one in said.under("Forward-") if one[0].lower() not in _OF_THE_CONNECTION]
    for name, value in forwarded:
        _check_header(f"{said.prefix}Forward-{name}", name, value)
    for name, value in plain:
        _check_header(name, name, value)
    replaced = {name.lower() for name, _ in forwarded}
    kept = [(name, value) for name, value in plain if name.lower() not in replaced]
    headers = tuple((name, value.strip(" \t")) for name, value in [*kept, *forwarded])
    if len(headers) > MAX_HEADERS or sum(len(name) + len(value) for name, value in headers) > MAX_HEADER_BYTES:
        raise InvalidRequest(
            f"{said.prefix}Forward-*: a message has at most {MAX_HEADERS} headers of {MAX_HEADER_BYTES} bytes in all, "
            f"not {len(headers)} of {sum(len(name) + len(value) for name, value in headers)}: send less, or in the body"
        )
    types = {value for name, value in headers if _is_content_type(name)}
    if len(types) > 1:
        raise refused("Content-Type", max(types), "a message has one")
    return headers


def _check_header(what: str, name: str, value: str) -> None:
    if not _TOKEN.fullmatch(name):
        raise refused(what, value, "the name of a header has letters, digits and '-', and no blanks")
    if _CONTROL.search(value):
        raise refused(what, value, "control characters are not allowed in the value of a header")
    if not _fits_latin_1(value):
        raise refused(what, value, "the value of a header is latin-1 text: encode it, or send it in the body")


def _fits_latin_1(value: str) -> bool:
    try:
        value.encode("latin-1")
    except UnicodeEncodeError:
        return False
    return True


def _text(value: str) -> str:
    """The text of a header: UTF-8 if its bytes are, else latin-1."""
    try:
        return value.encode("latin-1").decode()
    except UnicodeError:
        return value


def _short(error: Exception) -> str:
    return str(error)[:300]


def compose(
    publishing: Publishing,
    url: str,
    body: bytes,
    *,
    now: datetime,
    queue: str,
    message_id: str | None = None,
    queue_name: str | None = None,
    caller_ip: str = "",
    topic: str | None = None,
    endpoint: str | None = None,
    schedule_id: str | None = None,
    callback_of: str | None = None,
) -> Message:
    """The message that was asked for.

    Args:
        url: http, https, or `task://NAME` (`Destination.text`).
        now: aware UTC, when it was published.
        queue: where it goes; queue_name: the queue that its sender named, if any.
        topic, endpoint: the URL group that it was published to, and the member's name.
        callback_of: id of the message whose answer it tells.

    Raises:
        InvalidRequest: `Upstash-Not-Before` is more than 366 days ahead.
    """
    start = _start(publishing, now)
    request = Request(
        url=url,
        method=publishing.method or DEFAULT_METHOD,
        headers=publishing.headers,
        body=body,
        callback=publishing.callback,
        failure_callback=publishing.failure_callback,
        topic=topic,
        endpoint=endpoint,
        schedule_id=schedule_id,
        queue_name=queue_name,
        caller_ip=caller_ip,
        labels=publishing.labels,
        redact=publishing.redact,
        retry_delay=publishing.retry_delay,
        not_before=None if start is None else to_ms(start),
        callback_of=callback_of,
    )
    return Message(
        id=message_id or new_id(now),
        task=url.removeprefix(TASK_SCHEME) if url.startswith(TASK_SCHEME) else HTTP_TASK,
        queue=queue,
        payload=request.encode(),
        payload_type=PAYLOAD_TYPE,
        created_at=now,
        not_before=start if start is not None and start > now else None,
        timeout=publishing.timeout,
        flow=publishing.flow,
        retry=_retry(publishing.retries, publishing.retry_delay),
        recorded=True,
        repeated=True,
    )


def _retry(retries: int | None, delay: str | None) -> Retry:
    retries = DEFAULT_RETRIES if retries is None else retries
    return Retry(max_retries=retries, delay=delay or DEFAULT_RETRY_DELAY, jitter=0.0)


def _start(publishing: Publishing, now: datetime) -> datetime | None:
    """When it is asked to start; None: nothing was said."""
    if publishing.not_before is not None:
        try:
            start = datetime.fromtimestamp(publishing.not_before, UTC)
        except (ValueError, OverflowError, OSError):
            start = datetime.max.replace(tzinfo=UTC)
        if start - now > LONGEST_DELAY:
            raise refused("Upstash-Not-Before", str(publishing.not_before), "it is at most 366 days ahead, in seconds")
        return start
    return None if publishing.delay is None else now + timedelta(seconds=publishing.delay)


def override(message: Message, publishing: Publishing, *, now: datetime) -> Message:
    """The message with what was given instead of its own; what was not given stays, the body always.

    Headers replace those of the same name. The instant before which it may not start is dropped, unless a new one is
    given: the old one is of another life.

    Args:
        message: a request's; of another only delay, timeout, retries and flow can be changed.
        publishing: of `read_overrides`.

    Raises:
        InvalidRequest: `Upstash-Not-Before` is more than 366 days ahead.
        InvalidMessage: the payload of the message is damaged.
    """
    start = _start(publishing, now)
    changed: dict[str, Any] = {"not_before": start if start is not None and start > now else None}
    if publishing.timeout is not None:
        changed["timeout"] = publishing.timeout
    if publishing.flow is not None:
        changed["flow"] = publishing.flow
    if publishing.retries is not None or publishing.retry_delay is not None:
        changed["retry"] = _retry_instead(message.retry, publishing)
    request = request_of(message)
    if request is not None:
        changed["payload"] = _request_instead(request, publishing, start).encode()
    return replace(message, **changed)


def _retry_instead(old: Retry | None, publishing: Publishing) -> Retry:
    if old is None:
        return _retry(publishing.retries, publishing.retry_delay)
    if publishing.retry_delay is not None:
        return _retry(old.max_retries if publishing.retries is None else publishing.retries, publishing.retry_delay)
    return old if publishing.retries is None else replace(old, max_retries=publishing.retries)


def _request_instead(request: Request, publishing: Publishing, start: datetime | None) -> Request:
    given = {
        name: value
        for name in ("method", "callback", "failure_callback", "labels", "redact", "retry_delay")
        if (value := getattr(publishing, name))
    }
    new = {name.lower() for name, _ in publishing.headers}
    headers = tuple(pair for pair in request.headers if pair[0].lower() not in new)
    return replace(
        request,
        **given,
        headers=(*headers, *publishing.headers),
        not_before=None if start is None else to_ms(start),
    )


def dedup_key(
    publishing: Publishing, destination_text: str, body: bytes, *, member: str | None = None
) -> tuple[str, str] | None:
    """The deduplication id as the store keeps it, `(scope, id)`; None: the message is never a duplicate.

    An id of the caller's own holds whatever the destination. One by content is of destination, body and all headers to
    be sent (their order and case do not count); settings do not count. The id of a caller comes before the content.

    Args:
        destination_text: `Destination.text`, of the group for a group.
        member: the URL of the group's member that this message is for: each has its own.
    """
    if publishing.dedup_id is not None:
        scope, parts = "http:id", [publishing.dedup_id.encode()]
        if member is None and len(publishing.dedup_id) <= MAX_PLAIN_DEDUP_CHARS:
            return scope, publishing.dedup_id
    elif publishing.content_dedup:
        headers = sorted(((name.lower(), value) for name, value in publishing.headers), key=lambda pair: pair[0])
        scope, parts = "http:content", [destination_text.encode(), body]
        parts += [text.encode("latin-1") for pair in headers for text in pair]
    else:
        return None
    if member is not None:
        parts.append(member.encode())
    return scope, _digest(parts)


def _digest(parts: Sequence[bytes]) -> str:
    """One hash of several texts; where one ends and the next begins counts."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return f"sha256:{digest.hexdigest()}"
