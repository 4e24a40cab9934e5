"""`eliza-sessions sessions`, through real services."""

import json
import re
import subprocess
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from eliza.sessions.v1 import session_service_pb2
from tests.service.access.user_data import add_session as add_protected
from tests.service.access.world import World, make_world
from tests.service.agents.worker import Worker, stream_agent
from tests.support.clients import Ended, clean_failure, command, create, fails, invoke, replies, send
from tests.support.service import ECHO, USER, Serve, Start, environment
from tests.support.terminal import Terminal
from tests.support.waiting import until

INSTANT = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """A service of this module's own, whose clock may be moved."""
    running = Serve(tmp_path_factory.mktemp("sessions"), "--no-rest", TEST_CLOCK="1", DELIVERY_ATTEMPTS="1")
    yield running
    assert running.stop() == 0, running.log()


def add(service: Serve, user: str = "", agent: str = ECHO, minutes: float = 30) -> str:
    """Makes a session at an instant of its own; returns its id."""
    service.advance(ms=1)
    request = session_service_pb2.CreateSessionRequest(agent_id=agent, user_id=user or str(uuid.uuid4()))
    request.timeout_config.timeout_minutes = minutes
    return str(service.sessions.CreateSession(request, timeout=10).session.session_id)


def sessions(service: Serve, *arguments: str) -> Ended:
    return invoke("sessions", "--server", service.grpc, *arguments)


def done(service: Serve, *arguments: str) -> str:
    """What a command prints that succeeds."""
    ended = sessions(service, *arguments)
    assert (ended.status, ended.errors) == (0, ""), ended
    return ended.out


def records(service: Serve, *arguments: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done(service, *arguments, "--json").splitlines()]


def shown_failure(service: Serve, session_id: str, text: str = "no reply after") -> str:
    """What `show` prints once it tells of a failure; before, nothing."""
    out = done(service, "show", session_id)
    return out if text in out else ""


def cells(out: str) -> list[list[str]]:
    return [re.split(r"  +", line) for line in out.splitlines()]


# list


def test_live_sessions_are_shown_as_a_table_oldest_first(service: Serve) -> None:
    user = str(uuid.uuid4())
    made = [add(service, user), add(service, user, minutes=5)]
    heading, *rows = cells(done(service, "list", "--user", user.upper()))
    assert heading == ["ID", "USER", "AGENT", "CREATED", "EXPIRES", "STATE"]
    assert [row[:3] for row in rows] == [[one, user, ECHO] for one in made]
    assert [row[5] for row in rows] == ["live", "near its end"]
    assert all(re.fullmatch(INSTANT, cell) for row in rows for cell in row[3:5])


def test_filters_and_limits(service: Serve) -> None:
    user, agent = str(uuid.uuid4()), stream_agent(service)
    made = [add(service, user), add(service, user, agent), add(service, user)]
    assert [one["sessionId"] for one in records(service, "list", "--user", user)] == made
    assert [one["sessionId"] for one in records(service, "list", "--agent", agent)] == made[1:2]
    ended = sessions(service, "list", "--user", user, "--limit", "2", "--json")
    assert [json.loads(line)["sessionId"] for line in ended.out.splitlines()] == made[:2]
    assert ended.errors == "[there are more than 2: --limit 0 shows all]\n"
    assert len(records(service, "list", "--user", user, "--limit", "3")) == 3
    assert len(records(service, "list", "--user", user, "--limit", "0")) == 3


def test_expired_sessions_are_those_of_a_user_newest_first(service: Serve) -> None:
    user, agent = str(uuid.uuid4()), stream_agent(service)
    made = [add(service, user, minutes=5), add(service, user, agent, minutes=5)]
    service.advance(minutes=6)
    live = add(service, user)
    _, *rows = cells(done(service, "list", "--user", user, "--status", "expired"))
    assert [(row[0], row[5]) for row in rows] == [(one, "expired") for one in made[::-1]]
    of_agent = records(service, "list", "--user", user, "--status", "expired", "--agent", agent)
    assert [one["sessionId"] for one in of_agent] == made[1:]
    assert [one["sessionId"] for one in records(service, "list", "--user", user)] == [live]
    refused = sessions(service, "list", "--status", "expired")
    assert (refused.status, refused.out) == (2, "")
    assert "needs --user" in refused.errors


# show


