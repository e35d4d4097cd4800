"""`taskq doctor`: examine broker, store and settings; exit 1 if something must be mended."""

from __future__ import annotations

import click

from taskq.cli.session import Shared, connection_options, json_option, make_app


@click.command()
@json_option
@connection_options
@click.pass_context
def doctor(ctx: click.Context) -> None:
    """Examine broker, store, queues and settings, and say what to mend.

    Exit code 1 if anything is an ERROR, 0 otherwise.
    """
    import asyncio

    from taskq.admin.examine import Level, examine
    from taskq.cli.show import as_json, counted

    shared: Shared = ctx.ensure_object(Shared)
    findings = asyncio.run(examine(make_app(shared)))
    if shared.as_json:
        as_json(findings)
    else:
        width = max(len(one.subject) for one in findings)
        for one in findings:
            click.echo(f"{one.level:<5}  {one.subject:<{width}}  {one.text}")
        errors, warnings = (sum(one.level is level for one in findings) for level in (Level.ERROR, Level.WARN))
        click.echo(f"\n{counted(errors, 'error')}, {counted(warnings, 'warning')}")
    ctx.exit(int(any(one.level is Level.ERROR for one in findings)))
