"""An app and its workers inside the test's own process: as a `Station`, but quick, and on either broker.

Every worker stands on a copy of the app with connections of its own, so that what passes between
sender and worker passes through the broker and the store, as between processes.
"""

from __future__ import annotations

import asyncio
from typing import Any

from taskq import TaskQ
from taskq.dispatch import control
from taskq.handle import Handle
from taskq.outcome import Status
from taskq.queue import Queue
from taskq.store.base import DeadFilter, DeadLetter, MessageRecord, Store
from taskq.worker.worker import Worker
from tests.support import PATIENCE, eventually


class Room:
    """See the module."""

    def __init__(self, *, broker: str, store: str, prefix: str) -> None:
        self.urls: dict[str, str] = {"broker": broker, "store": store, "prefix": prefix}
        self.memory = broker.startswith("memory")
        self.app = self.make_app()
        self._apps: list[TaskQ] = [self.app]
        self._workers: dict[Worker, asyncio.Task[None]] = {}

    def make_app(self, **settings: Any) -> TaskQ:
        """An app on this broker and store, without tasks; its connections are the caller's to close."""
        return TaskQ(**(self.urls | settings))

    def twin(self, **settings: Any) -> TaskQ:
        """The app as another process would have it: the same tasks, connections of its own."""
        twin = self.make_app(**settings)
        twin.tasks, twin.queues = self.app.tasks, self.app.queues
        self._apps.append(twin)
        return twin

    # -- workers ----------------------------------------------------------------------------

    async def worker(
        self, *, settings: dict[str, Any] | None = None, app: TaskQ | None = None, **options: Any
    ) -> Worker:
        """A worker, started; without a grace at its end unless the options say so.

        Raises whatever keeps it from starting.
        """
        worker = Worker(app or self.twin(**settings or {}), **({"grace": 0.0} | options))
        running = asyncio.create_task(worker.run())
        started = asyncio.create_task(worker.started.wait())
        await asyncio.wait([running, started], return_when=asyncio.FIRST_COMPLETED)
        started.cancel()
        if running.done():
            error: BaseException = running.exception() or AssertionError("the worker has ended")
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
            raise error
        self._workers[worker] = running
        return worker

    async def ended(self, worker: Worker) -> None:
        """Wait for a worker's end, and close its connections as its process would."""
        await self._workers.pop(worker)
        if worker.app is not self.app:
            await worker.app.close()

    async def stop(self, worker: Worker, *, now: bool = False) -> None:
        """Stop a worker, and wait for its end."""
        worker.stop(now=now)
        await self.ended(worker)

    async def close(self) -> None:
        """End all workers and close all apps."""
        for worker in list(self._workers):
            await self.stop(worker, now=True)
        for app in self._apps:
            await app.close()

    # -- looking ----------------------------------------------------------------------------

    async def store(self) -> Store:
        return await self.app.client().store()

    async def status(self, handle: Handle[Any]) -> Status:
        """What the store says."""
        record = await (await self.store()).get(handle.id)
        return Status.UNKNOWN if record is None else record.status

    async def has(self, handle: Handle[Any], status: Status, timeout: float = PATIENCE) -> MessageRecord:  # noqa: ASYNC109
        """Wait until the store says so."""

        async def check() -> MessageRecord | None:
            record = await (await self.store()).get(handle.id)
            seen = Status.UNKNOWN if record is None else record.status
            assert seen is status, f"{handle} is {seen}, not {status}"
            return record

        return await eventually(check, timeout)

    async def dead(self, timeout: float = PATIENCE, **which: Any) -> DeadLetter:  # noqa: ASYNC109
        """Wait for the one dead letter that fits."""

        async def check() -> DeadLetter | None:
            found = (await (await self.store()).dead(DeadFilter(**which))).items
            assert len(found) <= 1, found
            return found[0] if found else None

        return await eventually(check, timeout)

    async def depth(self, queue: Queue | str) -> int:
        """Messages ready on the broker, of an unpartitioned queue."""
        from taskq.dispatch import task_queue

        name = queue if isinstance(queue, str) else queue.name
        depth = await (await self.app.client().broker()).depth(task_queue(name))
        return depth.ready if depth is not None else 0

    async def set_queue(self, name: str, *, tell: bool = True, **changes: Any) -> None:
        """Change a queue as an operator does: its row, then (unless the broadcast is to be lost) a word to all."""
        record = await (await self.store()).set_queue(name, **changes)
        assert record is not None
        if tell:
            (await self.app.client().broker()).broadcast(control({"changed": name}))
