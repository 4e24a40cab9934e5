"""The short form of `cuts`, and that it would see what it looks for."""

import pytest

from server.store.postgres import lane
from tests.store.postgres.cuts import cut_at_random
from tests.store.postgres.opened import Cluster


async def test_nothing_is_lost_or_done_twice_where_connections_are_cut(
    database: str, cluster: Cluster
) -> None:
    tally = await cut_at_random(database, cluster.server.port, cuts=60, seed=11)
    assert tally.cuts >= 60
    assert tally.acknowledged > 100
    assert tally.is_sound, tally


async def test_a_lane_that_does_not_settle_its_doubt_is_found_out(
    database: str, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def believe_the_worst(link: object, token: str) -> bool:
        return False

    monkeypatch.setattr(lane, "settle", believe_the_worst)
    tally = await cut_at_random(database, cluster.server.port, cuts=150, seed=12)
    assert tally.twice > 0
