"""Deliveries of a filled queue to an endpoint on the same machine, by one worker process, and by httpx itself.

The clock runs as in a drain: the endpoint marks what it is sent.
"""

from __future__ import annotations

from benchmarks.contestants import BARE_HTTP, TASKQ_HTTP_POSTGRES, TASKQ_HTTP_SQLITE
from benchmarks.measure import Measure
from benchmarks.measures.drain import timed
from benchmarks.stage import Stage

_PILOT = 1_000  # deliveries of the first drain of a contestant, which tells how many make up the aimed seconds
_known: dict[str, float] = {}


def run(stage: Stage) -> dict[str, float]:
    """Deliveries a second."""
    name = stage.contestant.name
    if name not in _known:
        _known[name] = _timed(stage, _PILOT)["rate"]
    figures = _timed(stage, max(int(_known[name] * stage.scale.seconds), _PILOT))
    _known[name] = figures["rate"]
    return figures


def _timed(stage: Stage, count: int) -> dict[str, float]:
    with stage.endpoint():
        return timed(stage, count, 1)


_WHO = (TASKQ_HTTP_POSTGRES, TASKQ_HTTP_SQLITE, BARE_HTTP)
MEASURE = Measure("api_deliver", "deliveries over HTTP, 1 process, 16 at once", "messages/s", _WHO, run)
