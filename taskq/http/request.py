"""A message for a URL: what is to be requested, and what came back. Values and their wire forms.

Such a message's payload is a `Request`, whatever runs it: the built-in task `http`, or the Python
task that a destination `task://NAME` names, to which the body holds the arguments.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgpack

from taskq.errors import InvalidMessage, TaskqError
from taskq.message import Message

HTTP_TASK = "http"
PAYLOAD_TYPE = "application/x-taskq-request"
TASK_SCHEME = "task://"

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Callback:
    """Where the answer of an attempt is sent.

    url      str, http or https
    headers  what was said of the callback's own message, the prefix removed: ("Method", "PUT"), ("Forward-X", "1")
    """

    url: str
    headers: Headers = ()


@dataclass(frozen=True, slots=True)
class Request:
    """What is sent to a destination, and what its sender said of it beside the message's own fields.

    url         str: http, https, or task://NAME
    method      str, upper case
    headers     those to be sent, Content-Type among them; values as latin-1 text, as HTTP has them
    body        bytes, to be sent as they are
    callback    after every attempt; failure_callback: once, when it has failed for good
    topic       str | None: the URL group that it was published to; endpoint: the member's name, if it has one
    schedule_id str | None
    queue_name  str | None: the queue that its sender named
    caller_ip   str: of who published it
    labels      its labels
    redact      "body", "headers", or "header:Name": not to be shown
    retry_delay str | None: the expression as it was given
    not_before  int | None: ms since the epoch, as it was asked for
    callback_of str | None: id of the message whose answer it tells
    """

    url: str
    method: str = "POST"
    headers: Headers = ()
    body: bytes = b""
    callback: Callback | None = None
    failure_callback: Callback | None = None
    topic: str | None = None
    endpoint: str | None = None
    schedule_id: str | None = None
    queue_name: str | None = None
    caller_ip: str = ""
    labels: tuple[str, ...] = ()
    redact: tuple[str, ...] = ()
    retry_delay: str | None = None
    not_before: int | None = None
    callback_of: str | None = None

    def encode(self) -> bytes:
        """The payload of its message."""
        wire: dict[str, Any] = {"url": self.url, "method": self.method, "headers": self.headers, "body": self.body}
        for name in _CALLBACKS:
            callback = getattr(self, name)
            if callback is not None:
                wire[name] = [callback.url, callback.headers]
        for name in _PLAIN:
            value = getattr(self, name)
            if value:
                wire[name] = value
        return msgpack.packb(wire, unicode_errors="surrogatepass")  # type: ignore[no-any-return]

    def arguments(self) -> tuple[list[Any], dict[str, Any]]:
        """What the body says to a Python task: a JSON array its arguments, a JSON object its keyword arguments, and
        anything else one argument, the bytes as they are."""
        try:
            value = json.loads(self.body)
        except (ValueError, RecursionError):
            return [self.body], {}
        match value:
            case list():
                return value, {}
            case dict():
                return [], value
        return [self.body], {}

    @classmethod
    def decode(cls, payload: bytes) -> Request:
        """Raises InvalidMessage for bytes that `encode` never makes."""
        try:
            wire = msgpack.unpackb(payload, unicode_errors="surrogatepass")
            given: dict[str, Any] = {name: _text(wire[name]) for name in _TEXTS if name in wire}
            request = cls(
                url=_text(wire["url"]),
                method=_text(wire["method"]),
                headers=_pairs(wire["headers"]),
                body=wire["body"],
                labels=tuple(map(_text, wire.get("labels", ()))),
                redact=tuple(map(_text, wire.get("redact", ()))),
                callback=_callback(wire.get("callback")),
                failure_callback=_callback(wire.get("failure_callback")),
                not_before=wire.get("not_before"),
                **given,
            )
            if type(request.body) is not bytes or type(request.not_before) not in (int, type(None)):
                raise TypeError("body is bytes, and not_before a whole number")
        except (
            KeyError, TypeError, ValueError, AttributeError, RecursionError, msgpack.exceptions.UnpackException,
        ) as error:  # fmt: skip
            raise InvalidMessage(f"not a request of ours: {type(error).__name__}: {error}"[:400]) from error
        return request


_CALLBACKS = ("callback", "failure_callback")
_TEXTS = (
    "topic", "endpoint", "schedule_id", "queue_name", "caller_ip", "retry_delay", "callback_of",
)  # fmt: skip
_PLAIN = (*_TEXTS, "labels", "redact", "not_before")


def request_of(message: Message) -> Request | None:
    """The request of a message that came as one; None: it is an ordinary Python task's.

    Raises:
        InvalidMessage: its payload is damaged.
    """
    return Request.decode(message.payload) if message.payload_type == PAYLOAD_TYPE else None


@dataclass(frozen=True, slots=True)
class Response:
    """What came back; a status of 0: nothing did.

    headers  name and value, as they came
    body     bytes, cut at the limit that answers have
    """

    status: int
    headers: Headers = ()
    body: bytes = b""

    def encode(self) -> bytes:
        """As it is kept."""
        return msgpack.packb([self.status, self.headers, self.body])  # type: ignore[no-any-return]

    @classmethod
    def decode(cls, data: bytes) -> Response:
        """Raises InvalidMessage for bytes that `encode` never makes."""
        try:
            status, headers, body = msgpack.unpackb(data)
            if type(status) is not int or type(body) is not bytes:
                raise TypeError("a response is a status, headers and a body")
            return cls(status, _pairs(headers), body)
        except (TypeError, ValueError, msgpack.exceptions.UnpackException) as error:
            raise InvalidMessage(f"not a response of ours: {type(error).__name__}: {error}"[:400]) from error


class DeliveryFailed(TaskqError):
    """An attempt to deliver a request failed.

    response     Response: what came back; status 0: nothing did
    retry_after  float | None, seconds: the destination said when to try again
    final        bool: it said that trying again is of no use
    """

    def __init__(
        self, text: str, response: Response = Response(0), *, retry_after: float | None = None, final: bool = False
    ) -> None:
        super().__init__(text)
        self.response = response
        self.retry_after = retry_after
        self.final = final


def grouped(headers: Headers) -> Mapping[str, Sequence[str]]:
    """name -> values, names in canonical spelling (`X-Lower-Case`), as QStash's answers have them."""
    found: dict[str, list[str]] = {}
    for name, value in headers:
        found.setdefault(canonical(name), []).append(value)
    return found


def canonical(name: str) -> str:
    """A header's name in canonical spelling."""
    return "-".join(part[:1].upper() + part[1:].lower() for part in name.split("-"))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"text was expected, got {value!r:.80}")
    return value


def _pairs(value: Any) -> Headers:
    return tuple((_text(name), _text(text)) for name, text in value)


def _callback(value: Any) -> Callback | None:
    if value is None:
        return None
    url, headers = value
    return Callback(_text(url), _pairs(headers))