def test_a_session_is_shown_with_what_became_of_its_messages(service: Serve) -> None:
    agent = stream_agent(service, "Ada")
    session_id = add(service, agent=agent)
    with Worker(service.channel, agent) as worker:
        send(service, session_id, "one\ntwo")
        worker.answer(worker.next(), "Hi")
        send(service, session_id, "fails")
        worker.fail(worker.next(), "the model is away", final=True)
        until(partial(shown_failure, service, session_id), "the failure")
        send(service, session_id, "waits")
        worker.next()
        out = done(service, "show", session_id)
        about, _, said = out.partition("\n\n")
        fields = dict(re.split(r": +", line, maxsplit=1) for line in about.splitlines())
        assert (fields["id"], fields["state"]) == (session_id, "live")
        assert fields["agent"].startswith(f"{agent} (Ada: stream, 1 workers connected, 1 messages waiting")
        assert re.fullmatch(rf"{INSTANT}, in 0:(29|30):\d\d", fields["expires"])
        assert "timeout_minutes=30, auto_renew=true" in fields["timeout"]
        shown = re.sub(INSTANT, "AT", said)
        assert re.sub(r"after [\d.]+ s", "after N s", shown).splitlines() == [
            "AT  #1     user: one",
            "two (renewed the session)",
            "    answered by #2 after N s",
            "AT  #2     agent, to #1: Hi",
            "AT  #3     user: fails (renewed the session)",
            "    no reply after 1 attempts: the model is away",
            "AT  #5     user: waits (renewed the session)",
            "    waits for its reply",
        ]
        first, *rest = records(service, "show", session_id, "--messages", "3")
    assert first["session"]["sessionId"] == session_id
    assert [one.get("delivery") for one in rest] == [
        None,
        {"state": "failed", "sequence": 4, "reason": "the model is away", "attempts": 1},
        {"state": "waiting"},
    ]
    log = done(service, "show", session_id, "--log").partition("\n\n")[2]
    assert "no reply to #3 after 1 attempts: the model is away" in log
    assert [one["record"] for one in records(service, "show", session_id, "--log")] == [
        "session",
        *["entry"] * 5,
    ]


def test_why_a_message_still_waits_is_told(start: Start) -> None:
    service = start("--no-rest", DELIVERY_BACKOFF_SECONDS="600")
    agent = stream_agent(service)
    session_id = create(service, agent).session_id
    with Worker(service.channel, agent) as worker:
        send(service, session_id, "Hello")
        worker.fail(worker.next(), "the model is away")
        out = until(partial(shown_failure, service, session_id, "attempt 1 failed"), "the failure")
    assert re.search(
        rf"    waits for its reply\n    attempt 1 failed at {INSTANT}: .*the model is away\n$", out
    )


def test_an_expired_session_is_shown(service: Serve) -> None:
    agent = stream_agent(service)
    session_id = add(service, agent=agent, minutes=5)
    send(service, session_id, "hello?")
    service.advance(minutes=60)
    out = done(service, "show", session_id.upper())
    assert "state:     expired\n" in out
    assert out.endswith("    no reply: the session ended before\n")
    assert done(service, "show", session_id, "--log").splitlines()[-1].endswith("  expired")
    # One that nobody has.
    nobody = str(uuid.uuid4())
    assert clean_failure(sessions(service, "show", nobody)).startswith("Error: NOT_FOUND: ")


def test_the_last_messages_are_found_behind_many_other_entries(service: Serve) -> None:
    session_id = add(service, agent=stream_agent(service))
    send(service, session_id, "first")
    send(service, session_id, "second")
    for _ in range(20):
        service.sessions.RenewSession(
            session_service_pb2.RenewSessionRequest(session_id=session_id), timeout=10
        )
    shown = records(service, "show", session_id, "--messages", "1")
    assert [one["entry"]["message"]["content"] for one in shown[1:]] == ["second"]
    assert len(records(service, "show", session_id, "--messages", "0")) == 1


def test_what_others_wrote_does_not_steer_the_terminal(service: Serve) -> None:
    session_id = add(service)
    send(service, session_id, "red \x1b[31m")
    replies(service, session_id, 1)
    assert "\x1b" not in done(service, "show", session_id) + done(service, "show", session_id, "--log")


# tail


