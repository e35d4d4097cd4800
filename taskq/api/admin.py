"""What QStash's protocol does not know: workers, tasks, queues and messages of any kind."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from fastapi.responses import Response

from taskq.admin import shown
from taskq.admin.limits import change
from taskq.admin.purge import Purge
from taskq.api.answer import answer
from taskq.api.arguments import schema_of
from taskq.api.context import Context, InContext
from taskq.api.errors import Conflict, NotFound
from taskq.api.views import message_view
from taskq.api.wire import BAD, CONFLICT, MISSING, Instant, Listing, Text
from taskq.message import MAX_ID_CHARS
from taskq.outcome import Status
from taskq.queue import QueueRecord, check_queue_name
from taskq.store.base import CancelEffect, DeadFilter, MessageFilter
from taskq.task import Task

router = APIRouter(prefix="/admin", tags=["admin"])

PATIENCE = 30.0  # seconds that workers may take to let go of a queue

Name = Annotated[str, Path(description="The queue's name.")]
Id = Annotated[str, Path(description="The message's id.", max_length=MAX_ID_CHARS)]


# -- workers and tasks --------------------------------------------------------------------------


@router.get("/workers")
async def list_workers(context: InContext) -> Response:
    """List the workers that answer: where they run, what they serve, how many runs are under way. Takes a second."""
    return answer(
        [
            {
                "id": worker.id,
                "host": worker.host,
                "queues": worker.queues,
                "running": worker.running,
                "places": worker.places,
                "keeper": worker.keeper,
                "beat": worker.beat,
            }
            for worker in await context.workers()
        ]
    )


@router.get("/tasks")
async def list_tasks(context: InContext) -> Response:
    """List the tasks of this server's app, with a JSON schema of their arguments."""
    tasks = context.app.tasks
    return answer([_task(tasks[name]) for name in sorted(tasks)])


@router.get("/tasks/{name:path}", responses=MISSING)
async def get_task(name: str, context: InContext) -> Response:
    """Show one task."""
    task = context.app.tasks.get(name)
    if task is None:
        raise NotFound(f"no task is named {name!r:.80}")
    return answer(_task(task))


def _task(task: Task[..., Any]) -> dict[str, Any]:
    definition = task.definition
    return {
        "name": task.name,
        "queue": definition.queue.name,
        "max_retries": definition.retry.max_retries,
        "timeout": definition.timeout,
        "pool": definition.pool,
        "description": task.function.__doc__,
        "arguments": schema_of(task),
    }


# -- queues -------------------------------------------------------------------------------------


@router.get("/queues")
async def list_queues(context: InContext) -> Response:
    """List all queues, with what lies, waits and runs in them, and since when the oldest recorded one does."""
    return _plain(await shown.queues(await context.broker(), await context.store()))


@router.get("/queues/{name}", responses=BAD | MISSING)
async def get_queue(name: Name, context: InContext) -> Response:
    """Show one queue."""
    record = await _queue(context, name)
    return _plain((await shown.queues(await context.broker(), await context.store(), [record]))[0])


@router.post("/queues/{name}/pause", responses=BAD | MISSING)
async def pause_queue(name: Name, context: InContext) -> Response:
    """Start nothing more of the queue; what runs goes on, what comes is kept."""
    await _queue(context, name)
    await change(await context.broker(), await context.store(), name, paused=True)
    return await get_queue(name, context)


@router.post("/queues/{name}/resume", responses=BAD | MISSING)
async def resume_queue(name: Name, context: InContext) -> Response:
    """Start messages of the queue again."""
    await _queue(context, name)
    await change(await context.broker(), await context.store(), name, paused=False)
    return await get_queue(name, context)


@router.post("/queues/{name}/purge", responses=BAD | MISSING | CONFLICT)
async def purge_queue(name: Name, context: InContext) -> Response:
    """Cancel every message that lies in the queue or waits for it; what runs goes on."""
    async with context.changing(name):
        record = await _queue(context, name)
        purge = Purge(
            broker=await context.broker(),
            store=await context.store(),
            clock=context.clock,
            advance=lambda done, total=None: None,
        )
        return answer({"cancelled": await purge.run(record, patience=PATIENCE)})


async def _queue(context: Context, name: str) -> QueueRecord:
    record = await (await context.store()).get_queue(check_queue_name(name))
    if record is None:
        raise NotFound(f"no queue is named {name!r}")
    return record


# -- messages -----------------------------------------------------------------------------------


class Messages(Listing):
    """Which messages: all given conditions hold. Instants: when they were created."""

    status: list[Status] = []
    queue: Text = None
    task: Text = None
    since: Instant = None
    until: Instant = None


@router.get("/messages", responses=BAD)
async def list_messages(which: Annotated[Messages, Query()], context: InContext) -> Response:
    """List messages of any kind, newest first. Those of tasks are known from their first start, wait or failure on."""
    chosen = MessageFilter(
        status=which.status or None, queue=which.queue, task=which.task, since=which.since, until=which.until
    )
    page = await (await context.store()).list(chosen, cursor=which.cursor, limit=which.limit)
    return _plain({"items": [shown.message(record) for record in page.items], "cursor": page.cursor})


@router.get("/messages/{message_id}", responses=MISSING)
async def get_message(message_id: Id, context: InContext) -> Response:
    """Show all that is known of a message: state, result or error, history, dead letters, and its request."""
    store = await context.store()
    record = await store.get(message_id)
    letters = (await store.dead(DeadFilter(message_id=message_id))).items
    if record is None and not letters:
        raise NotFound(f"nothing is known of message {message_id!r:.80}")
    request = await store.get_request(message_id)
    return _plain(
        {
            "message": None if record is None else shown.message(record),
            "history": [_line(line) for line in await store.history(message_id)],
            "dead_letters": [letter.id for letter in letters],
            "request": None if request is None else message_view(request.message),
        }
    )


@router.post("/messages/{message_id}/cancel", responses=CONFLICT)
async def cancel_message(message_id: Id, context: InContext) -> Response:
    """Cancel a message: `done`, or `asked`: it will not start if it is queued, and is stopped if it runs."""
    await context.store()
    effect = await context.client.cancel(message_id)
    if effect is CancelEffect.FINISHED:
        raise Conflict(f"message {message_id!r:.80} has ended already")
    return answer({"effect": effect.value})


def _line(line: Any) -> dict[str, Any]:
    """A line of a history; answers of destinations are on /v2/events."""
    names = ("at", "state", "attempt", "worker", "detail", "next_at")
    return {name: getattr(line, name) for name in names}


def _plain(value: Any) -> Response:
    return answer(shown.whole(value))
