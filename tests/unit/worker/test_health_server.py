"""/health over HTTP."""

from __future__ import annotations

import logging
import socket
import struct
import threading

import pytest

from taskq.errors import InvalidSetting
from taskq.worker.health_server import HealthServer
from taskq.worker.watchdog import Health


def test_whoever_hangs_up_before_the_answer_leaves_no_traceback(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """A probe with a short patience is no error of the worker's."""
    caplog.set_level(logging.DEBUG, "taskq.worker")
    asked, gone, told = threading.Event(), threading.Event(), threading.Event()

    def health() -> Health:
        asked.set()
        gone.wait(10)
        return Health([], True, {"long": "x" * 10_000_000})

    class Told(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "whoever asked has gone" in record.getMessage():
                told.set()

    handler = Told()
    logging.getLogger("taskq.worker").addHandler(handler)
    server = HealthServer("127.0.0.1:0", health)
    client = socket.create_connection(("127.0.0.1", server.port))
    client.sendall(b"GET /health HTTP/1.0\r\n\r\n")
    assert asked.wait(10)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
    client.close()
    gone.set()
    try:
        assert told.wait(10)
    finally:
        server.close()
        logging.getLogger("taskq.worker").removeHandler(handler)
    assert capfd.readouterr().err == ""


def test_an_address_that_is_taken_is_named() -> None:
    """With the setting, and what to do."""
    first = HealthServer("127.0.0.1:0", lambda: Health([], True, {}))
    try:
        with pytest.raises(
            InvalidSetting, match=rf"setting health: .*127\.0\.0\.1:{first.port}.* in use; name another"
        ):
            HealthServer(f"127.0.0.1:{first.port}", lambda: Health([], True, {}))
    finally:
        first.close()
