"""A consumer that stands and gets nothing, while messages are ready, is made anew."""

from __future__ import annotations

import pytest

from taskq import Queue
from taskq.worker import units
from tests.integration.room import Room


@pytest.mark.parametrize("parallelism", [None, 1, 2])
async def test_a_deaf_consumer_is_made_anew(
    rabbit_room: Room, monkeypatch: pytest.MonkeyPatch, parallelism: int | None
) -> None:
    """A consumer that the broker no longer has is replaced, and the messages are run."""
    monkeypatch.setattr(units, "LISTEN_AGAIN_AFTER", 0.2)
    queue = Queue("quiet", parallelism=parallelism)

    @rabbit_room.app.task(name="echo", queue=queue)
    async def echo(number: int) -> int:
        return number

    worker = await rabbit_room.worker()
    assert await (await echo.enqueue_async(1)).get_result_async(60) == 1
    deaf = [unit for unit in worker.servers["quiet"].units if unit.subscription is not None]

    for unit in deaf:
        await _silence(unit)
    handle = await echo.enqueue_async(2)
    assert await handle.get_result_async(60) == 2


async def _silence(unit: units.Unit) -> None:
    """Take the consumer away behind the unit's back, as a broker that has lost it would."""
    subscription = unit.subscription
    assert subscription is not None
    await subscription._channel.amqp.basic_cancel(subscription._tag)  # type: ignore[attr-defined]
