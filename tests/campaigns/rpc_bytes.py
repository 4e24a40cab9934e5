"""Requests as bytes that nobody should send: random messages of every kind, mutated, on every method of every
service.
"""

import asyncio
import random
import struct
import uuid
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

import grpc
import grpc.aio
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.descriptor_pool import Default
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from eliza.sessions.errors import DOMAIN, error_info
from eliza.sessions.v1 import (
    agent_pb2,
    agent_service_pb2,
    clock_service_pb2,
    message_service_pb2,
    session_service_pb2,
)
from tests.support.service import ECHO, Serve
from tests.support.waiting import PATIENCE_SECONDS

CONCURRENCY: Final = 48
_WATCH_SECONDS: Final = 0.1
"""How long a stream is listened to: some would go on for ever."""
_BATCH: Final = 2000
_RENEWED_SESSIONS: Final = 8

MODULES: Final = (
    session_service_pb2,
    message_service_pb2,
    agent_service_pb2,
    clock_service_pb2,
    health_pb2,
    reflection_pb2,
)

METHODS: Final[dict[str, MethodDescriptor]] = {
    f"/{service.full_name}/{method.name}": method
    for module in MODULES
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
"""Every method by its path."""

_FORBIDDEN: Final = (
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.DATA_LOSS,
    # Nothing is down, and nothing is overloaded.
    grpc.StatusCode.UNAVAILABLE,
)
_WITHOUT_INFO: Final = (
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.UNIMPLEMENTED,
)
"""What a client, or gRPC itself, may say without an ErrorInfo."""

_REFUSED_WHILE_WRITING: Final = "Internal error from Core"
"""What the client's own library says when the server has answered before all was written."""

_INTEGERS: Final = (
    0,
    1,
    -1,
    2,
    100,
    1000,
    2**31 - 1,
    -(2**31),
    2**32 - 1,
    2**53,
    2**63 - 1,
    -(2**63),
    2**64 - 1,
)
_DOUBLES: Final = (
    0.0,
    -0.0,
    1.0,
    5.0,
    30.0,
    1440.0,
    0.1,
    5e-324,
    1e308,
    -1e308,
    float("inf"),
    float("-inf"),
    float("nan"),
    2.0**63,
)
_SECONDS: Final = (
    0,
    1,
    -1,
    1_700_000_000,
    253_402_300_799,
    253_402_300_800,
    -62_135_596_800,
    -62_135_596_801,
    2**63 - 1,
    -(2**63),
)
_NANOS: Final = (0, 1, 999_999, 1_000_000, 999_999_999, 1_000_000_000, -1, 2**31 - 1, -(2**31))
_TEXTS: Final = (
    "", " ", "a", "\0", "content", "ünïcödé", "😀" * 10, "x" * 128, "x" * 129, "x" * 4000, "x" * 4001, "{}", "null", "../..", "%00",
    "'; DROP TABLE",
    "\u202e", "﷽", "\ufffe", "e\u0301", "00000000-0000-0000-0000-000000000000", "AGENT_SECRET_X", "timeout_config", "name", "*", "a.b.c", "http://127.0.0.1:9/",
)  # fmt: skip


class Bytes:
    """Makes requests, of a seed. `ids` are names that are really there."""

    def __init__(self, run_seed: int) -> None:
        self._random = random.Random(run_seed)
        self._types = [method.input_type for method in METHODS.values()]
        self.ids: dict[str, list[str]] = {}

    def requests(self, method: MethodDescriptor) -> list[bytes]:
        """What is sent in one call."""
        count = self._random.choice((0, 1, 1, 2, 5)) if method.client_streaming else 1
        return [self._request(method) for _ in range(count)]

    def path(self, paths: list[str]) -> str:
        """The method of a call."""
        return self._random.choice(paths)

    def _request(self, method: MethodDescriptor) -> bytes:
        kind = self._random.choice(self._types) if self._random.random() < 0.08 else method.input_type
        raw = self._message(kind).SerializePartialToString()
        if b"http" in raw:
            # A mutation could turn loopback into somebody else's address.
            return raw
        for _ in range(self._random.choice((0, 0, 1, 1, 2, 4))):
            raw = self._mutated(raw)
        return raw

    def _message(self, kind: Any, depth: int = 0) -> Message:
        message = GetMessageClass(kind)()
        if kind.full_name == "google.protobuf.Timestamp":
            message.seconds, message.nanos = self._random.choice(_SECONDS), self._random.choice(_NANOS)
        elif kind.full_name in ("google.protobuf.Struct", "google.protobuf.ListValue"):
            message.MergeFrom(self._json(kind.name))
        else:
            for field in kind.fields:
                if depth < 4 and self._random.random() < 0.7:
                    self._fill(message, field, depth)
        return message

    def _fill(self, message: Any, field: FieldDescriptor, depth: int) -> None:
        if field.is_repeated:
            if field.message_type and field.message_type.GetOptions().map_entry:
                return
            for _ in range(self._random.choice((0, 1, 1, 3, 150 if not depth else 3))):
                item = (
                    self._message(field.message_type, depth + 1)
                    if field.message_type
                    else self._scalar(field)
                )
                getattr(message, field.name).append(item)
        elif field.message_type:
            getattr(message, field.name).CopyFrom(self._message(field.message_type, depth + 1))
        else:
            setattr(message, field.name, self._scalar(field))

    def _scalar(self, field: FieldDescriptor) -> Any:
        match field.cpp_type:
            case FieldDescriptor.CPPTYPE_STRING:
                if field.type == FieldDescriptor.TYPE_BYTES:
                    return self._random.randbytes(self._random.choice((0, 1, 30)))
                there = self.ids.get(field.name)
                return self._random.choice(there if there and self._random.random() < 0.7 else _TEXTS)
            case FieldDescriptor.CPPTYPE_DOUBLE | FieldDescriptor.CPPTYPE_FLOAT:
                return self._random.choice(_DOUBLES)
            case FieldDescriptor.CPPTYPE_BOOL:
                return self._random.random() < 0.5
            case FieldDescriptor.CPPTYPE_ENUM:
                return self._random.choice((*field.enum_type.values_by_number, 999, -1))
            case FieldDescriptor.CPPTYPE_INT32:
                return self._random.choice([value for value in _INTEGERS if -(2**31) <= value < 2**31])
            case FieldDescriptor.CPPTYPE_UINT32:
                return self._random.choice([value for value in _INTEGERS if 0 <= value < 2**32])
            case FieldDescriptor.CPPTYPE_INT64:
                return self._random.choice([value for value in _INTEGERS if -(2**63) <= value < 2**63])
            case _:
                return self._random.choice([value for value in _INTEGERS if value >= 0])

    def _json(self, name: str) -> Message:
        """A Struct or a ListValue: small, wide or deep; with values that JSON does not have.

        Too deep is a mutation: no message can hold it.
        """
        depth = self._random.choice((1, 1, 2, 3, 25))
        value = self._value(depth)
        field = "list_value" if name == "ListValue" else "struct_value"
        pool = Default()
        message = GetMessageClass(pool.FindMessageTypeByName(f"google.protobuf.{name}"))()
        if value.WhichOneof("kind") == field:
            message.CopyFrom(getattr(value, field))
        return message

    def _value(self, depth: int) -> Any:
        value = GetMessageClass(Default().FindMessageTypeByName("google.protobuf.Value"))()
        if depth:
            width = self._random.choice((1, 1, 2)) if depth > 1 else self._random.choice((0, 1, 5, 5, 5, 200))
            # One branch is deep, so that the whole does not explode.
            items = [self._value(depth - 1 if not number else min(1, depth - 1)) for number in range(width)]
            if self._random.random() < 0.5:
                value.list_value.SetInParent()
                value.list_value.values.extend(items)
            else:
                value.struct_value.SetInParent()
                for number, item in enumerate(items):
                    value.struct_value.fields[f"{self._random.choice(_TEXTS)[:20]}{number}"].CopyFrom(item)
            return value
        match self._random.randrange(5):
            case 0:
                value.null_value = 0
            case 1:
                value.bool_value = True
            case 2:
                value.number_value = self._random.choice(_DOUBLES)
            case 3:
                value.string_value = self._random.choice(_TEXTS)
        return value

    def _mutated(self, raw: bytes) -> bytes:
        rng, content = self._random, bytearray(raw)
        at, end = sorted((rng.randint(0, len(raw)), rng.randint(0, len(raw))))
        match rng.randrange(13):
            case 0 if content:
                content[at % len(content)] ^= 1 << rng.randrange(8)
            case 1:
                del content[at:]
            case 2:
                content[at:at] = rng.randbytes(rng.choice((1, 4, 30)))
            case 3:
                del content[at:end]
            case 4:
                content[at:at] = content[at:end][:100_000]
            case 5:
                content[at:end] = b"\xff\xfe\xed\xa0\x80"[: max(1, end - at)]
            case 6:
                content = bytearray(rng.randbytes(rng.choice((1, 20, 500))))
            case 7:
                # A field that says it is longer than all there is, up to 2**63.
                content += bytes([rng.randrange(1, 16) << 3 | 2]) + rng.choice(
                    (b"\x7f", b"\xff\xff\xff\xff\x0f", b"\xff" * 8 + b"\x7f", b"\xff" * 10)
                )
            case 8:
                content += b"\xc0\x3e\x05\xc1\x3e12345678\xc2\x3e\x03abc\xc5\x3e1234"
            case 9:
                content += rng.choice((b"\x0b" * 150, b"\x0b\x0c", b"\x0e\x00", b"\x00\x00"))
            case 10 if rng.random() < 0.05:
                size = rng.choice((100_000, 3_000_000, 17_000_000))
                content += bytes([rng.randrange(1, 16) << 3 | 2]) + _varint(size) + b"x" * size
            case 11:
                number = rng.choice(
                    (struct.pack("<d", float("nan")), struct.pack("<d", float("inf")), b"\xff" * 8)
                )
                content += bytes([rng.randrange(1, 16) << 3 | 1]) + number
            case 12:
                content += _tagged(
                    rng.choice((2, 3, 3, 4, 8)), _deep(rng.choice((28, 29, 30, 31, 32, 33, 34, 100, 3000)))
                )
        return bytes(content)


def _varint(value: int) -> bytes:
    content = bytearray()
    while value > 0x7F:
        content.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*content, value))


