"""Signatures of deliveries: JSON Web Tokens, by which a destination knows that a request comes from here."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
from datetime import datetime

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
    signed = _HEADER + _encoded(json.dumps(claims, separators=(",", ":")).encode())
    return (signed + b"." + _encoded(hmac.digest(key.encode(), signed, "sha256"))).decode()


def _encoded(part: bytes) -> bytes:
    return base64.urlsafe_b64encode(part).rstrip(b"=")


_HEADER = _encoded(b'{"alg":"HS256","typ":"JWT"}') + b"."
