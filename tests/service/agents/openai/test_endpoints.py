"""The fake endpoint keeps to the published types, and a real one answers."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.service.agents.asking import Asking
from tests.service.agents.openai.settings import says, settings
from tests.service.agents.openai_server import (
    llama,
    problem,
)
from tests.service.agents.webhook_server import Request

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize(
    "change",
    [
        *(
            {"model": None},
            {"messages": []},
            {"stream": None},
            {"stream": False},
            {"temperature": "hot"},
            {"odd": 1},
        ),
        *(
            {"messages": [{"role": "robot", "content": "x"}]},
            {"messages": [{"role": "user"}]},
            {"messages": [{"role": "user", "content": "x", "odd": 1}]},
        ),
    ],
    ids=str,
)
async def test_the_fake_refuses_what_the_published_types_do_not_have(change: dict[str, Any]) -> None:
    def request(body: dict[str, Any]) -> Request:
        headers = {"authorization": "Bearer x", "content-type": "application/json"}
        return Request(
            "POST",
            "/v1/chat/completions",
            headers,
            json.dumps({k: v for k, v in body.items() if v is not None}).encode(),
        )

    valid = {"model": "m", "messages": says("x"), "stream": True}
    assert problem(request(valid)) is None
    assert problem(request({**valid, **change}))


async def test_llama_cpp_replies_in_a_conversation(here: Asking, tmp_path: Path) -> None:
    with llama(tmp_path) as base_url:
        session_id = await here.session(
            settings(base_url, system_prompt="Be brief.", temperature=0.0, top_p=0.9, max_tokens=8)
        )
        for content in ("hello", "and again 🤖"):
            answered = await here.ask(session_id, content)
            assert answered.message.content
            assert "".join(answered.chunks) == answered.message.content
            assert len(answered.chunks) > 1
        assert (await here.ask(session_id, "x" * 4000)).failed == ("the agent answered with status 400", 1)
