"""The servers that share the store. Each has a row that it keeps alive; with it go the leases it holds.

By the database's own time, whatever a test clock says.
"""

from collections.abc import Collection
from typing import Final

from server.store.postgres.deliveries import give_back
from server.store.postgres.place import Link
from server.store.values import StoreOpenError

ALIVE_MS: Final = 8_000
"""For how long a row stands for a server that runs. It is renewed with each check of the store."""

_NOW: Final = "floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint"
# The smallest number that is free. Where two servers take the same, they share rows of the counts, no more.
_JOIN: Final = (
    f"INSERT INTO replicas (id, slot, schema_version, alive_until_ms, seen_clock) SELECT %s::uuid, "
    "(SELECT min(free.slot) FROM (SELECT 0 AS slot UNION ALL SELECT slot + 1 FROM replicas) AS free "
    "WHERE NOT EXISTS (SELECT 1 FROM replicas WHERE replicas.slot = free.slot)), "
    f"%s, {_NOW} + {ALIVE_MS}, coalesce((SELECT changes FROM test_clock), 0) RETURNING slot"
)
_RENEW: Final = (
    f"INSERT INTO replicas (id, slot, schema_version, alive_until_ms, seen_clock) VALUES (%s::uuid, %s, %s, "
    f"{_NOW} + {ALIVE_MS}, coalesce((SELECT changes FROM test_clock), 0)) ON CONFLICT (id) DO UPDATE SET "
    "alive_until_ms = excluded.alive_until_ms, seen_clock = excluded.seen_clock"
)
_REMOVE_DEAD: Final = (
    "DELETE FROM replicas WHERE id IN (SELECT id FROM replicas "
    f"WHERE alive_until_ms < {_NOW} FOR UPDATE SKIP LOCKED)"
)
_LEAVE: Final = "DELETE FROM replicas WHERE id = %s::uuid"


_START_CLOCK: Final = (
    f"INSERT INTO test_clock (one, now_ms, changes) VALUES (true, {_NOW}, 0) ON CONFLICT DO NOTHING"
)
_NO_CLOCK: Final = "DELETE FROM test_clock"
_SERVICE_NOW: Final = f"SELECT coalesce((SELECT now_ms FROM test_clock), {_NOW})"
_SET_CLOCK: Final = (
    "INSERT INTO test_clock (one, now_ms, changes) VALUES (true, %s, 1) ON CONFLICT (one) DO UPDATE SET "
    "now_ms = excluded.now_ms, changes = test_clock.changes + 1 RETURNING changes"
)
_OTHERS: Final = (
    f"SELECT EXISTS (SELECT 1 FROM replicas WHERE alive_until_ms > {_NOW}), EXISTS (SELECT 1 FROM test_clock)"
)
_FIND_DEAD: Final = (
    "SELECT known.id FROM unnest(%s::uuid[]) AS known (id) LEFT JOIN replicas ON replicas.id = known.id "
    f"WHERE alive_until_ms IS NULL OR alive_until_ms < {_NOW}"
)
_WHO_LAGS: Final = (
    f"SELECT EXISTS (SELECT 1 FROM replicas WHERE seen_clock < %s AND alive_until_ms > {_NOW} "
    "AND id <> %s::uuid)"
)


async def start_clock(link: Link, *, is_test: bool) -> int:
    """Has the service go by a test clock, or by the database's; returns its time in ms. To be called before
    `join`.

    Raises StoreOpenError where other servers go by another one, and psycopg.Error.
    """
    ((others_run, they_test),) = await (await link.execute(_OTHERS)).fetchall()
    if others_run and they_test is not is_test:
        theirs = "a test clock" if they_test else "the database's time"
        raise StoreOpenError(
            f"other servers of the store go by {theirs}: set TEST_CLOCK at all of them or at none "
            "(one that was killed counts for 8 seconds)"
        )
    await link.execute(_START_CLOCK if is_test else _NO_CLOCK)
    ((now_ms,),) = await (await link.execute(_SERVICE_NOW)).fetchall()
    return int(now_ms)


async def set_clock(link: Link, now_ms: int) -> int:
    """Sets the test clock; returns the number of this change. Raises psycopg.Error."""
    ((changes,),) = await (await link.execute(_SET_CLOCK, [now_ms])).fetchall()
    return int(changes)


def find_dead(replica_ids: Collection[str]) -> tuple[str, list[object]]:
    """The statement that tells which of these servers have no row that is alive."""
    return _FIND_DEAD, [list(replica_ids)]


def who_lags(change: int, replica_id: str) -> tuple[str, list[object]]:
    """The statement that tells whether another server that runs has not seen a change of the clock."""
    return _WHO_LAGS, [change, replica_id]


async def join(link: Link, replica_id: str, schema: int) -> int:
    """Makes the row of this server; returns its number among those that run. Raises psycopg.Error."""
    ((slot,),) = await (await link.execute(_JOIN, [replica_id, schema])).fetchall()
    return int(slot)


async def renew(link: Link, replica_id: str, slot: int, schema: int) -> int:
    """Keeps the row of this server alive, and gives back the leases of those that are dead.

    Returns the service's time in ms: not an earlier one than its row now says that it has seen. Raises
    psycopg.Error.
    """
    async with link.pipeline():
        await link.execute(_RENEW, [replica_id, slot, schema])
        await link.execute(_REMOVE_DEAD)
        found = await link.execute(_SERVICE_NOW)
    # Also those of one that was frozen, has come back, and leased before its row was there again.
    await give_back(link)
    ((now_ms,),) = await found.fetchall()
    return int(now_ms)


async def leave(link: Link, replica_id: str) -> None:
    """Removes the row of this server and gives back its leases. Raises psycopg.Error."""
    await link.execute(_LEAVE, [replica_id])
    await give_back(link)
