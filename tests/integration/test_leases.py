"""What is held for long is renewed before the broker takes it back."""

from __future__ import annotations

import asyncio

import pytest

from taskq import Queue
from taskq.broker.base import Delivery
from taskq.worker.units import SlotUnit
from tests.integration.room import Room
from tests.support import eventually


async def test_a_slot_is_renewed_under_its_holder(rabbit_room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the broker's own timeout counts, tokens go round in time, and what runs on the slots is not disturbed."""
    tokens: dict[int, int] = {}
    take = SlotUnit.on_token

    def counted(unit: SlotUnit, delivery: Delivery) -> None:
        tokens[unit.slot.index] = tokens.get(unit.slot.index, 0) + 1
        take(unit, delivery)

    monkeypatch.setattr(SlotUnit, "on_token", counted)
    starts: list[int] = []
    renewed = asyncio.Event()

    @rabbit_room.app.task(name="hold", queue=Queue("pool", parallelism=2))
    async def hold(number: int) -> int:
        starts.append(number)
        await renewed.wait()
        return number

    worker = await rabbit_room.worker(settings={"broker_ack_timeout": 0.5})
    worker.longest_hold = 0.25  # on versions that obey a timeout per queue, too
    handles = [await hold.enqueue_async(number) for number in range(2)]
    await eventually(lambda: len(tokens) == 2 and min(tokens.values()) >= 3)
    renewed.set()
    assert [await handle.get_result_async(60) for handle in handles] == [0, 1]
    assert sorted(starts) == [0, 1]
