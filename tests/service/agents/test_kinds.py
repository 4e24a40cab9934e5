"""A conversation with each kind of agent through a real service, over REST and over gRPC, as a Socket.IO
client sees it; and its failure.

The agents are registered both ways: by RPC and by the TOML file. Nothing of their secrets is told.
"""

import base64
import json
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
import standardwebhooks

from eliza.sessions.v1 import agent_pb2
from eliza.sessions.v1 import agent_service_pb2 as pb
from eliza.sessions.v1.message_service_pb2 import ConverseRequest, SendMessageRequest
from tests.service.agents.openai_server import DONE, ROLE, STOP, USAGE, Endpoint, error, llama, part
from tests.service.agents.webhook_server import EVENTS, Connection, Server, answer, event, head
from tests.service.agents.worker import Worker
from tests.support.clients import fails, history, replies, send
from tests.support.realtime.sockets import Client, connected
from tests.support.service import ECHO, USER, Serve

HOOK_KEY = base64.b64encode(b"the key of the webhook, in bytes").decode()
FILE_KEY = base64.b64encode(b"the key of another, in a file").decode()
SHORT_KEY = base64.b64encode(b"short").decode()
ODD_KEY = "this is not base64!"
OPENAI_KEY = "sk-of-the-test-0123456789"
SECRETS = (HOOK_KEY, FILE_KEY, SHORT_KEY, ODD_KEY, OPENAI_KEY)
FAIL = "fail"
"""What makes an agent fail for good."""
REASONS = {
    "stream": "I was told to",
    "webhook": "the agent answered with status 404",
    "openai": "the agent answered with status 401",
}
PIECES = ("You said: ", "“", "{}", "”")


def pieces(kind: str, content: str) -> list[str]:
    """How an agent of this kind answers."""
    return [content] if kind == "echo" else [piece.format(content) for piece in PIECES]


async def hooked(connection: Connection) -> None:
    """A webhook."""
    standardwebhooks.Webhook(HOOK_KEY).verify(connection.request.body, connection.request.headers)
    content = connection.request.json["data"]["message"]["content"]
    if content == FAIL:
        await answer(b"", 404)(connection)
        return
    parts = pieces("webhook", content)
    await connection.send(head(content_type=EVENTS))
    for piece in parts:
        await connection.send(event("chunk", {"chunk": piece}))
    await connection.send(event("done", {"content": "".join(parts), "thought": "hm"}))


async def completed(connection: Connection) -> None:
    """An endpoint of chat completions."""
    assert connection.request.headers["authorization"] == f"Bearer {OPENAI_KEY}"
    content = connection.request.json["messages"][-1]["content"]
    if content == FAIL:
        await error(401, "no")(connection)
        return
    for data in (
        head(content_type=EVENTS),
        ROLE,
        *(part({"content": piece}) for piece in pieces("openai", content)),
        STOP,
        USAGE,
        DONE,
    ):
        await connection.send(data)


def work(worker: Worker) -> None:
    """A worker, until it is closed."""
    try:
        while True:
            delivery = worker.next()
            content = delivery.message.content
            if content == FAIL:
                worker.fail(delivery, REASONS["stream"], final=True)
                continue
            for piece in pieces("stream", content):
                worker.chunk(delivery, piece)
            worker.answer(delivery, "".join(pieces("stream", content)))
    except (grpc.RpcError, StopIteration):
        pass


