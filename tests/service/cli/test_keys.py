"""`eliza-sessions keys`: the keys file as an operator changes it."""

import os
import re
import threading
from pathlib import Path

import pytest

from server.access.keys import Key, digest_of, read_keys
from server.cli.rest import select_inherited
from server.clock import SystemClock
from tests.support.clients import clean_failure, invoke, refused, run
from tests.support.service import USER

KEY = re.compile(r"es_([a-z0-9-]+)_[A-Za-z0-9_-]{43}\n")
LATER = "2127-01-31T12:00:00Z"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.toml"


def stored(file: Path) -> list[Key]:
    return read_keys(file.read_text(), SystemClock().now_ms())


def add(file: Path, *options: str) -> str:
    """Adds a key, and returns it."""
    done = invoke("keys", "add", "--file", str(file), *options)
    assert done.status == 0, done.errors
    assert KEY.fullmatch(done.out), done.out
    assert done.out.strip() not in done.errors
    assert str(file) in done.errors
    return done.out.strip()


def test_a_first_key_makes_a_file_that_only_its_owner_reads(file: Path) -> None:
    secret = add(file, "--role", "admin")
    (key,) = stored(file)
    assert key.id.startswith("admin-")
    assert (key.role, key.digest, key.tenant) == ("admin", digest_of(secret), "")
    assert file.stat().st_mode & 0o777 == 0o600
    assert secret not in file.read_text()


def test_the_file_may_be_that_of_the_environment(file: Path) -> None:
    done = invoke("keys", "add", "--role", "service", "--id", "web", KEYS_FILE=str(file))
    assert done.status == 0
    assert [key.id for key in stored(file)] == ["web"]
    assert "web" in invoke("keys", "list", KEYS_FILE=str(file)).out


def test_every_option_is_written(file: Path) -> None:
    add(
        file,
        "--role",
        "user",
        "--id",
        "ada",
        "--tenant",
        "acme",
        "--user",
        USER,
        "--share",
        "0.25",
        "--not-after",
        LATER,
        "--certificate",
        "ada.example",
    )
    (key,) = stored(file)
    assert key._replace(digest=b"") == Key(
        "ada", b"", "user", "acme", USER, "", 4_957_070_400_000, 0.25, "ada.example"
    )


def test_keys_are_listed_without_their_digests(file: Path) -> None:
    add(file, "--role", "admin", "--id", "ops", "--tenant", "*")
    add(file, "--role", "user", "--id", "ada", "--user", USER, "--not-after", LATER)
    add(file, "--role", "service", "--id", "old", "--not-after", "2020-01-01T00:00:00Z")
    done = invoke("keys", "list", "--file", str(file))
    assert (done.status, done.errors) == (0, "")
    lines = [re.split("  +", line) for line in done.out.splitlines()]
    assert lines[0] == ["ID", "ROLE", "TENANT", "ONLY FOR", "EXPIRES", "SHA256"]
    assert lines[1][:3] == ["ops", "admin", "*"]
    assert lines[2][:4] == ["ada", "user", f"user {USER}", "2127-01-31T12:00:00.000Z"]
    assert "2020-01-01T00:00:00.000Z (expired)" in lines[3]
    for key in stored(file):
        assert key.digest.hex()[:8] in done.out
        assert key.digest.hex()[:9] not in done.out


def test_a_key_is_rotated_by_a_second_one(file: Path) -> None:
    first, second = (add(file, "--role", "service", "--id", "web") for _ in range(2))
    failed = clean_failure(invoke("keys", "add", "--role", "service", "--id", "web", "--file", str(file)))
    assert "more than 2 keys of the id web" in failed
    done = invoke("keys", "revoke", "web", "--older", "--file", str(file))
    assert (done.status, done.out) == (0, "revoked 1 of 2 keys of web\n")
    assert [key.digest for key in stored(file)] == [digest_of(second)] != [digest_of(first)]
    assert "one key 'web' only" in clean_failure(
        invoke("keys", "revoke", "web", "--older", "--file", str(file))
    )
    assert invoke("keys", "revoke", "web", "--file", str(file)).status == 0
    assert stored(file) == []


def test_comments_and_the_mode_stay(file: Path) -> None:
    file.write_text("# Ask ops before a change.\n")
    file.chmod(0o640)
    add(file, "--role", "service", "--id", "web")
    add(file, "--role", "admin", "--id", "ops")
    assert invoke("keys", "revoke", "web", "--file", str(file)).status == 0
    assert file.read_text().startswith("# Ask ops before a change.\n")
    assert [key.id for key in stored(file)] == ["ops"]
    assert file.stat().st_mode & 0o777 == 0o640


