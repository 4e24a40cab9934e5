"""Ends streams whose credentials have ended."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any, Final

import structlog

from server.access.authentication import Authentication
from server.domain.access import Principal
from server.domain.errors import CredentialExpiredError
from server.rpc.call import Call
from server.rpc.gate import Gate

CHECK_SECONDS: Final = 0.4
"""How often the credentials of open streams are looked at: a stream ends within a second."""

PRINCIPALS_PER_TURN: Final = 1000
"""How many credentials are looked at before the event loop goes on with something else."""

log = structlog.get_logger()


class _OpenStream:
    """The answers of a stream whose caller has a credential, until that has ended."""

    def __init__(self, call: Call, answers: AsyncIterator[Any]) -> None:
        self._call = call
        self._answers = answers
        self._error: CredentialExpiredError | None = None
        self._limit: asyncio.Timeout | None = None

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        """The next answer. Raises CredentialExpiredError where the credential has ended."""
        if self._error:
            raise self._error
        try:
            async with asyncio.timeout(None) as self._limit:
                return await anext(self._answers)
        except TimeoutError:
            if self._error:
                raise self._error from None
            raise
        finally:
            self._limit = None

    def end(self, *, removed: bool) -> None:
        """Ends the stream, or tells its servicer, where that has said how it ends."""
        if self._call.on_credential_end:
            self._call.on_credential_end(removed)
            return
        self._error = CredentialExpiredError(
            "The credential was removed" if removed else "The credential has expired"
        )
        if self._limit:
            self._limit.reschedule(asyncio.get_running_loop().time())


class CredentialEnds:
    """Knows the open streams of callers with credentials."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._streams: dict[Principal, set[_OpenStream]] = {}
        self._expired: set[Principal] = set()

    @property
    def open_streams(self) -> int:
        """How many streams have a caller with a credential."""
        return sum(map(len, self._streams.values()))

    @contextmanager
    def watched(self, call: Call, answers: AsyncIterator[Any]) -> Iterator[AsyncIterator[Any]]:
        """The answers of a stream, which end with its caller's credential."""
        principal = call.principal
        if not principal.source:
            yield answers
            return
        stream = _OpenStream(call, answers)
        self._streams.setdefault(principal, set()).add(stream)
        try:
            yield stream
        finally:
            self._streams[principal].discard(stream)
            if not self._streams[principal]:
                del self._streams[principal]
                self._expired.discard(principal)

    async def check(self) -> None:
        """Ends the streams whose credentials have expired or are gone."""
        for number, principal in enumerate(list(self._streams), 1):
            if number % PRINCIPALS_PER_TURN == 0:
                await asyncio.sleep(0)
            removed = self._gate.is_removed(principal)
            if removed or (principal not in self._expired and self._has_expired(principal)):
                for stream in list(self._streams.get(principal, ())):
                    stream.end(removed=removed)

    def _has_expired(self, principal: Principal) -> bool:
        """Whether a credential has expired. Told once: its streams end by themselves then."""
        try:
            self._gate.require_current(principal)
        except CredentialExpiredError:
            self._expired.add(principal)
            return True
        return False


async def watch_credentials(authentication: Authentication, ends: CredentialEnds) -> None:
    """Reads credentials again that have changed, and ends the streams of those that are over."""
    reading: asyncio.Future[None] | None = None
    while True:
        await asyncio.sleep(CHECK_SECONDS)
        if reading is None or reading.done():
            reading = asyncio.ensure_future(asyncio.to_thread(_read_again, authentication))
        # Files may be on a file system that hangs: what has expired ends all the same.
        await asyncio.wait([reading], timeout=CHECK_SECONDS)
        await ends.check()


def _read_again(authentication: Authentication) -> None:
    """Reads credentials again that have changed. What fails is tried again."""
    try:
        authentication.reload_if_changed()
    except Exception:
        log.exception("credentials could not be read again")
