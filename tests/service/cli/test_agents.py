"""`eliza-sessions agents`, and the agents that a start registers."""

import json
import re
import tomllib
from pathlib import Path

import pytest

from eliza.sessions.v1.agent_service_pb2 import GetAgentRequest
from eliza.sessions.v1.timeout_pb2 import TimeoutConfig
from tests.service.agents.webhook_server import Server, answer
from tests.service.agents.worker import Worker, stream_agent
from tests.support.clients import agent_ids, clean_failure, create, fails, invoke, refused, replies, run, send
from tests.support.service import ECHO, Serve, Start
from tests.support.terminal import Terminal
from tests.support.waiting import until

MINE = "44444444-4444-4444-8444-444444444444"
HEADINGS = ["ID", "NAME", "KIND", "WORKERS", "WAITING", "WHERE", "TIMEOUT SETTINGS", "LAST FAILURE"]
HOOK = ("--name", "x", "--kind", "webhook")


def agents(service: Serve, *arguments: str) -> str:
    """What `eliza-sessions agents …` prints."""
    result = invoke("agents", "--server", service.grpc, *arguments)
    assert (result.status, result.errors) == (0, ""), result
    return result.out


def registered(service: Serve, agent_id: str) -> dict[str, str]:
    """What `show` prints of an agent but how it fares."""
    shown = fields(agents(service, "show", agent_id))
    return {
        name: value
        for name, value in shown.items()
        if name not in ("workers", "waiting", "failure", "of", "detail", "oldest", "failed", "piece", "reply")
    }


def fields(shown: str) -> dict[str, str]:
    """What is shown of an agent, by the names on the left."""
    # A table of its workers may follow.
    about = shown.partition("\n\n")[0]
    return dict(re.split(r":\s+", line, maxsplit=1) for line in about.splitlines())


def test_an_agent_is_made_shown_changed_and_removed_on_the_command_line(service: Serve) -> None:
    added = fields(
        agents(
            service,
            "add",
            "--name",
            "A name",
            "--kind",
            "echo",
            "--timeout-minutes",
            "7.5",
            "--no-auto-renew",
            "--retention-minutes",
            "90",
        )
    )
    assert list(added) == ["id", "name", "kind", "timeout", "kept", "created", "updated"]
    assert added["kept"] == "90 minutes after the end of a session"
    agent_id = added["id"]
    assert (added["name"], added["kind"], added["timeout"]) == (
        "A name",
        "echo",
        "timeout_minutes=7.5, auto_renew=False",
    )
    assert added["created"] == added["updated"]
    assert registered(service, agent_id) == added

    service.advance(ms=1)
    changes = ("--auto-renew", "--max-duration-minutes", "100", "--warning-threshold-minutes", "2")
    updated = fields(agents(service, "update", agent_id.upper(), *changes))
    assert (
        updated["timeout"]
        == "timeout_minutes=7.5, auto_renew=True, max_duration_minutes=100, warning_threshold_minutes=2"
    )
    assert (updated["id"], updated["name"], updated["created"]) == (agent_id, "A name", added["created"])
    assert updated["updated"] > added["updated"]
    assert updated["kept"] == added["kept"]
    assert fields(agents(service, "update", agent_id, "--name", "Renamed"))["name"] == "Renamed"
    kept = fields(agents(service, "update", agent_id, "--retention-minutes", "0"))["kept"]
    assert kept == "0 minutes after the end of a session"
    assert json.loads(agents(service, "show", agent_id, "--json"))["retentionMinutes"] == 0

    table = agents(service, "list").splitlines()
    assert re.split(r"\s{2,}", table[0]) == HEADINGS
    assert f"{ECHO}  echo" in "\n".join(table)
    (row,) = (line for line in table if line.startswith(agent_id))
    assert re.split(r"\s{2,}", row) == [agent_id, "Renamed", "echo", "-", "0", "-", updated["timeout"], "-"]
    columns = [table[0].index(heading) for heading in HEADINGS[1:]]
    assert all(line[column - 1] == " " != line[column] for line in table for column in columns)

    assert agents(service, "remove", "--yes", agent_id) == f"removed {agent_id}\n"
    assert agent_id not in agents(service, "list")


