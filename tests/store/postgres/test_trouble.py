"""The short forms of `trouble`, and that it would see what it looks for."""

import pytest

from server.store.postgres import lane
from server.store.postgres.place import Place
from server.store.postgres.schema import prepare
from tests.store.postgres.opened import Cluster
from tests.store.postgres.trouble import cut_at_random, hold_for, restart_at_random
from tests.support.postgres import PostgresServer
from tests.unit.samples import T0

pytestmark = pytest.mark.postgres


async def test_nothing_is_lost_or_done_twice_where_connections_are_cut(
    database: str, cluster: Cluster
) -> None:
    tally = await cut_at_random(database, cluster.server.port, cuts=60, seed=11)
    assert tally.cuts >= 60
    assert tally.acknowledged > 100
    assert tally.is_sound, tally


async def test_nothing_is_lost_or_done_twice_where_packets_are_held(database: str, cluster: Cluster) -> None:
    tally = await hold_for(database, cluster.server.port, 8, seed=13)
    assert tally.is_sound, tally
    # They were told that it could not be done, or that nobody knows.
    assert tally.refused + tally.unknown > 0


async def test_nothing_is_lost_or_done_twice_where_the_database_is_killed() -> None:
    server = PostgresServer()
    try:
        name = server.make_database()
        prepare(Place(server.url(name)))
        server.execute(f"INSERT INTO test_clock VALUES (true, {T0}, 0)", name)
        tally = await restart_at_random(server, server.url(name), 2, seed=14)
        assert tally.acknowledged > 50
        assert tally.is_sound, tally
    finally:
        server.close()


async def test_a_lane_that_does_not_settle_its_doubt_is_found_out(
    database: str, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def believe_the_worst(link: object, token: str) -> bool:
        return False

    monkeypatch.setattr(lane, "settle", believe_the_worst)
    tally = await cut_at_random(database, cluster.server.port, cuts=150, seed=12)
    assert tally.twice > 0
