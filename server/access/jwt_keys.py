"""Checks JSON web tokens by keys whose algorithms are fixed, and says which user they are of."""

import hashlib
import math
from collections.abc import Mapping
from typing import Any, Final, NamedTuple
from uuid import NAMESPACE_URL, UUID, uuid5

import jwt
import orjson

from server.access.keys import check_tenant
from server.domain.access import Principal, Role, Verb, require_current
from server.domain.errors import InvalidUuidError, UnauthenticatedError
from server.domain.ids import uuid_field

MAX_TOKEN_LENGTH: Final = 16 * 1024
MAX_KID_LENGTH: Final = 1024
MAX_USER_LENGTH: Final = 1024
LEAST_RSA_BITS: Final = 2048
SHARE: Final = 0.5

_ALGORITHMS: Final[Mapping[tuple[str, str], tuple[str, ...]]] = {
    ("RSA", ""): ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("EC", "P-521"): ("ES512",),
    ("OKP", "Ed25519"): ("EdDSA",),
    ("oct", ""): ("HS256", "HS384", "HS512"),
}
"""The algorithms of a key's kind and curve; the first is that of a key that names none."""
_LEAST_OCT_BYTES: Final = {"HS256": 32, "HS384": 48, "HS512": 64}
_MEMBERS: Final = ("kty", "crv", "x", "y", "n", "e", "k", "alg")
"""What makes a key another one."""
_MALFORMED: Final = (jwt.PyJWTError, ValueError, TypeError, KeyError, RecursionError)
"""What the library raises for hostile tokens and keys."""


class JwtKey(NamedTuple):
    """A key with its one algorithm. `proof` names its content."""

    proof: str
    algorithm: str
    key: jwt.PyJWK


class KeySet(NamedTuple):
    """Keys by `kid`; `proofs` are all of theirs."""

    by_kid: Mapping[str, JwtKey]
    proofs: frozenset[str]
    has_secrets: bool = False

    def find(self, kid: str | None) -> JwtKey | None:
        """The key of a token: the only one, where the token names none."""
        if kid is None:
            return next(iter(self.by_kid.values())) if len(self.by_kid) == 1 else None
        return self.by_kid.get(kid)


NO_KEYS: Final = KeySet({}, frozenset())


class JwtRules(NamedTuple):
    """What a token must say, and what its caller may do. No `tenant_claim`: all are of the tenant ''."""

    issuer: str
    audience: str
    user_claim: str = "sub"
    tenant_claim: str = ""
    verbs: frozenset[Verb] = frozenset(Verb)


def read_key_set(content: bytes, *, is_file: bool) -> KeySet:
    """The keys of a JWKS. Only a file of the operator's may have symmetric ones.

    Keys for encryption are left out. So are, unless it is a file, keys that cannot be used here.

    :raises ValueError: it is no JWKS, a key of a file cannot be used, or there is none
    """
    try:
        document = orjson.loads(content)
    except orjson.JSONDecodeError:
        raise ValueError("it is not JSON") from None
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise ValueError('it is no JWKS: {"keys": […]}')
    keys: dict[str, JwtKey] = {}
    has_secrets = False
    for number, entry in enumerate(entries, 1):
        if isinstance(entry, dict) and entry.get("use", "sig") != "sig":
            continue
        try:
            kid, key = _read_key(entry, is_file)
            if kid in keys:
                raise ValueError("its kid stands there already")
        except ValueError as error:
            if is_file:
                raise ValueError(f"key {number}: {error}") from None
            continue
        keys[kid] = key
        has_secrets = has_secrets or key.algorithm.startswith("HS")
    if not keys:
        raise ValueError("it has no key that can be used here")
    return KeySet(keys, frozenset(key.proof for key in keys.values()), has_secrets)


def kid_of(token: str) -> str | None:
    """The `kid` of a token that nobody has checked: only ever the key of a dict. None: it has none.

    :raises UnauthenticatedError: it is no token
    """
    if len(token) > MAX_TOKEN_LENGTH:
        raise UnauthenticatedError("The token is too long")
    try:
        kid = jwt.get_unverified_header(token).get("kid")
    except _MALFORMED:
        raise UnauthenticatedError("The token is malformed") from None
    if kid is not None and (not isinstance(kid, str) or len(kid) > MAX_KID_LENGTH):
        raise UnauthenticatedError("The token is malformed")
    return kid


