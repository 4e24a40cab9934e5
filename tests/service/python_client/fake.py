"""A service that answers as a test wants: it notes each call, and refuses or loses it."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc

from eliza.sessions.errors import TABLE, error_trailers
from eliza.sessions.v1 import (
    agent_service_pb2_grpc,
    message_service_pb2_grpc,
    session_service_pb2_grpc,
    user_data_service_pb2_grpc,
)


@dataclass
class Seen:
    """A call: its method, its request, and its metadata."""

    method: str
    request: Any
    metadata: dict[str, str]


Answer = Callable[[Seen, grpc.ServicerContext], Any]
"""What a call is answered with; a generator for a stream."""


@dataclass
class Fake:
    """The running service; `seen` has its calls."""

    address: str
    seen: list[Seen]


def refuse(context: grpc.ServicerContext, reason: str, **details: str) -> Any:
    """Fails a call as the real service does."""
    row = TABLE[reason]
    context.set_trailing_metadata(error_trailers(row, "no", details))
    context.abort(row.grpc_status, "no")


@contextmanager
def fake(answer: Answer, credentials: grpc.ServerCredentials | None = None) -> Iterator[Fake]:
    """Runs a service that answers every call by `answer`."""
    seen: list[Seen] = []

    class _Any:
        def __getattr__(self, method: str) -> Any:
            def call(request: Any, context: grpc.ServicerContext) -> Any:
                seen.append(Seen(method, request, dict(context.invocation_metadata())))
                return answer(seen[-1], context)

            return call

    server = grpc.server(ThreadPoolExecutor(8))
    for grpc_module, service in (
        (session_service_pb2_grpc, "SessionService"),
        (message_service_pb2_grpc, "MessageService"),
        (agent_service_pb2_grpc, "AgentService"),
        (user_data_service_pb2_grpc, "UserDataService"),
    ):
        getattr(grpc_module, f"add_{service}Servicer_to_server")(_Any(), server)
    if credentials:
        port = server.add_secure_port("127.0.0.1:0", credentials)
    else:
        port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield Fake(f"127.0.0.1:{port}", seen)
    finally:
        server.stop(None).wait()
