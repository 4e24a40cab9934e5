"""Who makes a call: every kind of credential, and what they may not be mixed up with."""

from collections.abc import Coroutine
from pathlib import Path
from typing import TypeVar

import pytest

from server.access.access_settings import AccessSettings
from server.access.authentication import Authentication
from server.access.credentials import Credentials, read_credentials
from server.access.errors import AccessError
from server.access.keys import Key, digest_of
from server.access.keys_text import add_key
from server.domain.access import ALL_VERBS, NOBODY, OPEN, Principal, Role, Verb
from server.domain.errors import (
    CredentialExpiredError,
    InvalidUuidError,
    PermissionDeniedError,
    RateLimitedError,
    UnauthenticatedError,
)
from tests.unit.access.support import (
    AGENT,
    AUDIENCE,
    ISSUER,
    NOW_MS,
    OTHER,
    SESSION,
    USER,
    Clock,
    jwk,
    jwks,
    token,
    write,
)

T = TypeVar("T")

STATIC = "a static token of our own"
ADDRESS = "192.0.2.1"
KEYS = {
    "web": Key("web", b"", Role.SERVICE, "acme"),
    "ada": Key("ada", b"", Role.USER, "acme", USER, share=0.5),
    "bot": Key("bot", b"", Role.AGENT, "acme", agent_id=AGENT),
    "ops": Key("ops", b"", Role.ADMIN, "*", certificate="ops.example"),
    "rest": Key("rest", b"", Role.FACADE),
    "old": Key("old", b"", Role.SERVICE, not_after_ms=NOW_MS, certificate="old.example"),
    "soon": Key("soon", b"", Role.SERVICE, not_after_ms=NOW_MS + 1),
}
"""Each with the secret `es_ID_secret`."""


def secret_of(key_id: str) -> str:
    return f"es_{key_id}_secret"


def keys_text(**keys: Key) -> str:
    text = ""
    for key in (KEYS | keys).values():
        text = add_key(text, key._replace(digest=key.digest or digest_of(secret_of(key.id))))
    return text


class Place:
    """The files of a service, and its authentication, as settings say."""

    def __init__(self, directory: Path) -> None:
        self.clock = Clock()
        self.keys = write(directory / "keys.toml", keys_text())
        self.jwks = write(directory / "jwks.json", jwks(jwk("RSA", "one")))
        self.signing = directory / "signing"

    def open(self, **changes: object) -> Authentication:
        settings = AccessSettings(
            keys_file=self.keys,
            auth_token=STATIC,
            jwt_keys=str(self.jwks),
            jwt_issuer=ISSUER,
            jwt_audience=AUDIENCE,
        )
        return Authentication.open(settings._replace(**changes), self.clock.now_ms, self.clock.monotonic)

    def open_to_all(self) -> Authentication:
        return Authentication.open(AccessSettings(), self.clock.now_ms, self.clock.monotonic)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def at_once(call: Coroutine[None, None, T]) -> T:
    """The result of a coroutine that does not suspend."""
    try:
        call.send(None)
    except StopIteration as done:
        return done.value
    call.close()
    raise AssertionError("it suspends")


def identify(
    authentication: Authentication,
    secret: str = "",
    *,
    address: str = ADDRESS,
    is_facade: bool = False,
    **rest: object,
) -> Principal:
    return at_once(authentication.identify(Credentials(secret, **rest), address, is_facade=is_facade))


