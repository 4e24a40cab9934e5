"""The short form of the campaign (see `overload`): more callers than there is room for, none of whom waits
for more than an answer.
"""

import asyncio
import struct

import orjson
import pytest

from eliza.sessions.v1 import message_service_pb2
from tests.campaigns.http2_frames import SETTINGS, frame
from tests.campaigns.open_loop import Spec, offer
from tests.campaigns.overload import CONTENT, METHOD, sessions
from tests.support.clients import history
from tests.support.service import Start

MAX_CONCURRENT_STREAMS = 3
"""The number of that setting in HTTP/2."""


async def test_the_generator_of_load_keeps_to_the_bound_of_a_connection() -> None:
    """A server that allows a hundred streams, as many do, and answers none of them."""
    seen = bytearray()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(frame(SETTINGS, 0, 0, struct.pack(">HI", MAX_CONCURRENT_STREAMS, 100)))
        while data := await reader.read(65_536):
            seen.extend(data)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1") as server:
        host, port = server.sockets[0].getsockname()
        spec = Spec(
            f"{host}:{port}", [("/path", b"")], seconds=0.5, in_flight=150, connections=1, deadline_s=30
        )
        await asyncio.to_thread(offer, spec)
    assert seen.count(b"\x04\x05/path") == 100


@pytest.mark.parametrize("rest", [False, True], ids=["gRPC", "REST"])
async def test_more_callers_than_there_is_room_for(start: Start, rest: bool) -> None:
    """Everyone is answered: with the message stored, or with a refusal that says when to try again.

    What was acknowledged is stored.
    """
    service = await asyncio.to_thread(start, MAX_CALLS="8", REST_MAX_REQUESTS="8")
    ids = sessions(service, 4)
    if rest:
        calls = [
            (f"/api/messaging/sessions/{session_id}/messages", orjson.dumps({"content": CONTENT}))
            for session_id in ids
        ]
    else:
        message = message_service_pb2.SendMessageRequest
        calls = [
            (METHOD, message(session_id=session_id, content=CONTENT).SerializeToString())
            for session_id in ids
        ]
    spec = Spec(
        service.rest if rest else service.grpc,
        calls,
        seconds=1,
        in_flight=32,
        connections=32 if rest else 2,
        deadline_s=30,
        rest=rest,
    )
    found = await asyncio.to_thread(offer, spec)
    print({outcome: len(latencies) for outcome, latencies in found.latencies_ms.items()}, found.statuses)
    assert set(found.latencies_ms) == {"ok", "refused"}
    assert set(found.statuses) == {"with Retry-After" if rest else "with RetryInfo"}
    stored = sum(len(history(service, session_id)) for session_id in ids)
    assert stored >= len(found.latencies_ms["ok"])
    assert service.stop() == 0
