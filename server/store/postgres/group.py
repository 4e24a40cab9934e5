"""A batch of operations in PostgreSQL, in two round trips: what it wants is locked and loaded in one, what it
leaves is written and committed in the other, set by set.

Sessions are locked in the order of their ids, then the quotas of users, then counts, each in the order of
their keys: groups of different servers wait for each other, and never in a circle. What is loaded besides is
read by statements behind the lock: a statement sees what was there when it began.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from server.domain.deliveries import OPEN_STATES, Delivery, DeliveryState
from server.domain.log import Entry
from server.domain.sessions import Session
from server.store.batch import DeliveryKey, Loaded, Remembered, RequestName, Wanted, Written
from server.store.counts import CountKey
from server.store.postgres import rows
from server.store.postgres.counts import change_counts, lock_quotas
from server.store.postgres.place import LOCAL_LIMITS, Link
from server.store.postgres.removal import remove_in_group

BEGIN: Final = "BEGIN ISOLATION LEVEL READ COMMITTED"
NOW: Final = (
    "SELECT coalesce((SELECT now_ms FROM test_clock), "
    "floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint)"
)
"""The service's time."""

_SESSION: Final = ", ".join(rows.SESSION)
_LOCK_SESSIONS: Final = f"SELECT {_SESSION} FROM sessions WHERE id = ANY(%s::uuid[]) ORDER BY id FOR UPDATE"
_LOAD_DELIVERIES: Final = (
    f"SELECT {rows.of('deliveries', rows.DELIVERY)} FROM jsonb_array_elements(%s::jsonb) AS item "
    "JOIN deliveries ON session_id = (item ->> 0)::uuid AND sequence = (item ->> 1)::bigint"
)
# With the entry that a request made, and whether its session is there.
_LOAD_REQUESTS: Final = (
    "SELECT requests.scope, requests.id, fingerprint, answer, requests.session_id, "
    "EXISTS (SELECT 1 FROM sessions WHERE sessions.id = requests.session_id), "
    f"{rows.of('log', rows.ENTRY)} FROM jsonb_array_elements(%s::jsonb) AS item "
    "JOIN requests ON requests.scope = item ->> 0 AND requests.id = item ->> 1 "
    "LEFT JOIN log ON log.session_id = requests.session_id AND log.sequence = "
    "CASE WHEN answer ~ '^[0-9]{1,18}$' THEN answer::bigint END"
)
_LOAD_AGENTS: Final = f"SELECT {', '.join(rows.AGENT)} FROM agents WHERE id = ANY(%s::uuid[])"

_INSERT_SESSIONS: Final = (
    f"INSERT INTO sessions ({', '.join(rows.NEW_SESSION)}) SELECT {rows.item_values(rows.NEW_SESSION)} "
    "FROM jsonb_array_elements(%s::jsonb) AS item"
)
_CHANGED: Final = rows.CHANGED_SESSION[: rows.CHANGED_SESSION.index("id")]
_UPDATE_SESSIONS: Final = (
    f"UPDATE sessions SET ({', '.join(_CHANGED)}, due_at_ms) = "
    f"({', '.join(rows.item_value(rows.CHANGED_SESSION, column) for column in _CHANGED)}, "
    f"CASE WHEN {rows.item_value(rows.CHANGED_SESSION, 'is_nearer')} "
    f"THEN {rows.item_value(rows.CHANGED_SESSION, 'due_at_ms')} ELSE sessions.due_at_ms END) "
    "FROM jsonb_array_elements(%s::jsonb) AS item "
    f"WHERE sessions.id = {rows.item_value(rows.CHANGED_SESSION, 'id')}"
)
_SET_DUE: Final = (
    "UPDATE sessions SET due_at_ms = (item ->> 1)::bigint FROM jsonb_array_elements(%s::jsonb) AS item "
    "WHERE sessions.id = (item ->> 0)::uuid"
)
_INSERT_ENTRIES: Final = (
    f"INSERT INTO log ({', '.join(rows.NEW_ENTRY)}) SELECT {rows.item_values(rows.NEW_ENTRY)} "
    "FROM jsonb_array_elements(%s::jsonb) AS item"
)
_CHANGING_DELIVERY: Final = (*rows.DELIVERY[2:], "holder")
# The first open delivery keeps its time where the batch does not tell it; _SET_HEADS follows then.
_PUT_DELIVERIES: Final = (
    f"INSERT INTO deliveries ({', '.join(rows.SET_DELIVERY)}) SELECT {rows.item_values(rows.SET_DELIVERY)} "
    "FROM jsonb_array_elements(%s::jsonb) AS item ON CONFLICT (session_id, sequence) DO UPDATE SET "
    f"{', '.join(f'{column} = excluded.{column}' for column in _CHANGING_DELIVERY)}, "
    "head_due_ms = excluded.head_due_ms"
)
_SET_HEADS: Final = (
    "UPDATE deliveries SET head_due_ms = CASE WHEN sequence = first THEN CASE "
    "WHEN state = 'pending' THEN greatest(deliveries.due_at_ms, at_ms) WHEN holder IS NULL THEN 0 END END "
    "FROM (SELECT (item ->> 0)::uuid AS id, (item ->> 1)::bigint AS at_ms, "
    "(SELECT sequence FROM deliveries AS earlier WHERE earlier.session_id = (item ->> 0)::uuid "
    f"AND state IN {rows.OPEN} ORDER BY sequence LIMIT 1) AS first "
    "FROM jsonb_array_elements(%s::jsonb) AS item) AS heads "
    f"WHERE session_id = heads.id AND state IN {rows.OPEN} AND (sequence = first OR head_due_ms IS NOT NULL)"
)
_CLOSE_DELIVERIES: Final = (
    f"UPDATE deliveries SET state = '{DeliveryState.FAILED}', due_at_ms = NULL, head_due_ms = NULL, "
    f"holder = NULL WHERE session_id = ANY(%s::uuid[]) AND state IN {rows.OPEN}"
)
# Left by a session that is gone.
_FREE_REQUESTS: Final = (
    "DELETE FROM requests USING jsonb_array_elements(%s::jsonb) AS item "
    "WHERE requests.scope = item ->> 0 AND requests.id = item ->> 1"
)
_INSERT_REQUESTS: Final = (
    f"INSERT INTO requests ({', '.join(rows.REQUEST)}) "
    f"SELECT {rows.item_values(rows.REQUEST, ['id'])} FROM jsonb_array_elements(%s::jsonb) AS item"
)
_PUT_TOKEN: Final = "INSERT INTO commits (token, done) VALUES (%s::uuid, true)"

