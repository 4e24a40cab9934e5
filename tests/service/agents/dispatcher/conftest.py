"""A dispatcher's world for each test."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from server.delivery import turn
from tests.service.agents.dispatcher.world import Scripted, World


@pytest.fixture
def agent() -> Scripted:
    return Scripted()


@pytest.fixture
async def world(tmp_path: Path, agent: Scripted, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(turn, "STORE_TROUBLE_SECONDS", 0.01)
    world = World(tmp_path / "store.db", agent)
    yield world
    await world.close()
