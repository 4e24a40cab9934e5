"""Credentials as an attacker would send them: forged, doubled, hidden, cut, changed. Through a real service.

Each refusal stands beside the same call with a good credential, so that none is refused for another reason.
"""

import base64
import hashlib
import hmac
import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.service.access.attacked import AUDIENCE, ISSUER, Attacked, Provider, code_of, raw_rest, write_jwks
from tests.service.access.world import ALICE, BOB
from tests.support.waiting import until

WRONG = {"UNAUTHENTICATED"}


def encode(part: bytes | dict[str, Any]) -> str:
    raw = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def by_hand(header: dict[str, Any], now_s: int, secret: bytes | None = None) -> str:
    """A token that no library would make: unsigned, or with an HMAC by these bytes."""
    claims = {"iss": ISSUER, "aud": AUDIENCE, "exp": now_s + 600, "sub": ALICE, "tid": "acme"}
    signed = f"{encode(header)}.{encode(claims)}"
    mac = hmac.digest(secret, signed.encode(), hashlib.sha256) if secret is not None else b""
    return f"{signed}.{encode(mac)}"


def test_a_good_token_is_taken(attacked: Attacked) -> None:
    assert attacked.outcomes(attacked.token()) == {""}


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "nOnE", "", None, ["none"], "HS256"])
def test_an_unsigned_token_is_refused(attacked: Attacked, algorithm: Any) -> None:
    header = {"alg": algorithm, "typ": "JWT", "kid": "one"}
    assert attacked.outcomes(by_hand(header, attacked.now_s)) == WRONG
    # Nor with the signature of a good one.
    good = attacked.token().rpartition(".")[2]
    assert attacked.outcomes(by_hand(header, attacked.now_s) + good) == WRONG


@pytest.mark.parametrize("form", ["pem", "pkcs1", "der", "jwk", "n", "empty"])
@pytest.mark.parametrize("algorithm", ["HS256", "RS256"])
def test_a_public_key_is_no_secret(attacked: Attacked, form: str, algorithm: str) -> None:
    public, jwk = attacked.provider.key.public_key(), attacked.provider.jwk
    secret = {
        "pem": public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        "pkcs1": public.public_bytes(Encoding.PEM, PublicFormat.PKCS1),
        "der": public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        "jwk": json.dumps(jwk).encode(),
        "n": base64.urlsafe_b64decode(jwk["n"] + "=="),
        "empty": b"",
    }[form]
    header = {"alg": algorithm, "typ": "JWT", "kid": "one"}
    assert attacked.outcomes(by_hand(header, attacked.now_s, secret)) == WRONG


CHANGED: dict[str, dict[str, Any]] = {
    "another issuer": {"iss": "https://evil.example/"},
    "an issuer without its slash": {"iss": ISSUER.rstrip("/")},
    "no issuer": {"iss": None},
    "another audience": {"aud": "other"},
    "an audience in other case": {"aud": AUDIENCE.upper()},
    "no audience": {"aud": None},
    "no end": {"exp": None},
    "an end that is text": {"exp": "4102444800"},
    "an endless end": {"exp": 1e308},
    "no user": {"sub": None},
    "no tenant": {"tid": None},
    "all tenants": {"tid": "*"},
    "a user that is a list": {"sub": [ALICE]},
}


@pytest.mark.parametrize("change", CHANGED.values(), ids=CHANGED)
def test_a_token_that_says_something_else_is_refused(attacked: Attacked, change: dict[str, Any]) -> None:
    # The library would not sign all of these.
    claims = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "exp": attacked.now_s + 600,
        "sub": ALICE,
        "tid": "acme",
    } | change
    claims = {name: value for name, value in claims.items() if value is not None}
    payload = json.dumps(claims).encode()
    token = jwt.api_jws.encode(payload, attacked.provider.key, "RS256", headers={"kid": "one", "typ": "JWT"})
    assert attacked.outcomes(token) == WRONG


def test_a_token_ends_in_the_second_of_its_end(attacked: Attacked) -> None:
    now_s = attacked.now_s
    assert attacked.outcomes(attacked.provider.token(now_s, exp=now_s + 1)) == {""}
    assert attacked.outcomes(attacked.provider.token(now_s, exp=now_s)) == {"CREDENTIAL_EXPIRED"}
    assert attacked.outcomes(attacked.provider.token(now_s, exp=now_s - 1)) == {"CREDENTIAL_EXPIRED"}
    # That it has ended is told only of a good one.
    assert attacked.outcomes(attacked.provider.token(now_s, exp=now_s - 1, iss="other")) == WRONG
    assert attacked.outcomes(attacked.provider.token(now_s, nbf=now_s + 60)) == WRONG


