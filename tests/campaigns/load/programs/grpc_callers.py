"""Callers of services over gRPC, for whoever gives this process lines, as with `store_callers`.

`["load", addresses, "send" or "get", callers, sessions, seconds]` deals its callers out to the addresses.
`["events", count, number, sent_to, watched_at]` sends messages to a session at one address, and tells how
late a watch of it at the other one hears of each.

Requests and answers stay bytes: what the load itself costs is of the machine that the service has, too.
"""

import asyncio
import random
import time
from typing import Any, Final

import grpc
import uvloop

from eliza.sessions.v1 import message_service_pb2, session_service_pb2, session_service_pb2_grpc
from tests.campaigns.load.programs.store_callers import CONTENT, next_line, say, serve, session_id, told

METHODS: Final = {
    "get": "/eliza.sessions.v1.SessionService/GetSession",
    "send": "/eliza.sessions.v1.MessageService/SendMessage",
}
CALLS_OF_A_CHANNEL: Final = 8
PAUSE_SECONDS: Final = 0.005
"""Between two messages that are watched for."""
DEADLINE_SECONDS: Final = 30


def _request(what: str, session: str) -> bytes:
    if what == "get":
        return session_service_pb2.GetSessionRequest(session_id=session).SerializeToString()
    return message_service_pb2.SendMessageRequest(session_id=session, content=CONTENT).SerializeToString()


def _channel(address: str) -> grpc.aio.Channel:
    # Channels of one process share a connection, unless they are told not to.
    return grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])


async def load(
    addresses: list[str], what: str, callers: int, sessions: int, seconds: float
) -> dict[str, float]:
    requests = [_request(what, session_id(number)) for number in range(1, sessions + 1)]
    channels = [
        _channel(addresses[number % len(addresses)])
        for number in range(max(-(-callers // CALLS_OF_A_CHANNEL), len(addresses)))
    ]
    calls = [channel.unary_unary(METHODS[what]) for channel in channels]
    taken: list[float] = []

    async def caller(number: int, end: float) -> None:
        call = calls[number % len(calls)]
        while True:
            begun = time.perf_counter()
            await call(random.choice(requests), timeout=DEADLINE_SECONDS)
            taken.append(time.perf_counter() - begun)
            if time.perf_counter() >= end:
                break

    await asyncio.gather(*(caller(number, 0) for number in range(callers)))
    taken.clear()
    say("ready")
    await next_line()
    begun, begun_cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(caller(number, begun + seconds) for number in range(callers)))
    found = told(taken, time.perf_counter() - begun, time.process_time() - begun_cpu)
    for channel in channels:
        await channel.close()
    return found


async def events(count: int, number: int, sent_to: str, watched_at: str) -> dict[str, list[float]]:
    """The times of events in ms: since the call that made each, and since its answer."""
    session = session_id(number)
    async with _channel(sent_to) as sending, _channel(watched_at) as watching:
        send = sending.unary_unary(METHODS["send"])
        watch = session_service_pb2_grpc.SessionServiceStub(watching).WatchSession(
            session_service_pb2.WatchSessionRequest(session_id=session, after_sequence=0)
        )
        heard = asyncio.Event()
        heard_at = 0.0

        async def hear() -> None:
            nonlocal heard_at
            async for response in watch:
                if response.entry.HasField("message"):
                    heard_at = time.perf_counter()
                    heard.set()

        listening = asyncio.create_task(hear())
        request, since_call, since_answer = _request("send", session), [], []
        # The first opens the watch, and does not count.
        for turn in range(count + 1):
            heard.clear()
            called = time.perf_counter()
            await send(request, timeout=DEADLINE_SECONDS)
            answered = time.perf_counter()
            async with asyncio.timeout(DEADLINE_SECONDS):
                await heard.wait()
            if turn:
                since_call.append((heard_at - called) * 1000)
                since_answer.append((heard_at - answered) * 1000)
            await asyncio.sleep(random.random() * 2 * PAUSE_SECONDS)
        listening.cancel()
    return {"since the call": since_call, "since its answer": since_answer}


async def _do(what: str, *arguments: Any) -> object:
    return await {"load": load, "events": events}[what](*arguments)


if __name__ == "__main__":
    uvloop.run(serve(_do))
