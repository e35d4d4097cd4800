"""The message that a caller asks for: composed of what `reading` found, changed by it, known by it again.

Neither knows routes, queues or groups: who calls them does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from taskq.clock import to_ms
from taskq.http.destination import Destination, check_name, check_url, destination, refused
from taskq.http.headers import split_query
from taskq.http.reading import Publishing, read, read_callback, read_overrides
from taskq.http.request import HTTP_TASK, PAYLOAD_TYPE, TASK_SCHEME, Request, request_of
from taskq.message import Message, new_id
from taskq.retry import Retry

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

DEFAULT_METHOD = "POST"
DEFAULT_RETRIES = 3
DEFAULT_RETRY_DELAY = "min(86400000, exp(2.5 * (retried + 1)) * 1000)"  # milliseconds
LONGEST_DELAY = timedelta(days=366)
MAX_PLAIN_DEDUP_CHARS = 150  # longer ids are kept as their hash


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


@lru_cache(256)
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

    Headers replace those of the same name; what was hidden stays hidden, whatever else is to be. The instant before
    which it may not start is dropped, unless a new one is given: the old one is of another life.

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
        for name in ("method", "callback", "failure_callback", "labels", "retry_delay")
        if (value := getattr(publishing, name))
    }
    new = {name.lower() for name, _ in publishing.headers}
    headers = tuple(pair for pair in request.headers if pair[0].lower() not in new)
    return replace(
        request,
        **given,
        headers=(*headers, *publishing.headers),
        redact=tuple(dict.fromkeys((*request.redact, *publishing.redact))),
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
