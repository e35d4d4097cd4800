"""`taskq dlq`, against a real RabbitMQ: what failed for good is found, shown, sent again and deleted."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from taskq import dead_letter
from taskq.message import Message, new_id
from taskq.outcome import Failure
from taskq.serialization import MSGPACK, encode_arguments
from taskq.store.base import DeadFilter, DeadLetter
from tests.acceptance.command_line import APP, CommandLine
from tests.support import eventually

NOW = datetime.now(UTC).replace(microsecond=0)


def letter(word: str, *, task: str = "note", queue: str = "line", reason: str = "failed", age: float = 0) -> DeadLetter:
    """A dead letter of `note(word)`, `age` seconds old."""
    died = NOW - timedelta(seconds=age)
    message = Message(
        id=new_id(died),
        task=task,
        queue=queue,
        payload=encode_arguments((word,), {}),
        payload_type=MSGPACK,
        created_at=died,
        headers={"origin": word},
        attempt=3,
        hop=5,
        expires_at=died,
    )
    failure = Failure("ValueError", f"{word} was wrong", f"Traceback\nValueError: {word} was wrong")
    return dead_letter.of_message(message, reason=reason, attempts=3, failure=failure, worker="w-1", died_at=died)


def foreign() -> DeadLetter:
    """Bytes that are no message of ours."""
    return dead_letter.of_bytes(
        b"\x00not ours", "text/plain", queue="line", reason="invalid-message", failure=None, worker=None, died_at=NOW
    )


async def put(cli: CommandLine, *letters: DeadLetter) -> None:
    """Put letters into the archive, as the keeper does."""
    async with cli.client() as client:
        await (await client.store()).archive(letters)


async def test_failed_task_is_listed_shown_retried_and_done(cli_everywhere: CommandLine) -> None:
    """A task that failed for good is in the list with its error, and runs under a new id once it is retried."""
    cli = cli_everywhere
    (cli.folder / "refuse").touch()
    with cli.worker():
        sent = cli.run("send", APP, "note", "first").out.strip()
        found = await eventually(cli.dead)
        assert [(one["message_id"], one["queue"], one["task"], one["reason"]) for one in found] == [
            (sent, "line", "note", "failed")
        ]
        listed = cli.run("dlq", "list").out
        assert found[0]["id"] in listed
        assert "PermissionError: first is refused" in listed
        shown = cli.run("dlq", "show", found[0]["id"]).out
        assert '"args": ["first"]' in shown
        assert "Traceback (most recent call last)" in shown

        (cli.folder / "refuse").unlink()
        retried = cli.json("dlq", "retry", found[0]["id"])
        assert retried[0]["letter_id"] == found[0]["id"]
        assert retried[0]["message_id"] != sent
        await cli.noted("first")
        await eventually(lambda: cli.run("status", retried[0]["message_id"]).out.strip() == "SUCCEEDED")
    assert cli.dead() == []


async def test_filters_choose(cli: CommandLine) -> None:
    """Each filter lists those letters that fit it, and only those."""
    await put(cli, letter("a"), letter("b", queue="other", age=7200), letter("c", task="add", reason="rejected"))

    def words(*filters: str) -> set[str]:
        return {one["error"].split()[1] for one in cli.dead(*filters)}

    assert words() == {"a", "b", "c"}
    assert words("--queue", "other") == {"b"}
    assert words("--task", "note") == {"a", "b"}
    assert words("--reason", "rejected") == {"c"}
    assert words("--since", "1h") == {"a", "c"}
    assert words("--until", (NOW - timedelta(hours=1)).isoformat()) == {"b"}
    assert words("--text", "B WAS") == {"b"}
    assert words("--queue", "line", "--reason", "rejected") == {"c"}
    assert words("--queue", "nowhere") == set()


async def test_pages(cli: CommandLine) -> None:
    """A limited listing ends with a cursor, from which the next one goes on."""
    await put(cli, *(letter(word, age=age) for age, word in enumerate("abc")))
    first = cli.json("dlq", "list", "--limit", "2")
    second = cli.json("dlq", "list", "--limit", "2", "--cursor", first["cursor"])
    errors = [one["error"] for one in first["items"] + second["items"]]
    assert errors == ["ValueError: a was wrong", "ValueError: b was wrong", "ValueError: c was wrong"]
    assert (first["total"], second["cursor"]) == (3, None)


async def test_retry_by_filter_keeps_the_order_of_death(cli: CommandLine) -> None:
    """Letters that are retried together are sent in the order in which they died, with all their retries anew."""
    await put(cli, *(letter(f"w{index}", age=100 - index) for index in range(5)), letter("other", queue="else"))
    assert cli.run("dlq", "retry", "--queue", "line").out == "5 messages sent again\n"
    assert [one["queue"] for one in cli.dead()] == ["else"]
    with cli.worker():
        await cli.noted("w0", "w1", "w2", "w3", "w4")


async def test_retried_message_is_new(cli: CommandLine) -> None:
    """Attempt, hop and expiry of the dead message do not follow it; headers do."""
    dead = letter("x")
    await put(cli, dead)
    (cli.folder / "refuse").touch()
    (new,) = cli.json("dlq", "retry", dead.message_id)
    with cli.worker():
        await eventually(cli.dead)
    async with cli.client() as client:
        (again,) = (await (await client.store()).dead(DeadFilter())).items
    assert (again.message_id, again.attempts, again.reason) == (new["message_id"], 1, "failed")
    assert again.message is not None and again.message.headers == {"origin": "x"}


async def test_everything_needs_all(cli: CommandLine) -> None:
    """Neither retry nor delete touches everything without --all, and --all touches all."""
    await put(cli, letter("a"), letter("b"), foreign())
    for verb in ("retry", "delete"):
        said = cli.run("dlq", verb, code=2)
        assert "--all" in said.err
    assert len(cli.dead()) == 3
    assert "3 dead letters deleted" in cli.run("dlq", "delete", "--all").out
    assert cli.run("dlq", "list").out == "no dead letters\n"


async def test_delete_by_id_and_filter(cli: CommandLine) -> None:
    """Delete takes ids of letters or messages, and filters."""
    one, two, three = letter("a"), letter("b", age=1), letter("c", reason="rejected", age=2)
    await put(cli, one, two, three)
    assert cli.run("dlq", "delete", one.id, two.message_id).out == "2 dead letters deleted\n"
    assert cli.json("dlq", "delete", "--reason", "rejected") == {"deleted": 1}
    assert cli.dead() == []


async def test_unknown_ids_change_nothing(cli: CommandLine) -> None:
    """One unknown id among known ones fails the command before anything is done."""
    known = letter("a")
    await put(cli, known)
    for verb in ("retry", "delete", "show"):
        words = ["nothing-such"] if verb == "show" else [known.id, "nothing-such"]
        said = cli.run("dlq", verb, *words, code=1)
        assert said.err.startswith("error: no dead letter 'nothing-such'")
    assert [one["id"] for one in cli.dead()] == [known.id]


async def test_foreign_bytes_are_shown_and_not_retried(cli: CommandLine) -> None:
    """What is no message of ours can be looked at and deleted; a retry says why it cannot be."""
    strange = foreign()
    await put(cli, strange, letter("a"))
    assert "not ours" in cli.run("dlq", "show", strange.id).out
    said = cli.run("dlq", "retry", strange.id, code=1)
    assert "is no message of taskq" in said.err
    assert len(cli.dead()) == 2
    assert cli.run("dlq", "delete", strange.id).out == "1 dead letter deleted\n"


async def test_letters_that_no_worker_archived_are_mentioned(cli: CommandLine) -> None:
    """Dead letters that still lie on the broker, for want of a worker, are told of."""
    dead = letter("a")
    async with cli.client() as client:
        await client.store()
        from taskq.broker.base import DEAD, Outgoing

        body = dead_letter.encode(dead)
        await (await client.broker()).publish(Outgoing(DEAD, body, dead.message_id, dead_letter.CONTENT_TYPE))
    said = cli.run("dlq", "list")
    assert said.out == "no dead letters\n"
    assert "1 more is on the broker" in said.err