class TestKinds:
    def test_a_key_names_its_owner_and_is_not_shown(self, place: Place) -> None:
        found = identify(place.open(), secret_of("web"))
        assert found == Principal(
            "web", Role.SERVICE, "acme", source="key", proof=found.proof, address=ADDRESS
        )
        assert secret_of("web") not in str(found)

    def test_a_key_gives_its_owner_what_its_role_may(self, place: Place) -> None:
        authentication = place.open()
        found = {key_id: identify(authentication, secret_of(key_id)) for key_id in KEYS if key_id != "old"}
        assert {key_id: one.role for key_id, one in found.items()} == {
            key_id: key.role for key_id, key in KEYS.items() if key_id != "old"
        }
        assert (found["ada"].user_id, found["bot"].agent_id, found["ops"].tenant) == (USER, AGENT, "*")
        assert found["ada"].verbs == {Verb.READ, Verb.SEND}
        assert identify(place.open(users_may_change=True), secret_of("ada")).verbs == ALL_VERBS

    def test_the_static_token_is_that_of_a_backend(self, place: Place) -> None:
        found = identify(place.open(), STATIC)
        assert (found.id, found.role, found.tenant) == ("ELIZA_SERVER_AUTH_TOKEN", Role.SERVICE, "")
        assert found.source == "static"

    def test_a_jwt_names_its_user(self, place: Place) -> None:
        authentication = place.open()
        first = identify(authentication, token(sub=USER))
        assert (first.role, first.user_id, first.source) == (Role.USER, USER, "jwt")
        assert first.verbs == {Verb.READ, Verb.SEND}
        assert identify(authentication, token(sub=USER)) == first
        assert identify(place.open(users_may_change=True), token()).verbs == ALL_VERBS

    def test_a_session_token_is_narrowed_to_its_session(self, place: Place) -> None:
        authentication = place.open()
        text = authentication.tokens.make("web", "acme", USER, SESSION, frozenset([Verb.READ]), NOW_MS + 5)
        found = identify(authentication, text)
        assert (found.source, found.tenant, found.user_id) == ("session_token", "acme", USER)
        assert found.session_id == SESSION

    def test_a_certificate_names_its_owner_unless_it_has_expired(self, place: Place) -> None:
        authentication = place.open()
        found = identify(authentication, certificate_names=("x.example", "ops.example"))
        assert (found.id, found.role, found.source) == ("ops", Role.ADMIN, "certificate")
        assert identify(authentication, certificate_names=("x.example",)).role is Role.NOBODY
        with pytest.raises(CredentialExpiredError):
            identify(authentication, certificate_names=("old.example",))

    def test_a_token_decides_over_a_certificate(self, place: Place) -> None:
        names = {"certificate_names": ("ops.example",)}
        assert identify(place.open(), secret_of("ada"), **names).id == "ada"
        with pytest.raises(UnauthenticatedError):
            identify(place.open(), "wrong", **names)

    def test_the_certificate_of_a_facade_is_not_its_clients(self, place: Place) -> None:
        found = identify(place.open(), is_facade=True, certificate_names=("ops.example",))
        assert found.role is Role.NOBODY

    def test_who_has_no_credential_is_nobody(self, place: Place) -> None:
        assert identify(place.open()) == NOBODY._replace(address=ADDRESS)
        assert identify(place.open(), on_behalf_of=USER).role is Role.NOBODY


