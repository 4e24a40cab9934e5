"""Metadata and attachments as plain Python values. On the wire they are protobuf's Struct and ListValue."""

from typing import Any, Final

from google.protobuf.struct_pb2 import ListValue, Struct, Value

_EXACT: Final = 2**53


def to_dict(fields: Struct) -> dict[str, Any]:
    """Metadata as a dict, such as that of `session.metadata`. Whole numbers are ints."""
    return {name: _plain(value) for name, value in fields.fields.items()}


def to_list(items: ListValue) -> list[Any]:
    """Attachments as a list, such as those of `message.attachments`. Whole numbers are ints."""
    return [_plain(value) for value in items.values]


def _plain(value: Value) -> Any:
    match value.WhichOneof("kind"):
        case "number_value":
            number = value.number_value
            return int(number) if number.is_integer() and abs(number) <= _EXACT else number
        case "struct_value":
            return to_dict(value.struct_value)
        case "list_value":
            return to_list(value.list_value)
        case "string_value" | "bool_value" as kind:
            return getattr(value, kind)
        case _:
            return None
