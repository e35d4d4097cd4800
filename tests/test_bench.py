"""What the benchmarks conclude from figures, with figures of its own; and that what is counted runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.check import BASELINE, Figure, compare, figure_of, read
from benchmarks.counted import WORKS, Count, counted
from benchmarks.documents import goals, peers, replace
from benchmarks.goals import judge
from benchmarks.measures import import_time, lone_task
from benchmarks.model import Model, Reading, fit, residuals
from benchmarks.report import as_data, place, save
from benchmarks.runner import Row, Table
from benchmarks.scale import chosen, keep
from benchmarks.scale import read as kept_points


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


def test_the_model_finds_the_parameters_of_its_own_figures() -> None:
    """A machine whose workers need 50 µs and whose broker needs 25 µs, and that reaches 90 % of its bound."""
    made = Model(worker=50e-6, broker=25e-6, store=0.0, share=0.9)
    rows = [Reading(w, 2, made.one_machine(w, 2), 50e-6, 25e-6, 0.0) for w in (1, 2, 4)]
    found = fit(rows)
    assert found.share == pytest.approx(0.9)
    assert residuals(found, rows) == pytest.approx([0, 0, 0], abs=1e-9)
    assert found.one_machine(1, 2) == pytest.approx(18_000)  # the process itself is the bound
    assert found.one_machine(4, 2) == pytest.approx(24_000)  # the cores are


def test_the_bottleneck_of_a_cluster_moves() -> None:
    """One queue is bound by its leader; with more of them the workers are, then the brokers' cores."""
    model = Model(worker=50e-6, broker=25e-6, store=0.0, share=1.0)
    assert model.cluster(workers=16, partitions=1, nodes=1, node_cores=4) == (pytest.approx(40_000), "leaders")
    assert model.cluster(workers=2, partitions=16, nodes=1, node_cores=4) == (pytest.approx(40_000), "workers")
    assert model.cluster(workers=64, partitions=16, nodes=3, node_cores=4) == (pytest.approx(240_000), "broker")


def test_points_are_kept_one_by_one(tmp_path: Path) -> None:
    """A point replaces an older one of its name and leaves the others; what is kept is not missing."""
    path = tmp_path / "scale.json"
    keep(path, "queues/10", {"revision": "a"}, [{"rate": 1.0}, {"rate": 3.0}, {"rate": 2.0}])
    keep(path, "queues/1", {"revision": "a"}, [{"rate": 5.0}])
    keep(path, "queues/1", {"revision": "b"}, [{"rate": 6.0}])
    kept = kept_points(path)
    assert list(kept) == ["queues/1", "queues/10"]
    assert kept["queues/1"]["revision"] == "b"
    assert kept["queues/10"]["figures"] == {"rate": 2.0, "rate_min": 1.0, "rate_max": 3.0}
    assert [point.name for point in chosen("queues", True, path)] == ["queues/100", "queues/1000"]


def test_tables_are_written_between_their_marks() -> None:
    """What stood there is gone, what stands around it stays; a mark that is missing is an error."""
    text = "above\n<!-- measured: goals -->\nold\n<!-- end -->\nbelow\n<!-- measured: peers -->\n<!-- end -->\n"
    written = replace(text, "goals", "| new |")
    assert written.startswith("above\n<!-- measured: goals -->\n| new |\n<!-- end -->\nbelow\n")
    assert replace(written, "goals", "| new |") == written
    with pytest.raises(LookupError):
        replace(text, "other", "")


def test_a_goal_says_met_or_by_how_much_not() -> None:
    """A line per goal, of a run's data."""
    promise = {"goal": "drain", "limit": 4, "unit": "×", "at_most": False}
    data = {"goals": [promise | {"reached": 4.5, "met": True}, promise | {"reached": 3.0, "met": False}]}
    assert goals(data).splitlines()[2:] == [
        "| drain | ≥ 4× | 4.50× | met |",
        "| drain | ≥ 4× | 3.00× | missed by 25% |",
    ]


def test_a_run_that_is_ended_early_keeps_what_it_measured(tmp_path: Path) -> None:
    """Kept after each measurement, under one name; a goal whose figures are not there is "not measured"."""
    machine = {"at": "2026-01-02T03:04:05+00:00", "revision": "abc"}
    path, tables = place(machine, tmp_path), []
    for measure in (import_time.MEASURE, lone_task.MEASURE):
        tables.append(
            Table(measure, [Row(each, "quorum", runs=[{measure.figure: 5.0}]) for each in measure.contestants])
        )
        save(as_data(machine, tables, judge(tables)), path)
    assert [each.name for each in tmp_path.iterdir()] == ["2026-01-02-abc.json"]
    assert place(machine, tmp_path).name == "2026-01-02-abc-2.json"
    data = json.loads(path.read_text())
    assert "| import taskq | ≤ 200 ms | 5.00 ms | met |" in goals(data)
    assert goals(data).count("not measured") == len(data["goals"]) - 3
    assert [line.split(",")[0] for line in peers(data).splitlines()[2:]] == ["| import", "| lone_task"]
