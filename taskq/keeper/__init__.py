"""The keeper books what waits, publishes what is due, archives dead letters, prunes. Every worker has one, one leads."""

from taskq.keeper.keeper import Keeper

__all__ = ["Keeper"]
