"""Streams end with their credentials, whatever becomes of the files that have them."""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from server.access.authentication import Authentication
from server.rpc.credential_ends import CredentialEnds
from server.service import Service
from server.settings import Settings
from tests.support.service import store_fields
from tests.support.waiting import eventually

goes_on = threading.Event()


def hang(_: Authentication) -> None:
    goes_on.wait()


def fail(_: Authentication) -> None:
    raise RuntimeError("a file that nobody has thought of")


@pytest.mark.parametrize("read", [hang, fail])
async def test_files_that_cannot_be_read_again_keep_no_stream_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[Authentication], None]
) -> None:
    checks: list[CredentialEnds] = []

    async def check(self: CredentialEnds) -> None:
        checks.append(self)

    monkeypatch.setattr(Authentication, "reload_if_changed", read)
    monkeypatch.setattr(CredentialEnds, "check", check)
    goes_on.clear()
    service = await Service.start(Settings(**store_fields(tmp_path), grpc_address="127.0.0.1:0"))
    try:
        await eventually(lambda: len(checks) >= 2)
    finally:
        goes_on.set()
        await service.stop(asyncio.get_running_loop().time())
