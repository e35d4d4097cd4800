"""`taskq api`: serve QStash's protocol and /admin over HTTP."""

from __future__ import annotations

import click


@click.command()
@click.argument("app")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="Port; 0: any.")
@click.pass_context
def api(ctx: click.Context, app: str, host: str, port: int) -> None:
    """Serve the HTTP API of APP (module:app) until SIGTERM or Ctrl-C.

    It accepts messages and shows what became of them; workers deliver them. Any number may run. Without the setting
    api_token it needs no token, and then it listens on loopback only.
    """
    from taskq.cli.worker import refuse_connection
    from taskq.errors import InvalidSetting
    from taskq.load import load_app
    from taskq.worker.process import configure_logging

    refuse_connection(ctx)
    configure_logging()
    try:
        from taskq.api.server import serve
    except ModuleNotFoundError as error:
        raise InvalidSetting(f"the HTTP API needs {error.name}: pip install 'taskq[api]'") from error
    ctx.exit(serve(load_app(app), host, port))
