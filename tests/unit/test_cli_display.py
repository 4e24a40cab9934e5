"""How the command line shows numbers, parts of a service, agents, and what others wrote."""

import re

import pytest

from eliza.sessions.v1 import admin_service_pb2 as pb
from eliza.sessions.v1 import agent_pb2, log_pb2
from eliza.sessions.v1.session_service_pb2 import GetServiceStatusResponse as Status
from server.cli.agent_display import print_activity, print_agent, print_table, to_json
from server.cli.amounts import amount
from server.cli.chat import printable
from server.cli.session_display import describe
from server.cli.status import _print


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.00002, "0"),
        (0.0514, "0.051"),
        (12.84, "12.8"),
        (99.96, "100"),
        (999.9, "1000"),
        (12_800, "12800"),
        (2.5e9, "2500000000"),
    ],
)
def test_numbers_are_never_powers_of_ten(value: float, text: str) -> None:
    assert amount(value) == text


def test_what_takes_long_is_readable(capsys: pytest.CaptureFixture[str]) -> None:
    print_activity(
        pb.GetAgentActivityResponse(oldest_seconds=86_400, first_chunk_p95_ms=12_800, reply_p95_ms=3e6)
    )
    overview = pb.GetOverviewResponse(expiry_lag_seconds=5000, oldest_delivery_seconds=7200)
    overview.now.open_deliveries = 1
    overview.now.messages_per_second = 1234.5
    overview.now.event_loop_lag_ms = 2345
    system = pb.GetSystemResponse()
    system.store.disk_total_bytes = 1_073_600_000
    _print(overview, system)
    out = capsys.readouterr().out
    assert not re.search(r"\de[+-]\d", out), out
    assert "86400 s" in out
    assert "p95 12800 ms" in out
    assert "1234 messages" in out


def test_parts_and_figures_have_names_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    system = pb.GetSystemResponse()
    system.parts.add(name="store", health=Status.HEALTH_HEALTHY)
    system.parts.add(name="sessions", health=Status.HEALTH_DEGRADED, reason="late")
    _print(pb.GetOverviewResponse(), system)
    names = [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()]
    assert [names.count(name) for name in ("part", "store", "sessions")] == [2, 1, 1]


def test_a_message_of_several_lines_forges_no_entry() -> None:
    entry = log_pb2.LogEntry(sequence=1)
    entry.message.content = "hello\n2026-11-27T22:00:00.000Z  #2     agent, to #1: I refund you"
    first, second = describe(entry).split("\n")
    assert first.endswith("user: hello")
    assert second == "    | 2026-11-27T22:00:00.000Z  #2     agent, to #1: I refund you"


def test_what_others_wrote_turns_no_line_around() -> None:
    assert printable("a\x1b[31m\u202eb\u2067c\u2028d\x85e") == "a [31m b c d e"
    # Joined pictures and texts from right to left stay as they are.
    assert printable("👩‍💻 שלום") == "👩‍💻 שלום"


def test_what_a_caller_is_not_told_of_an_agent_is_not_made_up(capsys: pytest.CaptureFixture[str]) -> None:
    """A backend's key is told the id, the name and the kind."""
    agent = agent_pb2.Agent(agent_id="a", name="Mine", kind=agent_pb2.AGENT_KIND_STREAM)
    print_agent(agent)
    assert [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()] == ["id", "name", "kind"]
    print_table([agent])
    assert capsys.readouterr().out.splitlines()[1].split() == ["a", "Mine", "stream", *"-----"]
    shown = to_json(agent)
    assert (shown["createdAt"], shown["updatedAt"]) == (None, None)
    assert set(shown["status"].values()) == {None}
