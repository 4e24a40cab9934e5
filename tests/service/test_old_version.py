"""A start on a store of the version before costs were bounded: schema 6, with agents of each kind as they
were allowed then.
"""

import json
from pathlib import Path
from typing import Final

import pytest

from eliza.sessions.v1 import agent_pb2, agent_service_pb2
from eliza.sessions.v1 import message_service_pb2 as messages
from tests.campaigns.hostile.stores import now_ms
from tests.conftest import SECRET
from tests.store.old_schemas import make_old_store
from tests.support.clients import history, replies, send
from tests.support.service import ECHO, USER, Serve, Start
from tests.support.waiting import until

pytestmark = pytest.mark.sqlite

SCHEMA: Final = 6
HOUR_MS: Final = 3_600_000

(
    STREAM,
    HOOK,
    HOOK_FILE,
    HOOK_DEEP,
    OPEN_HOOK,
    MODEL,
    MODEL_ELSEWHERE,
    MODEL_SECRET,
    MODEL_FILE,
    MODEL_BARE,
) = (f"30000000-0000-4000-8000-{number:012d}" for number in range(10))
HELD = "40000000-0000-4000-8000-000000000001"
"""A session with the built-in agent, whose last message has no reply yet."""
RESTING = "40000000-0000-4000-8000-000000000002"
"""A session with an agent whose secret is no longer allowed, whose message has no reply yet."""


def _hook(url: str, secret: str) -> tuple[str, dict[str, object]]:
    return "webhook", {"url": url, "secret": secret, "timeout_seconds": 60.0, "history_messages": 0}


def _model(base_url: str, api_key: str) -> tuple[str, dict[str, object]]:
    return "openai", {
        "model": "m",
        "base_url": base_url,
        "api_key": api_key,
        "system_prompt": "Be kind.",
        "temperature": None,
        "top_p": None,
        "max_tokens": None,
        "history_messages": 20,
        "history_characters": 20_000,
        "timeout_seconds": 120.0,
    }


AGENTS: Final[dict[str, tuple[str, dict[str, object] | None]]] = {
    ECHO: ("echo", None),
    STREAM: ("stream", None),
    HOOK: _hook("https://agent.example/hook", "env:AGENT_SECRET_TEST"),
    HOOK_FILE: _hook("https://agent.example/hook", "file:/run/secrets/hook"),
    HOOK_DEEP: _hook("https://agent.example/hook", "file:/run/secrets/kubernetes.io/serviceaccount/token"),
    OPEN_HOOK: _hook("http://127.0.0.1:9/?token=hunter2", "env:AGENT_SECRET_TEST"),
    MODEL: _model("https://api.openai.com/v1", "env:OPENAI_API_KEY"),
    MODEL_ELSEWHERE: _model("https://llm.example/v1", "env:OPENAI_API_KEY"),
    MODEL_SECRET: _model("https://llm.example:8443/v1", "env:AGENT_SECRET_TEST"),
    MODEL_FILE: _model("https://llm.example/v1", "file:/run/secrets/key"),
    MODEL_BARE: _model("https://llm.example/v1", ""),
}
"""By id: the kind and what is stored of its settings."""

WARNED: Final = {
    HOOK_FILE: "names /run/secrets/hook, which cannot be read",
    HOOK_DEEP: "add file:/run/secrets/kubernetes.io/serviceaccount/token to it",
    MODEL_ELSEWHERE: "add OPENAI_API_KEY@llm.example:443 to it",
    MODEL_SECRET: "add AGENT_SECRET_TEST@llm.example:8443 to it",
    MODEL_FILE: "add file:/run/secrets/key@llm.example:443 to it",
}
"""What the start says of those that cannot be asked any more, or could not be before."""


def _rows(at_ms: int) -> str:
    """What a service of that version wrote."""
    statements = [
        f"INSERT INTO agents VALUES ('{agent_id}', '{kind} agent', '{kind}', {at_ms}, {at_ms}, NULL, NULL, "
        "NULL, NULL, "
        + ("NULL" if stored is None else f"'{json.dumps(stored, separators=(',', ':'))}'")
        + ");"
        for agent_id, (kind, stored) in AGENTS.items()
    ]
    statements.append(f"INSERT INTO seeded_agents VALUES ('{ECHO}');")
    many = json.dumps([0] * 20_000, separators=(",", ":"))
    after = f"{at_ms + HOUR_MS}, 0, 0, 0"
    for session_id, agent_id in ((HELD, ECHO), (RESTING, MODEL_ELSEWHERE)):
        statements += [
            f"INSERT INTO sessions VALUES ('{session_id}', '{session_id}', '{agent_id}', '{USER}', "
            f'\'{{"plan":"old"}}\', 90.0, 1, 720.0, '
            f"5.0, {at_ms}, {at_ms}, {at_ms}, {at_ms + HOUR_MS}, 0, 0, 0, 3, {at_ms + 3}, "
            f"{at_ms + HOUR_MS - 300_000});",
            f"INSERT INTO log VALUES ('{session_id}', 1, {at_ms + 1}, 'message', {after}, "
            f"'{session_id[:-1]}a', 0, 'before', '{{}}', "
            f"'{many}', NULL, NULL, NULL, NULL, NULL);",
            f"INSERT INTO deliveries VALUES ('{session_id}', 1, 'answered', 1, NULL, 0, NULL);",
            f"INSERT INTO log VALUES ('{session_id}', 2, {at_ms + 2}, 'message', {after}, "
            f"'{session_id[:-1]}b', 1, 'its reply', "
            f"'{{\"a\":1.0}}', NULL, '\"hm\"', '[\"X\"]', NULL, 1, NULL);",
            f"INSERT INTO log VALUES ('{session_id}', 3, {at_ms + 3}, 'message', {after}, "
            f"'{session_id[:-1]}c', 0, 'not answered yet', "
            "'{}', NULL, NULL, NULL, NULL, NULL, NULL);",
            f"INSERT INTO deliveries VALUES ('{session_id}', 3, 'pending', 0, {at_ms + 3}, 0, NULL);",
            f"INSERT INTO requests VALUES ('session:{session_id}', 'old', 'print', '1', {at_ms + 1}, "
            f"'{session_id}');",
        ]
    return "\n".join(statements)


