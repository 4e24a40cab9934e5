"""Struct and dict, ListValue and list."""

import json
import math

import pytest
from google.protobuf import json_format
from google.protobuf.struct_pb2 import ListValue, Struct, Value
from hypothesis import given
from hypothesis import strategies as st

from eliza.sessions.json_text import number
from eliza.sessions.limits import MAX_DEPTH
from eliza.sessions.values import list_value, plain, plain_list, struct

EXACT = st.integers(-(2**53), 2**53)
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
LEAVES = st.none() | st.booleans() | EXACT | st.floats(allow_nan=False, allow_infinity=False) | TEXT
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=10,
)
OBJECTS, ARRAYS = st.dictionaries(TEXT, JSON, max_size=4), st.lists(JSON, max_size=4)


def nested_object(levels: int) -> dict:
    value: dict = {}
    for _ in range(levels - 1):
        value = {"a": value}
    return value


def nested_array(levels: int) -> list:
    value: list = []
    for _ in range(levels - 1):
        value = [value]
    return value


@given(OBJECTS)
def test_objects_come_back_as_they_were(value: dict) -> None:
    assert plain(struct(value)) == value


@given(ARRAYS)
def test_arrays_come_back_as_they_were(value: list) -> None:
    assert plain_list(list_value(value)) == value


@given(OBJECTS)
def test_they_survive_the_wire_and_are_what_protobuf_itself_reads(value: dict) -> None:
    message = struct(value)
    assert plain(Struct.FromString(message.SerializeToString())) == value
    assert message == json_format.Parse(json.dumps(value), Struct())


def test_whole_numbers_come_back_as_ints_and_truth_as_truth() -> None:
    value = {
        "i": 1,
        "f": 1.0,
        "half": 0.5,
        "yes": True,
        "no": False,
        "big": 2**53,
        "list": [0, 0.0, -0.0, True],
    }
    assert json.dumps(plain(struct(value)), sort_keys=True) == (
        '{"big": 9007199254740992, "f": 1, "half": 0.5, "i": 1, "list": [0, 0, 0, true], "no": false, '
        '"yes": true}'
    )


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_whole_exact_numbers_become_ints(value: float) -> None:
    written = number(value)
    assert written == value
    assert isinstance(written, int) == (value.is_integer() and abs(value) <= 2**53)


@given(st.integers())
def test_whole_numbers_of_any_size_become_the_nearest_that_there_is(value: int) -> None:
    assert plain(struct({"n": value}))["n"] == float(value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10**400, -(10**400)])
def test_writing_a_number_that_is_not_finite_is_refused(value: float) -> None:
    for make in (
        lambda: struct({"a": value}),
        lambda: struct({"a": [{"b": value}]}),
        lambda: list_value([value]),
    ):
        with pytest.raises(ValueError, match="number"):
            make()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_reading_a_number_that_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="number"):
        plain(Struct(fields={"a": Value(number_value=value)}))
    with pytest.raises(ValueError, match="number"):
        plain_list(ListValue(values=[Value(number_value=value)]))


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb", "\ude00\ud83d"])
def test_lone_surrogates_are_not_text(text: str) -> None:
    for make in (
        lambda: struct({"a": text}),
        lambda: struct({text: 1}),
        lambda: struct({"a": [{text: 1}]}),
        lambda: list_value([text]),
    ):
        with pytest.raises(ValueError, match="surrogate"):
            make()


def test_the_greatest_depth_survives_the_wire() -> None:
    value = nested_object(MAX_DEPTH)
    assert plain(Struct.FromString(struct(value).SerializeToString())) == value
    items = nested_array(MAX_DEPTH)
    assert plain_list(ListValue.FromString(list_value(items).SerializeToString())) == items


def test_deeper_is_refused_either_way() -> None:
    for make in (
        lambda: struct(nested_object(MAX_DEPTH + 1)),
        lambda: list_value(nested_array(MAX_DEPTH + 1)),
    ):
        with pytest.raises(ValueError, match=f"{MAX_DEPTH}"):
            make()
    with pytest.raises(ValueError, match=f"{MAX_DEPTH}"):
        struct({"a": nested_array(MAX_DEPTH)})
    outer = Struct()
    outer.fields["a"].struct_value.CopyFrom(struct(nested_object(MAX_DEPTH)))
    with pytest.raises(ValueError, match=f"{MAX_DEPTH}"):
        plain(outer)
    around = ListValue()
    around.values.add().list_value.CopyFrom(list_value(nested_array(MAX_DEPTH)))
    with pytest.raises(ValueError, match=f"{MAX_DEPTH}"):
        plain_list(around)


def test_depth_is_counted_not_size() -> None:
    value = {str(n): nested_object(MAX_DEPTH - 1) for n in range(50)}
    assert plain(struct(value)) == value


def test_empty_values_are_read() -> None:
    assert plain(Struct()) == {}
    assert plain_list(ListValue()) == []
    assert plain(struct({"a": {}, "b": []})) == {"a": {}, "b": []}
    assert plain(Struct(fields={"a": Value()})) == {"a": None}
