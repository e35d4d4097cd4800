"""Threads that the store owns: each has one database connection, and verbs are handed to them.

A verb costs one hop to a thread instead of one per statement. The threads are daemons, unlike
those of concurrent.futures, so that a script that never closes its app ends at once.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, Generic, Protocol, TypeVar

T = TypeVar("T")


class Closable(Protocol):
    """What a thread owns and closes at its end."""

    def close(self) -> None: ...


L = TypeVar("L", bound=Closable)
_Job = tuple[asyncio.Future[Any], Callable[[Any], Any]]


class Threads(Generic[L]):
    """`count` daemon threads, each with a resource of its own, working off one queue of jobs.

    Of those that are idle the one that worked last has the next job: what it needs is still in the caches, here
    and in the server's process at the other end of its connection.

    Args:
        name: shown in thread names.
        count: how many.
        make: makes a thread's resource; called in that thread.
    """

    def __init__(self, name: str, count: int, make: Callable[[], L]) -> None:
        self._jobs: deque[_Job | None] = deque()
        self._idle: list[SimpleQueue[_Job | None]] = []  # the one that worked last is last
        self._changing = threading.Lock()
        self._make = make
        self._ends: list[Future[None]] = [Future() for _ in range(count)]
        for index, end in enumerate(self._ends):
            threading.Thread(target=self._work, args=(end,), name=f"{name}-{index}", daemon=True).start()

    async def call(self, job: Callable[[L], T], *, within: float) -> T:
        """Run the job in one of the threads; from any event loop.

        Raises:
            TimeoutError: no answer within `within` seconds. A job that had begun goes on.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        self._put((answer, job))
        limit = loop.call_later(within, _tell, answer, None, TimeoutError())
        try:
            return await answer
        finally:
            limit.cancel()

    def stop(self) -> None:
        """Let the threads end when the jobs handed over so far are done."""
        for _ in self._ends:
            self._put(None)

    async def stopped(self, *, within: float) -> bool:
        """After `stop`: whether all have ended within `within` seconds."""
        ends = [asyncio.wrap_future(end) for end in self._ends]
        _, running = await asyncio.wait(ends, timeout=within)
        return not running

    def _put(self, work: _Job | None) -> None:
        with self._changing:
            if not self._idle:
                self._jobs.append(work)
                return
            inbox = self._idle.pop()
        inbox.put(work)

    def _line_up(self, inbox: SimpleQueue[_Job | None]) -> None:
        with self._changing:
            if self._jobs:
                inbox.put(self._jobs.popleft())
            else:
                self._idle.append(inbox)

    def _work(self, end: Future[None]) -> None:
        resource = self._make()
        inbox: SimpleQueue[_Job | None] = SimpleQueue()
        self._line_up(inbox)
        while (work := inbox.get()) is not None:
            answer, job = work
            result = error = None
            # Whoever gives up later hears nothing of it, and it is done all the same.
            if not answer.done():
                try:
                    result = job(resource)
                except BaseException as raised:
                    error = raised
            self._line_up(inbox)  # first, so that whoever hears of this one and asks for the next finds this thread
            with suppress(RuntimeError):  # the loop was closed meanwhile
                answer.get_loop().call_soon_threadsafe(_tell, answer, result, error)
            # Nothing of a job may live on while the thread waits for the next.
            del work, answer, job
            result = error = None
        try:
            resource.close()
        finally:
            end.set_result(None)


def _tell(answer: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if answer.done():
        return
    if error is None:
        answer.set_result(result)
    else:
        answer.set_exception(error)
