"""`taskq messages`, `send` and `status`, against a real RabbitMQ."""

from __future__ import annotations

from tests.acceptance.command_line import APP, CommandLine
from tests.support import eventually


async def test_sent_message_is_listed_and_shown(cli_everywhere: CommandLine) -> None:
    """A message that was sent from the shell ran with the arguments that were meant, and is found with its result."""
    cli = cli_everywhere
    with cli.worker():
        assert cli.run("send", APP, "add", "1", "b=5", "--wait", "20").out == "6\n"
        sent = cli.run("send", APP, "add", "40", "2", "--wait=20", "--json").json
        assert sent["result"] == 42
        cli.run("send", APP, "note", "5", "--id", "own-id", "--wait", "20", code=1)  # a number where text is asked for
        cli.run("send", APP, "note", "five", "--id", "own-id", "--wait", "20")
        assert cli.run("status", sent["id"]).out == "SUCCEEDED\n"
        overview = cli.json("status")
        assert [worker["queues"] for worker in overview["workers"]] == [["default", "line"]]
        assert overview["keeper"] == overview["workers"][0]["id"]
    listed = cli.json("messages", "list", "--queue", "default", "--status", "succeeded")["items"]
    assert [(one["task"], one["result"], one["attempt"]) for one in listed] == [("add", 42, 1), ("add", 6, 1)]
    shown = cli.run("messages", "show", "own-id").out
    assert "SUCCEEDED" in shown and "DELIVERED" in shown
    assert cli.json("messages", "list", "--since", "1h", "--limit", "1")["cursor"] is not None
    assert cli.run("messages", "list", "--until", "1h").out == "no messages\n"


async def test_cancel_waiting_queued_and_running(cli: CommandLine) -> None:
    """A cancel ends a message wherever it is; one that has ended already is an error."""
    with cli.worker("-q", "line"):
        running = cli.run("send", APP, "hold", "x").out.strip()
        queued = cli.run("send", APP, "note", "never", "--queue", "line").out.strip()
        waiting = cli.run("send", APP, "note", "later", "--delay", "1h").out.strip()
        await eventually((cli.folder / "holding").exists)
        await eventually(lambda: cli.json("messages", "list", "--status", "WAITING")["items"])
        effects = cli.json("messages", "cancel", running, queued, waiting)
        assert effects == {running: "asked", queued: "asked", waiting: "done"}

        def all_cancelled() -> bool:
            items = cli.json("messages", "list", "--status", "CANCELLED")["items"]
            return {one["id"] for one in items} == {running, queued, waiting}

        await eventually(all_cancelled)
        said = cli.run("messages", "cancel", waiting, code=1)
        assert f"message {waiting} has ended already" in said.err
    assert cli.notes() == []


async def test_unknown_messages(cli: CommandLine) -> None:
    """Asked for a message that the store has not seen, show and status say so, and what it may mean."""
    for words in (("messages", "show", "msg_none"), ("status", "msg_none")):
        said = cli.run(*words, code=1)
        assert said.err.startswith("error: the store knows no message 'msg_none': it has not started yet")
    assert "has 201" in cli.run("messages", "cancel", "x" * 201, code=1).err
    assert "is neither an instant" in cli.run("messages", "list", "--since", "yesterday", code=2).err


async def test_send_says_what_is_wrong(cli: CommandLine) -> None:
    """Wrong tasks, arguments, options and apps are named in one line, and nothing is sent."""
    for words, code, text in [
        ((APP, "nothing"), 1, "error: no task is named 'nothing'; this app has: add, hold, note"),
        ((APP, "add", "one"), 1, "a='one': Input should be a valid integer"),
        ((APP, "add"), 1, "a: Missing required argument"),
        ((APP, "add", "1", "c=2"), 1, "c=2: Unexpected keyword argument"),
        ((APP, "add", "1", "--delay", "-5"), 1, "delay must be seconds, zero or more"),
        ((APP, "add", "1", "--priority", "99"), 1, "priority must be a whole number from 0 to 31"),
        ((APP, "add", "1", "--queue", "a b"), 1, "queue name 'a b' is not allowed"),
        ((APP, "note", "text", "--json-args"), 2, "argument 'text' is not JSON"),
        (("tests.nowhere:app", "add"), 1, "no module 'tests.nowhere' here"),
        (("tests.support:eventually", "add"), 1, "names function, not a TaskQ"),
    ]:
        said = cli.run("send", *words, code=code)
        assert text in said.err
        assert len(said.err.strip().splitlines()) == 1 or code == 2
    assert cli.run("queues", "list").out == "no queues yet\n"
