"""`taskq config`: the settings as they are here, and where each comes from."""

from __future__ import annotations

import click

from taskq.cli.session import Shared, connection_options, json_option, make_app


@click.command()
@click.option("--explain", is_flag=True, help="Show where each value comes from and what it means.")
@json_option
@connection_options
@click.pass_context
def config(ctx: click.Context, explain: bool) -> None:
    """Show every setting, by keyword of the app (with --app), TASKQ_* variable, configuration file or default.

    Passwords are not shown.
    """
    from taskq.cli.show import as_json, fields, table
    from taskq.settings import explain as explained

    shared: Shared = ctx.ensure_object(Shared)
    rows = explained(make_app(shared).settings)
    if shared.as_json:
        names = ("name", "value", "source", "description")
        as_json([dict(zip(names, row, strict=True)) for row in rows])
    elif explain:
        table(("SETTING", "VALUE", "FROM", "MEANING"), rows, empty="no settings")
    else:
        fields({name: value for name, value, _, _ in rows})
