"""Schedules at work; see `beat`."""

from taskq.beat.beat import Beat

__all__ = ["Beat"]
