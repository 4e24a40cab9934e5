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

INSTANT_OF_PROTOBUF = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"
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


def test_sessions_are_shown_as_a_table_newest_first(service: Serve) -> None:
    user, agent = str(uuid.uuid4()), stream_agent(service)
    made = [add(service, user), add(service, user, agent, minutes=5)]
    send(service, made[1], "waits")
    heading, *rows = cells(done(service, "list", "--user", user.upper()))
    assert heading == ["ID", "USER", "AGENT", "CREATED", "EXPIRES", "STATE", "WAITING", "FAILED"]
    assert [row[:3] for row in rows] == [[made[1], user, agent], [made[0], user, ECHO]]
    assert [row[5:] for row in rows] == [["near its end", "1", "0"], ["live", "0", "0"]]
    assert all(re.fullmatch(INSTANT, cell) for row in rows for cell in row[3:5])


def ids(service: Serve, *arguments: str) -> list[str]:
    return [one["sessionId"] for one in records(service, "list", *arguments)]


def test_filters_and_limits_choose_what_is_listed(service: Serve) -> None:
    user, agent = str(uuid.uuid4()), stream_agent(service)
    made = [add(service, user), add(service, user, agent), add(service, user)][::-1]
    assert ids(service, "--user", user) == made
    assert ids(service, "--agent", agent) == made[1:2]
    assert ids(service, "--user", user, "--id-prefix", made[0][:13].upper()) == made[:1]
    created = [one["createdAt"] for one in records(service, "list", "--user", user)]
    assert ids(service, "--user", user, "--created-after", created[1]) == made[:2]
    assert ids(service, "--user", user, "--created-before", created[1]) == made[2:]
    between = ("--created-after", created[1], "--created-before", created[0])
    assert ids(service, "--user", user, *between) == made[1:2]
    ended = sessions(service, "list", "--user", user, "--limit", "2", "--json")
    assert [json.loads(line)["sessionId"] for line in ended.out.splitlines()] == made[:2]
    assert ended.errors == "[there are more than 2: --limit 0 shows all]\n"
    assert len(ids(service, "--user", user, "--limit", "3")) == 3
    assert len(ids(service, "--user", user, "--limit", "0")) == 3


def test_a_list_goes_over_pages(service: Serve) -> None:
    user = str(uuid.uuid4())
    made = [add(service, user) for _ in range(103)]
    assert ids(service, "--user", user, "--limit", "0") == made[::-1]


def test_expired_sessions_are_listed_where_they_are_asked_for(service: Serve) -> None:
    user, agent = str(uuid.uuid4()), stream_agent(service)
    made = [add(service, user, minutes=5), add(service, user, agent, minutes=5)][::-1]
    service.advance(minutes=6)
    live = add(service, user)
    _, *rows = cells(done(service, "list", "--user", user, "--status", "expired"))
    assert [(row[0], row[5]) for row in rows] == [(one, "expired") for one in made]
    assert ids(service, "--status", "expired", "--agent", agent) == made[:1]
    assert ids(service, "--user", user) == [live]
    assert ids(service, "--user", user, "--status", "any") == [live, *made]
    told = records(service, "list", "--user", user, "--status", "any")
    assert [one["isExpired"] for one in told] == [False, True, True]
    assert [one["endedAt"] for one in told] == [None, *(one["expiresAt"] for one in told[1:])]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--created-after", "yesterday"), "is no time with an offset"),
        (("--created-before", "2026-01-31T12:00:00"), "is no time with an offset"),
        (("--user", "bob"), "is no UUID"),
        (("--status", "dead"), "'dead' is not one of"),
    ],
)
def test_a_filter_that_cannot_be_is_told_before_anybody_is_asked(
    arguments: tuple[str, ...], complaint: str
) -> None:
    refused = invoke("sessions", "--server", "127.0.0.1:1", "list", *arguments)
    assert (refused.status, refused.out) == (2, "")
    assert complaint in " ".join(refused.errors.split())


