"""Reads the bytes of requests, also those of agents that protobuf refuses: one bad text must not end a
stream.

JavaScript cuts strings between the halves of a UTF-16 surrogate pair, and its protobuf writers encode a half
as three bytes, which protobuf refuses as not UTF-8. So each message of agents has a twin, the same on the
wire, with bytes for texts.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeAlias

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message

from eliza.sessions.errors import DOMAIN
from eliza.sessions.limits import MAX_DEPTH, MAX_METADATA_BYTES
from eliza.sessions.v1 import agent_service_pb2 as pb
from eliza.sessions.v1.message_service_pb2 import ConverseRequest, SendMessageRequest
from eliza.sessions.v1.session_service_pb2 import CreateSessionRequest
from server.domain.agent_text import clean
from server.domain.errors import DomainError, InvalidContentError, InvalidMetadataError, InvalidRequestError

Parse = Callable[[bytes], Message]

MAX_RECEIVED_BYTES: Final = 4 * 1024 * 1024
"""The bound of gRPC's core, and so how much a call makes the server hold before Python sees it.

The core ends a stream at more. Below it, a reply that is too large is refused and the stream goes on.
"""

MAX_REQUEST_BYTES: Final = 64 * 1024
"""How large most requests are at most: room for the wordiest Struct of the largest metadata."""

MAX_AGENT_BYTES: Final = 256 * 1024
"""An agent: its prompt has up to 128 KiB."""

MAX_MESSAGE_BYTES: Final = 3 * 1024 * 1024
"""A message with the largest attachments: 2 MiB of JSON. A Struct adds some 20 bytes a value."""

MAX_REPLY_BYTES: Final = 15 * 256 * 1024
"""The same from an agent, whose content, thought and actions are longer."""

MAX_PARTS: Final = 32_768
"""How many messages and texts a request may have. A value of attachments or metadata is up to four.

An empty one is two bytes here and a hundred once parsed, so large requests are counted first.
"""

MAX_FIELDS: Final = 2 * MAX_PARTS
"""Of how many fields in all, numbers included: to count them takes time, too."""

_LARGE: Final[Mapping[str, tuple[int, type[Message]]]] = {
    # Its metadata is small, but REST takes bodies of 2 MiB and reports their errors by field.
    f"/{DOMAIN}.SessionService/CreateSession": (MAX_MESSAGE_BYTES, CreateSessionRequest),
    f"/{DOMAIN}.MessageService/SendMessage": (MAX_MESSAGE_BYTES, SendMessageRequest),
    f"/{DOMAIN}.MessageService/Converse": (MAX_MESSAGE_BYTES, ConverseRequest),
    f"/{DOMAIN}.AgentService/CreateAgent": (MAX_AGENT_BYTES, pb.CreateAgentRequest),
    f"/{DOMAIN}.AgentService/UpdateAgent": (MAX_AGENT_BYTES, pb.UpdateAgentRequest),
}
"""The methods whose requests may be larger than MAX_REQUEST_BYTES, apart from those of agents."""

_MAX_SHIFT: Final = 63
"""Of the last byte of a number, which has ten at most."""

_MAX_ECHOED_CODE_POINTS: Final = 100
"""How much of a delivery's id is repeated where the request is unreadable. A good id has at most 55."""


@dataclass(frozen=True, slots=True)
class HalvedChunk:
    """A chunk whose text may begin or end with half a surrogate pair: protobuf has no string for it."""

    delivery_id: str
    text: str


@dataclass(frozen=True, slots=True)
class UnreadableAnswer:
    """An answer that cannot be read. `part` is its field of ConnectRequest, `final` that of a failure."""

    part: str
    delivery_id: str
    error: DomainError
    final: bool = True


ConnectSaid: TypeAlias = pb.ConnectRequest | HalvedChunk | UnreadableAnswer
"""A message of a worker."""


