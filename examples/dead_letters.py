"""What failed for good stays until somebody looks: `taskq dlq list`, `show`, `retry`, `delete`.

It needs RabbitMQ, for the commands are processes of their own:

    TASKQ_BROKER=amqp://guest:guest@localhost/ python examples/dead_letters.py
"""

import json
import tempfile
import time
from pathlib import Path

from running import an_app, command, needs_rabbitmq, worker_processes

from taskq import Reject, Retry, TaskFailed

if __name__ == "__main__":
    needs_rabbitmq()

app = an_app()


@app.task(retry=Retry(max_retries=1, delay=0.05))
def post(parcel: str, address_book: str) -> str:
    address = Path(address_book).read_text()
    if parcel == "a piano":
        raise Reject("too heavy")
    return f"{parcel} -> {address}"


def letters(count: int) -> list[dict[str, str]]:
    """The dead letters, once there are so many: the keeper archives them within moments."""
    deadline = time.monotonic() + 20
    while True:
        found: list[dict[str, str]] = json.loads(command("dlq", "list", "--task", post.name, "--json"))["items"]
        if len(found) == count:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"{count} dead letters were expected, there are {found}")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, worker_processes("dead_letters:app", 1), app:
        book = Path(folder, "addresses")
        for handle in [post.enqueue(parcel, str(book)) for parcel in ("a book", "a piano")]:
            try:
                handle.get_result(timeout=30)
            except TaskFailed as failed:
                assert failed.type == "FileNotFoundError", failed.type
        assert {(one["task"], one["reason"]) for one in letters(2)} == {("dead_letters.post", "failed")}
        print(command("dlq", "list", "--task", post.name))

        book.write_text("12 Harbour Road")  # the cause is mended
        print(command("dlq", "retry", "--task", post.name))
        (left,) = letters(1)  # the book has arrived; the piano is back, for another reason
        assert left["reason"] == "rejected", left
        print(command("dlq", "show", left["id"]))
        print(command("dlq", "delete", left["id"]))
        assert letters(0) == []


if __name__ == "__main__":
    main()
