"""`taskq flow`, against a real RabbitMQ: what is set counts at once."""

from __future__ import annotations

from tests.acceptance.command_line import CommandLine
from tests.support import eventually


async def test_keys_are_listed_paused_pinned_and_reset(cli: CommandLine) -> None:
    assert cli.run("flow", "list").out == "no keys\n"
    with cli.worker():
        async with cli.sender() as app:
            note = app.get_task("note").options(flow_key="tenant-1", flow_parallelism=2)
            await (await note.enqueue_async("first")).get_result_async(60)
            assert cli.run("flow", "pause", "tenant-1").out == "tenant-1  paused\n"
            await note.enqueue_async("second")
            await eventually(lambda: cli.json("flow", "list")[0]["waiting"] == 1)
            assert (
                cli.run("flow", "pin", "tenant-1", "--parallelism", "1", "--rate", "1/1h").out == "tenant-1  pinned\n"
            )
            (key,) = cli.json("flow", "list", "--search", "tenant")
            wanted = {
                "paused": True,
                "parallelism": 1,
                "rate": "1/3600",
                "pinned_parallelism": True,
                "pinned_rate": True,
            }
            assert wanted.items() <= key.items()
            assert cli.json("flow", "list", "--search", "other") == []
            assert cli.run("flow", "resume", "tenant-1").out == "tenant-1  resumed\n"
            await cli.noted("first", "second")
            await note.enqueue_async("third")
            await eventually(lambda: cli.json("flow", "list")[0]["waiting"] == 1)
            (key,) = cli.json("flow", "list")
            assert (key["started"], key["parallelism"]) == (1, 1)
            assert cli.run("flow", "reset", "tenant-1").out == "tenant-1  reset\n"
            await cli.noted("first", "second", "third")
            assert cli.run("flow", "unpin", "tenant-1").out == "tenant-1  unpinned\n"
            (key,) = cli.json("flow", "list")
            assert (key["pinned_parallelism"], key["pinned_rate"]) == (False, False)
            header, row = cli.run("flow", "list").out.splitlines()
            assert header.split()[:3] == ["KEY", "WAITING", "RUNNING"] and row.split()[0] == "tenant-1"


def test_a_key_that_nobody_named_is_an_error(cli: CommandLine) -> None:
    for command in (["pause", "nobody"], ["reset", "nobody"], ["pin", "nobody", "--parallelism", "2"]):
        ended = cli.run("flow", *command, code=1)
        assert "no message has named flow key 'nobody'" in ended.err
    assert "nothing to pin" in cli.run("flow", "pin", "nobody", code=2).err
