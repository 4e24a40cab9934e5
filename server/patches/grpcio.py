"""grpc.aio's server with two fixes for grpcio 1.85.

A call whose path is not UTF-8 no longer stops it. One task per method takes in calls instead of one task per
call (10 % faster).
"""

import asyncio
import weakref
from collections.abc import Coroutine, Mapping
from typing import Any, Final, TypeAlias

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
"""The error of gRPC, which it also logs, for an answer whose client has gone."""

SLOW_SECONDS: Final = 1.0
"""How long a request may take to come before its call is among those of which there may be few."""

MAX_SLOW_REQUESTS: Final = 8
"""How many calls may wait for longer for their requests: 32 MiB, as large requests under way have."""

REQUEST_SECONDS: Final = 60.0
"""How long a request may take at all."""

_NO_METHODS: Final[Mapping[str, Any]] = {}

_Keeping: TypeAlias = "list[weakref.ref[asyncio.Task[None]]]"
"""The task that gRPC's core keeps for a call. Weak, because that task keeps the one that serves the call."""

_served: Final[dict[asyncio.Task[Any], "tuple[Incoming, _Keeping]"]] = {}
"""By the task that serves it, each call under way."""

log = structlog.get_logger()


def call_tasks(task: asyncio.Task[Any]) -> list[asyncio.Task[Any]]:
    """Returns the tasks whose cancellation ends the call that a task serves, even while the core waits.

    gRPC has no public way to end a call at once: a status would wait behind the unread answer.
    """
    _, keeping = _served.get(task, (None, ()))
    return [task, *filter(None, (one() for one in keeping))]


class Incoming:
    """Calls whose requests are not complete. gRPC's core takes up to 4 MiB of each, and waits for ever."""

    def __init__(self) -> None:
        # By the serving task, in the order of their beginnings: the time.
        self._waiting: dict[asyncio.Task[Any], float] = {}
        self._is_looking = False

    async def receive(self, call: Coroutine[Any, Any, None], keeping: _Keeping) -> None:
        """Serves a call, whose request is waited for until `note_request`."""
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None
        _served[task], self._waiting[task] = (self, keeping), loop.time()
        if not self._is_looking:
            self._is_looking = True
            loop.call_later(SLOW_SECONDS, self._look)
        try:
            await call
        finally:
            del _served[task]
            self.end(task)
            # The task keeps this frame.
            del task

    def end(self, task: asyncio.Task[Any] | None) -> None:
        """The request of the call that a task serves is waited for no longer."""
        self._waiting.pop(task, None)  # type: ignore[arg-type] # None is none of them

    def _look(self) -> None:
        """Ends calls that have waited too long, and the oldest where too many have waited for long."""
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        slow = [task for task, since_s in self._waiting.items() if now_s - since_s > SLOW_SECONDS]
        late = [task for task in slow if now_s - self._waiting[task] > REQUEST_SECONDS]
        ended = slow[: max(len(late), len(slow) - MAX_SLOW_REQUESTS)]
        for task in ended:
            self.end(task)
            for one in call_tasks(task):
                one.cancel()
        if ended:
            log.info("ended calls whose requests did not come", calls=len(ended))
        self._is_looking = bool(self._waiting)
        if self._is_looking:
            loop.call_later(SLOW_SECONDS, self._look)


def note_request() -> None:
    """Notes that the request of the call that is served here is complete, or read by its servicer."""
    task = asyncio.current_task()
    if served := _served.get(task):  # type: ignore[arg-type] # None is none of them
        served[0].end(task)


def build_server(**arguments: Any) -> grpc.aio.Server:
    """grpc.aio.server(…) with the fixes; without them, and a warning, where a private name is gone."""
    if gone := missing_names():
        log.warning(
            "this version of grpcio cannot be fixed: a call whose path is not UTF-8 stops it",
            grpcio=grpc.__version__,
            gone=gone,
        )
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
    """Makes the class, only where the names that it uses exist."""

    class FixedServer(cygrpc.AioServer):  # type: ignore[misc]
        """Takes in the calls of each method in a task of its own until the server stops. Then raises gRPC's
        error.
        """

        def __init__(
            self, loop: Any, thread_pool: Any, generic_handlers: Any, interceptors: Any, *others: Any
        ) -> None:
            super().__init__(loop, thread_pool, generic_handlers, interceptors, *others)
            # The base keeps these, too, but where Python cannot see them.
            self._its_interceptors = tuple(interceptors or ())
            self._its_handlers: dict[str, Any] = {}
            # The loop itself holds tasks weakly.
            self._its_calls: set[asyncio.Task[None]] = set()
            self._its_incoming = Incoming()

        def add_registered_method_handlers(self, method_handlers: dict[str, Any]) -> None:
            super().add_registered_method_handlers(method_handlers)
            self._its_handlers.update(method_handlers)

        def _make_request_call_future(self, method: bytes | None) -> asyncio.Future[None]:
            if method is None:
                # The path is none of a method, and is not looked at: UNIMPLEMENTED.
                taking = self._take_in(self._request_call, "", _NO_METHODS, ())
            else:
                taking = self._take_in(
                    lambda: self._request_registered_call(method),
                    method.decode(),
                    self._its_handlers,
                    self._its_interceptors,
                )
            return asyncio.ensure_future(taking)

        async def _take_in(
            self, requested: Any, name: str, handlers: Mapping[str, Any], interceptors: tuple[Any, ...]
        ) -> None:
            resolver = cygrpc._MethodResolver([], handlers)
            loop = asyncio.get_running_loop()
            while True:
                state = await requested()
                call = cygrpc._handle_rpc(name, resolver, interceptors, state, loop, False)
                keeping: _Keeping = []
                received = self._its_incoming.receive(call, keeping)
                task = loop.create_task(cygrpc._schedule_rpc_coro(received, state, loop, name))
                keeping.append(weakref.ref(task))
                self._its_calls.add(task)
                task.add_done_callback(self._its_calls.discard)
                # When the state of a call is freed, the core cancels the rest of it.
                del state, call, received, keeping, task

    return FixedServer
