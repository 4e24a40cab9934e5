"""Stores on PostgreSQL for tests: opened, held, and with a clock that is a row."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, NamedTuple

import psycopg

from server.clock import TestClock
from server.domain.access import EVERYTHING
from server.domain.sessions import Outcome, Session
from server.store.postgres.place import Place
from server.store.postgres.store import PostgresStore
from tests.support.inside_postgres import listener_of
from tests.support.postgres import PostgresServer
from tests.support.waiting import eventually
from tests.unit.samples import put, session


class Cluster(NamedTuple):
    """A running server, and the name of a database with an empty store."""

    server: PostgresServer
    template: str


def make_store(cluster: Cluster) -> Iterator[str]:
    """The URL of an empty store, which is removed afterwards."""
    name = cluster.server.make_database(cluster.template)
    yield cluster.server.url(name)
    cluster.server.remove_database(name)


class RowClock(TestClock):
    """The service's time as a row of the database, where a server would have it."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._link = psycopg.connect(url, autocommit=True)

    def set_ms(self, now_ms: int) -> None:
        super().set_ms(now_ms)
        self._link.execute(
            "INSERT INTO test_clock VALUES (true, %(now)s, 1) ON CONFLICT (one) "
            "DO UPDATE SET now_ms = %(now)s",
            {"now": now_ms},
        )

    def close(self) -> None:
        self._link.close()


async def open_store(url: str, **settings: Any) -> PostgresStore:
    return await PostgresStore.open(Place(url, **settings))


async def until_listening(store: PostgresStore) -> None:
    """Waits until a store hears of others."""
    await listener_of(store).is_listening.wait()


def _look(start: Session, now_ms: int) -> Outcome:
    return Outcome(start)


@asynccontextmanager
async def writer_held(store: PostgresStore, url: str) -> AsyncIterator[None]:
    """The lane waits for a session that somebody else has locked, so that what is called for in the block
    queues and makes one group.
    """
    blocker = session()
    await put(store, blocker)
    outsider = await psycopg.AsyncConnection.connect(url)
    try:
        await outsider.execute("SELECT 1 FROM sessions WHERE id = %s FOR UPDATE", [blocker.id])
        holding = asyncio.ensure_future(store.apply(blocker.id, _look, scope=EVERYTHING))
        await until_waiting(url)
        deleting = asyncio.ensure_future(store.delete_session(blocker.id, scope=EVERYTHING))
        await asyncio.sleep(0)
        yield
    finally:
        await outsider.rollback()
        await outsider.close()
    await asyncio.gather(holding, deleting)


async def until_waiting(url: str) -> None:
    """Waits until a transaction waits for another one's lock."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as watcher:
        while True:
            found = await watcher.execute(
                "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() "
                "AND cardinality(pg_blocking_pids(pid)) > 0"
            )
            if await found.fetchall():
                return
            await asyncio.sleep(0.002)


async def lose_standby(server: PostgresServer, database: str) -> None:
    """Has commits wait for a standby that there is not. Returns once they do: the server reads its settings
    anew in its own time.
    """
    server.execute("ALTER SYSTEM SET synchronous_standby_names = 'away'")
    server.execute("SELECT pg_reload_conf()")
    async with await psycopg.AsyncConnection.connect(server.url(database), autocommit=True) as prober:
        pid = prober.info.backend_pid
        is_waiting = False
        while not is_waiting:
            probe = asyncio.ensure_future(prober.execute("SELECT pg_logical_emit_message(true, 'away', '')"))
            is_waiting = await eventually(partial(_waits_or_is_over, server, pid, probe)) == "waits"
            if is_waiting:
                server.execute(f"SELECT pg_cancel_backend({pid})")
            await probe


def _waits_or_is_over(server: PostgresServer, pid: int, probe: asyncio.Future[Any]) -> str:
    if server.execute(f"SELECT 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND pid = {pid}"):
        return "waits"
    return "is over" if probe.done() else ""
