"""The store behind pgbouncer in transaction mode, where each transaction may be in another session of the
server; its version knows nothing of prepared statements.
"""

from pathlib import Path

import pytest

from server.clock import TestClock
from server.store.contract import Store
from tests.store.postgres.opened import open_store
from tests.store.postgres.test_postgres import OnPostgres
from tests.support.clients import create, invoke, replies, send
from tests.support.pgbouncer import pooled_store, shared_pgbouncer
from tests.support.service import Start

pytestmark = pytest.mark.postgres


class TestBehindPgbouncer(OnPostgres):
    async def open(self, directory: Path, clock: TestClock) -> Store:
        pooled = shared_pgbouncer().url(self.url.rpartition("/")[2])
        return await open_store(pooled, listen_url=self.url, prepares=False)


def test_the_commands_come_to_the_store_through_it(start: Start, tmp_path: Path) -> None:
    settings = pooled_store(tmp_path)
    migrated = invoke("migrate", **settings)
    assert (migrated.status, migrated.errors) == (0, "")
    service = start("--no-rest", **settings)
    session = create(service)
    for number in range(20):
        send(service, session.session_id, f"{number}")
    replies(service, session.session_id, 20)
    # More than once: psycopg prepares what it is asked for the fifth time.
    for _ in range(6):
        checked = invoke("check", **settings)
        assert (checked.status, checked.errors) == (0, "")
        assert "is sound: 1 sessions, 40 entries" in checked.out
    assert service.stop() == 0
    taken = invoke("copy-store", settings["DATABASE_URL"], f"sqlite:///{tmp_path / 'taken.db'}", **settings)
    assert (taken.status, taken.errors) == (0, "")
