"""Where user code runs when not on the loop: threads, and processes that can be killed."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgpack

from taskq.context import SoftTimeout

logger = logging.getLogger("taskq.worker")

MAX_THREADS = 10_000  # places bound what runs; threads that wait for a handle add to that
IDLE_CHILDREN = 4  # processes kept warm beyond their use
START_TIMEOUT = 30.0  # seconds for a child to import the app


class Threads:
    """Runs functions on threads; a running one can be asked to stop, not made to."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="taskq-task")
        self.running = 0  # threads in a task's code; the interpreter would wait for them at its end

    def start(self, context: contextvars.Context, function: Callable[[], Any]) -> ThreadRun:
        """Run the function in this context; await `ThreadRun.done`."""
        run = ThreadRun(asyncio.get_running_loop(), self._ended)
        self.running += 1
        self._pool.submit(run.work, context, function)
        return run

    def _ended(self) -> None:
        self.running -= 1

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


class ThreadRun:
    """One function on a thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, on_end: Callable[[], None]) -> None:
        self._loop = loop
        self._on_end = on_end
        self.done: asyncio.Future[Any] = loop.create_future()
        self.ended = asyncio.Event()
        self._ident: int | None = None
        self._lock = threading.Lock()

    def work(self, context: contextvars.Context, function: Callable[[], Any]) -> None:
        self._ident = threading.get_ident()
        value, error = None, None
        try:
            value = context.run(function)
        except BaseException as raised:  # passed on to whoever awaits `done`
            error = raised
        with self._lock:
            self._ident = None
        try:
            self._loop.call_soon_threadsafe(self._finish, value, error)
        except RuntimeError:
            logger.debug("a thread ended after its loop")

    def _finish(self, value: Any, error: BaseException | None) -> None:
        self.ended.set()
        self._on_end()
        if self.done.done():
            return
        if error is None:
            self.done.set_result(value)
        elif isinstance(error, StopIteration):
            self.done.set_exception(RuntimeError(f"the task raised {error!r}"))
        else:
            self.done.set_exception(error)

    def interrupt(self) -> None:
        """Raise SoftTimeout in the thread, at its next bytecode."""
        import ctypes

        with self._lock:
            if self._ident is not None:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._ident), ctypes.py_object(SoftTimeout))


class ChildDied(Exception):
    """The process ended in the middle of a run.

    Attributes:
        killed: by us.
    """

    def __init__(self, text: str, *, killed: bool) -> None:
        super().__init__(text)
        self.killed = killed


class Processes:
    """Child processes that have imported the app, each running one task at a time."""

    def __init__(self, app_ref: str) -> None:
        self._app_ref = app_ref
        self._idle: list[Child] = []
        self._all: set[Child] = set()

    async def take(self) -> Child:
        """A child that is ready to run."""
        while self._idle:
            child = self._idle.pop()
            if child.alive:
                return child
        child = await Child.start(self._app_ref)
        self._all = {one for one in self._all if one.process.returncode is None} | {child}
        return child

    def give(self, child: Child) -> None:
        """Done with it, ready for the next; or dead."""
        if child.alive and len(self._idle) < IDLE_CHILDREN:
            self._idle.append(child)
        else:
            child.kill()

    async def close(self) -> None:
        """Kill them all, for none runs anything that counts, and return once they are gone."""
        for child in self._all:
            child.kill()
        for child in self._all:
            await child.process.wait()
        self._all.clear()
        self._idle.clear()


class Child:
    """One child process; frames of msgpack over a socket pair, a length before each."""

    def __init__(
        self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.process = process
        self._reader = reader
        self._writer = writer
        self.killed = False

    @classmethod
    async def start(cls, app_ref: str) -> Child:
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "taskq.worker.child",
                app_ref,
                str(theirs.fileno()),
                pass_fds=[theirs.fileno()],
                stdin=asyncio.subprocess.DEVNULL,
                start_new_session=True,
            )
        reader, writer = await asyncio.open_connection(sock=ours)
        child = cls(process, reader, writer)
        try:
            async with asyncio.timeout(START_TIMEOUT):
                await child.read()
        except BaseException:
            child.kill()
            raise
        return child

    @property
    def alive(self) -> bool:
        return self.process.returncode is None and not self.killed

    def write(self, frame: dict[str, Any]) -> None:
        data = msgpack.packb(frame)
        self._writer.write(struct.pack(">I", len(data)) + data)

    async def read(self) -> dict[str, Any]:
        """The child's next frame.

        Raises:
            ChildDied: it ended; the text says how.
        """
        try:
            (size,) = struct.unpack(">I", await self._reader.readexactly(4))
            return msgpack.unpackb(await self._reader.readexactly(size))  # type: ignore[no-any-return]
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            code = await self.process.wait()
            self._writer.close()
            raise ChildDied(f"the task's process {_ending(code)}", killed=self.killed) from error

    def kill(self) -> None:
        """End it now, and whatever it started."""
        self.killed = True
        if self.process.returncode is None:
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                logger.debug("child %s was gone already", self.process.pid)
        self._writer.close()


def _ending(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
