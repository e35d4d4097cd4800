"""What the routes work with: the app's connections, opened once for the server."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import Annotated, TypeVar
from weakref import WeakValueDictionary

from fastapi import Depends, Request

from taskq.admin.census import Census, WorkerSeen
from taskq.api.publisher import Publisher
from taskq.app import TaskQ
from taskq.broker.base import Broker
from taskq.client import Client
from taskq.clock import Clock
from taskq.dispatch import Dispatcher
from taskq.errors import AccessRefused, BrokerUnavailable, StoreUnavailable
from taskq.settings import Settings
from taskq.store.base import Store

logger = logging.getLogger("taskq.api")
T = TypeVar("T")


class Context:
    """Broker and store of one server: opened with it, or, if they did not answer then, when they are needed.

    app       TaskQ; client: its client in this event loop
    settings  Settings
    clock     Clock
    """

    def __init__(self, app: TaskQ, *, closes: bool = True) -> None:
        self.app = app
        self.settings: Settings = app.settings
        self.clock: Clock = app.clock
        self._changing: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._closes = closes
        self._census: tuple[Broker, Census] | None = None
        self._asking = asyncio.Lock()
        self._opening = asyncio.Lock()
        self._publisher: Publisher | None = None

    @property
    def client(self) -> Client:
        """The client of the running event loop."""
        return self.app.client()

    async def open(self) -> None:
        """Connect, and bring the store's schema up to date. Who does not answer is asked again by requests.

        Raises:
            AccessRefused, StoreMismatch, SchemaTooNew: no request could be served.
        """
        try:
            await self.store()
            await self.broker()
        except AccessRefused:
            raise
        except (BrokerUnavailable, StoreUnavailable) as error:
            logger.warning("%s; requests are answered with 503 until it does", error)

    async def close(self) -> None:
        """Close the connections, unless they are also another's."""
        self._census = None
        if self._publisher is not None:
            await self._publisher.close()
        if self._closes:
            await self.app.close()

    async def store(self) -> Store:
        """The store, opened, and known to be this broker's own.

        Raises:
            StoreUnavailable, BrokerUnavailable: within `publish_timeout`.
        """
        return await self._within(
            self.client.store(), StoreUnavailable("the store, or the broker that it belongs to, did not answer")
        )

    async def broker(self) -> Broker:
        """The broker, connected.

        Raises:
            BrokerUnavailable: within `publish_timeout`.
        """
        return await self._within(self.client.broker(), BrokerUnavailable("the broker did not answer"))

    async def dispatcher(self) -> Dispatcher:
        """What publishes messages where they belong."""
        await self.broker()
        assert self.client.dispatcher is not None
        return self.client.dispatcher

    async def publisher(self) -> Publisher:
        """What accepts messages."""
        if self._publisher is None:
            store, broker, dispatcher = await self.store(), await self.broker(), await self.dispatcher()
            async with self._opening:
                if self._publisher is None:
                    publisher = Publisher(app=self.app, store=store, broker=broker, dispatcher=dispatcher)
                    await publisher.prepare()
                    self._publisher = publisher
        return self._publisher

    def changing(self, queue: str) -> asyncio.Lock:
        """Held by who makes, changes, empties or deletes that queue."""
        return self._changing.setdefault(queue, asyncio.Lock())

    async def workers(self) -> list[WorkerSeen]:
        """The workers that answer, by id. Takes about a second."""
        broker = await self.broker()
        async with self._asking:
            if self._census is None or self._census[0] is not broker:
                census = Census(broker)
                await census.listen()
                self._census = (broker, census)
            found = await self._census[1].ask()
        return sorted(found.values(), key=lambda worker: worker.id)

    async def _within(self, work: Awaitable[T], late: BrokerUnavailable | StoreUnavailable) -> T:
        try:
            async with asyncio.timeout(self.settings.publish_timeout):
                return await work
        except TimeoutError as error:
            raise late from error


async def context_of(request: Request) -> Context:
    """The context of the app that serves the request."""
    context: Context = request.app.state.context
    return context


InContext = Annotated[Context, Depends(context_of)]
