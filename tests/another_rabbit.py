"""Tests on another version of RabbitMQ than the machine's own: one in a root directory made by debootstrap.

    debootstrap --variant=minbase --include=rabbitmq-server sid DIR      (trixie for the version before)
    python -m tests.another_rabbit DIR COMMAND…

runs the command with every RabbitMQ of the tests started from that directory. Needs root (chroot, mount).
What is mounted into the directory is unmounted at the end.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.servers import RABBIT_PROGRAMS, ROOT_VARIABLE, CannotStart, another_version
from tests.services import BROKER_VARIABLE, home


@contextmanager
def prepared(root: Path) -> Iterator[None]:
    """The directory with /proc, /dev and the tests' own folder in it, under the path that it has outside.

    Raises:
        CannotStart: there is no RabbitMQ in it, or we may not mount.
    """
    if os.geteuid() != 0:
        raise CannotStart("another RabbitMQ is started by chroot, which needs root")
    if not (root / RABBIT_PROGRAMS[0].lstrip("/") / "rabbitmq-server").exists():
        raise CannotStart(
            f"no RabbitMQ in {str(root)!r}: debootstrap --variant=minbase --include=rabbitmq-server sid {root}"
        )
    hosts = root / "etc" / "hosts"
    if not hosts.exists() or "localhost" not in hosts.read_text():
        hosts.write_text("127.0.0.1 localhost\n")
    mounted: list[Path] = []
    try:
        for source in (Path("/proc"), Path("/dev"), home()):
            target = root / str(source).lstrip("/")
            target.mkdir(parents=True, exist_ok=True)
            subprocess.run(["mount", "--bind", str(source), str(target)], check=True)
            mounted.append(target)
        yield
    finally:
        for target in reversed(mounted):
            subprocess.run(["umount", "--lazy", str(target)], check=True)


def main(arguments: list[str]) -> int:
    if len(arguments) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    root, command = Path(arguments[0]).resolve(), arguments[1:]
    with prepared(root):
        os.environ.pop(BROKER_VARIABLE, None)
        os.environ[ROOT_VARIABLE] = str(root)
        print("RabbitMQ", *another_version(), flush=True)
        return subprocess.run(command).returncode


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except CannotStart as problem:
        sys.exit(str(problem))