@pytest.fixture
def upgraded(tmp_path: Path, start: Start) -> Serve:
    make_old_store(tmp_path / "store.db", SCHEMA, {SCHEMA: _rows(now_ms() - 60_000)})
    return start(
        AGENT_ALLOWED_HOSTS="127.0.0.1",
        AGENT_SECRET_TEST=SECRET,
        OPENAI_API_KEY="sk-not-a-key",
        DELIVERY_BACKOFF_SECONDS="0.05",
        DELIVERY_MAX_BACKOFF_SECONDS="0.05",
        LOG_FORMAT="json",
    )


def test_a_store_of_the_version_before_is_served_with_warnings(upgraded: Serve) -> None:
    until(lambda: upgraded.log().count("agent cannot be asked") >= len(WARNED), "the warnings")
    # Served: what was there is read, what was open is answered, what is new is taken.
    old = history(upgraded, HELD)
    assert [(message.content, message.is_agent) for message in old[:3]] == [
        ("before", False),
        ("its reply", True),
        ("not answered yet", False),
    ]
    assert len(old[0].attachments.values) == 20_000
    assert (old[1].thought, list(old[1].actions), old[1].metadata["a"], old[1].metadata["plan"]) == (
        "hm",
        ["X"],
        1.0,
        "old",
    )
    assert [reply.content for reply in replies(upgraded, HELD, 2)] == ["its reply", "not answered yet"]
    send(upgraded, HELD, "and now")
    assert replies(upgraded, HELD, 3)[-1].content == "and now"
    page = upgraded.http.get(f"{upgraded.url}/{HELD}/messages", timeout=10)
    assert page.status_code == 200
    assert [message["content"] for message in page.json()["messages"]][:-4:-1] == [
        "before",
        "its reply",
        "not answered yet",
    ]
    listed = upgraded.agents.ListAgents(agent_service_pb2.ListAgentsRequest(page_size=100), timeout=10).agents
    assert {agent.agent_id for agent in listed} == set(AGENTS)
    assert {agent.kind for agent in listed} == set(agent_pb2.AgentKind.values()) - {
        agent_pb2.AGENT_KIND_UNSPECIFIED
    }
    log = upgraded.log()
    assert upgraded.stop() == 0

    warnings = [json.loads(line) for line in log.splitlines() if "agent cannot be asked" in line]
    print(
        *(f"{line['level']}: {line['event']}: {line['agent_id']}: {line['cause']}" for line in warnings),
        sep="\n",
    )
    assert {line["agent_id"] for line in warnings} == set(WARNED)
    for line in warnings:
        assert WARNED[line["agent_id"]] in line["cause"]
    (opened,) = [json.loads(line) for line in log.splitlines() if "opens all ports" in line]
    assert (opened["host"], opened["narrower"]) == ("127.0.0.1", "127.0.0.1:PORT")
    assert not any(word in log for word in ("hunter2", SECRET, "sk-not-a-key", "Traceback"))


def test_a_delivery_to_an_agent_that_cannot_be_asked_any_more_is_kept(upgraded: Serve) -> None:
    def is_tried() -> bool:
        view = agent_service_pb2.GetAgentRequest(agent_id=MODEL_ELSEWHERE, view=agent_pb2.AGENT_VIEW_STATUS)
        return upgraded.agents.GetAgent(view, timeout=10).agent.status.HasField("last_failure")

    until(is_tried, "an attempt to deliver")
    request = agent_service_pb2.GetAgentRequest(agent_id=MODEL_ELSEWHERE, view=agent_pb2.AGENT_VIEW_STATUS)
    status = upgraded.agents.GetAgent(request, timeout=10).agent.status
    assert (status.open_deliveries, status.last_failure.final, status.last_failure.session_id) == (
        1,
        False,
        RESTING,
    )
    assert [message.content for message in history(upgraded, RESTING)] == [
        "before",
        "its reply",
        "not answered yet",
    ]
    again = messages.SendMessageRequest(session_id=RESTING, content="another")
    assert upgraded.messages.SendMessage(again, timeout=10).message.sequence > 3
    assert upgraded.stop() == 0
