"""Taking everything out of a broker queue, batch by batch, in its order, until it stays empty."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Protocol

from taskq.broker.base import Broker, BrokerQueue, Delivery, Loss
from taskq.errors import TaskqError

PREFETCH = 500
LOOK_EVERY = 0.1  # seconds between looks at how full the queue is
QUIET_LOOKS = 5  # looks in a row that find nothing, after which it is empty: what workers give back has come by then


class StillHeld(TaskqError):
    """A worker did not let go of the queue in time."""


class Advance(Protocol):
    """Hears how far it is: so many more are done, of so many in all (None: as before)."""

    def __call__(self, done: int, total: int | None = None) -> None: ...


async def drain(
    broker: Broker,
    queue: BrokerQueue,
    take: Callable[[list[Delivery]], Awaitable[None]],
    *,
    patience: float,
) -> None:
    """Hand all that lies in the queue, and what comes meanwhile, to `take`, which acknowledges what it is done with.

    Args:
        patience: seconds to wait for messages that do not come, because the single active consumer is a worker
            that still runs one.

    Raises:
        StillHeld: it did not let go.
    """
    if await broker.depth(queue) is None:
        return
    await _let_go(broker, queue, patience)
    hands: deque[Delivery] = deque()
    came = asyncio.Event()

    def on_delivery(delivery: Delivery) -> None:
        hands.append(delivery)
        came.set()

    def on_loss(loss: Loss) -> None:
        hands.clear()  # the broker brings them again

    subscription = await broker.subscribe(queue, on_delivery, prefetch=PREFETCH, on_loss=on_loss, redeclare=False)
    try:
        loop = asyncio.get_running_loop()
        last, quiet = loop.time(), 0
        while quiet < QUIET_LOOKS:
            came.clear()
            if hands:
                batch = [hands.popleft() for _ in range(len(hands))]
                await take(batch)
                last, quiet = loop.time(), 0
                continue
            depth = await broker.depth(queue)
            quiet = quiet + 1 if depth is None or depth.ready == 0 else 0
            if loop.time() - last > patience:
                raise _still_held(queue, patience)
            await _either(came, LOOK_EVERY)
    finally:
        await subscription.close()


async def _let_go(broker: Broker, queue: BrokerQueue, patience: float) -> None:
    """Wait until no worker consumes an ordered queue: the one that does has the next message in hand already."""
    until = asyncio.get_running_loop().time() + patience
    while queue.ordered and (depth := await broker.depth(queue)) is not None and depth.consumers:
        if asyncio.get_running_loop().time() > until:
            raise _still_held(queue, patience)
        await asyncio.sleep(LOOK_EVERY)


def _still_held(queue: BrokerQueue, patience: float) -> StillHeld:
    return StillHeld(
        f"queue {queue.name!r}: a worker has not let go of it for {patience:g} s, for a message still runs "
        "there; try again later, or with a longer --timeout"
    )


async def _either(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
