"""One attempt to deliver a request: sent, and its answer read and judged."""

from __future__ import annotations

import asyncio
import base64
import logging
import re
from collections.abc import Iterator
from functools import lru_cache
from urllib.parse import quote, unquote_to_bytes

import httpx

from taskq.clock import Clock
from taskq.http.exchange import Outgoing, Place
from taskq.http.guard import Guard
from taskq.http.network import GuardedBackend
from taskq.http.pool import FAILURES, ConnectionPool
from taskq.http.request import DeliveryFailed, Headers, Request, Response
from taskq.http.retry_after import retry_after
from taskq.http.signing import sign
from taskq.store.gateway import SigningKeys

MAX_RESPONSE_BYTES = 1024 * 1024  # of an answer's body; what is beyond is not read
MAX_RESPONSE_HEADERS = 200  # of an answer's headers are kept, and no more than
MAX_RESPONSE_HEADER_BYTES = 32 * 1024
USER_AGENT = "Upstash-QStash"
NON_RETRYABLE_STATUS = 489
NON_RETRYABLE_HEADER = "upstash-nonretryable-error"

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t -~\x80-\xff]*")
_HOP_BY_HOP = frozenset({
    "connection", "content-length", "expect", "host", "keep-alive", "proxy-authorization", "proxy-connection", "te",
    "trailer", "transfer-encoding", "upgrade",
})  # fmt: skip
_OURS = frozenset({
    "upstash-message-id", "upstash-retried", "upstash-signature", "upstash-caller-ip", "upstash-topic-name",
    "upstash-schedule-id", "upstash-region",
})  # fmt: skip

_NOT_THEIRS = _HOP_BY_HOP | _OURS
_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})  # say so where there is none
_PORTS = {"http": 80, "https": 443}


class Deliverer:
    """Delivers requests, over connections that it keeps. It belongs to the event loop on which it is first used.

    Args:
        allow: networks that may be reached though they are not public, with commas; None: none.
        clock: what signatures are dated by.

    Raises:
        ValueError: `allow` is not understood.
    """

    def __init__(self, *, allow: str | None, clock: Clock) -> None:
        self._clock = clock
        backend = GuardedBackend(Guard(allow))
        self._pool = ConnectionPool(backend, httpx.create_ssl_context(), clock)
        _quiet("httpcore", "hpack")

    async def deliver(
        self, request: Request, *, message_id: str, retried: int, keys: SigningKeys, timeout: float
    ) -> Response:
        """The answer, if its status says that the request was taken: 200 to 299.

        Args:
            retried: attempts before this one.
            keys: the current one signs.
            timeout: seconds for the whole attempt, from resolving the name to the end of the answer.

        Raises:
            DeliveryFailed: another status, no whole answer in time, none at all, or an address that may not be reached.
        """
        try:
            signature = sign(request, key=keys.current, now=self._clock.now())
            place, host, target = _parse(request.url)
            headers = _headers(request, host, message_id, retried, signature)
            outgoing = Outgoing(place, request.method, target, headers, request.body)
            async with asyncio.timeout(timeout):
                status, fields, body = await self._pool.exchange(outgoing, most=MAX_RESPONSE_BYTES)
        except DeliveryFailed:
            raise
        except TimeoutError:
            raise DeliveryFailed(f"no whole answer within {timeout:g} s") from None
        except (*FAILURES, httpx.InvalidURL) as error:  # their text says it all, their traces are long
            raise DeliveryFailed(_told(error)) from None
        except Exception as error:  # whatever else a destination can make the libraries raise
            raise DeliveryFailed(_told(error)) from error
        received = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in fields)
        return self._judge(Response(status, tuple(_kept(received)), body), received)

    async def close(self) -> None:
        """Close the connections; a delivery that is under way fails."""
        await self._pool.aclose()
        await asyncio.sleep(0)  # sockets are closed in the loop's next round

    def _judge(self, response: Response, received: Headers) -> Response:
        status = response.status
        if 200 <= status <= 299:
            return response
        final = status == NON_RETRYABLE_STATUS and any(
            name.lower() == NON_RETRYABLE_HEADER and value.strip().lower() == "true" for name, value in received
        )
        raise DeliveryFailed(
            f"the destination answered {status}",
            response,
            retry_after=None if final else retry_after(received, self._clock.now()),
            final=final,
        )


