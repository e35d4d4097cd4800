"""`taskq dev`: everything in one process, with nothing installed, for writing tasks and trying them.

`memory://` lives inside the process, so that other programs send to it over HTTP alone. Hence two more ways to
send from here: lines typed at it, and a script that runs beside the worker.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shlex
import shutil
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from taskq.cli.session import Shared, place_options, with_settings
from taskq.cli.values import SECONDS
from taskq.errors import InvalidSetting, TaskqError

if TYPE_CHECKING:
    from taskq.api.server import Guest
    from taskq.app import TaskQ
    from taskq.handle import Handle
    from taskq.worker.process import Beside, Plan

logger = logging.getLogger("taskq.dev")

MEMORY = "memory://"
LOOK_EVERY = 0.2  # seconds
PORT = 8080
LOOPBACK = "127.0.0.0/8,::1"


@click.command()
@click.argument("app_ref", metavar="APP")
@click.option("-q", "--queues", metavar="A,B", help="Serve only these queues. Default: all that the app knows.")
@click.option("-c", "--concurrency", type=click.IntRange(min=1), help="At most so many runs at once.")
@click.option("--grace", type=SECONDS, help="Time that running tasks get to finish at a stop.")
@click.option("--run", "script", metavar="SCRIPT", help="Run this script beside the worker; stop when it ends.")
@click.option("--reload", is_flag=True, help="Start anew when a Python file below this folder changes.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address of the HTTP API.")
@click.option(
    "--port", type=click.IntRange(0, 65535), help=f"Its port; 0: any. Default: {PORT}, or any if that is taken."
)
@click.option("--api/--no-api", default=True, help="Serve the HTTP API, or not.")
@place_options
@click.pass_context
def dev(
    ctx: click.Context,
    app_ref: str,
    queues: str | None,
    concurrency: int | None,
    grace: float | None,
    script: str | None,
    reload: bool,
    host: str,
    port: int | None,
    api: bool,
) -> None:
    """Run the tasks of APP (module:app) in this process alone: no RabbitMQ, nothing kept afterwards.

    Uses memory:// and a SQLite file that is deleted at the end, unless --broker or --store say otherwise. Type
    TASK ARGS… (as for `taskq send`) to send a task and see its result, or run a script beside with --run: its
    enqueues come here.

    Serves the HTTP API, too: with a token for this run, unless there is one in the settings, and with deliveries
    to this machine, unless the setting delivery_allow says otherwise.
    """
    from taskq.cli.worker import queue_names
    from taskq.load import load_app
    from taskq.worker.process import Plan, configure_logging

    shared: Shared = ctx.ensure_object(Shared)
    names = queue_names(queues)
    if script is not None and not Path(script).is_file():
        raise click.UsageError(f"--run: there is no script {script!r}")
    configure_logging(logging.INFO)
    made = _open_up() if api else None
    if reload:
        if made is not None:
            click.echo(f"token   {made}, for as long as this runs", err=True)
        ctx.exit(_reload())
    with _places(shared) as overrides, contextlib.ExitStack() as stack:
        # A script may make an app of its own (the app's module as `__main__`), and so do children of process tasks.
        os.environ |= {f"TASKQ_{name.upper()}": value for name, value in overrides.items()}
        app = with_settings(load_app(app_ref), **overrides)
        _introduce(app)
        door = _door(app, host, port) if api else None
        if door is not None:
            stack.enter_context(door.listener)
        plan = Plan(app_ref, names, concurrency, grace, beat=True)
        _invite(app, door, made, typing=script is None)
        ctx.exit(_serve(app, plan, door, script))


@contextlib.contextmanager
def _places(shared: Shared) -> Iterator[dict[str, str]]:
    """The settings that dev runs with; on memory:// with a store of its own, for its messages end with it."""
    overrides = {"broker": MEMORY} | shared.overrides()
    folder = None
    if overrides["broker"].startswith(MEMORY) and "store" not in overrides:
        folder = tempfile.mkdtemp(prefix="taskq-dev-")
        overrides["store"] = f"sqlite:///{Path(folder) / 'taskq.db'}"
    try:
        yield overrides
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _open_up() -> str | None:
    """Allow deliveries to this machine and make a token for this run, where the settings say nothing of them."""
    from taskq.settings import explain, load_settings

    unset = {name for name, _, source, _ in explain(load_settings()) if source == "default"}
    if "delivery_allow" in unset:
        os.environ["TASKQ_DELIVERY_ALLOW"] = LOOPBACK
    if "api_token" not in unset:
        return None
    os.environ["TASKQ_API_TOKEN"] = token = secrets.token_urlsafe(24)
    return token


class Door(NamedTuple):
    """The HTTP API, not served yet, and its socket, at which clients may already wait."""

    server: Guest
    listener: socket.socket
    url: str

    def opened(self) -> Beside:
        """What serves it beside a worker, from when that has started."""
        return lambda worker: self.server.serving(self.listener, once=worker.started)


