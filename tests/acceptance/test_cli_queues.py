"""`taskq queues`, against a real RabbitMQ: limits and pauses take effect, nothing is lost by a migration."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest

from taskq import Queue
from taskq.admin.migrate import BrokenOff, Migration, reborn
from taskq.broker.base import BrokerQueue, Kind, Outgoing
from taskq.clock import SystemClock
from taskq.dispatch import task_queue
from taskq.errors import Duplicate, PublishUnconfirmed, TaskqError
from taskq.outcome import Status
from taskq.queue import lane_of
from tests.acceptance.command_line import APP, CommandLine
from tests.support import eventually


async def send_notes(cli: CommandLine, number: int, *, start: int = 0) -> list[str]:
    """Send `note(w0)`, `note(w1)`, …; their ids."""
    async with cli.sender() as app:
        note = app.get_task("note")
        batch = [note.message(f"w{start + index}") for index in range(number)]
        return [one.id for one in await app.enqueue_many_async(batch)]


async def test_list(cli_everywhere: CommandLine) -> None:
    """The list shows what was declared, and how many messages lie in it."""
    cli = cli_everywhere
    assert cli.run("queues", "list").out == "no queues yet\n"
    await send_notes(cli, 3)
    assert cli.queue("line") | {"kind": "fifo", "parallelism": 1, "ready": 3, "paused": False} == cli.queue("line")
    header, row = cli.run("queues", "list").out.splitlines()
    assert header.split()[:2] == ["QUEUE", "KIND"]
    assert row.split()[:3] == ["line", "fifo", "1"]


async def test_pause_holds_and_resume_lets_go(cli: CommandLine) -> None:
    """A paused queue keeps what is sent to it; resumed, it runs in order."""
    with cli.worker():
        cli.run("send", APP, "note", "w0", "--wait", "20")
        assert cli.run("queues", "pause", "line").out == "line  paused\n"
        assert cli.run("queues", "pause", "line").out == "line  was paused already\n"
        await send_notes(cli, 3, start=1)
        assert cli.queue("line") | {"paused": True, "ready": 3} == cli.queue("line")
        assert cli.notes() == ["w0"]
        assert cli.run("queues", "resume", "line").out == "line  resumed\n"
        await cli.noted("w0", "w1", "w2", "w3")


async def test_set(cli: CommandLine) -> None:
    """Limits set by an operator are shown, stand over the code's, and can be taken away."""
    async with cli.sender() as app:
        await app.get_task("add").options(queue=Queue("pool", parallelism=4)).enqueue_async(1)
    words = ("--parallelism", "2", "--rate", "50/30s", "--worker-parallelism", "1", "--retry-in-place")
    assert cli.run("queues", "set", "pool", *words).out == "pool  changed\n"
    wanted = {"parallelism": 2, "rate_limit": "50/30", "worker_parallelism": 1, "retry_in_place": True}
    assert cli.queue("pool") | wanted | {"origin": "operator"} == cli.queue("pool")
    cli.run("queues", "set", "pool", "--rate", "none", "--worker-parallelism", "none", "--parallelism", "none")
    wanted = {"parallelism": None, "rate_limit": None, "worker_parallelism": None, "kind": "open"}
    assert cli.queue("pool") | wanted == cli.queue("pool")


WRONG = [
    (("set", "line", "--parallelism", "0"), 1, "parallelism must be a whole number from 1 to 1024, got 0"),
    (("set", "line", "--rate", "0/1"), 1, "RateLimit.limit must be a whole number from 1 to 1000000000, got 0"),
    (("set", "line", "--rate", "often"), 2, "'often' is no rate"),
    (("set", "line"), 2, "nothing to set"),
    (("set", "nowhere", "--parallelism", "2"), 1, "no queue is named 'nowhere'"),
    (("pause", "line", "nowhere"), 1, "no queue is named 'nowhere'"),
    (("pause", "no such queue"), 1, "queue name 'no such queue' is not allowed"),
    (("purge", "nowhere", "--yes"), 1, "no queue is named 'nowhere'"),
    (("migrate", "line", "--priorities"), 1, "priorities would break its order"),
]