def verify(token: str, key: JwtKey, rules: JwtRules, now_ms: int) -> Principal:
    """The caller of a token.

    :raises UnauthenticatedError: its signature, issuer, audience or a claim is wrong, or it is not good yet
    :raises CredentialExpiredError: all is right, but it has expired
    """
    options: Any = {
        "require": ["exp", "iss", "aud"],
        # By the service's clock, below.
        **dict.fromkeys(("verify_exp", "verify_nbf", "verify_iat", "verify_sub", "verify_jti"), False),
    }
    try:
        claims = jwt.decode(
            token, key.key, [key.algorithm], options, audience=rules.audience, issuer=rules.issuer
        )
        principal = _read_claims(claims, key, rules)
        is_good_yet = now_ms >= _instant_ms(claims.get("nbf", 0))
    except _MALFORMED:
        raise UnauthenticatedError("The token is wrong, or of another issuer or audience") from None
    if not is_good_yet:
        raise UnauthenticatedError("The token is not good yet")
    require_current(principal, now_ms)
    return principal


def user_id_of(issuer: str, user: str) -> str:
    """The UUID of a user: the one that it is, in lower case, or the `uuid5` of any other text.

    The namespace of the latter is the `uuid5` of the issuer in the namespace of URLs.
    """
    try:
        return uuid_field("user", user)
    except InvalidUuidError:
        return str(uuid5(namespace_of(issuer), user))


def namespace_of(issuer: str) -> UUID:
    """The namespace of an issuer's users."""
    return uuid5(NAMESPACE_URL, issuer)


def _read_claims(claims: dict[str, Any], key: JwtKey, rules: JwtRules) -> Principal:
    """Raises ValueError, TypeError or KeyError for claims that say nothing."""
    user = claims[rules.user_claim]
    if not isinstance(user, str) or not 0 < len(user) <= MAX_USER_LENGTH:
        raise ValueError("the user is no text")
    user.encode()
    tenant = claims[rules.tenant_claim] if rules.tenant_claim else ""
    if not isinstance(tenant, str) or bool(tenant) != bool(rules.tenant_claim):
        raise ValueError("the tenant is no text")
    user_id = user_id_of(rules.issuer, user)
    return Principal(
        f"jwt:{user_id}",
        Role.USER,
        check_tenant(tenant),
        user_id,
        verbs=rules.verbs,
        not_after_ms=_instant_ms(claims["exp"]),
        source="jwt",
        proof=key.proof,
        share=SHARE,
    )


def _instant_ms(seconds: Any) -> int:
    """A NumericDate in ms. Raises ValueError or TypeError."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise TypeError("it is no number")
    if not math.isfinite(seconds) or not abs(seconds) < 1e12:
        raise ValueError("it is no instant")
    return math.floor(seconds * 1000)


def _read_key(entry: Any, is_file: bool) -> tuple[str, JwtKey]:
    """A key with its kid. Raises ValueError, which does not repeat the key."""
    if not isinstance(entry, dict):
        raise ValueError("it is no object")
    kind, curve, kid = entry.get("kty"), entry.get("crv", ""), entry.get("kid", "")
    if not isinstance(kid, str) or not isinstance(kind, str) or not isinstance(curve, str):
        raise ValueError("kty, crv or kid is no text")
    allowed = _ALGORITHMS.get((kind, curve), ())
    if kind == "oct":
        if not is_file:
            raise ValueError("symmetric keys may stand in a file only")
        if "alg" not in entry:
            raise ValueError("a symmetric key needs an alg")
    elif "d" in entry:
        raise ValueError("it is a private key")
    algorithm = entry.get("alg") or (allowed[0] if allowed else "")
    if algorithm not in allowed:
        raise ValueError(f"its kty, crv and alg do not go together here: allowed are {', '.join(_NAMES)}")
    try:
        key = jwt.PyJWK(entry, algorithm)
    except _MALFORMED:
        raise ValueError("its numbers are malformed") from None
    if kind == "RSA" and key.key.key_size < LEAST_RSA_BITS:
        raise ValueError(f"it has fewer than {LEAST_RSA_BITS} bits")
    if kind == "oct" and len(key.key) < _LEAST_OCT_BYTES[algorithm]:
        raise ValueError(f"it has fewer than {_LEAST_OCT_BYTES[algorithm]} bytes")
    members = orjson.dumps([entry.get(member) for member in _MEMBERS])
    return kid, JwtKey(hashlib.sha256(members).hexdigest()[:32], algorithm, key)


_NAMES: Final = [name for names in _ALGORITHMS.values() for name in names]
