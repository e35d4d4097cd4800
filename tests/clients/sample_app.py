"""The app behind the API of these tests: a Python task that HTTP callers reach as `task://tell`."""

from __future__ import annotations

import httpx

from taskq import TaskQ

app = TaskQ()


@app.task(name="tell", result=False)
async def tell(url: str, word: str = "") -> None:
    """Post a word to a URL."""
    async with httpx.AsyncClient() as client:
        (await client.post(url, content=word)).raise_for_status()
