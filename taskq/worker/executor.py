"""One message to one Outcome: decode, validate, call, judge. Touches neither broker nor store."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import logging
import random
from collections.abc import Callable, Coroutine, Generator
from dataclasses import replace
from typing import Any

from taskq.context import SoftTimeout, enter
from taskq.errors import NotSerializable
from taskq.http.request import HTTP_TASK, PAYLOAD_TYPE, Response
from taskq.outcome import Again, Cancelled, Dead, Done, Failure, GivenBack, Outcome, decide
from taskq.serialization import JSON, MSGPACK, codec_for, decode_value
from taskq.worker.child import arguments_of, done, outcome_of
from taskq.worker.pools import ChildDied, Processes, Threads
from taskq.worker.run import Abort, Run

logger = logging.getLogger("taskq.worker")

CANCEL_AGAIN_AFTER = 1.0  # seconds: a task that swallows its cancellation is cancelled again
_TEXT_HEADERS = (("Content-Type", "text/plain; charset=utf-8"),)
_JSON_HEADERS = (("Content-Type", "application/json"),)
KILL_GRACE = 2.0  # seconds between asking a process to stop and killing it, on a cancel


class Executor:
    """Runs tasks on the loop, on threads and in processes."""

    def __init__(self, *, processes: Processes, threads: Threads, rng: random.Random) -> None:
        self._processes = processes
        self._threads = threads
        self._rng = rng

    async def run(self, run: Run) -> Outcome:
        """Run the attempt; an Outcome whatever happens in it."""
        task = run.task
        assert task is not None
        try:
            if task.definition.pool == "process":
                outcome = await self._in_process(run)
            else:
                checked = arguments_of(task, run.message)
                if isinstance(checked, Dead):
                    return checked
                call = self._on_loop if task.definition.pool == "async" else self._on_thread
                value = await call(run, *checked)
                outcome = Done(None, value.encode()) if isinstance(value, Response) else done(task, value)
        except asyncio.CancelledError as error:
            return self._interrupted(run, error)
        except BaseException as error:  # SystemExit and the like too: one task must not end the worker
            if run.abort is Abort.TIMEOUT:
                return self._interrupted(run, error)
            outcome = self._failed(run, error)
        finally:
            run.stop = None
        if run.message.payload_type == PAYLOAD_TYPE:
            outcome = answered(outcome, 0 if run.message.task == HTTP_TASK else 500)
        return self._overruled(run, outcome)

    def _failed(self, run: Run, error: BaseException) -> Outcome:
        assert run.task is not None
        policy = run.task.definition.retry
        try:
            return decide(run.message, error, policy=policy, attempt=run.attempt, rng=self._rng)
        except Exception as broken:
            # A retry policy's own function raised: without a delay there is no next attempt.
            logger.exception("the retry policy of task %s failed", run.message.task)
            broken.__context__ = error
            return Dead("failed", Failure.of(broken))

    def _overruled(self, run: Run, outcome: Outcome) -> Outcome:
        """What came of a run that had been told to stop, and ended by itself."""
        if run.abort is Abort.CANCELLED:
            return Cancelled()
        if run.abort is Abort.LOST:
            return GivenBack()
        return outcome

    def _interrupted(self, run: Run, error: BaseException) -> Outcome:
        current = asyncio.current_task()
        if current is not None:
            while current.cancelling():
                current.uncancel()
        match run.abort:
            case Abort.CANCELLED:
                return Cancelled()
            case Abort.TIMEOUT:
                limit = TimeoutError(f"the attempt took longer than its time limit of {time_limit(run):g} s")
                limit.__cause__ = error
                return self._failed(run, limit)
            case Abort.SHUTDOWN | Abort.LOST:
                return GivenBack()
            case None:
                # Nobody asked: a cancellation of the task's own making has leaked out of it.
                return self._failed(run, error)

    # -- the three places -------------------------------------------------------------------

    async def _on_loop(self, run: Run, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        assert run.task is not None and run.context is not None
        definition = run.task.definition
        enter(run.context)
        run.begin()
        coroutine = run.task.function(*args, **kwargs)
        if definition.timeout is None and run.message.timeout is None and definition.soft_timeout is None:
            run.stop = _canceller(asyncio.current_task())
            return await coroutine
        interruptible = Interruptible(coroutine)
        with Limits(run, soft=interruptible.soft_timeout, hard=_canceller(asyncio.current_task())):
            return await interruptible

    async def _on_thread(self, run: Run, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        assert run.task is not None and run.context is not None
        context = contextvars.copy_context()
        context.run(enter, run.context)
        call = functools.partial(run.task.function, *args, **kwargs)
        if run.on_begin is not None:
            call = functools.partial(_begin_and, asyncio.get_running_loop(), run, call)
        thread = self._threads.start(context, call)
        cancel = _canceller(asyncio.current_task())

        def stop(reason: Abort) -> None:
            # A thread cannot be stopped: it reads `cancelled`. Only a limit or the end lets go of it.
            if reason in (Abort.TIMEOUT, Abort.SHUTDOWN):
                cancel(reason)

        try:
            with Limits(run, soft=thread.interrupt, hard=stop):
                return await asyncio.shield(thread.done)
        except asyncio.CancelledError:
            if not thread.ended.is_set():
                run.abandoned = True
                run.unit.abandon(run, thread.ended)
            raise

    async def _in_process(self, run: Run) -> Outcome:
        assert run.task is not None and run.context is not None
        child = await self._processes.take()

        def stop(reason: Abort) -> None:
            if reason is Abort.CANCELLED and child.alive:
                child.write({"cancel": True})
                asyncio.get_running_loop().call_later(KILL_GRACE, _kill_if_running, run, child)
            else:
                child.kill()

        try:
            definition = run.task.definition
            job = {
                "message": run.message.encode(),
                "attempt": run.attempt,
                "fifo": run.context.fifo,
                "lane": run.context.lane,
                "soft": definition.soft_timeout,
            }
            with Limits(run, soft=None, hard=stop):
                child.write(job)
                run.begin()
                while True:
                    frame = await child.read()
                    if "progress" in frame:
                        run.context.progress(*frame["progress"])
                    elif "heartbeat" in frame:
                        run.context.heartbeat()
                    elif "waits" in frame:
                        if frame["waits"]:
                            run.context.waits.leave()
                        else:
                            await run.context.waits.enter()
                    else:
                        return outcome_of(frame)
        except ChildDied as died:
            if run.abort is not None:
                raise asyncio.CancelledError from died
            return Dead("crashed", Failure.of(died)) if died.killed else self._crashed(run, died)
        finally:
            self._processes.give(child)

    def _crashed(self, run: Run, died: ChildDied) -> Outcome:
        """A crash of the task's own process costs an attempt, like any failure; only the last is final."""
        outcome = self._failed(run, died)
        return Dead("crashed", outcome.failure) if isinstance(outcome, Dead) else outcome


