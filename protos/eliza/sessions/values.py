"""Converts protobuf's well-known types: Timestamp and ms, Struct and dict, ListValue and list."""

from collections.abc import Mapping, Sequence

from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import NULL_VALUE, ListValue, Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp

from eliza.sessions.json_text import Json, ValueBudget, number, require_depth, require_finite, require_text
from eliza.sessions.limits import MAX_ATTACHMENT_VALUES, MAX_DEPTH, MAX_METADATA_VALUES


def timestamp(ms: int) -> Timestamp:
    """The Timestamp of an instant in ms."""
    seconds, rest = divmod(ms, 1000)
    return Timestamp(seconds=seconds, nanos=rest * 1_000_000)


def set_timestamp(when: Timestamp, ms: int) -> None:
    """Sets a Timestamp within a message: half as dear as to make one that is copied into it."""
    when.seconds, rest = divmod(ms, 1000)
    when.nanos = rest * 1_000_000


def ms_floor(when: Timestamp) -> int:
    """The instant of a Timestamp in ms, rounded down."""
    return when.seconds * 1000 + when.nanos // 1_000_000


def ms_ceil(when: Timestamp) -> int:
    """The instant of a Timestamp in ms, rounded up."""
    return when.seconds * 1000 - (-when.nanos // 1_000_000)


def seconds(length: Duration) -> float:
    """The length of a Duration in seconds."""
    return length.seconds + length.nanos / 1e9


def struct(fields: Mapping[str, Json]) -> Struct:
    """The Struct of a JSON object, of any number of values.

    Raises ValueError, with the reason, for what JSON or protobuf cannot hold.
    """
    message = Struct()
    _fill_fields(message, fields, MAX_DEPTH)
    return message


def list_value(items: Sequence[Json]) -> ListValue:
    """The ListValue of a JSON array, of any number of values.

    Raises ValueError, with the reason, for what JSON or protobuf cannot hold.
    """
    message = ListValue()
    _fill_items(message, items, MAX_DEPTH)
    return message


def plain(message: Struct) -> dict[str, Json]:
    """The JSON object of metadata; whole numbers are ints.

    Raises ValueError, with the reason, for what JSON cannot hold or what is too much.
    """
    return _plain_fields(message, MAX_DEPTH, ValueBudget(MAX_METADATA_VALUES))


def plain_list(message: ListValue) -> list[Json]:
    """The JSON array of attachments; whole numbers are ints.

    Raises ValueError, with the reason, for what JSON cannot hold or what is too much.
    """
    return _plain_items(message, MAX_DEPTH, ValueBudget(MAX_ATTACHMENT_VALUES))


def _fill_fields(message: Struct, fields: Mapping[str, Json], depth: int) -> None:
    require_depth(depth)
    target = message.fields
    for key, item in fields.items():
        _fill(target[require_text(key)], item, depth)


def _fill_items(message: ListValue, items: Sequence[Json], depth: int) -> None:
    require_depth(depth)
    add = message.values.add
    for item in items:
        _fill(add(), item, depth)


def _fill(value: Value, item: Json, depth: int) -> None:
    if isinstance(item, str):
        value.string_value = require_text(item)
    elif item is None:
        value.null_value = NULL_VALUE
    elif isinstance(item, bool):
        value.bool_value = item
    elif isinstance(item, (int, float)):
        value.number_value = require_finite(item)
    elif isinstance(item, Mapping):
        value.struct_value.SetInParent()
        _fill_fields(value.struct_value, item, depth - 1)
    elif isinstance(item, (list, tuple)):
        value.list_value.SetInParent()
        _fill_items(value.list_value, item, depth - 1)
    else:
        raise ValueError(f"holds {type(item).__name__}, which JSON cannot write")


def _plain_fields(message: Struct, depth: int, budget: ValueBudget) -> dict[str, Json]:
    require_depth(depth)
    return {key: _plain(value, depth, budget) for key, value in message.fields.items()}


def _plain_items(message: ListValue, depth: int, budget: ValueBudget) -> list[Json]:
    require_depth(depth)
    return [_plain(value, depth, budget) for value in message.values]


def _plain(value: Value, depth: int, budget: ValueBudget) -> Json:
    budget.take()
    match value.WhichOneof("kind"):
        case "string_value":
            return value.string_value
        case "number_value":
            return number(require_finite(value.number_value))
        case "bool_value":
            return value.bool_value
        case "struct_value":
            return _plain_fields(value.struct_value, depth - 1, budget)
        case "list_value":
            return _plain_items(value.list_value, depth - 1, budget)
        case _:
            return None
