"""Without an app object: `from taskq import task` declares on the default app, which the environment describes.

TASKQ_BROKER=amqp://… taskq worker default_app        serves it (APP is the module alone)
python examples/default_app.py
"""

import running  # noqa: I001 - sets TASKQ_BROKER and TASKQ_STORE, where the default app looks
from taskq import task

app = running.an_app()


@task
async def double(number: int) -> int:
    return 2 * number


@task(queue="slow", retry=1)
def halve(number: int) -> float:
    return number / 2


def main() -> None:
    from taskq.default import default_app

    assert default_app().tasks.keys() == {"default_app.double", "default_app.halve"}
    with running.worker_thread(default_app()):
        assert double.enqueue(21).get_result(timeout=10) == 42
        assert halve.enqueue(84).get_result(timeout=10) == 42.0
    print("two tasks on the default app: 42 and 42.0")


if __name__ == "__main__":
    main()
