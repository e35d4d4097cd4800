"""The harness's app in two versions of its code: the newer one has a task more. TASKQ_TEST_CODE says which."""

from __future__ import annotations

import os

from taskq import Retry, TaskQ
from tests.integration.harness_app import make_app, step


def add_new(app: TaskQ) -> None:
    """What the newer code has, and the older one has not."""
    app.task(name="new_step", retry=Retry(max_retries=5, delay=0.02))(step)


app = make_app()
if os.environ.get("TASKQ_TEST_CODE") == "new":
    add_new(app)
