"""The keeper: books what waits, publishes what is due, archives dead letters, prunes; one of all workers leads."""

from taskq.keeper.keeper import Keeper

__all__ = ["Keeper"]
