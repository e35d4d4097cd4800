"""The promised names: exactly those that are documented, all importable, each with a docstring."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import taskq

ROOT = Path(__file__).resolve().parent.parent


def documented() -> set[str]:
    """The names in the list of docs/api.md."""
    return set(re.findall(r"^- `(\w+)`", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE))


def test_all_is_what_is_documented() -> None:
    """docs/api.md lists every promised name, and no other."""
    assert documented() == set(taskq.__all__)
    assert len(taskq.__all__) == len(set(taskq.__all__))


@pytest.mark.parametrize("name", taskq.__all__)
def test_name_is_there_and_explained(name: str) -> None:
    """Each promised name can be imported and says what it is."""
    thing = getattr(taskq, name)
    assert inspect.getdoc(thing)


def test_every_error_is_promised() -> None:
    """All of taskq's errors can be imported from the front page."""
    errors = importlib.import_module("taskq.errors")
    kinds = {name for name, kind in vars(errors).items() if inspect.isclass(kind) and kind.__module__ == "taskq.errors"}
    assert kinds <= set(taskq.__all__)


def test_all_is_a_literal() -> None:
    """The list is written down as it is, so that readers and type checkers see it."""
    tree = ast.parse((ROOT / "taskq" / "__init__.py").read_text())
    (value,) = [node.value for node in tree.body if isinstance(node, ast.Assign) and _names(node) == ["__all__"]]
    assert ast.literal_eval(value) == taskq.__all__


@pytest.mark.parametrize("first", ["taskq.app", "taskq.task", "taskq.worker.worker", "taskq"])
def test_task_is_the_decorator_whatever_is_imported_first(first: str) -> None:
    """`taskq.task` is the decorator, and never the module of the same name."""
    script = f"import {first}; from taskq import TaskQ, task; import taskq.app; import taskq; assert taskq.task is task"
    done = subprocess.run([sys.executable, "-c", f"{script}; assert callable(task)"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_unknown_name() -> None:
    """A name that is not promised is an AttributeError that names it."""
    with pytest.raises(AttributeError, match="no attribute 'Tasks'"):
        taskq.Tasks  # noqa: B018 - the access is what is tested


def _names(node: ast.Assign) -> list[str]:
    return [target.id for target in node.targets if isinstance(target, ast.Name)]
