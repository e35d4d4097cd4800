"""A worker as an operating-system process: its loop, its signals, its exit code; one, or several under a supervisor."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import asdict, dataclass

from taskq.app import TaskQ, loop_factory
from taskq.collector import spare_what_stays
from taskq.errors import BrokerUnavailable, StoreUnavailable, TaskqError
from taskq.load import load_app
from taskq.worker.watchdog import Health, Watchdog
from taskq.worker.worker import Worker

logger = logging.getLogger("taskq.worker")

Beside = Callable[[Worker], AbstractAsyncContextManager[None]]  # what goes on around a worker's run, in its event loop

EXIT_OK = 0
EXIT_REFUSED = 1  # it cannot work as it is set up: starting it again is of no use
EXIT_UNAVAILABLE = 69  # the broker or the store did not answer at start
EXIT_RECYCLE = 75  # its successor is wanted


@dataclass(frozen=True, slots=True)
class Plan:
    """What one worker process is to do; travels to children of the supervisor as JSON."""

    app_ref: str
    queues: list[str] | None = None
    concurrency: int | None = None
    grace: float | None = None
    beat: bool = False
    report_fd: int | None = None


def run_process(
    app: TaskQ, plan: Plan, *, on_start: Callable[[Watchdog], None] | None = None, beside: Beside | None = None
) -> int:
    """Run one worker in this process, to its end; the exit code."""
    with asyncio.Runner(loop_factory=loop_factory(app.settings.loop)) as runner:
        code, stuck = runner.run(_run(app, plan, on_start, beside))
        if stuck:
            # A thread that cannot be stopped would keep the interpreter waiting; its message stays
            # with the broker until the process, and so the thread, is gone.
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
            if code == EXIT_RECYCLE and plan.report_fd is None:
                os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
            os._exit(code)
    return code


async def _run(
    app: TaskQ, plan: Plan, on_start: Callable[[Watchdog], None] | None, beside: Beside | None
) -> tuple[int, bool]:
    worker = Worker(
        app,
        app_ref=plan.app_ref,
        queues=plan.queues,
        concurrency=plan.concurrency,
        grace=plan.grace,
        beat=plan.beat,
    )
    report = _reporter(plan.report_fd, worker) if plan.report_fd is not None else None
    watchdog = Watchdog(worker, settings=app.settings, report=report)
    _listen_for_signals(worker)
    freezing = asyncio.create_task(_freeze_when_started(worker))
    watchdog.start()
    try:
        if on_start is not None:
            on_start(watchdog)
        async with nullcontext() if beside is None else beside(worker):
            await worker.run()
    except (ExceptionGroup, TaskqError) as raised:
        error = _first(raised)
        if not isinstance(error, TaskqError):
            raise
        logger.critical("%s", error)
        if isinstance(error, BrokerUnavailable | StoreUnavailable):
            return EXIT_RECYCLE if worker.started.is_set() else EXIT_UNAVAILABLE, False
        return EXIT_REFUSED, False
    finally:
        freezing.cancel()
        watchdog.stop()
        if not worker.stuck_threads:
            await app.close()
    return (EXIT_RECYCLE if worker.recycling else EXIT_OK), worker.stuck_threads


async def _freeze_when_started(worker: Worker) -> None:
    """Take what the start has made, 80,000 objects that stay, out of the garbage collector's sight."""
    await worker.started.wait()
    spare_what_stays()


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _listen_for_signals(worker: Worker) -> None:
    loop = asyncio.get_running_loop()

    def stop(name: str) -> None:
        if worker.told:
            logger.warning("%s again: what runs is given back now", name)
            worker.stop(now=True)
        else:
            logger.warning("%s: finishing what runs, for at most %g s", name, worker.grace)
            worker.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number.name)


def _reporter(fd: int, worker: Worker) -> Callable[[Health], None]:
    """Tell the supervisor once a second how it is; a supervisor that is gone ends the worker."""
    loop = asyncio.get_running_loop()

    def report(health: Health) -> None:
        line = {"reasons": health.reasons, "ready": health.ready, "details": health.details}
        try:
            os.write(fd, json.dumps(line).encode() + b"\n")
        except OSError as error:
            logger.error("the supervisor is gone (%s): stopping", error)
            loop.call_soon_threadsafe(worker.stop)

    return report


def configure_logging(level: int = logging.INFO) -> None:
    """Log to standard error, unless the app has set up logging already."""
    if not logging.getLogger().handlers:
        logging.basicConfig(level=level, format="%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s")
        for chatty in ("alembic", "aio_pika"):
            logging.getLogger(chatty).setLevel(max(level, logging.WARNING))


def main() -> None:
    """A child of the supervisor: `python -m taskq.worker.process PLAN`."""
    configure_logging()
    plan = Plan(**json.loads(sys.argv[1]))
    try:
        code = run_process(load_app(plan.app_ref), plan)
    except TaskqError as error:
        logger.critical("%s", error)
        code = EXIT_REFUSED
    sys.exit(code)


def command(plan: Plan) -> list[str]:
    """The command line of a child."""
    return [sys.executable, "-m", "taskq.worker.process", json.dumps(asdict(plan))]


if __name__ == "__main__":
    main()