def answered(outcome: Outcome, failed: int) -> Outcome:
    """The outcome with its response, also where a Python task stood in for a destination: its result as JSON.

    Args:
        failed: the status of a failure without a response.
    """
    match outcome:
        case Done(result, None):
            value = None if result is None else decode_value(result, MSGPACK)
            try:
                response = Response(200, _JSON_HEADERS, codec_for(JSON).encode(value))
            except NotSerializable as error:
                response = Response(200, _TEXT_HEADERS, f"the result is no JSON: {error}".encode())
            return replace(outcome, response=response.encode())
        case Again(response=None) | Dead(response=None):
            text = f"{outcome.failure.type}: {outcome.failure.message}"
            response = Response(failed, _TEXT_HEADERS, text.encode("utf-8", "replace"))
            return replace(outcome, response=response.encode())
    return outcome


def _begin_and(loop: asyncio.AbstractEventLoop, run: Run, call: Callable[[], Any]) -> Any:
    """In the thread: tell the loop that it begins, and go on."""
    loop.call_soon_threadsafe(run.begin)
    return call()


def _kill_if_running(run: Run, child: Any) -> None:
    if run.stop is not None:
        child.kill()


def time_limit(run: Run) -> float | None:
    """Seconds that one attempt may take: the message's own, else the task's."""
    assert run.task is not None
    return run.message.timeout if run.message.timeout is not None else run.task.definition.timeout


def _canceller(job: asyncio.Task[Any] | None) -> Any:
    assert job is not None

    def stop(reason: Abort) -> None:
        job.cancel()

    return stop


class Limits:
    """Watches over a run's time limits; a heartbeat starts the hard one anew."""

    def __init__(self, run: Run, *, soft: Any, hard: Any) -> None:
        assert run.task is not None
        self._run = run
        self._soft_action = soft
        self._hard_action = hard
        self._hard = time_limit(run)
        self._soft = run.task.definition.soft_timeout if soft is not None else None
        self._loop = asyncio.get_running_loop()
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def __enter__(self) -> None:
        self._run.stop = self._hard_action
        if self._soft is not None:
            self._timers["soft"] = self._loop.call_later(self._soft, self._soft_action)
        if self._hard is not None:
            assert self._run.context is not None
            self._run.context._heartbeat = self._heartbeat
            self._arm(self._hard)
        if self._run.abort is not None:
            self._hard_action(self._run.abort)

    def __exit__(self, *exc: object) -> None:
        self._run.stop = None
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _arm(self, seconds: float) -> None:
        if "hard" in self._timers:
            self._timers["hard"].cancel()
        self._timers["hard"] = self._loop.call_later(seconds, self._expired)

    def _expired(self) -> None:
        self._run.abort_with(Abort.TIMEOUT)
        self._arm(CANCEL_AGAIN_AFTER)

    def _heartbeat(self) -> None:
        if self._hard is not None and self._run.abort is None:
            self._loop.call_soon_threadsafe(self._rearm)

    def _rearm(self) -> None:
        if self._hard is not None and self._timers and self._run.abort is None:
            self._arm(self._hard)


class Interruptible:
    """A coroutine into which SoftTimeout can be thrown at the await where it stands."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._coroutine = coroutine
        self._job = asyncio.current_task()
        self._soft = False

    def soft_timeout(self) -> None:
        assert self._job is not None
        self._soft = True
        self._job.cancel()

    def __await__(self) -> Generator[Any, Any, Any]:
        inner = self._coroutine.__await__()
        send: Any = None
        error: BaseException | None = None
        while True:
            try:
                awaited = inner.send(send) if error is None else inner.throw(error)
            except StopIteration as stop:
                return stop.value
            send, error = None, None
            try:
                send = yield awaited
            except BaseException as thrown:  # handed on into the task, where it belongs
                error = thrown
                if self._soft and isinstance(thrown, asyncio.CancelledError):
                    self._soft = False
                    assert self._job is not None
                    self._job.uncancel()
                    error = SoftTimeout("the task's soft time limit has passed")
