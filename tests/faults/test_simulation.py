"""The simulated service keeps to its contract, and a seed means the same run every time."""

import pytest

from tests.faults.simulation.run import run

SEEDS = range(1, 21)


def test_a_few_worlds() -> None:
    reports = [run(seed) for seed in SEEDS]
    problems = {report.seed: report.problem for report in reports if report.problem}
    assert not problems
    counts = sum((report.counts for report in reports[1:]), reports[0].counts)
    # That nothing was found says something only where all this has happened.
    for name in ("crashes", "stops", "replays", "replies followed", "reply_failures", "warnings", "expirys", "chunks seen", "entries seen"):
        assert counts[name], name


def test_a_seed_is_one_run() -> None:
    first, again, other = run(7), run(7), run(8)
    assert first == again
    assert first.digest != other.digest


def test_a_run_with_many_actions() -> None:
    assert run(1, 300).problem is None


@pytest.mark.slow
@pytest.mark.parametrize("start", range(100_000, 110_000, 500))
def test_ten_thousand_worlds(start: int) -> None:
    assert not [report for report in map(run, range(start, start + 500)) if report.problem]
