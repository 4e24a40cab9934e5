"""gRPC's server, as long as it takes: its own ends for good at one call whose path is not UTF-8 (grpcio 1.85.1)."""

import asyncio
from typing import Any

import grpc
from grpc._cython import cygrpc  # type: ignore[attr-defined]


class _Lasting(cygrpc.AioServer):  # type: ignore[misc]
    """gRPC's own server ends for good at a call whose path is not UTF-8. Here it never sees a path that is not one of a method."""

    def _make_request_call_future(self, method: bytes | None) -> Any:
        return super()._make_request_call_future(method) if method else asyncio.ensure_future(self._refuse_unknown())

    async def _refuse_unknown(self) -> None:
        """Answers calls to no method with UNIMPLEMENTED, until the server stops; then it raises what gRPC raises."""
        resolver = cygrpc._MethodResolver([], {})
        loop = asyncio.get_running_loop()
        tasks = set()
        while True:
            state = await self._request_call()
            call = cygrpc._handle_rpc("", resolver, (), state, loop, False)
            task = loop.create_task(cygrpc._schedule_rpc_coro(call, state, loop, ""))
            tasks.add(task)
            task.add_done_callback(tasks.discard)


def server(**arguments: Any) -> grpc.aio.Server:
    """grpc.aio.server(…), which lasts. gRPC has no public way to say which class it is to build on."""
    original, cygrpc.AioServer = cygrpc.AioServer, _Lasting
    try:
        return grpc.aio.server(**arguments)
    finally:
        cygrpc.AioServer = original
