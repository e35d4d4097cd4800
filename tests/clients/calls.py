"""The official Python client's two kinds, called in one way: every call is awaited. What tests of it share."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from qstash import AsyncQStash, QStash
from qstash.dlq import DlqMessage

from tests.endpoint import Answer, Endpoint
from tests.support import eventually

Names = Callable[[], str]
FAR = "2d"  # a delay that no test lives to see


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


async def ended(api: Calls, message_id: str, state: str = "DELIVERED") -> list[str]:
    """The message's history, once it has come to this state."""

    async def check() -> list[str]:
        states = await api.logs(message_id=message_id)
        assert states[-1:] == [state], states
        return states

    return await eventually(check)


async def dead(api: Calls, message_id: str) -> DlqMessage:
    """The message's dead letter, once there is one."""

    async def check() -> DlqMessage | None:
        found = await api.dlq.list(filter={"message_id": message_id})
        return found.messages[0] if found.messages else None

    return await eventually(check)


async def die(api: Calls, endpoint: Endpoint, target: str, **options: Any) -> DlqMessage:
    """The dead letter of a message to a destination that refuses everything."""
    endpoint.answer(target, Answer(500, {"X-Why": "because"}, b"refused"))
    sent = await api.message.publish(url=endpoint.url(target), body="dead", retries=0, **options)
    return await dead(api, sent.message_id)


async def empty(api: Calls, queue: str) -> None:
    """Return once the queue has nothing that is not finished."""

    async def check() -> bool:
        lag = (await api.queue.get(queue)).lag
        assert lag == 0, f"{lag} messages of {queue} are not finished"
        return True

    await eventually(check)
