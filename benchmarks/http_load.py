"""A bare HTTP client over asyncio's sockets: keep-alive, no pipelining, one request under way on each connection.

It parses no more of an answer than where it ends, so that it does not bound what it measures.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any
from urllib.parse import urlsplit

CONNECTIONS = 100
BODY = b'{"number": 1, "label": "a short string"}'


class Refused(Exception):
    """An answer other than 200."""


def post(url: str, body: bytes = BODY) -> bytes:
    """A request, as bytes."""
    parts = urlsplit(url)
    path = url.partition(parts.netloc)[2] or "/"
    head = f"POST {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


class Connection(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self._transport: Any = None
        self._buffer = b""
        self._answered: asyncio.Future[None] | None = None
        self._repeat: bytes | None = None
        self._until = 0.0
        self.count = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        self._end(error or ConnectionResetError("the server closed the connection"))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, end, rest = self._buffer.partition(b"\r\n\r\n")
        if not end:
            return
        length = head.lower().partition(b"content-length:")[2].partition(b"\r")[0]
        if len(rest) < int(length or 0):
            return
        self._buffer = b""
        if not head.startswith(b"HTTP/1.1 200"):
            self._end(Refused((head[:100] + rest[:300]).decode("latin-1")))
        elif self._repeat is None or time.perf_counter() >= self._until:
            self._end(None)
        else:
            self.count += 1
            self._transport.write(self._repeat)

    def _end(self, error: Exception | None) -> None:
        answered, self._answered = self._answered, None
        if answered is None or answered.done():
            return
        if error is None:
            answered.set_result(None)
        else:
            answered.set_exception(error)

    async def request(self, data: bytes) -> None:
        """Send, and wait for the answer."""
        self._answered = asyncio.get_running_loop().create_future()
        self._transport.write(data)
        await self._answered

    async def repeat(self, data: bytes, until: float) -> None:
        """Send again and again, each when the one before is answered; those answered before `until` count."""
        self._repeat, self._until, self.count = data, until, 0
        await self.request(data)
        self._repeat = None

    def close(self) -> None:
        self._transport.close()


async def connect(url: str) -> Connection:
    """A connection to the server of a URL, once it listens."""
    parts = urlsplit(url)
    deadline = time.monotonic() + 30
    while True:
        try:
            made = await asyncio.get_running_loop().create_connection(Connection, parts.hostname, parts.port)
        except OSError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.05)
        else:
            return made[1]


async def load(url: str, seconds: float) -> dict[str, Any]:
    """Requests for so long over all connections; how many were answered, in what time."""
    connections = [await connect(url) for _ in range(CONNECTIONS)]
    data, begin = post(url), time.perf_counter()
    try:
        await asyncio.gather(*(one.repeat(data, begin + seconds) for one in connections))
    finally:
        for one in connections:
            one.close()
    return {"count": sum(one.count for one in connections), "seconds": seconds}
