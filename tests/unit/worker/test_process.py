"""A worker as a process."""

from __future__ import annotations

import asyncio
import gc
from types import SimpleNamespace
from typing import Any

import pytest

from taskq.worker.process import _freeze_when_started


@pytest.mark.anyio
async def test_what_the_start_made_is_not_looked_at_again() -> None:
    """Once the worker has started, and not before, the garbage collector leaves alone what is there."""
    worker: Any = SimpleNamespace(started=asyncio.Event())
    freezing = asyncio.create_task(_freeze_when_started(worker))
    before = gc.get_freeze_count()
    try:
        await asyncio.sleep(0)
        assert gc.get_freeze_count() == before
        worker.started.set()
        await freezing
        assert gc.get_freeze_count() > before
    finally:
        gc.unfreeze()
