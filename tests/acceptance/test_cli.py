"""The command line as a whole: help, bad addresses, the doctor, settings, and `dev` with nothing installed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from taskq.cli.root import COMMANDS, run, taskq
from tests.acceptance.command_line import APP, CommandLine
from tests.support import PATIENCE, pulse

SECRET = "s3cret-w0rd"


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command, by its words."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        yield (*path, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    """--help works everywhere, says what each command does, and ends with 0."""
    every = list(commands(taskq))
    assert {words[0] for words in every} == set(COMMANDS)
    for words in [(), *every]:
        assert run([*words, "--help"]) == 0
        said = capsys.readouterr().out
        assert said.startswith(f"Usage: {' '.join(['taskq', *words])}")
        assert len(said.splitlines()[2].strip()) > 20, words


def test_usage_errors(capsys: pytest.CaptureFixture[str]) -> None:
    """What is no command line ends with 2 and says what was not understood."""
    for words, text in [
        (["nothing"], "No such command 'nothing'"),
        (["queues", "list", "--nothing"], "No such option"),
        (["worker"], "Missing argument 'APP'"),
        (["worker", APP, "-c", "0"], "0 is not in the range x>=1"),
        (["worker", APP, "-q", ","], "-q names no queue"),
        (["--broker", "amqp://x/", "worker", APP], "--broker has no effect on a worker"),
        (["dlq", "retry", "--all", "--queue", "a"], "either IDS, or filters, or --all"),
        (["dev", APP, "--run", "nowhere.py"], "there is no script 'nowhere.py'"),
    ]:
        assert run(words) == 2, words
        assert text in capsys.readouterr().err


def test_worker_refuses_what_cannot_be(capsys: pytest.CaptureFixture[str]) -> None:
    """A worker that cannot work as it is told ends with 1 and a line that names the value."""
    for words, text in [
        ([APP, "-q", "a b"], "queue name 'a b' is not allowed"),
        ([APP, "--grace", "-1"], "setting grace"),
        ([APP, "--health", "here"], "must be HOST:PORT"),
        (["tests.nowhere:app"], "no module 'tests.nowhere' here"),
    ]:
        assert run(["worker", *words]) == 1, words
        assert text in capsys.readouterr().err


async def test_addresses_that_lead_nowhere(cli: CommandLine) -> None:
    """Bad URLs and a wrong password end with 1, within seconds, in a line without the password."""
    right = cli.broker.partition("@")[2]
    for words, text in [
        (("--broker", f"amqp://guest:{SECRET}@{right}"), "refuse"),
        (("--broker", f"amqp://guest:{SECRET}@127.0.0.1:1/"), "127.0.0.1:1"),
        (("--broker", f"http://user:{SECRET}@host/"), "scheme 'http'"),
        (("--broker", "localhost"), "must be a URL"),
        (("--store", f"postgresql://user:{SECRET}@127.0.0.1:1/none"), "127.0.0.1"),
        (("--store", "mysql://host/db"), "store"),
        (("--store", "sqlite:////proc/none/taskq.db"), "store"),
        (("--prefix", "a/b"), "prefix"),
    ]:
        began = time.monotonic()
        said = cli.run("queues", "list", *words, code=1)
        assert said.err.startswith("error: ") and text in said.err, said.err
        assert len(said.err.strip().splitlines()) == 1
        assert SECRET not in said.err + said.out
        assert time.monotonic() - began < 20 + pulse.lost()


async def test_another_store_is_refused(cli: CommandLine, tmp_path: Path) -> None:
    """A command with another store than the broker's own says so, and the doctor calls it an error."""
    cli.run("queues", "list")
    other = ("--store", f"sqlite:///{tmp_path / 'other.db'}")
    assert "another store already serves this broker" in cli.run(*other, "dlq", "list", code=1).err
    assert "ERROR  binding" in cli.run(*other, "doctor", code=1).out


