"""Retries and what follows the last one: the archive, with all that is known, and the way back out of it."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import aio_pika
import pytest

from taskq import Queue, Reject, Retry, RetryAfter, TaskExpired, TaskFailed, current
from taskq.dispatch import task_queue
from taskq.message import CONTENT_TYPE, new_id
from taskq.outcome import Status
from taskq.store.base import DeadFilter, DeadLetter, OutboxRow
from tests.integration.room import Room
from tests.support import eventually

QUEUES = [Queue("open"), Queue("fifo", parallelism=1), Queue("two", parallelism=2)]


class Refused(OSError):
    pass


@pytest.mark.parametrize("queue", QUEUES, ids=lambda queue: queue.name)
async def test_attempts_follow_the_policy_and_end_in_the_archive(room: Room, queue: Queue) -> None:
    """As many attempts as max_retries says, as far apart as the delay; then the archive has all that is known."""
    times: list[float] = []

    @room.app.task(name="fails", queue=queue, retry=Retry(max_retries=2, delay="100 * pow(2, retried)"))
    async def fails(number: int) -> None:
        times.append(time.monotonic())
        raise Refused(f"attempt {current().attempt}")

    worker = await room.worker()
    handle = await fails.options(headers={"tenant": "7"}).enqueue_async(5)
    with pytest.raises(TaskFailed, match="attempt 3"):
        await handle.get_result_async(60)
    assert len(times) == 3
    assert times[1] - times[0] >= 0.1 and times[2] - times[1] >= 0.2
    letter = await room.dead(message_id=handle.id)
    assert (letter.reason, letter.attempts, letter.worker) == ("failed", 3, worker.id)
    assert (letter.queue, letter.task) == (queue.name, "fails")
    assert letter.failure is not None and letter.failure.type.endswith("Refused")
    assert 'raise Refused(f"attempt' in letter.failure.traceback
    assert abs(letter.died_at - datetime.now(UTC)) < timedelta(seconds=30)
    assert letter.message is not None and letter.message.headers == {"tenant": "7"}
    states = [entry.state for entry in await (await room.store()).history(handle.id)]
    assert states.count("ERROR") + states.count("RETRY") >= 2 and states[-1] == "FAILED", states


async def test_only_covered_errors_are_retried(room: Room) -> None:
    """`on` and `not_on` choose by class; what they leave out fails at the first attempt."""
    attempts: dict[str, int] = {}

    @room.app.task(name="picky", retry=Retry(max_retries=2, delay=0.01, on=(OSError, ValueError), not_on=(Refused,)))
    async def picky(what: str) -> None:
        attempts[what] = current().attempt
        raise {"os": OSError, "refused": Refused, "key": KeyError}[what](what)

    await room.worker()
    for what, expected in (("os", 3), ("refused", 1), ("key", 1)):
        with pytest.raises(TaskFailed):
            await (await picky.enqueue_async(what)).get_result_async(60)
        assert attempts[what] == expected


async def test_a_task_decides_itself(room: Room) -> None:
    """Reject fails for good with retries left; RetryAfter uses them up; a message's own policy wins over the task's."""
    attempts: list[int] = []

    @room.app.task(name="decides", retry=3)
    async def decides(how: str) -> None:
        attempts.append(current().attempt)
        if how == "reject":
            raise Reject("wrong currency")
        if how == "after":
            raise RetryAfter(0.01, "busy")
        raise ValueError(how)

    await room.worker()
    rejected = await decides.enqueue_async("reject")
    with pytest.raises(TaskFailed, match="wrong currency"):
        await rejected.get_result_async(60)
    assert (await room.dead(message_id=rejected.id)).reason == "rejected"
    assert attempts == [1]
    attempts.clear()
    with pytest.raises(TaskFailed, match="RetryAfter"):
        await (await decides.enqueue_async("after")).get_result_async(60)
    assert attempts == [1, 2, 3, 4]
    attempts.clear()
    with pytest.raises(TaskFailed):
        await (await decides.options(retry=Retry(max_retries=1, delay=0.01)).enqueue_async("x")).get_result_async(60)
    assert attempts == [1, 2]


async def test_an_expired_message_never_starts(room: Room) -> None:
    """Its time passes in the queue or in the waiting room: EXPIRED, in the archive, and the waiter is told."""
    ran: list[int] = []

    @room.app.task(name="note")
    async def note(number: int) -> int:
        ran.append(number)
        return number

    queued = await note.options(expires=0.05).enqueue_async(1)
    waiting = await note.options(delay=0.2, expires=0.1).enqueue_async(2)
    good = await note.options(expires=60).enqueue_async(3)
    late = datetime.now(UTC) + timedelta(seconds=0.1)
    await eventually(lambda: datetime.now(UTC) > late)
    await room.worker()
    assert await good.get_result_async(60) == 3
    for handle in (queued, waiting):
        with pytest.raises(TaskExpired):
            await handle.get_result_async(60)
        assert await handle.get_status_async() is Status.EXPIRED
        assert (await room.dead(message_id=handle.id)).reason == "expired"
    assert ran == [3]


def outbox_row(letter: DeadLetter, now: datetime) -> OutboxRow:
    """The letter's message anew, as it is sent again."""
    assert letter.message is not None
    message = replace(letter.message, id=new_id(now), attempt=1, hop=0, repeated=True, reply_to=None)
    return OutboxRow(f"{message.id}/revive/0", "queue", message.queue, message.encode(), CONTENT_TYPE, message.id, now)


async def test_dead_letters_come_back_as_new_messages(room: Room) -> None:
    """Revived ones run again under new ids and leave the archive; the others stay, and filters tell them apart."""
    mended: list[bool] = []

    @room.app.task(name="fails", retry=0)
    async def fails(number: int) -> int:
        if not mended:
            raise Refused(str(number))
        return number

    await room.worker()
    handles = [await fails.enqueue_async(number) for number in range(3)]
    store = await room.store()

    async def all_there() -> bool:
        return await store.count_dead(DeadFilter(task="fails")) == 3

    await eventually(all_there)
    assert await store.count_dead(DeadFilter(task="fails", queue="other")) == 0
    assert await store.count_dead(DeadFilter(text="2")) == 1
    mended.append(True)
    letters = (await store.dead(DeadFilter(message_id=handles[1].id))).items
    rows = [outbox_row(letter, await store.now()) for letter in letters]
    assert await store.revive([letter.id for letter in letters], rows) == 1
    again = room.app.handle(rows[0].message_id)
    assert again.id != handles[1].id
    assert await again.get_result_async(60) == 1
    assert await store.count_dead(DeadFilter()) == 2
    assert await store.delete_dead(DeadFilter(message_id=handles[0].id)) == 1
    assert await store.count_dead(DeadFilter()) == 1


async def test_a_message_that_the_broker_itself_gave_up(rabbit_room: Room) -> None:
    """What is rejected by the queue's own limits is archived with the broker's reason, not lost."""
    room = rabbit_room

    @room.app.task(name="note")
    async def note() -> None: ...

    handle = await note.enqueue_async()
    broker: Any = await room.app.client().broker()
    connection = await aio_pika.connect(room.urls["broker"])
    channel = await connection.channel()
    queue = await channel.get_queue(broker.names.queue(task_queue("default")), ensure=False)
    message = await queue.get(timeout=5)
    assert message is not None
    await message.reject(requeue=False)
    await connection.close()
    await room.worker()
    letter = await room.dead(message_id=handle.id)
    assert letter.reason == "broker-rejected"
    assert letter.task == "note"
