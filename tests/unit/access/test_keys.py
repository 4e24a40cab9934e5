"""The keys file: what it may say, and how its text is changed."""

import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.access.keys import Key, build_table, digest_of, make_key, read_keys
from server.access.keys_text import add_key, remove_keys, write_atomically
from server.domain.access import ALL_VERBS, Role, Verb
from tests.unit.access.support import AGENT, NOW_MS, OTHER, USER, write

A, B, C = ("a" * 64, "b" * 64, "c" * 64)


def table(**fields: object) -> str:
    lines = (
        f"{name} = {value if not isinstance(value, str) or value.startswith('2027') else repr(value)}"
        for name, value in {"id": "one", "sha256": A, "role": "service", **fields}.items()
        if value is not None
    )
    return "[[keys]]\n" + "\n".join(lines) + "\n"


def test_absent_fields_have_the_defaults_of_the_role() -> None:
    assert read_keys("", NOW_MS) == []
    assert read_keys(table(), NOW_MS) == [Key("one", bytes.fromhex(A), Role.SERVICE)]
    (user,) = read_keys(table(role="user", user=USER.upper()), NOW_MS)
    assert (user.user_id, user.share) == (USER, 0.5)
    (agent,) = read_keys(table(role="agent", agent=AGENT), NOW_MS)
    assert (agent.agent_id, agent.share) == (AGENT, 0.5)


def test_each_field_is_read() -> None:
    text = table(
        role="admin", tenant="*", share=0.25, certificate="ops.example", not_after="2027-01-15T08:00:00+00:00"
    )
    assert read_keys(text, NOW_MS) == [
        Key(
            "one",
            bytes.fromhex(A),
            Role.ADMIN,
            "*",
            not_after_ms=NOW_MS,
            share=0.25,
            certificate="ops.example",
        )
    ]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (table(nonsense="x"), "key 1: there is no field 'nonsense'"),
        (table() + table(sha256=B, id="two", role="root"), "key 2: role is not"),
        (table(role="open"), "key 1: role is not"),
        (table(role="nobody"), "key 1: role is not"),
        (table(id=None), "key 1: id is missing"),
        (table(sha256=None), "key 1: sha256 is missing"),
        (table(role=None), "key 1: role is missing"),
        (table(id="a_b"), "key 1: id is not 1 to 64"),
        (table(id="open"), "key 1: id is not 1 to 64"),
        (table(id="a" * 65), "key 1: id is not 1 to 64"),
        (table(id=7), "key 1: id is not a text"),
        (table(sha256=A[1:]), "key 1: sha256 is not the 64"),
        (table(sha256="es_one_secret"), "key 1: sha256 is not the 64"),
        (table(tenant="*"), "key 1: the tenant `*`"),
        (table(role="user", user=USER, tenant="*"), "key 1: the tenant `*`"),
        (table(tenant=" a"), "key 1: the tenant is no printable text"),
        (table(role="facade", tenant="a"), "key 1: a facade has no tenant"),
        (table(role="user"), "key 1: user is missing"),
        (table(role="agent"), "key 1: agent is missing"),
        (table(role="user", user="ada"), "key 1: user is not a UUID"),
        (table(user=USER), "key 1: user is for the role user only"),
        (table(role="user", user=USER, agent=AGENT), "key 1: agent is for the role agent only"),
        (table(share=0), "key 1: share is not more than 0"),
        (table(share=1.5), "key 1: share is not more than 0"),
        (table(share=float("nan")), "key 1: share is not more than 0"),
        (table(share="true").replace("'true'", "true"), "key 1: share is not a number"),
        (table(not_after="2027-01-15T08:00:00"), "key 1: not_after has no offset"),
        (table(not_after="2027-01-15"), "key 1: not_after is not a date and time"),
        (table() + table(), "key 2: it has the sha256 of key 1"),
        (table() + table(sha256=B, tenant="x"), "key 2: it has the id of key 1"),
        (table() + table(sha256=B) + table(sha256=C), "key 3: more than 2 keys of the id one"),
        (
            table(certificate="x") + table(id="two", sha256=B, certificate="x"),
            "key 2: it has the certificate",
        ),
        ("keys = 1", "keys is no list of tables"),
        ("[[key]]\nid = 'a'", "there is no 'key'"),
        ("[[keys]]\nid = \n", r"\(at line 2"),
    ],
)
def test_what_is_wrong_is_named(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as refused:
        read_keys(text, NOW_MS)
    assert "secret" not in str(refused.value)


def test_expired_keys_are_not_counted_among_the_two() -> None:
    texts = [table(sha256=digest, not_after="2027-01-15T08:00:00Z") for digest in (A, B)]
    assert len(read_keys("".join(texts) + table(sha256=C), NOW_MS)) == 3
    with pytest.raises(ValueError, match="more than 2"):
        read_keys("".join(texts) + table(sha256=C), NOW_MS - 1)


def test_a_certificate_lives_as_long_as_one_of_its_keys() -> None:
    texts = [
        table(sha256=A, certificate="x", not_after="2027-01-15T08:00:00Z"),
        table(sha256=B, certificate="x", not_after="2027-01-15T09:00:00Z"),
    ]
    for order in (texts, texts[::-1]):
        found = build_table(read_keys("".join(order), NOW_MS)).by_certificate["x"]
        assert (found.not_after_ms, found.source, found.proof) == (NOW_MS + 3_600_000, "certificate", "x")


def test_users_have_the_verbs_that_the_setting_gives() -> None:
    text = table() + table(id="two", sha256=B, role="user", user=USER)
    found = build_table(read_keys(text, NOW_MS), frozenset([Verb.READ])).by_digest
    assert found[bytes.fromhex(A)].verbs == ALL_VERBS
    assert found[bytes.fromhex(B)].verbs == {Verb.READ}


def test_a_key_is_random_and_has_its_form() -> None:
    keys = {make_key("web-1") for _ in range(100)}
    assert len(keys) == 100
    assert all(re.fullmatch(r"es_web-1_[A-Za-z0-9_-]{43}", key) for key in keys)
    assert len({digest_of(key) for key in keys}) == 100


COMMENTED = f"""\
# Our keys. Ask ops before a change.

[[keys]]  # the backend
id = "one"  # since May
sha256 = "{A}"
role = "service"

# Grace's own
[[keys]]
id = "two"
sha256 = "{B}"
role = "user"
user = "{USER}"
# the last word
"""


def test_a_key_is_added_behind_what_is_there() -> None:
    added = add_key(COMMENTED, Key("three", bytes.fromhex(C), Role.AGENT, agent_id=AGENT, share=0.5))
    assert added.startswith(COMMENTED)
    assert [key.id for key in read_keys(added, NOW_MS)] == ["one", "two", "three"]


def test_removing_keeps_comments() -> None:
    first = remove_keys(COMMENTED, [0])
    assert first.startswith("# Our keys. Ask ops before a change.\n\n# Grace's own\n[[keys]]\n")
    second = remove_keys(COMMENTED, [1])
    assert second.endswith('role = "service"\n\n# Grace\'s own\n# the last word\n')
    none = remove_keys(COMMENTED, [0, 1])
    assert read_keys(none, NOW_MS) == []
    assert none.count("#") == 3


@pytest.mark.parametrize("text", ["keys = []\n", f"keys = [{{id = 'a', sha256 = '{A}', role = 'admin'}}]\n"])
def test_a_text_of_another_style_is_left_alone(text: str) -> None:
    with pytest.raises(ValueError, match="by hand"):
        add_key(text, Key("two", bytes.fromhex(B), Role.ADMIN))


def test_what_cannot_be_told_apart_is_left_alone() -> None:
    hidden = f"[[keys]]\nid = '''\n[[keys]]\n'''\nsha256 = '{A}'\nrole = 'admin'\n[[keys]]\nid = 'b'\n"
    with pytest.raises(ValueError, match="by hand"):
        remove_keys(hidden, [0])


NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)


