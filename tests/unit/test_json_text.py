"""The text in which metadata and attachments are stored: the same for one value, whatever form it came in."""

import json
import math
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from google.protobuf.struct_pb2 import ListValue, Struct
from hypothesis import given
from hypothesis import strategies as st

from eliza.sessions import json_text, values
from eliza.sessions.json_text import escape_lines, escape_lines_utf8, overlay
from eliza.sessions.limits import MAX_ATTACHMENT_VALUES, MAX_DEPTH, MAX_METADATA_VALUES
from eliza.sessions.v1.agent_service_pb2 import AgentReply
from eliza.sessions.v1.message_service_pb2 import SendMessageRequest
from eliza.sessions.v1.session_service_pb2 import CreateSessionRequest
from server.domain.errors import InvalidContentError, InvalidMetadataError
from server.rpc import from_proto
from tests.unit.test_values import ARRAYS, OBJECTS, nested_array, nested_object

LINE_ENDS = "\x85\u2028\u2029"

ONE_VALUE = [
    ('{"n": 123456789012345678901234567890}', '{"n":1.2345678901234568e+29}'),
    ('{"n": 18446744073709551615}', '{"n":1.8446744073709552e+19}'),
    ('{"n": 9007199254740993}', '{"n":9007199254740992}'),
    ('{"n": -9007199254740993}', '{"n":-9007199254740992}'),
    ('{"n": 1.0}', '{"n":1}'),
    ('{"n": 1e2}', '{"n":100}'),
    ('{"n": -0}', '{"n":0}'),
    ('{"n": -0.0}', '{"n":0}'),
    ('{"n": 0.10}', '{"n":0.1}'),
    ('{"n": 1E-400}', '{"n":0}'),
    ('{"a": 1, "b": {"d": 1, "c": 2}, "a": 2}', '{"a":2,"b":{"c":2,"d":1}}'),
    (
        '{"z": 1, "\\u00e9": 2, "a": 3, "\\ud83d\\ude00": 4, "\\uffff": 5}',
        '{"a":3,"z":1,"é":2,"\uffff":5,"😀":4}',
    ),
    ('{"\\u0061\\/": "\\u0000\\u2028\\ud83d\\ude00\\n"}', '{"a/":"\\u0000\u2028😀\\n"}'),
    (' {\n"a" :\t[ true , null ] } ', '{"a":[true,null]}'),
]
"""Texts as clients may write them, and the one that is stored."""

NOT_STORED = [
    ("[1]", "must be an object"),
    ('"a"', "must be an object"),
    ("null", "must be an object"),
    ("", None),
    (" ", "is not JSON"),
    ("{", "is not JSON"),
    ('{"a": NaN}', "is not JSON"),
    ('{"a": Infinity}', "is not JSON"),
    ("{'a': 1}", "is not JSON"),
    ('{"a": 1} {}', "is not JSON"),
    ('{"a": 1e400}', "holds a number that JSON cannot write"),
    ('{"a": "\\ud800"}', "holds a lone surrogate, which is not text"),
    ('{"\\udfff": 1}', "holds a lone surrogate, which is not text"),
    (json.dumps(nested_object(MAX_DEPTH + 1)), "nests deeper than 30 levels"),
    ('{"a":' + "[" * 2000 + "]" * 2000 + "}", "nests deeper than 30 levels"),
    ('{"a":' + "[" * 200_000 + "]" * 200_000 + "}", "nests deeper than 30 levels"),
    (json.dumps({"a": [0] * MAX_METADATA_VALUES}), "holds more than 5120 values"),
]

MAKERS: list[Callable[..., Any]] = [CreateSessionRequest, SendMessageRequest, AgentReply]


def both_ways(text: str) -> tuple[str, str]:
    """The stored text of metadata that comes as text, and as a Struct over the wire."""
    struct = Struct.FromString(values.struct(json.loads(text)).SerializeToString())
    return from_proto.metadata_text(SendMessageRequest(metadata_json=text)), from_proto.metadata_text(
        SendMessageRequest(metadata=struct)
    )


@pytest.mark.parametrize(("text", "stored"), ONE_VALUE)
def test_one_value_has_one_text(text: str, stored: str) -> None:
    assert both_ways(text) == (stored, stored)
    assert json_text.metadata_text(json.loads(text)) == stored
    # And in attachments.
    request = SendMessageRequest(attachments_json=f"[{text}]")
    items = SendMessageRequest(attachments=values.list_value([json.loads(text)]))
    assert from_proto.attachments_text(request) == from_proto.attachments_text(items) == f"[{stored}]"


@given(OBJECTS)
def test_any_object_has_one_text_which_is_that_of_its_struct(value: dict) -> None:
    text, from_struct = both_ways(json.dumps(value))
    assert text == from_struct == json_text.read_metadata(text)
    assert json.loads(text) == value
    assert both_ways(json.dumps(dict(reversed(value.items())), ensure_ascii=False, indent=1)) == (text, text)