@pytest.mark.parametrize(
    "kid",
    [
        *("../../../../etc/passwd", "/dev/null", "file:///dev/null", "one\0", "One", "", "two", "x" * 5000),
        *("' OR '1'='1", "https://evil.example/jwks.json", 1, ["one"], {"a": 1}, True),
    ],
    ids=str,
)
def test_a_kid_is_a_name_and_no_path(attacked: Attacked, kid: Any) -> None:
    header = {"alg": "RS256", "typ": "JWT", "kid": kid}
    claims = {"iss": ISSUER, "aud": AUDIENCE, "exp": attacked.now_s + 600, "sub": ALICE, "tid": "acme"}
    signed = f"{encode(header)}.{encode(claims)}"
    key = jwt.get_algorithm_by_name("RS256")
    token = f"{signed}.{encode(key.sign(signed.encode(), attacked.provider.key))}"
    assert attacked.outcomes(token) == WRONG
    # With an empty file as the secret, as those who read it as a path had it.
    assert attacked.outcomes(by_hand({**header, "alg": "HS256"}, attacked.now_s, b"")) == WRONG


def test_a_key_that_a_token_brings_along_is_not_used(attacked: Attacked) -> None:
    stranger = Provider("one")
    for headers in (
        {},
        {"jwk": stranger.jwk},
        {"jku": "https://evil.example/jwks.json"},
        {"x5u": "https://evil.example/x"},
        {"crit": ["x"], "x": 1},
    ):
        assert attacked.outcomes(stranger.token(attacked.now_s, headers=headers)) == WRONG
    assert attacked.outcomes(attacked.provider.token(attacked.now_s, "RS512")) == WRONG
    assert attacked.outcomes(attacked.provider.token(attacked.now_s, "PS256")) == WRONG


def test_the_tokens_of_a_key_end_with_it(attacked: Attacked) -> None:
    path, first, second = attacked.directory / "jwks.json", attacked.provider, Provider("second")
    old, new = first.token(attacked.now_s), second.token(attacked.now_s)
    assert (attacked.outcomes(old), attacked.outcomes(new)) == ({""}, WRONG)
    try:
        write_jwks(path, second.jwk)
        until(lambda: attacked.outcomes(new) == {""}, "the new key to be read", 5)
        assert attacked.outcomes(old) == WRONG
        # Nor by the name of the old one.
        write_jwks(path, second.jwk, Provider("one").jwk)
        until(lambda: attacked.outcomes(old) == WRONG, "a key of the same name", 5)
    finally:
        write_jwks(path, first.jwk)
        until(lambda: attacked.outcomes(old) == {""}, "the old key to be back", 5)


def test_one_header_is_one_credential(attacked: Attacked) -> None:
    key, other = attacked.world.keys["user"], attacked.world.keys["service"]
    bearer, api = ("Authorization", f"Bearer {key}"), ("X-API-KEY", key)
    good = [
        (api,),
        (bearer,),
        (api, bearer),
        (("x-aPi-kEy", key),),
        (("AUTHORIZATION", f"bEARER  {key}"),),
        (("Authorization", "Basic Zm9vOmJhcg=="), api),
        (("Authorization", "Basic Zm9vOmJhcg=="), bearer),
    ]
    for headers in good:
        assert attacked.rest_outcome(*headers) == "", headers
        assert attacked.grpc_outcome(*((name.lower(), value) for name, value in headers)) == "", headers
    bad = [
        (api, api),
        (bearer, bearer),
        (api, ("x-api-key", key)),
        (api, ("X-Api-Key", other)),
        (api, ("Authorization", f"Bearer {other}")),
        (("Authorization", f"Bearer {other}"), api),
        (("X-API-KEY", f"{key}, {key}"),),
        (("X-API-KEY", f"{key},{other}"),),
        (("Authorization", f"Bearer {key}, Bearer {key}"),),
        (("Authorization", f"Bearer Bearer {key}"),),
        (("Authorization", f"Basic {key}"),),
        (("Authorization", key),),
        (("X-API-KEY", f"Bearer {key}"),),
        (("X-API-KEY", key[:-1]),),
        (("X-API-KEY", f"{key}x"),),
        (("X-API-KEY", key.upper()),),
        (("X-API-KEY", hashlib.sha256(key.encode()).hexdigest()),),
        (("X-API-KEY-bin", key),),
        (("api-key", key),),
        (("Cookie", f"x-api-key={key}; access_token={key}"),),
        (("X-API-KEY", ""),),
    ]
    for headers in bad:
        assert attacked.rest_outcome(*headers) == "UNAUTHENTICATED", headers
        sent = [(name.lower(), value) for name, value in headers]
        if sent[0][0].endswith("-bin"):
            sent = [(sent[0][0], sent[0][1].encode())]  # type: ignore[list-item] # gRPC has these as bytes
        assert attacked.grpc_outcome(*sent) in ("UNAUTHENTICATED", "RATE_LIMITED"), headers


