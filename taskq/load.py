"""From `module:app` on the command line to the app."""

from __future__ import annotations

import importlib
import os
import sys

from taskq.app import TaskQ
from taskq.default import default_app
from taskq.errors import InvalidSetting


def load_app(reference: str) -> TaskQ:
    """The app that `module:name` names, or the default app once `module` has been imported.

    Raises:
        InvalidSetting: there is no such module or app, naming what was looked for.
    """
    module_name, _, name = reference.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name == error.name or module_name.startswith(error.name + ".")):
            raise  # a module that the app's module imports
        raise InvalidSetting(f"no module {module_name!r} here: give APP as module:app, from its folder") from error
    if not name:
        return default_app()
    app = module
    for part in name.split("."):
        app = getattr(app, part, None)  # type: ignore[assignment]
    if not isinstance(app, TaskQ):
        found = "nothing" if app is None else type(app).__name__
        raise InvalidSetting(f"{reference!r} names {found}, not a TaskQ: give APP as module:app")
    return app
