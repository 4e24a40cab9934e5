"""Calls over gRPC whose requests do not come as a whole."""

import asyncio

import pytest

from server.patches import grpcio
from tests.support.waiting import PATIENCE_SECONDS


async def test_of_requests_that_do_not_come_few_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpcio, "SLOW_SECONDS", 0.05)
    monkeypatch.setattr(grpcio, "MAX_SLOW_REQUESTS", 2)
    incoming = grpcio.Incoming()
    came = asyncio.Event()

    async def hang() -> None:
        await asyncio.Event().wait()

    async def receive() -> None:
        await came.wait()
        incoming.end(asyncio.current_task())
        await hang()

    calls = [asyncio.create_task(incoming.receive(hang(), [])) for _ in range(3)]
    calls.append(asyncio.create_task(incoming.receive(receive(), [])))
    async with asyncio.timeout(PATIENCE_SECONDS):
        await asyncio.wait(calls[:2])
    # The oldest are ended, the others are not.
    assert [call.cancelled() for call in calls] == [True, True, False, False]
    came.set()
    monkeypatch.setattr(grpcio, "REQUEST_SECONDS", 0)
    async with asyncio.timeout(PATIENCE_SECONDS):
        await asyncio.wait(calls[2:3])
    # That of the last one has come.
    assert [call.cancelled() for call in calls] == [True, True, True, False]
    assert not incoming._waiting
    calls[3].cancel()
    await asyncio.wait(calls)
