"""Clients of Socket.IO, as fixtures."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.node import install
from tests.support.realtime.programs import Program
from tests.support.realtime.sockets import KINDS, Client, connected


@pytest.fixture(scope="session")
def modules() -> Path:
    """Where socket.io-client is installed."""
    return install()


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind of client."""
    return request.param


@pytest.fixture
def connect(modules: Path) -> Iterator[Callable[..., Client]]:
    """Opens clients that are closed after the test."""
    with contextlib.ExitStack() as stack:

        def opener(url: str, kind: str = "javascript-websocket") -> Client:
            client = connected(url, kind, modules)
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
