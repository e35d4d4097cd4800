"""What each step of a message costs beside its limit, in microseconds: `python -m benchmarks.steps`.

The limit is what the library calls take that no version of the step could do without, in a loop of their own: the same
pydantic, msgpack, struct and asyncio, with nothing of taskq around them. Each figure is the quickest of many rounds, so
without what the cores do for others.
"""

from __future__ import annotations

import asyncio
import os
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NoReturn

import msgpack
from pydantic import validate_call

from benchmarks.settings import LABEL
from taskq import Queue, TaskQ
from taskq.broker.rabbitmq import frames
from taskq.clock import SystemClock
from taskq.context import Context
from taskq.dispatch import Dispatcher
from taskq.message import CONTENT_TYPE, Message, decode, new_id
from taskq.outcome import Done, Status
from taskq.serialization import MSGPACK, decode_arguments, encode_arguments
from taskq.store.base import Settlement
from taskq.store.sql.settle import _row

_ROUNDS = 60
_CALLS = 2_000
_FRAME_MAX = 131_072


@dataclass(frozen=True, slots=True)
class Step:
    """One step, and the bare library calls that it stands on."""

    name: str
    ours: Callable[[], object]
    bare: Callable[[], object]


def microseconds(call: Callable[[], object]) -> float:
    """What one call takes: the quickest round."""
    quickest = float("inf")
    for _ in range(_ROUNDS):
        begun = time.perf_counter_ns()
        for _ in range(_CALLS):
            call()
        quickest = min(quickest, time.perf_counter_ns() - begun)
    return quickest / _CALLS / 1000


class _Ear:
    """Counts what the splitter hands over."""

    def method(self, method_id: int, payload: bytes) -> bool:
        """Deliver frames are ours."""
        frames.read_deliver(payload)
        return False

    def content(self, kind: int, payload: bytes) -> None:
        """A header's properties are read when they are asked for."""
        if kind == frames.HEADER:
            frames.Properties(payload)
            frames.read_content_header(payload)

    def gone(self) -> None:
        """The connection is lost."""


def steps() -> list[Step]:
    """Of an enqueue, then of a drain."""
    app = TaskQ(broker="memory://", store="sqlite://")

    @app.task(name="bench", queue=Queue("bench"))
    async def bench(number: int, label: str) -> int:
        return number

    @validate_call
    def checked(number: int, label: str) -> tuple[int, str]:
        return number, label

    clock = SystemClock()
    payload = encode_arguments((7, LABEL), {})
    message = bench.message(7, LABEL).message
    body = message.encode()
    wire: dict[str, Any] = msgpack.unpackb(body)
    dispatcher = Dispatcher(broker=app.make_broker(), open_store=_no_store, clock=clock)
    method = frames.publish_method(1, "", "taskq.task.bench", mandatory=True)
    content_type = frames.short(CONTENT_TYPE)
    header = frames.content_header(1, len(body), content_type, 0, message.id, message.id)
    delivered = b"".join(
        (
            frames.frame(frames.METHOD, 1, struct.pack(">HHB3sQB", 60, 60, 3, b"tag", 1, 0) + frames.short("q") * 2),
            header,
            frames.body_frames(1, body, _FRAME_MAX),
        )
    )
    splitter = frames.Splitter(time.monotonic)
    splitter.handlers[1] = _Ear()
    three = struct.Struct(">BHI")
    settlement = Settlement(message, "worker", 0, Status.SUCCEEDED, 1, clock.now(), clock.now(), b"\x07", MSGPACK)

    def written() -> bytes:
        head = frames.content_header(1, len(body), content_type, 0, message.id, message.id)
        return method + head + frames.body_frames(1, body, _FRAME_MAX)

    def unpacked_three() -> None:
        three.unpack_from(delivered, 0)
        three.unpack_from(delivered, 0)
        three.unpack_from(delivered, 0)

    def made() -> Context:
        return Context(id="m", task="t", queue="q", attempt=1, headers={}, fifo=False, lane=None)

    return [
        Step("enqueue: arguments validated", lambda: bench.validate((7, LABEL), {}), lambda: checked(7, LABEL)),
        Step(
            "arguments encoded",
            lambda: encode_arguments((7, LABEL), {}),
            lambda: msgpack.packb([[7, LABEL], {}]),
        ),
        Step("clock and id", lambda: new_id(clock.now()), lambda: (time.time_ns(), os.urandom(10))),
        Step(
            "message composed",
            lambda: Message("id", "bench", "bench", payload, MSGPACK, message.created_at),
            lambda: {"id": "id", "task": "bench", "queue": "bench", "body": payload, "type": MSGPACK, "at": 1},
        ),
        Step("envelope encoded, route", lambda: dispatcher.outgoing(message, None), lambda: msgpack.packb(wire)),
        Step("frames written", written, lambda: b"".join((method, header, body, b"\xce"))),
        Step("drain: frames read", lambda: splitter.feed_data(delivered), unpacked_three),
        Step("envelope read", lambda: decode(body, CONTENT_TYPE), lambda: msgpack.unpackb(body)),
        Step("arguments read", lambda: decode_arguments(payload, MSGPACK), lambda: msgpack.unpackb(payload)),
        Step("arguments validated", lambda: bench.validate((7, LABEL), {}), lambda: checked(7, LABEL)),
        Step("context made", made, lambda: {"id": "m", "task": "t", "queue": "q", "attempt": 1, "headers": {}}),
        Step("outcome made", lambda: Done(b"\x07", None), lambda: (b"\x07", None)),
        Step(
            "acknowledgement written",
            lambda: frames.ack(1, 7, multiple=True),
            lambda: struct.pack(">BHIIQBB", 1, 1, 13, 80, 7, 1, 0xCE),
        ),
        Step(
            "recorded: the settlement made",
            lambda: Settlement(message, "w", 0, Status.SUCCEEDED, 1, clock.now(), clock.now(), b"\x07", MSGPACK),
            lambda: (datetime.now(UTC), datetime.now(UTC)),
        ),
        Step("its row", lambda: _row(settlement), lambda: tuple(wire.values())),
    ]


async def _no_store() -> NoReturn:
    raise AssertionError("nothing here asks the store")


async def _task(count: int) -> float:
    """Microseconds of an asyncio task that does nothing, from its making to its end."""

    async def nothing() -> None: ...

    loop = asyncio.get_running_loop()
    quickest = float("inf")
    for _ in range(_ROUNDS):
        begun = time.perf_counter_ns()
        tasks = [loop.create_task(nothing()) for _ in range(count)]
        await tasks[-1]
        quickest = min(quickest, time.perf_counter_ns() - begun)
    return quickest / count / 1000


async def _measure() -> None:
    print(f"| step | µs | limit |\n|{'---|' * 3}")
    for step in steps():
        print(f"| {step.name} | {microseconds(step.ours):.2g} | {microseconds(step.bare):.2g} |", flush=True)
    print(f"| a task of asyncio | | {await _task(200):.2g} |")


def main() -> None:
    """A line a step."""
    asyncio.run(_measure())


if __name__ == "__main__":
    main()
