"""Protected services, and callers of each kind of credential with sessions of their own."""

import json
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, NamedTuple

import jwt
from cryptography.hazmat.primitives.asymmetric import ec

from eliza.sessions.v1 import agent_pb2, agent_service_pb2, session_service_pb2
from tests.service.access.world import ALICE, key_lines, make_key, write_keys
from tests.support.service import Serve

ISSUER, AUDIENCE = "https://issuer.example", "eliza-sessions"
STATIC_TOKEN: Final = "a-token-of-the-ecosystem"
SETTINGS: Final = {"MAX_OPEN_DELIVERIES": "1000000", "LOG_LEVEL": "warning"}


class Caller(NamedTuple):
    """Someone who calls a service: what is sent with each call, and the sessions that this one may use."""

    service: Serve
    headers: Mapping[str, str]
    session_ids: list[str]


def _create(
    service: Serve, metadata: Mapping[str, str], user_id: str, agent_id: str, count: int
) -> list[str]:
    request = session_service_pb2.CreateSessionRequest(agent_id=agent_id, user_id=user_id)
    pairs = tuple(metadata.items())
    return [
        service.sessions.CreateSession(request, metadata=pairs, timeout=30).session.session_id
        for _ in range(count)
    ]


def _silent_agent(service: Serve, metadata: Mapping[str, str]) -> str:
    """An agent that nobody works for: its messages are stored and get no reply."""
    agent = agent_pb2.Agent(name="silent", kind=agent_pb2.AGENT_KIND_STREAM)
    request = agent_service_pb2.CreateAgentRequest(agent=agent)
    answer = service.agents.CreateAgent(request, metadata=tuple(metadata.items()), timeout=30)
    return str(answer.agent.agent_id)


def open_caller(service: Serve, sessions: int) -> Caller:
    """A caller of a service that wants no credential, with so many sessions, whose messages get no reply."""
    return Caller(service, {}, _create(service, {}, ALICE, _silent_agent(service, {}), sessions))


def _jwk(private: ec.EllipticCurvePrivateKey) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(private.public_key()))
    return {**made, "kid": "one", "alg": "ES256", "use": "sig"}


@contextmanager
def callers(sessions: int) -> Iterator[dict[str, Caller]]:
    """A caller of an open service, and one of a protected service with each kind of credential.

    Each has so many sessions.
    """
    with TemporaryDirectory() as name:
        directory = Path(name)
        admin, backend = make_key("admin"), make_key("backend")
        write_keys(
            directory / "keys.toml",
            key_lines("admin", admin, role="admin") + key_lines("backend", backend, role="service"),
        )
        private = ec.generate_private_key(ec.SECP256R1())
        (directory / "jwks.json").write_text(json.dumps({"keys": [_jwk(private)]}))
        (directory / "jwks.json").chmod(0o600)
        opened = Serve(directory / "open", **SETTINGS)
        protected = Serve(
            directory / "protected",
            KEYS_FILE=str(directory / "keys.toml"),
            ELIZA_SERVER_AUTH_TOKEN=STATIC_TOKEN,
            JWT_KEYS=str(directory / "jwks.json"),
            JWT_ISSUER=ISSUER,
            JWT_AUDIENCE=AUDIENCE,
            **SETTINGS,
        )
        try:
            yield _callers(opened, protected, admin, backend, private, sessions)
        finally:
            opened.stop()
            protected.stop()


def _callers(
    opened: Serve,
    protected: Serve,
    admin: str,
    backend: str,
    private: ec.EllipticCurvePrivateKey,
    sessions: int,
) -> dict[str, Caller]:
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": ALICE, "exp": int(time.time()) + 3600}
    token = jwt.encode(claims, private, algorithm="ES256", headers={"kid": "one"})
    silent = _silent_agent(protected, {"x-api-key": admin})
    key = {"x-api-key": backend}

    def own() -> list[str]:
        # Each has sessions of its own, since those that others write to grow.
        return _create(protected, key, ALICE, silent, sessions)

    of_token = own()[:1]
    asked = session_service_pb2.CreateAccessTokenRequest(session_id=of_token[0])
    made = protected.sessions.CreateAccessToken(asked, metadata=tuple(key.items()), timeout=30)
    return {
        "open": Caller(opened, {}, _create(opened, {}, ALICE, _silent_agent(opened, {}), sessions)),
        "a key": Caller(protected, key, own()),
        "on behalf": Caller(protected, {**key, "x-on-behalf-of": ALICE}, own()),
        "the static token": Caller(protected, {"x-api-key": STATIC_TOKEN}, own()),
        "a JWT": Caller(protected, {"authorization": f"Bearer {token}"}, own()),
        "a session token": Caller(protected, {"authorization": f"Bearer {made.access_token}"}, of_token),
    }


def unknown_id() -> str:
    """The id of nobody's session."""
    return str(uuid.uuid4())