def test_a_name_that_another_agent_has_is_warned_of(plain: Serve) -> None:
    name = "twice"
    first = fields(agents(plain, "add", "--name", name, "--kind", "echo"))["id"]
    again = invoke("agents", "--server", plain.grpc, "add", "--name", name, "--kind", "echo")
    assert (again.status, again.errors) == (0, f"Warning: {first} has the name 'twice', too\n")
    second = fields(again.out)["id"]
    assert fields(agents(plain, "update", second, "--name", "once"))["name"] == "once"
    back = invoke("agents", "--server", plain.grpc, "update", second, "--name", name)
    assert (back.status, back.errors) == (0, again.errors)
    third = invoke("agents", "--server", plain.grpc, "add", "--name", name, "--kind", "echo")
    assert third.errors == f"Warning: {first} and 1 more has the name 'twice', too\n"
    assert fields(agents(plain, "update", second, "--auto-renew"))["name"] == name
    for agent_id in (first, second, fields(third.out)["id"]):
        agents(plain, "remove", "--yes", agent_id)


def test_removing_asks_and_without_anybody_to_ask_wants_yes(service: Serve, tmp_path: Path) -> None:
    agent_id = fields(agents(service, "add", "--name", "to go", "--kind", "stream"))["id"]
    send(service, create(service, agent_id).session_id, "anybody there?")
    refusal = invoke("agents", "--server", service.grpc, "remove", agent_id)
    assert (refusal.status, refusal.out) == (2, "")
    assert "--yes" in refusal.errors
    declined = Terminal("agents", "--server", service.grpc, "remove", agent_id)
    declined.expect(f"Remove to go ({agent_id})? Messages that wait for its reply get none: 1. [y/N]: ")
    declined.type("n\n")
    assert declined.end() == 1
    assert agent_id in agent_ids(service)
    agreed = Terminal("agents", "--server", service.grpc, "remove", agent_id)
    agreed.expect("[y/N]: ")
    agreed.type("y\n")
    agreed.expect(f"removed {agent_id}")
    assert agreed.end() == 0
    assert agent_id not in agent_ids(service)


def test_how_an_agent_fares_is_shown(start: Start) -> None:
    service = start("--no-rest", DELIVERY_ATTEMPTS="1")
    agent_id = stream_agent(service)
    assert fields(agents(service, "show", agent_id))["failure"] == "none since the start of the service"
    session_id = create(service, agent_id).session_id
    first, _ = send(service, session_id, "one"), send(service, session_id, "two")
    with Worker(service.channel, agent_id) as worker:
        worker.fail(worker.next(), "not in the\x1b[31m mood")
        worker.next()
        shown = fields(agents(service, "show", agent_id))
        assert (shown["workers"], shown["waiting"]) == ("1 connected", "1 messages, 1 of them in hand")
        assert re.fullmatch(r"\S+Z, attempt 1, final: not in the \[31m mood", shown["failure"])
        assert shown["of"] == f"message {first.message_id} of session {session_id}"
        (row,) = (line for line in agents(service, "list").splitlines() if line.startswith(agent_id))
        told = re.split(r"\s{2,}", row)
        assert told[:7] == [agent_id, "worked", "stream", "1", "1", "-", "default"]
        assert re.fullmatch(r"\S+Z not in the \[31m mood", told[7])
        in_json = json.loads(agents(service, "show", agent_id, "--json"))
        assert len(in_json.pop("activity")["workers"]) == 1
        assert json.loads(agents(service, "list", "--json"))[1] == in_json
    assert {name: in_json[name] for name in ("id", "name", "kind", "settings", "timeoutConfig")} == {
        "id": agent_id,
        "name": "worked",
        "kind": "stream",
        "settings": {},
        "timeoutConfig": {},
    }
    failure = in_json["status"].pop("lastFailure")
    assert in_json["status"] == {"connectedWorkers": 1, "openDeliveries": 1, "deliveriesInHand": 1}
    assert failure == {
        "sessionId": session_id,
        "messageId": first.message_id,
        "attempt": 1,
        "at": failure["at"],
        "reason": "not in the\x1b[31m mood",
        "detail": "",
        "final": True,
    }


