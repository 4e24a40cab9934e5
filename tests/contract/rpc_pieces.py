"""A piece of bad input over gRPC: the bytes of a request, and what must come of it."""

from dataclasses import dataclass
from typing import Final

from google.protobuf.message import Message

from eliza.sessions.v1 import admin_service_pb2 as admin
from eliza.sessions.v1 import agent_service_pb2 as agents
from eliza.sessions.v1 import clock_service_pb2 as clock
from eliza.sessions.v1 import message_service_pb2 as messages
from eliza.sessions.v1 import session_service_pb2 as sessions
from eliza.sessions.v1 import user_data_service_pb2 as user_data

STREAM: Final = "55555555-5555-4555-8555-555555555555"
"""An agent of the kind `stream`.

In pieces of Connect and Reply SID stands for a session with it, whose user has said one thing.
"""

REFUSED: Final = "refused"
"""gRPC itself refuses it, before our code: no ErrorInfo."""

NAN, INFINITY = float("nan"), float("inf")
NUMBERS = {
    "NaN": NAN,
    "negative NaN": -NAN,
    "infinity": INFINITY,
    "minus infinity": -INFINITY,
    "huge": 1e308,
    "minus huge": -1e308,
    "tiny": 5e-324,
    "minus zero": -0.0,
}
SERVICES = {
    "SessionService": sessions,
    "MessageService": messages,
    "AgentService": agents,
    "ClockService": clock,
    "UserDataService": user_data,
    "AdminService": admin,
}


@dataclass(frozen=True)
class BadRpc:
    """A piece: method, bytes, and the reason (or the reasons, of which one) of its error, or FINE, ANY or
    REFUSED.

    `more` are further requests of a stream.
    """

    name: str
    method: str
    request: bytes
    outcome: str
    more: tuple[bytes, ...] = ()


def paths() -> dict[str, str]:
    """The path of every RPC by its name."""
    return {
        method.name: f"/{service.full_name}/{method.name}"
        for module in SERVICES.values()
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }


PATHS = paths()


def bad_rpc(name: str, rpc: str, request: Message | bytes, outcome: str, *more: Message | bytes) -> BadRpc:
    first, *rest = (
        each if isinstance(each, bytes) else each.SerializeToString(deterministic=True)
        for each in (request, *more)
    )
    return BadRpc(f"{rpc}: {name}", PATHS[rpc], first, outcome, tuple(rest))


def struct_bytes(depth: int) -> bytes:
    """A Struct of so many levels, put together by hand: the library would refuse to read it."""
    content = b""
    for _ in range(depth):
        value = b"\x2a" + varint(len(content)) + content
        entry = b"\x0a\x01k\x12" + varint(len(value)) + value
        content = b"\x0a" + varint(len(entry)) + entry
    return content


def varint(number: int) -> bytes:
    result = bytearray()
    while number > 127:
        result.append(number & 127 | 128)
        number >>= 7
    return bytes([*result, number])
