"""What the HTTP API stands on, without it: uvicorn with an app that answers, and httpx that posts. Nothing is kept."""

from __future__ import annotations

import asyncio
import importlib.metadata
import sys
from typing import Any
from urllib.parse import urlsplit

import httpx

from benchmarks import settings
from benchmarks.http_load import BODY
from benchmarks.peers.base import Peer

_settings = settings.from_environment()
_HEADERS = {"Content-Type": "application/json"}
_CONCURRENCY = 16  # as a taskq worker's
_ANSWER = b'{"messageId":"msg_0190a2b3c4d5e6f70123456789abcdef"}'


async def answer(scope: Any, receive: Any, send: Any) -> None:
    """The smallest app that does what is asked: reads the body, and answers as the API does."""
    while (await receive()).get("more_body"):
        pass
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(_ANSWER))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": _ANSWER})


def serve() -> None:
    """uvicorn with the settings that `taskq api` gives it."""
    import uvicorn

    parts = urlsplit(_settings.api)
    uvicorn.run(
        answer,
        host=parts.hostname or "127.0.0.1",
        port=parts.port or 0,
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_keep_alive=75,
        backlog=2048,
        loop="auto",
    )


async def deliver(count: int) -> None:
    """Post so many, as many at once as a worker does; then wait to be ended."""
    left = iter(range(count))
    async with httpx.AsyncClient() as client:

        async def post() -> None:
            for _ in left:
                await client.post(f"{_settings.endpoint}/-1", content=BODY, headers=_HEADERS)

        await asyncio.gather(*(post() for _ in range(_CONCURRENCY)))
        await asyncio.Event().wait()


class BareHttpPeer(Peer):
    """uvicorn for what accepts, httpx for what delivers."""

    queue = "bare-http"  # which is not there
    kind = "none"
    note = f"uvicorn {importlib.metadata.version('uvicorn')}, httpx {httpx.__version__}, uvloop; nothing is kept"

    def __init__(self) -> None:
        self._count = 0

    async def open(self) -> None:
        self._client = httpx.AsyncClient()

    async def close(self) -> None:
        await self._client.aclose()

    def server_command(self) -> list[str]:
        return [sys.executable, "-m", __name__, "serve"]

    def worker_commands(self, processes: int) -> list[list[str]]:
        return [[sys.executable, "-m", __name__, "deliver", str(self._count)] for _ in range(processes)]

    def fill(self, count: int) -> None:
        """What the worker that is started next is to post."""
        self._count = count

    async def asend(self, number: int) -> None:
        """Deliver one."""
        await self._client.post(f"{_settings.endpoint}/{number}", content=BODY, headers=_HEADERS)

    def publish_url(self, number: int) -> str:
        return f"{_settings.api}/v2/publish/{_settings.endpoint}/{number}"

    async def forward(self, number: int) -> None:
        """What follows a publish where nothing else does it."""
        await self.asend(number)


PEER = BareHttpPeer()

if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve()
    else:
        import uvloop

        uvloop.run(deliver(int(sys.argv[2])))
