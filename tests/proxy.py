"""A TCP proxy on loopback: a network between a client and its server that can fail in every way a network does.

It can fall silent in either direction, be slow, narrow or dripping, refuse, reset, cut a connection in
the middle of an AMQP frame, and speak for the server. One Proxy is one line: its connections share it.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Coroutine
from typing import Any

BASIC_PUBLISH = 60 << 16 | 40
BASIC_DELIVER = 60 << 16 | 60

_PIECE = 1024  # bytes that pass a narrow line at a time
_WAITING = 1000  # chunks that a slow line holds for each connection and direction
_GREETING = b"AMQP\x00\x00\x09\x01"
_FRAME = struct.Struct(">BHI")
_METHOD_ID = struct.Struct(">I")
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER without any time: a close is a reset


class Line:
    """One direction of a proxy.

    open       nothing passes while it is not set
    delay      seconds that every byte takes
    bandwidth  bytes per second, all connections together; None: no bound
    drip       seconds from one byte to the next, each sent alone; None: bytes pass together
    """

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.bandwidth: float | None = None
        self.drip: float | None = None
        self.delay = 0.0
        self._free_at = 0.0
        self.heal()

    def heal(self) -> None:
        self.bandwidth, self.drip, self.delay = None, None, 0.0
        self.open.set()

    def pieces(self, data: bytes) -> list[bytes]:
        """The data as they pass."""
        size = 1 if self.drip is not None else _PIECE if self.bandwidth is not None else len(data)
        return [data[at : at + size] for at in range(0, len(data), size)]

    async def passage(self, size: int) -> None:
        """Return when so many bytes may pass."""
        await self.open.wait()
        if self.drip is not None:
            await asyncio.sleep(self.drip)
        elif self.bandwidth is not None:
            now = asyncio.get_running_loop().time()
            self._free_at = max(now, self._free_at) + size / self.bandwidth
            await asyncio.sleep(self._free_at - now)


class FrameFinder:
    """Follows the frames of one direction of a connection; of a protocol that is not AMQP it knows nothing."""

    def __init__(self) -> None:
        self._rest = b""
        self._known = True

    def find(self, data: bytes, method: int | None) -> int | None:
        """Where in the data the first frame of this method begins, None if none does; negative: in earlier data."""
        buffer, before = self._rest + data, len(self._rest)
        at, found = 0, None
        while self._known and len(buffer) - at >= 11:
            if buffer.startswith(_GREETING[:4], at):
                at += len(_GREETING)
                continue
            kind, _, size = _FRAME.unpack_from(buffer, at)
            self._known = kind in (1, 2, 3, 8)
            if kind == 1 and _METHOD_ID.unpack_from(buffer, at + 7)[0] == method and found is None:
                found = at - before
            if at + size + 8 > len(buffer):
                break
            at += size + 8
        self._rest = buffer[at:] if self._known else b""
        return found


class Proxy:
    """See the module. Listens from `async with` on, at `port`."""

    def __init__(self, host: str, port: int) -> None:
        self.port = 0
        self.to_server, self.to_client = Line(), Line()
        self._target = (host, port)
        self._server: asyncio.Server | None = None
        self._clients: list[asyncio.StreamWriter] = []
        self._servers: list[asyncio.StreamWriter] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._method: int | None = None  # a connection is to be cut inside its next frame of this method
        self._after = 0
        self._severed = asyncio.Event()

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Refuse connections from now on, and cut those that stand."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def silence(self, *, to_server: bool = True, to_client: bool = True) -> None:
        """Pass nothing on, and close nothing: a network that has lost its way."""
        if to_server:
            self.to_server.open.clear()
        if to_client:
            self.to_client.open.clear()

    def heal(self) -> None:
        """Pass everything on again, at once."""
        self.to_server.heal()
        self.to_client.heal()

    def cut(self) -> None:
        """Drop the connections that stand."""
        for writer in self._clients:
            writer.transport.abort()
        self._clients.clear()
        self._servers.clear()

    def reset(self) -> None:
        """Drop the connections that stand, with a reset to both sides."""
        for writer in [*self._clients, *self._servers]:
            _reset(writer)
        self._clients.clear()
        self._servers.clear()

    async def cut_inside(self, method: int, after: int) -> None:
        """Reset the connection on which the next frame of this method passes, in the midst of it; return then.

        Args:
            method: BASIC_PUBLISH or BASIC_DELIVER.
            after: bytes that pass, from the beginning of that frame.
        """
        self._severed.clear()
        self._method, self._after = method, after
        await self._severed.wait()

    def say(self, data: bytes) -> None:
        """Send to every client, as if the server had."""
        for writer in self._clients:
            writer.write(data)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            server_reader, server_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        self._clients.append(writer)
        self._servers.append(server_writer)

        def sever() -> None:
            _reset(writer)
            _reset(server_writer)
            self._severed.set()

        self._run(self._pump(reader, server_writer, self.to_server, sever))
        self._run(self._pump(server_reader, writer, self.to_client, sever))

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, line: Line, sever: Callable[[], None]
    ) -> None:
        """From one side to the other until one of them ends; so does the other then."""
        waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_WAITING)
        reading = asyncio.create_task(_read(reader, waiting, line))
        finder = FrameFinder()
        left: int | None = None  # bytes that pass before the connection is severed
        try:
            while True:
                due, data = await waiting.get()
                if not data:
                    return
                await asyncio.sleep(due - asyncio.get_running_loop().time())
                start = finder.find(data, self._method)
                if start is not None and left is None:
                    left, self._method = max(0, start + self._after), None
                if left is not None:
                    data, left = data[:left], left - len(data)
                await self._forward(data, writer, line)
                if left is not None and left <= 0:
                    await writer.drain()
                    return sever()
                if writer.is_closing():
                    return
        except OSError:
            pass  # one side has gone: so does the other
        finally:
            reading.cancel()
            writer.transport.abort()

    async def _forward(self, data: bytes, writer: asyncio.StreamWriter, line: Line) -> None:
        for piece in line.pieces(data):
            await line.passage(len(piece))
            if writer.is_closing():
                return
            writer.write(piece)
            await writer.drain()


async def _read(reader: asyncio.StreamReader, waiting: asyncio.Queue[tuple[float, bytes]], line: Line) -> None:
    """Whatever comes, with the instant at which it may go on; b"" at the end."""
    data = b"-"
    while data:
        try:
            data = await reader.read(65536)
        except OSError:
            data = b""
        await waiting.put((asyncio.get_running_loop().time() + line.delay, data))


def _reset(writer: asyncio.StreamWriter) -> None:
    if not writer.transport.is_closing():
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        writer.transport.abort()
