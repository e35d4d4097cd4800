"""Whether this server can do its work: its broker and its store answer."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from taskq.api.context import Context, InContext
from taskq.errors import TaskqError

router = APIRouter(tags=["health"])

PATIENCE = 2.0  # seconds


class Health(BaseModel):
    """`reasons`: why it is unhealthy; none if it is not."""

    status: str
    ready: bool
    reasons: list[str]


@router.get("/health", response_model=Health, responses={503: {"model": Health}})
@router.get("/ready", response_model=Health, responses={503: {"model": Health}})
async def health(context: InContext) -> JSONResponse:
    """Say whether broker and store answer; 503 if one does not."""
    found = await asyncio.gather(_broker(context), _store(context))
    reasons = [reason for reason in found if reason]
    said = {"status": "unhealthy" if reasons else "ok", "ready": not reasons, "reasons": reasons}
    return JSONResponse(said, 503 if reasons else 200)


async def _broker(context: Context) -> str:
    """What is wrong with the broker, "" if nothing is."""
    try:
        async with asyncio.timeout(PATIENCE):
            health = (await context.broker()).health()
    except (TaskqError, TimeoutError):
        return "the broker does not answer"
    if not health.connected:
        return "the connection to the broker is lost"
    return f"the broker takes no messages: {health.blocked}" if health.blocked else ""


async def _store(context: Context) -> str:
    """What is wrong with the store, "" if nothing is."""
    try:
        async with asyncio.timeout(PATIENCE):
            await (await context.store()).now()
    except (TaskqError, TimeoutError):
        return "the store does not answer"
    return ""
