"""Session access tokens: short-lived credentials for one session, which the service signs itself.

A token is `est_PAYLOAD.MAC`, both in base64url without padding. The MAC is over the payload's text, and is
compared as text, so that a token has one form only.
"""

import binascii
import hashlib
import hmac
import re
import secrets
from base64 import b64decode, urlsafe_b64decode, urlsafe_b64encode
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import orjson
import structlog

from eliza.sessions.call_metadata import SESSION_TOKEN_PREFIX
from server.access.files import WatchedFile
from server.access.keys import decode
from server.domain.access import Principal, Role, Verb, require_current
from server.domain.errors import UnauthenticatedError

VARIABLE: Final = "ACCESS_TOKEN_KEYS_FILE"
MAX_LENGTH: Final = 2048
LEAST_KEY_BYTES: Final = 32
MAX_KEYS: Final = 2
MAX_REMEMBERED: Final = 10_000
SHARE: Final = 0.5

_VERSION: Final = 1
_DOMAIN: Final = b"eliza-sessions access token 1\n"
"""Stands before what is signed, so that a key that is used elsewhere, too, signs nothing for here."""
_VERBS: Final = (Verb.READ, Verb.SEND, Verb.CHANGE)
_VERB_SETS: Final = [
    frozenset(verb for place, verb in enumerate(_VERBS) if bits >> place & 1) for bits in range(8)
]
_KEY_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,63}", re.ASCII)
_HEX: Final = re.compile(r"([0-9a-fA-F]{2})+", re.ASCII)

log = structlog.get_logger()


class SigningKey(NamedTuple):
    """A key that signs tokens. `proof` names it, and changes with its bytes."""

    proof: str
    secret: bytes


class SessionTokens:
    """Makes and reads session access tokens. The first key signs, all read."""

    def __init__(
        self, now_ms: Callable[[], int], path: Path | None = None, size: int = MAX_REMEMBERED
    ) -> None:
        """Reads the keys' file; without one there is one key, and no token outlives the process.

        `size` is how many tokens are remembered.

        :raises AccessError: the file cannot be used
        """
        self._now_ms = now_ms
        self._size = size
        # By SHA-256: the tokens of the latest calls, so that each is verified once.
        self._known: OrderedDict[bytes, Principal] = OrderedDict()
        self._file: WatchedFile[tuple[SigningKey, ...]] | None = None
        self._own = (make_signing_key("start", secrets.token_bytes(LEAST_KEY_BYTES)),)
        if path is not None:
            self._file = WatchedFile(VARIABLE, path, read_signing_keys)

    @property
    def keys(self) -> tuple[SigningKey, ...]:
        """The keys, the one that signs first."""
        return self._own if self._file is None else self._file.value

    @property
    def trouble(self) -> str:
        """Why the keys' file cannot be used as it is now; empty where it can."""
        return "" if self._file is None else self._file.trouble

    def warn_if_alone(self) -> None:
        """Logs that no other server takes the tokens made here, where others share the store."""
        if self._file is None:
            log.warning("session access tokens are good at the server that made them alone", missing=VARIABLE)

    def has_key(self, proof: str) -> bool:
        """Whether the key of a principal's `proof` is still there."""
        return any(key.proof == proof for key in self.keys)

    def make(
        self,
        principal_id: str,
        tenant: str,
        user_id: str,
        session_id: str,
        verbs: frozenset[Verb],
        not_after_ms: int,
    ) -> str:
        """A token for one session of a user. `principal_id` names who asked for it."""
        bits = sum(1 << place for place, verb in enumerate(_VERBS) if verb in verbs)
        token_id = f"token:{principal_id}:{secrets.token_urlsafe(6)}"
        fields = [_VERSION, token_id, tenant, user_id, session_id, bits, not_after_ms]
        payload = urlsafe_b64encode(orjson.dumps(fields)).rstrip(b"=")
        return f"{SESSION_TOKEN_PREFIX}{payload.decode()}.{_sign(self.keys[0], payload)}"

    def read(self, text: str) -> Principal:
        """The caller of a token.

        :raises UnauthenticatedError: no key here has signed it
        :raises CredentialExpiredError: it was good once
        """
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
        known = self._known.get(digest)
        if known is None or not self.has_key(known.proof):
            known = self._verify(text)
            self._known[digest] = known
            if len(self._known) > self._size:
                self._known.popitem(last=False)
        else:
            self._known.move_to_end(digest)
        require_current(known, self._now_ms())
        return known

    def _verify(self, text: str) -> Principal:
        """The caller of a token, expired or not. Raises UnauthenticatedError."""
        payload_text, _, mac = text[len(SESSION_TOKEN_PREFIX) :].partition(".")
        if len(text) > MAX_LENGTH or not text.isascii() or not text.startswith(SESSION_TOKEN_PREFIX):
            raise UnauthenticatedError("The access token is malformed")
        payload = payload_text.encode()
        for key in self.keys:
            if hmac.compare_digest(_sign(key, payload), mac):
                break
        else:
            raise UnauthenticatedError("The access token was not made by this service")
        fields = orjson.loads(urlsafe_b64decode(payload + b"=" * (-len(payload) % 4)))
        if fields[0] != _VERSION:
            raise UnauthenticatedError("The access token is of another version")
        _, token_id, tenant, user_id, session_id, bits, not_after_ms = fields
        return Principal(
            token_id,
            Role.USER,
            tenant,
            user_id,
            "",
            session_id,
            _VERB_SETS[bits],
            not_after_ms,
            "session_token",
            key.proof,
            share=SHARE,
        )

    def reload_if_changed(self) -> None:
        """Reads the keys again where their file has changed. Blocking."""
        if self._file is not None:
            self._file.reload_if_changed()


