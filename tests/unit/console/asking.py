"""The console in front of a server that answers as a test wants it."""

from collections.abc import Callable
from functools import partial
from typing import Any
from unittest.mock import Mock

import grpc.aio
from flask.testing import FlaskClient

from eliza.sessions.errors import TABLE, error_trailers
from rest_facade.console.blueprint import Console
from rest_facade.routes.app import create_app
from rest_facade.shapes.credentials import METADATA
from rest_facade.upstream.backend import Backend, dial

Answer = Callable[[Any, Any], Any]


class Told(Backend):
    """The way to a server: `answer` gets each request with the metadata of its call."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(partial(dial, "127.0.0.1:1"), 1, 1)
        self.sessions = self.admin = self.agents = self.messages = Mock()
        self._answer = answer

    def call(self, _method: Any, request: Any, metadata: Any) -> Any:
        return self._answer(request, metadata)


class Asker:
    """Asks the console as an HTTP client does whose requests carry this metadata."""

    def __init__(
        self,
        answer: Answer,
        *,
        is_on: bool = True,
        metadata: tuple[Any, ...] = (),
        make_backend: Callable[[Answer], Told] = Told,
    ) -> None:
        backend = make_backend(answer)
        app = create_app(backend)
        self.console = Console(backend, is_on=is_on)
        self.console.add_routes(app)
        self._client: FlaskClient = app.test_client()
        self._metadata = metadata

    def __call__(self, path: str, method: str = "GET", *, json: Any = None, **headers: str) -> Any:
        told = {name.replace("_", "-"): value for name, value in headers.items()}
        return self._client.open(
            path, method=method, json=json, headers=told, environ_overrides={METADATA: self._metadata}
        )


def refusal(reason: str, message: str, details: dict[str, str] | None = None) -> grpc.aio.AioRpcError:
    """The error of a call that the server refuses."""
    row = TABLE[reason]
    trailers = grpc.aio.Metadata(*error_trailers(row, message, details or {}))
    return grpc.aio.AioRpcError(row.grpc_status, grpc.aio.Metadata(), trailers, message)


def refuse(reason: str, message: str = "No", details: dict[str, str] | None = None) -> Answer:
    """Answers each call with a refusal."""

    def answer(_request: Any, _metadata: Any) -> Any:
        raise refusal(reason, message, details)

    return answer
