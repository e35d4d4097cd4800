"""Signatures of deliveries: JSON Web Tokens, by which a destination knows that a request comes from here."""

from __future__ import annotations

import base64
import hashlib
import secrets
from datetime import datetime

import jwt

from taskq.http.request import Request

ISSUER = "Upstash"
LIFETIME = 300  # seconds for which a signature holds


def new_key() -> str:
    """A signing key, from the system's randomness."""
    return f"sig_{secrets.token_urlsafe(32)}"


def sign(request: Request, *, key: str, now: datetime) -> str:
    """The signature of one attempt: it names the URL and the body's hash, and holds for five minutes from `now`."""
    issued = int(now.timestamp())
    digest = hashlib.sha256(request.body).digest()
    claims = {
        "iss": ISSUER,
        "sub": request.url,
        "exp": issued + LIFETIME,
        "nbf": 0,
        "iat": issued,
        "jti": f"jwt_{secrets.token_hex(16)}",
        "body": base64.urlsafe_b64encode(digest).decode(),
    }
    return jwt.encode(claims, key, algorithm="HS256")
