"""The settings of the agents that the tests ask, and their key."""

from typing import Any

from server.domain.agents import OpenAiSettings
from tests.service.agents.openai_server import part
from tests.support.waiting import PATIENCE_SECONDS

KEY = "sk-test-0123456789"
BRIEF = 0.1


def settings(base_url: str, **fields: Any) -> OpenAiSettings:
    return OpenAiSettings(
        **{"model": "m", "base_url": base_url, "timeout_seconds": PATIENCE_SECONDS, **fields}
    )


def says(*contents: str) -> list[dict[str, str]]:
    """A conversation in which the user speaks first."""
    return [
        {"role": "assistant" if index % 2 else "user", "content": content}
        for index, content in enumerate(contents)
    ]


HALF = part({"content": "half a "})

NO_COMPLETION = "the agent's answer is no completion"
