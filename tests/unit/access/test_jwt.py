"""JSON web tokens: the attacks that are known, and what a good one says."""

import base64
import hmac
import json
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from server.access.jwt_keys import JwtRules, KeySet, kid_of, read_key_set, verify
from server.domain.access import Principal, Role, Verb
from server.domain.errors import CredentialExpiredError, DomainError, UnauthenticatedError
from tests.unit.access.support import (
    ALGORITHMS,
    AUDIENCE,
    ISSUER,
    NOW_MS,
    USER,
    claims,
    jwk,
    jwks,
    other_private_key,
    private_key,
    token,
)

RULES = JwtRules(ISSUER, AUDIENCE, verbs=frozenset([Verb.READ]))
NOW_S = NOW_MS // 1000


def key_set(*keys: dict[str, Any], is_file: bool = True) -> KeySet:
    return read_key_set(jwks(*keys).encode(), is_file=is_file)


def check(text: str, keys: KeySet | None = None, rules: JwtRules = RULES) -> Principal:
    """Checks a token as the service does."""
    found = (keys or key_set(jwk("RSA", "one"))).find(kid_of(text))
    if found is None:
        raise UnauthenticatedError("no key")
    return verify(text, found, rules, NOW_MS)


def part(value: object) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def forge(header: dict[str, Any], secret: bytes | None = None, **changes: object) -> str:
    """A token with any header, signed by HS256 or not at all."""
    signed = f"{part(header)}.{part(claims(**changes))}"
    mac = hmac.digest(secret, signed.encode(), "sha256") if secret is not None else b""
    return f"{signed}.{part(mac)}"


@pytest.mark.parametrize("kind", ["RSA", "EC", "OKP"])
def test_a_good_token_is_its_user(kind: str) -> None:
    keys = key_set(jwk(kind, "one"))
    found = check(token(kind), keys)
    user_id = str(uuid5(uuid5(NAMESPACE_URL, ISSUER), "ada"))
    assert found == Principal(
        f"jwt:{user_id}",
        Role.USER,
        user_id=user_id,
        verbs=frozenset([Verb.READ]),
        not_after_ms=NOW_MS + 600_000,
        source="jwt",
        proof=found.proof,
        share=0.5,
    )
    assert keys.proofs == {found.proof}


@pytest.mark.parametrize("alg", ["none", "None", "NONE", "nOnE", ""])
def test_a_token_without_a_signature_is_refused(alg: str) -> None:
    for text in (forge({"alg": alg, "kid": "one"}), forge({"alg": alg, "kid": "one"}, b"")):
        with pytest.raises(UnauthenticatedError):
            check(text)


def test_the_public_key_is_no_secret() -> None:
    public = private_key("RSA").public_key()
    for encoding, form in (
        (Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        (Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        (Encoding.PEM, PublicFormat.PKCS1),
    ):
        secret = public.public_bytes(encoding, form)
        for one in (secret, secret.strip(), json.dumps(jwk("RSA", "one")).encode()):
            with pytest.raises(UnauthenticatedError):
                check(forge({"alg": "HS256", "kid": "one", "typ": "JWT"}, one))


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "https://evil.example.com/"},
        {"iss": ISSUER.rstrip("/")},
        {"iss": None},
        {"iss": [ISSUER]},
        {"aud": "other"},
        {"aud": ["other"]},
        {"aud": []},
        {"aud": None},
        {"exp": None},
        {"exp": "soon"},
        {"exp": True},
        {"exp": 1e300},
        {"exp": [NOW_S + 600]},
        {"sub": None},
        {"sub": ""},
        {"sub": 7},
        {"sub": ["ada"]},
        {"sub": "a" * 1025},
        {"sub": "\ud800"},
        {"nbf": NOW_S + 1},
        {"nbf": "now"},
    ],
    ids=str,
)
def test_wrong_claims_are_refused(changes: dict[str, object]) -> None:
    signed = jwt.PyJWS().encode(
        json.dumps(claims(**changes)).encode(), private_key("RSA"), "RS256", headers={"kid": "one"}
    )
    with pytest.raises(UnauthenticatedError) as refused:
        check(signed)
    assert type(refused.value) is UnauthenticatedError


