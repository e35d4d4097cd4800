"""Answers as JSON whatever text is in them."""

from __future__ import annotations

import json
from typing import Any

from fastapi.responses import Response


def answer(value: Any, status: int = 200) -> Response:
    """The value as JSON, all of it ASCII: what senders said may hold text that UTF-8 cannot."""
    return Response(json.dumps(value, separators=(",", ":")), status, media_type="application/json")
