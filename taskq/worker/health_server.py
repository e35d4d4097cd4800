"""/health and /ready over HTTP, for workers that are told to answer: the standard library's server takes 1.5 MB."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from taskq.errors import InvalidSetting
from taskq.worker.watchdog import Health

logger = logging.getLogger("taskq.worker")


class _QuietServer(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        logger.debug("health: whoever asked has gone: %s", sys.exc_info()[1])


class HealthServer:
    """Answers GET /health and /ready on threads of its own.

    Raises:
        InvalidSetting: nothing can listen at that address.
    """

    def __init__(self, address: str, health: Callable[[], Health]) -> None:
        host, _, port = address.rpartition(":")

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                now = health()
                path = self.path.split("?")[0]
                if path not in ("/health", "/ready"):
                    self.send_error(404)
                    return
                good = now.healthy if path == "/health" else now.healthy and now.ready
                body = now.body()
                self.send_response(200 if good else 503)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                logger.debug("health: " + format, *args)

        try:
            self._server = _QuietServer((host.strip("[]"), int(port)), Handler)
        except OSError as error:
            reason = f"nothing can listen at {address}: {error.strerror or error}"
            raise InvalidSetting(f"setting health: {reason}; name another HOST:PORT") from error
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, name="taskq-health", daemon=True).start()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
