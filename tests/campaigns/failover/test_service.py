"""The short form of a failover under the load of a real service."""

import pytest

from tests.campaigns.failover.failovers import fail_over_at_random

pytestmark = pytest.mark.postgres


async def test_nothing_is_lost_or_doubled_where_the_primary_is_killed_and_its_standby_promoted() -> None:
    report = await fail_over_at_random(1, seed=1, senders=2, fsync="off")
    assert report.troubles.total() == len(report.pauses_s) == 1
    assert report.acknowledged["messages"] > 0
    assert report.is_sound, report
