"""Streams end with the credentials of their callers."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from server.domain.access import OPEN, Principal, Role
from server.domain.errors import CredentialExpiredError
from server.rpc.call import Call
from server.rpc.credential_ends import CredentialEnds
from tests.support.waiting import eventually

ALICE = Principal("alice", Role.USER, source="key", proof="1", user_id="a", not_after_ms=100)
BOB = ALICE._replace(id="bob", proof="2", not_after_ms=None)


class Gate:
    """Knows the time, and which credentials were removed."""

    def __init__(self) -> None:
        self.now_ms = 0
        self.removed: set[str] = set()

    async def enter(self, method: str, caller: object) -> Call:
        raise NotImplementedError

    def require_current(self, principal: Principal) -> None:
        if principal.not_after_ms is not None and self.now_ms >= principal.not_after_ms:
            raise CredentialExpiredError("late")

    def is_removed(self, principal: Principal) -> bool:
        return principal.id in self.removed


class Caller:
    def time_remaining(self) -> float | None:
        return None

    def peer(self) -> str:
        return "ipv4:1.2.3.4:5"

    def invocation_metadata(self) -> None:
        return None

    async def send_initial_metadata(self, initial_metadata: object) -> None:
        raise NotImplementedError


class Stream:
    """A stream that says one thing and then waits, and what its reader has heard."""

    def __init__(self, ends: CredentialEnds, principal: Principal) -> None:
        self.call = Call(Caller(), principal)
        self.heard: list[str] = []
        self.task = asyncio.create_task(self._read(ends))

    async def _answers(self) -> AsyncIterator[str]:
        yield "first"
        await asyncio.get_running_loop().create_future()

    async def _read(self, ends: CredentialEnds) -> None:
        with ends.watched(self.call, self._answers()) as answers:
            async for answer in answers:
                self.heard.append(answer)


async def read_first(*streams: Stream) -> None:
    for stream in streams:
        await eventually(lambda stream=stream: stream.heard == ["first"])


async def test_a_stream_ends_when_its_credential_expires_and_others_go_on() -> None:
    gate = Gate()
    ends = CredentialEnds(gate)
    alice, bob, nobody = (Stream(ends, one) for one in (ALICE, BOB, OPEN))
    await read_first(alice, bob, nobody)
    gate.now_ms = 99
    await ends.check()
    assert not alice.task.done()
    gate.now_ms = 100
    await ends.check()
    with pytest.raises(CredentialExpiredError, match="expired"):
        await alice.task
    assert not bob.task.done()
    assert not nobody.task.done()
    for one in (bob, nobody):
        one.task.cancel()
    await asyncio.gather(bob.task, nobody.task, return_exceptions=True)


async def test_a_stream_ends_when_its_credential_is_removed() -> None:
    gate = Gate()
    ends = CredentialEnds(gate)
    bob = Stream(ends, BOB)
    await read_first(bob)
    gate.removed.add("bob")
    await ends.check()
    with pytest.raises(CredentialExpiredError, match="removed"):
        await bob.task


async def test_a_servicer_that_ends_its_stream_itself_is_told_once_of_the_expiry() -> None:
    gate = Gate()
    ends = CredentialEnds(gate)
    alice = Stream(ends, ALICE)
    told: list[bool] = []
    alice.call.on_credential_end = told.append
    await read_first(alice)
    gate.now_ms = 100
    await ends.check()
    await ends.check()
    assert told == [False]
    gate.removed.add("alice")
    await ends.check()
    assert told[-1] is True
    assert not alice.task.done()
    alice.task.cancel()
    await asyncio.gather(alice.task, return_exceptions=True)


async def test_nothing_is_kept_of_streams_that_are_over() -> None:
    ends = CredentialEnds(Gate())
    alice = Stream(ends, ALICE)
    await read_first(alice)
    alice.task.cancel()
    await asyncio.gather(alice.task, return_exceptions=True)
    assert ends.open_streams == 0
