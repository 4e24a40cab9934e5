"""The Store in a PostgreSQL database: a lane that writes in groups, lanes that read in groups, and no pool.

Several servers share it. What one of them has written the others read at once, and are told of it by `hints`.
"""

import asyncio
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Final

import psycopg

from server.domain.access import Scope
from server.domain.agents import Agent
from server.domain.errors import DomainError, UnavailableError
from server.domain.idempotency import RequestKey
from server.domain.ids import new_id
from server.domain.log import Piece
from server.domain.quotas import UserQuota
from server.domain.sessions import Creation, Outcome, Rule
from server.store.batch import EraseStep
from server.store.contract import MAX_WRITES, AgentChange, CommitListener, Store
from server.store.hints import Hint, HintListener
from server.store.operations import Apply, Create, Delete
from server.store.postgres import due, removal
from server.store.postgres.agents import PostgresAgents
from server.store.postgres.announcer import Announcer
from server.store.postgres.clock import DatabaseTestTime, DatabaseTime
from server.store.postgres.counts import IdleCounts
from server.store.postgres.deliveries import PostgresDeliveries
from server.store.postgres.inspection import PostgresInspection
from server.store.postgres.lanes import Lanes
from server.store.postgres.listener import Listener
from server.store.postgres.messages import PostgresMessages
from server.store.postgres.place import Link, Place
from server.store.postgres.replicas import find_dead, join, leave, renew, set_clock, start_clock, who_lags
from server.store.postgres.schema import prepare, schema_version, unusable
from server.store.postgres.tokens import forget_tokens
from server.store.values import Description, Erased, Sizes
from server.telemetry.telemetry import OFF, Telemetry
from server.telemetry.traces import NO_TRACES, Traces

FORGOTTEN_TOKENS: Final = 1000
"""How many tokens are removed at a time."""
CLOCK_SECONDS: Final = 0.05
"""How often it is looked whether the other servers go by a clock that was set."""
_SIZE: Final = "SELECT pg_database_size(current_database())"
_FIND_GROWN: Final = (
    "SELECT known.id, last_sequence FROM unnest(%s::uuid[], %s::bigint[]) AS known (id, sequence) "
    "LEFT JOIN sessions ON sessions.id = known.id "
    "WHERE last_sequence IS NULL OR last_sequence > known.sequence"
)
STATEMENTS: Final = {"find_grown": _FIND_GROWN}
"""By name, for the tests of their plans."""