@given(ARRAYS)
def test_any_array_has_one_text_which_is_that_of_its_list(value: list) -> None:
    items = ListValue.FromString(values.list_value(value).SerializeToString())
    texts = [
        from_proto.attachments_text(SendMessageRequest(attachments_json=json.dumps(value))),
        from_proto.attachments_text(SendMessageRequest(attachments=items)),
        json_text.attachments_text(value),
    ]
    assert len(set(texts)) == 1
    assert json.loads(texts[0] or "") == value


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(("text", "why"), NOT_STORED)
def test_text_that_is_no_metadata_is_refused(make: Callable[..., Any], text: str, why: str | None) -> None:
    if why is None:
        assert from_proto.metadata_text(make(metadata_json=text)) == "{}"
        return
    with pytest.raises(InvalidMetadataError) as raised:
        from_proto.metadata_text(make(metadata_json=text))
    assert str(raised.value).endswith(f"metadata {why}")


@pytest.mark.parametrize("make", MAKERS[1:])
@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{}", "must be an array"),
        ("0", "must be an array"),
        ("[", "is not JSON"),
        ('["\\ud800"]', "holds a lone surrogate, which is not text"),
        (json.dumps(nested_array(MAX_DEPTH + 1)), "nests deeper than 30 levels"),
        (json.dumps([[0] * MAX_ATTACHMENT_VALUES]), "holds more than 2000 values"),
    ],
)
def test_text_that_is_no_attachments_is_refused(make: Callable[..., Any], text: str, why: str) -> None:
    with pytest.raises(InvalidContentError) as raised:
        from_proto.attachments_text(make(attachments_json=text))
    assert str(raised.value).endswith(f"attachments {why}")


@pytest.mark.parametrize("make", MAKERS)
def test_both_forms_in_one_request_are_refused(make: Callable[..., Any]) -> None:
    for struct in (values.struct({"a": 1}), Struct()):
        with pytest.raises(InvalidMetadataError, match="both"):
            from_proto.metadata_text(make(metadata=struct, metadata_json='{"a":1}'))
    if make is not CreateSessionRequest:
        for items in (values.list_value([1]), ListValue()):
            with pytest.raises(InvalidContentError, match="both"):
                from_proto.attachments_text(make(attachments=items, attachments_json="[1]"))


def test_no_attachments_and_empty_ones_differ_in_both_forms() -> None:
    assert from_proto.attachments_text(SendMessageRequest()) is None
    assert from_proto.attachments_text(SendMessageRequest(attachments=ListValue())) == "[]"
    assert from_proto.attachments_text(SendMessageRequest(attachments_json=" []")) == "[]"


@pytest.mark.parametrize("value", [math.nan, math.inf, 10**400, b"x", object(), {"a": {1, 2}}])
def test_values_that_json_cannot_write_are_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="cannot write"):
        json_text.attachments_text([value])


@given(OBJECTS, OBJECTS)
def test_what_is_laid_over_wins(below: dict, above: dict) -> None:
    text = overlay(json_text.metadata_text(below), {**above, "sessionId": "s"})
    assert orjson.loads(text) == {**below, **above, "sessionId": "s"}
    # Every key once.
    pairs = json.loads(text, object_pairs_hook=lambda found: found)
    assert len(pairs) == len(dict(pairs))


@pytest.mark.parametrize(
    ("text", "fields", "expected"),
    [
        ("{}", {}, "{}"),
        ("{}", {"a": 1}, '{"a":1}'),
        ('{"b":1}', {}, '{"b":1}'),
        ('{"b":1}', {"a": [1]}, '{"b":1,"a":[1]}'),
        ('{"a":1,"b":1}', {"a": 2}, '{"a":2,"b":1}'),
        ('{"b":{"a":1}}', {"a": 2}, '{"a":2,"b":{"a":1}}'),
        ('{"b":"\\"a\\""}', {"a": 2}, '{"b":"\\"a\\"","a":2}'),
    ],
)
def test_overlay_sets_the_fields(text: str, fields: dict, expected: str) -> None:
    assert overlay(text, fields) == expected


@given(st.text(st.sampled_from(f"a{LINE_ENDS}é😀\\")))
def test_escaped_text_has_no_line_ends(content: str) -> None:
    text = json_text.dump({content: [content]})
    left = escape_lines(text)
    assert escape_lines_utf8(text.encode()) == left.encode()
    assert not set(LINE_ENDS) & set(left)
    assert json.loads(left) == {content: [content]}


def test_what_was_stored_with_more_values_can_still_be_read() -> None:
    many = [0] * (10 * MAX_ATTACHMENT_VALUES)
    assert len(values.list_value(many).values) == len(many)
    assert len(values.struct({"a": many})["a"]) == len(many)
