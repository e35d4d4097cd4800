"""A language model, asked at once: what `client.chat()` of QStash's npm client calls. Nothing of it is recorded."""

from __future__ import annotations

import json

import httpx
from fastapi import APIRouter, Request
from fastapi.responses import Response

from taskq.api.context import InContext
from taskq.api.errors import Problem, problem
from taskq.api.wire import BAD, Responses
from taskq.errors import InvalidRequest

router = APIRouter(prefix="/llm/v1", tags=["language models"])

UNREACHED: Responses = {502: {"model": Problem, "description": "The model's server did not answer"}}


@router.post("/chat/completions", responses=BAD | UNREACHED)
async def complete(request: Request, context: InContext) -> Response:
    """Hand a chat on to the server of the setting `llm_url`, and its answer back as it comes, whole."""
    settings = context.settings
    if settings.llm_url is None:
        raise InvalidRequest("this server has no model: its setting TASKQ_LLM_URL names one")
    body = await request.body()
    _check(body)
    headers = {"Content-Type": "application/json"}
    if settings.llm_token is not None:
        headers["Authorization"] = f"Bearer {settings.llm_token.get_secret_value()}"
    try:
        async with httpx.AsyncClient(timeout=settings.delivery_timeout, trust_env=False) as client:
            url = f"{settings.llm_url.rstrip('/')}/v1/chat/completions"
            answer = await client.post(url, content=body, headers=headers)
    except httpx.HTTPError as error:
        return problem(502, f"the model's server did not answer: {type(error).__name__}: {error}"[:300])
    return Response(answer.content, answer.status_code, media_type=answer.headers.get("content-type"))


def _check(body: bytes) -> None:
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"the body is no JSON: {error}"[:200]) from error
    if isinstance(asked, dict) and asked.get("stream"):
        raise InvalidRequest("stream: answers are not streamed here: leave it out")
