"""The deliveries in the SQLite file: which of an agent are due, and how those of a session are changed."""

import sqlite3
from collections.abc import Collection, Mapping
from contextlib import closing
from typing import Final, cast

import orjson
import structlog

from server.domain.access import Scope
from server.domain.deliveries import DeliveryState
from server.domain.log import Entry
from server.domain.replies import DeliveryRule
from server.domain.sessions import Outcome
from server.store import rows
from server.store.contract import PAGE_BYTES, Deliveries, LeaseRule
from server.store.leases import lease_each
from server.store.operations import ApplyToDelivery
from server.store.pages import text_size
from server.store.sqlite.reading import Reading
from server.store.sqlite.scopes import in_scope, is_narrow, named
from server.store.sqlite.writer import SqliteWriter
from server.store.values import OpenDelivery

_ENTRY: Final = ", ".join(rows.ENTRY)
_IS_THERE: Final = "EXISTS (SELECT 1 FROM sessions WHERE sessions.id = :id{})"
# A message that is delivered anew has failures in its log, and its answer is yet to come.
_FIND_ANSWER: Final = in_scope(
    f"SELECT {_ENTRY} FROM log WHERE session_id = :id AND answers = :sequence AND {_IS_THERE} UNION ALL "
    f"SELECT {_ENTRY} FROM log WHERE session_id = :id AND sequence = (SELECT max(sequence) FROM log "
    "INDEXED BY log_of_failures WHERE session_id = :id AND failed_sequence = :sequence) "
    "AND EXISTS (SELECT 1 FROM deliveries WHERE session_id = :id AND sequence = :sequence "
    f"AND state = '{DeliveryState.FAILED}') AND {_IS_THERE} LIMIT 1",
    "sessions",
)
_DUE: Final = (
    f"SELECT {rows.of('sessions', rows.SESSION)}, {rows.of('log', rows.ENTRY)}, "
    f"{rows.of('deliveries', rows.DELIVERY)} FROM sessions INDEXED BY sessions_by_head "
    "CROSS JOIN deliveries ON deliveries.session_id = sessions.id AND deliveries.sequence = head_sequence "
    "CROSS JOIN log ON log.session_id = sessions.id AND log.sequence = head_sequence "
    "WHERE agent_id = ? AND head_due_ms <= ? AND sessions.id NOT IN (SELECT value FROM json_each(?)) "
    "ORDER BY head_due_ms, head_sequence LIMIT ?"
)
_NEXT_DUE: Final = (
    "SELECT head_due_ms FROM sessions INDEXED BY sessions_by_head WHERE agent_id = ? "
    "AND head_due_ms IS NOT NULL AND id NOT IN (SELECT value FROM json_each(?)) ORDER BY head_due_ms LIMIT 1"
)
_COUNT_OPEN: Final = (
    "SELECT agent_id, sum(open_deliveries) FROM sessions INDEXED BY sessions_by_head "
    "WHERE head_due_ms IS NOT NULL GROUP BY agent_id"
)
_OLDEST_OPEN: Final = (
    "SELECT min(at_ms) FROM sessions INDEXED BY sessions_by_head "
    "CROSS JOIN log ON log.session_id = sessions.id AND log.sequence = head_sequence "
    "WHERE head_due_ms IS NOT NULL"
)
_MAX_UNREADABLE: Final = 100
"""How many deliveries that cannot be read back are passed over, in a damaged file."""

log = structlog.get_logger()


class SqliteDeliveries(Reading, Deliveries):
    """See Deliveries."""

    _writer: SqliteWriter

    async def apply_delivery(
        self, session_id: str, sequence: int, rule: DeliveryRule, *, scope: Scope
    ) -> Outcome:
        return await self._writer.apply(ApplyToDelivery(session_id, sequence, rule, scope))

    async def find_answer(self, session_id: str, sequence: int, *, scope: Scope) -> Entry | None:
        statement, values = _FIND_ANSWER[is_narrow(scope)], named(scope, id=session_id, sequence=sequence)
        found = self._read(lambda connection: connection.execute(statement, values).fetchall())
        return rows.entry_of(found[0]) if found else None

    async def lease_due(
        self,
        agent_id: str,
        due_ms: int,
        limit: int,
        held: Collection[str] = (),
        rule: LeaseRule | None = None,
    ) -> list[OpenDelivery]:
        values = agent_id, due_ms, orjson.dumps(list(held)).decode(), limit + _MAX_UNREADABLE
        found = self._read(lambda connection: _read_due(connection, values, limit))
        return await lease_each(self, found, rule) if rule else found

    async def next_delivery_ms(self, agent_id: str, held: Collection[str] = ()) -> int | None:
        values = agent_id, orjson.dumps(list(held)).decode()
        found = self._read(lambda connection: connection.execute(_NEXT_DUE, values).fetchone())
        return cast(int, found[0]) if found else None

    async def count_open(self) -> Mapping[str, int]:
        return await self._read_long(lambda connection: dict(connection.execute(_COUNT_OPEN).fetchall()))

    async def oldest_open_ms(self) -> int | None:
        return await self._read_long(
            lambda connection: cast(int | None, connection.execute(_OLDEST_OPEN).fetchone()[0])
        )


def _read_due(connection: sqlite3.Connection, values: rows.Row, limit: int) -> list[OpenDelivery]:
    """At most `limit` of the deliveries that _DUE finds, up to PAGE_BYTES of text."""
    due: list[OpenDelivery] = []
    left_bytes = PAGE_BYTES
    with closing(connection.execute(_DUE, values)) as found:
        for row in found:
            try:
                one = _open_delivery_of(row)
            except (ValueError, TypeError):
                log.exception("a delivery cannot be read back", session_id=row[0])
                continue
            left_bytes -= text_size(one.entry)
            if due and left_bytes < 0:
                break
            due.append(one)
            if len(due) == limit:
                break
    return due


def _open_delivery_of(row: rows.Row) -> OpenDelivery:
    session, entry = row[: len(rows.SESSION)], row[len(rows.SESSION) : -len(rows.DELIVERY)]
    return OpenDelivery(
        rows.session_of(session), rows.entry_of(entry), rows.delivery_of(row[-len(rows.DELIVERY) :])
    )
