"""`make test-python`: the quick tests on every Python that taskq can claim and that is found here.

Looks for python3.N on the PATH and among pyenv's versions; the newest patch of each minor version
counts. Each gets a virtual environment of its own (`.venv-3.N`). Exits 1 if one fails, or if a
version is claimed in pyproject.toml and neither ran nor passed.
"""

from __future__ import annotations

import glob
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

OLDEST = (3, 11)
QUICK = ["--ignore=tests/chaos", "--ignore=tests/acceptance", "--ignore=tests/integration", "--without-services", "-q"]
ROOT = Path(__file__).resolve().parent.parent


def interpreters() -> dict[tuple[int, int], str]:
    """(major, minor) -> program, oldest first."""
    programs = [sys.executable, *glob.glob(str(Path.home() / ".pyenv/versions/*/bin/python"))]
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        programs += [path for path in glob.glob(f"{folder}/python3.*") if path.rpartition(".")[2].isdigit()]
    newest: dict[tuple[int, int], tuple[int, str]] = {}
    for program in programs:
        version = version_of(program)
        if version is None or version[:2] < OLDEST:
            continue
        minor = (version[0], version[1])
        newest[minor] = max(newest.get(minor, (-1, "")), (version[2], program))
    return {minor: program for minor, (_, program) in sorted(newest.items())}


def version_of(program: str) -> tuple[int, int, int] | None:
    """Its version; None if it is no Python that can make virtual environments (or a shim without one)."""
    check = "import ensurepip, json, sys, venv; print(json.dumps(sys.version_info[:3]))"
    done = subprocess.run([program, "-c", check], capture_output=True, text=True)
    return tuple(json.loads(done.stdout)) if done.returncode == 0 else None


def passes(name: str, program: str) -> bool:
    """The quick tests, in an environment of its own."""
    python = str(ROOT / f".venv-{name}" / "bin" / "python")
    commands = [
        [program, "-m", "venv", f".venv-{name}"],
        [python, "-m", "pip", "install", "--quiet", "--upgrade", "pip>=25.1"],
        [python, "-m", "pip", "install", "--quiet", "--editable", ".[all]", "--group", "dev"],
        [python, "-m", "pytest", *QUICK],
    ]
    return all(subprocess.run(command, cwd=ROOT).returncode == 0 for command in commands)


def claimed() -> set[str]:
    """Versions among the classifiers of pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lead = "Programming Language :: Python :: 3."
    return {"3." + line.removeprefix(lead) for line in project.get("classifiers", []) if line.startswith(lead)}


def main() -> int:
    results: dict[str, bool] = {}
    for minor, program in interpreters().items():
        name = "{}.{}".format(*minor)
        print(f"== Python {name}: {program}", flush=True)
        results[name] = passes(name, program)
    for name, passed in results.items():
        print(f"Python {name}: {'passed' if passed else 'FAILED'}")
    missing = claimed() - {name for name, passed in results.items() if passed}
    if missing:
        print(f"claimed in pyproject.toml, and not shown here: {', '.join(sorted(missing))}")
    return 0 if all(results.values()) and not missing else 1


if __name__ == "__main__":
    sys.exit(main())
