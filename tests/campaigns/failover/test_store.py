"""The short forms of the campaigns on stores, and that each would see what it looks for."""

from collections.abc import Iterator

import pytest

from server.store.postgres import lane
from server.store.postgres.lane import Lane
from tests.campaigns.failover.cuts import IN_A_GROUP, cut_in_every_phase
from tests.campaigns.failover.queue import hold_vacuum_up
from tests.campaigns.failover.standby import send_standby_away
from tests.campaigns.failover.store_load import Target, hold_for, new_server, new_store, restart_at_random
from tests.support.postgres import FAST, PostgresServer

pytestmark = pytest.mark.postgres

# Servers that lose processes, and no power, need no fsync.


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with new_server(**FAST) as (server, _):
        yield server


@pytest.fixture
def target(server: PostgresServer) -> Target:
    return new_store(server)


async def test_nothing_is_lost_or_doubled_where_connections_are_cut(target: Target) -> None:
    tally = await cut_in_every_phase(target, cuts=100, seed=11)
    assert tally.troubles.total() == 100
    assert not [phase for phase in IN_A_GROUP if not tally.troubles[phase.value]]
    assert tally.acknowledged > 100
    assert tally.is_sound, tally


async def test_a_lane_that_does_not_settle_its_doubt_is_found_out(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def believe_the_worst(link: object, token: str) -> bool:
        return False

    monkeypatch.setattr(lane, "settle", believe_the_worst)
    tally = await cut_in_every_phase(target, cuts=100, seed=12)
    assert tally.doubled > 0


async def test_nothing_is_lost_or_doubled_where_packets_are_held(target: Target) -> None:
    tally = await hold_for(target, 8, seed=13, answer_s=3.0, wait_s=3.0)
    assert tally.is_sound, tally
    # They were told that it could not be done, or that nobody knows.
    assert tally.refused + tally.unknown > 0


async def test_a_lane_that_takes_what_is_held_for_not_done_is_found_out(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was held is carried out once it arrives, unless somebody has taken its place."""

    async def believe_the_worst(self: Lane, error: Exception) -> bool:
        await self._link.drop()
        return False

    monkeypatch.setattr(Lane, "_is_in_doubt", believe_the_worst)
    tally = await hold_for(target, 8, seed=13, answer_s=3.0, wait_s=3.0)
    assert tally.ghosts + tally.doubled > 0


async def test_nothing_is_lost_or_doubled_where_the_database_is_killed() -> None:
    with new_server(fsync="off") as (server, target):
        tally = await restart_at_random(server, target, 2, seed=14)
    assert tally.acknowledged > 50
    assert tally.is_sound, tally


async def test_a_database_that_answers_before_it_has_written_is_found_out() -> None:
    with new_server(fsync="off", synchronous_commit="off", wal_writer_delay="10s") as (server, target):
        tally = await restart_at_random(server, target, 2, seed=14)
    assert tally.lost > 0


async def test_nothing_is_lost_or_doubled_where_the_standby_goes_and_comes_back() -> None:
    tally = await send_standby_away(2, seed=15, longest_seconds=1.5, fsync="off")
    assert tally.troubles["standbys back"] == tally.troubles["standbys promoted"] == 1
    assert tally.troubles["pg_cancel_backend of a COMMIT"] > 0
    assert tally.is_sound, tally


async def test_a_lane_that_takes_a_cancelled_commit_for_one_that_lasts_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Lane, "_require_certain", lambda self: None)
    tally = await send_standby_away(2, seed=15, longest_seconds=1.5, fsync="off")
    assert tally.lost > 0


async def test_a_primary_that_does_not_wait_for_its_standby_is_found_out() -> None:
    tally = await send_standby_away(2, seed=15, is_synchronous=False, longest_seconds=1.5, fsync="off")
    assert tally.lost > 0


async def test_deliveries_go_on_while_dead_rows_cannot_be_removed(
    server: PostgresServer, target: Target
) -> None:
    """What a claim reads then, tests/store/postgres/test_front.py looks at: here it depends on how many wait,
    which is the machine's.
    """
    report = await hold_vacuum_up(server, target, minutes=0.1, intervals=3, sessions=400)
    assert report.sent > 0
    assert not any((report.lost, report.doubled, report.gaps, report.problems)), report
