"""How requests are read: whatever agents send, and whether protobuf itself can read it."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from eliza.sessions import values
from eliza.sessions.limits import (
    MAX_ACTION_CODE_POINTS,
    MAX_ACTIONS,
    MAX_ATTACHMENTS_BYTES,
    MAX_CONTENT_CODE_POINTS,
    MAX_METADATA_BYTES,
    MAX_REPLY_CODE_POINTS,
    MAX_REQUEST_ID,
)
from eliza.sessions.v1 import agent_service_pb2 as pb
from eliza.sessions.v1.message_service_pb2 import SendMessageRequest
from server.domain.agent_text import clean
from server.domain.errors import DomainError, InvalidRequestError
from server.rpc import parsing
from server.rpc.parsing import HalvedChunk, UnreadableAnswer, read_connect_request, read_reply_request

DELIVERY = "00000000-0000-4000-8000-00000000000d-1"
SIGN = "\uffff"
"""Stands for a half in what protobuf writes: as many bytes."""

halves = st.lists(
    st.characters(min_codepoint=0xD800, max_codepoint=0xDFFF, categories=["Cs"]) | st.just("x"), max_size=4
).map("".join)
plain = st.text(st.characters(codec="utf-8", exclude_characters=SIGN), max_size=10)
replies = st.builds(
    lambda content, thought, actions, metadata, attachments, metadata_json, attachments_json: pb.AgentReply(
        content=content,
        thought=thought,
        actions=actions,
        metadata=values.struct(metadata),
        attachments=None if attachments is None else values.list_value(attachments),
        metadata_json=metadata_json,
        attachments_json=attachments_json,
    ),
    plain,
    st.none() | plain,
    st.lists(plain, max_size=3),
    st.dictionaries(plain, plain, max_size=3),
    st.none() | st.lists(plain, max_size=3),
    plain,
    plain,
)
requests = st.one_of(
    st.builds(lambda i, text: pb.ConnectRequest(chunk={"delivery_id": i, "chunk": text}), plain, plain),
    st.builds(
        lambda i, reply: pb.ConnectRequest(reply={"delivery_id": i, "reply": reply}),
        plain,
        st.none() | replies,
    ),
    st.builds(
        lambda i, text, final: pb.ConnectRequest(failure={"delivery_id": i, "reason": text, "final": final}),
        plain,
        plain,
        st.booleans(),
    ),
)


def with_halves(raw: bytes, text: str) -> bytes:
    """What is written with each SIGN replaced by the next half of a text, as JavaScript's
    writers encode it.
    """
    left = iter(text)
    return re.sub(SIGN.encode(), lambda _: next(left).encode("utf-8", "surrogatepass"), raw)


@given(requests)
def test_what_protobuf_reads_is_read_as_it_is(request: pb.ConnectRequest) -> None:
    assert read_connect_request(request.SerializeToString()) == request


@given(requests)
def test_the_way_around_protobuf_leads_to_the_same(request: pb.ConnectRequest) -> None:
    """A delivery's id that is not UTF-8 forces it, and what is in the answer stays."""
    answer = getattr(request, request.WhichOneof("part"))
    answer.delivery_id = "BAD"
    read = read_connect_request(request.SerializeToString().replace(b"BAD", b"\xff\xff\xff"))
    answer.delivery_id = "\ufffd" * 3
    if request.HasField("chunk"):
        assert read == HalvedChunk(answer.delivery_id, request.chunk.chunk)
        return
    if request.HasField("failure"):
        request.failure.reason = clean(request.failure.reason)
    elif not request.reply.reply.ByteSize():
        # An empty reply is none.
        request.reply.ClearField("reply")
    else:
        reply = request.reply.reply
        reply.content = clean(reply.content)
        if reply.HasField("thought"):
            reply.thought = clean(reply.thought)
        reply.actions[:] = [clean(action) for action in reply.actions]
        # Of an empty Struct it does not matter whether it is there.
        if not reply.metadata.fields:
            reply.ClearField("metadata")
    assert read == request


