"""A destination on loopback: keeps what it is sent, and answers as it was told.

It runs on a thread of its own, so a test, a script and a blocking client may all use it. What it is told of a path
holds for whatever query comes with it. A path that it was told nothing of answers 200 with an empty body.

    with Endpoint() as endpoint:
        endpoint.answer("/orders", 503, Answer(200, body=b"done"))      # in turn; the last one from then on
        requests.post(endpoint.url("/orders"))
        [first] = await endpoint.until("/orders")                       # or, without an event loop, endpoint.wait
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import uvicorn

WAIT = 30.0  # seconds that `until` and `wait` are patient


@dataclass(frozen=True, slots=True)
class Seen:
    """A request that came.

    target   str: path and query as they were sent, nothing decoded
    headers  (name in lower case, value), in the order in which they came
    at       float, time.time() when the whole of it was there
    """

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    at: float

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        """What follows the question mark, as it was sent; "" without one."""
        return self.target.partition("?")[2]

    def header(self, name: str) -> str | None:
        """A header's value, several with commas between; None: it was not sent."""
        values = [value for found, value in self.headers if found == name.lower()]
        return ", ".join(values) if values else None

    def json(self) -> Any:
        """The body, read as the JSON that it must be."""
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request is answered with; `delay`: seconds before it is."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    delay: float = 0.0


class Endpoint:
    """See the module."""

    def __init__(self, port: int = 0) -> None:
        self._changed = threading.Condition()
        self._seen: list[Seen] = []
        self._told: dict[str, list[Answer]] = {}
        self._held: dict[str, asyncio.Event] = {}
        self._loop: asyncio.AbstractEventLoop | None = None  # the server's, once a request has come
        self._watchers: list[Callable[[], None]] = []
        self._socket = socket.create_server(("127.0.0.1", port), backlog=1024)
        self.port = int(self._socket.getsockname()[1])
        settings = uvicorn.Config(
            self._serve, interface="asgi3", lifespan="off", ws="none", log_config=None, access_log=False,
            server_header=False, timeout_graceful_shutdown=1,
        )  # fmt: skip
        self._server = uvicorn.Server(settings)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), name=f"endpoint {self.port}")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for path in list(self._held):
            self._release(path)
        self._server.should_exit = True
        self._thread.join(10)
        self._socket.close()

    def url(self, target: str = "/") -> str:
        """Where it is reached."""
        return f"http://127.0.0.1:{self.port}{target}"

    # -- what it is told ----------------------------------------------------------------------

    def answer(self, path: str, *answers: Answer | int) -> None:
        """From now on a path gives these in turn, and the last one for ever; a number is a status alone."""
        with self._changed:
            self._told[path] = [Answer(one) if isinstance(one, int) else one for one in answers]

    @contextmanager
    def holding(self, path: str) -> Iterator[None]:
        """Requests to the path are seen, but answered only after the block."""
        with self._changed:
            self._held[path] = asyncio.Event()
        try:
            yield
        finally:
            self._release(path)

    def _release(self, path: str) -> None:
        with self._changed:
            event = self._held.pop(path, None)
        if event is not None and self._loop is not None:
            self._loop.call_soon_threadsafe(event.set)

    def forget(self) -> None:
        """Drop every request that came, and everything that it was told."""
        with self._changed:
            self._seen.clear()
            self._told.clear()

    # -- what it saw --------------------------------------------------------------------------

    def requests(self, path: str | None = None) -> list[Seen]:
        """Those to a path, or all, in the order in which they came."""
        with self._changed:
            return [one for one in self._seen if path is None or one.path == path]

    async def until(self, path: str, count: int = 1, timeout: float = WAIT) -> list[Seen]:  # noqa: ASYNC109 - names the bound
        """Return the path's requests as soon as there are so many.

        Raises:
            AssertionError: there are fewer after `timeout` seconds.
        """
        loop = asyncio.get_running_loop()
        changed = asyncio.Event()

        def wake() -> None:
            loop.call_soon_threadsafe(changed.set)

        with self._changed:
            self._watchers.append(wake)
        try:
            async with asyncio.timeout(timeout):
                while len(found := self.requests(path)) < count:
                    await changed.wait()
                    changed.clear()
        except TimeoutError:
            raise AssertionError(self._too_few(path, count, timeout)) from None
        finally:
            with self._changed:
                self._watchers.remove(wake)
        return found

    def wait(self, path: str, count: int = 1, timeout: float = WAIT) -> list[Seen]:
        """The same for who has no event loop."""
        with self._changed:
            if not self._changed.wait_for(lambda: sum(one.path == path for one in self._seen) >= count, timeout):
                raise AssertionError(self._too_few(path, count, timeout))
        return self.requests(path)

    def _too_few(self, path: str, count: int, waited: float) -> str:
        came = [f"{one.method} {one.target}" for one in self.requests()][-10:]
        return f"{len(self.requests(path))} of {count} requests to {path} within {waited} s; the last to any: {came}"

    # -- the server ---------------------------------------------------------------------------

    async def _serve(self, scope: Any, receive: Any, send: Any) -> None:
        self._loop = asyncio.get_running_loop()
        body = b""
        more = True
        while more:
            part = await receive()
            if part["type"] == "http.disconnect":
                return
            body += part.get("body", b"")
            more = part.get("more_body", False)
        answer, held = self._take(scope, body)
        if held is not None:
            await held.wait()
        if answer.delay:
            await asyncio.sleep(answer.delay)
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers.items()]
        headers.append((b"content-length", str(len(answer.body)).encode()))
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})

    def _take(self, scope: Any, body: bytes) -> tuple[Answer, asyncio.Event | None]:
        """Keep a request; what it is to be answered with, and what to await before."""
        query = scope["query_string"].decode("latin-1")
        target = scope["raw_path"].decode("latin-1") + (f"?{query}" if query else "")
        headers = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"])
        seen = Seen(scope["method"], target, headers, body, time.time())
        with self._changed:
            self._seen.append(seen)
            told = self._told.get(seen.path) or [Answer()]
            answer = told.pop(0) if len(told) > 1 else told[0]
            self._changed.notify_all()
            for wake in self._watchers:
                wake()
            return answer, self._held.get(seen.path)