def follow(service: Serve, *arguments: str) -> "subprocess.Popen[str]":
    line = command("sessions", "--server", service.grpc, "tail", *arguments)
    return subprocess.Popen(
        line, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_a_tail_follows_a_session_over_a_restart_until_it_is_deleted(start: Start, tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/s"
    service = start("--no-rest", GRPC_ADDRESS=address)
    session_id = create(service).session_id
    for number in range(3):
        send(service, session_id, f"before {number}")
        replies(service, session_id, number + 1)
    with follow(service, session_id, "--entries", "2", "--json") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        sequences = [json.loads(process.stdout.readline())["entry"]["sequence"] for _ in range(2)]
        assert sequences == ["5", "6"]
        service.kill()
        assert process.stderr.readline().startswith("[the server is away: ")
        service = start("--no-rest", GRPC_ADDRESS=address)
        send(service, session_id, "after")
        told = json.loads(process.stdout.readline())["entry"]
        assert (told["sequence"], told["message"]["content"]) == ("7", "after")
        assert json.loads(process.stdout.readline())["entry"]["sequence"] == "8"
        assert invoke("sessions", "--server", service.grpc, "end", session_id, "--yes").status == 0
        assert json.loads(process.stdout.readline()) == {"deleted": {"sessionId": session_id}}
        assert process.stdout.read() == ""
        assert process.wait(timeout=30) == 0
        assert process.stderr.read() == ""


def test_a_tail_ends_with_the_expiry(service: Serve) -> None:
    session_id = add(service, minutes=5)
    with follow(service, session_id, "--chunks") as process:
        assert process.stdout is not None
        send(service, session_id, "Hello")
        told = process.stdout.readline()
        while "user: Hello" not in told:
            told = process.stdout.readline()
        service.advance(minutes=60)
        assert process.stdout.read().splitlines()[-1].endswith("  expired")
        assert process.wait(timeout=30) == 0
    # All of the log of one that has expired.
    lines = done(service, "tail", session_id).splitlines()
    assert "user: Hello" in "".join(lines)
    assert lines[-1].endswith("  expired")


def test_ctrl_c_ends_a_tail(service: Serve) -> None:
    session_id = add(service)
    send(service, session_id, "Hello")
    with Terminal("sessions", "--server", service.grpc, "tail", session_id) as terminal:
        terminal.expect("user: Hello")
        terminal.interrupt()
        assert terminal.end() == 0


# end


def test_an_end_asks_and_without_anybody_to_ask_wants_yes(service: Serve) -> None:
    session_id = add(service)
    refusal = sessions(service, "end", session_id)
    assert (refusal.status, refusal.out) == (2, "")
    assert "--yes" in refusal.errors
    line = ("sessions", "--server", service.grpc, "end", session_id)
    with Terminal(*line) as declined:
        declined.expect(f"End {session_id}? It is removed with its messages and its log. [y/N]: ")
        declined.type("n\n")
        assert declined.end() == 1
    with Terminal(*line) as agreed:
        agreed.expect("[y/N]: ")
        agreed.type("y\n")
        agreed.expect(f"ended {session_id}")
        assert agreed.end() == 0
    request = session_service_pb2.GetSessionRequest(session_id=session_id)
    fails(lambda: service.sessions.GetSession(request, timeout=10), "SESSION_NOT_FOUND")
    assert clean_failure(sessions(service, "end", session_id, "--yes")).startswith("Error: NOT_FOUND: ")


# refusals


@pytest.mark.parametrize("name", ["show", "tail", "end"])
def test_what_is_no_uuid_is_told_so(name: str) -> None:
    # No server is asked.
    ended = invoke("sessions", "--server", "127.0.0.1:1", name, "bob")
    assert (ended.status, ended.out) == (2, "")
    assert "'bob' is no UUID" in " ".join(ended.errors.split())


@pytest.mark.parametrize("arguments", [("list",), ("show", USER), ("tail", USER), ("end", USER, "--yes")])
def test_a_server_that_is_away_is_told_in_a_line(arguments: tuple[str, ...]) -> None:
    away = invoke("sessions", "--server", "127.0.0.1:1", *arguments)
    assert away.errors.splitlines()[-1].startswith("Error: UNAVAILABLE: ")
    assert away.status == 1


def test_a_protected_server_wants_a_key(tmp_path_factory: pytest.TempPathFactory) -> None:
    directory = tmp_path_factory.mktemp("protected")
    world: World = make_world(partial(Serve, directory), directory)
    session_id = add_protected(world, str(uuid.uuid4()))
    (directory / "key").write_text(world.keys["service"])
    line = ("sessions", "--server", world.service.grpc, "show", session_id)
    assert clean_failure(invoke(*line)).startswith("Error: UNAUTHENTICATED: ")
    assert clean_failure(invoke(*line, ELIZA_API_KEY=world.keys["agent"])).startswith(
        "Error: PERMISSION_DENIED: "
    )
    shown = invoke(*line, "--key-file", str(directory / "key"))
    assert (shown.status, shown.errors) == (0, "")
    assert session_id in shown.out
    assert world.service.stop() == 0
