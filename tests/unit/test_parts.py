"""How the parts of the service are, and since when."""

from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest

from server.delivery.statuses import AgentStatuses
from server.rpc.parts import LITTLE_ROOM_BYTES, WELL, Finding, Health, Parts, looks_at
from server.store.values import Counts, Sizes


class World:
    """The parts, all well, and the machine's time."""

    def __init__(self) -> None:
        self.now_ms = 1000
        self.store: Any = Mock(
            measure=AsyncMock(return_value=Sizes(1, 1, LITTLE_ROOM_BYTES)),
            counts=AsyncMock(return_value=Counts(0, 0, 0, 0)),
        )
        self.health: Any = Mock(is_serving=True, trouble="")
        self.expiry: Any = Mock(trouble="", lag_ms=Mock(return_value=0))
        self.purge: Any = Mock(trouble="")
        self.authentication: Any = Mock(list_troubles=Mock(return_value=[]))
        self.statuses = AgentStatuses()
        self.crashed: dict[str, str] = {}
        looks = looks_at(
            self.store,
            self.health,
            self.expiry,
            self.purge,
            self.authentication,
            self.statuses,
            self.crashed,
        )
        self.parts = Parts(looks, lambda: self.now_ms)

    async def findings(self) -> dict[str, Finding]:
        return {part.name: part.finding for part in await self.parts.look()}

    async def ill(self) -> dict[str, Finding]:
        return {name: found for name, found in (await self.findings()).items() if found != WELL}


@pytest.fixture
def world() -> World:
    return World()


async def test_all_is_well(world: World) -> None:
    found = await world.parts.look()
    assert [part.name for part in found] == [
        *("store", "sessions", "expiry", "purge", "credentials", "agents")
    ]
    assert {(part.finding, part.since_ms) for part in found} == {(WELL, 1000)}


async def test_since_when_a_part_is_as_it_is(world: World) -> None:
    async def purge() -> tuple[Health, str, int]:
        part = next(part for part in await world.parts.look() if part.name == "purge")
        return *part.finding, part.since_ms

    world.now_ms, world.purge.trouble = 2000, "no room"
    assert await purge() == (Health.DEGRADED, "it is held up: no room", 2000)
    world.now_ms, world.purge.trouble = 3000, "no room at all"
    assert await purge() == (Health.DEGRADED, "it is held up: no room at all", 2000)
    world.now_ms, world.crashed["purge"] = 4000, "TypeError: x"
    assert await purge() == (Health.UNHEALTHY, "nothing is purged any more: TypeError: x; restart", 4000)
    world.crashed.clear()
    world.now_ms, world.purge.trouble = 5000, ""
    assert await purge() == (Health.HEALTHY, "", 5000)


async def test_a_store_without_room_is_not_well(world: World) -> None:
    world.store.measure.return_value = Sizes(1, 1, LITTLE_ROOM_BYTES - 1)
    assert await world.ill() == {
        "store": Finding(Health.DEGRADED, "1023 MiB are free on its file system: make room")
    }
    world.health.is_serving, world.health.trouble = False, "The store has no room left"
    assert await world.ill() == {
        "store": Finding(Health.UNHEALTHY, "nothing can be written: The store has no room left")
    }


async def test_a_store_that_cannot_be_asked(world: World) -> None:
    world.store.measure.side_effect = OSError("gone")
    world.store.counts.side_effect = RuntimeError("broken")
    assert await world.ill() == {
        "store": Finding(Health.UNHEALTHY, "it cannot be looked at: gone"),
        "sessions": Finding(Health.UNHEALTHY, "it cannot be looked at: broken"),
    }


async def test_sessions_that_cannot_be_read_back(world: World) -> None:
    world.store.counts.return_value = Counts(9, 0, 0, 2)
    (found,) = (await world.ill()).values()
    assert found.health is Health.DEGRADED
    assert found.reason.startswith("2 that were met cannot be read back")


@pytest.mark.parametrize(
    ("lag_ms", "trouble", "reason"),
    [
        (60_999, "", ""),
        (61_000, "", "warnings and expiries are 61 seconds late"),
        (0, "locked", "warnings and expiries are 0 seconds late: locked"),
    ],
)
async def test_deadlines_that_are_late_are_told(world: World, lag_ms: int, trouble: str, reason: str) -> None:
    world.expiry.lag_ms.return_value, world.expiry.trouble = lag_ms, trouble
    assert (await world.findings())["expiry"].reason == reason


async def test_agents_that_cannot_be_asked(world: World) -> None:
    for number in range(5):
        cause: Any = Mock(reason="no secret", detail=f"AGENT_SECRET_{number} is not set")
        world.statuses.note_unavailable(f"agent-{number}", "s", "m", 0, cause)
    found = (await world.findings())["agents"]
    assert found.reason.startswith("5 cannot be asked: agent-0: AGENT_SECRET_0 is not set; agent-1: ")
    assert "agent-3" not in found.reason


async def test_credentials_that_cannot_be_read_again(world: World) -> None:
    world.authentication.list_troubles.return_value = ["KEYS_FILE k: it is wrong", "JWT_KEYS j: no"]
    found = (await world.findings())["credentials"]
    assert found == (Health.DEGRADED, "what was read last stays: KEYS_FILE k: it is wrong; JWT_KEYS j: no")


@pytest.mark.parametrize("name", ["expiry", "purge", "credentials"])
async def test_work_that_has_ended_is_not_well(world: World, name: str) -> None:
    world.crashed[name] = "KeyError: 'x'"
    (found,) = (await world.ill()).items()
    assert (found[0], found[1].health) == (name, Health.UNHEALTHY)
    assert found[1].reason.endswith("KeyError: 'x'; restart")