class Team(NamedTuple):
    """A running service with the agents of its file, by kind; and the two servers that agents of other kinds
    are on.
    """

    service: Serve
    agents: dict[str, str]
    hook: Server
    endpoint: Endpoint


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    directory = tmp_path_factory.mktemp("kinds")
    agents = {kind: str(uuid.uuid4()) for kind in ("echo", "stream", "webhook", "openai")}
    (directory / "key").write_text(FILE_KEY)
    with ExitStack() as stack:
        hook, endpoint = stack.enter_context(Server(hooked)), stack.enter_context(Endpoint(completed))
        settings = {
            "webhook": {
                "url": f"{hook.url}/hook",
                "secret": "env:AGENT_SECRET_HOOK",
                "timeout_seconds": 30.0,
            },
            "openai": {
                "base_url": endpoint.base_url,
                "model": "m",
                "api_key": "env:AGENT_SECRET_OPENAI",
                "system_prompt": "Be brief.",
            },
        }
        lines: list[str] = []
        for kind, agent_id in agents.items():
            lines += [
                "[[agents]]",
                f'id = "{agent_id}"',
                f'name = "the {kind} of the file"',
                f'kind = "{kind}"',
            ]
            if kind in settings:
                # What JSON writes of texts and numbers, TOML reads.
                lines += [
                    f"[agents.{kind}]",
                    *(f"{name} = {json.dumps(value)}" for name, value in settings[kind].items()),
                ]
        (directory / "agents.toml").write_text("\n".join(lines))
        service = Serve(
            directory,
            AGENTS_FILE=str(directory / "agents.toml"),
            AGENT_ALLOWED_HOSTS="127.0.0.1",
            AGENT_SECRETS=f"AGENT_SECRET_*,{directory}/*,AGENT_SECRET_OPENAI@127.0.0.1",
            AGENT_SECRET_HOOK=f"whsec_{HOOK_KEY}",
            AGENT_SECRET_OPENAI=OPENAI_KEY,
            AGENT_SECRET_SHORT=SHORT_KEY,
            AGENT_SECRET_ODD=ODD_KEY,
            DELIVERY_ATTEMPTS="2",
            DELIVERY_BACKOFF_SECONDS="0.01",
            LOG_LEVEL="debug",
        )
        try:
            yield Team(service, agents, hook, endpoint)
        finally:
            assert service.stop() == 0, service.log()


@pytest.fixture
def watch(team: Team) -> Iterator[Callable[[str], Client]]:
    """Opens Socket.IO clients that have joined a session; they are closed after the test."""
    with ExitStack() as stack:

        def opener(session_id: str) -> Client:
            client = connected(f"http://{team.service.rest}", "python-websocket")
            stack.callback(client.close)
            assert client.call("join", {"roomId": session_id}) == {"success": True}
            return client

        yield opener


@pytest.fixture
def agent_of(team: Team) -> Iterator[Callable[[str, str], str]]:
    """The id of an agent of a kind, registered by RPC or by the file, that somebody works for."""
    with ExitStack() as stack:

        def register(kind: str, how: str) -> str:
            agent_id = team.agents[kind] if how == "file" else made(team, kind).agent_id
            if kind == "stream":
                worker = Worker(team.service.channel, agent_id)
                thread = threading.Thread(target=work, args=(worker,))
                thread.start()
                stack.callback(thread.join, 10)
                stack.callback(worker.close)
            return agent_id

        yield register


def made(team: Team, kind: str, **settings: Any) -> agent_pb2.Agent:
    """An agent of a kind that is registered by RPC, with other settings where they are given."""
    agent = agent_pb2.Agent(
        name=f"the {kind} of an RPC", kind=agent_pb2.AgentKind.Value(f"AGENT_KIND_{kind.upper()}")
    )
    if kind == "webhook":
        agent.webhook.CopyFrom(
            agent_pb2.WebhookSettings(
                **{"url": f"{team.hook.url}/hook", "secret": "env:AGENT_SECRET_HOOK", **settings}
            )
        )
    elif kind == "openai":
        usual = {"base_url": team.endpoint.base_url, "model": "m", "api_key": "env:AGENT_SECRET_OPENAI"}
        agent.openai.CopyFrom(agent_pb2.OpenAiSettings(**{**usual, **settings}))
    return team.service.agents.CreateAgent(pb.CreateAgentRequest(agent=agent), timeout=10).agent


def by_rest(service: Serve, session_id: str, content: str) -> str:
    body = {"content": content, "transport": "http"}
    response = service.http.post(f"{service.url}/{session_id}/messages", json=body, timeout=30)
    assert response.status_code == 201, response.text
    return response.json()["agentResponse"]["text"]


def streamed_by_rest(service: Serve, session_id: str, content: str) -> str:
    body = {"content": content, "transport": "sse"}
    response = service.http.post(f"{service.url}/{session_id}/messages", json=body, timeout=30)
    events = [(name, json.loads(data)) for name, data in sse(response.content.decode())]
    assert [name for name, _ in events] == ["user_message", *["chunk"] * (len(events) - 2), "done"]
    assert "".join(data["chunk"] for _, data in events[1:-1]) == events[-1][1]["text"]
    return events[-1][1]["text"]


def by_grpc(service: Serve, session_id: str, content: str) -> str:
    before = len(history(service, session_id)) // 2
    send(service, session_id, content)
    return replies(service, session_id, before + 1)[-1].content


def streamed_by_grpc(service: Serve, session_id: str, content: str) -> str:
    request = ConverseRequest(message=SendMessageRequest(session_id=session_id, content=content))
    first, *chunks, last = service.messages.Converse(request, timeout=30)
    assert first.user_message.message.content == content
    assert "".join(one.chunk.chunk for one in chunks) == last.reply.content
    return last.reply.content


