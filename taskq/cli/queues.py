"""`taskq queues`: what queues there are, and what operators do to them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from taskq.cli.session import Session, Shared, connected, connection_options, json_option
from taskq.cli.values import COUNT_OR_NONE, RATE, SECONDS, unless_none

if TYPE_CHECKING:
    from taskq.queue import QueueRecord

COLUMNS = ("QUEUE", "KIND", "AT ONCE", "A WORKER", "RATE", "PAUSED", "READY", "WAITING", "RUNNING", "FAILED")


@click.group()
def queues() -> None:
    """List, pause, resume, purge, change and migrate queues."""


@queues.command("list")
@json_option
@connection_options
@click.pass_context
def list_queues(ctx: click.Context) -> None:
    """List queues: their limits, and how many messages are ready, waiting, running or failed.

    READY counts what lies on the broker, in no worker's hands. WAITING, RUNNING (for more than a second) and
    FAILED are the store's.
    """
    shared: Shared = ctx.ensure_object(Shared)

    async def work(session: Session) -> int:
        from taskq.cli.show import as_json, table

        described = await describe(session)
        if shared.as_json:
            as_json(described)
        else:
            table(COLUMNS, map(in_columns, described), empty="no queues yet")
        return 0

    connected(ctx, work)


async def describe(session: Session) -> list[dict[str, Any]]:
    """Every queue of the store, with its counts; `ready` is None where the broker has no such queue."""
    from taskq.admin.shown import queues

    return await queues(await session.broker(), await session.store())


def in_columns(queue: dict[str, Any]) -> tuple[Any, ...]:
    """A described queue as a row of COLUMNS."""
    named = ("name", "kind", "parallelism", "worker_parallelism", "rate_limit", "paused", "ready", "waiting")
    return tuple(queue[name] for name in (*named, "running", "failed"))


@queues.command()
@click.argument("names", nargs=-1, required=True)
@connection_options
@click.pass_context
def pause(ctx: click.Context, names: tuple[str, ...]) -> None:
    """Start nothing more from these queues; what runs goes on, what comes is kept."""
    _set(ctx, names, "paused", paused=True)


@queues.command()
@click.argument("names", nargs=-1, required=True)
@connection_options
@click.pass_context
def resume(ctx: click.Context, names: tuple[str, ...]) -> None:
    """Start messages of these queues again."""
    _set(ctx, names, "resumed", paused=False)


@queues.command("set")
@click.argument("name")
@click.option("--parallelism", type=COUNT_OR_NONE, help="So many at once over all processes; none: open.")
@click.option("--rate", "rate_limit", type=RATE, help="So many starts in a period (50/30, 100/1m); none: no limit.")
@click.option("--worker-parallelism", type=COUNT_OR_NONE, help="So many at once in one process; none: no limit.")
@click.option(
    "--retry-in-place/--no-retry-in-place", default=None, help="A message that waits for its retry keeps its slot."
)
@connection_options
@click.pass_context
def set_limits(ctx: click.Context, /, name: str, **limits: Any) -> None:
    """Change a queue's limits at once, on all workers. What is set here stands over what the code says."""
    given = {limit: unless_none(value) for limit, value in limits.items() if value is not None}
    if not given:
        raise click.UsageError("nothing to set: give --parallelism, --rate, --worker-parallelism or --retry-in-place")
    _set(ctx, (name,), "changed", **given)


def _set(ctx: click.Context, names: tuple[str, ...], said: str, **changes: Any) -> None:
    async def work(session: Session) -> int:
        for record in [await known(session, name) for name in dict.fromkeys(names)]:
            from taskq.admin.limits import change

            changed = await change(await session.broker(), await session.store(), record.name, **changes)
            click.echo(f"{changed.name}  {said if changed.version != record.version else f'was {said} already'}")
        return 0

    connected(ctx, work)


async def known(session: Session, name: str) -> QueueRecord:
    """The queue's row.

    Raises:
        InvalidQueue: an illegal name, or no such queue.
    """
    from taskq.errors import InvalidQueue
    from taskq.queue import check_queue_name

    record = await (await session.store()).get_queue(check_queue_name(name))
    if record is None:
        raise InvalidQueue(f"no queue is named {name!r}: `taskq queues list` shows them")
    return record


@queues.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--timeout", type=SECONDS, default=60.0, help="How long workers may take to let go of a FIFO queue.")
@json_option
@connection_options
@click.pass_context
def purge(ctx: click.Context, name: str, yes: bool, timeout: float) -> None:
    """Cancel every message that lies in a queue or waits for it; what runs goes on.

    Each is recorded CANCELLED, and its deduplication id is free again. The queue is paused meanwhile.
    """
    shared: Shared = ctx.ensure_object(Shared)

    async def work(session: Session) -> int:
        from taskq.admin.purge import Purge
        from taskq.cli.show import as_json, counted, progress

        record = await known(session, name)
        if not yes:
            click.confirm(f"Cancel every message of queue {name!r}?", abort=True, err=True)
        with progress(f"purging {name}", None) as advance:
            job = Purge(
                broker=await session.broker(), store=await session.store(), clock=session.app.clock, advance=advance
            )
            purged = await job.run(record, patience=timeout)
        if shared.as_json:
            as_json({"queue": name, "cancelled": purged})
        else:
            click.echo(f"{name}  {counted(purged, 'message')} cancelled")
        return 0

    connected(ctx, work)


@queues.command()
@click.argument("name")
@click.option("--fifo/--no-fifo", default=None, help="Strict order, one at a time; or not.")
@click.option("--priorities/--no-priorities", default=None, help="Obey the priority of messages; or not.")
@click.option("--partitions", type=COUNT_OR_NONE, help="FIFO lanes by key; none: one line.")
@click.option("--parallelism", type=COUNT_OR_NONE, help="So many at once, of a queue that is not FIFO; none: open.")
@click.option("--timeout", type=SECONDS, default=60.0, help="How long workers may take to let go of the queue.")
@json_option
@connection_options
@click.pass_context
def migrate(
    ctx: click.Context,
    name: str,
    fifo: bool | None,
    priorities: bool | None,
    partitions: int | str | None,
    parallelism: int | str | None,
    timeout: float,
) -> None:
    """Change how a queue was born: FIFO, priorities, lanes. Its messages are moved, in their order.

    The queue is paused meanwhile. What was broken off goes on when it is called again. Without an option the
    queue is made anew as the store describes it, for one that exists with other arguments on the broker. Change
    the Queue in the code as well.
    """
    shared: Shared = ctx.ensure_object(Shared)
    asked: dict[str, Any] = {
        "fifo": fifo,
        "priorities": priorities,
        "partitions": ... if partitions is None else unless_none(partitions),
        "parallelism": ... if parallelism is None else unless_none(parallelism),
    }

    async def work(session: Session) -> int:
        from taskq.admin.migrate import Migration, reborn
        from taskq.admin.shown import kind
        from taskq.cli.show import as_json, counted, progress

        record = await known(session, name)
        queue = reborn(record, **asked)
        with progress(f"migrating {name}", None) as advance:
            job = Migration(
                broker=await session.broker(), store=await session.store(), clock=session.app.clock, advance=advance
            )
            moved = await job.run(record, queue, patience=timeout)
        if shared.as_json:
            as_json({"queue": name, "moved": moved, "kind": kind(await known(session, name))})
        elif moved is None:
            click.echo(f"{name}  is so already")
        else:
            click.echo(f"{name}  {kind(await known(session, name))}; {counted(moved, 'message')} moved")
        return 0

    connected(ctx, work)
