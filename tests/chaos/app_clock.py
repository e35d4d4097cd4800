"""The harness's app on a machine whose clock is wrong: its events tell the true time.

The clock of the process is libfaketime's; the monotonic one is left alone, as a step of a machine's clock
leaves it. `TASKQ_TEST_TRUE_TIME` is what that one must be raised by to give the true time.
"""

from __future__ import annotations

import os
import time
from typing import Any

from taskq import Retry, TaskQ
from tests.integration import harness_app

RETRY_AFTER = 1.0


def true_time() -> float:
    """Seconds since the epoch, whatever the clock says."""
    return time.monotonic() + float(os.environ["TASKQ_TEST_TRUE_TIME"])


class TrueTime:
    """Stands in for the module `time` where the harness's events are written."""

    time = staticmethod(true_time)


async def error_of_clock() -> float:
    """Seconds by which the clock is ahead."""
    return time.time() - true_time()


def made(**settings: Any) -> TaskQ:
    """The whole app."""
    app = harness_app.make_app(**settings)
    app.task(name="error_of_clock")(error_of_clock)
    app.task(name="tries_again", retry=Retry(max_retries=2, delay=RETRY_AFTER))(harness_app.step)
    return app


if "TASKQ_TEST_TRUE_TIME" in os.environ:  # a worker
    harness_app.time = TrueTime  # type: ignore[assignment]
    app = made()
