"""Calls that both type checkers take, and the types that they see. Read by mypy and pyright, never run."""

from __future__ import annotations

from typing import assert_type

from taskq import Handle, Queue, RateLimit, Retry, Status, TaskQ, task

app = TaskQ(broker="memory://", store="sqlite://", concurrency=4)
emails = Queue("emails", parallelism=1)
thumbs = Queue("thumbs", parallelism=32, rate_limit=RateLimit(50, per=30), worker_parallelism=8)


@app.task(queue=emails, retry=Retry(max_retries=5, delay="pow(2, retried) * 1000"), timeout=30)
async def send_email(to: str, subject: str = "hi") -> str:
    return to + subject


@app.task
def add(a: int, b: int) -> int:
    return a + b


@task(name="render", queue="media", pool="process", result=False)
def render(path: str) -> bytes:
    return path.encode()


async def in_async_code() -> None:
    handle = await send_email.enqueue_async("a@b.c", subject="hello")
    assert_type(handle, Handle[str])
    assert_type(await handle.get_result_async(timeout=10), str)
    assert_type(await handle.get_status_async(), Status)
    assert_type(await emails.enqueue_async(render, "x.png"), Handle[bytes])
    async with app:
        await app.enqueue_many_async([send_email.message("a"), add.message(1, 2)])


def in_sync_code() -> None:
    assert_type(add.enqueue(1, b=2), Handle[int])
    assert_type(add.enqueue(1, 2).get_result(timeout=1.5), int)
    assert_type(emails.enqueue(send_email, "a@b.c"), Handle[str])
    assert_type(send_email.options(delay=60, priority=5, key="k").enqueue("a@b.c"), Handle[str])
    assert_type(send_email.enqueue("a@b.c").cancel(), bool)
    with app:
        app.enqueue_many([send_email.message("a"), send_email.message("b")])
