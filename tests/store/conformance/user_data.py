"""A user's data: listed, erased, and bounded by quotas."""

from collections.abc import Awaitable
from functools import partial

import pytest

from server.domain.access import EVERYTHING, Scope
from server.domain.errors import (
    AgentNotFoundError,
    InvalidFieldError,
    QuotaExceededError,
    SessionNotFoundError,
)
from server.domain.idempotency import RequestKey
from server.domain.messages import Draft, Reply
from server.domain.quotas import Quotas, UserQuota
from server.domain.sessions import Outcome, Session, send_message
from server.store.contract import Store
from server.store.values import Commit, Counts, Erased
from tests.store.conformance.common import OnStore, agent, answer, expire, knows, refuse, respond, say
from tests.unit.samples import AGENT, T0, USER, session

OTHER = "22222222-2222-4222-8222-222222222222"


def made(
    store: Store, limit: int, request: RequestKey | None = None, user_id: str = USER, tenant: str = ""
) -> Awaitable[Outcome]:
    new = session(user_id=user_id)._replace(tenant=tenant)
    quota = UserQuota(user_id, tenant, limit)
    return store.create_session(AGENT, lambda _, __: new, request, scope=EVERYTHING, of=quota)


class UserData(OnStore):
    async def test_an_erase_removes_all_that_a_user_has_and_nothing_else(self, store: Store) -> None:
        gone = [await self.added(store, T0 + n, user_id=OTHER) for n in range(5)]
        kept = [await self.added(store, T0 + n) for n in range(3)]
        key = RequestKey(f"session:{gone[0].id}", "1", "content")
        for one in (*gone, *kept):
            await store.apply(one.id, say(), key if one is gone[0] else None, scope=EVERYTHING)
            await store.apply_delivery(one.id, 1, respond(), scope=EVERYTHING)
        await store.apply(gone[1].id, expire, scope=EVERYTHING)
        await store.delete_session(gone[2].id, scope=EVERYTHING)
        last = {one.id: await store.get_session(one.id, scope=EVERYTHING) for one in gone if one != gone[2]}
        commits: list[Commit] = []
        store.add_listener(commits.append)
        total = Erased()
        while any(step := await store.erase_user(OTHER, scope=EVERYTHING, limit=3)):
            assert step.rows <= 3
            total = Erased(*map(sum, zip(total, step, strict=True)))
        assert total[:4] == (4, 9, 4, 1)
        assert {one.id: one for commit in commits for one in commit.deleted} == last
        for one in gone:
            with pytest.raises(SessionNotFoundError):
                await store.get_session(one.id, scope=EVERYTHING)
        assert not await knows(store, key)
        assert (await store.list_user_sessions(OTHER, scope=EVERYTHING, limit=9)).total == 0
        assert await store.counts(scope=EVERYTHING) == Counts(3, 0, 0, 0)
        assert await store.counts(scope=Scope("", OTHER)) == Counts(0, 0, 0, 0)
        page = await store.list_user_sessions(USER, scope=EVERYTHING, limit=9)
        assert [one.id for one in page.sessions] == [one.id for one in reversed(kept)]
        assert await store.finish_erasure() == []
        assert (await store.apply(kept[0].id, say(), scope=EVERYTHING)).entry.sequence == 3

    async def test_an_erase_in_a_scope_that_has_not_the_user(self, store: Store, one: Session) -> None:
        for scope in (Scope("acme"), Scope(None, OTHER)):
            assert await store.erase_user(USER, scope=scope, limit=9) == Erased()
        assert await store.get_session(one.id, scope=EVERYTHING) == one

    async def test_a_user_has_no_more_live_sessions_than_its_quota(self, store: Store) -> None:
        key = RequestKey("user:x", "1", "content")
        first = await made(store, 2, key)
        results = await self.together(store, [made(store, 2) for _ in range(3)])
        assert [isinstance(one, QuotaExceededError) for one in results] == [False, True, True]
        assert results[1].details["quota"] == "sessions of a user"
        assert results[1].details["limit"] == "2"
        # What was done before is answered before the quota is looked at.
        assert await made(store, 2, key) == first._replace(replayed=True)
        await made(store, 2, user_id=OTHER)
        await made(store, 2, tenant="other")
        await store.apply(first.session.id, expire, scope=EVERYTHING)
        await made(store, 2)
        with pytest.raises(QuotaExceededError):
            await made(store, 2)
        freed = await self.together(
            store,
            [store.delete_session(results[0].session.id, scope=EVERYTHING), made(store, 2), made(store, 2)],
        )
        assert isinstance(freed[1], Outcome)
        assert isinstance(freed[2], QuotaExceededError)
        assert (await store.counts(scope=Scope("", USER))).active == 2

    async def test_a_rule_refuses_before_the_quota(self, store: Store) -> None:
        await made(store, 1)
        quota = UserQuota(USER, "", 1)
        with pytest.raises(InvalidFieldError):
            await store.create_session(
                AGENT, lambda _, now_ms: refuse(session(), now_ms).session, scope=EVERYTHING, of=quota
            )

    async def test_the_bytes_and_entries_of_a_session_have_quotas(self, store: Store, one: Session) -> None:
        def sent(content: str, quotas: Quotas) -> Awaitable[Outcome]:
            rule = partial(send_message, message_id="m", draft=Draft(content, "{}", "[]"), quotas=quotas)
            return store.apply(one.id, rule, scope=EVERYTHING)

        # Two bytes of content, of metadata, of attachments.
        assert (await sent("é", Quotas(session_bytes=6))).session.stored_bytes == 6
        with pytest.raises(QuotaExceededError) as caught:
            await sent("a", Quotas(session_bytes=10))
        assert caught.value.details["quota"] == "bytes of a session"
        # An agent's reply is stored whatever it has.
        replied = await store.apply(one.id, answer(Reply(Draft("reply"))), scope=EVERYTHING)
        assert replied.session.stored_bytes == 6 + 7
        await store.purge(0, 1)
        assert (await store.get_session(one.id, scope=EVERYTHING)).stored_bytes == 13
        with pytest.raises(QuotaExceededError) as caught:
            await sent("a", Quotas(session_entries=2))
        assert caught.value.details["quota"] == "entries of a session"
        assert (await sent("a", Quotas(0, 3, 18))).session.last_sequence == 3

    async def test_a_tenant_has_no_more_agents_than_its_quota(self, store: Store) -> None:
        await store.create_agent(agent(1, tenant="a"), most=2)
        await store.create_agent(agent(2, tenant="b"), most=1)
        await store.create_agent(agent(3, tenant="a"), most=2)
        with pytest.raises(QuotaExceededError) as caught:
            await store.create_agent(agent(4, tenant="a"), most=2)
        assert caught.value.details["quota"] == "agents of a tenant"
        with pytest.raises(AgentNotFoundError):
            await store.get_agent(agent(4).id, scope=EVERYTHING)
        await store.create_agent(agent(4, tenant="a"))
