"""Signatures, as the protocol's official client sees them."""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime, timedelta

import jwt
import pytest
from qstash import Receiver
from qstash.errors import SignatureError

from taskq.http.request import Request
from taskq.http.signing import new_key, sign

URL = "https://example.com/a%20b/../c?x=1&y=%2F&z"
CURRENT, NEXT, OTHER = new_key(), new_key(), new_key()


def receiver() -> Receiver:
    return Receiver(CURRENT, NEXT)


def test_the_official_receiver_takes_it() -> None:
    """Signed with the current key, it holds for the URL and the body."""
    signature = sign(Request(URL, body=b'{"a": 1}'), key=CURRENT, now=datetime.now(UTC))
    receiver().verify(signature=signature, body='{"a": 1}', url=URL)


def test_after_a_rotation_the_next_key_holds() -> None:
    """A receiver that knows the keys from before a rotation takes what the next one signed, and no third one."""
    now = datetime.now(UTC)
    receiver().verify(signature=sign(Request(URL), key=NEXT, now=now), body="", url=URL)
    with pytest.raises(SignatureError):
        receiver().verify(signature=sign(Request(URL), key=OTHER, now=now), body="", url=URL)


def test_it_holds_for_nothing_else() -> None:
    """Another body or another URL, and the signature is worth nothing."""
    signature = sign(Request(URL, body=b"one"), key=CURRENT, now=datetime.now(UTC))
    with pytest.raises(SignatureError):
        receiver().verify(signature=signature, body="two", url=URL)
    with pytest.raises(SignatureError):
        receiver().verify(signature=signature, body="one", url=URL + "&w")


def test_it_holds_for_five_minutes() -> None:
    """Later than five minutes after the attempt it has expired, before it has not."""
    now, patient = datetime.now(UTC), Receiver(CURRENT, CURRENT)
    old = sign(Request(URL), key=CURRENT, now=now - timedelta(seconds=301))
    with pytest.raises(SignatureError, match="expired"):
        patient.verify(signature=old, body="", url=URL)
    patient.verify(signature=sign(Request(URL), key=CURRENT, now=now - timedelta(seconds=280)), body="", url=URL)


def test_claims() -> None:
    """Header and claims are those of the protocol; bytes that are no text are hashed as they are."""
    now, body = datetime(2026, 1, 2, 3, 4, 5, 999999, UTC), b"\xff\x00"
    signature = sign(Request(URL, body=body), key=CURRENT, now=now)
    assert jwt.get_unverified_header(signature) == {"alg": "HS256", "typ": "JWT"}
    claims = jwt.decode(signature, CURRENT, algorithms=["HS256"], options={"verify_exp": False, "verify_iat": False})
    issued = int(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC).timestamp())
    token = claims.pop("jti")
    digest = claims.pop("body")
    assert claims == {"iss": "Upstash", "sub": URL, "exp": issued + 300, "nbf": 0, "iat": issued}
    assert token.startswith("jwt_") and len(token) > 20
    assert base64.urlsafe_b64decode(digest) == hashlib.sha256(body).digest()


def test_every_attempt_has_a_token_of_its_own() -> None:
    """Two signatures of the same request at the same instant differ."""
    now = datetime.now(UTC)
    assert sign(Request(URL), key=CURRENT, now=now) != sign(Request(URL), key=CURRENT, now=now)


def test_keys_are_random() -> None:
    """A key says what it is, and is long enough for its algorithm."""
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100 and all(key.startswith("sig_") and len(key) >= 36 for key in keys)