def test_what_a_provider_said_is_shown(start: Start) -> None:
    service = start("--no-rest", DELIVERY_ATTEMPTS="1", AGENT_ALLOWED_HOSTS="127.0.0.1")
    with Server(answer(b"no such\nmodel", 400)) as provider:
        settings = (
            "--model",
            "m",
            "--base-url",
            f"http://127.0.0.1:{provider.port}/v1",
            "--temperature",
            "0.5",
            "--timeout-minutes",
            "9",
        )
        agent_id = fields(agents(service, "add", "--name", "x", "--kind", "openai", *settings))["id"]
        session_id = create(service, agent_id).session_id
        send(service, session_id, "hello")
        shown = until(
            lambda: (found := fields(agents(service, "show", agent_id))).get("detail") and found,
            "the failure",
        )
    assert "no such model" in shown["detail"]
    in_json = json.loads(agents(service, "show", agent_id, "--json"))
    assert (in_json["settings"]["model"], in_json["settings"]["temperature"]) == ("m", 0.5)
    assert in_json["timeoutConfig"] == {"timeoutMinutes": 9}
    assert in_json["status"]["lastFailure"] is not None
    (listed,) = (one for one in json.loads(agents(service, "list", "--json")) if one["id"] == ECHO)
    assert listed["status"] == {
        "connectedWorkers": 0,
        "openDeliveries": 0,
        "deliveriesInHand": 0,
        "lastFailure": None,
    }


def test_the_help_says_what_a_secret_looks_like() -> None:
    told = " ".join(invoke("agents", "add", "--help").out.split())
    words = ("env:NAME or file:/PATH", "base64 of 16 bytes or more", "whsec_", "openssl rand -base64 32")
    assert [word for word in words if word not in told] == []


def test_an_agent_is_added_under_an_id_of_ones_own(plain: Serve) -> None:
    added = fields(agents(plain, "add", "--id", MINE, "--name", "mine", "--kind", "echo"))
    assert (added["id"], added["timeout"]) == (MINE, "default")
    result = invoke("agents", "--server", plain.grpc, "add", "--id", MINE, "--name", "mine", "--kind", "echo")
    assert clean_failure(result).startswith("Error: ALREADY_EXISTS: ")
    agents(plain, "remove", MINE, "--yes")


@pytest.mark.parametrize(
    "arguments",
    [
        ("show", MINE),
        ("remove", "--yes", MINE),
        ("chat", MINE),
        ("update", MINE, "--name", "x"),
        ("show", "no-uuid"),
    ],
)
def test_an_unknown_agent_is_told_in_a_line(service: Serve, arguments: tuple[str, ...]) -> None:
    result = invoke("agents", "--server", service.grpc, *arguments)
    assert clean_failure(result).startswith("Error: NOT_FOUND: ")


