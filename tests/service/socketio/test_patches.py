"""The private names of libraries that the facade uses: the installed versions have them, and one that is gone
is noticed.
"""

from types import SimpleNamespace
from typing import Any

import pytest
import socketio
import uvicorn
from structlog.testing import capture_logs

from rest_facade.front_door.connections import Connections
from rest_facade.front_door.websockets import WebSockets
from rest_facade.patches import socketio as patched_socketio
from rest_facade.patches import uvicorn as patched_uvicorn
from rest_facade.socketio.engine import Engine


async def nobody(_scope: object, _receive: object, _send: object) -> None:
    raise AssertionError("nobody calls it")


async def test_the_installed_versions_have_every_private_name() -> None:
    assert patched_socketio.missing_names(socketio.AsyncServer(async_mode="asgi")) == []
    assert patched_uvicorn.missing_names(uvicorn.Config(nobody), patched_uvicorn.make_state([])) == []


@pytest.mark.parametrize("path", patched_socketio.PRIVATE_NAMES)
def test_a_name_of_socketio_that_is_gone_is_noticed(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    root, *_ = path.split(".")
    complete: dict[str, Any] = {}
    for one in patched_socketio.PRIVATE_NAMES:
        if one == path:
            continue
        owner, *above, last = one.split(".")
        node = complete.setdefault(owner, SimpleNamespace())
        for name in above:
            if not hasattr(node, name):
                setattr(node, name, SimpleNamespace())
            node = getattr(node, name)
        setattr(node, last, one)
    complete["AsyncServer"].eio.handlers = dict.fromkeys(("connect", "disconnect", "message"))
    if path == "AsyncServer.eio.handlers":
        del complete["AsyncServer"].eio.handlers
    monkeypatch.setattr(patched_socketio, "AsyncSocket", lambda *_: complete["AsyncSocket"])
    missing = patched_socketio.missing_names(complete["AsyncServer"])
    assert path in missing
    assert root in complete
    assert len(missing) == (4 if path == "AsyncServer.eio.handlers" else 1)


async def test_what_cannot_be_checked_or_served_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for patched in (patched_socketio, patched_uvicorn):
        root = "AsyncSocket." if patched is patched_socketio else ""
        monkeypatch.setattr(
            patched, "PRIVATE_NAMES", (*patched.PRIVATE_NAMES, f"{root}gone_in_a_later_version")
        )
    with capture_logs() as logs:
        Engine(socketio.AsyncServer(async_mode="asgi"), "/socket.io", 1000)
        WebSockets(nobody, Connections(), 1000)
    assert [(entry["log_level"], len(entry["missing"])) for entry in logs] == [("warning", 1)] * 2
