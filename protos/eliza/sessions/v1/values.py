"""Between protobuf's well-known types and plain Python: Timestamp and ms, Struct and dict, ListValue and list."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

from google.protobuf.struct_pb2 import NULL_VALUE, ListValue, Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp

from eliza.sessions.v1.limits import MAX_DEPTH, MAX_VALUES
from eliza.sessions.v1.texts import is_text

Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"
"""What JSON can say."""

_EXACT = 2**53


def timestamp(ms: int) -> Timestamp:
    """The Timestamp of an instant in ms."""
    seconds, rest = divmod(ms, 1000)
    return Timestamp(seconds=seconds, nanos=rest * 1_000_000)


def ms_floor(when: Timestamp) -> int:
    """The instant of a Timestamp in ms; what is finer is cut off."""
    return when.seconds * 1000 + when.nanos // 1_000_000


def ms_ceil(when: Timestamp) -> int:
    """The instant of a Timestamp in ms, rounded up."""
    return when.seconds * 1000 - (-when.nanos // 1_000_000)


def struct(fields: Mapping[str, Json]) -> Struct:
    """The Struct of a JSON object. Raises ValueError, saying why, for what JSON or protobuf cannot hold."""
    message = Struct()
    _fill_fields(message, fields, MAX_DEPTH, iter(range(MAX_VALUES)))
    return message


def list_value(items: Sequence[Json]) -> ListValue:
    """The ListValue of a JSON array. Raises ValueError, saying why, for what JSON or protobuf cannot hold."""
    message = ListValue()
    _fill_items(message, items, MAX_DEPTH, iter(range(MAX_VALUES)))
    return message


def plain(message: Struct) -> dict[str, Json]:
    """The JSON object of a Struct; whole numbers are ints. Raises ValueError, saying why, for what JSON cannot hold."""
    return _plain_fields(message, MAX_DEPTH, iter(range(MAX_VALUES)))


def plain_list(message: ListValue) -> list[Json]:
    """The JSON array of a ListValue; whole numbers are ints. Raises ValueError, saying why, for what JSON cannot hold."""
    return _plain_items(message, MAX_DEPTH, iter(range(MAX_VALUES)))


def number(value: float) -> int | float:
    """A number as JSON writes it: an int where it is whole and exact, so that 30.0 becomes 30."""
    return int(value) if value.is_integer() and abs(value) <= _EXACT else value


def _fill_fields(message: Struct, fields: Mapping[str, Json], depth: int, room: Iterator[int]) -> None:
    _check_depth(depth)
    target = message.fields
    for key, item in fields.items():
        _fill(target[_text(key)], item, depth, room)


def _fill_items(message: ListValue, items: Sequence[Json], depth: int, room: Iterator[int]) -> None:
    _check_depth(depth)
    add = message.values.add
    for item in items:
        _fill(add(), item, depth, room)


def _fill(value: Value, item: Json, depth: int, room: Iterator[int]) -> None:
    _check_room(room)
    if isinstance(item, str):
        value.string_value = _text(item)
    elif item is None:
        value.null_value = NULL_VALUE
    elif isinstance(item, bool):
        value.bool_value = item
    elif isinstance(item, (int, float)):
        value.number_value = _finite(item)
    elif isinstance(item, Mapping):
        value.struct_value.SetInParent()
        _fill_fields(value.struct_value, item, depth - 1, room)
    elif isinstance(item, (list, tuple)):
        value.list_value.SetInParent()
        _fill_items(value.list_value, item, depth - 1, room)
    else:
        raise ValueError(f"holds {type(item).__name__}, which JSON cannot write")


def _check_depth(depth: int) -> None:
    if not depth:
        raise ValueError(f"nests deeper than {MAX_DEPTH} levels")


def _check_room(room: Iterator[int]) -> None:
    if next(room, None) is None:
        raise ValueError(f"holds more than {MAX_VALUES} values")


def _text(text: str) -> str:
    if not is_text(text):
        raise ValueError("holds a lone surrogate, which is not text")
    return text


def _finite(value: float) -> float:
    try:
        result = float(value)
    except OverflowError:
        result = math.inf
    if not math.isfinite(result):
        raise ValueError("holds a number that JSON cannot write")
    return result


def _plain_fields(message: Struct, depth: int, room: Iterator[int]) -> dict[str, Json]:
    _check_depth(depth)
    return {key: _plain(value, depth, room) for key, value in message.fields.items()}


def _plain_items(message: ListValue, depth: int, room: Iterator[int]) -> list[Json]:
    _check_depth(depth)
    return [_plain(value, depth, room) for value in message.values]


def _plain(value: Value, depth: int, room: Iterator[int]) -> Json:
    _check_room(room)
    match value.WhichOneof("kind"):
        case "string_value":
            return value.string_value
        case "number_value":
            return number(_finite(value.number_value))
        case "bool_value":
            return value.bool_value
        case "struct_value":
            return _plain_fields(value.struct_value, depth - 1, room)
        case "list_value":
            return _plain_items(value.list_value, depth - 1, room)
        case _:
            return None