@given(halves)
def test_surrogate_halves_are_read_as_text(text: str) -> None:
    signs = re.sub("[\ud800-\udfff]", SIGN, text)
    alone = re.sub("[^\ud800-\udfff]", "", text)
    chunk = pb.ConnectRequest(chunk={"delivery_id": "d", "chunk": signs})
    read = read_connect_request(with_halves(chunk.SerializeToString(), alone))
    assert read == (HalvedChunk("d", text) if alone else chunk)
    failure = pb.ConnectRequest(failure={"delivery_id": "d", "reason": signs, "final": True})
    assert read_connect_request(with_halves(failure.SerializeToString(), alone)) == pb.ConnectRequest(
        failure={"delivery_id": "d", "reason": clean(text), "final": True}
    )
    reply = {"content": signs, "thought": signs, "actions": [signs, "x"]}
    expected = pb.AgentReply(content=clean(text), thought=clean(text), actions=[clean(text), "x"])
    raw = with_halves(
        pb.ConnectRequest(reply={"delivery_id": "d", "reply": reply}).SerializeToString(), alone * 3
    )
    assert read_connect_request(raw) == pb.ConnectRequest(reply={"delivery_id": "d", "reply": expected})
    raw = with_halves(pb.ReplyRequest(delivery_id="d", reply=reply).SerializeToString(), alone * 3)
    assert read_reply_request(raw) == pb.ReplyRequest(delivery_id="d", reply=expected)


