"""A service and its REST facade in this process, traced into the memory of the SDK's exporter."""

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import requests
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased, Sampler

from eliza.sessions.v1 import (
    agent_pb2,
    agent_service_pb2,
    agent_service_pb2_grpc,
    message_service_pb2_grpc,
    session_service_pb2,
    session_service_pb2_grpc,
)
from rest_facade.main import Facade
from rest_facade.upstream.backend import Backend
from server.cli.monitoring import RequestObserver
from server.service import Service
from server.settings import Settings
from server.telemetry.otel import OtelTraces
from server.telemetry.telemetry import OFF
from server.telemetry.traces import NO_TRACES, Traces
from tests.support.service import ECHO, USER, store_fields
from tests.support.waiting import PATIENCE_SECONDS, eventually

REQUEST = "POST /api/messaging/sessions/{sessionId}/messages"
SEND = "eliza.sessions.v1.MessageService/SendMessage"
GET = "eliza.sessions.v1.SessionService/GetSession"
ATTEMPT = "eliza.attempt"
GROUP = "eliza.write_group"

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN_ID = "00f067aa0ba902b7"
SAMPLED = f"00-{TRACE_ID}-{SPAN_ID}-01"
NOT_SAMPLED = f"00-{TRACE_ID}-{SPAN_ID}-00"

DEFAULT_SAMPLER = ParentBased(ALWAYS_ON)


def links(span: ReadableSpan) -> set[int]:
    """The ids of the spans that a span is linked to."""
    return {link.context.span_id for link in span.links}


class Memory:
    """The spans that have ended."""

    def __init__(self, sampler: Sampler = DEFAULT_SAMPLER) -> None:
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.traces = OtelTraces(provider)
        self.tracer = provider.get_tracer("a test")

    @property
    def spans(self) -> list[ReadableSpan]:
        """In the order in which they have begun."""
        return sorted(self.exporter.get_finished_spans(), key=lambda span: span.start_time)

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.spans if span.name == name]

    async def only(self, name: str) -> ReadableSpan:
        """The one span of this name, once it has ended."""
        await eventually(lambda: self.named(name), lambda: [span.name for span in self.spans])
        (found,) = self.named(name)
        return found

    def tree(self, trace_id: int) -> str:
        """The spans of a trace, a line each, each below what it is a part of."""
        spans = [span for span in self.spans if span.context.trace_id == trace_id]
        there = {span.context.span_id for span in spans}

        def lines(parent_id: int | None, depth: int) -> list[str]:
            found = []
            for span in spans:
                own = span.parent.span_id if span.parent and span.parent.span_id in there else None
                if own == parent_id:
                    found += ["  " * depth + span.name, *lines(span.context.span_id, depth + 1)]
            return found

        return "".join(f"{line}\n" for line in lines(None, 0))


@dataclass
class Traced:
    """A running service; `memory` has its spans."""

    memory: Memory
    channel: grpc.aio.Channel
    url: str
    service: Service

    def __post_init__(self) -> None:
        self.sessions: Any = session_service_pb2_grpc.SessionServiceStub(self.channel)
        self.messages: Any = message_service_pb2_grpc.MessageServiceStub(self.channel)
        self.agents: Any = agent_service_pb2_grpc.AgentServiceStub(self.channel)

    async def rest(self, method: str, path: str = "", **given: Any) -> requests.Response:
        """A request of REST, made beside the loop."""
        return await asyncio.to_thread(
            requests.request, method, f"{self.url}{path}", timeout=PATIENCE_SECONDS, **given
        )

    async def agent(self, kind: "agent_pb2.AgentKind.ValueType", **settings: Any) -> str:
        """Registers an agent."""
        wanted = agent_pb2.Agent(name="of a test", kind=kind, **settings)
        made = await self.agents.CreateAgent(agent_service_pb2.CreateAgentRequest(agent=wanted), timeout=10)
        return str(made.agent.agent_id)

    async def session(self, agent_id: str = ECHO) -> str:
        """Creates a session, of which no span is left."""
        request = session_service_pb2.CreateSessionRequest(agent_id=agent_id, user_id=USER)
        made = await self.sessions.CreateSession(request, timeout=10)
        created = await self.memory.only("eliza.sessions.v1.SessionService/CreateSession")
        await eventually(
            lambda: any(created.context.span_id in links(one) for one in self.memory.named(GROUP))
        )
        self.memory.exporter.clear()
        return str(made.session.session_id)

    async def say(
        self, session_id: str, headers: Mapping[str, str] | None = None, transport: str = "http"
    ) -> requests.Response:
        """Sends a message by REST."""
        body = {"content": "Hello!", "transport": transport}
        answer = await self.rest("POST", f"/{session_id}/messages", json=body, headers=headers)
        assert answer.status_code == 201, answer.text
        return answer


@asynccontextmanager
async def traced(
    directory: Path, memory: Memory | None = None, *, is_on: bool = True, **settings: Any
) -> AsyncIterator[Traced]:
    """A service, as long as the block lasts."""
    memory = memory or Memory()
    traces: Traces = memory.traces if is_on else NO_TRACES
    made = Settings(
        **{
            **store_fields(directory),
            "grpc_address": "127.0.0.1:0",
            "agent_allowed_hosts": "127.0.0.1",
            **settings,
        }
    )
    service = await Service.start(made, OFF, traces)
    listener = socket.create_server(("127.0.0.1", 0))
    observer = RequestObserver(OFF, traces)
    facade = Facade(Backend(service.open_channel, 30, 120), listener, max_requests=100, observer=observer)
    await facade.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/api/messaging/sessions"
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{service.port}") as channel:
            yield Traced(memory, channel, url, service)
    finally:
        await facade.stop(5)
        await service.stop(by_s=asyncio.get_running_loop().time() + 5)
