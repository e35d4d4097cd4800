"""`taskq status`: how everything is, or where one message is."""

from __future__ import annotations

from typing import Any

import click

from taskq.cli.session import Session, Shared, connected, connection_options, json_option


@click.command()
@click.argument("message_id", required=False)
@json_option
@connection_options
@click.pass_context
def status(ctx: click.Context, message_id: str | None) -> None:
    """Show queues, workers, the keeper, the beat and dead letters; or with MESSAGE_ID where that message is."""
    shared: Shared = ctx.ensure_object(Shared)

    async def work(session: Session) -> int:
        if message_id is None:
            await _overview(session, shared)
        else:
            await _of_message(session, shared, message_id)
        return 0

    connected(ctx, work)


async def _of_message(session: Session, shared: Shared, message_id: str) -> None:
    from taskq.cli.messages import UnknownMessage
    from taskq.cli.show import as_json

    store = await session.store()
    record = await store.get(message_id)
    if record is None:
        raise UnknownMessage(message_id)
    if shared.as_json:
        as_json({"id": record.id, "status": record.status, "queue": record.queue, "attempt": record.attempt})
    else:
        click.echo(record.status)


async def _overview(session: Session, shared: Shared) -> None:
    from taskq.admin.census import Census
    from taskq.broker.base import DEAD, WAITING
    from taskq.cli.queues import COLUMNS, describe, in_columns
    from taskq.cli.show import as_json, counted, fields, table
    from taskq.store.base import DeadFilter

    broker, store = await session.broker(), await session.store()
    census = Census(broker)
    await census.listen()
    workers = sorted((await census.ask()).values(), key=lambda worker: worker.id)
    queues = await describe(session)
    dead = await store.count_dead(DeadFilter())
    on_broker = {queue.kind.value: depth.ready for queue in (WAITING, DEAD) if (depth := await broker.depth(queue))}
    keeper = next((worker.id for worker in workers if worker.keeper), None)
    beat = next((worker.id for worker in workers if worker.beat == "leads"), None)
    if shared.as_json:
        overview: dict[str, Any] = {
            "broker": {"product": broker.facts.product, "version": ".".join(map(str, broker.facts.version))},
            "store": store.url,
            "prefix": session.app.settings.prefix,
            "queues": queues,
            "workers": workers,
            "keeper": keeper,
            "beat": beat,
            "dead_letters": dead,
            "on_broker": on_broker,
        }
        as_json(overview)
        return
    version = ".".join(map(str, broker.facts.version))
    to_archive = on_broker.get("dead", 0)
    fields(
        {
            "broker": f"{broker.facts.product} {version}, prefix {session.app.settings.prefix}",
            "store": store.url,
            "keeper": keeper or "none: delayed messages and dead letters wait until a worker runs",
            "beat": beat or "none: nothing is sent on schedule until `taskq beat` or a worker with --beat runs",
            "dead": counted(dead, "dead letter") + (f", {to_archive} more to archive" if to_archive else ""),
        }
    )
    click.echo()
    table(COLUMNS, map(in_columns, queues), empty="no queues yet")
    click.echo()
    rows = [(one.id, f"{one.running}/{one.places}", one.keeper, one.beat, ", ".join(one.queues)) for one in workers]
    table(("WORKER", "RUNNING", "KEEPER", "BEAT", "QUEUES"), rows, empty="no worker answers")
