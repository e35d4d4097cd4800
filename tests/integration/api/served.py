"""The API in this process over a room: called as by a client, without a socket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from taskq import TaskQ
from taskq.api.app import make_api
from taskq.worker.worker import Worker
from tests.integration.room import Room
from tests.support import eventually

LOOPBACK = {"delivery_allow": "127.0.0.0/8"}


class Served:
    """See the module. `http` calls the API of the room's app."""

    def __init__(self, room: Room, http: httpx.AsyncClient) -> None:
        self.room = room
        self.http = http

    async def answer(self, method: str, path: str, status: int = 200, **call: Any) -> Any:
        """The JSON of an answer, which has this status."""
        answer = await self.http.request(method, path, **call)
        assert answer.status_code == status, (method, path, answer.status_code, answer.text)
        return answer.json()

    async def refused(self, method: str, path: str, status: int, **call: Any) -> str:
        """The text of an error, which is all that its answer holds."""
        answer = await self.answer(method, path, status, **call)
        assert list(answer) == ["error"], answer
        return str(answer["error"])

    async def enqueue(self, queue: str, url: str, **headers: str) -> str:
        """The id of a message that was accepted by way of a queue."""
        said = {name.replace("_", "-"): value for name, value in headers.items()}
        return str((await self.answer("POST", f"/v2/enqueue/{queue}/{url}", headers=said))["messageId"])

    async def worker(self) -> Worker:
        """A worker that may deliver to loopback."""
        return await self.room.worker(settings=LOOPBACK)

    async def status(self, message_id: str) -> str:
        """Where a message is."""
        return str((await self.answer("GET", f"/admin/messages/{message_id}"))["message"]["status"])

    async def until_status(self, message_id: str, status: str, timeout: float = 60) -> None:  # noqa: ASYNC109
        """Wait for it."""

        async def check() -> bool:
            seen = await self.status(message_id)
            assert seen == status, f"{message_id} is {seen}, not {status}"
            return True

        await eventually(check, timeout)


@asynccontextmanager
async def calling(app: TaskQ, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an app's API, which is up for the time of the block."""
    api = make_api(app)
    async with api.router.lifespan_context(api):
        transport = httpx.ASGITransport(api)
        async with httpx.AsyncClient(transport=transport, base_url="http://api", **options) as http:
            yield http
