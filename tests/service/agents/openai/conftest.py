"""A service that asks endpoints of OpenAI's kind."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.service.agents.asking import Asking, asking
from tests.service.agents.openai.settings import KEY


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def here(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Asking]:
    """Agents may be on 127.0.0.1."""
    async with asking(tmp_path_factory.mktemp("here")) as running:
        yield running


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENT_SECRET_OPENAI", KEY)
    # The service's own, which no agent without a key may send.
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-service")
