"""What the benchmarks conclude from figures, with figures of its own; and that what is counted runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.check import BASELINE, Figure, compare, figure_of, read
from benchmarks.counted import WORKS, Count, counted


def test_a_slower_rate_is_a_regression() -> None:
    """A rate that falls by more than a fifth is reported; one that falls by less is noise."""
    base = {"drain": figure_of([4.0, 4.1, 3.9], lower=False)}
    assert compare(base, {"drain": figure_of([3.0, 3.1, 2.9], lower=False)})[0].regressed
    assert not compare(base, {"drain": figure_of([3.5, 3.6, 3.4], lower=False)})[0].regressed


def test_more_cpu_is_a_regression() -> None:
    """Where less is better, growth is reported, and improvement is not."""
    base = {"cpu": figure_of([50.0, 51.0, 49.0], lower=True)}
    assert compare(base, {"cpu": figure_of([62.0], lower=True)})[0].regressed
    assert not compare(base, {"cpu": figure_of([20.0], lower=True)})[0].regressed


def test_noise_of_the_baseline_is_allowed_thrice() -> None:
    """A figure that varied by 15 % in the baseline may be 45 % worse, and no more."""
    base = {"rate": Figure(100.0, 0.15, lower=False)}
    assert not compare(base, {"rate": Figure(70.0, 0.0, lower=False)})[0].regressed
    assert compare(base, {"rate": Figure(65.0, 0.0, lower=False)})[0].regressed


def test_counts_are_compared_closely() -> None:
    """3 % more instructions are allowed."""
    base = {"count": Figure(100_000, 0, lower=True, exact=True)}
    assert not compare(base, {"count": Figure(102_900, 0, lower=True, exact=True)})[0].regressed
    assert compare(base, {"count": Figure(103_100, 0, lower=True, exact=True)})[0].regressed


def test_a_figure_that_only_one_side_knows_is_not_compared() -> None:
    """A new measurement has no baseline, an old one is not measured any more."""
    known = Figure(1.0, 0.0, lower=True)
    assert compare({"old": known}, {"new": known}) == []


@pytest.mark.skipif(not BASELINE.exists(), reason="no baseline is committed")
def test_the_committed_baseline_can_be_read() -> None:
    """It is whole, and it would pass against itself."""
    built, base = read(BASELINE)
    assert built and json.loads(BASELINE.read_text())["environment"]["revision"]
    assert not any(comparison.regressed for comparison in compare(base, base))


@pytest.mark.parametrize("what", WORKS)
async def test_what_is_counted_runs(what: str, tmp_path: Path) -> None:
    """Every counted piece of work ends, against the broker of paper; a drain acknowledges every message."""
    acknowledged = await counted(what, 20, Count(False), tmp_path / "taskq.db")
    assert acknowledged == (70 if what == "drain" else 0)