def make_reader(method: str, parse: Parse) -> Callable[[bytes], Any]:
    """Makes the reader of a method's requests. It raises InvalidRequestError."""
    most_bytes, kind = _LARGE.get(method, (MAX_REQUEST_BYTES, Message))
    return partial(parse_message, parse, most_bytes=most_bytes, kind=kind)


def parse_message(
    parse: Parse, raw: bytes, most_bytes: int = MAX_REQUEST_BYTES, kind: type[Message] = Message
) -> Any:
    """Parses a request.

    Raises InvalidRequestError, without parsing, where it is too large or would become so.
    """
    _check_size(raw, most_bytes, kind)
    try:
        return parse(raw)
    except DecodeError as error:
        raise InvalidRequestError("not a message of this method") from error


def read_connect_request(raw: bytes) -> ConnectSaid:
    """Reads a message of a worker.

    Raises InvalidRequestError, which ends its stream, where that is no answer to a delivery.
    """
    if len(raw) <= MAX_REPLY_BYTES and has_few_parts(raw, pb.ConnectRequest):
        with suppress(DecodeError):
            return pb.ConnectRequest.FromString(raw)
    said = _parse_twin(_ConnectBytes, raw)
    part = said.WhichOneof("part")
    if part is None or part == "hello":
        _check_size(raw, MAX_REPLY_BYTES, pb.ConnectRequest)
        raise InvalidRequestError("not a message of this method")
    answer = getattr(said, part)
    delivery_id = answer.delivery_id.decode(errors="replace").lower()
    try:
        _check_size(raw, MAX_REPLY_BYTES, pb.ConnectRequest)
        if part == "chunk":
            return HalvedChunk(delivery_id, _text("chunk", answer.chunk))
        if part == "reply":
            request = pb.ConnectRequest(reply=pb.ConnectRequest.Reply(delivery_id=delivery_id))
            _read_reply(answer, request.reply)
            return request
        reason = clean(_text("reason", answer.reason))
        return pb.ConnectRequest(
            failure=pb.ConnectRequest.Failure(delivery_id=delivery_id, reason=reason, final=answer.final)
        )
    except DomainError as error:
        final = answer.final if part == "failure" else True
        return UnreadableAnswer(part, delivery_id[:_MAX_ECHOED_CODE_POINTS], error, final)


def read_reply_request(raw: bytes) -> pb.ReplyRequest:
    """A reply without a stream. Raises InvalidRequestError, InvalidContentError, InvalidMetadataError."""
    _check_size(raw, MAX_REPLY_BYTES, pb.ReplyRequest)
    with suppress(DecodeError):
        return pb.ReplyRequest.FromString(raw)
    answer = _parse_twin(_ReplyBytes, raw)
    request = pb.ReplyRequest(
        delivery_id=answer.delivery_id.decode(errors="replace"), json_form=answer.json_form
    )
    _read_reply(answer, request)
    return request


def _read_reply(answer: Any, into: pb.ConnectRequest.Reply | pb.ReplyRequest) -> None:
    """Fills in the reply in place. protobuf copies a message by way of bytes, and refuses deep ones there."""
    if not answer.reply:
        return
    found, reply = _parse_twin(_AgentReplyBytes, answer.reply), into.reply
    reply.content = clean(_text("content", found.content))
    reply.actions.extend(clean(_text("actions", action)) for action in found.actions)
    if found.HasField("thought"):
        reply.thought = clean(_text("thought", found.thought))
    try:
        reply.metadata_json = found.metadata_json.decode()
        if found.metadata:
            reply.metadata.MergeFromString(found.metadata)
    except (DecodeError, UnicodeDecodeError) as error:
        raise InvalidMetadataError(
            f"metadata must be UTF-8, and {MAX_DEPTH} levels deep at most", MAX_METADATA_BYTES
        ) from error
    try:
        reply.attachments_json = found.attachments_json.decode()
        if found.HasField("attachments"):
            reply.attachments.SetInParent()
            reply.attachments.MergeFromString(found.attachments)
    except (DecodeError, UnicodeDecodeError) as error:
        raise InvalidContentError(
            f"attachments must be UTF-8, and {MAX_DEPTH} levels deep at most"
        ) from error