@pytest.mark.parametrize(
    ("options", "status", "word"),
    [
        (("--id", "7", "--name", "x", "--kind", "echo"), 1, "--id is not a UUID"),
        (("--name", "", "--kind", "echo"), 1, "fields: --name"),
        (("--name", "x" * 101, "--kind", "echo"), 1, "--name must have"),
        (("--name", "x", "--kind", "echo", "--timeout-minutes", "4"), 1, "between 5 and 1440"),
        (("--name", "x", "--kind", "echo", "--timeout-minutes", "nan"), 1, ": --timeout-minutes"),
        (("--name", "x", "--kind", "echo", "--max-duration-minutes", "inf"), 1, ": --max-duration-minutes"),
        (("--name", "x", "--kind", "echo", "--timeout-minutes", "soon"), 2, "--timeout-minutes"),
        (("--name", "x", "--kind", "human"), 2, "--kind"),
        (("--name", "x"), 2, "--kind"),
        (("--kind", "echo"), 2, "--name"),
        (("--name", "x", "--kind", "webhook"), 1, "fields: --url, --secret"),
        ((*HOOK, "--url", "https://example.com"), 1, "fields: --secret"),
        ((*HOOK, "--url", "ftp://example.com", "--secret", "env:AGENT_SECRET_TEST"), 1, ": --url must be"),
        (
            (*HOOK, "--url", "https://example.com", "--secret", "hunter2"),
            1,
            ": --secret must be env:NAME or file:/PATH",
        ),
        (
            (*HOOK, "--url", "https://example.com", "--secret", "env:AGENT_SECRET_NONE"),
            1,
            ": --secret names AGENT_SECRET_NONE",
        ),
        (
            (*HOOK, "--url", "https://example.com", "--secret", "env:HOME"),
            1,
            ": --secret names HOME, which AGENT_SECRETS",
        ),
        (("--name", "x", "--kind", "openai"), 1, "fields: --model"),
        (
            ("--name", "x", "--kind", "openai", "--model", "m", "--api-key", "sk-1"),
            1,
            ": --api-key must be env:NAME or file:/PATH",
        ),
        (
            ("--name", "x", "--kind", "openai", "--model", "m", "--base-url", "nowhere"),
            1,
            ": --base-url must be",
        ),
        (
            ("--name", "x", "--kind", "openai", "--model", "m", "--max-tokens", "0"),
            1,
            ": --max-tokens must be",
        ),
    ],
)
def test_an_agent_that_cannot_be_is_not_added(
    service: Serve, options: tuple[str, ...], status: int, word: str
) -> None:
    before = agent_ids(service)
    result = invoke("agents", "--server", service.grpc, "add", *options)
    assert (result.status, result.out) == (status, "")
    assert word in result.errors.partition("Error: ")[2]
    assert re.findall(r"(?:webhook|openai|timeout_config)\.|[a-z]_[a-z]|hunter2|sk-1", result.errors) == []
    assert "Traceback" not in result.errors
    assert agent_ids(service) == before


def test_the_agents_of_a_server_that_is_away() -> None:
    assert clean_failure(invoke("agents", "--server", "127.0.0.1:1", "list")).startswith(
        "Error: UNAVAILABLE: "
    )


def test_the_server_of_the_agents_comes_from_the_environment_too(service: Serve) -> None:
    done = invoke("agents", "list", GRPC_ADDRESS=service.grpc)
    assert (done.status, done.errors) == (0, "")
    assert ECHO in done.out


@pytest.mark.parametrize("before", [(), ("--server", "127.0.0.1:1")], ids=["after", "both"])
def test_the_server_of_the_agents_may_be_named_behind_the_command(
    service: Serve, before: tuple[str, ...]
) -> None:
    for arguments in (("list",), ("show", ECHO)):
        for server in (
            service.grpc,
            service.grpc.replace("127.0.0.1", ""),
            service.grpc.replace("127.0.0.1", "0.0.0.0"),
        ):
            done = invoke("agents", *before, *arguments, "--server", server)
            assert (done.status, done.errors) == (0, "")
            assert ECHO in done.out
    wrong = invoke("agents", *before, "list", "--server", "nowhere")
    assert (wrong.status, wrong.out) == (2, "")
    assert "HOST:PORT" in wrong.errors


def test_a_proxy_for_the_web_is_not_between_the_command_and_this_machine(
    service: Serve, tmp_path: Path
) -> None:
    done = run(
        "agents", "--server", service.grpc, "list", cwd=tmp_path, http_proxy="http://127.0.0.1:9", no_proxy=""
    )
    assert (done.status, done.errors) == (0, "")


AGENTS = f"""
[[agents]]
id = "{MINE.upper()}"
name = "from the file"
kind = "echo"

[agents.timeout]
timeout_minutes = 42
auto_renew = false

[[agents]]
id = "55555555-5555-4555-8555-555555555555"
name = "another"
kind = "echo"
"""


