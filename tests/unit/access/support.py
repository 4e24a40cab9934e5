"""What the tests of authentication share: clocks that stand still, files, keys of an identity provider."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

NOW_MS = 1_800_000_000_000
ISSUER = "https://login.example.com/"
AUDIENCE = "eliza"
USER = "11111111-1111-4111-8111-111111111111"
OTHER = "22222222-2222-4222-8222-222222222222"
AGENT = "33333333-3333-4333-8333-333333333333"
SESSION = "44444444-4444-4444-8444-444444444444"


@dataclass
class Clock:
    """Both clocks: the service's in ms, and a monotonic one in seconds."""

    ms: int = NOW_MS

    def now_ms(self) -> int:
        return self.ms

    def monotonic(self) -> float:
        return (self.ms - NOW_MS) / 1000


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    """Writes a file with a mode."""
    path.write_text(text)
    path.chmod(mode)
    return path


@cache
def private_key(kind: str) -> Any:
    """The provider's key of a kind: made once, because RSA takes its time."""
    if kind == "RSA":
        return rsa.generate_private_key(65537, 2048)
    return ec.generate_private_key(ec.SECP256R1()) if kind == "EC" else ed25519.Ed25519PrivateKey.generate()


@cache
def other_private_key() -> Any:
    """A key of nobody's."""
    return rsa.generate_private_key(65537, 2048)


def jwk(kind: str, kid: str, **more: object) -> dict[str, Any]:
    """The public key of a kind as a JWK."""
    algorithm = {"RSA": RSAAlgorithm, "EC": ECAlgorithm, "OKP": OKPAlgorithm}[kind]
    return {**json.loads(algorithm.to_jwk(private_key(kind).public_key())), "kid": kid, **more}


def jwks(*keys: dict[str, Any]) -> str:
    """A JWKS."""
    return json.dumps({"keys": keys})


ALGORITHMS = {"RSA": "RS256", "EC": "ES256", "OKP": "EdDSA"}


def claims(**changes: object) -> dict[str, Any]:
    """The claims of a good token, with changes; None leaves a claim out."""
    usual = {"iss": ISSUER, "aud": AUDIENCE, "exp": NOW_MS // 1000 + 600, "sub": "ada"}
    return {name: value for name, value in (usual | changes).items() if value is not None}


def token(kind: str = "RSA", kid: str | None = "one", key: Any = None, **changes: object) -> str:
    """A token of the provider's."""
    headers = {} if kid is None else {"kid": kid}
    return jwt.encode(claims(**changes), key or private_key(kind), ALGORITHMS[kind], headers=headers)