async def test_wrong_values_are_named(cli: CommandLine) -> None:
    """A value that cannot be is named with what is allowed, and changes nothing."""
    await send_notes(cli, 1)
    for words, code, said in WRONG:
        assert said in cli.run("queues", *words, code=code).err
    assert cli.queue("line") | {"parallelism": 1, "rate_limit": None, "paused": False} == cli.queue("line")


async def test_purge_cancels_what_lies_and_what_waits(cli_everywhere: CommandLine) -> None:
    """After a purge every message of the queue reads CANCELLED, its deduplication id is free, and nothing runs."""
    cli = cli_everywhere
    ids = await send_notes(cli, 20)
    async with cli.sender() as app:
        note = app.get_task("note")
        ids.append((await note.options(dedup_id="once").enqueue_async("x")).id)
        with pytest.raises(Duplicate):
            await note.options(dedup_id="once").enqueue_async("x")
        with cli.worker("-q", "default"):  # it keeps the waiting room, and serves another queue
            ids.append((await note.options(delay=3600).enqueue_async("later")).id)
            await eventually(lambda: cli.queue("line")["waiting"] == 1)
            assert cli.run("queues", "purge", "line", "--yes").out == "line  22 messages cancelled\n"
        await note.options(dedup_id="once").enqueue_async("last")
    async with cli.client() as client:
        records = await (await client.store()).get_many(ids)
    assert {one: record.status for one, record in records.items()} == dict.fromkeys(ids, Status.CANCELLED)
    with cli.worker():
        await cli.noted("last")
    assert cli.queue("line")["paused"] is False


async def test_purge_leaves_what_runs(cli: CommandLine) -> None:
    """A purge beside a worker takes what lies behind the running message, which ends as ever."""
    with cli.worker():
        async with cli.sender() as app:
            held = await app.get_task("hold").enqueue_async("held")
            await eventually((cli.folder / "holding").exists)
            behind = await app.get_task("note").enqueue_async("behind")
            purge = asyncio.create_task(asyncio.to_thread(cli.run, "queues", "purge", "line", "--yes"))
            await eventually(lambda: cli.queue("line")["paused"])
            (cli.folder / "go").touch()
            assert (await purge).out == "line  1 message cancelled\n"
            assert await held.get_result_async(60) == "held"
            assert await behind.get_status_async() is Status.CANCELLED
        cli.run("send", APP, "note", "after", "--wait", "20")
    assert cli.notes() == ["after"]


async def test_purge_gives_up_on_a_line_that_is_held(cli: CommandLine) -> None:
    """A FIFO queue whose worker does not let go in time is left as it was, and the error says why."""
    with cli.worker():
        async with cli.sender() as app:
            await app.get_task("hold").enqueue_async("held")
            await eventually((cli.folder / "holding").exists)
            await app.get_task("note").enqueue_async("behind")
        said = cli.run("queues", "purge", "line", "--yes", "--timeout", "0.5", code=1)
        assert "a message still runs there" in said.err
        assert cli.queue("line")["paused"] is False
        (cli.folder / "go").touch()
        await cli.noted("behind")


async def test_migrate_keeps_messages_and_order(cli: CommandLine) -> None:
    """A FIFO queue becomes a limited one and FIFO again beside a worker: every message is there, in order."""
    words = [f"w{index}" for index in range(60)]
    with cli.worker():
        cli.run("send", APP, "note", "w0", "--wait", "20")
        cli.run("queues", "pause", "line")
        await send_notes(cli, 59, start=1)
        assert cli.run("queues", "migrate", "line", "--no-fifo", "--parallelism", "3").out == (
            "line  limited; 59 messages moved\n"
        )
        assert cli.queue("line") | {"kind": "limited", "parallelism": 3, "ready": 59} == cli.queue("line")
        assert cli.run("queues", "migrate", "line", "--fifo").out == "line  fifo; 59 messages moved\n"
        assert cli.run("queues", "migrate", "line").out == "line  is so already\n"
        cli.run("queues", "resume", "line")
        await cli.noted(*words)


