"""`taskq` itself: which command lives in which module, and how each ends: exit code 0, 1 (it failed) or 2 (usage).

Commands are imported when they are called for, and import what is heavy when they run.
"""

from __future__ import annotations

import importlib
import os
import sys

import click

from taskq import __version__
from taskq.cli.session import Shared, connection_options
from taskq.errors import TaskqError

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130

COMMANDS = {
    "worker": "taskq.cli.worker:worker",
    "beat": "taskq.cli.worker:beat",
    "api": "taskq.cli.api:api",
    "dev": "taskq.cli.dev:dev",
    "send": "taskq.cli.send:send",
    "status": "taskq.cli.status:status",
    "queues": "taskq.cli.queues:queues",
    "flow": "taskq.cli.flow:flow",
    "messages": "taskq.cli.messages:messages",
    "dlq": "taskq.cli.dlq:dlq",
    "schedules": "taskq.cli.schedules:schedules",
    "doctor": "taskq.cli.doctor:doctor",
    "config": "taskq.cli.config:config",
}


class LazyGroup(click.Group):
    """A group whose commands are imported by name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        place = COMMANDS.get(cmd_name)
        if place is None:
            return None
        module, _, name = place.partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="taskq")
@connection_options
@click.pass_context
def taskq(ctx: click.Context) -> None:
    """Run workers, send tasks, and look after queues, messages and dead letters.

    APP is `module:app`, or `module` for the default app. Commands that take no APP find broker and store by
    --broker, --store and --prefix, then the TASKQ_* variables, then the configuration file.
    """
    ctx.ensure_object(Shared)


def run(arguments: list[str]) -> int:
    """Run a command line; its exit code."""
    try:
        result = taskq.main(arguments, prog_name="taskq", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as ended:
        return ended.exit_code
    except click.Abort:
        return EXIT_INTERRUPTED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except TaskqError as error:
        text = " ".join(str(error).split()) or type(error).__name__
        click.echo(f"error: {text}", err=True)
        return EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output (a pager, head) has gone: nothing is left to say, also not at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
