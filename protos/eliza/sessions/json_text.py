"""Metadata and attachments as JSON text, as the store keeps them. Equal values have equal texts.

No protobuf here.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Final, NoReturn, TypeAlias

import orjson

from eliza.sessions.limits import MAX_ATTACHMENT_VALUES, MAX_DEPTH, MAX_METADATA_VALUES
from eliza.sessions.texts import is_text

Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"
"""A JSON value."""

_EXACT: Final = 2**53

_LINE_ENDS: Final = tuple((char, f"\\u{ord(char):04x}") for char in "\x85\u2028\u2029")
"""Characters that some readers take for the end of a line. JSON has them in strings only."""

_LINE_ENDS_UTF8: Final = tuple((char.encode(), escape.encode()) for char, escape in _LINE_ENDS)


def metadata_text(fields: Mapping[str, Json]) -> str:
    """The text of metadata. Raises ValueError, with the reason, for what JSON or protobuf cannot hold."""
    return dump(_plain_fields(fields, MAX_DEPTH, ValueBudget(MAX_METADATA_VALUES)))


def attachments_text(items: Sequence[Json]) -> str:
    """The text of attachments. Raises ValueError, with the reason, for what JSON or protobuf cannot hold."""
    return dump(_plain_items(items, MAX_DEPTH, ValueBudget(MAX_ATTACHMENT_VALUES)))


def read_metadata(text: str) -> str:
    """Checks and normalizes metadata that came as text. Raises ValueError, with the reason."""
    fields = _parse(text)
    if not isinstance(fields, dict):
        raise ValueError("must be an object")
    return metadata_text(fields)


def read_attachments(text: str) -> str:
    """Checks and normalizes attachments that came as text. Raises ValueError, with the reason."""
    items = _parse(text)
    if not isinstance(items, list):
        raise ValueError("must be an array")
    return attachments_text(items)


def dump(value: Json) -> str:
    """Compact JSON with sorted keys, so that equal values have equal texts."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()


def load(text: str | bytes) -> Json:
    """Reads JSON. Its strings may hold lone surrogates, its numbers may be infinite: callers judge them.

    Raises ValueError, and RecursionError where it nests very deeply.
    """
    try:
        return orjson.loads(text)  # type: ignore[no-any-return]
    except orjson.JSONDecodeError:
        pass
    # orjson also refuses escaped lone surrogates and numbers like 1e400: well-formed JSON with a bad value.
    text = text.decode() if isinstance(text, bytes) else text
    return json.loads(text, parse_constant=_refuse_constant)  # type: ignore[no-any-return]


def overlay(text: str, fields: Mapping[str, Json]) -> str:
    """Sets fields in the text of a JSON object. Parses it only where it may have one of them already."""
    if not fields:
        return text
    if any(orjson.dumps(name).decode() in text for name in fields):
        return dump({**orjson.loads(text), **fields})
    added = orjson.dumps(fields).decode()
    return added if text == "{}" else f"{text[:-1]},{added[1:]}"


def escape_lines(text: str) -> str:
    """Escapes the characters that some readers take for the end of a line."""
    if not text.isascii():
        for char, escape in _LINE_ENDS:
            text = text.replace(char, escape)
    return text


def escape_lines_utf8(text: bytes) -> bytes:
    """The same in UTF-8."""
    if not text.isascii():
        for char, escape in _LINE_ENDS_UTF8:
            text = text.replace(char, escape)
    return text


def number(value: float) -> int | float:
    """A number for JSON: an int where it is whole and exact, so that 30.0 becomes 30."""
    return int(value) if value.is_integer() and abs(value) <= _EXACT else value


def require_finite(value: float) -> float:
    """The number as the double that the store keeps. Raises ValueError where JSON cannot write it."""
    try:
        result = float(value)
    except OverflowError:
        result = math.inf
    if not math.isfinite(result):
        raise ValueError("holds a number that JSON cannot write")
    return result


def require_text(text: str) -> str:
    """The same string. Raises ValueError where it cannot be encoded."""
    if not is_text(text):
        raise ValueError("holds a lone surrogate, which is not text")
    return text


def require_depth(depth: int) -> None:
    """Raises ValueError where `depth`, the levels that are left, is 0."""
    if not depth:
        raise ValueError(f"nests deeper than {MAX_DEPTH} levels")


class ValueBudget:
    """Counts the values of metadata or attachments against their bound."""

    def __init__(self, most: int) -> None:
        self._most = self._left = most

    def take(self) -> None:
        """Counts one value. Raises ValueError beyond the bound."""
        if not self._left:
            raise ValueError(f"holds more than {self._most} values")
        self._left -= 1


def _parse(text: str) -> Json:
    try:
        return load(text)
    except RecursionError:
        raise ValueError(f"nests deeper than {MAX_DEPTH} levels") from None
    except ValueError:
        raise ValueError("is not JSON") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _plain_fields(fields: Mapping[str, Json], depth: int, budget: ValueBudget) -> dict[str, Json]:
    require_depth(depth)
    return {require_text(key): _plain(item, depth, budget) for key, item in fields.items()}


def _plain_items(items: Sequence[Json], depth: int, budget: ValueBudget) -> list[Json]:
    require_depth(depth)
    return [_plain(item, depth, budget) for item in items]


def _plain(item: Json, depth: int, budget: ValueBudget) -> Json:
    """The value as a Struct would hold it: numbers are doubles."""
    budget.take()
    if isinstance(item, str):
        return require_text(item)
    if item is None or isinstance(item, bool):
        return item
    if isinstance(item, (int, float)):
        return number(require_finite(item))
    if isinstance(item, Mapping):
        return _plain_fields(item, depth - 1, budget)
    if isinstance(item, (list, tuple)):
        return _plain_items(item, depth - 1, budget)
    raise ValueError(f"holds {type(item).__name__}, which JSON cannot write")
