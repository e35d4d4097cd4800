"""Records as QStash's answers show them. Pure: what is redacted is shown redacted, and instants are ms since the epoch.

A field that was not set is absent, never null; both spellings are sent where clients differ.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from taskq.clock import to_ms
from taskq.errors import InvalidMessage
from taskq.flow import Flow
from taskq.http.redaction import shown
from taskq.http.request import Callback, Request, Response, grouped, request_of
from taskq.message import Message
from taskq.retry import Retry
from taskq.store.base import DeadLetter, LogEntry
from taskq.store.gateway import Event

View = dict[str, Any]

FORWARDED = "forward-"
NO_REQUEST = Request(url="", method="")
NO_RESPONSE = Response(0)

# State of a log's line -> QStash's word. Clients refuse words that they do not know.
WORDS = {"SNOOZED": "RETRY", "EXPIRED": "FAILED"}
FAILURES = frozenset({"ERROR", "FAILED", "EXPIRED"})


def message_view(message: Message) -> View | None:
    """A message as `GET /v2/messages/{id}` answers it; None: it is no request, or a damaged one."""
    request = _request(message)
    if request is None:
        return None
    view = {
        "messageId": message.id,
        **_sender(request),
        **_body(request.body),
        "maxRetries": _max_retries(message),
        "notBefore": to_ms(message.created_at) if request.not_before is None else request.not_before,
        "createdAt": to_ms(message.created_at),
        "callerIP": request.caller_ip,
        **_callback("callback", "callbackHeader", request.callback),
        **_callback("failureCallback", "failureCallbackHeader", request.failure_callback),
        **_flow(message.flow),
    }
    if request.retry_delay is not None:
        view["retryDelayExpression"] = request.retry_delay
    return view


def schedule_view(template: Message) -> View | None:
    """What a schedule sends, as `GET /v2/schedules/{id}` answers it; None: it is no request, or a damaged one."""
    request = _request(template)
    if request is None:
        return None
    view = _sender(request)
    destination = view.pop("url") or view.pop("topicName")
    for name in ("topicName", "endpointName", "scheduleId"):
        view.pop(name, None)
    view |= {
        "destination": destination,
        **_body(request.body),
        "retries": _max_retries(template),
        "callerIp": request.caller_ip,
        "callerIP": request.caller_ip,
        **_callback("callback", "callbackHeader", request.callback),
        **_callback("failureCallback", "failureCallbackHeader", request.failure_callback),
        **_flow(template.flow),
    }
    if request.retry_delay is not None:
        view["retryDelayExpression"] = request.retry_delay
    if template.timeout is not None:
        view["timeout"] = round(template.timeout)
    if template.not_before is not None:
        view["delay"] = round((template.not_before - template.created_at).total_seconds())
    return view


def dead_view(letter: DeadLetter) -> View | None:
    """A dead letter as `GET /v2/dlq/{id}` answers it; None: it is no request, or a damaged one."""
    view = None if letter.message is None else message_view(letter.message)
    if view is None:
        return None
    response = _response(letter.response)
    view |= {"dlqId": letter.id, "responseStatus": response.status, "responseHeader": grouped(response.headers)}
    if response.status:
        view |= _body(response.body, "responseBody", "responseBodyBase64")
    return view


def event_view(event: Event, *, cancelled: str = "CANCELED", timeout: float) -> View:
    """A line of a message's history.

    Args:
        cancelled: the spelling of that state.
        timeout: seconds that an attempt may take at most.
    """
    entry, message = event.entry, event.message
    request = (None if message is None else _request(message)) or NO_REQUEST
    view = {
        "time": to_ms(entry.at),
        "messageId": entry.message_id,
        "state": cancelled if entry.state == "CANCELED" else WORDS.get(entry.state, entry.state),
        **_sender(request),
        "body": _base64(request.body),
        **_callback("callback", "callbackHeaders", request.callback),
        **_callback("failureCallback", "failureCallbackHeaders", request.failure_callback),
    }
    if message is not None:
        seconds = timeout if message.timeout is None else min(message.timeout, timeout)
        view |= {"timeout": round(seconds * 1000), "maxRetries": _max_retries(message), **_flow(message.flow)}
    if request.retry_delay is not None:
        view |= {"retryDelayExpression": request.retry_delay, "retryDelayExpr": request.retry_delay}
    if entry.detail and entry.state in FAILURES:
        view["error"] = entry.detail
    if entry.next_at is not None:
        view["nextDeliveryTime"] = to_ms(entry.next_at)
    return view | _answer(entry)


def _request(message: Message) -> Request | None:
    """What may be shown of its request. A damaged one is not shown, and hides no other."""
    try:
        request = request_of(message)
    except InvalidMessage:
        return None
    return None if request is None else shown(request)


def _response(data: bytes | None) -> Response:
    """What came back; nothing, if it cannot be read."""
    try:
        return NO_RESPONSE if data is None else Response.decode(data)
    except InvalidMessage:
        return NO_RESPONSE


def _sender(request: Request) -> View:
    """Where it goes, and what its sender said of it."""
    view: View = {"url": request.url, "method": request.method, "header": grouped(request.headers)}
    for name, value in (
        ("topicName", request.topic),
        ("endpointName", request.endpoint),
        ("queueName", request.queue_name),
        ("scheduleId", request.schedule_id),
    ):
        if value is not None:
            view[name] = value
    if request.labels:
        view |= {"label": request.labels[0], "labels": list(request.labels)}
    return view


def _callback(name: str, headers_name: str, callback: Callback | None) -> View:
    if callback is None:
        return {}
    headers = _forwarded(callback)
    return {name: callback.url, headers_name: headers} if headers else {name: callback.url}


def _forwarded(callback: Callback) -> Mapping[str, Sequence[str]]:
    """The headers that it is sent with; what else was said of it are settings."""
    return grouped(
        tuple(
            (name[len(FORWARDED) :], value)
            for name, value in callback.headers
            if name.lower().startswith(FORWARDED) and len(name) > len(FORWARDED)
        )
    )


def _flow(flow: Flow | None) -> View:
    if flow is None:
        return {}
    view: View = {"flowControlKey": flow.key, "period": 1}
    if flow.rate_limit is not None:
        per = float(flow.rate_limit.per)
        view |= {"rate": flow.rate_limit.limit, "period": int(per) if per.is_integer() else per}
    if flow.parallelism is not None:
        view["parallelism"] = flow.parallelism
    return view


def _answer(entry: LogEntry) -> View:
    """What came back from an attempt that failed, if anything did."""
    response = _response(entry.response)
    if entry.state != "ERROR" or not response.status:
        return {}
    headers = grouped(response.headers)
    return {
        "responseStatus": response.status,
        "responseBody": _base64(response.body),
        "responseHeader": headers,
        "responseHeaders": headers,
    }


def _body(body: bytes, text: str = "body", encoded: str = "bodyBase64") -> View:
    """As text if it is UTF-8; an empty one is absent."""
    if not body:
        return {}
    try:
        return {text: body.decode()}
    except UnicodeDecodeError:
        return {encoded: _base64(body)}


def _base64(body: bytes) -> str:
    return base64.b64encode(body).decode("ascii")


def _max_retries(message: Message) -> int:
    return (message.retry or Retry()).max_retries
