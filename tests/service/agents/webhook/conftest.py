"""Services that ask webhooks."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.service.agents.asking import Asking, asking
from tests.service.agents.webhook.settings import KEY


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def here(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Asking]:
    """Agents may be on 127.0.0.1."""
    async with asking(tmp_path_factory.mktemp("here")) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def guarded(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Asking]:
    """Agents may be on no private address."""
    async with asking(tmp_path_factory.mktemp("guarded"), allowed_hosts=[]) as running:
        yield running


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENT_SECRET_HOOK", f"whsec_{KEY}")
