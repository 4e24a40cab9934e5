"""`eliza-sessions users`, through a protected service."""

import json
import re
import subprocess
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.service.access.user_data import add_session, advance, listed, new_user, say
from tests.service.access.world import AGENT, World, make_world
from tests.support.clients import Ended, clean_failure, command, invoke
from tests.support.service import Serve, environment
from tests.support.terminal import Terminal

INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A protected service of this module's own, whose clock may be moved."""
    directory = tmp_path_factory.mktemp("users")
    made = make_world(partial(Serve, directory), directory, TEST_CLOCK="1", MAX_OPEN_DELIVERIES="100000")
    (directory / "admin.key").write_text(made.keys["admin"] + "\n")
    yield made
    assert made.service.stop() == 0, made.service.log()


def key_file(own: World) -> str:
    return str(own.service.log_path.parent / "admin.key")


def users(own: World, *arguments: str) -> Ended:
    return invoke("users", "--server", own.service.grpc, "--key-file", key_file(own), *arguments)


def done(own: World, *arguments: str) -> str:
    """What a command prints that succeeds."""
    ended = users(own, *arguments)
    assert (ended.status, ended.errors) == (0, ""), ended
    return ended.out


def test_sessions_are_shown_as_a_table(own: World) -> None:
    user = new_user()
    expired = add_session(own, user, minutes=5)
    advance(own, 6)
    near, live = add_session(own, user, minutes=5), add_session(own, user)
    heading, *rows = done(own, "list", user.upper()).splitlines()
    assert heading.split() == ["ID", "AGENT", "CREATED", "EXPIRES", "STATE"]
    cells = [re.split(r"  +", row) for row in rows]
    assert {tuple(row[:2]) for row in cells} == {(one, AGENT) for one in (live, near, expired)}
    states = {row[0]: row[4] for row in cells}
    assert states == {live: "live", near: "near its end", expired: "expired"}
    assert cells[2][0] == expired
    assert all(INSTANT.fullmatch(cell) for row in cells for cell in row[2:4])
    starts = [heading.index(name) for name in ("AGENT", "CREATED", "EXPIRES", "STATE")]
    assert all(row[start - 1] == " " != row[start] for row in rows for start in starts)


def test_sessions_are_shown_as_json_lines_over_several_pages(own: World) -> None:
    user = new_user()
    made = set()
    for _ in range(101):
        made.add(add_session(own, user, note="a\nb"))
    lines = done(own, "list", user, "--json").splitlines()
    found = [json.loads(line) for line in lines]
    assert {session["sessionId"] for session in found} == made
    assert len(found) == 101
    assert found[0]["metadata"] == {"note": "a\nb"}


def test_an_export_goes_to_standard_output(own: World) -> None:
    user = new_user()
    session_id = add_session(own, user)
    say(own, session_id, "Grüße")
    records = [json.loads(line) for line in done(own, "export", user).splitlines()]
    assert [record["record"] for record in records] == ["session", "entry"]
    assert records[1]["entry"]["message"]["content"] == "Grüße"
    assert done(own, "export", new_user()) == ""


def test_an_export_to_a_file_is_its_owner_s_alone(own: World, tmp_path: Path) -> None:
    user, path = new_user(), tmp_path / "user.jsonl"
    say(own, add_session(own, user), "secret")
    ended = users(own, "export", user, "--output", str(path))
    assert (ended.status, ended.out) == (0, "")
    assert ended.errors == f"{path}: {path.stat().st_size} bytes\n"
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(path.read_text().splitlines()) == 2
    path.write_text("mine")
    path.chmod(0o644)
    told = clean_failure(users(own, "export", user, "--output", str(path)))
    assert "--force" in told
    assert path.read_text() == "mine"
    assert users(own, "export", user, "--output", str(path), "--force").status == 0
    assert len(path.read_text().splitlines()) == 2
    assert path.stat().st_mode & 0o777 == 0o600
    assert [one.name for one in tmp_path.iterdir()] == ["user.jsonl"]


def test_what_is_no_file_is_not_replaced(own: World, tmp_path: Path) -> None:
    told = clean_failure(users(own, "export", new_user(), "--output", "/dev/null", "--force"))
    assert "/dev/null" in told
    assert Path("/dev/null").is_char_device()
    assert "No such file" in clean_failure(
        users(own, "export", new_user(), "--output", str(tmp_path / "none" / "file"))
    )