def test_a_link_stays_one(file: Path) -> None:
    target = file.with_name("target.toml")
    target.touch(0o600)
    file.symlink_to(target)
    done = invoke("keys", "add", "--role", "admin", "--file", str(file))
    assert done.status == 0
    assert file.is_symlink()
    assert len(stored(target)) == 1


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--role", "user"), "key 1: user is missing, which the role user needs"),
        (("--role", "agent"), "key 1: agent is missing"),
        (("--role", "service", "--user", USER), "key 1: user is for the role user only"),
        (("--role", "service", "--tenant", "*"), "the tenant `*`"),
        (("--role", "service", "--id", "a b"), "id is not 1 to 64"),
        (("--role", "service", "--share", "2"), "share is not more than 0 and at most 1"),
    ],
)
def test_a_key_that_makes_no_sense_is_not_written(file: Path, options: tuple[str, ...], why: str) -> None:
    assert why in clean_failure(invoke("keys", "add", "--file", str(file), *options))
    assert not file.exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("add",),
        ("add", "--role", "root"),
        ("add", "--role", "admin", "--not-after", "2027-01-31T12:00:00"),
        ("add", "--role", "admin", "--not-after", "soon"),
        ("revoke",),
    ],
)
def test_a_wrong_command_line_ends_with_2(file: Path, arguments: tuple[str, ...]) -> None:
    done = invoke("keys", *arguments, KEYS_FILE=str(file))
    assert (done.status, done.out) == (2, "")
    assert "Error: " in done.errors
    assert not file.exists()


def test_without_a_file_there_is_nothing_to_do() -> None:
    for command in (("add", "--role", "admin"), ("list",), ("revoke", "web")):
        done = invoke("keys", *command)
        assert (done.status, done.out) == (2, "")
        assert "KEYS_FILE" in done.errors


def test_a_file_that_is_away_or_broken_is_named(file: Path) -> None:
    for command in (("list",), ("revoke", "web")):
        assert str(file) in clean_failure(invoke("keys", *command, "--file", str(file)))
    file.write_text("[[keys]]\nid = 'a'\n")
    for command in (("list",), ("revoke", "a"), ("add", "--role", "admin")):
        line = clean_failure(invoke("keys", *command, "--file", str(file)))
        assert line == f"Error: {file}: key 1: sha256 is missing"
    assert file.read_text() == "[[keys]]\nid = 'a'\n"
    nowhere = file.parent / "none" / "keys.toml"
    assert str(nowhere) in clean_failure(invoke("keys", "add", "--role", "admin", "--file", str(nowhere)))


def test_revoking_what_is_not_there_is_an_error(file: Path) -> None:
    add(file, "--role", "admin", "--id", "ops")
    assert "there is no key 'web'" in clean_failure(invoke("keys", "revoke", "web", "--file", str(file)))
    assert len(stored(file)) == 1


def test_commands_at_the_same_time_lose_no_key(file: Path, tmp_path: Path) -> None:
    failed = []

    def add_one() -> None:
        done = run("keys", "add", "--role", "service", "--file", str(file), cwd=tmp_path)
        failed.extend([done.errors] if done.status else [])

    threads = [threading.Thread(target=add_one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert len(stored(file)) == 4
    assert os.listdir(tmp_path) == ["keys.toml"]


def test_the_facade_alone_gets_no_secret_of_the_server() -> None:
    secrets = {
        "KEYS_FILE": "/k",
        "ELIZA_SERVER_AUTH_TOKEN": "a token of our own",
        "ACCESS_TOKEN_KEYS_FILE": "/s",
        "DATABASE_URL": "sqlite:///x",
    }
    assert select_inherited({**secrets, "REST_ADDRESS": "127.0.0.1:0"}) == {"REST_ADDRESS": "127.0.0.1:0"}


def test_a_token_that_is_too_short_stops_the_process(tmp_path: Path) -> None:
    line = refused("serve", cwd=tmp_path, ELIZA_SERVER_AUTH_TOKEN="hunter2")
    assert line.startswith("Error: ELIZA_SERVER_AUTH_TOKEN is wrong: it must be at least 16 characters")
    assert "hunter2" not in line
