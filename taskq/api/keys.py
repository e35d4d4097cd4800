"""The keys with which deliveries are signed."""

from __future__ import annotations

from fastapi import APIRouter

from taskq.api.context import InContext
from taskq.api.wire import Wire
from taskq.dispatch import control

router = APIRouter(prefix="/v2/keys", tags=["signing keys"])


class KeysShown(Wire):
    """`current` signs; receivers try `next` too, so that a rotation is not noticed."""

    current: str
    next: str


@router.get("")
async def get_keys(context: InContext) -> KeysShown:
    """Show the signing keys."""
    keys = await (await context.store()).signing_keys()
    return KeysShown(current=keys.current, next=keys.next)


@router.post("/rotate")
async def rotate_keys(context: InContext) -> KeysShown:
    """Make the next key the current one, and a new one the next."""
    broker, store = await context.broker(), await context.store()
    keys = await store.rotate_signing_keys()
    broker.broadcast(control({"keys": True}))
    return KeysShown(current=keys.current, next=keys.next)
