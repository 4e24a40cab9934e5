"""The private names of grpcio 1.85 that the facade uses.

Its own `write` ends a call with INTERNAL where the server has just ended it, whatever with. No
public interface sends a request and keeps that status.
"""

import asyncio
from contextlib import suppress
from typing import Any, Final

import grpc.aio
from grpc._cython import cygrpc  # type: ignore[attr-defined] # a module without types

PRIVATE_NAMES: Final = ("_cython_call", "_request_serializer")
"""Names of a stream of requests that this package uses."""

STATUS_SECONDS: Final = 1.0
"""How long to wait for the status of a call that takes no more requests: it is on its way."""


async def write(call: "grpc.aio.StreamStreamCall[Any, Any]", request: Any) -> None:
    """Sends a request. Raises InvalidStateError, or AioRpcError, where the call is over."""
    if not all(hasattr(call, name) for name in PRIVATE_NAMES):
        # A call within the process has none of this.
        await call.write(request)
        return
    await call.wait_for_connection()
    content = call._request_serializer(request)  # type: ignore[attr-defined]
    try:
        await call._cython_call.send_serialized_message(content)  # type: ignore[attr-defined]
    except cygrpc.InternalError as error:
        with suppress(TimeoutError):
            async with asyncio.timeout(STATUS_SECONDS):
                await call.code()
        if not call.done():
            call._cython_call.set_internal_error(str(error))  # type: ignore[attr-defined]
        raise asyncio.InvalidStateError("the call is over") from None
