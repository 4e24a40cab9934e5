"""Name servers that hang or are slow hold up nobody but those who ask for their names."""

import asyncio
import threading
from collections import Counter

import pytest

from server.agents import hosts as hosts_module
from server.agents.hosts import MAX_LOOKUPS, MAX_LOOKUPS_OF_A_DOMAIN, Hosts, NoAddressError
from tests.support.waiting import PATIENCE_SECONDS
from tests.unit.test_agent_http import at


class TestNameServers:
    """One that hangs holds up only its own."""

    class Hanging:
        """Answers for the names below these domains only once it is told to."""

        def __init__(self, monkeypatch: pytest.MonkeyPatch, *domains: str) -> None:
            self.asked: Counter[str] = Counter()
            self.answers = threading.Event()
            self._domains = domains
            monkeypatch.setattr(Hosts, "_resolve", staticmethod(self.resolve))

        def resolve(self, host: str) -> list[str]:
            self.asked[host] += 1
            if host.endswith(self._domains):
                assert self.answers.wait(PATIENCE_SECONDS)
            return ["8.8.8.8"]

        async def has_been_asked(self, count: int) -> None:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while self.asked.total() < count:  # noqa: ASYNC110 - threads do it
                    await asyncio.sleep(0.001)

    @pytest.mark.parametrize("hung", ["evil.example", "evil.co.uk"])
    async def test_a_hung_name_server_leaves_look_ups_for_others(
        self, monkeypatch: pytest.MonkeyPatch, hung: str
    ) -> None:
        """Whether it is one agent with many deliveries, or many agents with names of their own."""
        server, hosts = self.Hanging(monkeypatch, hung), Hosts([])
        names = [hung] * 1000 + [f"{index}.{hung}" for index in range(1000)]
        waiting = [asyncio.create_task(hosts.addresses(at(name))) for name in names]
        try:
            await server.has_been_asked(MAX_LOOKUPS_OF_A_DOMAIN)
            async with asyncio.timeout(PATIENCE_SECONDS):
                for index in range(200):
                    assert await hosts.addresses(at(f"{index}.fine.example")) == ["8.8.8.8"]
                    assert await hosts.addresses(at(f"shop{index}.co.uk")) == ["8.8.8.8"]
            assert not any(task.done() for task in waiting)
            hung_count = sum(count for name, count in server.asked.items() if name.endswith(hung))
            assert (hung_count, server.asked[hung]) == (MAX_LOOKUPS_OF_A_DOMAIN, 1)
        finally:
            server.answers.set()
        assert await asyncio.gather(*waiting) == [["8.8.8.8"]] * len(names)
        assert server.asked[hung] == 1
        async with asyncio.timeout(PATIENCE_SECONDS):
            while hosts.open_lookups:  # noqa: ASYNC110 - threads end them
                await asyncio.sleep(0.001)

    async def test_many_that_hang_leave_some_for_the_rest(self, monkeypatch: pytest.MonkeyPatch) -> None:
        domains = [f"evil{index}.example" for index in range(MAX_LOOKUPS // MAX_LOOKUPS_OF_A_DOMAIN - 1)]
        server, hosts = self.Hanging(monkeypatch, *domains), Hosts([])
        waiting = [
            asyncio.create_task(hosts.addresses(at(f"{index}.{domain}")))
            for domain in domains
            for index in range(100)
        ]
        try:
            await server.has_been_asked(MAX_LOOKUPS - MAX_LOOKUPS_OF_A_DOMAIN)
            async with asyncio.timeout(PATIENCE_SECONDS):
                assert await hosts.addresses(at("fine.example")) == ["8.8.8.8"]
        finally:
            server.answers.set()
            await asyncio.gather(*waiting)

    async def test_whoever_has_waited_long_enough_leaves_nothing_behind(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(hosts_module, "CONNECT_SECONDS", 0.01)
        server, hosts = self.Hanging(monkeypatch, "evil.example"), Hosts([])
        try:
            for index in range(20):
                with pytest.raises(NoAddressError, match="in time"):
                    await hosts.addresses(at(f"{index}.evil.example"))
            assert hosts.open_lookups == server.asked.total() == MAX_LOOKUPS_OF_A_DOMAIN
        finally:
            server.answers.set()

    async def test_nothing_is_kept_of_an_answer(self, monkeypatch: pytest.MonkeyPatch) -> None:
        server, hosts = self.Hanging(monkeypatch, "nobody"), Hosts([])
        for _ in range(3):
            await hosts.addresses(at("agent.example"))
        assert server.asked["agent.example"] == 3
