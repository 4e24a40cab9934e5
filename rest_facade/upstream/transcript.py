"""The transcript of a session, as it comes from the server."""

import asyncio
from collections.abc import AsyncIterator

from eliza.sessions.errors import forget_frames
from eliza.sessions.v1.message_service_pb2 import ExportTranscriptRequest
from rest_facade.shapes.credentials import Metadata
from rest_facade.shapes.errors import ApiError
from rest_facade.upstream.backend import Backend, read


class Transcript:
    """Reads the lines of a transcript, in parts. To be closed after use.

    Both steps may raise grpc.aio.AioRpcError.
    """

    def __init__(
        self, backend: Backend, session_id: str, metadata: Metadata, after_sequence: int = 0
    ) -> None:
        """It has the session, then the entries of its log behind `after_sequence`."""
        self._deadline_seconds = backend.deadline_seconds
        request = ExportTranscriptRequest(session_id=session_id, after_sequence=after_sequence)
        self._call = backend.export_transcript(request, metadata)
        self.is_whole = False
        """Whether the last part has been read."""

    async def open(self) -> bytes:
        """Waits for the first part. Raises ApiError where none comes in time."""
        try:
            async with asyncio.timeout(self._deadline_seconds):
                return await self._read() or b""
        except TimeoutError as error:
            forget_frames(error)
            message = "The session service did not answer in time"
            raise ApiError("DEADLINE_EXCEEDED", message) from None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """The parts behind the first one."""
        while lines := await self._read():
            yield lines

    async def _read(self) -> bytes | None:
        part = await read(self._call)
        self.is_whole = part is None
        return part.lines if part else None

    def close(self) -> None:
        """Reads no more."""
        self._call.cancel()
