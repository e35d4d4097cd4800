"""`taskq schedules`: what is sent when, and what operators do about it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import click

from taskq.cli.session import Session, Shared, connected, connection_options, json_option

if TYPE_CHECKING:
    from taskq.schedules import ScheduleInfo, Schedules

COLUMNS = ("ID", "WHEN", "TASK", "NEXT", "FIRED", "LAST", "LAST STATUS", "PAUSED", "ERROR")


@click.group()
def schedules() -> None:
    """List schedules, look ahead, pause, resume, run and delete them.

    Schedules belong to an app's name: --app (or TASKQ_NAME) says which.
    """


@schedules.command("list")
@json_option
@connection_options
@click.pass_context
def list_schedules(ctx: click.Context) -> None:
    """List all schedules: when, what, the next tick, and how the last one ended."""

    async def work(session: Session) -> int:
        from taskq.cli.show import as_json, table

        found = await session.app.schedules.list_async()
        if ctx.ensure_object(Shared).as_json:
            as_json([described(info) for info in found])
        else:
            table(COLUMNS, map(in_columns, found), empty="no schedules yet")
        return 0

    connected(ctx, work)


@schedules.command("next")
@click.argument("id")
@click.option("-n", "count", type=click.IntRange(1, 1000), default=10, show_default=True, help="How many.")
@json_option
@connection_options
@click.pass_context
def next_ticks(ctx: click.Context, id: str, count: int) -> None:
    """The next ticks of a schedule, in UTC."""

    async def work(session: Session) -> int:
        from taskq.cli.show import as_json

        found = [instant.isoformat() for instant in await session.app.schedules.next_async(id, count)]
        if ctx.ensure_object(Shared).as_json:
            as_json(found)
        else:
            click.echo("\n".join(found) or "never again")
        return 0

    connected(ctx, work)


@schedules.command()
@click.argument("id")
@click.option("-n", "count", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many.")
@json_option
@connection_options
@click.pass_context
def history(ctx: click.Context, id: str, count: int) -> None:
    """The latest ticks of a schedule, newest first, and what became of their messages."""

    async def work(session: Session) -> int:
        from taskq.cli.show import as_json, table

        rows = [
            {
                "instant": firing.instant.isoformat(),
                "fired_at": firing.fired_at.isoformat(),
                "by_hand": bool(firing.member),
                "message_id": firing.message_id,
                "status": str(firing.message.status) if firing.message else "UNKNOWN",
                "reason": firing.message.reason if firing.message else None,
            }
            for firing in await session.app.schedules.history_async(id, count)
        ]
        if ctx.ensure_object(Shared).as_json:
            as_json(rows)
        else:
            heads = ("INSTANT", "FIRED", "BY HAND", "MESSAGE", "STATUS", "REASON")
            table(heads, (tuple(row.values()) for row in rows), empty="it has not fired yet")
        return 0

    connected(ctx, work)


def _each(name: str, text: str, does: Callable[[Schedules, str], Awaitable[str]]) -> None:
    @schedules.command(name, help=text)
    @click.argument("ids", nargs=-1, required=True)
    @connection_options
    @click.pass_context
    def command(ctx: click.Context, ids: tuple[str, ...]) -> None:
        async def work(session: Session) -> int:
            for id in ids:
                click.echo(await does(session.app.schedules, id))
            return 0

        connected(ctx, work)


async def _pause(book: Schedules, id: str) -> str:
    await book.pause_async(id)
    return f"{id}: paused"


async def _resume(book: Schedules, id: str) -> str:
    await book.resume_async(id)
    return f"{id}: resumed"


async def _run(book: Schedules, id: str) -> str:
    return f"{id}: sent {(await book.run_now_async(id)).id}"


async def _delete(book: Schedules, id: str) -> str:
    if not await book.delete_async(id):
        from taskq.errors import InvalidSchedule

        raise InvalidSchedule(f"there is no schedule {id!r}")
    return f"{id}: deleted"


_each("pause", "Send nothing for these schedules until they are resumed.", _pause)
_each("resume", "Let these schedules go on; what they would have sent meanwhile is not sent.", _resume)
_each("run", "Send the message of each once, now.", _run)
_each("delete", "Delete these schedules; those that code declares come back when a beat starts.", _delete)


def in_columns(info: ScheduleInfo) -> tuple[Any, ...]:
    """A schedule as a row of COLUMNS."""
    return (
        info.id,
        info.when,
        info.task,
        info.next_at,
        info.fired,
        info.last_at,
        info.last_status,
        info.paused,
        info.error,
    )


def described(info: ScheduleInfo) -> dict[str, Any]:
    """A schedule for programs."""
    named = {name: getattr(info, name) for name in info.__dataclass_fields__ if name != "policy"}
    if info.policy is not None:
        plan = info.policy.plan
        named |= {name: getattr(plan, name) for name in ("catch_up", "jitter", "starts_at", "ends_at", "max_runs")}
        named["overlap"] = info.policy.overlap
    return named
