"""The room in which a command line runs: the real RabbitMQ, and a store."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.command_line import CommandLine


@pytest.fixture
def cli(rabbitmq_url: str, sqlite_store_url: str, prefix: str, tmp_path: Path) -> CommandLine:
    """A command line on the RabbitMQ and a SQLite file of its own."""
    return CommandLine(broker=rabbitmq_url, store=sqlite_store_url, prefix=prefix, folder=tmp_path)


@pytest.fixture
def cli_everywhere(rabbitmq_url: str, store_url: str, prefix: str, tmp_path: Path) -> CommandLine:
    """The same, once on each kind of store."""
    return CommandLine(broker=rabbitmq_url, store=store_url, prefix=prefix, folder=tmp_path)
