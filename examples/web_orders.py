"""Events from a web handler, run one at a time in the order in which they came.

The handler enqueues on a FIFO queue and answers at once; the sender gets 202 when the event is
safe at the broker. Any framework does: this one is the standard library's.

    python examples/web_orders.py
"""

import json
import threading
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from running import an_app, worker_thread

from taskq import InvalidArguments, Queue

app = an_app()
events = Queue("events", parallelism=1)
balance = {"ada": 0}
history: list[int] = []


@app.task(queue=events)
def apply_event(account: str, amount: int) -> int:
    # No lock: nothing else on this queue runs at the same time, in this process or any other.
    balance[account] = balance[account] * 2 + amount
    history.append(amount)
    return balance[account]


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        try:
            handle = apply_event.enqueue(**body)
        except InvalidArguments as error:
            self.answer(400, {"error": str(error)})
        else:
            self.answer(202, {"id": handle.id})

    def answer(self, status: int, content: dict[str, str]) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None: ...


def post(port: int, body: dict[str, object]) -> tuple[int, dict[str, str]]:
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("POST", "/events", json.dumps(body))
    response = connection.getresponse()
    answer = response.status, json.loads(response.read())
    connection.close()
    return answer


def main() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    port = server.server_address[1]
    with worker_thread(app):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        answers = [post(port, {"account": "ada", "amount": number}) for number in range(20)]
        refused = post(port, {"account": "ada", "amount": "a lot"})
        results = [app.handle(answer["id"]).get_result(timeout=10) for _, answer in answers]
        server.shutdown()
        server.server_close()
    expected, total = [], 0
    for number in range(20):
        total = total * 2 + number
        expected.append(total)
    assert [status for status, _ in answers] == [202] * 20
    assert refused[0] == 400 and "amount" in refused[1]["error"], refused
    assert history == list(range(20)) and results == expected, history
    print("20 events applied in order, the balance is", balance["ada"])


if __name__ == "__main__":
    main()
