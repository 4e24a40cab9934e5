"""Session access tokens: what was made is read, and nothing else is."""

import base64
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eliza.sessions.call_metadata import SESSION_TOKEN_PREFIX
from server.access.errors import AccessError
from server.access.session_tokens import SessionTokens, read_signing_keys
from server.domain.access import ALL_VERBS, Principal, Role, Verb
from server.domain.errors import CredentialExpiredError, UnauthenticatedError
from tests.unit.access.support import NOW_MS, SESSION, USER, Clock, write

OLD, NEW, THIRD = ("0a" * 32, "0b" * 32, "0c" * 32)
TOKENS = SessionTokens(Clock().now_ms)
READ = frozenset([Verb.READ])


def make(tokens: SessionTokens = TOKENS, not_after_ms: int = NOW_MS + 1) -> str:
    return tokens.make("web", "acme", USER, SESSION, READ, not_after_ms)


def test_a_token_is_its_caller() -> None:
    found = TOKENS.read(make())
    assert found == Principal(
        found.id,
        Role.USER,
        "acme",
        USER,
        session_id=SESSION,
        verbs=READ,
        not_after_ms=NOW_MS + 1,
        source="session_token",
        proof=TOKENS.keys[0].proof,
        share=0.5,
    )
    assert found.id.startswith("token:web:")
    assert TOKENS.read(make()).id != found.id
    assert TOKENS.has_key(found.proof)


def test_a_token_expires_to_the_ms() -> None:
    for not_after_ms in (NOW_MS, NOW_MS - 1, 0):
        with pytest.raises(CredentialExpiredError):
            TOKENS.read(make(not_after_ms=not_after_ms))
    assert TOKENS.read(make(not_after_ms=NOW_MS + 1)).not_after_ms == NOW_MS + 1


def test_a_token_of_another_process_is_refused() -> None:
    with pytest.raises(UnauthenticatedError):
        SessionTokens(Clock().now_ms).read(make())


def test_a_wrong_mac_is_refused_before_expiry_is_looked_at() -> None:
    text = make(not_after_ms=0)
    with pytest.raises(UnauthenticatedError):
        TOKENS.read(text[:-1] + ("A" if text[-1] != "A" else "B"))


@given(st.data())
def test_a_changed_token_is_refused(data: st.DataObject) -> None:
    text = make()
    place = data.draw(st.integers(0, len(text)))
    piece = data.draw(st.text(max_size=3) | st.sampled_from("=.-_+/A \n"))
    changed = text[:place] + piece + text[place + data.draw(st.integers(0, 3)) :]
    if changed != text:
        with pytest.raises(UnauthenticatedError):
            TOKENS.read(changed)


@given(st.text() | st.binary().map(lambda raw: base64.urlsafe_b64encode(raw).decode()))
def test_any_other_text_is_refused(text: str) -> None:
    for one in (
        text,
        SESSION_TOKEN_PREFIX + text,
        f"{SESSION_TOKEN_PREFIX}{text}.{text}",
        f"{SESSION_TOKEN_PREFIX}.{text}",
    ):
        with pytest.raises(UnauthenticatedError):
            TOKENS.read(one)


def test_a_long_text_is_refused() -> None:
    with pytest.raises(UnauthenticatedError, match="malformed"):
        TOKENS.read(SESSION_TOKEN_PREFIX + "A" * 10_000)


@given(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    st.sets(st.sampled_from(Verb)),
    st.integers(NOW_MS + 1, 2**53),
)
def test_what_was_made_is_read(principal_id: str, tenant: str, verbs: set[Verb], not_after_ms: int) -> None:
    found = TOKENS.read(TOKENS.make(principal_id, tenant, USER, SESSION, frozenset(verbs), not_after_ms))
    assert (found.tenant, found.user_id, found.session_id) == (tenant, USER, SESSION)
    assert (found.verbs, found.not_after_ms) == (verbs, not_after_ms)


class TestKeysFile:
    def test_the_first_signs_and_both_read(self, tmp_path: Path) -> None:
        path = write(tmp_path / "keys", f"old {OLD}\n")
        first = SessionTokens(Clock().now_ms, path)
        old = make(first)
        write(path, f"# rotated\nnew {NEW}\nold {OLD}  # until tomorrow\n")
        first.reload_if_changed()
        new = make(first)
        found = {first.read(old).proof, first.read(new).proof}
        assert {proof.partition(":")[0] for proof in found} == {"old", "new"}
        assert SessionTokens(Clock().now_ms, path).read(old).user_id == USER
        write(path, f"new {NEW}\n")
        first.reload_if_changed()
        assert [first.has_key(proof) for proof in sorted(found)] == [True, False]
        assert first.read(new).verbs == READ
        with pytest.raises(UnauthenticatedError):
            first.read(old)

    def test_another_secret_of_the_same_id_is_another_key(self, tmp_path: Path) -> None:
        path = write(tmp_path / "keys", f"one {OLD}")
        tokens = SessionTokens(Clock().now_ms, path)
        proof = tokens.read(make(tokens)).proof
        write(path, f"one {NEW}")
        tokens.reload_if_changed()
        assert not tokens.has_key(proof)

    def test_the_secret_may_be_hexadecimal_or_base64(self) -> None:
        raw = bytes(range(224, 256))
        plain, url = base64.b64encode(raw).decode(), base64.urlsafe_b64encode(raw).decode()
        for text in (raw.hex(), raw.hex().upper(), plain, url, plain.rstrip("="), url.rstrip("=")):
            (key,) = read_signing_keys(f"a {text}".encode())
            assert key.secret == raw

    @pytest.mark.parametrize(
        ("text", "why"),
        [
            ("", "it has 0 keys"),
            (f"a {OLD}\nb {NEW}\nc {THIRD}", "it has 3 keys"),
            (f"a {OLD}\na {NEW}", "line 2: the id a stands there twice"),
            (f"\n# x\na {OLD[2:]}", "line 3: the secret is not 32 bytes"),
            (f"a {'!' * 64}", "line 1: the secret is not 32 bytes"),
            (OLD, "line 1: it is not `ID SECRET`"),
            (f"a b {OLD}", "line 1: it is not `ID SECRET`"),
            (f"a_b {OLD}", "line 1: it is not `ID SECRET`"),
        ],
    )
    def test_what_is_wrong_is_named(self, tmp_path: Path, text: str, why: str) -> None:
        with pytest.raises(AccessError, match=why) as refused:
            SessionTokens(Clock().now_ms, write(tmp_path / "keys", text))
        assert OLD[2:] not in str(refused.value)

    def test_all_verbs_fit(self) -> None:
        text = TOKENS.make("web", "", USER, SESSION, ALL_VERBS, NOW_MS + 1)
        assert TOKENS.read(text).verbs == ALL_VERBS
        assert len(text) < 300
