"""Many at once: all are validated before any is sent, and the broker's confirms are awaited together.

python examples/enqueue_many.py
"""

from running import an_app, worker_thread

from taskq import InvalidArguments

app = an_app()


@app.task
async def square(number: int) -> int:
    return number * number


def main() -> None:
    with worker_thread(app):
        handles = app.enqueue_many([square.message(number) for number in range(500)])
        results = [handle.get_result(timeout=20) for handle in handles]
        assert results == [number * number for number in range(500)]
        print("500 results, in order; the last is", results[-1])
        try:
            app.enqueue_many([square.message(1), square.message("two")])  # type: ignore[arg-type]
        except InvalidArguments as error:
            print("nothing was sent:", error)
        else:
            raise AssertionError("a wrong argument was accepted")


if __name__ == "__main__":
    main()
