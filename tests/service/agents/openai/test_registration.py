"""What is said when an agent is registered that cannot be asked."""

import importlib.util

import pytest

from server.domain.agents import Agent
from server.domain.errors import InvalidFieldError
from tests.service.agents.asking import Asking, agent
from tests.service.agents.openai.settings import settings

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize(
    ("fields", "field", "why"),
    [
        (
            {"api_key": "env:AGENT_SECRET_ABSENT"},
            "openai.api_key",
            "names AGENT_SECRET_ABSENT, which is not set or empty",
        ),
        ({"api_key": "env:HOME"}, "openai.api_key", "names HOME, which AGENT_SECRETS does not allow"),
        ({"base_url": "http://localhost:1/v1"}, "openai.base_url", "AGENT_ALLOWED_HOSTS does not allow"),
        ({"base_url": "http://169.254.169.254/v1"}, "openai.base_url", "AGENT_ALLOWED_HOSTS does not allow"),
    ],
)
async def test_what_cannot_be_reached_is_not_registered(
    here: Asking, fields: dict[str, str], field: str, why: str
) -> None:
    async def register() -> None:
        here.connectors.check(registered(**fields))
        await here.connectors.check_secret(registered(**fields))

    with pytest.raises(InvalidFieldError, match=why) as raised:
        await register()
    assert raised.value.details["field"] == field


async def test_the_missing_library_is_named_with_the_line_that_installs_it(
    here: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.connectors.check(registered())
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InvalidFieldError, match=r"pip install '\.\[openai\]'"):
        here.connectors.check(registered())


def registered(**fields: str) -> Agent:
    return agent(settings(**{"base_url": "http://127.0.0.1:1/v1", **fields}))
