"""A thread that watches the event loop and the broker from outside, answers /health, and ends what must end.

The loop cannot answer for itself when a task blocks it. An unhealthy process exits after a limit,
so that whoever supervises it starts another.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from taskq.settings import Settings
from taskq.worker.run import Run
from taskq.worker.worker import Worker

logger = logging.getLogger("taskq.worker")

BEAT = 0.25  # seconds
BLOCKED_AFTER = 1.0  # seconds without a beat before it is told of
EXIT_UNHEALTHY = 70
# The broker takes a silent consumer for dead after `heartbeat` seconds at the earliest: ordered and
# limited work has ended before that. It is asked for an answer each quarter of a heartbeat.
BLOCKED_SHARE = 0.8
SILENCE_SHARE = 0.5
ROUND = 0.5  # seconds from one look to the next, at most
ROUND_SHARE = 0.1  # of the heartbeat: with one of a second, half a second would be too late


@dataclass(frozen=True, slots=True)
class Health:
    """What /health and /ready say.

    reasons   why it is unhealthy, empty if it is not
    ready     it consumes, and is not stopping
    details   for the reader
    """

    reasons: list[str]
    ready: bool
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def healthy(self) -> bool:
        return not self.reasons

    def body(self) -> bytes:
        status = "ok" if self.healthy else "unhealthy"
        return json.dumps({"status": status, "ready": self.ready, "reasons": self.reasons, **self.details}).encode()


class Watchdog:
    """Watches one worker; `report` hears its health once a second."""

    def __init__(
        self,
        worker: Worker,
        *,
        settings: Settings,
        report: Callable[[Health], None] | None = None,
        exit: Callable[[int], Any] = os._exit,
    ) -> None:
        self._worker = worker
        self._settings = settings
        self._report = report
        self._exit = exit
        self._clock = worker.clock
        self._loop = asyncio.get_running_loop()
        self._main = threading.get_ident()
        self._beaten = self._clock.monotonic()
        self._told = False
        self._bad_since: dict[str, float] = {}
        self._unhealthy_since: float | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="taskq-watchdog", daemon=True)
        self.health = Health(["starting"], False)

    def start(self) -> None:
        """Begin; in the loop that is watched."""
        self._beat()
        self._thread.start()

    def stop(self) -> None:
        """End with the worker."""
        self._over.set()

    def _beat(self) -> None:
        now = self._clock.monotonic()
        if now - self._beaten - BEAT > self._settings.heartbeat * BLOCKED_SHARE:
            self._let_go_ordered(now - self._beaten)
        self._beaten = now
        if not self._over.is_set():
            self._loop.call_later(BEAT, self._beat)

    def _let_go_ordered(self, seconds: float) -> None:
        """The loop stood still (a suspended process, a blocking task) for so long that the broker may have given
        ordered work to somebody else: what came in meanwhile, and is read only now, does not begin."""
        logger.warning("the loop stood still for %.1f s: ordered and limited work is let go", seconds)
        for server in self._worker.servers.values():
            for unit in [*server.units, *server.closing]:
                if unit.ordered:
                    unit.let_go_all()

    def _watch(self) -> None:
        pause = min(ROUND, self._settings.heartbeat * ROUND_SHARE)
        looked = self._clock.monotonic()
        while not self._over.wait(pause):
            now = self._clock.monotonic()
            lag = now - self._beaten - BEAT
            still, looked = now - looked - pause, now
            if still > BLOCKED_AFTER:
                logger.warning(
                    "this process stood still for %.1f s: suspended, short of CPU, or in code that keeps the GIL",
                    still,
                )
            self._name_the_blocker(lag - still)
            self._end_ordered(lag)
            self.health = self._examine(now, lag)
            if self._report is not None:
                self._report(self.health)
            self._leave_if_ill(now)

    def _name_the_blocker(self, lag: float) -> None:
        if lag < BLOCKED_AFTER or not self._worker.started.is_set():  # a start imports and connects
            self._told = False
            return
        if self._told:
            return
        self._told = True
        frame = sys._current_frames().get(self._main)
        stack = "".join(traceback.format_stack(frame)) if frame is not None else ""
        run = self._running_on_loop()
        who = f"task {run.message.task!r} (message {run.message.id})" if run is not None else "something"
        logger.error("%s has blocked the event loop for %.1f s; use a plain def for blocking code\n%s", who, lag, stack)

    def _running_on_loop(self) -> Run | None:
        try:
            current = asyncio.current_task(self._loop)
        except RuntimeError:
            return None
        return next((run for run in self._worker.in_hand() if run.job is current), None)

    def _ordered(self) -> list[Run]:
        return [run for run in self._worker.in_hand() if run.unit.ordered and run.stop is not None]

    def _end_ordered(self, lag: float) -> None:
        heartbeat = self._settings.heartbeat
        if lag > heartbeat * BLOCKED_SHARE and self._ordered():
            logger.critical("the loop is blocked for %.1f s with ordered or limited work in hand: exiting", lag)
            self._exit(EXIT_UNHEALTHY)
        if self._worker.started.is_set() and self._worker.broker.health().silence > heartbeat * SILENCE_SHARE:
            # Not the runs alone: on a channel that stands they would begin again at once.
            for unit in {run.unit for run in self._ordered()}:
                self._loop.call_soon_threadsafe(unit.let_go_all)

    def _examine(self, now: float, lag: float) -> Health:
        worker, limit = self._worker, self._settings.health_limit
        reasons = []
        if lag > limit:
            reasons.append(f"the event loop is blocked for {lag:.0f} s")
        if worker.started.is_set():
            health = worker.broker.health()
            wrong = {
                "no connection to the broker": not health.connected,
                f"the broker is silent for {health.silence:.0f} s": health.silence > limit,
                f"no consumer stands on {', '.join(health.unproven)}": bool(health.unproven),
            }
            for why, bad in wrong.items():
                kind = why.split()[0] + why.split()[1]
                since = self._bad_since.setdefault(kind, now) if bad else self._bad_since.pop(kind, None)
                if bad and since is not None and (now - since > limit or "silent" in why):
                    reasons.append(why)
            failing = worker.settler.group.failing_since
            if failing is not None and now - failing > limit:
                reasons.append(f"the store does not record for {now - failing:.0f} s")
        details: dict[str, Any] = {
            "worker": worker.id,
            "queues": sorted(worker.servers),
            "running": worker.places.taken,
        }
        if worker.beat is not None:
            details |= {"beat": worker.beat.standing, "ticks": worker.beat.ticks}
            failing = worker.beat.failing_since
            if failing is not None and now - failing > limit:
                reasons.append(f"no schedule can be looked at for {now - failing:.0f} s")
        return Health(reasons, worker.started.is_set() and not worker.stopping, details)

    def _leave_if_ill(self, now: float) -> None:
        if self.health.healthy:
            self._unhealthy_since = None
            return
        if self._unhealthy_since is None:
            self._unhealthy_since = now
        limit = self._settings.exit_after
        if limit is not None and now - self._unhealthy_since > limit:
            logger.critical("unhealthy for %.0f s (%s): exiting", limit, "; ".join(self.health.reasons))
            self._exit(EXIT_UNHEALTHY)
