"""`taskq flow`: keys of flow control, and what operators do to them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from taskq.cli.session import Session, Shared, connected, connection_options, json_option
from taskq.cli.values import COUNT_OR_NONE, RATE, unless_none

if TYPE_CHECKING:
    from taskq.flow import FlowRecord

COLUMNS = ("KEY", "WAITING", "RUNNING", "AT ONCE", "RATE", "STARTED", "PAUSED", "PINNED")
PAGE = 500


@click.group()
def flow() -> None:
    """List, pause, resume and pin keys of flow control."""


@flow.command("list")
@click.option("--search", default="", help="Keys that contain this text.")
@json_option
@connection_options
@click.pass_context
def list_keys(ctx: click.Context, search: str) -> None:
    """List keys: what waits and runs, their limits, and the starts within the present window."""
    shared: Shared = ctx.ensure_object(Shared)

    async def work(session: Session) -> int:
        from taskq.cli.show import as_json, table

        store = await session.store()
        found: list[FlowRecord] = []
        cursor: str | None = None
        while True:
            page = await store.list_flow(search=search, cursor=cursor, limit=PAGE)
            found += page.items
            cursor = page.cursor
            if cursor is None:
                break
        if shared.as_json:
            as_json([described(record) for record in found])
        else:
            table(COLUMNS, map(in_columns, found), empty="no keys")
        return 0

    connected(ctx, work)


def described(record: FlowRecord) -> dict[str, Any]:
    """A key as JSON shows it."""
    return {
        "key": record.key,
        "waiting": record.waiting,
        "running": record.running,
        "parallelism": record.parallelism,
        "rate": rate(record),
        "started": record.started,
        "window_at": None if record.window_at is None else record.window_at.isoformat(),
        "paused": record.paused,
        "pinned_parallelism": record.pinned_parallelism,
        "pinned_rate": record.pinned_rate,
    }


def in_columns(record: FlowRecord) -> tuple[Any, ...]:
    """A key as a row of COLUMNS."""
    pins = {"parallelism": record.pinned_parallelism, "rate": record.pinned_rate}
    pinned = ", ".join(name for name, is_pinned in pins.items() if is_pinned)
    limits = (record.parallelism, rate(record), record.started, record.paused)
    return (record.key, record.waiting, record.running, *limits, pinned)


def rate(record: FlowRecord) -> str | None:
    """The rate as `flow pin --rate` takes it."""
    limit = record.rate_limit
    return None if limit is None else f"{limit.limit}/{limit.per:g}"


@flow.command()
@click.argument("keys", nargs=-1, required=True)
@connection_options
@click.pass_context
def pause(ctx: click.Context, keys: tuple[str, ...]) -> None:
    """Start nothing more of these keys; what runs goes on, what comes waits."""
    _change(ctx, keys, "paused", paused=True)


@flow.command()
@click.argument("keys", nargs=-1, required=True)
@connection_options
@click.pass_context
def resume(ctx: click.Context, keys: tuple[str, ...]) -> None:
    """Start messages of these keys again, in their order."""
    _change(ctx, keys, "resumed", paused=False)


@flow.command()
@click.argument("key")
@click.option("--parallelism", type=COUNT_OR_NONE, help="So many at once; none: no limit.")
@click.option("--rate", "rate_limit", type=RATE, help="So many starts in a period (50/30, 100/1m); none: no limit.")
@connection_options
@click.pass_context
def pin(ctx: click.Context, /, key: str, **limits: Any) -> None:
    """Set a key's limits, whatever its messages say."""
    given = {limit: unless_none(value) for limit, value in limits.items() if value is not None}
    if not given:
        raise click.UsageError("nothing to pin: give --parallelism or --rate")
    pins = {f"pinned_{limit.removesuffix('_limit')}": True for limit in given}
    _change(ctx, (key,), "pinned", **given, **pins)


@flow.command()
@click.argument("key")
@connection_options
@click.pass_context
def unpin(ctx: click.Context, key: str) -> None:
    """Go by what messages say again; the limits stay until the next message says others."""
    _change(ctx, (key,), "unpinned", pinned_parallelism=False, pinned_rate=False)


@flow.command()
@click.argument("keys", nargs=-1, required=True)
@connection_options
@click.pass_context
def reset(ctx: click.Context, keys: tuple[str, ...]) -> None:
    """Forget the starts of the present window: as many as the rate says may start at once."""

    async def work(session: Session) -> int:
        from taskq.admin.flow import reset

        for key in dict.fromkeys(keys):
            await reset(await session.broker(), await session.store(), key)
            click.echo(f"{key}  reset")
        return 0

    connected(ctx, work)


def _change(ctx: click.Context, keys: tuple[str, ...], said: str, **changes: Any) -> None:
    async def work(session: Session) -> int:
        from taskq.admin.flow import change

        for key in dict.fromkeys(keys):
            await change(await session.broker(), await session.store(), key, **changes)
            click.echo(f"{key}  {said}")
        return 0

    connected(ctx, work)
