"""What the live tests share: waiting on conditions, the command line, and errors as a client sees them."""

import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

import grpc
import pytest
from click.testing import CliRunner

from eliza.sessions.errors import TABLE, error_info
from eliza.sessions.v1 import (
    agent_service_pb2,
    message_pb2,
    message_service_pb2,
    session_pb2,
    session_service_pb2,
    timeout_pb2,
)
from server.cli import main
from tests.support.service import ECHO, SETTINGS, USER, Serve, start_command
from tests.support.waiting import until

T = TypeVar("T")


def command(*arguments: str) -> list[str]:
    """`eliza-sessions …` as a command line."""
    return [sys.executable, "-m", "server.cli", *arguments]


class Ended(NamedTuple):
    """A command that has ended: its exit status, and what it said."""

    status: int
    out: str
    errors: str


def run(*arguments: str, cwd: Path, fresh: bool = False, **settings: str) -> Ended:
    """Runs `eliza-sessions …` in a process of its own until it ends. `fresh` see `start_command`."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        process = start_command(arguments, cwd, stdout=out, stderr=errors, fresh=fresh, **settings)
        try:
            status = process.wait(30)
        finally:
            process.kill()
        out.seek(0)
        errors.seek(0)
        return Ended(status, out.read().decode(), errors.read().decode())


def invoke(*arguments: str, **settings: str) -> Ended:
    """Runs `eliza-sessions …` in this process: for the commands that start nothing."""
    hidden: Mapping[str, str | None] = {name: None for name in os.environ if name.startswith(SETTINGS)}
    result = CliRunner().invoke(main, arguments, env={**hidden, **settings}, prog_name="eliza-sessions")
    return Ended(result.exit_code, result.stdout, result.stderr)


def fails(call: Callable[[], object], reason: str) -> dict[str, str]:
    """Makes a call that must fail for this reason, with the status that the table of errors has for it;
    returns the details.
    """
    with pytest.raises(grpc.RpcError) as raised:
        call()
    info = error_info(raised.value)
    assert info is not None, f"no ErrorInfo with {raised.value.code()}: {raised.value.details()}"
    assert (info.reason, raised.value.code()) == (reason, TABLE[reason].grpc_status)
    assert set(info.metadata) == set(TABLE[reason].details)
    assert raised.value.details()
    return dict(info.metadata)


def create(service: Serve, agent_id: str = ECHO, **timeout: float | bool) -> session_pb2.Session:
    """Creates a session over gRPC."""
    config = timeout_pb2.TimeoutConfig(**timeout)
    request = session_service_pb2.CreateSessionRequest(agent_id=agent_id, user_id=USER, timeout_config=config)
    return service.sessions.CreateSession(request, timeout=10).session


def send(service: Serve, session_id: str, content: str) -> message_pb2.Message:
    """Sends a message over gRPC."""
    request = message_service_pb2.SendMessageRequest(session_id=session_id, content=content)
    # Against a lock, another write may have waited before this one.
    return service.messages.SendMessage(request, timeout=30).message


def history(service: Serve, session_id: str) -> list[message_pb2.Message]:
    """All messages of a session, the oldest first."""
    found: list[message_pb2.Message] = []
    token = ""
    while True:
        request = message_service_pb2.ListMessagesRequest(
            session_id=session_id, page_size=100, page_token=token
        )
        page = service.messages.ListMessages(request, timeout=10)
        found += page.messages
        token = page.next_page_token
        if not token:
            return found[::-1]


def replies(service: Serve, session_id: str, count: int) -> list[message_pb2.Message]:
    """The agent's messages of a session, once there are that many."""

    def enough() -> list[message_pb2.Message] | None:
        found = [message for message in history(service, session_id) if message.is_agent]
        return found if len(found) >= count else None

    return until(enough, f"{count} replies")


def agent_ids(service: Serve) -> list[str]:
    """The ids of all agents, in the order that the service lists them."""
    return [
        agent.agent_id
        for agent in service.agents.ListAgents(
            agent_service_pb2.ListAgentsRequest(page_size=1000), timeout=10
        ).agents
    ]


def ended(running: Serve) -> int:
    """The exit status of a service that has been told to stop."""
    until(lambda: running.process.poll() is not None, "the end of the service")
    return running.stop()


def clean_failure(done: Ended) -> str:
    """Asserts that a command has ended with status 1 and nothing but one line of explanation; returns the
    line.
    """
    assert (done.status, done.out) == (1, ""), done.errors
    assert done.errors.startswith("Error: "), done.errors
    assert done.errors.count("\n") == 1, done.errors
    return done.errors.strip()


def refused(*arguments: str, cwd: Path, **settings: str) -> str:
    """The one line with which a command refuses to start."""
    free = {"GRPC_ADDRESS": "127.0.0.1:0", "REST_ADDRESS": "127.0.0.1:0"}
    return clean_failure(run(*arguments, cwd=cwd, **{**free, **settings}))
