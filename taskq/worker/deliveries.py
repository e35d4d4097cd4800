"""The built-in task `http`: a worker's connections to destinations, and the keys that it signs with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from taskq.clock import Clock
from taskq.context import current
from taskq.http.request import HTTP_TASK, Request, Response
from taskq.queue import Queue
from taskq.retry import Retry
from taskq.settings import Settings
from taskq.store.base import Store
from taskq.store.gateway import SigningKeys
from taskq.task import Definition, Task

if TYPE_CHECKING:
    from taskq.http.delivery import Deliverer

KEYS_FOR = 10.0  # seconds for which signing keys are remembered; a rotation is told of at once


class Deliveries:
    """See the module. Nothing is loaded or connected before the first delivery."""

    def __init__(self, *, store: Store, clock: Clock, settings: Settings) -> None:
        self._store = store
        self._clock = clock
        self._settings = settings
        self._deliverer: Deliverer | None = None
        self._keys: tuple[float, SigningKeys] | None = None

    def task(self, sender: Any) -> Task[..., Any]:
        """The task, for the worker's messages; `sender` is the app."""
        definition = Definition(
            name=HTTP_TASK,
            queue=Queue(HTTP_TASK),
            retry=Retry(),
            timeout=self._settings.delivery_timeout,
            soft_timeout=None,
            pool="async",
            result=True,
        )
        return Task(self._deliver, definition=definition, sender=sender)

    async def _deliver(self, request: Request) -> Response:
        context = current()
        return await self._open().deliver(
            request,
            message_id=context.id,
            retried=context.attempt - 1,
            keys=await self._signing_keys(),
            timeout=self._settings.delivery_timeout,
        )

    def _open(self) -> Deliverer:
        if self._deliverer is None:
            from taskq.http.delivery import Deliverer

            self._deliverer = Deliverer(allow=self._settings.delivery_allow, clock=self._clock)
        return self._deliverer

    async def _signing_keys(self) -> SigningKeys:
        now = self._clock.monotonic()
        if self._keys is None or now - self._keys[0] > KEYS_FOR:
            self._keys = (now, await self._store.signing_keys())
        return self._keys[1]

    def forget_keys(self) -> None:
        """They were rotated."""
        self._keys = None

    async def close(self) -> None:
        """End the connections."""
        if self._deliverer is not None:
            await self._deliverer.close()