def _tagged(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _deep(levels: int) -> bytes:
    """A Struct in a Struct in a Struct."""
    content = b""
    for _ in range(levels):
        content = _tagged(1, _tagged(1, b"k") + _tagged(2, _tagged(5, content)))
    return content


class RpcBytes:
    """A run against a service. What it finds is in `problems`."""

    def __init__(self, service: Serve, run_seed: int) -> None:
        self._service = service
        self._bytes = Bytes(run_seed)
        self._seed = run_seed
        self.statuses: Counter[str] = Counter()
        self.problems: list[str] = []
        self.calls = 0

    def run(self, calls: int) -> None:
        """Makes so many calls, on the methods in turn at random."""
        asyncio.run(self._run(calls))

    async def _run(self, calls: int) -> None:
        options = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
        channels = [grpc.aio.insecure_channel(self._service.grpc, options) for _ in range(4)]
        paths = list(METHODS)
        done = 0
        while done < calls:
            await asyncio.to_thread(self._renew)
            count = min(_BATCH, calls - done)
            # All that is random is drawn here, in one order, so that a seed gives the same requests whatever
            # the timing.
            todo = []
            for _ in range(count):
                path = self._bytes.path(paths)
                todo.append((path, self._bytes.requests(METHODS[path])))
            waiting = iter(todo)
            await asyncio.gather(
                *(self._drive(channels[number % len(channels)], waiting) for number in range(CONCURRENCY))
            )
            done += count
        for channel in channels:
            await channel.close()

    def _renew(self) -> None:
        """Sessions and agents that are there, for requests to name: others may have been deleted.

        Their ids are of the seed too.
        """
        rng = random.Random(self._seed)
        agents = [str(_uuid(rng)) for _ in range(3)]
        for agent_id in agents:
            agent = agent_pb2.Agent(
                agent_id=agent_id,
                name="there",
                kind=rng.choice((agent_pb2.AGENT_KIND_ECHO, agent_pb2.AGENT_KIND_STREAM)),
            )
            with _unless(grpc.StatusCode.ALREADY_EXISTS):
                self._service.agents.CreateAgent(
                    agent_service_pb2.CreateAgentRequest(agent=agent), timeout=PATIENCE_SECONDS
                )
        sessions = []
        user = str(_uuid(rng))
        for number in range(_RENEWED_SESSIONS):
            request = session_service_pb2.CreateSessionRequest(
                agent_id=agents[number % len(agents)], user_id=user
            )
            answer = self._service.sessions.CreateSession(request, timeout=PATIENCE_SECONDS)
            sessions.append(answer.session.session_id)
        self._bytes.ids = {
            "session_id": sessions,
            "channel_id": sessions,
            "agent_id": [*agents, ECHO, str(_uuid(rng))],
            "user_id": [user, str(_uuid(rng))],
            "request_id": ["a", "b"],
            "content": ["Hello"],
            "name": ["name"],
            "service": ["", "eliza.sessions.v1.SessionService"],
            "delivery_id": [f"{sessions[0]}-1"],
        }

    async def _drive(self, channel: grpc.aio.Channel, waiting: Iterator[tuple[str, list[bytes]]]) -> None:
        for path, requests in waiting:
            await self._call(channel, path, requests)

    async def _call(self, channel: grpc.aio.Channel, path: str, requests: list[bytes]) -> None:
        """Makes one call, with bytes as they are."""
        method = METHODS[path]
        listens = _WATCH_SECONDS if method.server_streaming else PATIENCE_SECONDS
        # An answer that is one message is a short stream on the wire.
        call: Any = (
            channel.stream_stream(path)(_each(requests), timeout=PATIENCE_SECONDS)
            if method.client_streaming
            else channel.unary_stream(path)(requests[0], timeout=PATIENCE_SECONDS)
        )
        self.calls += 1
        try:
            async with asyncio.timeout(listens):
                async for _ in call:
                    pass
            status = "OK"
        except TimeoutError:
            call.cancel()
            status = "listened enough"
            if not method.server_streaming:
                self._problem(path, requests, f"no answer within {PATIENCE_SECONDS} s")
        except grpc.aio.AioRpcError as error:
            status = error.code().name
            info = error_info(error)
            if error.details() == _REFUSED_WHILE_WRITING and method.client_streaming:
                status = "refused while writing"
            elif error.code() in _FORBIDDEN:
                self._problem(path, requests, f"{error.code().name}: {error.details()}")
            elif (
                path.startswith(f"/{DOMAIN}.")
                and info is None
                and error.code() not in _WITHOUT_INFO
                and not (
                    error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and max(map(len, requests)) > 2**22
                )
            ):
                self._problem(path, requests, f"{error.code().name} without an ErrorInfo: {error.details()}")
        self.statuses[status] += 1

    def _problem(self, path: str, requests: list[bytes], what: str) -> None:
        sent = " ".join(request[:200].hex() for request in requests)
        self.problems.append(f"{path}: {what[:300]}; call {self.calls}, sent {sent}")


class _unless:  # noqa: N801 - reads as words
    """Suppresses an error of this status."""

    def __init__(self, code: grpc.StatusCode) -> None:
        self._code = code

    def __enter__(self) -> None: ...

    def __exit__(self, _: object, error: BaseException | None, __: object) -> bool:
        return isinstance(error, grpc.RpcError) and error.code() is self._code


async def _each(requests: list[bytes]) -> Any:
    for request in requests:
        yield request


def _uuid(rng: random.Random) -> uuid.UUID:
    return uuid.UUID(int=rng.getrandbits(128), version=4)