def sse(text: str) -> list[tuple[str, str]]:
    """The events of a stream, as their names and data."""
    found = []
    for block in text.split("\n\n"):
        fields = dict(
            line.split(": ", 1) for line in block.split("\n") if not line.startswith(":") and ": " in line
        )
        if "data" in fields:
            found.append((fields["event"], fields["data"]))
    return found


WAYS = {"rest": (by_rest, streamed_by_rest), "grpc": (by_grpc, streamed_by_grpc)}


@pytest.mark.parametrize("how", ["rpc", "file"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["echo", "stream", "webhook", "openai"])
def test_a_conversation_is_the_same_with_each_kind_and_way(
    team: Team,
    watch: Callable[[str], Client],
    agent_of: Callable[[str, str], str],
    kind: str,
    way: str,
    how: str,
) -> None:
    agent_id = agent_of(kind, how)
    session_id = team.service.create(agentId=agent_id)["sessionId"]
    client = watch(session_id)
    wanted = []
    for say, content in zip(WAYS[way], ("hello", "ünï 🤖"), strict=True):
        wanted += [(content, False), ("".join(pieces(kind, content)), True)]
        assert say(team.service, session_id, content) == wanted[-1][0]
    heard = client.wait("messageBroadcast", 4)
    assert [(one["text"], one["isAgent"]) for one in heard] == wanted
    assert [one["senderId"] for one in heard] == [USER, agent_id] * 2
    assert heard[1]["senderName"] == f"the {kind} of {'the file' if how == 'file' else 'an RPC'}"
    assert [(message.message_id, message.sequence) for message in history(team.service, session_id)] == [
        (one["id"], one["sequence"]) for one in heard
    ]
    for reply in heard[1::2]:
        chunks = [one for one in client.named("messageStreamChunk") if one["messageId"] == reply["id"]]
        assert "".join(one["chunk"] for one in chunks) == reply["text"]
        assert [one["index"] for one in chunks] == list(range(len(chunks)))
        assert {one["agentId"] for one in chunks} == {agent_id}
        assert len(chunks) > 1 or kind == "echo"
        # All pieces come before the whole.
        order = [name for name, one in client.events if reply["id"] in (one.get("messageId"), one.get("id"))]
        assert order == [*["messageStreamChunk"] * len(chunks), "messageBroadcast"]


@pytest.mark.parametrize("way", WAYS)
def test_llama_cpp_replies_in_a_conversation(
    team: Team, watch: Callable[[str], Client], tmp_path: Path, way: str
) -> None:
    with llama(tmp_path) as base_url:
        agent = made(
            team, "openai", base_url=base_url, system_prompt="Be brief.", temperature=0, max_tokens=8
        )
        session_id = team.service.create(agentId=agent.agent_id)["sessionId"]
        client = watch(session_id)
        given = [
            say(team.service, session_id, content)
            for say, content in zip(WAYS[way], ("hello", "and again 🤖"), strict=True)
        ]
    heard = client.wait("messageBroadcast", 4)
    assert [one["text"] for one in heard] == ["hello", given[0], "and again 🤖", given[1]]
    for reply in heard[1::2]:
        chunks = [
            one["chunk"] for one in client.named("messageStreamChunk") if one["messageId"] == reply["id"]
        ]
        assert "".join(chunks) == reply["text"] != ""
        assert len(chunks) > 1


@pytest.mark.parametrize("kind", ["stream", "webhook", "openai"])
def test_a_failure_is_told_alike_by_each_kind(
    team: Team, watch: Callable[[str], Client], agent_of: Callable[[str, str], str], kind: str
) -> None:
    service = team.service
    session_id = service.create(agentId=agent_of(kind, "rpc"))["sessionId"]
    client = watch(session_id)
    response = service.http.post(
        f"{service.url}/{session_id}/messages", json={"content": FAIL, "transport": "http"}, timeout=30
    )
    assert (response.status_code, response.json()["code"]) == (502, "AGENT_REPLY_FAILED")
    details = response.json()["details"]
    assert (details["sessionId"], details["reason"]) == (session_id, REASONS[kind])
    (failure,) = client.wait("agentReplyFailed")
    wanted = {
        "sessionId": session_id,
        "messageId": details["messageId"],
        "reason": REASONS[kind],
        "attempts": 1,
        "sequence": 2,
    }
    wanted["replyMessageId"] = str(uuid.UUID(failure["replyMessageId"]))
    assert failure == wanted

    request = ConverseRequest(message=SendMessageRequest(session_id=session_id, content=FAIL))
    assert (
        fails(lambda: list(service.messages.Converse(request, timeout=30)), "AGENT_REPLY_FAILED")["reason"]
        == REASONS[kind]
    )
    assert by_rest(service, session_id, "go on") == "".join(pieces(kind, "go on"))
    with service.http.get(f"{service.url}/{session_id}/events?after=0", stream=True, timeout=30) as stream:
        lines = []
        for line in stream.iter_lines(chunk_size=1):
            lines.append(line.decode())
            if not line and "id: 6" in lines:
                break
    events = [(name, json.loads(data)) for name, data in sse("\n".join(lines))]
    assert [name for name, _ in events if name != "messageStreamChunk"] == [
        *(
            "messageBroadcast",
            "agentReplyFailed",
            "messageBroadcast",
            "agentReplyFailed",
            "messageBroadcast",
            "messageBroadcast",
        )
    ]
    assert events[1] == ("agentReplyFailed", wanted)


def test_no_secret_is_told_or_logged(team: Team) -> None:
    service = team.service
    agents = [
        made(team, "webhook"),
        made(team, "openai"),
        made(team, "webhook", secret=f"file:{service.log_path.parent}/key"),
    ]
    assert [(one.webhook.secret or one.openai.api_key).partition(":")[0] for one in agents] == [
        "env",
        "env",
        "file",
    ]
    sessions = [service.create(agentId=one.agent_id)["sessionId"] for one in agents]
    answers = [
        service.http.post(
            f"{service.url}/{session_id}/messages", json={"content": FAIL, "transport": "http"}, timeout=30
        ).text
        for session_id in sessions
    ]
    refused = [
        fails(lambda secret=secret: made(team, "webhook", secret=secret), "INVALID_FIELD")
        for secret in ("env:AGENT_SECRET_SHORT", "env:AGENT_SECRET_ODD", HOOK_KEY)
    ]
    read = [service.agents.GetAgent(pb.GetAgentRequest(agent_id=one.agent_id), timeout=10) for one in agents]
    listed = service.agents.ListAgents(pb.ListAgentsRequest(page_size=1000), timeout=10)
    for secret in SECRETS:
        assert secret not in str([agents, answers, refused, read, listed])
        assert secret not in service.log()


@pytest.mark.parametrize(
    ("settings", "field", "why"),
    [
        ({"url": "http://localhost/"}, "webhook.url", "AGENT_ALLOWED_HOSTS"),
        ({"url": "http://169.254.169.254/"}, "webhook.url", "AGENT_ALLOWED_HOSTS"),
        ({"secret": "env:PATH"}, "webhook.secret", "AGENT_SECRETS does not allow"),
        ({"secret": "file:/etc/passwd"}, "webhook.secret", "AGENT_SECRETS does not allow"),
        ({"secret": "env:AGENT_SECRET_ABSENT"}, "webhook.secret", "not set or empty"),
        ({"secret": "env:AGENT_SECRET_SHORT"}, "webhook.secret", "fewer than 16 bytes"),
        ({"secret": "env:AGENT_SECRET_ODD"}, "webhook.secret", "base64"),
        ({"secret": HOOK_KEY}, "webhook.secret", "not the secret itself"),
    ],
    ids=str,
)
def test_what_is_wrong_with_a_webhook_is_said_when_it_is_registered(
    team: Team, settings: dict[str, str], field: str, why: str
) -> None:
    details = fails(lambda: made(team, "webhook", **settings), "INVALID_FIELD")
    assert details["field"] == field
    assert why in details["reason"]


def test_the_built_in_agent_is_there_beside_those_of_the_file(team: Team) -> None:
    listed = team.service.agents.ListAgents(pb.ListAgentsRequest(page_size=1000), timeout=10).agents
    assert {ECHO, *team.agents.values()} <= {one.agent_id for one in listed}
    by_id = {one.agent_id: one for one in listed}
    hook, endpoint = by_id[team.agents["webhook"]].webhook, by_id[team.agents["openai"]].openai
    assert (hook.url, hook.secret, hook.timeout_seconds) == (
        f"{team.hook.url}/hook",
        "env:AGENT_SECRET_HOOK",
        30,
    )
    assert (endpoint.base_url, endpoint.system_prompt, endpoint.HasField("temperature")) == (
        team.endpoint.base_url,
        "Be brief.",
        False,
    )