def test_a_prefix_that_no_id_has_is_an_error_of_the_server(service: Serve) -> None:
    refused = sessions(service, "list", "--id-prefix", "xyz")
    assert clean_failure(refused).startswith("Error: INVALID_ARGUMENT: --id-prefix ")


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
        shown = re.sub(r"after [\d.]+ s", "after N s", shown)
        failed_id = ids_of(service, session_id)["fails"]
        worker_line = r"    the agent has it, worker [0-9a-f-]{36}( at \S+)?: attempt 1 of 1"
        *lines, last = shown.splitlines()
        assert lines == [
            "AT  #1     user: one",
            "    | two (renewed the session)",
            "    answered by #2 after N s",
            "AT  #2     agent, to #1: Hi",
            "AT  #3     user: fails (renewed the session)",
            "    no reply after 1 attempts: the model is away",
            "    attempt 1 failed at AT: the model is away",
            f"    to try again: eliza-sessions sessions redeliver {session_id} {failed_id} --sequence 3",
            "AT  #5     user: waits (renewed the session)",
        ]
        assert re.fullmatch(worker_line, last), last
        first, *rest = records(service, "show", session_id, "--messages", "3")
    assert first["session"]["sessionId"] == session_id
    reply, failed, waiting = [one.get("delivery") for one in rest]
    assert reply is None
    told = {"state": "failed", "sequence": 4, "reason": "the model is away", "attempts": 1}
    assert failed.items() >= {**told, "maxAttempts": 1, "canRedeliver": True}.items()
    assert failed["lastFailure"]["reason"] == "the model is away"
    assert waiting.items() >= {"state": "in hand", "attempts": 1, "maxAttempts": 1}.items()
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
        rf"    waits for its reply: 1 of 5 attempts made, the next from {INSTANT} on\n"
        rf"    attempt 1 failed at {INSTANT}: .*the model is away\n$",
        out,
    )
    (message,) = records(service, "show", session_id)[1:]
    assert message["delivery"].items() >= {"state": "waiting", "attempts": 1, "maxAttempts": 5}.items()
    assert re.fullmatch(INSTANT_OF_PROTOBUF, message["delivery"]["nextAttemptAt"])


def ids_of(service: Serve, session_id: str) -> dict[str, str]:
    """The ids of a session's messages, by their texts."""
    entries = [one["entry"] for one in records(service, "show", session_id)[1:]]
    return {entry["message"]["content"]: entry["message"]["messageId"] for entry in entries}


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


# redeliver


def test_a_message_that_failed_is_delivered_anew(service: Serve) -> None:
    agent = stream_agent(service)
    session_id = add(service, agent=agent)
    with Worker(service.channel, agent) as worker:
        message = send(service, session_id, "Hello?")
        worker.fail(worker.next(), "the model is away", final=True)
        until(partial(shown_failure, service, session_id), "the failure")
        (listed,) = records(service, "list", "--agent", agent)
        assert (listed["openDeliveries"], listed["failedDeliveries"]) == (0, 1)
        named = f"sessions redeliver {session_id} {message.message_id} --sequence {message.sequence}\n"
        assert named in done(service, "show", session_id)
        said = done(service, "redeliver", session_id.upper(), *named.split()[3:])
        assert said == "delivers #1 anew: up to 1 attempts\n"
        delivery = worker.next()
        # To repeat it does no harm.
        again = json.loads(done(service, "redeliver", session_id, message.message_id, "--json"))
        assert (again["deliveryId"], again["sessionId"]) == (delivery.delivery_id, session_id)
        assert "    the agent has it, " in done(service, "show", session_id)
        worker.answer(delivery, "Here I am")
        replies(service, session_id, 1)
    assert "    answered by #3 after " in done(service, "show", session_id)


def test_a_message_that_cannot_be_delivered_anew_is_told_why(service: Serve) -> None:
    session_id = add(service)
    message = send(service, session_id, "Hello")
    replies(service, session_id, 1)
    answered = clean_failure(sessions(service, "redeliver", session_id, message.message_id))
    assert answered.startswith("Error: ALREADY_EXISTS: ")
    for wrong in ((session_id, str(uuid.uuid4())), (str(uuid.uuid4()), message.message_id)):
        assert clean_failure(sessions(service, "redeliver", *wrong)).startswith("Error: NOT_FOUND: ")


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


@pytest.mark.parametrize(
    "arguments",
    [("list",), ("show", USER), ("tail", USER), ("redeliver", USER, USER), ("end", USER, "--yes")],
)
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
