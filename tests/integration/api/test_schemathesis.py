"""Requests made up from the API's own document, legal ones and others: none is the server's fault."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import schemathesis
from schemathesis.checks import not_a_server_error

from taskq import TaskQ
from taskq.api.app import make_api
from taskq.api.server import listen, make_server, url_of
from tests.rooms import new_prefix
from tests.support import eventually_now

TOKEN = "token-of-the-fuzzer"
EXAMPLES = int(os.environ.get("TASKQ_TEST_EXAMPLES", "3"))  # of each of some fifty operations


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server over memory and SQLite, on a thread of its own; one for all operations, so that they meet."""
    store: Path = tmp_path_factory.mktemp("fuzz") / "taskq.db"
    app = TaskQ(broker=f"memory://{new_prefix()}", store=f"sqlite:///{store}", api_token=TOKEN)
    server_socket = listen(app, "127.0.0.1", 0)
    server = make_server(app)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [server_socket]})
    thread.start()
    try:
        assert eventually_now(lambda: server.started or not thread.is_alive()) and server.started
        yield url_of(server_socket)
    finally:
        server.should_exit = True
        thread.join(30)
        server_socket.close()
        assert not thread.is_alive()


def document() -> dict[str, Any]:
    """What a server would tell of itself; nothing is connected for it."""
    return make_api(TaskQ(broker="memory://document", store="sqlite:///document.db")).openapi()


# Each look at the workers takes a second, and has nothing to make up.
schema = schemathesis.openapi.from_dict(document()).exclude(path="/admin/workers")


@schema.parametrize()
@hypothesis.settings(max_examples=EXAMPLES, deadline=None, derandomize=True)
def test_no_request_is_the_servers_fault(case: schemathesis.Case, url: str) -> None:
    """Whatever comes: an answer below 500, and an error has its text."""
    response = case.call(base_url=url, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60)
    case.validate_response(response, checks=[not_a_server_error])
    if response.status_code >= 400:
        assert list(response.json()) == ["error"] and response.json()["error"]
