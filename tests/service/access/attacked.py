"""A protected service that also takes the tokens of an identity provider, and ways to attack it."""

import itertools
import json
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import grpc
import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from eliza.sessions.v1 import clock_service_pb2, session_service_pb2
from tests.contract.raw_http import Response, exchange, request
from tests.service.access.world import ALICE, World, make_world, outcome_of
from tests.support.service import Serve

ISSUER, AUDIENCE = "https://login.example.com/", "eliza"

Headers = list[tuple[str, str]]

_numbers: Final = itertools.count(1)


def fresh_address() -> str:
    """An address that nobody has called from: after ten wrong credentials a minute from one, the next wrong
    one is RATE_LIMITED.
    """
    number = next(_numbers)
    return f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"


class Provider:
    """An identity provider with a key and its `kid`."""

    def __init__(self, kid: str = "one") -> None:
        self.kid = kid
        self.key = rsa.generate_private_key(65537, 2048)
        self.jwk: dict[str, Any] = {**json.loads(RSAAlgorithm.to_jwk(self.key.public_key())), "kid": kid}

    def token(
        self, now_s: int, algorithm: str = "RS256", headers: dict[str, Any] | None = None, **changes: Any
    ) -> str:
        """A token of Alice's; a change to None leaves a claim out."""
        usual = {"iss": ISSUER, "aud": AUDIENCE, "exp": now_s + 600, "sub": ALICE, "tid": "acme"}
        claims = {name: value for name, value in (usual | changes).items() if value is not None}
        return jwt.encode(claims, self.key, algorithm, headers={"kid": self.kid} | (headers or {}))


def write_jwks(path: Path, *keys: dict[str, Any]) -> None:
    """Writes a JWKS at once."""
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps({"keys": keys}))
    fresh.chmod(0o600)
    fresh.rename(path)


class Attacked(NamedTuple):
    """The service with its callers, and the provider whose tokens it takes."""

    world: World
    provider: Provider
    directory: Path

    @property
    def now_s(self) -> int:
        """The service's time, in whole seconds. Its clock stands still."""
        asked = clock_service_pb2.GetClockRequest()
        clock = self.world.service.clock
        return int(clock.GetClock(asked, metadata=self.world.metadata("admin"), timeout=20).now.seconds)

    def token(self, **changes: Any) -> str:
        return self.provider.token(self.now_s, **changes)

    def grpc_outcome(self, *metadata: tuple[str, str]) -> str:
        """The reason for which Alice's session is refused over gRPC; empty: it is told."""
        asked = session_service_pb2.GetSessionRequest(session_id=self.world.session_id)
        try:
            self.world.service.sessions.GetSession(asked, metadata=metadata, timeout=20)
        except grpc.RpcError as error:
            return outcome_of(error)
        return ""

    def rest(self, *headers: tuple[str, str], **options: Any) -> Response | None:
        """The answer of REST to a request for Alice's session with these headers, as they are."""
        return raw_rest(self.world.service, f"/{self.world.session_id}", headers=[*headers], **options)

    def rest_outcome(self, *headers: tuple[str, str]) -> str:
        """The same as `grpc_outcome` over REST."""
        return code_of(self.rest(*headers))

    def outcomes(self, secret: str) -> set[str]:
        """What comes of a token over gRPC and over REST."""
        header = ("authorization", f"Bearer {secret}")
        # Over gRPC all calls of this machine have one address: a wrong one may be one of many.
        found = {self.grpc_outcome(header).replace("RATE_LIMITED", "UNAUTHENTICATED")}
        return found | {self.rest_outcome(header)}


def make_attacked(start: Callable[..., Serve], directory: Path, **settings: str) -> Attacked:
    """Starts such a service."""
    provider = Provider()
    write_jwks(directory / "jwks.json", provider.jwk)
    world = make_world(
        start,
        directory,
        **{
            "TEST_CLOCK": "1",
            "TRUSTED_PROXIES": "127.0.0.1",
            "JWT_KEYS": str(directory / "jwks.json"),
            "JWT_ISSUER": ISSUER,
            "JWT_AUDIENCE": AUDIENCE,
            "JWT_TENANT_CLAIM": "tid",
            "LOG_LEVEL": "debug",
            **settings,
        },
    )
    return Attacked(world, provider, directory)


def raw_rest(
    service: Serve,
    path: str,
    method: str = "GET",
    body: bytes | None = None,
    headers: Headers | None = None,
    address: str = "",
    **options: Any,
) -> Response | None:
    """The answer of REST to a request below the sessions, from an address of its own."""
    target = urllib.parse.urlsplit(service.url).path + path
    sent = [("X-Forwarded-For", address or fresh_address()), *(headers or [])]
    return exchange(service.rest, [request(method, target, body, sent)], method=method, **options)


def code_of(response: Response | None) -> str:
    """The code of a refusal; empty where it is none."""
    assert response is not None
    return "" if response.status < 400 else str(json.loads(response.content)["code"])
