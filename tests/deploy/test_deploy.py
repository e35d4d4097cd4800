"""The files in deploy/ are what Compose, systemd and RabbitMQ take, and agree with each other and with the settings."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aio_pika
import click
import pytest
import yaml

from taskq.cli.root import taskq
from taskq.settings import load_settings
from tests.servers import RabbitNode
from tests.services import need

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
UNITS = {name: DEPLOY / "systemd" / f"taskq-{name}@.service" for name in ("worker", "beat", "api")}
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())


def rabbitmq_conf() -> dict[str, str]:
    lines = (DEPLOY / "rabbitmq" / "rabbitmq.conf").read_text().splitlines()
    return dict(re.split(r"\s*=\s*", line, maxsplit=1) for line in lines if line and not line.startswith("#"))


def seconds(text: str) -> int:
    return int(text.removesuffix("s"))


def unit_settings(name: str) -> dict[str, str]:
    lines = UNITS[name].read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def test_compose_schema() -> None:
    """The compose file is valid by the compose specification's own schema."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*command, str(DEPLOY / "compose.yaml")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_compose_mounts_what_is_there() -> None:
    """Every file that a container mounts or is built from exists."""
    for service in COMPOSE["services"].values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("./"):
                assert (DEPLOY / source).is_file(), source
            elif not source.startswith("$"):
                assert source in COMPOSE["volumes"], source
    for name in UNITS:
        build = COMPOSE["services"][name]["build"]
        assert (DEPLOY / build["context"] / build["dockerfile"]).is_file()
        assert (DEPLOY / build["context"] / "pyproject.toml").is_file()


@pytest.mark.parametrize("service", UNITS)
def test_compose_settings_are_settings(service: str) -> None:
    """Every TASKQ_ variable of workers, beats and API is a setting with a value that it takes."""
    given = {
        name.removeprefix("TASKQ_").lower(): re.sub(r"\$\{[^}]+\}", "secret", value)
        for name, value in COMPOSE["services"][service]["environment"].items()
    }
    settings = load_settings(**given)
    assert settings.broker == "amqp://taskq:secret@broker/" and settings.store.startswith("postgresql://")


@pytest.mark.parametrize("name", UNITS)
def test_commands_are_commands(name: str) -> None:
    """What Compose and systemd start is a command of taskq that takes an app and nothing that is not there."""
    command = taskq.get_command(click.Context(taskq), name)
    assert command is not None
    unit = unit_settings(name)
    variables = dict(one.split("=", 1) for one in unit["Environment"].split()) | {"APP": "shop:app"}
    for words in (COMPOSE["services"][name]["command"], unit["ExecStart"].split()[1:]):
        assert words[0] == name
        given = [re.sub(r"\$\{(\w+)[^}]*\}", lambda found: variables[found[1]], word) for word in words[1:]]
        context = command.make_context(name, given)
        assert context.params["app"] == "shop:app"


def test_one_beat_can_die() -> None:
    """Compose starts more than one beat."""
    assert COMPOSE["services"]["beat"]["deploy"]["replicas"] > 1


@pytest.mark.parametrize("name", ["worker", "api"])
def test_stopping_takes_as_long_as_the_grace(name: str) -> None:
    """Compose and systemd wait longer for a worker than its tasks get to finish, for an API than its requests do."""
    service = COMPOSE["services"][name]
    assert seconds(service["stop_grace_period"]) > float(service["environment"]["TASKQ_GRACE"])
    assert int(unit_settings(name)["TimeoutStopSec"]) > load_settings().grace


def test_the_api_is_not_open_to_all() -> None:
    """Where it can be reached from outside its container it has a token, and other machines come by a proxy."""
    api = COMPOSE["services"]["api"]
    assert "API_TOKEN:?" in api["environment"]["TASKQ_API_TOKEN"]
    assert all(port.startswith("127.0.0.1:") for port in api["ports"])
    assert "API_HOST=127.0.0.1" in unit_settings("api")["Environment"]


