"""The HTTP API as an ASGI app: routes, behind who may call and how much."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.middleware import Middleware

from taskq import __version__
from taskq.api import (
    admin,
    chat,
    dead,
    errors,
    events,
    flow,
    groups,
    health,
    keys,
    letters,
    messages,
    openapi,
    queues,
    reading,
    schedules,
)
from taskq.api.auth import Authentication
from taskq.api.context import Context, InContext, context_of
from taskq.api.limits import Bodies, Rate
from taskq.app import TaskQ

__all__ = ["Context", "InContext", "context_of", "make_api"]

ROUTERS = [
    one.router
    for one in (messages, schedules, reading, dead, events, queues, groups, flow, keys, chat, admin, letters, health)
]


def make_api(app: TaskQ, *, closes: bool = True) -> FastAPI:
    """The API of an app, for any ASGI server. Its connections are opened in its lifespan, or at the first request.

    Args:
        closes: whether it closes the app when its lifespan ends.
    """
    api = FastAPI(
        title="taskq",
        version=__version__,
        description="Messages for URLs and for Python tasks. /v2 is QStash's protocol.",
        redoc_url=None,
        redirect_slashes=False,
        strict_content_type=False,
        lifespan=_lifespan,
        middleware=[
            Middleware(errors.Boundary),
            Middleware(Authentication, settings=app.settings),
            Middleware(Rate, settings=app.settings, clock=app.clock),
            Middleware(Bodies, settings=app.settings),
            Middleware(messages.Sending),
        ],
    )
    api.state.context = Context(app, closes=closes)
    api.state.routers = ROUTERS
    for router in ROUTERS:
        api.include_router(router)
    errors.install(api)
    openapi.install(api)
    return api


@asynccontextmanager
async def _lifespan(api: FastAPI) -> AsyncIterator[None]:
    context: Context = api.state.context
    try:
        await context.open()
        yield
    finally:
        await context.close()
