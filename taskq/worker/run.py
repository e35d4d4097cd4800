"""One message in a worker's hands, and the places that bound how many run at once."""

from __future__ import annotations

import asyncio
import enum
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from taskq.broker.base import Delivery
from taskq.context import Context, Waits
from taskq.message import Message
from taskq.store.base import Claimed

if TYPE_CHECKING:
    from taskq.task import Task
    from taskq.worker.units import Unit


class Abort(enum.Enum):
    """Why a run is stopped from outside."""

    CANCELLED = "cancelled"  # its cancel was asked for
    TIMEOUT = "timeout"  # its time limit has passed
    SHUTDOWN = "shutdown"  # the worker stops and its grace is over
    LOST = "lost"  # the broker gave the message, or the right to run it, to somebody else


@dataclass(slots=True, eq=False)
class Run:
    """One message, from its delivery to its acknowledgement.

    deliveries   every delivery of it that this process holds; the last is the one that counts
    copies       (delivery, unit) of those after the first, while they are in hand: they came while it was here
    later        (delivery, unit) that do not share its fate: each has its own turn once this one is gone
    claim        bool: it may have run before, and is claimed before it runs
    claimed      Claimed | None: what a claim ahead of its turn has found
    overtaken    bool: when it last ran here, somebody else's claim stood above it
    epoch        int, 0 until it is claimed
    attempt      int, the attempt that is due
    started_at   datetime | None, of the attempt
    abort        Abort | None, the first reason to stop it
    stop         Callable | None: interrupts the user's code, while that runs
    received     float, monotonic: when it came
    shown        bool: it has a row in the store
    on_begin     Callable | None: told in the loop when the user's code begins
    wake         Event | None: set to end its wait in place
    called       bool: its flow key lets it go, so that it starts now
    abandoned    bool: its thread goes on although the run has ended
    progress     (done, total) that is not yet stored
    """

    message: Message
    deliveries: list[Delivery]
    unit: Unit
    received: float
    task: Task[..., Any] | None = None
    claim: bool = False
    claimed: Claimed | None = None
    overtaken: bool = False
    epoch: int = 0
    attempt: int = 1
    crashes: int = 0
    started_at: datetime | None = None
    began: float | None = None
    shown: bool = False
    abort: Abort | None = None
    stop: Callable[[Abort], None] | None = None
    on_begin: Callable[[], None] | None = None
    context: Context | None = None
    job: asyncio.Task[None] | None = None
    abandoned: bool = False
    wake: asyncio.Event | None = None
    called: bool = False
    progress: tuple[int, int] | None = None
    progress_at: float = 0.0
    copies: list[tuple[Delivery, Unit]] = field(default_factory=list)
    later: list[tuple[Delivery, Unit]] = field(default_factory=list)

    @property
    def delivery(self) -> Delivery:
        return self.deliveries[-1]

    def abort_with(self, reason: Abort) -> None:
        """Stop it: at once if the user's code runs, before its start otherwise."""
        if self.abort is None:
            self.abort = reason
        if self.context is not None:
            self.context._cancelled = True
        if self.stop is not None:
            self.stop(reason)
        if self.wake is not None:
            self.wake.set()

    def begin(self) -> None:
        """The user's code begins now."""
        on_begin, self.on_begin = self.on_begin, None
        if on_begin is not None:
            on_begin()

    def join(self, delivery: Delivery, unit: Unit, hop: int) -> None:
        """Another delivery of the message, of that hop, has come.

        After a lost connection it is the same one again, and counts from now on. A copy of a later hop is what
        another run has left behind: this one counts no more.
        """
        if hop > self.message.hop:
            self.later.append((delivery, unit))
            self.abort_with(Abort.LOST)
        else:
            self.deliveries.append(delivery)
            self.copies.append((delivery, unit))

    def acknowledge(self) -> None:
        """Tell the broker to forget it."""
        for delivery in self.deliveries:
            delivery.acknowledge()
        self.copies = []

    def look_anew(self) -> None:
        """Have each of its deliveries begin again from its claim: somebody else's claim stands above this run.

        Nothing is acknowledged: that claim may be of a delivery which its owner lost while it was on the way, or
        has given back, and then these are all that is left of the message.
        """
        self.overtaken = True
        self.later = [(self.deliveries[0], self.unit), *self.copies, *self.later]
        self.copies = []


class Places:
    """The right to run: at most `capacity` at once in this process, whatever the queue.

    A run of a suspected crasher takes all of them, so that it takes nobody down with it.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.taken = 0
        self.alone = False
        self.on_free: Callable[[], None] = lambda: None
        self._returning: deque[asyncio.Future[None]] = deque()
        self._sole: deque[asyncio.Future[None]] = deque()

    @property
    def free(self) -> int:
        """Places that a new run may take now; none while somebody comes back or wants to be alone."""
        if self.alone or self._returning or self._sole:
            return 0
        return self.capacity - self.taken

    def take(self) -> None:
        """Take a place that is `free`."""
        self.taken += 1

    def give(self) -> None:
        """A run is over."""
        self.taken -= 1
        self.alone = False
        self._serve()

    def _serve(self) -> None:
        while self._returning and self.taken < self.capacity and not self.alone:
            waiter = self._returning.popleft()
            if not waiter.done():
                self.taken += 1
                waiter.set_result(None)
        # Those that want to be alone hold a place each, and run nothing yet.
        while self._sole and self.taken == len(self._sole) and not self.alone:
            waiter = self._sole.popleft()
            if not waiter.done():
                self.alone = True
                waiter.set_result(None)
        if self.free > 0:
            self.on_free()

    async def take_back(self) -> None:
        """Return once there is a place again, before any new run."""
        if self.taken < self.capacity and not self.alone:
            self.taken += 1
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._returning.append(waiter)
        await waiter

    async def be_alone(self) -> None:
        """The caller holds a place; return once nobody else does, and keep others out until it is given."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sole.append(waiter)
        self._serve()
        await waiter


class RunWaits(Waits):
    """While a task awaits a handle, its place is free for others."""

    def __init__(self, run: Run, places: Places, loop: asyncio.AbstractEventLoop) -> None:
        self._run = run
        self._places = places
        self._loop = loop
        self._waiting = 0

    def leave(self) -> None:
        if asyncio.get_running_loop() is self._loop:
            self._leave()
        else:  # the task waits by another app, whose sync callers have a loop of their own
            self._loop.call_soon_threadsafe(self._leave)

    async def enter(self) -> None:
        if asyncio.get_running_loop() is self._loop:
            await self._enter()
        else:
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._enter(), self._loop))

    def _leave(self) -> None:
        self._waiting += 1
        if self._waiting == 1:
            self._places.give()
            self._run.unit.lend(1)

    async def _enter(self) -> None:
        self._waiting -= 1
        if self._waiting == 0:
            self._run.unit.lend(-1)
            await self._places.take_back()
