"""The API in this process, over a room, and messages accepted as the gateway accepts them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import httpx

from taskq.api.app import make_api
from taskq.dispatch import outbox_row
from taskq.http.publishing import compose, read
from taskq.message import Message
from taskq.queue import Queue
from taskq.store.base import Store
from taskq.store.gateway import Parcel
from tests.endpoint import Endpoint
from tests.integration.room import Room
from tests.support import eventually

LOOPBACK = {"delivery_allow": "127.0.0.0/8"}


class Desk:
    """See the module; `http` speaks to the API, `endpoint` is a destination."""

    def __init__(self, room: Room, endpoint: Endpoint) -> None:
        self.room = room
        self.endpoint = endpoint
        self.http = httpx.AsyncClient(
            transport=httpx.ASGITransport(make_api(room.app), raise_app_exceptions=False), base_url="http://api"
        )

    async def store(self) -> Store:
        return await self.room.store()

    async def publish(self, url: str = "/in", body: bytes = b"hi", **said: Any) -> Message:
        """Accept and publish a message. `said`: fields of `compose`; of headers those of the call, `_` for `-`."""
        headers = {name.replace("_", "-"): value for name, value in said.items() if name[0].isupper()}
        fields: Mapping[str, Any] = {name: value for name, value in said.items() if not name[0].isupper()}
        app, store = self.room.app, await self.store()
        now = app.clock.now()
        queue = str(fields.get("queue_name") or "http")
        publishing = read([("Content-Type", "text/plain"), *headers.items()])
        url = self.endpoint.url(url) if url.startswith("/") else url
        message = compose(publishing, url, body, now=now, queue=queue, **fields)
        record = await store.ensure_queue(
            Queue(queue, parallelism=1) if fields.get("queue_name") else Queue(queue), origin="gateway"
        )
        row = outbox_row(message, "enqueue", now + timedelta(seconds=60))
        [accepted] = await store.accept([Parcel(message, row)])
        assert accepted.message_id == message.id
        client = app.client()
        await client.broker()
        assert client.dispatcher is not None
        await client.dispatcher.send(message, record)
        await store.published([row.id])
        return message

    async def worker(self) -> None:
        """One that delivers to the endpoint."""
        await (await self.store()).ensure_queue(Queue("http"), origin="gateway")
        await self.room.worker(settings=LOOPBACK)

    async def dead(self, count: int = 1, **said: Any) -> list[dict[str, Any]]:
        """Publish messages that fail at once, and return them as the dead letter queue lists them, oldest first."""
        sent = [(await self.publish(Upstash_Retries="0", **said)).id for _ in range(count)]

        async def listed() -> list[dict[str, Any]]:
            found = (await self.get("/v2/dlq", messageId=sent))["messages"]
            assert len(found) == count, found
            return found

        return await eventually(listed)

    async def get(self, path: str, /, **query: Any) -> Any:
        """The JSON of a call that answers 200."""
        return await self.answered("GET", path, 200, params=query)

    async def answered(self, method: str, path: str, status: int, **call: Any) -> Any:
        """The JSON of an answer, which has this status."""
        answer = await self.http.request(method, path, **call)
        assert answer.status_code == status, (answer.status_code, answer.text)
        return answer.json()

    async def refused(self, method: str, path: str, status: int, **call: Any) -> str:
        """The text of an error."""
        return str((await self.answered(method, path, status, **call))["error"])

    async def close(self) -> None:
        await self.http.aclose()
