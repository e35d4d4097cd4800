"""`taskq api` as a process of its own beside a station's workers, to be killed and started again."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from tests.integration.harness import APP, ROOT, Station
from tests.servers import free_port
from tests.support import eventually

LOOPBACK = {"delivery_allow": "127.0.0.0/8"}  # of workers, which deliver to a test's own endpoint


class Front:
    """One API on one port, whichever process serves it.

    Args:
        app: what it serves, as the command line names it.
        variables: of its environment, beside the station's.
    """

    def __init__(self, station: Station, *, name: str = "api", app: str = APP, **variables: object) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.output: Path = station.folder / f"{name}.txt"
        self._command = [sys.executable, "-m", "taskq", "api", app, "--port", str(self.port)]
        self._environment = os.environ | station._environment
        self._environment |= {f"TASKQ_{key.upper()}": str(value) for key, value in variables.items()}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it and return at once."""
        with self.output.open("ab") as file:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, cwd=ROOT, env=self._environment
            )

    async def ready(self, timeout: float = 60) -> None:  # noqa: ASYNC109 - names the bound
        """Wait until it answers that it can serve."""
        async with httpx.AsyncClient(base_url=self.url, timeout=2) as http:

            async def answers() -> bool:
                assert self.running, f"the API has ended:\n{self.said()[-3000:]}"
                try:
                    return (await http.get("/ready")).status_code == 200
                except httpx.TransportError:
                    return False

            await eventually(answers, timeout)

    async def ended(self, timeout: float = 60) -> int:  # noqa: ASYNC109 - names the bound
        """Its exit code, once it has ended."""
        assert self._process is not None
        return await asyncio.to_thread(self._process.wait, timeout)

    async def kill(self) -> None:
        """SIGKILL; returns when it is gone."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        await self.ended()

    def said(self) -> str:
        """What all its processes wrote to their outputs."""
        return self.output.read_text(errors="replace") if self.output.exists() else ""

    @asynccontextmanager
    async def up(self) -> AsyncIterator[httpx.AsyncClient]:
        """Started, ready, with a client; killed at the end."""
        self.start()
        try:
            await self.ready()
            async with httpx.AsyncClient(base_url=self.url, timeout=30) as http:
                yield http
        finally:
            if self.running:
                await self.kill()
        said = self.said()
        assert "ERROR" not in said and "CRITICAL" not in said and "Traceback" not in said, said[-5000:]
