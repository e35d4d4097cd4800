"""`taskq dlq`: dead letters, listed, shown, retried, deleted."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from taskq.cli.session import Session, Shared, connected, connection_options, json_option
from taskq.cli.values import INSTANT

if TYPE_CHECKING:
    from taskq.store.base import DeadFilter, DeadLetter

F = TypeVar("F", bound=Callable[..., Any])
FILTERS = ("queue", "task", "reason", "message_id", "text", "since", "until")


@click.group()
def dlq() -> None:
    """List, show, retry and delete messages that failed for good."""


def filters(function: F) -> F:
    """The options that choose dead letters."""
    for option in (
        click.option("--until", type=INSTANT, help="Died earlier than that."),
        click.option("--since", type=INSTANT, help="Died then or later: an ISO time, or how long ago (2h)."),
        click.option("--text", help="Reason or error contain this, in any case."),
        click.option("--message", "message_id", metavar="ID", help="Of this message."),
        click.option("--reason", help="For this reason: failed, rejected, crashed, expired, unknown-task, …"),
        click.option("--task", help="Of this task."),
        click.option("--queue", help="Of this queue."),
    ):
        function = option(function)
    return function


@dlq.command("list")
@filters
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True)
@click.option("--cursor", help="Where the last page ended.")
@json_option
@connection_options
@click.pass_context
def list_letters(ctx: click.Context, /, limit: int, cursor: str | None, **conditions: Any) -> None:
    """List dead letters, newest first."""
    shared: Shared = ctx.ensure_object(Shared)

    async def work(session: Session) -> int:
        from taskq.admin.shown import error, letter
        from taskq.cli.show import as_json, counted, first_line, note, table

        store, which = await session.store(), _filter(conditions)
        page = await store.dead(which, cursor=cursor, limit=limit)
        if shared.as_json:
            total = await store.count_dead(which)
            as_json({"items": [letter(one) for one in page.items], "cursor": page.cursor, "total": total})
            return 0
        rows = [
            (one.id, one.task, one.queue, one.reason, one.attempts, one.died_at, first_line(error(one) or ""))
            for one in page.items
        ]
        table(("ID", "TASK", "QUEUE", "REASON", "ATTEMPTS", "DIED (UTC)", "ERROR"), rows, empty="no dead letters")
        if page.cursor is not None:
            total = await store.count_dead(which)
            note(f"{counted(total, 'dead letter')} in all; the next page: --cursor '{page.cursor}'")
        await _tell_of_unarchived(session)
        return 0

    connected(ctx, work)


async def _tell_of_unarchived(session: Session) -> None:
    """Dead letters reach the archive by a worker's keeper: without one they lie on the broker."""
    from taskq.broker.base import DEAD
    from taskq.cli.show import counted, note

    depth = await (await session.broker()).depth(DEAD)
    if depth is not None and depth.ready:
        note(f"{counted(depth.ready, 'more is', 'more are')} on the broker, to be archived by a worker")


@dlq.command("show")
@click.argument("letter_id", metavar="ID")
@json_option
@connection_options
@click.pass_context
def show_letter(ctx: click.Context, letter_id: str) -> None:
    """Show a dead letter: why it failed, its traceback, its arguments. ID is the letter's, or the message's."""
    shared: Shared = ctx.ensure_object(Shared)

    async def work(session: Session) -> int:
        from taskq.admin.replay import resolve
        from taskq.admin.shown import letter_in_full
        from taskq.cli.show import as_json
        from taskq.store.base import DeadFilter

        store = await session.store()
        letters = (await store.dead(DeadFilter(ids=await resolve(store, [letter_id])))).items
        if shared.as_json:
            as_json([letter_in_full(one) for one in letters])
        else:
            for index, one in enumerate(letters):
                if index:
                    click.echo()
                _print(one)
        return 0

    connected(ctx, work)


