"""The command line: parse, build, run, print. What the commands do lives below, in `admin`, `worker` and the ports."""

from __future__ import annotations


def main() -> None:
    """The entry point `taskq`."""
    import sys

    from taskq.cli.root import run

    sys.exit(run(sys.argv[1:]))