STATEMENTS: Final = {
    "lock_sessions": _LOCK_SESSIONS,
    "load_deliveries": _LOAD_DELIVERIES,
    "load_requests": _LOAD_REQUESTS,
    "load_agents": _LOAD_AGENTS,
    "insert_sessions": _INSERT_SESSIONS,
    "update_sessions": _UPDATE_SESSIONS,
    "set_due": _SET_DUE,
    "insert_entries": _INSERT_ENTRIES,
    "put_deliveries": _PUT_DELIVERIES,
    "set_heads": _SET_HEADS,
    "close_deliveries": _CLOSE_DELIVERIES,
    "free_requests": _FREE_REQUESTS,
    "insert_requests": _INSERT_REQUESTS,
    "put_token": _PUT_TOKEN,
}
"""All of them by name, for the tests of their plans."""


@dataclass(frozen=True, slots=True)
class Locked:
    """What was loaded, at which time of the service, the names of the requests that are in the table, and the
    quotas that are locked.
    """

    loaded: Loaded
    now_ms: int
    known_requests: frozenset[RequestName] = frozenset()
    quotas: frozenset[CountKey] = frozenset()


async def begin(link: Link) -> None:
    """Begins a transaction, within a pipeline. Raises psycopg.Error."""
    await link.execute(BEGIN)
    if link.prepare_threshold is None:
        await link.execute(LOCAL_LIMITS)


async def lock_and_load(link: Link, wanted: Wanted) -> Locked:
    """Begins the transaction of a batch, locks its sessions, loads what it wants. Raises psycopg.Error."""
    sessions = sorted(filter(rows.is_uuid, wanted.sessions))
    agents = [*filter(rows.is_uuid, wanted.agents)]
    deliveries = [key for key in wanted.deliveries if rows.is_uuid(key[0]) and 0 < key[1] < 2**63]
    async with link.pipeline():
        await begin(link)
        found_sessions = await link.execute(_LOCK_SESSIONS, [sessions]) if sessions else None
        found_counts = await lock_quotas(link, wanted.counts)
        found_now = await link.execute(NOW)
        found_deliveries = await link.execute(_LOAD_DELIVERIES, [_json(deliveries)]) if deliveries else None
        found_requests = (
            await link.execute(_LOAD_REQUESTS, [_json(wanted.requests)]) if wanted.requests else None
        )
        found_agents = await link.execute(_LOAD_AGENTS, [agents]) if agents else None
    loaded = Loaded()
    for row in await found_sessions.fetchall() if found_sessions else ():
        session = rows.session_of(row)
        loaded.sessions[session.id] = session
    for row in await found_deliveries.fetchall() if found_deliveries else ():
        delivery = rows.delivery_of(row)
        loaded.deliveries[delivery.session_id, delivery.sequence] = delivery
    for row in await found_agents.fetchall() if found_agents else ():
        agent = rows.agent_of(row)
        loaded.agents[agent.id] = agent
    for *key, sessions_there in await found_counts.fetchall() if found_counts else ():
        loaded.counts[key[0], key[1], key[2], key[3]] = sessions_there
    known = set()
    for scope, request_id, fingerprint, answer, session_id, is_there, *entry in (
        await found_requests.fetchall() if found_requests else ()
    ):
        known.add((scope, request_id))
        if is_there:
            made = _answer_of(answer, entry)
            loaded.requests[scope, request_id] = Remembered(fingerprint, made, session_id)
    ((now_ms,),) = await found_now.fetchall()
    return Locked(loaded, now_ms, frozenset(known), frozenset(wanted.counts))


