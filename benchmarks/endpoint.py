"""A destination for deliveries that marks the board: `POST /N` is task number N. It answers 200 with two bytes.

A process of its own over asyncio's sockets, which reads no more of a request than its path and where it ends.
"""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any
from urllib.parse import urlsplit

from benchmarks import board, settings

_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok"
_marker = board.from_environment()


class Destination(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self._transport: Any = None
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while True:
            head, end, rest = self._buffer.partition(b"\r\n\r\n")
            if not end:
                return
            length = int(head.lower().partition(b"\r\ncontent-length:")[2].partition(b"\r")[0] or 0)
            if len(rest) < length:
                return
            self._buffer = rest[length:]
            _marker.mark(int(head.split(b" ", 2)[1][1:]))
            self._transport.write(_ANSWER)


async def serve(url: str) -> None:
    """Until SIGTERM."""
    parts = urlsplit(url)
    server = await asyncio.get_running_loop().create_server(Destination, parts.hostname, parts.port, backlog=1024)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    async with server:
        await ended.wait()
    os._exit(0)  # connections that are kept open are not waited for


if __name__ == "__main__":
    import uvloop

    uvloop.run(serve(settings.from_environment().endpoint))
