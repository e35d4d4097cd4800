"""Several worker processes: started, watched, restarted, stopped together; one answer for their health."""

from __future__ import annotations

import json
import logging
import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from taskq.errors import InvalidSetting
from taskq.settings import Settings
from taskq.worker.health_server import HealthServer
from taskq.worker.process import EXIT_OK, EXIT_RECYCLE, EXIT_REFUSED, Plan, command
from taskq.worker.watchdog import Health

logger = logging.getLogger("taskq.supervisor")

POLL = 0.2  # seconds
STEADY = 10.0  # seconds: a child that lived so long is restarted at once
BACKOFF_FIRST = 0.5
BACKOFF_MOST = 15.0


@dataclass(slots=True, eq=False)
class Child:
    """One worker process."""

    process: subprocess.Popen[bytes]
    pipe: int
    started: float
    reported: float
    health: Health
    buffer: bytes = b""
    was_ready: bool = False


class Supervisor:
    """Keeps `processes` workers alive until it is told to stop."""

    def __init__(self, plan: Plan, processes: int, health: str | None, settings: Settings, reload: bool) -> None:
        self._plan = plan
        self._wanted = processes
        self._settings = settings
        self._reload = reload
        self._address = health
        self._children: list[Child] = []
        self._waiting: list[float] = []  # instants (monotonic) at which a child is to be started
        self._failures = 0
        self._signals = 0
        self._ever_ready = False
        self._selector = selectors.DefaultSelector()
        self._code = EXIT_OK
        self._reload_now = threading.Event()

    def run(self) -> int:
        """Until a signal; the exit code."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        server = HealthServer(self._address, self.health) if self._address else None
        with watching_files(self._reload_now.set) if self._reload else nullcontext():
            for _ in range(self._wanted):
                self._start()
            try:
                while self._children or (self._waiting and not self._signals):
                    self._read()
                    self._reap()
                    self._restart()
            finally:
                for child in self._children:
                    child.process.kill()
                if server is not None:
                    server.close()
        return self._code

    def health(self) -> Health:
        """Of all of them together."""
        now, reasons = time.monotonic(), []
        children = list(self._children)
        for child in children:
            pid = child.process.pid
            reasons += [f"process {pid}: {reason}" for reason in child.health.reasons if child.was_ready]
            if now - child.reported > self._settings.health_limit:
                reasons.append(f"process {pid} says nothing for {now - child.reported:.0f} s")
        if len(children) < self._wanted and not self._signals:
            reasons.append(f"{len(children)} of {self._wanted} processes run")
        ready = len(children) == self._wanted and all(child.health.ready for child in children)
        return Health(reasons, ready and not self._signals, {"processes": [child.health.details for child in children]})

    # -- children ---------------------------------------------------------------------------

    def _start(self) -> None:
        ours, theirs = os.pipe()
        os.set_blocking(ours, False)
        plan = replace(self._plan, report_fd=theirs)
        # A session of its own: the terminal's Ctrl-C reaches the supervisor alone, which tells each child once.
        process = subprocess.Popen(command(plan), pass_fds=[theirs], start_new_session=True)
        os.close(theirs)
        now = time.monotonic()
        child = Child(process, ours, now, now, Health(["starting"], False))
        self._selector.register(ours, selectors.EVENT_READ, child)
        self._children.append(child)

    def _read(self) -> None:
        for key, _ in self._selector.select(POLL):
            child: Child = key.data
            data = os.read(child.pipe, 65536)
            if not data:
                self._selector.unregister(child.pipe)
                continue
            *lines, child.buffer = (child.buffer + data).split(b"\n")
            for line in lines:
                said: dict[str, Any] = json.loads(line)
                child.health = Health(said["reasons"], said["ready"], said["details"])
                child.reported = time.monotonic()
                child.was_ready |= child.health.ready
                self._ever_ready |= child.health.ready

    def _reap(self) -> None:
        for child in list(self._children):
            code = child.process.poll()
            if code is None:
                continue
            self._children.remove(child)
            if child.pipe in self._selector.get_map():
                self._selector.unregister(child.pipe)
            os.close(child.pipe)
            if not self._signals:
                self._ended(child, code)

    def _ended(self, child: Child, code: int) -> None:
        lived = time.monotonic() - child.started
        if code == EXIT_REFUSED or (not self._ever_ready and code not in (EXIT_OK, EXIT_RECYCLE)):
            logger.critical("a worker process could not start (exit code %d): stopping", code)
            self._code = code if code > 0 else EXIT_REFUSED
            self._stop_all()
            return
        if code != EXIT_RECYCLE:
            logger.error("worker process %d %s after %.0f s", child.process.pid, _how(code), lived)
        self._failures = 0 if lived > STEADY or code in (EXIT_RECYCLE, EXIT_OK) else self._failures + 1
        pause = 0.0 if not self._failures else min(BACKOFF_FIRST * 2 ** (self._failures - 1), BACKOFF_MOST)
        self._waiting.append(time.monotonic() + pause)

    def _restart(self) -> None:
        now = time.monotonic()
        for due in [due for due in self._waiting if due <= now]:
            self._waiting.remove(due)
            if not self._signals:
                self._start()
        if self._reload_now.is_set():
            self._reload_now.clear()
            logger.info("a file has changed: restarting, what runs is given back")
            for child in self._children:
                child.process.send_signal(signal.SIGTERM)
                child.process.send_signal(signal.SIGINT)

    # -- stopping, reloading ------------------------------------------------------------------

    def _on_signal(self, number: int, frame: object) -> None:
        self._stop_all()

    def _stop_all(self) -> None:
        self._signals += 1
        for child in self._children:
            child.process.send_signal(signal.SIGTERM)


@contextmanager
def watching_files(on_change: Callable[[], None]) -> Iterator[None]:
    """Call `on_change`, on a thread, whenever a Python file below the working directory changes.

    The thread has ended when this is left: in native code at the interpreter's end it would abort the process.
    """
    try:
        from watchfiles import PythonFilter, watch
    except ImportError as error:
        raise InvalidSetting("--reload needs the extra: pip install 'taskq[reload]'") from error
    over = threading.Event()

    def look() -> None:
        for _ in watch(".", watch_filter=PythonFilter(), stop_event=over):
            on_change()

    thread = threading.Thread(target=look, name="taskq-reload", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _how(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    return f"was killed by {signal.Signals(-code).name}"
