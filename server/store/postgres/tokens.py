"""The tokens of transactions, by which one is settled whose COMMIT was never answered.

Each transaction that writes leaves a row with its token. Who was not answered tries to leave the same row,
as one that is not done. If the first is under way, the database has the second wait for it. If it is
committed, its row is there. If it is not, the second takes its place, and the first cannot commit any more,
even where its bytes arrive later. The second is committed like any other, so that a standby which it has to
wait for has the first one, too.
"""

from typing import Final

from server.clock import SystemClock
from server.domain.ids import id_at, new_id
from server.store.postgres.place import LOCAL_LIMITS, Link

KEPT_MS: Final = 3_600_000
"""For how long tokens are kept."""

_TAKE: Final = "INSERT INTO commits (token, done) VALUES (%s::uuid, false) ON CONFLICT (token) DO NOTHING"
_IS_DONE: Final = "SELECT done FROM commits WHERE token = %s::uuid"
_FORGET: Final = (
    "DELETE FROM commits WHERE token = ANY(ARRAY(SELECT token FROM commits WHERE token < %s::uuid "
    "ORDER BY token LIMIT %s FOR UPDATE SKIP LOCKED))"
)
# Of no session: only the age of tokens goes by it.
_CLOCK: Final = SystemClock()
STATEMENTS: Final = {"take_token": _TAKE, "read_token": _IS_DONE, "forget_tokens": _FORGET}
"""All of them by name, for the tests of their plans."""


def new_token() -> str:
    """A token that no other transaction has, ordered by this machine's time."""
    return id_at(_CLOCK.now_ms())


async def settle(link: Link, token: str) -> bool:
    """Tells whether the transaction with this token is committed; if not, it never will be.

    Raises psycopg.Error.
    """
    async with link.pipeline():
        await link.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
        if link.prepare_threshold is None:
            await link.execute(LOCAL_LIMITS)
        await link.execute(_TAKE, [token])
        found = await link.execute(_IS_DONE, [token])
        # Takes a number of its own in every case, so that its commit, too, waits for the standby.
        await link.execute(_TAKE, [new_id()])
        await link.execute("COMMIT")
    ((is_done,),) = await found.fetchall()
    return bool(is_done)


async def forget_tokens(link: Link, most: int) -> int:
    """Removes at most `most` tokens that nobody asks for any more. Raises psycopg.Error."""
    oldest = id_at(_CLOCK.now_ms() - KEPT_MS)
    return (await link.execute(_FORGET, [f"{oldest[:13]}-0000-0000-000000000000", most])).rowcount