def test_timeouts_agree() -> None:
    """Workers are told the acknowledgement timeout that the broker's configuration sets."""
    told = float(COMPOSE["services"]["worker"]["environment"]["TASKQ_BROKER_ACK_TIMEOUT"])
    assert int(rabbitmq_conf()["consumer_timeout"]) == told * 1000


def test_dockerfile() -> None:
    """The image installs extras that exist, on a Python that is claimed, and does not run as root."""
    import tomllib

    text = (DEPLOY / "Dockerfile").read_text()
    project = tomllib.loads((DEPLOY.parent / "pyproject.toml").read_text())["project"]
    extras = re.search(r"/src\[([\w,]+)\]", text)
    version = re.search(r"FROM python:(3\.\d+)", text)
    assert extras and set(extras[1].split(",")) <= set(project["optional-dependencies"])
    assert version and f"Programming Language :: Python :: {version[1]}" in project["classifiers"]
    assert re.search(r"^USER (?!root)", text, re.MULTILINE)


@pytest.mark.parametrize("name", UNITS)
def test_units_verify(name: str, tmp_path: Path) -> None:
    """`systemd-analyze verify` finds nothing to say about the units."""
    analyze = need("systemd-analyze", "systemd")
    program = tmp_path / "taskq"  # the one that the unit names is installed by whoever deploys
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    unit = tmp_path / UNITS[name].name.replace("@", "@shop")
    unit.write_text(UNITS[name].read_text().replace("/opt/taskq/bin/taskq", str(program)))
    target = tmp_path / "taskq.target"
    target.write_text((DEPLOY / "systemd" / "taskq.target").read_text())
    done = subprocess.run([analyze, "verify", "--man=no", str(target), str(unit)], capture_output=True, text=True)
    ours = [line for line in (done.stdout + done.stderr).splitlines() if "taskq" in line]
    assert done.returncode == 0 and ours == []


def test_verify_would_tell(tmp_path: Path) -> None:
    """The same examination refuses a unit with a misspelt setting and a program that is not there."""
    analyze = need("systemd-analyze", "systemd")
    unit = tmp_path / "taskq-bad.service"
    unit.write_text("[Service]\nExecStart=/nowhere/taskq\nRestrat=always\n")
    done = subprocess.run([analyze, "verify", "--man=no", str(unit)], capture_output=True, text=True)
    assert "Restrat" in done.stderr and "/nowhere/taskq" in done.stderr


def test_sysusers() -> None:
    """The user that the units name is the one that sysusers makes."""
    text = (DEPLOY / "systemd" / "taskq.sysusers.conf").read_text()
    for name in UNITS:
        assert re.search(rf"^u {unit_settings(name)['User']} ", text, re.MULTILINE)


async def test_rabbitmq_takes_configuration_and_policies(rabbit_node: Callable[..., RabbitNode]) -> None:
    """A node boots with the configuration, obeys it, and a queue of ours gets the policy."""
    node = rabbit_node(rabbitmq_conf())
    assert node.ctl("eval", "application:get_env(rabbit, consumer_timeout).").strip() == "{ok,86400000}"
    node.ctl("import_definitions", str(DEPLOY / "rabbitmq" / "policies.json"))
    policies = json.loads(node.ctl("list_policies", "--formatter", "json"))
    assert [policy["name"] for policy in policies] == ["taskq-bound"]
    connection = await aio_pika.connect(node.url)
    async with connection:
        channel = await connection.channel()
        for name in ("taskq.q.mails", "taskq.slot.mails.0", "other"):
            await channel.declare_queue(name, durable=True, arguments={"x-queue-type": "quorum"})
    queues = json.loads(node.ctl("list_queues", "name", "policy", "--formatter", "json"))
    assert {queue["name"]: queue["policy"] for queue in queues if queue["policy"]} == {"taskq.q.mails": "taskq-bound"}
