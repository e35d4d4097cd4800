"""Calls that both type checkers refuse: a line that one of them took would make its ignore comment an error."""

from __future__ import annotations

from taskq import Handle, Queue, RateLimit, Retry, TaskQ

app = TaskQ(broker="memory://", store="sqlite://")
queue = Queue("q")


@app.task
async def send(to: str, subject: str = "hi") -> str:
    return to + subject


@app.task(queue=queue)
def add(a: int, b: int) -> int:
    return a + b


def wrong_calls() -> None:
    send.enqueue()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    send.enqueue(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    send.enqueue("a", "b", "c")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    send.enqueue("a", body="b")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    add.enqueue(1, "2")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    add.message(1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    add("1", 2)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    queue.enqueue(add, 1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    queue.enqueue(add, "1", 2)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    send.options(delai=5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    send.options(priority="high")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    wrong: Handle[str] = add.enqueue(1, 2)  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    wrong.get_result(timeout="1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def wrong_calls_in_async_code() -> None:
    await send.enqueue_async(b"a")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await queue.enqueue_async(send)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def wrong_declarations() -> None:
    Queue("q", parallelism="4")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    RateLimit("fast")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Retry(max_retries="many")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