@given(
    st.lists(st.tuples(NAMES, NAMES, st.binary(min_size=32, max_size=32)), max_size=4),
    st.lists(st.sampled_from(["# note\n", "\n", "  # [[keys]]\n"]), max_size=3),
    st.sets(st.integers(0, 3)),
)
def test_any_key_can_be_added_and_removed(
    keys: list[tuple[str, str, bytes]], notes: list[str], dropped: set[int]
) -> None:
    text = "".join(notes)
    for key_id, tenant, digest in keys:
        text = add_key(text, Key(key_id, digest, Role.SERVICE, tenant, not_after_ms=NOW_MS)) + "".join(notes)
    tables = tomllib.loads(text).get("keys", [])
    assert [(one["id"], one["tenant"], one["sha256"]) for one in tables] == [
        (key_id, tenant, digest.hex()) for key_id, tenant, digest in keys
    ]
    places = {place for place in dropped if place < len(keys)}
    left = tomllib.loads(remove_keys(text, places)).get("keys", [])
    assert left == [one for place, one in enumerate(tables) if place not in places]


def test_a_file_is_replaced_as_a_whole_and_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    write_atomically(path, "one")
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("one", 0o600)
    write(path, "two", 0o640)
    inode = path.stat().st_ino
    write_atomically(path, "three")
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("three", 0o640)
    assert path.stat().st_ino != inode
    assert [one.name for one in tmp_path.iterdir()] == ["keys.toml"]


def test_a_write_that_fails_leaves_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "keys.toml", "one")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "\ud800")
    assert path.read_text() == "one"
    assert [one.name for one in tmp_path.iterdir()] == ["keys.toml"]


def test_another_users_id_is_another_key() -> None:
    first, second = read_keys(
        table(role="user", user=USER) + table(id="two", sha256=B, role="user", user=OTHER), NOW_MS
    )
    assert (first.user_id, second.user_id) == (USER, OTHER)