async def test_migrate_to_lanes_keeps_the_order_of_keys(cli: CommandLine) -> None:
    """Messages move into the lane of their key in their order, and a running worker serves the new lanes."""
    with cli.worker():
        cli.run("send", APP, "note", "begin", "--wait", "20")
        cli.run("queues", "pause", "line")
        async with cli.sender() as app:
            note = app.get_task("note")
            keys = [f"k{index % 5}" for index in range(40)]
            await app.enqueue_many_async(
                [note.options(key=key).message(f"{key}/{index}") for index, key in enumerate(keys)]
            )
        moved = cli.json("queues", "migrate", "line", "--partitions", "3")
        assert moved == {"queue": "line", "moved": 40, "kind": "fifo, 3 lanes"}
        async with cli.client() as client:
            broker = await client.broker()
            depths = [await broker.depth(BrokerQueue(Kind.LANE, "line", index)) for index in range(3)]
            assert [depth and depth.ready for depth in depths] == [
                sum(lane_of(key, 3) == index for key in keys) for index in range(3)
            ]
            assert await broker.depth(task_queue("line")) is None
        cli.run("queues", "resume", "line")
        await eventually(lambda: len(cli.notes()) == 41)
    for key in set(keys):
        numbers = [int(word.split("/")[1]) for word in cli.notes() if word.startswith(key + "/")]
        assert numbers == sorted(numbers) and len(numbers) == 8


async def test_migration_that_was_broken_off_goes_on(cli: CommandLine) -> None:
    """A migration that fails in its first or second publish keeps every message; the next call goes on to its end."""
    await send_notes(cli, 30)
    assert await migrate_failing(cli, after=0) == "broken off"
    assert cli.queue("line") | {"paused": True, "kind": "fifo"} == cli.queue("line")
    assert await migrate_failing(cli, after=1) == "broken off"
    assert cli.queue("line") | {"paused": True, "kind": "open", "ready": 0} == cli.queue("line")
    assert await migrate_failing(cli, after=100) == 30
    assert cli.queue("line") | {"kind": "open", "ready": 30} == cli.queue("line")
    cli.run("queues", "resume", "line")
    with cli.worker("-c", "1"):
        await cli.noted(*(f"w{index}" for index in range(30)))


async def migrate_failing(cli: CommandLine, *, after: int) -> int | str | None:
    """Migrate `line` to an open queue, on a broker that confirms so many batches and no more."""
    async with cli.client() as client:
        broker, store = await client.broker(), await client.store()
        publish_many, left = broker.publish_many, [after]

        async def failing(outgoing: Iterable[Outgoing]) -> list[TaskqError | None]:
            left[0] -= 1
            if left[0] < 0:
                return [PublishUnconfirmed("the connection went") for _ in outgoing]
            return await publish_many(outgoing)

        broker.publish_many = failing  # type: ignore[method-assign]
        record = await store.get_queue("line")
        assert record is not None
        migration = Migration(broker=broker, store=store, clock=SystemClock(), advance=lambda done, total=None: None)
        try:
            return await migration.run(record, reborn(record, fifo=False), patience=10)
        except BrokenOff:
            return "broken off"


async def test_migrate_mends_a_queue_with_other_arguments(cli: CommandLine) -> None:
    """A broker queue that is not as the store describes it is made anew, with its messages."""
    async with cli.client() as client:
        await (await client.store()).ensure_queue(Queue("line", parallelism=1))
        await (await client.broker()).declare(task_queue("line"))  # as an open queue would be
    await send_notes(cli, 5)
    said = cli.run("doctor", code=1)
    assert "taskq queues migrate line" in said.out
    assert cli.run("queues", "migrate", "line").out == "line  fifo; 5 messages moved\n"
    assert "ERROR" not in cli.run("doctor").out
    with cli.worker():
        await cli.noted("w0", "w1", "w2", "w3", "w4")
