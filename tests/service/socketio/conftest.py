"""Clients of Socket.IO, as fixtures."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.node import install
from tests.support.realtime.programs import Program
from tests.support.realtime.sockets import KINDS, Client, NodeClients, connected


@pytest.fixture(scope="session")
def modules() -> Path:
    """Where socket.io-client is installed."""
    return install()


@pytest.fixture(scope="session")
def node_clients(modules: Path) -> Iterator[NodeClients]:
    """The node process of all JavaScript clients of a pytest process."""
    running = NodeClients(modules)
    yield running
    running.close()


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind of client."""
    return request.param


@pytest.fixture
def connect(node_clients: NodeClients) -> Iterator[Callable[..., Client]]:
    """Opens clients that are closed after the test."""
    with contextlib.ExitStack() as stack:

        def opener(url: str, kind: str = "javascript-websocket") -> Client:
            client = connected(url, kind, node_clients)
            stack.callback(client.close)
            return client

        yield opener


@pytest.fixture
def run_program() -> Iterator[Callable[[Program], Program]]:
    """Takes programs into its care: they are killed after the test."""
    with contextlib.ExitStack() as stack:

        def keeper(program: Program) -> Program:
            stack.callback(program.kill)
            return program

        yield keeper