async def test_doctor_on_a_sound_system(cli_everywhere: CommandLine) -> None:
    """With a worker running nothing is an error, and what the broker cannot do is a warning that names the mend."""
    cli = cli_everywhere
    with cli.worker():
        cli.run("send", APP, "add", "1", "--wait", "20")
        findings = {(one["subject"], one["level"]): one["text"] for one in cli.json("doctor")}
    assert "ERROR" not in {level for _, level in findings}
    for subject in ("store", "binding", "permissions", "queues", "workers"):
        assert (subject, "ok") in findings, findings
    version = findings["broker", "ok"].removeprefix("RabbitMQ ")
    if tuple(map(int, version.split(".")[:2])) < (3, 12):
        assert "consumer_timeout in rabbitmq.conf" in findings["timeouts", "WARN"]
    else:
        assert ("timeouts", "ok") in findings


async def test_doctor_finds_what_is_wrong(cli: CommandLine) -> None:
    """What cannot be reached is an error and hides nothing else; settings that are unsafe are named."""
    said = cli.run("doctor", "--broker", f"amqp://guest:{SECRET}@127.0.0.1:1/", code=1)
    assert "ERROR  broker" in said.out and "ok     store" in said.out
    said = cli.run("doctor", "--broker", f"amqp://me:{SECRET}@192.0.2.1:1/", code=1, TASKQ_CONNECT_TIMEOUT="0.2")
    assert "SQLite serves one machine" in said.out
    assert SECRET not in said.out + said.err


def test_config_shows_sources_and_no_password(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every setting is shown with its source and meaning, passwords as stars."""
    monkeypatch.setenv("TASKQ_BROKER", f"amqp://me:{SECRET}@host/")
    monkeypatch.setenv("TASKQ_CONCURRENCY", "7")
    assert run(["config", "--explain", "--prefix", "mine"]) == 0
    said = capsys.readouterr().out
    rows = {line.split()[0]: line for line in said.splitlines()}
    assert "amqp://me:***@host/" in rows["broker"] and SECRET not in said
    assert "variable TASKQ_CONCURRENCY" in rows["concurrency"]
    assert "keyword argument prefix" in rows["prefix"]
    monkeypatch.setenv("TASKQ_CONCURRENCY", "many")
    assert run(["config"]) == 1
    assert "got 'many' from variable TASKQ_CONCURRENCY" in capsys.readouterr().err


@pytest.fixture
def alone(tmp_path: Path) -> CommandLine:
    """A command line without any server."""
    return CommandLine(broker="amqp://127.0.0.1:1/", store="sqlite:////proc/none", prefix="alone", folder=tmp_path)


def test_dev_runs_a_script_beside(alone: CommandLine) -> None:
    """A script's enqueues, sync and async, come to the dev process, whose exit code is the script's."""
    script = alone.folder / "script.py"
    script.write_text(
        "import asyncio, sys\n"
        "from tests.acceptance.sample_app import app\n"
        "add = app.get_task('add')\n"
        "print('sync', add.enqueue(1, 2).get_result(60))\n"
        "async def main():\n"
        "    handle = await add.options(delay=0.05).enqueue_async(3, 4)\n"
        "    print('async', await handle.get_result_async(60))\n"
        "    await app.close()\n"
        "asyncio.run(main())\n"
        "sys.exit(3)\n"
    )
    said = alone.run("dev", APP, "--run", str(script), code=3)
    assert said.out.splitlines() == ["sync 3", "async 7"]
    store = next(line for line in said.err.splitlines() if line.startswith("store")).split("sqlite:///")[1]
    assert "memory://" in said.err and not Path(store).exists()


def test_dev_sends_what_is_typed(alone: CommandLine) -> None:
    """Lines on standard input are sent as tasks and their results shown; wrong ones stop nothing."""
    import signal
    import subprocess
    import sys

    process = subprocess.Popen(
        [sys.executable, "-m", "taskq", "dev", APP],
        env=alone.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write('nothing 1\nadd "\nadd 40 b=2\n')
    process.stdin.flush()
    assert process.stdout.readline().split()[1:] == ["42"]
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    assert "error: no task is named 'nothing'" in errors and "error: No closing quotation" in errors