@given(requests, st.data())
def test_whatever_is_broken_nothing_else_is_raised(request: pb.ConnectRequest, data: st.DataObject) -> None:
    raw = bytearray(request.SerializeToString())
    for _ in range(data.draw(st.integers(0, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        read = read_connect_request(bytes(raw))
    except InvalidRequestError:
        with pytest.raises(DecodeError):
            pb.ConnectRequest.FromString(bytes(raw))
        return
    if isinstance(read, UnreadableAnswer):
        assert isinstance(read.error, DomainError)
        assert read.part in ("chunk", "reply", "failure")


def test_of_what_is_too_large_the_delivery_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parsing, "MAX_REPLY_BYTES", 100)
    just = pb.ConnectRequest(reply={"delivery_id": "d", "reply": {"content": "x" * (100 - 9)}})
    assert just.ByteSize() == 100
    assert read_connect_request(just.SerializeToString()) == just
    just.reply.reply.content += "x"
    read = read_connect_request(just.SerializeToString())
    assert isinstance(read, UnreadableAnswer)
    assert (read.part, read.delivery_id, read.error.reason, read.final) == (
        "reply",
        "d",
        "INVALID_REQUEST",
        True,
    )
    assert "larger than 100 bytes" in str(read.error)
    failure = read_connect_request(
        pb.ConnectRequest(failure={"delivery_id": "d" * 200, "final": False}).SerializeToString()
    )
    assert isinstance(failure, UnreadableAnswer)
    assert (failure.part, failure.delivery_id, failure.final) == ("failure", "d" * 100, False)
    for raw in (pb.ConnectRequest(hello={"agent_id": "x" * 200}).SerializeToString(), b"\xc0\x3e\x05" * 100):
        with pytest.raises(InvalidRequestError, match="larger than"):
            read_connect_request(raw)
    with pytest.raises(InvalidRequestError, match="larger than 100 bytes"):
        read_reply_request(b"x" * 101)


@pytest.mark.parametrize(
    ("method", "most_bytes"),
    [
        ("AgentService/GetAgent", parsing.MAX_REQUEST_BYTES),
        ("AgentService/CreateAgent", parsing.MAX_AGENT_BYTES),
        ("MessageService/SendMessage", parsing.MAX_MESSAGE_BYTES),
        ("MessageService/Converse", parsing.MAX_MESSAGE_BYTES),
    ],
)
def test_each_method_has_a_bound_that_is_looked_at_before_parsing(method: str, most_bytes: int) -> None:
    read = parsing.make_reader(f"/eliza.sessions.v1.{method}", len)  # type: ignore[arg-type] # parsing is as good as that here
    assert read(b"\xff" * most_bytes) == most_bytes
    with pytest.raises(InvalidRequestError, match=f"larger than {most_bytes} bytes"):
        read(b"\xff" * (most_bytes + 1))


_WORDIEST: dict[str, Callable[[int], list[Any]]] = {
    "objects": lambda count: [{"key": "x"}] * (count // 2),
    "numbers": lambda count: [0] * count,
    "texts": lambda count: ["x"] * count,
    "arrays": lambda count: [[]] * count,
    "one object": lambda count: [{f"{number:04}": {} for number in range(count - 1)}],
}


@pytest.mark.parametrize("kind", _WORDIEST)
def test_the_largest_message_and_reply_that_are_valid_fit(kind: str) -> None:
    attachments: list[Any] = _WORDIEST[kind](1999)
    attachments.append(
        "x" * (MAX_ATTACHMENTS_BYTES - len(json.dumps(attachments, separators=(",", ":"))) - 3)
    )
    assert len(json.dumps(attachments, separators=(",", ":"))) == MAX_ATTACHMENTS_BYTES
    # In arrays, a value takes no fewer bytes of JSON than these.
    metadata = {"k": [0] * ((MAX_METADATA_BYTES - 7) // 2)}
    parts: Any = {"metadata": values.struct(metadata), "attachments": values.list_value(attachments)}
    content = "\U0001f600" * MAX_CONTENT_CODE_POINTS
    request = SendMessageRequest(
        session_id=DELIVERY, request_id="x" * MAX_REQUEST_ID, content=content, **parts
    )
    raw = request.SerializeToString()
    assert (
        parsing.make_reader("/eliza.sessions.v1.MessageService/SendMessage", SendMessageRequest.FromString)(
            raw
        )
        == request
    )
    wide = "\U0001f600" * MAX_REPLY_CODE_POINTS
    reply = pb.AgentReply(
        content=wide, thought=wide, actions=["\U0001f600" * MAX_ACTION_CODE_POINTS] * MAX_ACTIONS, **parts
    )
    said = pb.ConnectRequest(reply={"delivery_id": DELIVERY, "reply": reply})
    assert read_connect_request(said.SerializeToString()) == said
    assert (
        read_reply_request(pb.ReplyRequest(delivery_id=DELIVERY, reply=reply).SerializeToString()).reply
        == reply
    )


@pytest.mark.parametrize(
    "inner", [b"", b"\x32\0", b"\x2a\0", b"\x1a\0"], ids=["nothing", "arrays", "objects", "texts"]
)
def test_what_holds_too_many_values_is_never_parsed(inner: bytes) -> None:
    values = bytes([0x0A, len(inner), *inner]) * (parsing.MAX_PARTS + 1)
    raw = b"\x22" + _varint(len(values)) + values
    with pytest.raises(InvalidRequestError, match="more than 32768"):
        parsing.make_reader("/eliza.sessions.v1.MessageService/SendMessage", _never)(raw)
    with pytest.raises(InvalidRequestError, match="more than 32768"):
        parsing.make_reader("/eliza.sessions.v1.MessageService/Converse", _never)(
            b"\x0a" + _varint(len(raw)) + raw
        )
    # A reply is refused on the stream, by its delivery.
    reply = b"\x1a" + _varint(len(values)) + values
    answer = b"\x0a\x01d\x12" + _varint(len(reply)) + reply
    said = read_connect_request(b"\x1a" + _varint(len(answer)) + answer)
    assert isinstance(said, UnreadableAnswer)
    assert (said.part, said.delivery_id, said.error.reason) == ("reply", "d", "INVALID_REQUEST")


def test_a_group_hides_nothing() -> None:
    values = b"\x0a\0" * (parsing.MAX_PARTS + 1)
    with pytest.raises(InvalidRequestError, match="more than 32768"):
        parsing.make_reader("/eliza.sessions.v1.MessageService/SendMessage", _never)(
            b"\xfb\x01\xfc\x01\x22" + _varint(len(values)) + values
        )


def _never(_: bytes) -> Any:
    pytest.fail("it was parsed")


def _varint(value: int) -> bytes:
    return bytes([value & 0x7F | 0x80]) + _varint(value >> 7) if value > 0x7F else bytes([value])


@pytest.mark.parametrize(
    "field", [b"\x78\0", b"\x7d\0\0\0\0", b"\x79\0\0\0\0\0\0\0\0", b"\xf8\xff\xff\xff\x0f\0"]
)
def test_fields_that_are_numbers_are_counted_too(field: bytes) -> None:
    large = field * (parsing.MAX_FIELDS + 1)
    with pytest.raises(InvalidRequestError, match="fields"):
        parsing.make_reader("/eliza.sessions.v1.MessageService/SendMessage", _never)(large)


@pytest.mark.parametrize("begin", [b"", b"\x78", b"\x7a"], ids=["key", "number", "length"])
def test_a_number_without_end_is_not_read_to_the_end(begin: bytes) -> None:
    # To put it together takes the square of its length: half an hour, while nobody else is served.
    with pytest.raises(InvalidRequestError, match="not a message"):
        parsing.make_reader("/eliza.sessions.v1.MessageService/SendMessage", SendMessageRequest.FromString)(
            begin + b"\xff" * 3_000_000
        )