def _kept(received: Headers) -> Iterator[tuple[str, str]]:
    room = MAX_RESPONSE_HEADER_BYTES
    for name, value in received[:MAX_RESPONSE_HEADERS]:
        room -= len(name) + len(value)
        if room < 0:
            return
        yield name, value


def _headers(request: Request, host: bytes, message_id: str, retried: int, signature: str) -> list[tuple[bytes, bytes]]:
    """What is sent: the connection's, the sender's, but for those that are not theirs to say, and ours."""
    given = [(name, value) for name, value in request.headers if name.lower() not in _NOT_THEIRS]
    names = {name.lower() for name, _ in given}
    ours = [
        ("Upstash-Message-Id", message_id),
        ("Upstash-Retried", str(retried)),
        ("Upstash-Signature", signature),
        ("Upstash-Caller-Ip", request.caller_ip),
        ("Upstash-Topic-Name", request.topic),
        ("Upstash-Schedule-Id", request.schedule_id),
    ]
    if "user-agent" not in names:
        ours.insert(0, ("User-Agent", USER_AGENT))
    if "authorization" not in names:
        ours.append(("Authorization", _credentials(request.url)))
    fields = [(b"Host", host)]
    if request.body or request.method in _WITH_BODY:
        fields.append((b"Content-Length", b"%d" % len(request.body)))
    fields += [_field(name, value) for name, value in given]
    fields += [_field(name, value) for name, value in ours if value]
    return fields


def _field(name: str, value: str) -> tuple[bytes, bytes]:
    """A header in bytes. The library's own error would quote the value, which may be a secret."""
    value = value.strip(" \t")
    if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
        raise DeliveryFailed(f"header {name!r:.80} cannot be sent: HTTP has no such characters in its name or value")
    return name.encode("ascii"), value.encode("latin-1")


def _credentials(url: str) -> str | None:
    """What a URL with user and password asks to be sent."""
    userinfo, at, _ = _authority(url).rpartition("@")
    if not at:
        return None
    user, _, password = userinfo.partition(":")
    return "Basic " + base64.b64encode(unquote_to_bytes(user) + b":" + unquote_to_bytes(password)).decode()


def _authority(url: str) -> str:
    rest = url.partition("://")[2]
    return rest[: _end_of_authority(rest)]


def _end_of_authority(rest: str) -> int:
    return next((index for index, character in enumerate(rest) if character in "/?#"), len(rest))


@lru_cache(1024)
def _parse(url: str) -> tuple[Place, bytes, bytes]:
    """Where the URL leads, the header Host for it, and its path and query as they were given: httpx would resolve dots
    and escape what it likes.

    What HTTP cannot carry there, blanks and letters beyond ASCII, is escaped.
    """
    rest = url.partition("://")[2].partition("#")[0]
    target = rest[_end_of_authority(rest) :]
    if not target.startswith("/"):
        target = f"/{target}"
    parsed = httpx.URL(url)
    if parsed.scheme not in _PORTS or not parsed.raw_host:
        raise httpx.InvalidURL("a destination is http or https, with a host")
    place = Place(parsed.scheme, parsed.raw_host.decode("ascii"), parsed.port or _PORTS[parsed.scheme])
    return place, parsed.netloc, quote(target, safe=_VISIBLE).encode("ascii")


_VISIBLE = "".join(map(chr, range(0x21, 0x7F)))


def _quiet(*libraries: str) -> None:
    """Unless somebody wants them told: their debug lines hold every header, signatures and credentials too."""
    for library in map(logging.getLogger, libraries):
        if library.level == logging.NOTSET:
            library.setLevel(logging.WARNING)


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:400] if str(error) else type(error).__name__