def make_signing_key(key_id: str, secret: bytes) -> SigningKey:
    """A key, with the name of its `proof`."""
    return SigningKey(f"{key_id}:{hashlib.sha256(secret).hexdigest()[:16]}", secret)


def read_signing_keys(content: bytes) -> tuple[SigningKey, ...]:
    """The keys of a file: lines `ID SECRET`, the secret in hexadecimal or base64. Raises ValueError."""
    keys: dict[str, SigningKey] = {}
    for number, line in enumerate(decode(content).splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if len(words) != 2 or not _KEY_ID.fullmatch(words[0]):
            raise ValueError(f"line {number}: it is not `ID SECRET`, the secret in hexadecimal or base64")
        key_id, secret = words[0], _read_secret(words[1])
        if len(secret) < LEAST_KEY_BYTES:
            raise ValueError(
                f"line {number}: the secret is not {LEAST_KEY_BYTES} bytes or more in hexadecimal or base64"
            )
        if key_id in keys:
            raise ValueError(f"line {number}: the id {key_id} stands there twice")
        keys[key_id] = make_signing_key(key_id, secret)
    if not 1 <= len(keys) <= MAX_KEYS:
        raise ValueError(f"it has {len(keys)} keys: it must have 1, or {MAX_KEYS} while one takes over")
    return tuple(keys.values())


def _read_secret(text: str) -> bytes:
    """The bytes of a secret; none where it is malformed."""
    if _HEX.fullmatch(text):
        return bytes.fromhex(text)
    padded = text.rstrip("=")
    try:
        return b64decode(
            padded + "=" * (-len(padded) % 4), altchars="-_" if {*"-_"} & {*text} else None, validate=True
        )
    except binascii.Error:
        return b""


def _sign(key: SigningKey, payload: bytes) -> str:
    """The MAC of a payload, as text."""
    mac = hmac.digest(key.secret, _DOMAIN + payload, "sha256")
    return binascii.b2a_base64(mac, newline=False).translate(_URL_SAFE, b"=").decode()


_URL_SAFE: Final = bytes.maketrans(b"+/", b"-_")