def _answer_of(answer: str, entry: list[Any]) -> Session | Entry | None:
    made = orjson.loads(answer)
    if isinstance(made, dict):
        return rows.session_from_json(made)
    return rows.entry_of(tuple(entry)) if entry[0] is not None else None


async def write(
    link: Link,
    written: Written,
    locked: Locked,
    *,
    lane: int,
    holders: Mapping[DeliveryKey, str],
    deadlines: Iterable[tuple[str, int | None]] = (),
) -> None:
    """Writes what a batch leaves, within a pipeline.

    `holders`: who has the deliveries that are leased by now. `deadlines` are to be stored whatever the batch
    says of them. Raises psycopg.Error.
    """
    sessions = {one.id: one for one in (*written.created, *written.changed)}
    nearer = {one.id for one in written.nearer}
    if written.removed:
        await remove_in_group(link, sorted(written.removed))
    await _each(link, _INSERT_SESSIONS, map(rows.new_session_row, sorted(written.created)))
    await _each(
        link,
        _UPDATE_SESSIONS,
        (rows.changed_session_row(one, is_nearer=one.id in nearer) for one in written.changed),
    )
    await _each(link, _SET_DUE, deadlines)
    await change_counts(link, written.counts, lane, locked.quotas)
    await _each(link, _INSERT_ENTRIES, map(rows.new_entry_row, written.entries))
    known = locked.loaded.sessions | sessions
    heads = _known_heads(written, known)
    await _each(
        link,
        _PUT_DELIVERIES,
        (
            rows.set_delivery_row(
                one,
                known[one.session_id].agent_id,
                _head_due_ms(one, heads, holders),
                holders.get((one.session_id, one.sequence)),
            )
            for one in written.deliveries
        ),
    )
    # Where the batch does not know the first open delivery, the table does.
    unknown = {
        one: at_ms
        for one, at_ms in written.heads.items()
        if one not in heads and known[one].open_deliveries > 0
    }
    await _each(link, _SET_HEADS, unknown.items())
    if written.expired:
        await link.execute(_CLOSE_DELIVERIES, [sorted(written.expired)])
    if written.requests:
        requests = sorted(written.requests, key=lambda made: made[0][:2])
        names = {(request.scope, request.id) for request, _ in requests}
        await _each(link, _FREE_REQUESTS, sorted(names & locked.known_requests))
        # Of one name the last counts: the session of an earlier one was removed in the same batch.
        latest = {(request.scope, request.id): (request, made) for request, made in requests}
        await _each(link, _INSERT_REQUESTS, map(rows.request_row, latest.values()))


def _known_heads(written: Written, known: Mapping[str, Session]) -> dict[str, tuple[int, int]]:
    """Of the sessions whose one open delivery the batch has written: which that is, and since when."""
    open_ones: dict[str, list[Delivery]] = {}
    for one in written.deliveries:
        if one.state in OPEN_STATES:
            open_ones.setdefault(one.session_id, []).append(one)
    return {
        session_id: (mine[0].sequence, written.heads.get(session_id, 0))
        for session_id, mine in open_ones.items()
        if len(mine) == 1 and known[session_id].open_deliveries == 1 and session_id in written.heads
    }


def _head_due_ms(
    delivery: Delivery, heads: Mapping[str, tuple[int, int]], holders: Mapping[DeliveryKey, str]
) -> int | None:
    """From when on a delivery may be given; None: not before another, or not by anyone else."""
    sequence, at_ms = heads.get(delivery.session_id, (0, 0))
    if sequence != delivery.sequence:
        return None
    if delivery.state is DeliveryState.PENDING:
        return max(delivery.due_at_ms or 0, at_ms)
    return None if (delivery.session_id, delivery.sequence) in holders else 0


def is_empty(written: Written) -> bool:
    """Whether a batch leaves nothing to write."""
    return not any((written.removed, written.created, written.changed, written.deliveries, written.requests))


async def put_token(link: Link, token: str) -> None:
    """Leaves the token of the transaction, within a pipeline. Raises psycopg.Error."""
    await link.execute(_PUT_TOKEN, [token])


async def _each(link: Link, statement: str, items: Iterable[Any]) -> None:
    for values in rows.packed(items):
        await link.execute(statement, [values])


def _json(items: Iterable[Any]) -> str:
    return orjson.dumps(list(items)).decode()
