"""grpc.aio's server with two fixes for grpcio 1.85: a call whose path is not UTF-8 no longer stops it, and one task per method takes in
calls instead of one per call (10 % faster).
"""

import asyncio
import weakref
from collections.abc import Mapping
from contextvars import ContextVar, copy_context
from typing import Any, Final

import grpc
import structlog
from grpc._cython import cygrpc  # type: ignore[attr-defined]

PRIVATE_NAMES: Final = (
    "AioServer.add_registered_method_handlers",
    "AioServer._make_request_call_future",
    "AioServer._request_call",
    "AioServer._request_registered_call",
    "_MethodResolver",
    "_handle_rpc",
    "_schedule_rpc_coro",
)
"""Names of `grpc._cython.cygrpc` that the fixes use."""

LOST_CLIENT_ERROR: Final[type[BaseException]] = getattr(cygrpc, "ExecuteBatchError", ConnectionError)
"""What gRPC raises, and logs, for an answer whose client has gone."""

_NO_METHODS: Final[Mapping[str, Any]] = {}

_call_task: ContextVar["weakref.ref[asyncio.Task[None]] | None"] = ContextVar("_call_task", default=None)
"""The task that keeps a call of gRPC's core, for those that serve it. Weak, because the task itself keeps this."""

log = structlog.get_logger()


def call_tasks() -> list[asyncio.Task[Any]]:
    """The tasks that are to be cancelled to end the call that is served here, even while the core waits for its client.

    gRPC has no public way to end one at once: a status would wait behind what its client does not read.
    """
    task = asyncio.current_task()
    assert task is not None
    outer = _call_task.get()
    keeping = outer() if outer else None
    return [task, *([keeping] if keeping else [])]


def build_server(**arguments: Any) -> grpc.aio.Server:
    """grpc.aio.server(…) with the fixes; without them, and a warning, where a private name is gone."""
    if gone := missing_names():
        log.warning("this version of grpcio cannot be fixed: a call whose path is not UTF-8 stops it", grpcio=grpc.__version__, gone=gone)
        return grpc.aio.server(**arguments)
    fixed = _fixed_server()
    # gRPC has no public way to say which class it is to build on.
    original, cygrpc.AioServer = cygrpc.AioServer, fixed
    try:
        return grpc.aio.server(**arguments)
    finally:
        cygrpc.AioServer = original


def missing_names() -> list[str]:
    """Those of the private names that this version of grpcio does not have."""
    return [name for name in PRIVATE_NAMES if not _has(cygrpc, name)]


def _has(owner: Any, path: str) -> bool:
    head, _, rest = path.partition(".")
    return hasattr(owner, head) and (not rest or _has(getattr(owner, head), rest))


def _fixed_server() -> Any:
    """The class, made only where its base and what it calls are there."""

    class FixedServer(cygrpc.AioServer):  # type: ignore[misc]
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
                context = copy_context()
                task = loop.create_task(cygrpc._schedule_rpc_coro(call, state, loop, name), context=context)
                context.run(_call_task.set, weakref.ref(task))
                self._its_calls.add(task)
                task.add_done_callback(self._its_calls.discard)
                # Nothing of a call outlives it: when its state is let go, the core cancels what is left of it.
                del state, call, context, task

    return FixedServer
