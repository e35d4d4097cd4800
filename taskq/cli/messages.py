"""`taskq messages`: what the store knows of messages, and cancelling them."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from taskq.cli.session import Session, Shared, connected, connection_options, json_option
from taskq.cli.values import INSTANT
from taskq.errors import TaskqError

if TYPE_CHECKING:
    from taskq.store.base import MessageRecord

STATUSES = ("QUEUED", "WAITING", "RUNNING", "SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED")


class UnknownMessage(TaskqError):
    """The store knows no such message."""

    def __init__(self, message_id: str) -> None:
        super().__init__(
            f"the store knows no message {message_id!r}: it has not started yet (and record_enqueue is off), "
            "its record has been pruned, or there is none"
        )


@click.group()
def messages() -> None:
    """List, show and cancel messages."""


@messages.command("list")
@click.option("--status", "statuses", multiple=True, type=click.Choice(STATUSES, case_sensitive=False))
@click.option("--queue", help="Only those of this queue.")
@click.option("--task", help="Only those of this task.")
@click.option("--since", type=INSTANT, help="Enqueued then or later: an ISO time, or how long ago (2h).")
@click.option("--until", type=INSTANT, help="Enqueued earlier than that.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True)
@click.option("--cursor", help="Where the last page ended.")
@json_option
@connection_options
@click.pass_context
def list_messages(
    ctx: click.Context,
    statuses: tuple[str, ...],
    queue: str | None,
    task: str | None,
    since: datetime | None,
    until: datetime | None,
    limit: int,
    cursor: str | None,
) -> None:
    """List messages, newest first.

    The store knows a message from its first start, wait or failure on; those that lie in a queue are counted by
    `taskq queues list`.
    """
    shared: Shared = ctx.ensure_object(Shared)

    async def work(session: Session) -> int:
        from taskq.admin.shown import message
        from taskq.cli.show import as_json, note, table
        from taskq.outcome import Status
        from taskq.store.base import MessageFilter

        wanted = [Status(one.upper()) for one in statuses] or None
        which = MessageFilter(status=wanted, queue=queue, task=task, since=since, until=until)
        page = await (await session.store()).list(which, cursor=cursor, limit=limit)
        if shared.as_json:
            as_json({"items": [message(one) for one in page.items], "cursor": page.cursor})
            return 0
        rows = [
            (one.id, one.task, one.queue, one.status, one.attempt, one.created_at, one.not_before or one.ended_at)
            for one in page.items
        ]
        columns = ("ID", "TASK", "QUEUE", "STATUS", "ATTEMPT", "ENQUEUED (UTC)", "ENDED OR DUE")
        table(columns, rows, empty="no messages")
        if page.cursor is not None:
            note(f"there are more: --cursor '{page.cursor}'")
        return 0

    connected(ctx, work)


@messages.command("show")
@click.argument("message_id")
@json_option
@connection_options
@click.pass_context
def show_message(ctx: click.Context, message_id: str) -> None:
    """Show all that is known of a message: state, result or error, history, dead letters."""
    shared: Shared = ctx.ensure_object(Shared)

    async def work(session: Session) -> int:
        from taskq.admin.shown import message
        from taskq.cli.show import as_json
        from taskq.store.base import DeadFilter

        store = await session.store()
        record = await store.get(message_id)
        letters = (await store.dead(DeadFilter(message_id=message_id))).items
        if record is None and not letters:
            raise UnknownMessage(message_id)
        history = await store.history(message_id)
        if shared.as_json:
            as_json(
                {
                    "message": None if record is None else message(record),
                    "history": history,
                    "dead_letters": [letter.id for letter in letters],
                }
            )
        else:
            _print(record, history, [letter.id for letter in letters])
        return 0

    connected(ctx, work)


def _print(record: MessageRecord | None, history: list[Any], letters: list[str]) -> None:
    from taskq.admin.shown import message
    from taskq.cli.show import fields, table

    if record is not None:
        values = message(record)
        failure = values.pop("failure")
        values["error"] = None if failure is None else f"{failure['type']}: {failure['message']}"
        values["progress"] = None if record.progress is None else "{} of {}".format(*record.progress)
        fields(values)
    fields({"dead letter": ", ".join(letters) or None})
    click.echo()
    rows = [(line.at, line.state, line.attempt, line.worker, line.detail) for line in history]
    table(("AT (UTC)", "STATE", "ATTEMPT", "WORKER", "DETAIL"), rows, empty="no history")
    if record is not None and record.failure is not None and record.failure.traceback:
        click.echo("\n" + record.failure.traceback.rstrip())


@messages.command("cancel")
@click.argument("message_ids", nargs=-1, required=True)
@json_option
@connection_options
@click.pass_context
def cancel_messages(ctx: click.Context, message_ids: tuple[str, ...]) -> None:
    """Cancel messages: a waiting one is gone at once, a queued one never starts, a running one is stopped."""
    shared: Shared = ctx.ensure_object(Shared)

    async def work(session: Session) -> int:
        from taskq.cli.show import as_json, note
        from taskq.errors import InvalidSetting
        from taskq.message import MAX_ID_CHARS
        from taskq.store.base import CancelEffect

        for one in message_ids:
            if not 0 < len(one) <= MAX_ID_CHARS:
                raise InvalidSetting(f"a message id has 1 to {MAX_ID_CHARS} characters, {one!r:.60} has {len(one)}")
        effects = dict(zip(message_ids, await session.client.cancel_many(message_ids), strict=True))
        said = {
            CancelEffect.DONE: "cancelled",
            CancelEffect.ASKED: "asked: if it is queued it will not start, if it runs it is stopped",
        }
        if shared.as_json:
            as_json(effects)
        for one, effect in effects.items():
            if effect is CancelEffect.FINISHED:
                note(f"error: message {one} has ended already: nothing changed")
            elif not shared.as_json:
                click.echo(f"{one}  {said[effect]}")
        return 1 if CancelEffect.FINISHED in effects.values() else 0

    connected(ctx, work)
