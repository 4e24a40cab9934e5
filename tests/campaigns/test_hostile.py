"""The hostile campaign in short: memory and counts.

How late others are is told by the full form, `python -m tests.campaigns.hostile`.
"""

import os
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.campaigns.hostile.campaign import AGAIN_MIB, FIRST_MIB, Campaign, Outcome, campaign
from tests.campaigns.hostile.rows import ROWS, Row
from tests.support.service import Serve

SIZE = 0.05
ROUNDS = 2
ALLOWED_MIB = FIRST_MIB + AGAIN_MIB * (ROUNDS - 1)
"""How much all rounds together may grow: short ones reach in the second what a long one does in the first."""


@pytest.fixture(scope="module")
def running() -> Iterator[Campaign]:
    seed = int(os.environ.get("HOSTILE_SEED") or random.SystemRandom().randrange(10**9))
    print(f"HOSTILE_SEED={seed}")
    with campaign(size=SIZE, seed=seed, rounds=ROUNDS, rest_seconds=0) as made:
        yield made


@pytest.fixture(scope="module")
def served(running: Campaign) -> Iterator[Callable[[Row], Serve]]:
    """A service with the store of a row, which rows share: a start costs more than most of them."""
    services: dict[object, Serve] = {}
    with ExitStack() as stack:

        def find(row: Row) -> Serve:
            if row.fill not in services:
                services[row.fill] = stack.enter_context(running.serving(row.fill))[0]
            return services[row.fill]

        yield find
        assert [service.stop() for service in services.values()] == [0] * len(services)
        assert not [
            line
            for service in services.values()
            for line in service.log().splitlines()
            if "Traceback" in line
        ]


@pytest.mark.parametrize(
    "row", [row for row in ROWS if not row.is_at_start], ids=lambda row: f"{row.number} {row.name}"
)
def test_what_a_stranger_asks_for_costs_little(
    row: Row, running: Campaign, served: Callable[[Row], Serve]
) -> None:
    outcome = running.play(row, served(row))
    print(*outcome.lines(), sep="\n")
    assert outcome.problems == []
    assert sum(outcome.grown_mib) <= ALLOWED_MIB


@pytest.mark.parametrize(
    "row", [row for row in ROWS if row.is_at_start], ids=lambda row: f"{row.number} {row.name}"
)
def test_what_waits_for_a_start_costs_little(row: Row, running: Campaign) -> None:
    outcome = running.run(row)
    print(*outcome.lines(), sep="\n")
    assert outcome.missed() == []


def test_what_grows_or_fails_is_told() -> None:
    row = ROWS[0]
    assert Outcome(row, grown_mib=[FIRST_MIB, AGAIN_MIB, -3.0]).missed() == []
    assert len(Outcome(row, grown_mib=[FIRST_MIB + 1, AGAIN_MIB, AGAIN_MIB + 1]).missed()) == 2
    assert Outcome(row, problems=["a reply is missing"]).missed() == ["a reply is missing"]
    times = Outcome(row, rest_s={"a": 0.01, "b": 0.2}, worst_s={"a": [9.0, 0.2], "b": [0.5, 0.7]})
    assert times.late() == []
    assert (
        len(Outcome(row, rest_s={"a": 0.01, "b": 0.2}, worst_s={"a": [9.0, 0.3], "b": [0.7, 0.7]}).late())
        == 2
    )


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.number} {row.name}")
def test_what_a_stranger_asks_for_at_full_size(row: Row) -> None:
    with campaign(size=1, seed=random.SystemRandom().randrange(10**9), rounds=3, rest_seconds=3) as full:
        outcome = full.run(row)
    print(*outcome.lines(), sep="\n")
    assert outcome.missed() == []
