"""The simulated service keeps to its contract, and a seed means the same run every time."""

import pytest

from tests.campaigns.simulation.machine import SimulatedService, explore
from tests.campaigns.simulation.pinned import world_of
from tests.campaigns.simulation.run import DEEDS, run
from tests.campaigns.simulation.settings import AGENTS, USERS
from tests.campaigns.simulation.state import Violation
from tests.campaigns.simulation.workers import Worker
from tests.campaigns.simulation.world import World

SEEDS = range(2, 12)
HAPPENS = {
    "crashes",
    "stops",
    "replays",
    "replies followed",
    "reply_failures",
    "warnings",
    "expirys",
    "chunks seen",
    "entries seen",
}
HAPPENS |= {"aborts seen", "deletions seen"}


def test_a_few_worlds_do_as_the_model_says() -> None:
    reports = [run(seed) for seed in SEEDS]
    problems = {report.seed: report.problem for report in reports if report.problem}
    assert not problems
    counts = sum((report.counts for report in reports[1:]), reports[0].counts)
    # That nothing was found says something only where all this has happened.
    assert set(counts) >= HAPPENS


def test_a_worker_may_answer_nothing_in_a_session_that_is_gone() -> None:
    late = 0
    for seed in SEEDS:
        with world_of(seed) as world:
            world.habits = {"empty": 1}
            world.start()
            Worker(world, AGENTS[1], 1).connect()
            world.call("create", agent=AGENTS[1], user=USERS[0], metadata={}, timeout={}, request="")
            world.go(1)
            (session_id,) = world.model.sessions
            world.call("send", session=session_id, content="hello", metadata={}, request="", converse=False)
            world.go(0.4)
            late += not world.counts["agents: empty"]
            world.call("delete", session=session_id, etag="")
            world.go(10)
            assert world.counts["refused answers"] == 1
    assert late


def test_a_seed_is_one_run() -> None:
    first, again, other = run(7), run(7), run(8)
    assert first == again
    assert first.digest != other.digest


def test_a_run_with_many_actions_does_as_the_model_says() -> None:
    assert run(1, 300).problem is None


def test_any_order_of_what_is_done() -> None:
    explore(10, 1)
    assert {"crashes", "replays", "entries seen"} <= set(SimulatedService.counts)


def test_what_is_found_is_raised_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """To shrink it takes minutes, after which a test is taken for one that hangs."""
    found = 0

    def break_promise(world: World) -> None:
        nonlocal found
        found += 1
        raise Violation("found")

    monkeypatch.setitem(DEEDS, "send", break_promise)
    with pytest.raises(Violation):
        explore(20, 1)
    # Hypothesis repeats it, to show the steps.
    assert found <= 3


@pytest.mark.slow
@pytest.mark.parametrize("start", range(1, 21))
def test_any_order_of_what_is_done_ten_thousand_times(start: int) -> None:
    explore(500, start)


@pytest.mark.slow
@pytest.mark.parametrize("start", range(100_000, 110_000, 500))
def test_ten_thousand_worlds_do_as_the_model_says(start: int) -> None:
    assert not [report for report in map(run, range(start, start + 500)) if report.problem]
