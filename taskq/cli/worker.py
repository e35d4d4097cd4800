"""`taskq worker`: run tasks until stopped."""

from __future__ import annotations

import click

from taskq.cli.session import Shared
from taskq.cli.values import SECONDS


@click.command()
@click.argument("app")
@click.option("-q", "--queues", metavar="A,B", help="Serve only these queues. Default: all that the app knows.")
@click.option("-c", "--concurrency", type=click.IntRange(min=1), help="At most so many runs at once in a process.")
@click.option("-p", "--processes", type=click.IntRange(min=1), help="Worker processes, restarted when they die.")
@click.option("--grace", type=SECONDS, help="Time that running tasks get to finish at a stop.")
@click.option("--beat", is_flag=True, help="Send what schedules say, too (as `taskq beat` does; any number may).")
@click.option("--health", metavar="HOST:PORT", help="Answer /health and /ready there.")
@click.option("--reload", is_flag=True, help="Start anew when a Python file below this folder changes.")
@click.pass_context
def worker(
    ctx: click.Context,
    app: str,
    queues: str | None,
    concurrency: int | None,
    processes: int | None,
    grace: float | None,
    beat: bool,
    health: str | None,
    reload: bool,
) -> None:
    """Run the tasks of APP (module:app) until SIGTERM or Ctrl-C.

    Without -q it serves `default`, every queue that the app's tasks and Queues name, and every queue that an
    operator made. A first signal lets running tasks finish within --grace, a second one gives them back at once.
    """
    refuse_connection(ctx)
    from taskq.settings import load_settings
    from taskq.worker.process import configure_logging
    from taskq.worker.serve import serve

    names = queue_names(queues)
    if grace is not None:
        load_settings(grace=grace)  # names what is wrong with it
    if health is not None:
        load_settings(health=health)
    configure_logging()
    code = serve(
        app,
        queues=names,
        concurrency=concurrency,
        processes=processes,
        grace=grace,
        health=health,
        beat=beat,
        reload=reload,
    )
    ctx.exit(code)


@click.command()
@click.argument("app")
@click.option("--health", metavar="HOST:PORT", help="Answer /health and /ready there.")
@click.pass_context
def beat(ctx: click.Context, app: str, health: str | None) -> None:
    """Send what the schedules of APP (module:app) say, until SIGTERM or Ctrl-C.

    Any number of beats may run, on any machine: one leads, the next takes over when it stops or dies, and no tick
    is sent twice. It runs no tasks.
    """
    refuse_connection(ctx)
    from taskq.settings import load_settings
    from taskq.worker.process import configure_logging
    from taskq.worker.serve import serve

    if health is not None:
        load_settings(health=health)
    configure_logging()
    ctx.exit(serve(app, queues=[], processes=1, health=health, beat=True))


def queue_names(given: str | None) -> list[str] | None:
    """The names of a comma-separated list, each one that can be."""
    if given is None:
        return None
    from taskq.queue import check_queue_name

    names = [name.strip() for name in given.split(",") if name.strip()]
    if not names:
        raise click.UsageError("-q names no queue")
    return [check_queue_name(name) for name in dict.fromkeys(names)]


def refuse_connection(ctx: click.Context) -> None:
    """A worker's processes read broker and store from their app alone: an option would not reach them."""
    shared: Shared = ctx.ensure_object(Shared)
    given = [*shared.overrides(), *(["app"] if shared.app else [])]
    if given:
        raise click.UsageError(
            f"--{given[0]} has no effect on a worker, which follows its APP: set TASKQ_{given[0].upper()}, "
            "or say it in the app"
        )
