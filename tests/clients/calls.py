"""The official Python client's two kinds, called in one way: every call is awaited."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from qstash import AsyncQStash, QStash


class Calls:
    """`await calls.message.get(id)` is the client's `message.get(id)`, whichever kind it is."""

    def __init__(self, client: QStash | AsyncQStash) -> None:
        self.client = client

    def __getattr__(self, noun: str) -> Noun:
        return Noun(getattr(self.client, noun))

    async def logs(self, states: Sequence[str] = (), **filters: Any) -> list[str]:
        """The states of a history, oldest first; only of these kinds, if any are given."""
        found = await self.log.list(filter=filters)
        return [log.state.value for log in reversed(found.logs) if not states or log.state.value in states]

    async def close(self) -> None:
        """Close its connections, for which it has no call."""
        pool = self.client.http._client
        closing = pool.aclose() if isinstance(self.client, AsyncQStash) else pool.close()
        if inspect.isawaitable(closing):
            await closing


class Noun:
    """One of the client's groups of calls. A blocking call runs on a thread."""

    def __init__(self, group: Any) -> None:
        self._group = group

    def __getattr__(self, verb: str) -> Callable[..., Awaitable[Any]]:
        method = getattr(self._group, verb)

        async def call(*args: Any, **kwargs: Any) -> Any:
            if inspect.iscoroutinefunction(method):
                return await method(*args, **kwargs)
            return await asyncio.to_thread(method, *args, **kwargs)

        return call
