"""A process that runs tasks for a worker, one at a time: `python -m taskq.worker.child APP FD`.

It ends when the worker ends, also in the middle of a task: a thread watches the socket.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import random
import signal
import socket
import struct
import sys
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

import msgpack

from taskq.context import Context, SoftTimeout, Waits, enter
from taskq.errors import InvalidArguments, InvalidMessage, NotSerializable
from taskq.http.request import HTTP_TASK, request_of
from taskq.message import Message, decode
from taskq.outcome import Again, Dead, Done, Failure, Later, Outcome, decide
from taskq.serialization import decode_arguments, encode_value

if TYPE_CHECKING:
    from taskq.task import Task


class Channel:
    """Frames to and from the worker."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._lock = threading.Lock()
        self._frames: deque[dict[str, Any]] = deque()
        self._arrived = threading.Semaphore(0)
        self.context: Context | None = None

    def send(self, frame: dict[str, Any]) -> None:
        data = msgpack.packb(frame)
        with self._lock:
            self._sock.sendall(struct.pack(">I", len(data)) + data)

    def receive(self) -> dict[str, Any]:
        self._arrived.acquire()
        return self._frames.popleft()

    def watch(self) -> None:
        """Read frames; the worker's end is this process's end."""
        while True:
            (size,) = struct.unpack(">I", self._exactly(4))
            frame = msgpack.unpackb(self._exactly(size))
            if "cancel" in frame:
                if self.context is not None:
                    self.context._cancelled = True
                continue
            self._frames.append(frame)
            self._arrived.release()

    def _exactly(self, size: int) -> bytes:
        parts = []
        while size:
            part = self._sock.recv(size)
            if not part:
                os._exit(0)
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


class ChildWaits(Waits):
    """Tells the worker when the task waits for a handle, and when no longer."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def leave(self) -> None:
        self._channel.send({"waits": True})

    async def enter(self) -> None:
        self._channel.send({"waits": False})


def arguments_of(task: Task[..., Any], message: Message) -> tuple[tuple[Any, ...], dict[str, Any]] | Dead:
    """The validated arguments of a call; Dead if they do not fit the task as it is here."""
    try:
        request = request_of(message)
        if request is None:
            args, kwargs = decode_arguments(message.payload, message.payload_type)
        elif message.task == HTTP_TASK:
            return (request,), {}
        else:
            args, kwargs = request.arguments()
        return task.validate(tuple(args), kwargs)
    except (InvalidMessage, InvalidArguments) as error:
        return Dead("invalid-arguments", Failure.of(error))


def done(task: Task[..., Any], value: Any) -> Done | Dead:
    """The task returned this; Dead if it is to be kept and cannot be encoded."""
    try:
        return Done(encode_value(value) if task.definition.result else None)
    except NotSerializable as error:
        return Dead("result-not-serializable", Failure.of(error))


def run_here(task: Task[..., Any], message: Message, attempt: int, context: Context) -> Outcome:
    """Run a task's function in this thread and say what follows."""
    checked = arguments_of(task, message)
    if isinstance(checked, Dead):
        return checked
    args, kwargs = checked

    def call() -> Any:
        enter(context)
        value = task.function(*args, **kwargs)
        return asyncio.run(value) if asyncio.iscoroutine(value) else value

    try:
        value = contextvars.copy_context().run(call)
    except BaseException as error:  # whatever the task raises, SystemExit too, is its failure
        return decide(message, error, policy=task.definition.retry, attempt=attempt, rng=random.Random())
    return done(task, value)


def outcome_frame(outcome: Outcome) -> dict[str, Any]:
    """An outcome as it crosses to the worker."""
    match outcome:
        case Done(result):
            return {"done": result}
        case Again(delay, failure):
            return {"again": delay, "failure": [failure.type, failure.message, failure.traceback]}
        case Later(delay):
            return {"later": delay}
        case Dead(reason, failure):
            return {"dead": reason, "failure": [failure.type, failure.message, failure.traceback]}
        case _:
            raise AssertionError(f"a child cannot end with {outcome!r}")


def outcome_of(frame: dict[str, Any]) -> Outcome:
    """The outcome of a frame."""
    if "done" in frame:
        return Done(frame["done"])
    if "again" in frame:
        return Again(frame["again"], Failure(*frame["failure"]))
    if "later" in frame:
        return Later(frame["later"])
    return Dead(frame["dead"], Failure(*frame["failure"]))


def _soft_limit(*_: object) -> None:
    raise SoftTimeout("the task's soft time limit has passed")


def main() -> None:
    from taskq.load import load_app

    app_ref, fd = sys.argv[1], int(sys.argv[2])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, _soft_limit)
    channel = Channel(socket.socket(fileno=fd))
    app = load_app(app_ref)
    threading.Thread(target=channel.watch, daemon=True).start()
    channel.send({"ready": True})
    while True:
        job = channel.receive()
        message = decode(job["message"])
        context = Context(
            id=message.id,
            task=message.task,
            queue=message.queue,
            attempt=job["attempt"],
            headers=message.headers,
            fifo=job["fifo"],
            lane=job["lane"],
            _progress=lambda done, total: channel.send({"progress": [done, total]}),
            _heartbeat=lambda: channel.send({"heartbeat": True}),
            waits=ChildWaits(channel),
        )
        channel.context = context
        if job["soft"]:
            signal.setitimer(signal.ITIMER_REAL, job["soft"])
        try:
            outcome = run_here(app.get_task(message.task), message, job["attempt"], context)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        channel.context = None
        channel.send(outcome_frame(outcome))


if __name__ == "__main__":
    main()