class TestWrong:
    @pytest.mark.parametrize(
        "secret",
        [
            "no such secret",
            secret_of("none"),
            secret_of("web") + "x",
            secret_of("web").upper(),
            digest_of(secret_of("web")).hex(),
            STATIC[:-1],
            f"{STATIC}, {STATIC}",
            "est_e30.AAAA",
            "est_",
            "eyJ.e30.",
            "ey..",
            "\ud800",
            "a" * 100_000,
            token(aud="other"),
            token(kid="two"),
        ],
        ids=lambda secret: ascii(secret[:12]),
    )
    def test_it_is_refused_and_not_repeated(self, place: Place, secret: str) -> None:
        with pytest.raises(UnauthenticatedError) as refused:
            identify(place.open(), secret)
        assert secret not in str(refused.value)

    def test_expired_credentials_are_told_apart(self, place: Place) -> None:
        authentication = place.open()
        assert identify(authentication, secret_of("soon")).not_after_ms == NOW_MS + 1
        place.clock.ms += 1
        session_token = authentication.tokens.make("web", "", USER, SESSION, ALL_VERBS, NOW_MS)
        for secret in (secret_of("old"), secret_of("soon"), token(exp=NOW_MS // 1000 - 1), session_token):
            with pytest.raises(CredentialExpiredError):
                identify(authentication, secret)

    def test_after_ten_a_minute_further_wrong_ones_are_limited_and_right_ones_pass(
        self, place: Place
    ) -> None:
        authentication = place.open()
        for number in range(10):
            with pytest.raises(UnauthenticatedError):
                identify(authentication, f"wrong {number}")
        for number in range(10_000):
            with pytest.raises(RateLimitedError):
                identify(authentication, f"wrong {number}")
        assert identify(authentication, secret_of("web")).id == "web"
        assert identify(authentication, token()).role is Role.USER
        with pytest.raises(CredentialExpiredError):
            identify(authentication, secret_of("old"))
        with pytest.raises(UnauthenticatedError):
            identify(authentication, "wrong", address="192.0.2.2")
        place.clock.ms += 60_000
        with pytest.raises(UnauthenticatedError):
            identify(authentication, "wrong")

    def test_only_a_facades_word_for_the_address_is_taken(self, place: Place) -> None:
        authentication = place.open()
        for number in range(10):
            with pytest.raises(UnauthenticatedError):
                identify(authentication, "wrong", client_address=f"198.51.100.{number}")
        with pytest.raises(RateLimitedError):
            identify(authentication, "wrong", client_address="198.51.100.99")
        for _ in range(10):
            with pytest.raises(UnauthenticatedError):
                identify(authentication, "wrong", is_facade=True, client_address="198.51.100.1")
        with pytest.raises(RateLimitedError):
            identify(authentication, "wrong", is_facade=True, client_address="198.51.100.1")
        found = identify(authentication, secret_of("web"), is_facade=True, client_address="198.51.100.1")
        assert found.address == "198.51.100.1"
        assert identify(authentication, client_address="198.51.100.1").address == ADDRESS


class TestOnBehalfOf:
    @pytest.mark.parametrize("secret", [secret_of("web"), STATIC])
    def test_a_service_narrows_itself_to_a_user(self, place: Place, secret: str) -> None:
        found = identify(place.open(), secret, on_behalf_of=USER.upper())
        assert (found.user_id, found.on_behalf, found.role) == (USER, True, Role.SERVICE)

    def test_it_never_widens(self, place: Place) -> None:
        authentication = place.open()
        assert identify(authentication, secret_of("ada"), on_behalf_of=USER).id == "ada"
        session_token = authentication.tokens.make("web", "", USER, SESSION, ALL_VERBS, NOW_MS + 5)
        for secret in (
            secret_of("ada"),
            secret_of("bot"),
            secret_of("ops"),
            secret_of("rest"),
            token(sub=USER),
            session_token,
        ):
            with pytest.raises(PermissionDeniedError):
                identify(authentication, secret, on_behalf_of=OTHER)

    @pytest.mark.parametrize("user", ["ada", "*", USER + " ", USER[:-1], "١" * 36])
    def test_the_user_is_a_uuid(self, place: Place, user: str) -> None:
        with pytest.raises(InvalidUuidError) as refused:
            identify(place.open(), secret_of("web"), on_behalf_of=user)
        assert refused.value.details["field"] == "X-On-Behalf-Of"


class TestOpen:
    def test_without_a_source_everybody_may_do_everything(self, place: Place) -> None:
        authentication = place.open_to_all()
        assert authentication.is_open
        for secret in ("", "any key that a client sends", token()):
            assert identify(authentication, secret) == OPEN._replace(address=ADDRESS)
        narrowed = identify(authentication, on_behalf_of=USER)
        assert (narrowed.role, narrowed.user_id) == (Role.OPEN, USER)

    def test_session_tokens_hold_there_too(self, place: Place) -> None:
        authentication = place.open_to_all()
        text = authentication.tokens.make("open", "", USER, SESSION, ALL_VERBS, NOW_MS + 5)
        assert identify(authentication, text).session_id == SESSION
        place.clock.ms += 5
        with pytest.raises(CredentialExpiredError):
            identify(authentication, text)
        with pytest.raises(UnauthenticatedError):
            identify(authentication, text[:-1])

    def test_each_source_closes_it(self, place: Place) -> None:
        none = {"keys_file": None, "auth_token": None, "jwt_keys": None}
        assert place.open(**none).is_open
        for source in none:
            without = {name: None for name in none if name != source}
            authentication = place.open(**without)
            assert not authentication.is_open
            assert identify(authentication).role is Role.NOBODY
        write(place.signing, "one " + "0a" * 32)
        assert place.open(**none, access_token_keys_file=place.signing).is_open

    def test_an_empty_keys_file_closes_it(self, place: Place) -> None:
        write(place.keys, "")
        assert not place.open(auth_token=None, jwt_keys=None).is_open


class TestFacade:
    def test_its_key_is_known(self, place: Place) -> None:
        found = place.open().identify_facade(secret_of("rest"), "192.0.2.9")
        assert (found.id, found.role, found.address) == ("rest", Role.FACADE, "192.0.2.9")

    @pytest.mark.parametrize("secret", ["", "wrong", secret_of("ops"), secret_of("web"), STATIC])
    def test_no_other_key_is_a_facades(self, place: Place, secret: str) -> None:
        with pytest.raises(UnauthenticatedError):
            place.open().identify_facade(secret)
        with pytest.raises(UnauthenticatedError):
            place.open_to_all().identify_facade(secret)

    def test_wrong_ones_are_limited(self, place: Place) -> None:
        authentication = place.open()
        for _ in range(10):
            with pytest.raises(UnauthenticatedError):
                authentication.identify_facade("wrong", ADDRESS)
        with pytest.raises(RateLimitedError):
            authentication.identify_facade("wrong", ADDRESS)
        assert authentication.identify_facade(secret_of("rest"), ADDRESS).id == "rest"


CHANGES = {
    "role": KEYS["web"]._replace(role=Role.ADMIN),
    "tenant": KEYS["web"]._replace(tenant="other"),
    "sooner": KEYS["web"]._replace(not_after_ms=NOW_MS + 5),
    "digest": KEYS["web"]._replace(digest=b"d" * 32),
}
"""What may become of a key, so that it is no longer what a caller was found by."""


class TestCurrent:
    @pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
    def test_a_changed_key_is_no_longer_current(self, place: Place, change: Key) -> None:
        authentication = place.open()
        found = [identify(authentication, secret_of("web"), on_behalf_of=user) for user in ("", USER)]
        assert all(map(authentication.is_current, found))
        write(place.keys, keys_text(web=change))
        authentication.reload_if_changed()
        assert not any(map(authentication.is_current, found))

    def test_a_removed_key_is_no_longer_current_and_the_others_are(self, place: Place) -> None:
        authentication = place.open()
        found = {key_id: identify(authentication, secret_of(key_id)) for key_id in ("web", "ada", "bot")}
        certificate = identify(authentication, certificate_names=("ops.example",))
        text = keys_text(ada=KEYS["ada"]._replace(user_id=OTHER), ops=KEYS["ops"]._replace(certificate=""))
        write(place.keys, text)
        authentication.reload_if_changed()
        assert {key_id: authentication.is_current(one) for key_id, one in found.items()} == {
            "web": True,
            "ada": False,
            "bot": True,
        }
        assert not authentication.is_current(certificate)

    def test_the_time_is_not_looked_at(self, place: Place) -> None:
        authentication = place.open()
        found = identify(authentication, secret_of("soon"))
        place.clock.ms += 1_000_000
        assert authentication.is_current(found)

    def test_a_longer_life_ends_nothing(self, place: Place) -> None:
        authentication = place.open()
        found = identify(authentication, secret_of("soon"))
        write(place.keys, keys_text(soon=KEYS["soon"]._replace(not_after_ms=None)))
        authentication.reload_if_changed()
        assert authentication.is_current(found)

    def test_tokens_are_current_as_long_as_their_keys(self, place: Place) -> None:
        write(place.signing, "one " + "0a" * 32)
        authentication = place.open(access_token_keys_file=place.signing)
        text = authentication.tokens.make("web", "", USER, SESSION, ALL_VERBS, NOW_MS + 5)
        found = [identify(authentication, text), identify(authentication, token())]
        assert all(map(authentication.is_current, found))
        write(place.signing, "two " + "0b" * 32)
        write(place.jwks, jwks(jwk("EC", "one")))
        authentication.reload_if_changed()
        assert not any(map(authentication.is_current, found))

    def test_who_has_no_credential_is_current(self, place: Place) -> None:
        authentication = place.open()
        assert authentication.is_current(identify(authentication))
        assert authentication.is_current(identify(authentication, STATIC))
        assert authentication.is_current(OPEN)

    async def test_it_closes(self, place: Place) -> None:
        await place.open().close()
        await place.open_to_all().close()


class TestStart:
    @pytest.mark.parametrize("wrong", ["", "short", "a" * 15, " " * 20, "est_" + "a" * 20, "a\n" * 10])
    def test_a_bad_token_stops_it(self, place: Place, wrong: str) -> None:
        with pytest.raises(AccessError, match="ELIZA_SERVER_AUTH_TOKEN") as refused:
            place.open(auth_token=wrong)
        assert not wrong.strip() or wrong not in str(refused.value)

    @pytest.mark.parametrize("name", ["jwt_issuer", "jwt_audience"])
    def test_jwt_needs_its_issuer_and_audience(self, place: Place, name: str) -> None:
        with pytest.raises(AccessError, match=name.upper()):
            place.open(**{name: ""})

    def test_a_bad_file_stops_it(self, place: Place) -> None:
        write(place.keys, "[[keys]]\nid = 'a'\n")
        with pytest.raises(AccessError, match=r"KEYS_FILE /.*: key 1: sha256 is missing"):
            place.open()


def test_what_metadata_says_is_who_calls(place: Place) -> None:
    authentication = place.open()
    metadata = [("authorization", f"Bearer {secret_of('web')}"), ("x-on-behalf-of", USER)]
    found = at_once(authentication.identify(read_credentials(metadata), ADDRESS, is_facade=False))
    assert (found.id, found.user_id) == ("web", USER)
