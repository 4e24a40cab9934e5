"""A gRPC server that does nothing but note what its calls carry, and answer as a test wants it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio

from eliza.sessions import call_metadata, values
from eliza.sessions.errors import TABLE, error_trailers
from eliza.sessions.v1 import (
    agent_service_pb2,
    agent_service_pb2_grpc,
    clock_service_pb2,
    clock_service_pb2_grpc,
    message_service_pb2,
    message_service_pb2_grpc,
    session_service_pb2_grpc,
)
from eliza.sessions.v1 import session_service_pb2 as pb
from eliza.sessions.v1.log_pb2 import LogEntry
from eliza.sessions.v1.message_pb2 import Message
from eliza.sessions.v1.session_pb2 import Session

KEYS = (
    call_metadata.AUTHORIZATION_KEY,
    call_metadata.API_KEY_KEY,
    call_metadata.ON_BEHALF_OF_KEY,
    call_metadata.FACADE_KEY_KEY,
    call_metadata.CLIENT_ADDRESS_KEY,
)
NOW = values.timestamp(1_800_000_000_000)
AGENT = "Ada"
TOKEN = "a token for the session"

Pairs = tuple[tuple[str, str], ...]
Fault = tuple[str, dict[str, str]]
EXPIRED: Fault = ("CREDENTIAL_EXPIRED", {})


class FakeServer:
    """`good` are the credentials that it takes, with or without `Bearer `; None: it is open."""

    def __init__(self) -> None:
        self.good: set[str] | None = None
        self.status_only = False
        self.calls: list[tuple[str, Pairs]] = []
        self.faults: dict[str, Fault] = {}
        self.streams: list[tuple[Pairs, asyncio.Queue[Any]]] = []
        self.tokens: list[pb.CreateAccessTokenRequest] = []
        self.open_streams = 0
        self.address = ""

    def sent(self, method: str) -> list[Pairs]:
        """What the calls of a method carried."""
        return [pairs for name, pairs in self.calls if name == method]

    def end_streams(self, fault: Fault = EXPIRED) -> None:
        """Ends all streams that are open."""
        for _, queue in self.streams:
            queue.put_nowait(fault)
        self.streams.clear()

    def tell(self, session_id: str, text: str) -> None:
        """Tells all streams of a message of the agent."""
        message = Message(
            message_id="m",
            session_id=session_id,
            content=text,
            is_agent=True,
            created_at=NOW,
            metadata_json="{}",
        )
        for _, queue in self.streams:
            queue.put_nowait(LogEntry(session_id=session_id, sequence=7, message=message))

    async def enter(self, method: str, context: grpc.aio.ServicerContext) -> Pairs:
        """Notes a call. Ends it where its credential is not good."""
        pairs = tuple((key, str(value)) for key, value in context.invocation_metadata() or () if key in KEYS)
        self.calls.append((method, pairs))
        if fault := self.faults.get(method):
            await abort(context, *fault)
        given = {value.removeprefix("Bearer ") for key, value in pairs if key in KEYS[:2]}
        if self.good is not None and (given or method != "GetServiceStatus") and not given <= self.good:
            await abort(context, "UNAUTHENTICATED", {})
        if self.good is not None and not given and method != "GetServiceStatus":
            await abort(context, "UNAUTHENTICATED", {})
        return pairs


async def abort(context: grpc.aio.ServicerContext, reason: str, details: dict[str, str]) -> None:
    row = TABLE[reason]
    await context.abort(row.grpc_status, "No", error_trailers(row, "No", details))


def session(session_id: str) -> Session:
    return Session(
        session_id=session_id,
        channel_id=f"{session_id[:-1]}0",
        metadata_json="{}",
        created_at=NOW,
        expires_at=NOW,
        last_activity=NOW,
        etag='"1"',
    )


SENT = message_service_pb2.SendMessageResponse(
    message=Message(message_id="m", created_at=NOW, metadata_json="{}"),
    reply=Message(message_id="r", created_at=NOW, metadata_json="{}"),
)


def _servicer(base: type, server: FakeServer, answers: dict[str, Any]) -> Any:
    """A servicer whose methods note their calls and give these answers: a message, or what makes one."""

    def method(name: str, answer: Any) -> Any:
        async def serve(_self: object, request: Any, context: grpc.aio.ServicerContext) -> Any:
            await server.enter(name, context)
            return answer(request) if callable(answer) else answer

        return serve

    return type(base.__name__, (base,), {name: method(name, answer) for name, answer in answers.items()})


def _sessions(server: FakeServer) -> Any:
    def of_session(answer: type) -> Any:
        return lambda request: answer(session=session(request.session_id or request.channel_id))

    def status(_request: object) -> pb.GetServiceStatusResponse:
        healthy = pb.GetServiceStatusResponse.HEALTH_HEALTHY
        return pb.GetServiceStatusResponse(health=healthy, timestamp=NOW, status_only=server.status_only)

    def token(request: pb.CreateAccessTokenRequest) -> pb.CreateAccessTokenResponse:
        server.tokens.append(request)
        return pb.CreateAccessTokenResponse(access_token=TOKEN, expires_at=NOW, verbs=["read"])

    answers = {
        "CreateSession": lambda _: pb.CreateSessionResponse(session=session("s1")),
        "ListSessions": pb.ListSessionsResponse(),
        "DeleteSession": pb.DeleteSessionResponse(),
        "GetSession": of_session(pb.GetSessionResponse),
        "RenewSession": of_session(pb.RenewSessionResponse),
        "UpdateTimeout": of_session(pb.UpdateTimeoutResponse),
        "SendHeartbeat": of_session(pb.SendHeartbeatResponse),
        "GetServiceStatus": status,
        "CreateAccessToken": token,
    }

    class Sessions(_servicer(session_service_pb2_grpc.SessionServiceServicer, server, answers)):
        async def WatchSessions(
            self, requests: AsyncIterator[pb.WatchSessionsRequest], context: grpc.aio.ServicerContext
        ) -> AsyncIterator[pb.WatchSessionsResponse]:
            pairs = await server.enter("WatchSessions", context)
            queue: asyncio.Queue[Any] = asyncio.Queue()
            server.streams.append((pairs, queue))
            server.open_streams += 1
            reading = asyncio.create_task(_read(requests, queue))
            try:
                while (item := await queue.get()) is not None:
                    if isinstance(item, tuple):
                        await abort(context, *item)
                    yield item if isinstance(item, pb.WatchSessionsResponse) else _told(item)
            finally:
                reading.cancel()
                server.open_streams -= 1

    return Sessions()


def _told(item: Any) -> pb.WatchSessionsResponse:
    if isinstance(item, LogEntry):
        return pb.WatchSessionsResponse(entry=item)
    if item.HasField("leave"):
        return pb.WatchSessionsResponse(end=pb.WatchSessionsResponse.End(session_id=item.leave.session_id))
    joined = pb.WatchSessionsResponse.Joined(session=session(item.join.session_id), agent_name=AGENT)
    return pb.WatchSessionsResponse(joined=joined)


async def _read(requests: AsyncIterator[Any], queue: asyncio.Queue[Any]) -> None:
    async for request in requests:
        queue.put_nowait(request)
    queue.put_nowait(None)


def _messages(server: FakeServer) -> Any:
    answers = {"SendMessage": SENT, "ListMessages": message_service_pb2.ListMessagesResponse()}

    class Messages(_servicer(message_service_pb2_grpc.MessageServiceServicer, server, answers)):
        async def Converse(
            self, _request: object, context: grpc.aio.ServicerContext
        ) -> AsyncIterator[message_service_pb2.ConverseResponse]:
            await server.enter("Converse", context)
            yield message_service_pb2.ConverseResponse(user_message=SENT)
            if fault := server.faults.get("reply"):
                await abort(context, *fault)
            yield message_service_pb2.ConverseResponse(reply=SENT.reply)

        async def ExportTranscript(
            self, _request: object, context: grpc.aio.ServicerContext
        ) -> AsyncIterator[message_service_pb2.ExportTranscriptResponse]:
            await server.enter("ExportTranscript", context)
            yield message_service_pb2.ExportTranscriptResponse(lines=b'{"record":"session"}\n')
            if fault := server.faults.get("rest"):
                await abort(context, *fault)

    return Messages()


@contextlib.asynccontextmanager
async def fake_server() -> AsyncIterator[FakeServer]:
    """Runs one in this loop."""
    server = FakeServer()
    serving = grpc.aio.server()
    clock = {
        "GetClock": clock_service_pb2.GetClockResponse(now=NOW),
        "SetClock": clock_service_pb2.SetClockResponse(now=NOW),
        "AdvanceClock": clock_service_pb2.AdvanceClockResponse(now=NOW),
    }
    agents = {"ListAgents": agent_service_pb2.ListAgentsResponse()}
    session_service_pb2_grpc.add_SessionServiceServicer_to_server(_sessions(server), serving)
    message_service_pb2_grpc.add_MessageServiceServicer_to_server(_messages(server), serving)
    agent_service_pb2_grpc.add_AgentServiceServicer_to_server(
        _servicer(agent_service_pb2_grpc.AgentServiceServicer, server, agents)(), serving
    )
    clock_service_pb2_grpc.add_ClockServiceServicer_to_server(
        _servicer(clock_service_pb2_grpc.ClockServiceServicer, server, clock)(), serving
    )
    server.address = f"127.0.0.1:{serving.add_insecure_port('127.0.0.1:0')}"
    await serving.start()
    try:
        yield server
    finally:
        await serving.stop(0)
