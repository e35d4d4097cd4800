"""Who works here: every worker on this broker and prefix, asked by broadcast."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import msgpack

from taskq.broker.base import Broker
from taskq.dispatch import control

ASK_EVERY = 0.5  # seconds: a worker that was just connecting, or whose answer was lost, is asked again
QUIET = 0.4  # seconds without a further answer after which all have answered
PATIENCE = 1.2  # seconds for the first answer


@dataclass(frozen=True, slots=True)
class WorkerSeen:
    """A worker, as it announced itself.

    id       str: host-pid-random
    queues   names of the queues that it serves
    running  int, runs under way; `places` is how many may be
    keeper   bool: it keeps the waiting room and the dead letters
    beat     "leads" (it sends what schedules say), "stands by", or "": it is no beat; the apps' names aside
    held     queue -> messages in its hands
    """

    id: str
    queues: tuple[str, ...]
    running: int
    places: int
    keeper: bool
    beat: str = ""
    held: dict[str, int] = field(default_factory=dict)

    @property
    def host(self) -> str:
        """The machine that it runs on."""
        return self.id.rsplit("-", 2)[0]


class Census:
    """Listens to announcements for as long as its broker is open."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._said: dict[str, WorkerSeen] = {}
        self._heard = asyncio.Event()

    async def listen(self) -> None:
        """Hear every announcement from now on; once per broker."""
        await self._broker.listen(self._on_body, lambda: None)

    async def ask(self) -> dict[str, WorkerSeen]:
        """Ask all workers; those that answered, by id. Takes about a second."""
        self._said.clear()
        loop = asyncio.get_running_loop()
        start = loop.time()
        asked = float("-inf")
        while loop.time() - start < (QUIET if self._said else PATIENCE):
            if loop.time() - asked >= ASK_EVERY:
                self._broker.broadcast(control({"who": True}))
                asked = loop.time()
            self._heard.clear()
            try:
                async with asyncio.timeout(QUIET):
                    await self._heard.wait()
                start = loop.time()
            except TimeoutError:
                continue
        return dict(self._said)

    def _on_body(self, body: bytes) -> None:
        try:
            said = msgpack.unpackb(body)
        except (ValueError, msgpack.exceptions.UnpackException):
            return  # a broadcast of another version: nothing that this asks for
        worker = _worker(said)
        if worker is not None:
            if worker.id not in self._said:
                self._heard.set()
            self._said[worker.id] = worker
        elif isinstance(said, dict) and "bye" in said:
            self._said.pop(said["bye"], None)


def _worker(said: Any) -> WorkerSeen | None:
    match said:
        case {"hello": str(worker), "queues": list(queues)}:
            return WorkerSeen(
                id=worker,
                queues=tuple(sorted(queues)),
                running=int(said.get("running", 0)),
                places=int(said.get("places", 0)),
                keeper=bool(said.get("keeper", False)),
                beat=str(said.get("beat", "")),
                held=dict(said.get("held") or {}),
            )
    return None