def _door(app: TaskQ, host: str, port: int | None) -> Door | None:
    """None: its libraries are not installed."""
    try:
        from taskq.api.server import Guest, listen, url_of
    except ModuleNotFoundError as error:
        click.echo(f"api     not served, for it needs {error.name}: pip install 'taskq[api]'", err=True)
        return None
    try:
        listener = listen(app, host, PORT if port is None else port)
    except InvalidSetting:
        if port is not None:
            raise
        listener = listen(app, host, 0)
    return Door(Guest(app), listener, url_of(listener))


def _introduce(app: TaskQ) -> None:
    from taskq.settings import redact_url

    settings = app.settings
    click.echo(f"broker  {redact_url(settings.broker)}", err=True)
    click.echo(f"store   {redact_url(settings.store)}", err=True)
    click.echo(f"tasks   {', '.join(sorted(app.tasks)) or 'none'}", err=True)


def _serve(app: TaskQ, plan: Plan, door: Door | None, script: str | None) -> int:
    from taskq.worker.process import run_process

    beside = Prompt(app) if script is None else Script(script)
    thread = threading.Thread(target=beside.run, name="taskq-dev", daemon=True)
    opened = None if door is None else door.opened()
    code = run_process(app, plan, on_start=lambda _: thread.start(), beside=opened)
    return code or beside.code


def _invite(app: TaskQ, door: Door | None, made: str | None, *, typing: bool) -> None:
    """Say how messages come here, and tell it to QStash's clients in a script."""
    if door is not None:
        token = "" if app.settings.api_token is None else app.settings.api_token.get_secret_value()
        os.environ |= {"QSTASH_URL": door.url, "QSTASH_TOKEN": token}
        click.echo(f"api     {door.url}", err=True)
        click.echo(f"token   {made if made == token else 'that of the settings' if token else 'none'}", err=True)
    if app.settings.broker.startswith(MEMORY):
        way = "cannot send to memory://" if door is None else "send over HTTP, not to memory://"
        click.echo(f"Other programs {way}. Ctrl-C ends this, and every message with it.", err=True)
    if typing:
        click.echo("Type TASK ARGS… to send a task.", err=True)


class Prompt:
    """Lines of standard input, each a task to send; their end (a service has none) stops nothing."""

    code = 0

    def __init__(self, app: TaskQ) -> None:
        self._app = app

    def run(self) -> None:
        """Until the end of the lines; on a thread."""
        for line in sys.stdin:
            try:
                words = shlex.split(line, comments=True)
                if words:
                    self._send(words)
            except (TaskqError, click.UsageError, ValueError) as error:
                click.echo(f"error: {' '.join(str(error).split())}", err=True)

    def _send(self, words: list[str]) -> None:
        from taskq.cli.send import arguments_of, prepare

        positional, keywords = arguments_of(words[1:])
        handle = self._app.send(prepare(self._app, words[0], positional, keywords, {}))
        click.echo(f"{handle.id}  sent", err=True)
        threading.Thread(target=_show, args=(handle,), daemon=True).start()


def _show(handle: Handle[Any]) -> None:
    from taskq.cli.send import shown

    try:
        click.echo(f"{handle.id}  {shown(handle.get_result())}")
    except TaskqError as error:
        click.echo(f"{handle.id}  {type(error).__name__}: {error}")


class Script:
    """A script beside the worker, in its process; its end stops the worker, and its exit code is ours."""

    def __init__(self, path: str) -> None:
        self.code = 0
        self._path = path

    def run(self) -> None:
        """To its end; on a thread."""
        import runpy
        import signal
        import traceback

        sys.argv = [self._path]
        sys.path.insert(0, str(Path(self._path).resolve().parent))
        try:
            runpy.run_path(self._path, run_name="__main__")
        except SystemExit as ended:
            self.code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        except Exception:  # the user's: shown as the interpreter would
            traceback.print_exc()
            self.code = 1
        finally:
            os.kill(os.getpid(), signal.SIGTERM)


def _reload() -> int:
    """Run this command without --reload in a child, and anew whenever a file changes."""
    import signal
    import subprocess

    from taskq.worker.supervisor import watching_files

    changed, stopping = threading.Event(), threading.Event()

    def stop(number: int, frame: object) -> None:
        stopping.set()
        child.terminate()

    with watching_files(changed.set):
        command = [sys.executable, *(word for word in sys.orig_argv[1:] if word != "--reload")]
        child = subprocess.Popen(command)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = child.wait(LOOK_EVERY)
                if code == 0 or stopping.is_set():
                    return code
                changed.wait(LOOK_EVERY)  # it cannot run as it is: the next change may mend it
            if changed.is_set() and not stopping.is_set():
                changed.clear()
                logger.info("a file has changed: starting anew, what was under way is lost on memory://")
                if child.poll() is None:
                    child.send_signal(signal.SIGTERM)
                    child.send_signal(signal.SIGINT)
                    child.wait()
                child = subprocess.Popen(command)