def _text(field: str, raw: bytes) -> str:
    """The text, in which halves of surrogate pairs may be. Raises InvalidContentError."""
    try:
        return raw.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError as error:
        raise InvalidContentError(f"{field} must be UTF-8") from error


def _check_size(raw: bytes, most_bytes: int, kind: type[Message]) -> None:
    if len(raw) > most_bytes:
        raise InvalidRequestError(f"it is larger than {most_bytes} bytes")
    if not has_few_parts(raw, kind):
        raise InvalidRequestError(
            f"it is made of more than {MAX_PARTS} values and texts, or {MAX_FIELDS} fields"
        )


def has_few_parts(raw: bytes, kind: type[Message]) -> bool:
    """Whether a request has at most MAX_PARTS and MAX_FIELDS; small requests are not counted.

    Bytes that are no message may pass.
    """
    if len(raw) <= MAX_REQUEST_BYTES:
        return True
    left, left_fields, pending = MAX_PARTS, MAX_FIELDS, [(0, len(raw), kind.DESCRIPTOR)]
    try:
        while pending:
            at, end, message = pending.pop()
            inner = message.fields_by_number
            while at < end:
                key, at = _varint(raw, at)
                left_fields -= 1
                left -= key & 7 == 2
                if left < 0 or left_fields < 0:
                    return False
                match key & 7:
                    case 0:
                        _, at = _varint(raw, at)
                    case 1:
                        at += 8
                    case 5:
                        at += 4
                    case 2:
                        length, at = _varint(raw, at)
                        field = inner.get(key >> 3)
                        if field is not None and field.message_type is not None:
                            pending.append((at, min(at + length, end), field.message_type))
                        at += length
                    case _:
                        # A group, which nobody sends, could hide the fields behind it.
                        return False
    except (IndexError, _NoNumberError):
        # It breaks off or holds a number that is too long. Parsing will end there as well.
        return True
    return True


class _NoNumberError(Exception):
    """A number is longer than protobuf's may be."""


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    """The number at an index of a message's bytes, and the index behind it.

    Raises IndexError, _NoNumberError.
    """
    value = shift = 0
    while (byte := raw[at]) >= 0x80:
        if shift == _MAX_SHIFT:
            raise _NoNumberError
        value |= (byte & 0x7F) << shift
        shift += 7
        at += 1
    return value | byte << shift, at + 1


def _parse_twin(twin: Any, raw: bytes) -> Any:
    try:
        return twin.FromString(raw)
    except DecodeError as error:
        raise InvalidRequestError("not a message of this method") from error


def _byte_twins(*originals: type[Message]) -> list[type[Message]]:
    """Makes twins of messages, the same on the wire: strings and messages from outside become bytes.

    Enums become numbers.
    """
    kinds = descriptor_pb2.FieldDescriptorProto
    package = f"{DOMAIN}.twins"
    file = descriptor_pb2.FileDescriptorProto(name="eliza_twins.proto", package=package, syntax="proto3")
    for original in originals:
        whole = original.DESCRIPTOR
        twin = file.message_type.add()
        whole.CopyToProto(twin)
        for message in (twin, *twin.nested_type):
            for field in message.field:
                if field.type_name.startswith(f".{whole.full_name}."):
                    field.type_name = f".{package}{field.type_name.removeprefix(f'.{DOMAIN}')}"
                elif field.type in (kinds.TYPE_STRING, kinds.TYPE_MESSAGE):
                    field.type = kinds.TYPE_BYTES
                    field.ClearField("type_name")
                elif field.type == kinds.TYPE_ENUM:
                    field.type = kinds.TYPE_INT32
                    field.ClearField("type_name")
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return [
        message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{twin.name}"))
        for twin in file.message_type
    ]


_ConnectBytes, _ReplyBytes, _AgentReplyBytes = _byte_twins(pb.ConnectRequest, pb.ReplyRequest, pb.AgentReply)
