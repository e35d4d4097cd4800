"""Faults of the broker."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from tests.chaos.stream import Ledger, Stream
from tests.servers import RabbitNode


async def test_stop_app_and_start_app(
    node: RabbitNode,
    stream: Callable[..., Stream],
    note: Callable[[Ledger], None],
    consumers: Callable[[], Awaitable[bool]],
) -> None:
    """The broker's application stops for some seconds and starts again."""
    fault = stream("broker: stop_app, start_app")
    async with fault.flowing():
        await asyncio.to_thread(node.ctl, "stop_app")
        await asyncio.to_thread(node.ctl, "start_app")
        back = await fault.mended(consumers)
        note(await fault.checked(back=back))


async def test_kill_9(
    node: RabbitNode,
    stream: Callable[..., Stream],
    note: Callable[[Ledger], None],
    consumers: Callable[[], Awaitable[bool]],
) -> None:
    """The broker is killed and starts again on the same data."""
    fault = stream("broker: kill -9, restart")
    async with fault.flowing():
        await asyncio.to_thread(node.kill)
        await asyncio.to_thread(node.start)
        back = await fault.mended(consumers)
        note(await fault.checked(back=back))
