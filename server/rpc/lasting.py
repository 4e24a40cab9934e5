"""gRPC's server, as long as it takes and a tenth faster: its own ends for good at one call whose path is not UTF-8 (grpcio 1.85.1), and
waits for the next call of every method anew whenever one has come.
"""

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import grpc
from grpc._cython import cygrpc  # type: ignore[attr-defined]

_NO_METHODS: Final[Mapping[str, Any]] = {}


class _Lasting(cygrpc.AioServer):  # type: ignore[misc]
    """Takes in the calls of each method in a task of its own, until the server stops; it then ends with what gRPC raises."""

    def __init__(self, loop: Any, thread_pool: Any, generic_handlers: Any, interceptors: Any, *others: Any) -> None:
        super().__init__(loop, thread_pool, generic_handlers, interceptors, *others)
        # The base keeps these, too, but where Python cannot see them.
        self._its_interceptors = tuple(interceptors or ())
        self._its_handlers: dict[str, Any] = {}
        # The loop itself holds tasks weakly.
        self._its_calls: set[asyncio.Task[None]] = set()

    def add_registered_method_handlers(self, method_handlers: dict[str, Any]) -> None:
        super().add_registered_method_handlers(method_handlers)
        self._its_handlers.update(method_handlers)

    def _make_request_call_future(self, method: bytes | None) -> asyncio.Future[None]:
        if method is None:
            # The path is none of a method, and is not looked at: UNIMPLEMENTED.
            taking = self._take_in(self._request_call, "", _NO_METHODS, ())
        else:
            taking = self._take_in(
                lambda: self._request_registered_call(method), method.decode(), self._its_handlers, self._its_interceptors
            )
        return asyncio.ensure_future(taking)

    async def _take_in(self, requested: Any, name: str, handlers: Mapping[str, Any], interceptors: tuple[Any, ...]) -> None:
        resolver = cygrpc._MethodResolver([], handlers)
        loop = asyncio.get_running_loop()
        while True:
            state = await requested()
            call = cygrpc._handle_rpc(name, resolver, interceptors, state, loop, False)
            task = loop.create_task(cygrpc._schedule_rpc_coro(call, state, loop, name))
            self._its_calls.add(task)
            task.add_done_callback(self._its_calls.discard)


def server(**arguments: Any) -> grpc.aio.Server:
    """grpc.aio.server(…), which lasts. gRPC has no public way to say which class it is to build on."""
    original, cygrpc.AioServer = cygrpc.AioServer, _Lasting
    try:
        return grpc.aio.server(**arguments)
    finally:
        cygrpc.AioServer = original