def test_an_export_that_fails_leaves_no_file(own: World, tmp_path: Path) -> None:
    path = tmp_path / "user.jsonl"
    ended = invoke(
        *("users", "export", new_user(), "--output", str(path), "--server", own.service.grpc),
        ELIZA_API_KEY=own.keys["service"],
    )
    assert clean_failure(ended).startswith("Error: PERMISSION_DENIED: ")
    assert list(tmp_path.iterdir()) == []


def test_an_export_s_reader_may_go_away(own: World) -> None:
    user = new_user()
    say(own, add_session(own, user), *("x" * 3900 for _ in range(500)))
    line = command("users", "export", user, "--server", own.service.grpc, "--key-file", key_file(own))
    with subprocess.Popen(line, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith(b'{"record":"session"')
        process.stdout.close()
        assert process.wait(timeout=30) == 1
        assert b"Traceback" not in process.stderr.read()


def test_an_erase_prints_its_receipt(own: World) -> None:
    user, other = new_user(), new_user()
    kept = add_session(own, other)
    say(own, add_session(own, user), "one", "two")
    lines = done(own, "erase", user, "--yes").splitlines()
    told = [re.split(r":\s+", line, maxsplit=1) for line in lines]
    assert INSTANT.fullmatch(told[0][1])
    assert told[1:6] == [
        ["user", user],
        ["sessions", "1"],
        ["entries", "2"],
        ["deliveries", "2"],
        ["request ids", "3"],
    ]
    assert [name for name, _ in told] == [
        *("erased", "user", "sessions", "entries", "deliveries", "request ids", "not covered")
    ]
    assert "Backups" in told[6][1]
    assert listed(own, user) == []
    assert listed(own, other) == [kept]
    receipt = json.loads(done(own, "erase", user, "--yes", "--json"))
    assert receipt.pop("erasedAt")
    assert receipt == {
        "userId": user,
        "sessions": 0,
        "entries": 0,
        "deliveries": 0,
        "requestIds": 0,
        "notCovered": [told[6][1]],
    }


def test_an_erase_asks_and_without_anybody_to_ask_wants_yes(own: World) -> None:
    user = new_user()
    session_id = add_session(own, user)
    add_session(own, user)
    refusal = users(own, "erase", user)
    assert (refusal.status, refusal.out) == (2, "")
    assert "--yes" in refusal.errors
    line = ("users", "--server", own.service.grpc, "--key-file", key_file(own), "erase", user)
    with Terminal(*line) as declined:
        declined.expect(f"Erase all about {user} (2 sessions)? It is lost. [y/N]: ")
        declined.type("n\n")
        assert declined.end() == 1
    assert session_id in listed(own, user)
    with Terminal(*line) as agreed:
        agreed.expect("[y/N]: ")
        agreed.type("y\n")
        # Somebody watches.
        agreed.expect(f"Erasing {user}")
        agreed.expect("100%")
        agreed.expect("sessions:    2")
        agreed.expect("not covered: ")
        assert agreed.end() == 0
    assert listed(own, user) == []


@pytest.mark.parametrize("name", ["list", "export", "erase"])
def test_who_is_no_uuid_is_told_so(name: str) -> None:
    # No server is asked.
    ended = invoke("users", "--server", "127.0.0.1:1", name, "bob")
    assert (ended.status, ended.out) == (2, "")
    assert "'bob' is no UUID" in " ".join(ended.errors.split())


@pytest.mark.parametrize("arguments", [("list",), ("export",), ("erase", "--yes")])
def test_refusals_are_told_in_a_line(own: World, arguments: tuple[str, ...]) -> None:
    name, *options = arguments
    line = ("users", "--server", own.service.grpc, name, str(uuid.uuid4()), *options)
    assert clean_failure(invoke(*line)).startswith("Error: UNAUTHENTICATED: ")
    wrong = own.keys["admin"][:-1] + "?"
    ended = invoke(*line, ELIZA_API_KEY=wrong)
    assert clean_failure(ended).startswith("Error: UNAUTHENTICATED: ")
    assert wrong not in ended.errors
    away = invoke("users", "--server", "127.0.0.1:1", name, str(uuid.uuid4()), *options)
    assert clean_failure(away).startswith("Error: UNAVAILABLE: ")
