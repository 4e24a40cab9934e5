"""A store in dictionaries: what a back end has to do beside `server.store.batch` and `pages`, and no more."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import itemgetter
from typing import Any

from server.clock import Clock
from server.domain.access import EVERYTHING, Scope
from server.domain.agents import Agent, require_owned
from server.domain.deliveries import OPEN_STATES, Delivery, DeliveryState
from server.domain.errors import (
    AgentAlreadyExistsError,
    AgentNotFoundError,
    DomainError,
    SessionNotFoundError,
    UnavailableError,
)
from server.domain.idempotency import RequestKey
from server.domain.log import Entry, message_of
from server.domain.quotas import TENANT_AGENTS, UserQuota, require_room
from server.domain.sessions import Creation, Outcome, Rule, Session, due_at_ms
from server.store import pages
from server.store.batch import Batch, Loaded, Operation, Remembered, Written, commit_of, strip
from server.store.contract import PUT_OFF_MS, AgentChange, CommitListener, LeaseRule, Store
from server.store.counts import EXPIRED, LIVE, WARNED, CountKey, counts_of
from server.store.inspection import MAX_LOOKED_AT, MAX_QUEUED
from server.store.leases import lease_each
from server.store.operations import Apply, ApplyToDelivery, Create, Delete
from server.store.values import (
    AgentQueue,
    Commit,
    Counts,
    DeliveryPage,
    Description,
    Erased,
    FoundDelivery,
    MessagePage,
    OpenDelivery,
    Place,
    Position,
    Runs,
    SearchPage,
    SessionFilter,
    SessionPage,
    Sizes,
)


def _descending(text: str) -> tuple[int, ...]:
    """A key that puts texts in descending order. A longer one comes before one that it begins with."""
    return (*(-ord(letter) for letter in text), 1)


class MemoryStore(Store):
    """See Store. What is asked for in one turn of the loop, or in a block of `held`, is one batch."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._sessions: dict[str, Session] = {}
        self._log: dict[str, dict[int, Entry]] = defaultdict(dict)
        self._deliveries: dict[tuple[str, int], Delivery] = {}
        self._requests: dict[tuple[str, str], Remembered] = {}
        self._agents: dict[str, Agent] = {}
        self._seeded: set[str] = set()
        self._counts: Counter[CountKey] = Counter()
        self._left = 0
        self._put_off: dict[str, int] = {}
        # Of each session with open deliveries, from when on the first may be given, and which one that is.
        self._heads: dict[str, tuple[int, int]] = {}
        self._listeners: list[CommitListener] = []
        self._queue: list[tuple[Operation, asyncio.Future[Any]]] = []
        self._is_held = self._closed = False

    def add_listener(self, listener: CommitListener) -> None:
        self._listeners.append(listener)

    @contextmanager
    def held(self) -> Iterator[None]:
        self._is_held = True
        yield
        self._is_held = False
        self._carry_out_queued()

    async def close(self) -> None:
        self._is_held = False
        self._carry_out_queued()
        self._closed = True

    def _require_open(self) -> None:
        if self._closed:
            raise UnavailableError("The service is stopping")

    async def _submit(self, operation: Operation) -> Any:
        self._require_open()
        loop = asyncio.get_running_loop()
        self._queue.append((operation, loop.create_future()))
        loop.call_soon(self._carry_out_queued)
        return await self._queue[-1][1]

    def _carry_out_queued(self) -> None:
        if not self._is_held and (group := [one for one in self._queue if not one[1].cancelled()]):
            self._queue = []
            self._carry_out(group)

    def _carry_out(self, group: Sequence[tuple[Operation, asyncio.Future[Any]]]) -> None:
        batch = Batch([operation for operation, _ in group])
        try:
            results = batch.apply(self._load(batch), self._clock.now_ms)
            self._write(batch.written())
        except Exception as error:  # noqa: BLE001 - it goes to its caller
            if len(group) > 1:
                for one in group:
                    self._carry_out([one])
            else:
                group[0][1].set_exception(strip(error))
            return
        for listener in self._listeners:
            listener(commit_of(results))
        for (_, future), result in zip(group, results, strict=True):
            if isinstance(result, DomainError):
                future.set_exception(result)
            else:
                future.set_result(result if isinstance(result, Outcome) else None)

    def _load(self, batch: Batch) -> Loaded:
        def there(table: dict[Any, Any], keys: Iterable[Any]) -> dict[Any, Any]:
            return {key: table[key] for key in keys if key in table}

        wanted = batch.wanted()
        return Loaded(
            there(self._sessions, wanted.sessions),
            there(self._deliveries, wanted.deliveries),
            there(self._requests, wanted.requests),
            there(self._agents, wanted.agents),
            there(self._counts, wanted.counts),
        )

    def _write(self, written: Written) -> None:
        if any(entry.at_ms is None for entry in written.entries):
            raise ValueError("an entry has no time")
        self._remove(written.removed)
        self._sessions |= {session.id: session for session in (*written.created, *written.changed)}
        self._counts.update(written.counts)
        for entry in written.entries:
            self._log[entry.session_id][entry.sequence] = entry
        self._deliveries |= {
            (delivery.session_id, delivery.sequence): delivery for delivery in written.deliveries
        }
        for key, delivery in self._deliveries.items():
            if delivery.session_id in written.expired and delivery.state in OPEN_STATES:
                self._deliveries[key] = delivery._replace(state=DeliveryState.FAILED, due_at_ms=None)
        for session_id, at_ms in (written.heads | dict.fromkeys(written.expired, 0)).items():
            self._set_head(session_id, at_ms)
        self._requests |= {(request.scope, request.id): made for request, made in written.requests}

    def _set_head(self, session_id: str, at_ms: int) -> None:
        self._heads.pop(session_id, None)
        open_ones = (one for one in self._deliveries.values() if one.state in OPEN_STATES)
        mine = (one for one in open_ones if one.session_id == session_id)
        if first := min(mine, key=lambda one: one.sequence, default=None):
            due_ms = 0 if first.state is DeliveryState.LEASED else max(first.due_at_ms or 0, at_ms)
            self._heads[session_id] = due_ms, first.sequence

    def _remove(self, ids: Iterable[str]) -> int:
        """Removes sessions with all that they have; returns how many rows a table would have had."""
        gone = set(ids)
        rows = sum(
            1 + len(self._log.pop(session_id, {}))
            for session_id in gone
            if self._sessions.pop(session_id, None)
        )
        for session_id in gone:
            self._heads.pop(session_id, None)
        for table in (self._deliveries, self._requests):
            keys = [key for key, row in table.items() if row.session_id in gone]
            rows += len(keys)
            for key in keys:
                del table[key]
        return rows

    async def create_session(
        self,
        agent_id: str,
        rule: Creation,
        request: RequestKey | None = None,
        *,
        scope: Scope,
        of: UserQuota | None = None,
    ) -> Outcome:
        return await self._submit(Create(agent_id, rule, scope, request, of))

    async def apply(
        self, session_id: str, rule: Rule, request: RequestKey | None = None, *, scope: Scope
    ) -> Outcome:
        return await self._submit(Apply(session_id, rule, scope, request))

    async def apply_delivery(self, session_id: str, sequence: int, rule: Any, *, scope: Scope) -> Outcome:
        return await self._submit(ApplyToDelivery(session_id, sequence, rule, scope))

    async def delete_session(self, session_id: str, etag: str = "", *, scope: Scope) -> None:
        await self._submit(Delete(session_id, etag, scope))

    async def get_session(self, session_id: str, *, scope: Scope) -> Session:
        self._require_open()
        session = self._sessions.get(session_id)
        if session is None or not scope.has(session):
            raise SessionNotFoundError(session_id)
        return session

    async def find_channel(self, channel_id: str, *, scope: Scope) -> str:
        self._require_open()
        for session in self._sessions.values():
            if session.channel_id == channel_id and scope.has(session):
                return session.id
        raise SessionNotFoundError(channel_id)

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
        self._require_open()
        start = after or pages.FIRST
        narrowed = pages.narrow(scope, agent_id, user_id)
        if narrowed is None:
            return SessionPage([], None, 0)
        live = (session for session in self._sessions.values() if not session.expiry_logged)
        found = sorted((one.created_at_ms, one.id) for one in live if narrowed.has(one))
        behind = (
            (self._sessions[place[1]], True) for place in found if place > (start.created_at_ms, start.id)
        )
        total = self._count(LIVE, narrowed)
        return SessionPage(*pages.fill_active(behind, now_ms, limit, str), total)

    async def list_user_sessions(
        self, user_id: str, *, scope: Scope, limit: int, before: Position | None = None
    ) -> SessionPage:
        self._require_open()
        end, narrowed = before or pages.LAST, pages.narrow(scope, None, user_id)
        mine = [one for one in self._sessions.values() if narrowed and narrowed.has(one)]
        ordered = sorted(mine, key=lambda one: (one.created_at_ms, one.id), reverse=True)
        earlier = (one for one in ordered if (one.created_at_ms, one.id) < (end.created_at_ms, end.id))
        page, has_more = pages.fill_page(earlier, limit, lambda one: len(one.metadata))
        last = Position(page[-1].created_at_ms, page[-1].id) if has_more else None
        return SessionPage(page, last, len(mine))

    def _count(self, state: str, scope: Scope) -> int:
        wanted = state, scope.agent_id or "", scope.user_id or ""
        return sum(
            count
            for (*key, tenant), count in self._counts.items()
            if tuple(key) == wanted and scope.tenant in (None, tenant)
        )

    def _has(self, session_id: str, scope: Scope) -> bool:
        self._require_open()
        return session_id in self._sessions and scope.has(self._sessions[session_id])

    def _messages(self, session_id: str) -> list[Entry]:
        self._require_open()
        return [entry for entry in self._log.get(session_id, {}).values() if entry.message]

    async def list_messages(
        self, session: Session, *, limit: int, before_ms: int | None = None, after_ms: int | None = None
    ) -> MessagePage:
        forward = pages.travels_forward(before_ms, after_ms)
        low_ms, high_ms = (
            -pages.ALWAYS_MS if after_ms is None else after_ms,
            pages.ALWAYS_MS if before_ms is None else before_ms,
        )
        found = [entry for entry in self._messages(session.id) if low_ms < entry.at_ms < high_ms]
        return pages.fill_messages(found if forward else reversed(found), session, limit, forward=forward)

    async def list_entries(
        self, session_id: str, *, scope: Scope, after_sequence: int, limit: int
    ) -> list[Entry]:
        log = self._log.get(session_id, {}) if self._has(session_id, scope) else {}
        found = (entry for sequence, entry in log.items() if sequence > after_sequence)
        return pages.fill_page(found, limit, pages.text_size)[0]

    async def list_history(self, session: Session, *, before_sequence: int, limit: int) -> list[Entry]:
        ordered = sorted(self._messages(session.id), key=pages.conversation_place, reverse=True)
        earlier = (entry for entry in ordered if pages.conversation_place(entry)[0] < before_sequence)
        return pages.fill_history(earlier, limit)

    async def count_history(self, session: Session, *, before_sequence: int, limit: int) -> int:
        places = map(pages.conversation_place, self._messages(session.id))
        return min(limit, sum(place < before_sequence for place, _ in places))

    async def find_answer(self, session_id: str, sequence: int, *, scope: Scope) -> Entry | None:
        log = self._log.get(session_id, {}) if self._has(session_id, scope) else {}
        found = [entry for entry in log.values() if entry.answers == sequence]
        if found and self._deliveries[session_id, sequence].state in OPEN_STATES:
            return None
        return next((entry for entry in found if entry.message), found[-1] if found else None)

    def _due(self, agent_id: str, held: Collection[str]) -> list[tuple[int, int, str]]:
        """Of the agent's sessions: when the first open delivery is due, which that is, and the session."""
        self._require_open()
        return sorted(
            (due_ms, sequence, session_id)
            for session_id, (due_ms, sequence) in self._heads.items()
            if self._sessions[session_id].agent_id == agent_id and session_id not in held
        )

    async def lease_due(
        self,
        agent_id: str,
        due_ms: int,
        limit: int,
        held: Collection[str] = (),
        rule: LeaseRule | None = None,
    ) -> list[OpenDelivery]:
        due: list[OpenDelivery] = []
        for at_ms, sequence, session_id in self._due(agent_id, held):
            entry = self._log[session_id][sequence]
            if at_ms <= due_ms:
                due.append(
                    OpenDelivery(self._sessions[session_id], entry, self._deliveries[session_id, sequence])
                )
        found = pages.fill_page(due, limit, lambda one: pages.text_size(one.entry))[0]
        return await lease_each(self, found, rule) if rule else found

    async def next_delivery_ms(self, agent_id: str, held: Collection[str] = ()) -> int | None:
        return min((at_ms for at_ms, _, _ in self._due(agent_id, held)), default=None)

    async def count_open(self) -> Mapping[str, int]:
        self._require_open()
        counts: Counter[str] = Counter()
        for session in self._sessions.values():
            counts[session.agent_id] += session.open_deliveries
        return +counts

    async def oldest_open_ms(self) -> int | None:
        self._require_open()
        heads = (self._log[session_id][sequence] for session_id, (_, sequence) in self._heads.items())
        return min((entry.at_ms for entry in heads), default=None)

    async def search_sessions(
        self,
        now_ms: int,
        wanted: SessionFilter,
        *,
        scope: Scope,
        limit: int,
        before: Position | None = None,
    ) -> SearchPage:
        self._require_open()
        narrowed = pages.narrow(scope, wanted.agent_id, wanted.user_id)
        if narrowed is None:
            return SearchPage([], None)
        start = pages.search_start(wanted, before)
        keys = sorted(((one.created_at_ms, one.id) for one in self._sessions.values()), reverse=True)
        found = (key for key in keys if key < (start.created_at_ms, start.id))
        return pages.fill_search(found, self._sessions.get, wanted, narrowed, now_ms, limit)

    def _found(self, one: Delivery) -> FoundDelivery:
        session, entry = self._sessions[one.session_id], self._log[one.session_id][one.sequence]
        end_ms = 0 if session.expiry_logged else session.expires_at_ms
        return FoundDelivery(one, message_of(entry).id, entry.at_ms, end_ms)

    async def list_deliveries(
        self,
        session: Session,
        *,
        limit: int,
        state: frozenset[DeliveryState],
        after: Place | None = None,
    ) -> DeliveryPage:
        self._require_open()
        there = self._deliveries.values() if session.id in self._sessions else ()
        found = [
            ((one.sequence,), one)
            for one in there
            if one.session_id == session.id and one.state in state and (not after or one.sequence < after[0])
        ]
        return self._delivery_page(sorted(found, reverse=True), limit)

    async def list_agent_deliveries(
        self, agent_id: str, *, scope: Scope, limit: int, failed: bool, after: Place | None = None
    ) -> DeliveryPage:
        self._require_open()
        found = []
        for one in self._deliveries.values():
            session = self._sessions[one.session_id]
            if session.agent_id != agent_id or session.expiry_logged or not scope.has(session):
                continue
            if failed and one.state is DeliveryState.FAILED:
                # In descending order of sessions, and ascending order within each.
                key = (
                    _descending(session.tenant),
                    -session.created_at_ms,
                    _descending(session.id),
                    one.sequence,
                )
                found.append((key, one))
            elif not failed and one.state in OPEN_STATES:
                found.append(((*self._heads[session.id], session.id, one.sequence), one))
        behind = [(key, one) for key, one in sorted(found, key=itemgetter(0)) if not after or key > after]
        return self._delivery_page(behind, limit)

    def _delivery_page(self, found: list[tuple[Any, Delivery]], limit: int) -> DeliveryPage:
        page = [self._found(one) for _, one in found[:limit]]
        return DeliveryPage(page, found[limit - 1][0] if len(found) > limit else None)

    async def find_message(self, session: Session, message_id: str) -> int | None:
        self._require_open()
        log = self._log.get(session.id, {})
        latest = (entry for entry in log.values() if entry.sequence > max(log) - MAX_LOOKED_AT)
        found = (entry.sequence for entry in latest if entry.message and entry.message.id == message_id)
        return next(found, None)

    async def describe_queue(self, agent_id: str, *, scope: Scope) -> AgentQueue:
        self._require_open()
        mine = [one for one in self._sessions.values() if one.agent_id == agent_id and scope.has(one)]
        heads = (self._log[one.id][self._heads[one.id][1]] for one in mine if one.id in self._heads)
        return AgentQueue(
            sum(one.open_deliveries for one in mine),
            min((entry.at_ms for entry in heads), default=None),
            min(sum(one.failed_deliveries for one in mine), MAX_QUEUED),
        )

    async def last_runs(self) -> Runs:
        self._require_open()
        return Runs()

    async def counts(self, *, scope: Scope) -> Counts:
        self._require_open()
        if scope.session_id is not None:
            return Counts(0, 0, 0, 0)
        return Counts(*(self._count(state, scope) for state in (LIVE, EXPIRED, WARNED)), 0)

    def _deadlines(self) -> list[tuple[int, str]]:
        self._require_open()
        instants = ((due_at_ms(one), one.id) for one in self._sessions.values())
        return sorted(
            (max(at_ms, self._put_off.get(one, at_ms)), one) for at_ms, one in instants if at_ms is not None
        )

    async def apply_due(self, rule: Rule, due_ms: int, limit: int) -> int:
        due = [session_id for at_ms, session_id in self._deadlines() if at_ms <= due_ms][:limit]
        for session_id in due:
            try:
                await self.apply(session_id, rule, scope=EVERYTHING)
            except Exception:  # noqa: BLE001 - whatever it is, it concerns this session alone
                self._put_off[session_id] = due_ms + PUT_OFF_MS
        return len(due)

    async def next_due_ms(self) -> int | None:
        return min((at_ms for at_ms, _ in self._deadlines()), default=None)

    async def describe(self) -> Description:
        self._require_open()
        return Description("memory", 1, len(self._sessions))

    async def measure(self) -> Sizes:
        self._require_open()
        return Sizes(0, 0, 0)

    async def check_writable(self) -> None:
        self._require_open()

    async def purge(self, now_ms: int, limit: int, *, retention_ms: int = 0) -> int:
        self._require_open()

        def purge_at_ms(one: Session) -> int:
            return one.expires_at_ms + (retention_ms if one.retention_ms is None else one.retention_ms)

        old = (one for one in self._sessions.values() if one.expiry_logged and purge_at_ms(one) <= now_ms)
        if not self._left and (first := min(old, key=purge_at_ms, default=None)):
            self._left = self._remove([first.id])
            self._counts.subtract(counts_of(first))
        taken = min(limit, self._left)
        self._left -= taken
        return taken

    async def shrink(self) -> bool:
        self._require_open()
        return False

    async def erase_user(self, user_id: str, *, scope: Scope, limit: int) -> Erased:
        self._require_open()
        if self._left:
            taken = min(limit, self._left)
            self._left -= taken
            return Erased(rows=taken)
        narrowed = pages.narrow(scope._replace(session_id=None), None, user_id)
        mine = [one for one in self._sessions.values() if narrowed and narrowed.has(one) and scope.has(one)][
            :limit
        ]
        ids = {one.id for one in mine}
        of_kind = (
            sum(len(self._log.get(one, {})) for one in ids),
            sum(row.session_id in ids for row in self._deliveries.values()),
            sum(row.session_id in ids for row in self._requests.values()),
        )
        self._left = self._remove(ids)
        for one in mine:
            self._counts.subtract(counts_of(one))
        if mine:
            for listener in self._listeners:
                listener(Commit([], mine))
        return Erased(len(mine), *of_kind, len(mine))

    async def finish_erasure(self) -> list[str]:
        self._require_open()
        return []

    async def forget_requests(self, made_by_ms: int, limit: int) -> int:
        self._require_open()
        old = [key for key, made in self._requests.items() if made.created_at_ms <= made_by_ms][:limit]
        for key in old:
            del self._requests[key]
        return len(old)

    async def clear_sessions(self) -> None:
        self._require_open()
        self._carry_out_queued()
        for table in (
            self._sessions,
            self._log,
            self._deliveries,
            self._heads,
            self._requests,
            self._counts,
        ):
            table.clear()
        self._left = 0

    async def create_agent(self, agent: Agent, *, most: int = 0) -> None:
        self._require_open()
        if agent.id in self._agents:
            raise AgentAlreadyExistsError(agent.id)
        same = sum(one.tenant == agent.tenant for one in self._agents.values())
        require_room(TENANT_AGENTS, most, same + 1)
        self._agents[agent.id] = agent

    async def seed_agent(self, agent: Agent) -> None:
        self._require_open()
        if agent.id not in self._seeded:
            self._seeded.add(agent.id)
            self._agents.setdefault(agent.id, agent)

    async def update_agent(self, agent_id: str, change: AgentChange, *, scope: Scope) -> Agent:
        agent = await self.get_agent(agent_id, scope=scope)
        require_owned(scope, agent)
        self._agents[agent_id] = change(agent, self._clock.now_ms())
        return self._agents[agent_id]

    async def delete_agent(self, agent_id: str, *, scope: Scope) -> None:
        require_owned(scope, await self.get_agent(agent_id, scope=scope))
        del self._agents[agent_id]

    async def get_agent(self, agent_id: str, *, scope: Scope) -> Agent:
        self._require_open()
        if agent_id not in self._agents or not scope.has_agent(self._agents[agent_id]):
            raise AgentNotFoundError(agent_id)
        return self._agents[agent_id]

    async def list_agents(self, *, scope: Scope, limit: int, after: Position | None = None) -> list[Agent]:
        self._require_open()
        start = after or pages.FIRST
        mine = filter(scope.has_agent, self._agents.values())
        ordered = sorted(mine, key=lambda one: (one.created_at_ms, one.id))
        return [one for one in ordered if (one.created_at_ms, one.id) > (start.created_at_ms, start.id)][
            :limit
        ]
