"""Python's garbage collector in a process that is taskq's own: a worker, the API."""

from __future__ import annotations

import gc

YOUNG_OBJECTS = 10_000  # new ones, before the collector looks at them


def spare_what_stays() -> None:
    """To be called once the process has started: what the start has made stays, and is never looked at again.

    What hundreds of messages in hand hold is more objects than Python's 700, and would be gone through again and again.
    A higher threshold that the app has set stays, as does a collector that is switched off.
    """
    gc.collect(1)  # what the start dropped; a look at all of it would hold up the first message
    gc.freeze()
    youngest, *older = gc.get_threshold()
    if youngest:
        gc.set_threshold(max(youngest, YOUNG_OBJECTS), *older)
