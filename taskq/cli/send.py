"""`taskq send`: enqueue one message from a shell."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from taskq.cli.session import Session, Shared, connected, json_option, place_options
from taskq.cli.values import SECONDS

if TYPE_CHECKING:
    from taskq.app import TaskQ
    from taskq.task import Prepared

FOREVER = "forever"


@click.command(context_settings={"allow_interspersed_args": True})
@click.argument("app")
@click.argument("task")
@click.argument("args", nargs=-1)
@click.option("--queue", help="Instead of the task's own.")
@click.option("--delay", type=SECONDS, help="It may not start earlier than in so long.")
@click.option("--expires", type=SECONDS, help="It may not start later than in so long.")
@click.option("--priority", type=int, help="0 to 31, larger first, on queues with priorities.")
@click.option("--key", help="Messages of one key keep their order, on partitioned queues.")
@click.option("--dedup-id", help="At most one unfinished message of the queue has it.")
@click.option("--id", "message_id", help="A message id of your own.")
@click.option("--wait", is_flag=False, flag_value=FOREVER, metavar="[SECONDS]", help="Wait for the result; print it.")
@click.option("--json-args", is_flag=True, help="Every argument must be JSON; nothing is taken for plain text.")
@json_option
@place_options
@click.pass_context
def send(
    ctx: click.Context, /, app: str, task: str, args: tuple[str, ...], wait: str | None, json_args: bool, **options: Any
) -> None:
    """Send TASK of APP with ARGS, and print the message's id once the broker has it.

    An argument is JSON where it can be read as JSON (5, true, '{"a": 1}'), else text; NAME=VALUE is a keyword
    argument. Write -- before arguments that begin with a dash.
    """
    shared: Shared = ctx.ensure_object(Shared)
    shared.app = app
    timeout = None if wait in (None, FOREVER) else SECONDS.convert(wait, None, ctx)
    options["id"] = options.pop("message_id")
    given = {name: value for name, value in options.items() if value is not None}
    positional, keywords = arguments_of(args, strict=json_args)

    async def work(session: Session) -> int:
        prepared = prepare(session.app, task, positional, keywords, given)
        handle = await session.app.send_async(prepared)
        if wait is None:
            _print(shared, {"id": handle.id, "queue": prepared.message.queue}, handle.id)
            return 0
        result = await handle.get_result_async(timeout)
        _print(shared, {"id": handle.id, "queue": prepared.message.queue, "result": result}, shown(result))
        return 0

    connected(ctx, work)


def prepare(
    app: TaskQ, task: str, positional: list[Any], keywords: dict[str, Any], options: dict[str, Any]
) -> Prepared[Any]:
    """The message that the words of a command line mean."""
    found = app.get_task(task)
    return (found.options(**options) if options else found).message(*positional, **keywords)


def arguments_of(words: tuple[str, ...] | list[str], *, strict: bool = False) -> tuple[list[Any], dict[str, Any]]:
    """Positional and keyword arguments of words; JSON where it parses, or everywhere when strict."""
    positional: list[Any] = []
    keywords: dict[str, Any] = {}
    for word in words:
        name, equals, rest = word.partition("=")
        if equals and name.isidentifier():
            if name in keywords:
                raise click.UsageError(f"argument {name} is given twice")
            keywords[name] = _value(rest, strict)
        else:
            positional.append(_value(word, strict))
    return positional, keywords


def _value(word: str, strict: bool) -> Any:
    try:
        return json.loads(word)
    except (ValueError, RecursionError) as error:
        if strict:
            raise click.UsageError(f"argument {word!r:.80} is not JSON: {error}") from error
        return word


def shown(result: Any) -> str:
    """A result for people: JSON, which text and numbers are as they are."""
    from taskq.admin.shown import plain

    return result if isinstance(result, str) else json.dumps(result, default=plain, ensure_ascii=False)


def _print(shared: Shared, value: dict[str, Any], text: str) -> None:
    from taskq.cli.show import as_json

    if shared.as_json:
        as_json(value)
    else:
        click.echo(text)