def test_the_agents_of_a_file_are_registered_and_win(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "agents.toml"
    path.write_text(AGENTS)
    ids = [MINE, tomllib.loads(AGENTS)["agents"][1]["id"]]
    first = start("--no-rest", AGENTS_FILE=str(path))
    assert sorted(agent_ids(first)) == sorted([ECHO, *ids])
    config = create(first, MINE).timeout_config
    assert config == TimeoutConfig(
        timeout_minutes=42, auto_renew=False, max_duration_minutes=720, warning_threshold_minutes=5
    )
    session_id = create(first, MINE).session_id
    send(first, session_id, "hello")
    assert replies(first, session_id, 1)[0].author_id == MINE
    agents(
        first,
        "update",
        MINE,
        "--name",
        "changed by hand",
        "--timeout-minutes",
        "99",
        "--warning-threshold-minutes",
        "9",
    )
    agents(first, "remove", "--yes", ids[1])
    created = fields(agents(first, "show", MINE))["created"]
    first.kill()

    second = start("--no-rest", "--agents-file", "agents.toml")
    shown = fields(agents(second, "show", MINE))
    assert (shown["name"], shown["timeout"], shown["created"]) == (
        "from the file",
        "timeout_minutes=42, auto_renew=False",
        created,
    )
    assert ids[1] in agent_ids(second)
    second.kill()

    # What is no longer in the file stays registered.
    path.write_text("")
    third = start("--no-rest", AGENTS_FILE=str(path))
    assert sorted(agent_ids(third)) == sorted([ECHO, *ids])


ONE = f'[[agents]]\nid = "{MINE}"\nname = "x"\nkind = "echo"\n'


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ["No such file"]),
        (b"[[agents]\n", ["line 1"]),
        (b'[[agents]]\nname = "x"\n', ["agents.0.id", "agents.0.kind"]),
        (ONE.replace("echo", "human").encode(), ["agents.0.kind", "echo"]),
        (ONE.replace(MINE, "7").encode(), ["id", "UUID"]),
        ((ONE + "colour = 3\n").encode(), ["agents.0.colour"]),
        (
            (ONE + "[agents.timeout]\ntimeout_minutes = 1\n").encode(),
            ["timeout_minutes", "between 5 and 1440"],
        ),
        ((ONE + "[agents.timeout]\nauto_renew = 1\n").encode(), ["agents.0.timeout.auto_renew"]),
        ((ONE + "retention_minutes = -1\n").encode(), ["retention_minutes", "between 0 and 525600"]),
        ((ONE + 'retention_minutes = "1"\n').encode(), ["agents.0.retention_minutes"]),
    ],
    ids=["absent", "malformed", "missing", "kind", "id", "extra", "range", "type", "kept", "kept type"],
)
def test_a_wrong_file_of_agents_stops_the_start(
    tmp_path: Path, content: bytes | None, words: list[str]
) -> None:
    path = tmp_path / "agents.toml"
    if content is not None:
        path.write_bytes(content)
    line = refused("serve", "--no-rest", "--agents-file", str(path), cwd=tmp_path)
    assert [word for word in [str(path), *words] if word not in line] == []


def test_a_removed_echo_stays_removed(start: Start) -> None:
    first = start("--no-rest")
    assert agent_ids(first) == [ECHO]
    agents(first, "remove", "--yes", ECHO)
    assert first.stop() == 0
    second = start("--no-rest")
    assert agent_ids(second) == []
    assert fails(lambda: create(second), "AGENT_NOT_FOUND") == {"agentId": ECHO}


def test_a_removed_echo_stays_removed_where_another_agent_is(start: Start) -> None:
    first = start("--no-rest")
    agents(first, "add", "--id", MINE, "--name", "mine", "--kind", "echo")
    agents(first, "remove", "--yes", ECHO)
    first.kill()
    second = start("--no-rest")
    assert agent_ids(second) == [MINE]
    fails(lambda: second.agents.GetAgent(GetAgentRequest(agent_id=ECHO), timeout=10), "AGENT_NOT_FOUND")