@dlq.command("retry")
@click.argument("ids", nargs=-1)
@filters
@click.option("--all", "everything", is_flag=True, help="All dead letters.")
@json_option
@connection_options
@click.pass_context
def retry_letters(ctx: click.Context, /, ids: tuple[str, ...], everything: bool, **conditions: Any) -> None:
    """Send dead letters again, the oldest first: each as a new message with all its retries.

    Give IDS (of letters or messages), or filters, or --all.
    """
    shared: Shared = ctx.ensure_object(Shared)
    _check_choice(ids, conditions, everything)

    async def work(session: Session) -> int:
        from taskq.admin.replay import Replay, resolve
        from taskq.cli.show import as_json, counted, note, progress

        broker, store = await session.broker(), await session.store()
        assert session.client.dispatcher is not None
        replay = Replay(broker=broker, store=store, dispatcher=session.client.dispatcher, clock=session.app.clock)
        chosen = await resolve(store, ids) if ids else await replay.letters(_filter(conditions))
        revived = []
        with progress("retrying", len(chosen)) as advance:
            async for batch in replay.revive(chosen):
                revived += batch
                advance(len(batch))
        if shared.as_json:
            as_json(revived)
        elif ids:
            for one in revived:
                click.echo(f"{one.letter_id}  sent again as {one.message_id}")
        else:
            click.echo(f"{counted(len(revived), 'message')} sent again")
        left = sum(not one.published for one in revived)
        if left:
            note(f"{counted(left, 'message is', 'messages are')} stored, to be published by a worker")
        return 0

    connected(ctx, work)


@dlq.command("delete")
@click.argument("ids", nargs=-1)
@filters
@click.option("--all", "everything", is_flag=True, help="All dead letters.")
@json_option
@connection_options
@click.pass_context
def delete_letters(ctx: click.Context, /, ids: tuple[str, ...], everything: bool, **conditions: Any) -> None:
    """Delete dead letters for good. Give IDS (of letters or messages), or filters, or --all."""
    shared: Shared = ctx.ensure_object(Shared)
    _check_choice(ids, conditions, everything)

    async def work(session: Session) -> int:
        from taskq.admin.replay import resolve
        from taskq.cli.show import as_json, counted, progress
        from taskq.store.base import DeadFilter

        store = await session.store()
        which = DeadFilter(ids=await resolve(store, ids)) if ids else _filter(conditions)
        deleted = 0
        with progress("deleting", await store.count_dead(which)) as advance:
            while batch := await store.delete_dead(which):
                deleted += batch
                advance(batch)
        if shared.as_json:
            as_json({"deleted": deleted})
        else:
            click.echo(f"{counted(deleted, 'dead letter')} deleted")
        return 0

    connected(ctx, work)


def _check_choice(ids: tuple[str, ...], conditions: dict[str, Any], everything: bool) -> None:
    """Nothing is done to everything unless --all says so, and no choice is silently ignored."""
    given = [name for name in FILTERS if conditions[name] is not None]
    ways = sum((bool(ids), bool(given), everything))
    if ways == 0:
        raise click.UsageError("say which: IDS, filters such as --queue, or --all for every dead letter")
    if ways > 1:
        raise click.UsageError("give either IDS, or filters, or --all")


def _filter(conditions: dict[str, Any]) -> DeadFilter:
    from taskq.store.base import DeadFilter

    return DeadFilter(**conditions)


def _print(letter: DeadLetter) -> None:
    import json

    from taskq.admin.shown import letter_in_full, plain
    from taskq.cli.show import fields

    values = letter_in_full(letter)
    traceback = values.pop("traceback")
    body = values.pop("body")
    for name in ("arguments", "headers"):
        values[name] = None if not values[name] else json.dumps(values[name], default=plain, ensure_ascii=False)
    if not letter.worker:
        values["worker"] = None
    fields(values)
    if body is not None:
        click.echo(f"\n{len(body)} bytes that are no message of taskq:\n{body[:2000]!r}")
    if traceback:
        click.echo("\n" + traceback.rstrip())