def test_a_credential_is_not_hidden_in_a_head(attacked: Attacked) -> None:
    key = attacked.world.keys["user"]
    for headers in (
        [("X-API-KEY", f"{key[:10]}\r\n {key[10:]}")],
        [("X-API-KEY", f"\r\n\t{key}")],
        [("X-Other", f"a\r\n X-API-KEY: {key}")],
        [("X_API_KEY", key)],
        [("X-API_KEY", key)],
        [("X-API-KEY ", key)],
        [("X-API-KEY\t", key)],
        [("X-API-KEY", f"{key}\0")],
        # A proxy that reads one, and we another.
        [("X_API_KEY", "wrong"), ("X-API-KEY", key)],
    ):
        assert attacked.rest_outcome(*headers) == "INVALID_REQUEST", headers
    # Where it is no header of a request: behind its body, and in its query.
    trailer = b"2\r\n{}\r\n0\r\nX-API-KEY: " + key.encode() + b"\r\n\r\n"
    chunked = [("Transfer-Encoding", "chunked"), ("Content-Type", "application/json")]
    answer = raw_rest(attacked.world.service, f"/{attacked.world.session_id}/renew", "POST", trailer, chunked)
    assert code_of(answer) == "UNAUTHENTICATED"
    for query in (f"?access_token={key}", f"?api_key={key}", f"?x-api-key={key}", f"?apiKey={key}"):
        path = f"/{attacked.world.session_id}{query}"
        assert code_of(raw_rest(attacked.world.service, path)) == "UNAUTHENTICATED", query


@pytest.mark.parametrize("extra", ["\xfc", "\xff\xfe", "x" * 10_240, "\xe2\x80\xae"], ids=ascii)
def test_a_value_that_cannot_be_a_credential_is_refused(attacked: Attacked, extra: str) -> None:
    key = attacked.world.keys["user"]
    for value in (key + extra, extra + key, extra):
        assert attacked.rest_outcome(("X-API-KEY", value)) == "UNAUTHENTICATED"
        assert attacked.rest_outcome(("Authorization", f"Bearer {value}")) == "UNAUTHENTICATED"
        # Beside a good one it is another one.
        assert attacked.rest_outcome(("X-API-KEY", value), ("X-API-KEY", key)) == "UNAUTHENTICATED"
    # What is none of ours does not matter.
    assert attacked.rest_outcome(("Authorization", f"Basic {extra}"), ("X-API-KEY", key)) == ""
    assert attacked.rest_outcome(("X-Other", extra), ("X-API-KEY", key)) == ""


def test_nobody_says_on_whose_behalf_or_from_where_but_who_may(attacked: Attacked) -> None:
    keys = attacked.world.keys
    for headers, wanted in {
        (("X-API-KEY", keys["service"]), ("X-On-Behalf-Of", ALICE)): "",
        (("X-API-KEY", keys["service"]), ("X-On-Behalf-Of", ALICE.upper())): "",
        (("X-API-KEY", keys["service"]), ("X-On-Behalf-Of", BOB)): "SESSION_NOT_FOUND",
        (("X-API-KEY", keys["service"]), ("X-On-Behalf-Of", "")): "INVALID_UUID",
        (("X-API-KEY", keys["service"]), ("X-On-Behalf-Of", "*")): "INVALID_UUID",
        (
            ("X-API-KEY", keys["service"]),
            ("X-On-Behalf-Of", BOB),
            ("X-On-Behalf-Of", ALICE),
        ): "UNAUTHENTICATED",
        (("X-API-KEY", keys["other_user"]), ("X-On-Behalf-Of", ALICE)): "PERMISSION_DENIED",
        (("X-API-KEY", keys["admin"]), ("X-On-Behalf-Of", ALICE)): "PERMISSION_DENIED",
        (("X-API-KEY", keys["agent"]), ("X-On-Behalf-Of", ALICE)): "PERMISSION_DENIED",
        (("X-API-KEY", keys["other_tenant"]), ("X-On-Behalf-Of", ALICE)): "SESSION_NOT_FOUND",
        (("X-On-Behalf-Of", ALICE),): "UNAUTHENTICATED",
    }.items():
        assert attacked.rest_outcome(*headers) == wanted, headers[1:]
        sent = [(name.lower(), value) for name, value in headers]
        assert attacked.grpc_outcome(*sent).replace("RATE_LIMITED", "UNAUTHENTICATED") == wanted, headers[1:]
    for name in ("eliza-facade-key", "eliza-client-address", "x-facade-key"):
        assert attacked.rest_outcome((name, "10.0.0.1")) == "UNAUTHENTICATED"


