"""Agents."""

import random
from dataclasses import replace
from functools import partial

import pytest

from server.clock import TestClock
from server.domain.access import EVERYTHING
from server.domain.agents import Agent, AgentKind, OpenAiSettings, WebhookSettings
from server.domain.errors import AgentAlreadyExistsError, AgentNotFoundError, InvalidFieldError
from server.domain.timeouts import NOTHING_NAMED, PartialTimeoutConfig
from server.store.contract import Store
from server.store.values import Position
from tests.store.conformance.common import UNKNOWN, Misbehaved, OnStore, agent
from tests.unit.samples import T0


class Agents(OnStore):
    async def test_an_agent_is_read_as_it_was_created(self, store: Store) -> None:
        settings_of = (
            NOTHING_NAMED,
            PartialTimeoutConfig(7.25, False, 100.5, 3.5),
            PartialTimeoutConfig(auto_renew=True),
        )
        for n, timeout in enumerate(settings_of, start=1):
            new = agent(n, T0 + n, timeout=timeout, name="Zoë \U0001f600", updated_at_ms=T0 + 50)
            await store.create_agent(new)
            assert await store.get_agent(new.id, scope=EVERYTHING) == new

    async def test_the_retention_of_its_sessions_is_kept_changed_and_cleared(self, store: Store) -> None:
        for n, retention in enumerate((None, 0.0, 1 / 3, 525_600.0), start=1):
            new = agent(n, T0 + n, retention_minutes=retention)
            await store.create_agent(new)
            assert await store.get_agent(new.id, scope=EVERYTHING) == new
        for retention in (7.5, None):
            changed = await store.update_agent(
                new.id, lambda found, _, to=retention: replace(found, retention_minutes=to), scope=EVERYTHING
            )
            assert changed == await store.get_agent(new.id, scope=EVERYTHING)
            assert changed == replace(new, retention_minutes=retention)

    async def test_what_belongs_to_the_kind_of_an_agent_is_kept(self, store: Store) -> None:
        hook = WebhookSettings("https://a.example/Zoë?x=1", "env:X", 0.1, 7)
        model = OpenAiSettings(
            "m\0", "http://b", "file:/k", "Be\n\U0001f600", 0.1, 1 / 3, 2**31 - 1, 1, 2, 3600.0
        )
        stored = [
            agent(1, kind=AgentKind.WEBHOOK, settings=hook),
            agent(2, kind=AgentKind.OPENAI, settings=model),
            agent(3, kind=AgentKind.OPENAI, settings=OpenAiSettings("m")),
            agent(4, kind=AgentKind.STREAM),
        ]
        for new in stored:
            await store.create_agent(new)
            assert await store.get_agent(new.id, scope=EVERYTHING) == new
        assert await store.list_agents(limit=9, scope=EVERYTHING) == stored
        for kind, settings_of in (
            (AgentKind.OPENAI, model),
            (AgentKind.ECHO, None),
            (AgentKind.WEBHOOK, hook),
        ):
            changed = await store.update_agent(
                stored[0].id,
                lambda found, _, to=(kind, settings_of): replace(found, kind=to[0], settings=to[1]),
                scope=EVERYTHING,
            )
            assert (
                changed
                == await store.get_agent(stored[0].id, scope=EVERYTHING)
                == agent(1, kind=kind, settings=settings_of)
            )

    async def test_an_agent_that_is_there_already_is_refused(self, store: Store) -> None:
        await store.create_agent(agent())
        with pytest.raises(AgentAlreadyExistsError) as caught:
            await store.create_agent(agent(1, name="other"))
        assert caught.value.details == {"agentId": agent().id}
        assert await store.get_agent(agent().id, scope=EVERYTHING) == agent()

    async def test_an_agent_that_is_not_there(self, store: Store) -> None:
        await store.create_agent(agent())
        for call in (
            partial(store.get_agent, scope=EVERYTHING),
            partial(store.delete_agent, scope=EVERYTHING),
            lambda unknown: store.update_agent(unknown, lambda stored, now_ms: stored, scope=EVERYTHING),
        ):
            with pytest.raises(AgentNotFoundError) as caught:
                await call(UNKNOWN)
            assert caught.value.details == {"agentId": UNKNOWN}

    async def test_an_update_of_an_agent_is_stored_and_returned(self, store: Store, clock: TestClock) -> None:
        await store.create_agent(agent(1))
        await store.create_agent(agent(2))
        clock.set_ms(T0 + 7)
        seen = []

        def change(stored: Agent, now_ms: int) -> Agent:
            seen.append((stored, now_ms))
            return replace(stored, name="new", timeout=PartialTimeoutConfig(10.5), updated_at_ms=now_ms)

        changed = await store.update_agent(agent(1).id, change, scope=EVERYTHING)
        assert seen == [(agent(1), T0 + 7)]
        assert changed == agent(1, name="new", timeout=PartialTimeoutConfig(10.5), updated_at_ms=T0 + 7)
        assert await store.list_agents(limit=5, scope=EVERYTHING) == [changed, agent(2)]

    @pytest.mark.parametrize("error", [InvalidFieldError("name", "x", "is bad"), Misbehaved()])
    async def test_a_change_of_an_agent_that_raises_writes_nothing(
        self, store: Store, error: Exception
    ) -> None:
        await store.create_agent(agent())

        def change(stored: Agent, now_ms: int) -> Agent:
            raise error

        with pytest.raises(type(error)):
            await store.update_agent(agent().id, change, scope=EVERYTHING)
        assert await store.get_agent(agent().id, scope=EVERYTHING) == agent()

    async def test_changes_of_one_agent_do_not_lose_each_other(self, store: Store) -> None:
        await store.create_agent(agent(1, name=""))

        def change(stored: Agent, now_ms: int, mark: str) -> Agent:
            return replace(stored, name=stored.name + mark)

        await self.together(
            store,
            (
                store.update_agent(agent(1).id, partial(change, mark=mark), scope=EVERYTHING)
                for mark in "abcdefgh"
            ),
        )
        assert (await store.get_agent(agent(1).id, scope=EVERYTHING)).name == "abcdefgh"

    async def test_delete_agent_leaves_its_sessions(self, store: Store) -> None:
        await store.create_agent(agent())
        of_it = await self.added(store, agent_id=agent().id)
        await store.delete_agent(agent().id, scope=EVERYTHING)
        with pytest.raises(AgentNotFoundError):
            await store.get_agent(agent().id, scope=EVERYTHING)
        with pytest.raises(AgentNotFoundError):
            await store.delete_agent(agent().id, scope=EVERYTHING)
        assert await store.get_session(of_it.id, scope=EVERYTHING) == of_it

    async def test_pages_of_agents_are_in_order_of_registration(self, store: Store) -> None:
        stored = [agent(n, T0 + order) for n, order in ((5, 0), (1, 1), (4, 1), (9, 1), (2, 2), (3, 3))]
        for new in random.Random(3).sample(stored, len(stored)):
            await store.create_agent(new)
        for limit in range(1, 8):
            met: list[Agent] = []
            while page := await store.list_agents(
                limit=limit,
                after=Position(met[-1].created_at_ms, met[-1].id) if met else None,
                scope=EVERYTHING,
            ):
                assert page == stored[len(met) : len(met) + limit]
                met += page
            assert met == stored
