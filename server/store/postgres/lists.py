"""Lists of sessions in PostgreSQL, and how many there are of what they list.

An index has the sessions of each tenant in order; those of several tenants are merged. A list reads a page
and one row more, and goes on from there only where it has passed over some.
"""

from collections.abc import Mapping
from typing import Any, Final

from server.domain.access import EVERYTHING, Scope
from server.domain.sessions import Session
from server.store.contract import MAX_PASSED, Sessions
from server.store.counts import EXPIRED, LIVE, WARNED
from server.store.pages import FIRST, LAST, fill_active, fill_page, narrow
from server.store.postgres import rows
from server.store.postgres.counts import sum_of
from server.store.postgres.reading import Reading
from server.store.values import Counts, Position, SessionPage

_SESSION: Final = ", ".join(rows.SESSION)
_MOST_READ: Final = 256
"""How many sessions are read at a time beyond a page's own."""


def _merged(of_tenant: str, order: str) -> str:
    """Selects the first sessions of all tenants, from the first of each."""
    return (
        f"SELECT {_SESSION} FROM unnest(%(tenants)s::text[]) AS wanted, LATERAL ({of_tenant}) AS found "
        f"ORDER BY {order} LIMIT %(rows)s"
    )


def _live(*filters: str) -> str:
    named = "".join(f" AND {column} = %({column})s::uuid" for column in filters)
    return _merged(
        f"SELECT {_SESSION} FROM sessions WHERE NOT expired AND tenant = wanted{named} "
        "AND (created_at_ms, id) > (%(created_at_ms)s, %(id)s::uuid) "
        "ORDER BY created_at_ms, id LIMIT %(rows)s",
        "created_at_ms, id",
    )


_LISTS: Final = {
    (): _live(),
    ("agent_id",): _live("agent_id"),
    # Its index has the expired ones, too.
    ("user_id",): _live("user_id").replace("NOT expired", "expired = false"),
    ("agent_id", "user_id"): _live("agent_id", "user_id"),
}
_OF_USER: Final = (
    f"SELECT {_SESSION} FROM unnest(%(tenants)s::text[], %(states)s::boolean[]) AS wanted (tenant_of, "
    f"expired_of), LATERAL (SELECT {_SESSION} FROM sessions WHERE user_id = %(user_id)s::uuid "
    "AND tenant = tenant_of AND expired = expired_of "
    "AND (created_at_ms, id) < (%(created_at_ms)s, %(id)s::uuid) "
    "ORDER BY created_at_ms DESC, id DESC LIMIT %(rows)s) AS found "
    "ORDER BY created_at_ms DESC, id DESC LIMIT %(rows)s"
)
STATEMENTS: Final = {
    "list_live": _LISTS[()],
    "list_of_agent": _LISTS["agent_id",],
    "list_of_user": _LISTS["user_id",],
    "list_of_agent_and_user": _LISTS["agent_id", "user_id"],
    "list_all_of_user": _OF_USER,
}
"""All of them by name, for the tests of their plans."""


class PostgresLists(Reading, Sessions):
    """See Sessions."""

    async def list_sessions(
        self,
        now_ms: int,
        *,
        scope: Scope,
        limit: int,
        after: Position | None = None,
        agent_id: str | None = None,
        user_id: str | None = None,
    ) -> SessionPage:
        narrowed = narrow(scope, agent_id, user_id)
        if narrowed is None:
            return SessionPage([], None, 0)
        filters = {"agent_id": narrowed.agent_id, "user_id": narrowed.user_id}
        named = {column: value for column, value in filters.items() if value is not None}
        tenants = await self._count(LIVE, narrowed)
        found: list[Session] = []
        start = after or FIRST
        wanted = limit + 1
        while True:
            values = {**named, "tenants": list(tenants), "rows": wanted, **place_values(start)}
            read = [rows.session_of(row) for row in await self._read(_LISTS[tuple(named)], values)]
            found += read
            page, behind = fill_active(((one, True) for one in found), now_ms, limit, _ignore)
            if behind is not None or len(read) < wanted or len(found) > limit + MAX_PASSED:
                return SessionPage(page, behind, sum(tenants.values()))
            # It has passed over some.
            start, wanted = Position(found[-1].created_at_ms, found[-1].id), _MOST_READ

    async def list_user_sessions(
        self, user_id: str, *, scope: Scope, limit: int, before: Position | None = None
    ) -> SessionPage:
        narrowed = narrow(scope, None, user_id)
        if narrowed is None:
            return SessionPage([], None, 0)
        counted = [(state, await self._count(state, narrowed)) for state in (LIVE, EXPIRED)]
        ranges = [(tenant, state == EXPIRED) for state, tenants in counted for tenant in tenants]
        total = sum(sum(tenants.values()) for _, tenants in counted)
        mine: list[Session] = []
        start = before or LAST
        wanted = limit + 1
        while True:
            values = {
                "user_id": user_id,
                "tenants": [tenant for tenant, _ in ranges],
                "states": [state for _, state in ranges],
                "rows": wanted,
                **place_values(start),
            }
            read = [rows.session_of(row) for row in await self._read(_OF_USER, values)]
            mine += filter(scope.has, read)
            page, has_more = fill_page(mine, limit, lambda one: len(one.metadata))
            if has_more or len(read) < wanted:
                last = Position(page[-1].created_at_ms, page[-1].id) if page and has_more else None
                return SessionPage(page, last, total)
            start, wanted = Position(read[-1].created_at_ms, read[-1].id), _MOST_READ

    async def counts(self, *, scope: Scope) -> Counts:
        narrowed = narrow(scope, None, None)
        if narrowed is None:
            return Counts(0, 0, 0, 0)
        found = [sum((await self._count(state, narrowed)).values()) for state in (LIVE, EXPIRED, WARNED)]
        # PostgreSQL gives back what it was given, or says that it cannot.
        return Counts(found[0], found[1], found[2], 0)

    async def _count_all(self) -> int:
        """How many sessions there are, live or expired."""
        counted = [await self._count(state, EVERYTHING) for state in (LIVE, EXPIRED)]
        return sum(sum(tenants.values()) for tenants in counted)

    async def _count(self, state: str, scope: Scope) -> Mapping[str, int]:
        """How many sessions of a scope are in a state, by tenant."""
        return dict(await self._read(*sum_of(state, scope)))


def _ignore(session_id: str) -> None:
    """No session is unreadable."""


def place_values(position: Position) -> dict[str, Any]:
    """The parameters of a place in an order of creation."""
    nearest = rows.LAST_ID if position.created_at_ms >= LAST.created_at_ms else rows.NO_ID
    # A place comes from a client's token.
    return {
        "created_at_ms": position.created_at_ms,
        "id": position.id if rows.is_uuid(position.id) else nearest,
    }