class PostgresStore(PostgresInspection, PostgresMessages, PostgresAgents, PostgresDeliveries, Store):
    """See Store. Made by `open`."""

    is_shared = True

    def __init__(
        self,
        place: Place,
        replica_id: str,
        slot: int,
        time: DatabaseTime,
        max_writes: int,
        telemetry: Telemetry = OFF,
        traces: Traces = NO_TRACES,
    ) -> None:
        super().__init__(place)
        self.replica_id = replica_id
        self._slot = slot
        self._fronts = {}
        self._idle_counts = IdleCounts()
        self._schema = schema_version()
        self._time = time
        self._hint_listeners: list[HintListener] = [self._on_hint]
        self._looking: asyncio.Task[None] | None = None
        self._lanes = Lanes(place, slot, time.learn, max_writes, telemetry, traces)
        self._announcer = Announcer(place, replica_id) if place.announces else None
        self._listener = Listener(place, replica_id, self._hint_listeners) if place.announces else None
        if self._announcer:
            self._lanes.listeners.append(self._announcer.on_commit)

    @classmethod
    async def open(
        cls,
        place: Place,
        time: DatabaseTime | None = None,
        max_writes: int = MAX_WRITES,
        telemetry: Telemetry = OFF,
        traces: Traces = NO_TRACES,
    ) -> "PostgresStore":
        """Opens the store, making or migrating its tables first; `max_writes` may wait for the database.

        Raises StoreOpenError, saying why.
        """
        await asyncio.to_thread(prepare, place)
        replica_id = new_id()
        try:
            link = await place.connect("start")
            try:
                if time:
                    time.learn(await start_clock(link, is_test=isinstance(time, DatabaseTestTime)))
                slot = await join(link, replica_id, schema_version())
            finally:
                await link.close()
        except psycopg.Error as error:
            raise unusable(place, error) from error
        return cls(place, replica_id, slot, time or DatabaseTime(), max_writes, telemetry, traces)

    def add_listener(self, listener: CommitListener) -> None:
        self._lanes.listeners.append(listener)

    def add_hint_listener(self, listener: HintListener) -> None:
        self._hint_listeners.append(listener)

    def _on_hint(self, hint: Hint) -> None:
        """Learns the time anew where anything may have happened: a test clock may have been set."""
        if hint.all and not self._closed and (self._looking is None or self._looking.done()):
            self._looking = asyncio.create_task(self._look())

    async def _look(self) -> None:
        # Whoever needs the store finds out itself that it is away.
        with suppress(DomainError):
            await self.check_writable()

    def announce_piece(self, piece: Piece) -> None:
        if self._announcer:
            self._announcer.note_piece(piece)

    async def find_grown(self, sequences: Mapping[str, int]) -> Mapping[str, int | None]:
        found = await self._read(_FIND_GROWN, [list(sequences), list(sequences.values())])
        return dict(found)

    async def find_dead(self, server_ids: Collection[str]) -> Collection[str]:
        return [server_id for (server_id,) in await self._read(*find_dead(server_ids))]

    async def set_clock(self, now_ms: int) -> None:
        async def work(link: Link, _: int) -> int:
            return await set_clock(link, now_ms)

        change = await self._lanes.first.run(work)
        self._time.learn(now_ms)
        if self._announcer:
            self._announcer.tell_all()
        while (await self._read(*who_lags(change, self.replica_id)))[0][0]:  # noqa: ASYNC110 - the database is asked
            await asyncio.sleep(CLOCK_SECONDS)

    async def update_agent(self, agent_id: str, change: AgentChange, *, scope: Scope) -> Agent:
        agent = await super().update_agent(agent_id, change, scope=scope)
        self._note_agent(agent_id)
        return agent

    async def delete_agent(self, agent_id: str, *, scope: Scope) -> None:
        await super().delete_agent(agent_id, scope=scope)
        self._note_agent(agent_id)

    def _note_agent(self, agent_id: str) -> None:
        if self._announcer:
            self._announcer.note_agent(agent_id)

    async def create_session(
        self,
        agent_id: str,
        rule: Creation,
        request: RequestKey | None = None,
        *,
        scope: Scope,
        of: UserQuota | None = None,
    ) -> Outcome:
        return await self._lanes.first.apply(Create(agent_id, rule, scope, request, of))

    async def apply(
        self, session_id: str, rule: Rule, request: RequestKey | None = None, *, scope: Scope
    ) -> Outcome:
        return await self._lanes.of(session_id).apply(Apply(session_id, rule, scope, request))

    async def delete_session(self, session_id: str, etag: str = "", *, scope: Scope) -> None:
        await self._lanes.of(session_id).delete(Delete(session_id, etag, scope))

    async def apply_due(self, rule: Rule, due_ms: int, limit: int) -> int:
        next_ms = await self.next_due_ms()
        if next_ms is None or next_ms > due_ms:
            # Nothing is written where nothing is due: all servers ask every second.
            return 0
        return await due.apply_due(self._lanes.first, rule, due_ms, limit)

    async def next_due_ms(self) -> int | None:
        ((next_ms,),) = await self._read(due.NEXT_DUE)
        return None if next_ms is None else int(next_ms)

    async def describe(self) -> Description:
        return Description(str(self._place), self._schema, await self._count_all())

    async def measure(self) -> Sizes:
        # What lies ahead of the tables and what space is left only the database's own tools can tell.
        ((size,),) = await self._read(_SIZE)
        return Sizes(int(size), None, None)

    async def check_writable(self) -> None:
        async def work(link: Link, now_ms: int) -> None:
            self._time.learn(await renew(link, self.replica_id, self._slot, self._schema))

        await self._lanes.first.run(work)

    async def purge(self, now_ms: int, limit: int, *, retention_ms: int = 0) -> int:
        lane = self._lanes.first

        async def work(link: Link, _: int) -> int:
            taken = await removal.take_expired(link, now_ms, retention_ms, limit, lane.number)
            if not taken:
                await self._idle_counts.remove(link)
            return taken

        return await lane.run(work)

    async def forget_requests(self, made_by_ms: int, limit: int) -> int:
        async def work(link: Link, now_ms: int) -> int:
            return await removal.forget_requests(link, made_by_ms, limit)

        return await self._lanes.first.run(work)

    async def shrink(self) -> bool:
        async def work(link: Link, now_ms: int) -> int:
            return await forget_tokens(link, FORGOTTEN_TOKENS)

        # Autovacuum does the rest.
        return await self._lanes.first.run(work) == FORGOTTEN_TOKENS

    async def erase_user(self, user_id: str, *, scope: Scope, limit: int) -> Erased:
        lane = self._lanes.first
        self._require_open()
        if scope.user_id not in (None, user_id):
            return Erased()

        async def work(link: Link, now_ms: int) -> EraseStep:
            return await removal.erase(link, user_id, scope, limit, lane.number)

        return (await lane.run(work)).erased

    async def finish_erasure(self) -> list[str]:
        # What the tables' files, the log of writes and backups still hold is the database's.
        self._require_open()
        return []

    async def clear_sessions(self) -> None:
        async def work(link: Link, now_ms: int) -> None:
            await removal.clear(link)

        await self._lanes.first.run(work)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        await self._lanes.close()
        await self._close_reading()
        if self._looking:
            await asyncio.wait([self._looking])
        for part in (self._announcer, self._listener):
            if part:
                await part.close()
        try:
            link = await self._place.connect("end")
        except psycopg.Error:
            # Its row runs out by itself.
            return
        try:
            await leave(link, self.replica_id)
        except psycopg.Error:
            return
        finally:
            await link.close()

    def _require_open(self) -> None:
        if self._closed:
            raise UnavailableError("The service is stopping")
