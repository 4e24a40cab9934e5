"""The keys file: TOML tables of the SHA-256 digests of keys, and what each key may do."""

import hashlib
import re
import secrets
import tomllib
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from server.access.files import WatchedFile
from server.domain.access import ALL_TENANTS, ALL_VERBS, Principal, Role, Verb
from server.domain.errors import InvalidUuidError
from server.domain.ids import uuid_field

VARIABLE: Final = "KEYS_FILE"
MAX_LIVE: Final = 2
"""How many keys of one id may be good at a time: one takes over from the other."""
PROOF_DIGITS: Final = 32
"""How many digits of a digest name a key: enough to tell keys apart."""
ROLES: Final = (Role.USER, Role.AGENT, Role.SERVICE, Role.ADMIN, Role.FACADE)
"""The roles that a key may have."""
SHARES: Final = {Role.USER: 0.5, Role.AGENT: 0.5}
"""The part of any bound that a key may have under way, by its role; others may have all."""
MAX_TENANT_LENGTH: Final = 128

ID_FORM: Final = "1 to 64 letters, digits, dots and hyphens, but not `open` or `nobody`"
_ID: Final = re.compile(r"(?!(?:open|nobody)$)[A-Za-z0-9][A-Za-z0-9.-]{0,63}", re.ASCII)
_DIGEST: Final = re.compile(r"[0-9a-fA-F]{64}", re.ASCII)
_FIELDS: Final[Mapping[str, type | tuple[type, ...]]] = {
    "id": str,
    "sha256": str,
    "role": str,
    "tenant": str,
    "user": str,
    "agent": str,
    "not_after": datetime,
    "share": (int, float),
    "certificate": str,
}
_KINDS: Final = {str: "a text", datetime: "a date and time with an offset", (int, float): "a number"}


class Key(NamedTuple):
    """A key as the file has it. `digest` is the SHA-256 of the key; `not_after_ms` is when it expires."""

    id: str
    digest: bytes
    role: Role
    tenant: str = ""
    user_id: str = ""
    agent_id: str = ""
    not_after_ms: int | None = None
    share: float = 1.0
    certificate: str = ""


class KeyTable(NamedTuple):
    """The callers of the keys file: by the digest of what they present, by `Principal.proof`, and by the
    names of certificates.
    """

    by_digest: Mapping[bytes, Principal]
    by_proof: Mapping[str, Principal]
    by_certificate: Mapping[str, Principal]


NO_KEYS: Final = KeyTable({}, {}, {})


def digest_of(secret: str) -> bytes:
    """The digest by which a key or token is looked up: how far a guess is right shows in no time."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def make_key(key_id: str) -> str:
    """A fresh key for an id."""
    return f"es_{key_id}_{secrets.token_urlsafe(32)}"


def check_key_id(key_id: str) -> str:
    """Returns an id of a key. Raises ValueError."""
    if not _ID.fullmatch(key_id):
        raise ValueError(f"id is not {ID_FORM}")
    return key_id


def check_tenant(tenant: str) -> str:
    """Returns a tenant's name, `*` not among them. Raises ValueError."""
    if len(tenant) > MAX_TENANT_LENGTH or not tenant.isprintable() or tenant != tenant.strip():
        raise ValueError(f"the tenant is no printable text of at most {MAX_TENANT_LENGTH} characters")
    if tenant == ALL_TENANTS:
        raise ValueError("the tenant `*`, which is all of them, is for the role admin only")
    return tenant


def open_keys(path: Path, now_ms: Callable[[], int], user_verbs: frozenset[Verb]) -> WatchedFile[KeyTable]:
    """The callers of a keys file, whose users have these verbs. Raises AccessError."""

    def parse(content: bytes) -> KeyTable:
        return build_table(read_keys(decode(content), now_ms()), user_verbs)

    return WatchedFile(VARIABLE, path, parse)


def decode(content: bytes) -> str:
    """The file's text. Raises ValueError, as of text that is not UTF-8."""
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"line {line}: it is not UTF-8") from None


