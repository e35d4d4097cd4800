"""`taskq worker`: one process, or a supervisor over several."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from typing import TYPE_CHECKING

from taskq.errors import InvalidSetting
from taskq.load import load_app
from taskq.settings import Settings
from taskq.worker.process import EXIT_RECYCLE, Plan, run_process
from taskq.worker.watchdog import Watchdog

if TYPE_CHECKING:
    from taskq.worker.health_server import HealthServer

logger = logging.getLogger("taskq.worker")


def serve(
    app_ref: str,
    *,
    queues: list[str] | None = None,
    concurrency: int | None = None,
    processes: int | None = None,
    grace: float | None = None,
    health: str | None = None,
    beat: bool = False,
    reload: bool = False,
) -> int:
    """Run workers until they are stopped; the exit code. None leaves it to the app's settings.

    Raises:
        TaskqError: the app cannot be loaded, or a value cannot be used.
    """
    plan = Plan(app_ref, queues, concurrency, grace, beat)
    if reload:
        # The supervisor outlives its children's code: it must not hold the app's modules itself.
        settings = _settings_of(app_ref)
        return _supervise(plan, processes or settings.processes, health or settings.health, settings, True)
    app = load_app(app_ref)
    processes = processes or app.settings.processes
    if processes > 1:
        return _supervise(plan, processes, health or app.settings.health, app.settings, False)
    server: list[HealthServer] = []

    def started(watchdog: Watchdog) -> None:
        address = health or app.settings.health
        if address:
            from taskq.worker.health_server import HealthServer

            server.append(HealthServer(address, lambda: watchdog.health))

    code = run_process(app, plan, on_start=started)
    for one in server:
        one.close()
    if code == EXIT_RECYCLE:
        logger.warning("starting anew")
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    return code


def _supervise(plan: Plan, processes: int, health: str | None, settings: Settings, reload: bool) -> int:
    from taskq.worker.supervisor import Supervisor  # here: a single worker needs none

    return Supervisor(plan, processes, health, settings, reload).run()


def _settings_of(app_ref: str) -> Settings:
    """The app's settings, read in a process of their own."""
    script = (
        "import sys; from taskq.load import load_app; "
        "sys.stdout.write('\\n' + load_app(sys.argv[1]).settings.model_dump_json())"
    )
    done = subprocess.run([sys.executable, "-c", script, app_ref], capture_output=True, text=True, cwd=os.getcwd())
    if done.returncode:
        raise InvalidSetting(f"{app_ref!r} cannot be loaded: {done.stderr.strip().splitlines()[-1:]}")
    return Settings.model_validate_json(done.stdout.rsplit("\n", 1)[1])
