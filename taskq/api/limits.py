"""How much one request may bring, and how many a client may make in a second."""

from __future__ import annotations

import math

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from taskq.api.auth import CALLER, OPEN
from taskq.api.errors import problem
from taskq.clock import Clock
from taskq.settings import Settings

BATCH_BYTES = 100 * 10**6
OTHER_BYTES = 2**20
SENDING = ("/v2/publish/", "/v2/enqueue/", "/v2/batch")


class Bodies:
    """Refuses bodies that are too large: by what is announced, before a byte is read, else as soon as it shows."""

    def __init__(self, app: ASGIApp, *, settings: Settings) -> None:
        self._app = app
        self._payload = settings.max_payload_bytes

    def most(self, path: str) -> int:
        """Bytes that the body of a request to this path may have."""
        if path.rstrip("/") == "/v2/batch":
            return BATCH_BYTES
        if path.startswith(("/v2/publish/", "/v2/enqueue/", "/v2/schedules/")):
            return self._payload
        return OTHER_BYTES

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        most = self.most(scope["path"])
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if announced.isdigit() and int(announced[:20]) > most:
            await problem(413, _too_large(most))(scope, receive, send)
            return
        came = 0

        async def counted() -> Message:
            nonlocal came
            message = await receive()
            came += len(message.get("body", b""))
            if came > most:
                raise HTTPException(413, _too_large(most))
            return message

        await self._app(scope, counted, send)


def _too_large(most: int) -> str:
    return f"the body is larger than the {most} bytes that are allowed here: store large data elsewhere, send its name"


class Rate:
    """At most so many requests a second of one client: of one token, or without tokens of one address.

    Publishing is not counted.
    """

    def __init__(self, app: ASGIApp, *, settings: Settings, clock: Clock) -> None:
        self._app = app
        self._limit = settings.api_rate_limit
        self._clock = clock
        self._second = 0
        self._counts: dict[str, int] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if self._limit is None or scope["type"] != "http" or path in OPEN or path.startswith(SENDING):
            await self._app(scope, receive, send)
            return
        count = self._count(scope)
        told = {
            "Burst-RateLimit-Limit": str(self._limit),
            "Burst-RateLimit-Remaining": str(max(0, self._limit - count)),
            "Burst-RateLimit-Reset": str(self._second + 1),
        }
        if count > self._limit:
            text = f"more than {self._limit} requests in a second: try again in the next"
            await problem(429, text, told | {"Retry-After": "1"})(scope, receive, send)
            return

        async def telling(message: Message) -> None:
            if message["type"] == "http.response.start":
                pairs = [(name.lower().encode(), value.encode()) for name, value in told.items()]
                message = {**message, "headers": [*message.get("headers", ()), *pairs]}
            await send(message)

        await self._app(scope, receive, telling)

    def _count(self, scope: Scope) -> int:
        """This request's number within its second."""
        second = math.floor(self._clock.now().timestamp())
        if second != self._second:
            self._second, self._counts = second, {}
        caller = scope.get(CALLER) or (scope.get("client") or ("",))[0]
        self._counts[caller] = self._counts.get(caller, 0) + 1
        return self._counts[caller]
