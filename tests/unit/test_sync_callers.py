"""How code without an event loop sends: the loop that its calls share, and what they hear from it."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from taskq import InvalidSetting, TaskQ


def make_app(folder: Path, **settings: str) -> TaskQ:
    return TaskQ(broker="memory://", store=f"sqlite:///{folder}/taskq.db", **settings)


def kind_of_loop(app: TaskQ) -> str:
    async def kind() -> str:
        return type(asyncio.get_running_loop()).__module__

    with app:
        return app.run(kind).split(".")[0]


@pytest.mark.parametrize(("setting", "found"), [("auto", "uvloop"), ("uvloop", "uvloop"), ("asyncio", "asyncio")])
def test_the_loop_of_sync_callers_is_the_one_that_is_set(tmp_path: Path, setting: str, found: str) -> None:
    """uvloop where it is installed, unless asyncio's own is asked for."""
    pytest.importorskip("uvloop")
    assert kind_of_loop(make_app(tmp_path, loop=setting)) == found


def test_without_uvloop_the_loop_is_that_of_asyncio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where uvloop is not installed "auto" does without, and asking for it says how to get it."""
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert kind_of_loop(make_app(tmp_path)) == "asyncio"
    with pytest.raises(InvalidSetting, match="fast"):
        kind_of_loop(make_app(tmp_path, loop="uvloop"))
