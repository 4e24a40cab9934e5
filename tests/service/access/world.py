"""A protected service with a caller of each kind, and a session of one of them."""

import hashlib
import secrets
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import grpc

from eliza.sessions.v1 import agent_pb2, agent_service_pb2, message_service_pb2, session_service_pb2
from tests.support.service import Serve

TENANT, OTHER_TENANT = "acme", "beta"
ALICE, BOB = "aaaaaaaa-0000-4000-8000-00000000000a", "bbbbbbbb-0000-4000-8000-00000000000b"
AGENT, OTHER_AGENT = "aaaaaaaa-0000-4000-8000-0000000000a9", "bbbbbbbb-0000-4000-8000-0000000000b9"

Metadata = tuple[tuple[str, str], ...]


def make_key(key_id: str) -> str:
    """A key as `eliza-sessions keys add` makes it."""
    return f"es_{key_id}_{secrets.token_urlsafe(32)}"


def key_lines(key_id: str, key: str, **fields: str) -> str:
    """A key of the keys file. `not_after` is written as it is."""
    lines = [f'id = "{key_id}"', f'sha256 = "{hashlib.sha256(key.encode()).hexdigest()}"']
    lines += [f"{name} = {text if name == 'not_after' else repr(text)}" for name, text in fields.items()]
    return "\n".join(["[[keys]]", *lines, ""])


def write_keys(path: Path, text: str) -> None:
    """Writes a keys file at once, as an editor does."""
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    fresh.chmod(0o600)
    fresh.rename(path)


KEYS: dict[str, dict[str, str]] = {
    "user": {"role": "user", "tenant": TENANT, "user": ALICE},
    "other_user": {"role": "user", "tenant": TENANT, "user": BOB},
    "other_tenant": {"role": "service", "tenant": OTHER_TENANT},
    "agent": {"role": "agent", "tenant": TENANT, "agent": AGENT},
    "other_agent": {"role": "agent", "tenant": TENANT, "agent": OTHER_AGENT},
    "service": {"role": "service", "tenant": TENANT},
    "admin": {"role": "admin", "tenant": TENANT},
    "operator": {"role": "admin", "tenant": "*"},
    "expired": {"role": "service", "tenant": TENANT, "not_after": "2020-01-01T00:00:00Z"},
}


class World(NamedTuple):
    """The service, the key of each caller that has one, and Alice's session with the agent."""

    service: Serve
    keys: dict[str, str]
    session_id: str
    channel_id: str
    tokens: dict[str, str]
    """By caller: tokens for that session, and for another one of hers."""

    def headers(self, caller: str) -> dict[str, str]:
        """What a caller sends with each request."""
        match caller:
            case "none":
                return {}
            case "wrong":
                return {"x-api-key": make_key("user")}
            case "behalf":
                return {"x-api-key": self.keys["service"], "x-on-behalf-of": ALICE}
            case "behalf_other":
                return {"x-api-key": self.keys["service"], "x-on-behalf-of": BOB}
            case "token" | "other_token":
                return {"authorization": f"Bearer {self.tokens[caller]}"}
            case _:
                return {"x-api-key": self.keys[caller]}

    def metadata(self, caller: str) -> Metadata:
        """The same as gRPC's metadata."""
        return tuple(self.headers(caller).items())

    def new_session(self) -> str:
        """The id of another session of Alice's with the agent."""
        request = session_service_pb2.CreateSessionRequest(agent_id=AGENT, user_id=ALICE)
        answer = self.service.sessions.CreateSession(request, metadata=self.metadata("service"), timeout=10)
        return str(answer.session.session_id)

    def new_delivery(self) -> str:
        """The id of a delivery in Alice's session that waits for the agent."""
        session_id = self.new_session()
        request = message_service_pb2.SendMessageRequest(session_id=session_id, content="Hello")
        sent = self.service.messages.SendMessage(request, metadata=self.metadata("service"), timeout=10)
        return f"{session_id}-{sent.message.sequence}"

    def new_agent(self) -> str:
        """The id of another agent of the tenant."""
        agent = agent_pb2.Agent(agent_id=str(uuid.uuid4()), name="Extra", kind=agent_pb2.AGENT_KIND_STREAM)
        request = agent_service_pb2.CreateAgentRequest(agent=agent)
        answer = self.service.agents.CreateAgent(request, metadata=self.metadata("admin"), timeout=10)
        return str(answer.agent.agent_id)


def make_world(start: Callable[..., Serve], directory: Path, **settings: str) -> World:
    """Starts a protected service and makes what its callers need."""
    keys = {key_id: make_key(key_id.replace("_", "-")) for key_id in KEYS}
    path = directory / "keys.toml"
    write_keys(
        path, "\n".join(key_lines(key_id.replace("_", "-"), keys[key_id], **KEYS[key_id]) for key_id in KEYS)
    )
    service = start(KEYS_FILE=str(path), **settings)
    world = World(service, keys, "", "", {})
    for agent_id in (AGENT, OTHER_AGENT):
        agent = agent_pb2.Agent(agent_id=agent_id, name="Worker", kind=agent_pb2.AGENT_KIND_STREAM)
        request = agent_service_pb2.CreateAgentRequest(agent=agent)
        service.agents.CreateAgent(request, metadata=world.metadata("admin"), timeout=10)
    wanted = session_service_pb2.CreateSessionRequest(agent_id=AGENT, user_id=ALICE)
    session = service.sessions.CreateSession(wanted, metadata=world.metadata("service"), timeout=10).session
    for caller, session_id in (("token", session.session_id), ("other_token", world.new_session())):
        asked = session_service_pb2.CreateAccessTokenRequest(session_id=session_id)
        made: Any = service.sessions.CreateAccessToken(asked, metadata=world.metadata("service"), timeout=10)
        world.tokens[caller] = made.access_token
    return world._replace(session_id=session.session_id, channel_id=session.channel_id)


def outcome_of(error: grpc.RpcError) -> str:
    """The reason of a refused call."""
    from eliza.sessions.errors import error_info

    info = error_info(error)
    return info.reason if info else f"{error.code()}: {error.details()}"