def test_a_token_expired_by_1_s_is_expired() -> None:
    for seconds in (0, 1, 1_000_000):
        with pytest.raises(CredentialExpiredError):
            check(token(exp=NOW_S - seconds))
    assert check(token(exp=NOW_S + 1)).not_after_ms == NOW_MS + 1000


def test_an_expired_token_of_somebody_else_is_wrong() -> None:
    with pytest.raises(UnauthenticatedError):
        check(token(exp=NOW_S - 1, key=other_private_key()))
    with pytest.raises(UnauthenticatedError):
        check(token(exp=NOW_S - 1, aud="other"))


def test_another_key_of_the_same_kid_is_refused() -> None:
    with pytest.raises(UnauthenticatedError):
        check(token(key=other_private_key()))


def test_the_algorithm_is_the_keys_and_not_the_headers() -> None:
    keys = key_set(jwk("RSA", "one", alg="RS512"))
    with pytest.raises(UnauthenticatedError):
        check(token(), keys)
    good = jwt.encode(claims(), private_key("RSA"), "RS512", headers={"kid": "one"})
    assert check(good, keys).role is Role.USER
    for algorithm in ("PS256", "RS384", "RS512"):
        with pytest.raises(UnauthenticatedError):
            check(jwt.encode(claims(), private_key("RSA"), algorithm, headers={"kid": "one"}))


@pytest.mark.parametrize(
    "kid", ["../../etc/passwd", "/dev/null", "one\x00", "ONE", "' OR 1=1 --", "https://evil.example.com/", ""]
)
def test_a_kid_is_only_the_key_of_a_dict(kid: str) -> None:
    with pytest.raises(UnauthenticatedError):
        check(token(kid=kid))
    for secret in (b"", b"\x00"):
        with pytest.raises(UnauthenticatedError):
            check(forge({"alg": "HS256", "kid": kid}, secret))


@pytest.mark.parametrize("kid", [7, ["one"], {"one": 1}, "a" * 2000])
def test_a_kid_that_is_no_text_is_refused(kid: object) -> None:
    with pytest.raises(UnauthenticatedError):
        check(forge({"alg": "RS256", "kid": kid}))


def test_a_token_brings_no_key_of_its_own() -> None:
    for header in (
        {"jwk": jwk("RSA", "one")},
        {"jku": "https://evil.example.com/keys"},
        {"x5u": "https://evil.example.com/x"},
    ):
        text = jwt.encode(claims(), other_private_key(), "RS256", headers={"kid": "one", **header})
        with pytest.raises(UnauthenticatedError):
            check(text)


def test_what_a_header_says_is_critical_is_refused() -> None:
    for header in ({"crit": ["exp"]}, {"crit": ["b64"], "b64": False}):
        with pytest.raises(UnauthenticatedError):
            check(forge({"alg": "RS256", "kid": "one", **header}))


def test_without_a_kid_the_only_key_is_meant() -> None:
    assert check(token(kid=None)).role is Role.USER
    with pytest.raises(UnauthenticatedError):
        check(token(kid=None), key_set(jwk("RSA", "one"), jwk("EC", "two")))


def test_a_user_that_is_a_uuid_stays() -> None:
    assert check(token(sub=USER.upper())).user_id == USER


def test_other_claims_may_name_user_and_tenant() -> None:
    rules = RULES._replace(user_claim="uid", tenant_claim="org")
    found = check(token(uid=USER, org="acme"), rules=rules)
    assert (found.user_id, found.tenant) == (USER, "acme")
    for wrong in ({"org": "*"}, {"org": ""}, {"org": None}, {"org": 7}, {"org": "a\nb"}, {"org": "a" * 200}):
        with pytest.raises(UnauthenticatedError):
            check(token(uid=USER, **wrong), rules=rules)
    with pytest.raises(UnauthenticatedError):
        check(token(org="acme"), rules=rules)


