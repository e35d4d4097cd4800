"""The sending process of one contestant: reads commands from standard input, one JSON object a line.

    {"verb": "describe"}                                    -> queue, kind, note, worker commands
    {"verb": "fill", "count": 1000}                         -> lays tasks on the queue
    {"verb": "leave"}                                       -> the sender disconnects
    {"verb": "recorded", "count": 1000}                     -> the instant at which all outcomes are on record
    {"verb": "produce", "measure": "enqueue_one", ...}      -> what that measure's `produce` returns

A process of its own for each run, so that no library's loop, threads or memory touches another's.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from benchmarks.board import ENVIRONMENT, Board
from benchmarks.peers.base import Peer, Unsupported


class Driver:
    """Obeys the runner for one contestant."""

    def __init__(self, peer: Peer, loop: asyncio.AbstractEventLoop) -> None:
        self._peer = peer
        self._loop = loop
        self._board = Board(Path(os.environ[ENVIRONMENT]))
        self._is_open = False

    def open(self) -> None:
        """Connect, unless it is."""
        if not self._is_open:
            self._loop.run_until_complete(self._peer.open())
            self._is_open = True

    def close(self) -> None:
        """Disconnect, unless it has."""
        if self._is_open:
            self._is_open = False
            self._loop.run_until_complete(self._peer.close())

    def obey(self, verb: str, **arguments: Any) -> Any:
        match verb:
            case "describe":
                return self._describe(**arguments)
            case "fill":
                self.open()
                return self._peer.fill(**arguments)
            case "leave":
                return self.close()
            case "recorded":
                return self._peer.recorded(**arguments)
            case "produce":
                return self._produce(**arguments)
        raise ValueError(f"unknown verb {verb!r}")

    def _describe(self, processes: int) -> dict[str, Any]:
        peer = self._peer
        return {
            "queue": peer.queue,
            "queues": list(peer.queues),
            "exchanges": list(peer.exchanges),
            "kind": peer.kind,
            "note": peer.note,
            "commands": peer.worker_commands(processes),
        }

    def _produce(self, measure: str, **arguments: Any) -> Any:
        produce = importlib.import_module(f"benchmarks.measures.{measure}").produce
        cpu = time.process_time()
        answer = produce(self._peer, self._board, **arguments)
        if asyncio.iscoroutine(answer):
            answer = self._loop.run_until_complete(answer)
        return answer | {"cpu": time.process_time() - cpu}


def main() -> None:
    """Serve the runner until it closes standard input. Answers go to the stdout that we were born with."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not look like an answer
    import uvloop

    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    peer: Peer = importlib.import_module(f"benchmarks.peers.{sys.argv[1]}").PEER
    driver = Driver(peer, loop)
    driver.open()
    for line in sys.stdin:
        try:
            answer = {"ok": driver.obey(**json.loads(line))}
        except Unsupported:
            answer = {"unsupported": True}
        except Exception:
            answer = {"error": traceback.format_exc()}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    driver.close()
    answers.close()
    os._exit(0)  # a contestant's threads are not waited for


if __name__ == "__main__":
    main()
