"""Clients that know nothing of this project, written as the published examples are, against a running
service.
"""

import subprocess
import sys
from pathlib import Path

from tests.support.node import NODE
from tests.support.service import Serve

CLIENTS = Path(__file__).parent / "clients"


def outcome(*command: str | Path) -> tuple[int, str, str]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout, done.stderr


def test_a_node_client_finds_the_api_as_published(service: Serve) -> None:
    status, out, errors = outcome(NODE, CLIENTS / "sessions.mjs", f"http://{service.rest}")
    assert (status, out, errors) == (0, "all as published\n", ""), errors


def test_a_python_client_finds_the_api_as_published(service: Serve) -> None:
    status, out, errors = outcome(sys.executable, CLIENTS / "sessions.py", f"http://{service.rest}")
    assert (status, out, errors) == (0, "all as published\n", ""), errors


def test_the_clients_notice_what_is_not_as_published() -> None:
    for command in ((NODE, CLIENTS / "sessions.mjs"), (sys.executable, CLIENTS / "sessions.py")):
        status, out, errors = outcome(*command, "http://127.0.0.1:1")
        assert (status, out) == (1, "")
        assert errors
