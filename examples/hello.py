"""A task, enqueued from sync code and from async code.

python examples/hello.py
"""

import asyncio

from running import an_app, worker_thread

app = an_app()


@app.task
async def greet(name: str, punctuation: str = "!") -> str:
    return f"hello {name}{punctuation}"


@app.task
def area(width: float, height: float) -> float:  # a plain function runs on a thread
    return width * height


def from_sync_code() -> None:
    handle = area.enqueue(6, height=7)  # returns once the broker has confirmed the message
    assert handle.get_result(timeout=10) == 42.0
    print("area:", handle.get_result())


async def from_async_code() -> None:
    handle = await greet.enqueue_async("world", punctuation="?")
    text = await handle.get_result_async(timeout=10)
    assert text == "hello world?"
    print(text)


def main() -> None:
    with worker_thread(app):
        from_sync_code()
        asyncio.run(from_async_code())
    assert area(2, 3) == 6  # a task is still the function that it was


if __name__ == "__main__":
    main()
