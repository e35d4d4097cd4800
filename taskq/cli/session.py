"""What the commands share: where broker and store are, and one connected session for each command."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from taskq.app import TaskQ
    from taskq.broker.base import Broker
    from taskq.client import Client
    from taskq.store.base import Store

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(slots=True)
class Shared:
    """The options that stand before or after the command; None: not given.

    app             module:app, whose settings count
    broker, store   URLs
    prefix          text
    as_json         bool: print JSON for programs
    """

    app: str | None = None
    broker: str | None = None
    store: str | None = None
    prefix: str | None = None
    as_json: bool = False

    def overrides(self) -> dict[str, str]:
        """The settings that were given."""
        given = {"broker": self.broker, "store": self.store, "prefix": self.prefix}
        return {name: value for name, value in given.items() if value is not None}


def _keep(ctx: click.Context, parameter: click.Parameter, value: Any) -> None:
    if value is not None and value is not False and parameter.name is not None:
        setattr(ctx.ensure_object(Shared), parameter.name, value)


def place_options(function: F) -> F:
    """--broker, --store, --prefix: before the command and after it alike."""
    for name, metavar, text in (
        ("--prefix", "TEXT", "What every name on the broker begins with."),
        ("--store", "URL", "The store: sqlite:///file.db or postgresql://user:password@host/database."),
        ("--broker", "URL", "The broker: amqp://user:password@host:port/vhost."),
    ):
        option = click.option(name, metavar=metavar, help=text, expose_value=False, callback=_keep)
        function = option(function)
    return function


def connection_options(function: F) -> F:
    """The same, and --app, for commands that take no APP as an argument."""
    text = "Take broker, store and prefix from this app (module:app)."
    option = click.option("--app", metavar="APP", help=text, expose_value=False, callback=_keep)
    return place_options(option(function))


def json_option(function: F) -> F:
    """--json."""
    option = click.option(
        "--json", "as_json", is_flag=True, help="Print JSON, for programs.", expose_value=False, callback=_keep
    )
    return option(function)


@dataclass(slots=True)
class Session:
    """One command's connections, opened when they are asked for."""

    app: TaskQ
    client: Client

    async def broker(self) -> Broker:
        """The broker, connected."""
        return await self.client.broker()

    async def store(self) -> Store:
        """The store, opened, and known to be this broker's own."""
        return await self.client.store()


def make_app(shared: Shared) -> TaskQ:
    """The app that stands for this command line: APP's own, or one without tasks."""
    if shared.app is None:
        from taskq.app import TaskQ

        settings: dict[str, Any] = dict(shared.overrides())
        return TaskQ(**settings)
    from taskq.load import load_app

    return with_settings(load_app(shared.app), **shared.overrides())


def with_settings(app: TaskQ, **changes: str) -> TaskQ:
    """The app, with these settings instead of its own, before it has connected."""
    if changes:
        from taskq.settings import load_settings

        load_settings(**changes)  # raises for those that cannot be
        settings = app.settings.model_copy(update=changes)
        settings._sources = {**app.settings._sources, **dict.fromkeys(changes, "command line")}
        app.settings = settings
        app.make_broker()
        app.make_store()
    return app


def connected(ctx: click.Context, work: Callable[[Session], Awaitable[int | None]]) -> None:
    """Run a command's work with a session; its number is the exit code."""
    import asyncio

    shared: Shared = ctx.ensure_object(Shared)
    app = make_app(shared)

    async def run() -> int:
        try:
            return await work(Session(app, app.client())) or 0
        finally:
            await app.close()

    ctx.exit(asyncio.run(run()))