def test_a_token_of_a_session_has_one_form(attacked: Attacked) -> None:
    token = attacked.world.tokens["token"]
    assert attacked.outcomes(token) == {""}
    changed = set()
    for place in (*range(0, len(token), 9), *range(len(token) - 3, len(token))):
        letter = "A" if token[place] != "A" else "B"
        changed.add(token[:place] + letter + token[place + 1 :])
    payload, _, mac = token.removeprefix("est_").partition(".")
    # The same bytes, written otherwise: padded, in the other alphabet, with other bits behind the end.
    last = mac[:-1] + chr(ord(mac[-1]) + 1)
    changed |= {
        f"{token}=",
        f"est_{payload}=.{mac}",
        f"est_{payload}.{last}",
        f"{token}.",
        f"est_.{token[4:]}",
    }
    changed |= {
        f"est_{payload}",
        f"est_{payload}.",
        f"est_.{mac}",
        "est_",
        "est_.",
        token.upper(),
        f"EST{token[3:]}",
    }
    changed |= {
        f"est_{payload}.{mac.translate(str.maketrans('-_', '+/'))}A",
        f"est_{payload}.{mac}\x00"[:-1] + "é",
    }
    # Another's payload under its own MAC.
    other = attacked.world.tokens["other_token"].removeprefix("est_").partition(".")
    changed |= {f"est_{other[0]}.{mac}", f"est_{payload}.{other[2]}"}
    assert token not in changed
    for one in changed:
        headers = ("Authorization", f"Bearer {one}")
        assert attacked.rest_outcome(headers) == "UNAUTHENTICATED", one
    # All that says whom it is for is in the payload: a wider one needs another MAC.
    fields = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    for wider in ([*fields[:4], "", *fields[5:]], [*fields[:5], 7, fields[6]], [*fields[:6], fields[6] + 1]):
        forged = encode(json.dumps(wider, separators=(",", ":")).encode())
        assert attacked.rest_outcome(("Authorization", f"Bearer est_{forged}.{mac}")) == "UNAUTHENTICATED"


def test_a_token_in_a_query_opens_events_only(attacked: Attacked) -> None:
    token, session_id = attacked.world.tokens["token"], attacked.world.session_id
    json_body = [("Content-Type", "application/json")]
    for method, path in (
        *(("GET", f"/{session_id}"), ("GET", f"/{session_id}/messages"), ("POST", f"/{session_id}/messages")),
        *(("POST", f"/{session_id}/renew"), ("DELETE", f"/{session_id}"), ("GET", ""), ("POST", "")),
    ):
        body = b"{}" if method == "POST" else None
        answer = raw_rest(attacked.world.service, f"{path}?access_token={token}", method, body, json_body)
        assert code_of(answer) == "UNAUTHENTICATED", (method, path)
    # Twice, beside another credential, another session's.
    events, other = f"/{session_id}/events", attacked.world.tokens["other_token"]
    for query, headers, wanted in (
        (f"?access_token={token}&access_token={token}", [], "UNAUTHENTICATED"),
        (f"?access_token={token}&access_token=", [], "UNAUTHENTICATED"),
        (f"?access_token={token}", [("X-API-KEY", attacked.world.keys["user"])], "UNAUTHENTICATED"),
        (f"?access_token={other}", [], "SESSION_NOT_FOUND"),
        (f"?ACCESS_TOKEN={token}", [], "UNAUTHENTICATED"),
    ):
        assert code_of(raw_rest(attacked.world.service, events + query, headers=headers)) == wanted, query