@given(st.text(max_size=40) | st.tuples(*[st.text(max_size=20)] * 3).map(".".join))
def test_any_text_is_refused(text: str) -> None:
    with pytest.raises(DomainError):
        check(text)
    with pytest.raises(DomainError):
        check(f"{part(text.encode('utf-8', 'surrogatepass'))}.{part(claims())}.AAAA")


@given(st.data())
def test_a_changed_token_is_another_or_refused(data: st.DataObject) -> None:
    text = token("OKP")
    keys = key_set(jwk("OKP", "one"))
    place = data.draw(st.integers(0, text.rindex(".") - 1))
    letter = data.draw(st.sampled_from("AZaz09-_."))
    changed = text[:place] + letter + text[place + 1 :]
    if changed != text:
        with pytest.raises(UnauthenticatedError):
            check(changed, keys)


def test_nesting_and_length_are_bounded() -> None:
    deep = b'{"alg":' + b"[" * 100_000
    for text in (f"{part(deep)}.e30.e30", f"{part(deep[:9000])}.e30.e30", "ey" + "A" * 20_000 + ".."):
        with pytest.raises(UnauthenticatedError):
            check(text)


class TestKeySets:
    def test_a_symmetric_key_is_taken_only_from_a_file_and_with_its_algorithm(self) -> None:
        secret = {"kty": "oct", "k": part(b"k" * 32), "kid": "one"}
        keys = key_set({**secret, "alg": "HS256"})
        assert keys.has_secrets
        assert check(forge({"alg": "HS256", "kid": "one"}, b"k" * 32), keys).role is Role.USER
        for bad in (secret, {**secret, "alg": "RS256"}, {**secret, "alg": "HS256", "k": part(b"k" * 31)}):
            with pytest.raises(ValueError, match="key 1"):
                key_set(bad)
        with pytest.raises(ValueError, match="no key"):
            key_set({**secret, "alg": "HS256"}, is_file=False)

    @pytest.mark.parametrize(
        ("key", "why"),
        [
            (jwk("RSA", "one", alg="HS256"), "do not go together"),
            (jwk("RSA", "one", alg="none"), "do not go together"),
            (jwk("EC", "one", alg="RS256"), "do not go together"),
            (jwk("EC", "one", crv="secp256k1"), "do not go together"),
            (jwk("RSA", "one", alg=["RS256"]), "do not go together"),
            (jwk("RSA", "one", kty="XYZ"), "do not go together"),
            (jwk("RSA", "one", d="AAAA"), "private"),
            (jwk("RSA", "one", n="AQAB"), "malformed|fewer than 2048"),
            (jwk("RSA", "one", n="!"), "malformed|fewer than 2048"),
            (jwk("EC", "one", x="AAAA"), "malformed"),
            ({**jwk("RSA", "one"), "kid": 7}, "no text"),
            ("key", "no object"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_a_key_that_cannot_be_used_is_an_error_in_a_file_and_left_out_of_a_url(
        self, key: Any, why: str
    ) -> None:
        with pytest.raises(ValueError, match=rf"key 2: .*({why})"):
            key_set(jwk("OKP", "good"), key)
        assert list(key_set(jwk("OKP", "good"), key, is_file=False).by_kid) == ["good"]

    def test_keys_for_encryption_are_left_out(self) -> None:
        keys = key_set(jwk("RSA", "one", use="enc", alg="RSA-OAEP"), jwk("EC", "two", use="sig"))
        assert list(keys.by_kid) == ["two"]

    def test_a_kid_that_stands_there_twice_is_an_error(self) -> None:
        with pytest.raises(ValueError, match="key 2: its kid stands there already"):
            key_set(jwk("RSA", "one"), jwk("EC", "one"))

    @pytest.mark.parametrize("text", ["", "[]", "{}", '{"keys": 7}', '{"keys": []}', "[" * 10_000])
    def test_what_is_no_key_set_is_an_error(self, text: str) -> None:
        with pytest.raises(ValueError, match="it "):
            read_key_set(text.encode(), is_file=True)

    def test_the_algorithm_follows_from_the_kind(self) -> None:
        keys = key_set(*(jwk(kind, kind) for kind in ALGORITHMS))
        assert {kid: key.algorithm for kid, key in keys.by_kid.items()} == ALGORITHMS
