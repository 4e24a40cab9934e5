"""Scopes: what lies out of a scope is not there, in every word."""

import random
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from functools import partial

import pytest

from server.clock import TestClock
from server.domain.access import EVERYTHING, Scope
from server.domain.agents import Agent
from server.domain.errors import (
    AgentAlreadyExistsError,
    AgentNotFoundError,
    DomainError,
    PermissionDeniedError,
    RequestIdReusedError,
    SessionNotFoundError,
)
from server.domain.idempotency import RequestKey, creation_scope
from server.domain.sessions import Session, create, heartbeat
from server.store.contract import Store
from server.store.values import Counts, Position
from tests.store.conformance.common import UNKNOWN, OnStore, agent, expire, respond, say
from tests.unit.samples import AGENT, POLICY, T0, USER, put, session

OTHER = "22222222-2222-4222-8222-222222222222"
OTHER_AGENT = "00000000-0000-4000-8000-0000000000bb"

OUTSIDE = [
    Scope("acme"),
    Scope(""),
    Scope("tenant", OTHER),
    Scope(None, OTHER),
    Scope("tenant", None, OTHER_AGENT),
    Scope(None, None, OTHER_AGENT),
    Scope("tenant", USER, AGENT, UNKNOWN),
]
INSIDE = [
    EVERYTHING,
    Scope("tenant"),
    Scope("tenant", USER),
    Scope(None, USER),
    Scope("tenant", None, AGENT),
    Scope("tenant", USER, AGENT),
]
"""Of a session of `tenant`, USER and AGENT."""

CALLS: dict[str, Callable[[Store, Session, Scope], Awaitable[object]]] = {
    "get_session": lambda store, one, scope: store.get_session(one.id, scope=scope),
    "find_channel": lambda store, one, scope: store.find_channel(one.channel_id, scope=scope),
    "apply": lambda store, one, scope: store.apply(one.id, heartbeat, scope=scope),
    "apply, again": lambda store, one, scope: store.apply(one.id, say(), asked(one), scope=scope),
    "apply, other content": lambda store, one, scope: store.apply(
        one.id, say(), asked(one)._replace(fingerprint="other"), scope=scope
    ),
    "apply_delivery": lambda store, one, scope: store.apply_delivery(one.id, 1, respond(), scope=scope),
    "apply_delivery, none": lambda store, one, scope: store.apply_delivery(one.id, 9, respond(), scope=scope),
    "delete_session": lambda store, one, scope: store.delete_session(one.id, scope=scope),
    "delete_session, another state": lambda store, one, scope: store.delete_session(
        one.id, '"0-0"', scope=scope
    ),
}


def asked(one: Session) -> RequestKey:
    return RequestKey(f"session:{one.id}", "known", "content")


def every_scope() -> Iterator[Scope]:
    for tenant in (None, "", "a", "b", "none"):
        for user_id in (None, USER, OTHER):
            yield from (Scope(tenant, user_id, agent_id) for agent_id in (None, AGENT, OTHER_AGENT))


async def outcome(call: Awaitable[object]) -> tuple[object, ...]:
    try:
        return (await call,)
    except DomainError as error:
        return type(error), str(error), set(error.details)


