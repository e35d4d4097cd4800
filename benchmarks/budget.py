"""Where the time of a message goes in taskq's own process: `python -m benchmarks.budget [WHAT…]`.

The work of `counted.py`, against its broker of paper, under cProfile. What a C function takes counts for its caller,
and the broker of paper not at all. A profile makes calls dearer than they are: the shares tell, not the sum.
"""

from __future__ import annotations

import asyncio
import cProfile
import pstats
import sys
import tempfile
from collections import Counter
from pathlib import Path

from benchmarks.counted import WORKS, Count, counted

_MESSAGES = 3_000
_OTHER = "the rest of Python's library"
_PAPER = "benchmarks/"
_STEPS = (  # the first that is part of the file's path
    ("taskq/task.py", "arguments: bound and validated, the message composed"),
    ("pydantic", "arguments: bound and validated, the message composed"),
    ("taskq/message.py", "the envelope, encoded or read"),
    ("taskq/serialization.py", "the envelope, encoded or read"),
    ("msgpack", "the envelope, encoded or read"),
    ("taskq/clock.py", "the envelope, encoded or read"),
    ("taskq/broker/rabbitmq/frames.py", "frames, written or read"),
    ("taskq/broker/rabbitmq/publisher.py", "confirms: noted and awaited"),
    ("taskq/broker/rabbitmq/consumer.py", "deliveries and acknowledgements"),
    ("taskq/broker/rabbitmq/connection.py", "one write a turn of the loop"),
    ("taskq/app.py", "from the caller to the broker and back, the handle"),
    ("taskq/client.py", "from the caller to the broker and back, the handle"),
    ("taskq/dispatch.py", "from the caller to the broker and back, the handle"),
    ("taskq/handle.py", "from the caller to the broker and back, the handle"),
    ("taskq/worker/executor.py", "the run itself: arguments, context, call, outcome"),
    ("taskq/worker/child.py", "the run itself: arguments, context, call, outcome"),
    ("taskq/context.py", "the run itself: arguments, context, call, outcome"),
    ("taskq/worker/settle.py", "settling"),
    ("taskq/group.py", "settling"),
    ("taskq/worker", "accepting, places, prefetch, the attempt around the run"),
    ("asyncio", "the event loop"),
    ("selectors", "the event loop"),
)


class _Profile(Count):
    """Profiles the block instead of counting it."""

    def __init__(self) -> None:
        super().__init__(False)
        self.profile = cProfile.Profile()

    def __enter__(self) -> None:
        self.profile.enable()

    def __exit__(self, *exc: object) -> None:
        self.profile.disable()


def _step(file: str) -> str:
    if _PAPER in file:
        return ""
    return next((step for part, step in _STEPS if part in file), _OTHER)


def budget(what: str) -> dict[str, float]:
    """Shares of the time by step, the largest first."""
    profile = _Profile()
    with tempfile.TemporaryDirectory(prefix="taskq-budget-") as folder:
        asyncio.run(counted(what, _MESSAGES, profile, Path(folder) / "taskq.db"))
    shares: Counter[str] = Counter()
    for (file, _, _), (_, _, own, _, callers) in pstats.Stats(profile.profile).stats.items():  # type: ignore[attr-defined]
        if file != "~":
            shares[_step(file)] += own
            continue
        for (caller, _, _), (_, _, its, _) in callers.items():
            shares[_step(caller) if caller != "~" else _OTHER] += its
    del shares[""]
    total = sum(shares.values())
    return {step: own / total for step, own in shares.most_common()}


if __name__ == "__main__":
    for each in sys.argv[1:] or WORKS:
        print(WORKS[each])
        for name, share in budget(each).items():
            print(f"  {share:5.0%}  {name}")