def read_keys(text: str, now_ms: int) -> list[Key]:
    """The keys of the file's text, in its order. Raises ValueError, naming the line or the key's number."""
    document = tomllib.loads(text)
    if unknown := document.keys() - {"keys"}:
        raise ValueError(f"there is no {min(unknown)!r}: a key begins with [[keys]]")
    tables = document.get("keys", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise ValueError("keys is no list of tables: a key begins with [[keys]]")
    keys = []
    for number, table in enumerate(tables, 1):
        try:
            keys.append(_read_key(table))
        except (ValueError, InvalidUuidError) as error:
            raise ValueError(f"key {number}: {error}") from None
    _check_together(keys, now_ms)
    return keys


def build_table(keys: list[Key], user_verbs: frozenset[Verb] = ALL_VERBS) -> KeyTable:
    """The callers of these keys. A certificate lives as long as one of its id's keys."""
    by_digest: dict[bytes, Principal] = {}
    by_certificate: dict[str, Principal] = {}
    for key in keys:
        principal = Principal(
            key.id,
            key.role,
            key.tenant,
            key.user_id,
            key.agent_id,
            verbs=user_verbs if key.role is Role.USER else ALL_VERBS,
            not_after_ms=key.not_after_ms,
            source="key",
            proof=key.digest.hex()[:PROOF_DIGITS],
            share=key.share,
        )
        by_digest[key.digest] = principal
        if key.certificate:
            one = principal._replace(source="certificate", proof=key.certificate)
            other = by_certificate.get(key.certificate, one)
            by_certificate[key.certificate] = max(one, other, key=_end)
    return KeyTable(by_digest, {one.proof: one for one in by_digest.values()}, by_certificate)


def _end(principal: Principal) -> float:
    return float("inf") if principal.not_after_ms is None else principal.not_after_ms


def _read_key(table: dict[str, Any]) -> Key:
    if unknown := table.keys() - _FIELDS.keys():
        raise ValueError(f"there is no field {min(unknown)!r}")
    for name, kind in _FIELDS.items():
        value = table.get(name)
        if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
            raise ValueError(f"{name} is not {_KINDS[kind]}")
    if missing := [name for name in ("id", "sha256", "role") if not table.get(name)]:
        raise ValueError(f"{missing[0]} is missing")
    if not _DIGEST.fullmatch(table["sha256"]):
        raise ValueError("sha256 is not the 64 hexadecimal digits of a SHA-256 digest")
    if table["role"] not in ROLES:
        raise ValueError(f"role is not {' or '.join(ROLES)}")
    role = Role(table["role"])
    tenant = table.get("tenant", "")
    if role is not Role.ADMIN or tenant != ALL_TENANTS:
        check_tenant(tenant)
    if role is Role.FACADE and tenant:
        raise ValueError("a facade has no tenant")
    share = float(table.get("share", SHARES.get(role, 1.0)))
    if not 0 < share <= 1:
        raise ValueError("share is not more than 0 and at most 1")
    return Key(
        check_key_id(table["id"]),
        bytes.fromhex(table["sha256"]),
        role,
        tenant,
        _narrow(table, role, Role.USER),
        _narrow(table, role, Role.AGENT),
        _read_instant(table.get("not_after")),
        share,
        table.get("certificate", ""),
    )


def _narrow(table: dict[str, Any], role: Role, narrowed: Role) -> str:
    """The user or agent that a key is narrowed to: one of that role is, and no other."""
    given = table.get(narrowed.value, "")
    if role is not narrowed:
        if given:
            raise ValueError(f"{narrowed} is for the role {narrowed} only")
        return ""
    if not given:
        raise ValueError(f"{narrowed} is missing, which the role {narrowed} needs")
    return uuid_field(narrowed.value, given)


def _read_instant(value: datetime | None) -> int | None:
    if value is None:
        return None
    if value.tzinfo is None:
        raise ValueError("not_after has no offset: say 2027-01-31T12:00:00Z")
    return round(value.timestamp() * 1000)


def _check_together(keys: list[Key], now_ms: int) -> None:
    """Checks what keys must not have in common. Raises ValueError."""
    digests: dict[bytes, int] = {}
    certificates: dict[str, tuple[str, int]] = {}
    firsts: dict[str, tuple[Key, int]] = {}
    live: dict[str, int] = {}
    same: Callable[[Key], Key] = partial(Key._replace, digest=b"", not_after_ms=None)
    for number, key in enumerate(keys, 1):
        if (earlier := digests.setdefault(key.digest, number)) != number:
            raise ValueError(f"key {number}: it has the sha256 of key {earlier}")
        first, earlier = firsts.setdefault(key.id, (key, number))
        if same(first) != same(key):
            raise ValueError(
                f"key {number}: it has the id of key {earlier}, so they must agree in all but sha256 and "
                "not_after"
            )
        if key.not_after_ms is None or key.not_after_ms > now_ms:
            live[key.id] = live.get(key.id, 0) + 1
            if live[key.id] > MAX_LIVE:
                raise ValueError(f"key {number}: more than {MAX_LIVE} keys of the id {key.id} are good now")
        if key.certificate:
            owner, earlier = certificates.setdefault(key.certificate, (key.id, number))
            if owner != key.id:
                raise ValueError(f"key {number}: it has the certificate of key {earlier}")