class Scopes(OnStore):
    async def tenants(self, store: Store) -> Session:
        one = session()._replace(tenant="tenant")
        await put(store, one)
        await store.apply(one.id, say(), asked(one), scope=EVERYTHING)
        return await store.get_session(one.id, scope=EVERYTHING)

    @pytest.mark.parametrize("scope", OUTSIDE)
    async def test_anothers_is_answered_as_nobodys(self, store: Store, scope: Scope) -> None:
        one = await self.tenants(store)
        for is_recent in (True, False):
            if not is_recent:
                await store.purge(0, 1)
            for name, call in CALLS.items():
                nobodys = one._replace(id=UNKNOWN, channel_id=UNKNOWN)
                refused = await outcome(call(store, one, scope))
                assert refused == await outcome(call(store, nobodys, scope)), name
                assert refused[0] is SessionNotFoundError, name
        assert await store.list_entries(one.id, scope=scope, after_sequence=0, limit=9) == []
        assert await store.find_answer(one.id, 1, scope=scope) is None
        assert await store.get_session(one.id, scope=EVERYTHING) == one

    @pytest.mark.parametrize("scope", INSIDE)
    async def test_its_own_is_answered(self, store: Store, scope: Scope) -> None:
        one = await self.tenants(store)
        assert await store.get_session(one.id, scope=scope) == one
        await store.purge(0, 1)
        for narrowed in (scope, scope._replace(session_id=one.id)):
            assert await store.get_session(one.id, scope=narrowed) == one
            assert await store.find_channel(one.channel_id, scope=narrowed) == one.id
            assert len(await store.list_entries(one.id, scope=narrowed, after_sequence=0, limit=9)) == 1
        assert (await store.apply(one.id, say(), asked(one), scope=scope)).replayed
        answered = await store.apply_delivery(one.id, 1, respond(), scope=scope)
        assert await store.find_answer(one.id, 1, scope=scope) == answered.entry
        await store.delete_session(one.id, scope=scope)
        with pytest.raises(SessionNotFoundError):
            await store.get_session(one.id, scope=EVERYTHING)

    async def test_an_own_session_that_another_batch_member_may_not_see(self, store: Store) -> None:
        one = await self.tenants(store)
        results = await self.together(
            store,
            [
                store.apply(one.id, say("1"), scope=Scope("tenant")),
                store.apply(one.id, say("2"), scope=Scope("acme")),
                store.apply(one.id, say("3"), scope=Scope("tenant", USER)),
            ],
        )
        assert isinstance(results[1], SessionNotFoundError)
        assert [results[n].entry.sequence for n in (0, 2)] == [2, 3]

    async def test_lists_and_counts_are_those_of_the_scope(self, store: Store, clock: TestClock) -> None:
        chance, stored = random.Random(7), []
        for n in range(60):
            one = session(
                T0 + chance.randrange(9),
                agent_id=chance.choice((AGENT, OTHER_AGENT)),
                user_id=chance.choice((USER, OTHER)),
            )._replace(tenant=chance.choice(("", "a", "b")))
            await put(store, one)
            if n % 4 == 0:
                await store.apply(one.id, expire, scope=EVERYTHING)
            stored.append(await store.get_session(one.id, scope=EVERYTHING))
        gone = stored.pop(3), stored.pop(7)
        for one in gone:
            await store.delete_session(one.id, scope=EVERYTHING)
        clock.set_ms(T0 + 9)
        stored.sort(key=lambda one: (one.created_at_ms, one.id))
        assert {one.expiry_logged for one in gone} == {True, False}
        for scope in every_scope():
            mine = [one for one in stored if scope.has(one)]
            live = [one for one in mine if not one.expiry_logged]
            found = await store.counts(scope=scope)
            assert found == Counts(len(live), len(mine) - len(live), 0, 0)
            for agent_id, user_id in ((None, None), (AGENT, None), (None, USER), (OTHER_AGENT, OTHER)):
                wanted = [
                    one for one in live if agent_id in (None, one.agent_id) and user_id in (None, one.user_id)
                ]
                met, after = [], None
                while True:
                    page = await store.list_sessions(
                        T0 + 9, scope=scope, limit=7, after=after, agent_id=agent_id, user_id=user_id
                    )
                    assert page.total == len(wanted)
                    met, after = met + page.sessions, page.next
                    if after is None:
                        break
                assert met == wanted
            newest, before = [], None
            while True:
                page = await store.list_user_sessions(USER, scope=scope, limit=4, before=before)
                newest, before = newest + page.sessions, page.next
                if before is None:
                    break
            assert newest == [one for one in reversed(mine) if one.user_id == USER]
            assert page.total == len(newest)

    async def test_who_sees_one_session_has_no_lists(self, store: Store, one: Session) -> None:
        scope = Scope("", USER, None, one.id)
        assert (await store.list_sessions(T0, scope=scope, limit=9)).sessions == []
        assert (await store.list_user_sessions(USER, scope=scope, limit=9)).sessions == []
        assert await store.counts(scope=scope) == Counts(0, 0, 0, 0)

    async def test_a_session_is_made_of_an_agent_of_the_scope(self, store: Store) -> None:
        own, shared, others = agent(1, tenant="a"), agent(2), agent(3, tenant="b")
        for one in (own, shared, others):
            await store.create_agent(one)

        def made(of: Agent, tenant: str) -> Awaitable[object]:
            rule = partial(
                create,
                session_id=session().id,
                channel_id=session().id,
                agent_id=of.id,
                user_id=USER,
                metadata="{}",
                policy=POLICY,
                tenant=tenant,
            )
            return store.create_session(of.id, rule, scope=Scope(tenant, USER))

        for of in (own, shared):
            assert (await made(of, "a")).session.tenant == "a"
        refused = await outcome(made(others, "a"))
        assert refused == await outcome(made(replace(others, id=UNKNOWN), "a"))
        assert refused[0] is AgentNotFoundError
        assert await store.counts(scope=Scope("a")) == Counts(2, 0, 0, 0)

    async def test_the_same_request_id_in_two_tenants_is_of_two_requests(self, store: Store) -> None:
        made = {}
        for tenant in ("", "a", "b"):
            request = RequestKey(creation_scope(USER, tenant), "same", tenant)
            made[tenant] = session()._replace(tenant=tenant)
            for replayed in (False, True):
                outcome = await store.create_session(
                    AGENT, lambda _, __, new=made[tenant]: new, request, scope=Scope(tenant, USER)
                )
                assert (outcome.session, outcome.replayed) == (made[tenant], replayed)
        # The ids of the time without tenants stay good.
        assert creation_scope(USER, "") == f"user:{USER}"

    async def test_a_known_request_id_gives_out_no_session_of_another(self, store: Store) -> None:
        request = RequestKey("user:x", "known", "content")
        await put(store, session()._replace(tenant="a"), request)
        with pytest.raises(RequestIdReusedError):
            await store.create_session(AGENT, lambda _, __: session(), request, scope=Scope("b"))

    async def test_a_scope_sees_its_own_agents_and_those_of_all_tenants(self, store: Store) -> None:
        own, shared, others = agent(1, tenant="a"), agent(2), agent(3, T0 - 1, tenant="b")
        for one in (own, shared, others):
            await store.create_agent(one)
        assert await store.list_agents(scope=EVERYTHING, limit=9) == [others, own, shared]
        assert await store.list_agents(scope=Scope("a"), limit=9) == [own, shared]
        assert await store.list_agents(scope=Scope("b"), limit=1) == [others]
        assert await store.list_agents(
            scope=Scope("b"), limit=9, after=Position(others.created_at_ms, others.id)
        ) == [shared]
        assert await store.list_agents(scope=Scope("a", None, shared.id), limit=9) == [shared]
        assert await store.list_agents(scope=Scope(""), limit=9) == [shared]

        def keep(stored: Agent, now_ms: int) -> Agent:
            return stored

        for scope, visible in ((Scope("a"), own), (EVERYTHING, others), (Scope(""), shared)):
            assert await store.get_agent(visible.id, scope=scope) == visible
            assert await store.update_agent(visible.id, keep, scope=scope) == visible
        for call in (
            partial(store.get_agent, scope=Scope("a")),
            partial(store.update_agent, change=keep, scope=Scope("a")),
            partial(store.delete_agent, scope=Scope("a")),
        ):
            assert await outcome(call(others.id)) == await outcome(call(UNKNOWN))
            assert (await outcome(call(others.id)))[0] is AgentNotFoundError
        assert await store.get_agent(shared.id, scope=Scope("a")) == shared
        with pytest.raises(PermissionDeniedError):
            await store.update_agent(shared.id, keep, scope=Scope("a"))
        with pytest.raises(PermissionDeniedError):
            await store.delete_agent(shared.id, scope=Scope("a"))
        with pytest.raises(AgentAlreadyExistsError):
            await store.create_agent(agent(3, tenant="a"))
        for scope, mine in ((Scope("a"), own), (Scope(""), shared), (EVERYTHING, others)):
            await store.delete_agent(mine.id, scope=scope)
        assert await store.list_agents(scope=EVERYTHING, limit=9) == []
