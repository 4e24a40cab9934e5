"""Reads JSON that agents wrote, whose strings may hold halves of UTF-16 surrogate pairs."""

import json
from contextlib import suppress
from typing import Any, NoReturn

import orjson

from server.domain.agent_text import join_halves


def read_json(text: str) -> Any:
    """The value of a JSON text, whose strings may hold halves of surrogate pairs. Raises ValueError."""
    with suppress(orjson.JSONDecodeError):
        return orjson.loads(text)
    # orjson refuses lone halves, which JSON may escape.
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError("nests too deeply") from error


def read_clean_json(text: str) -> Any:
    """The value of a JSON text: surrogate halves are joined, a lone one is a U+FFFD. Raises ValueError."""
    with suppress(orjson.JSONDecodeError):
        return orjson.loads(text)
    value = read_json(text)
    try:
        return orjson.loads(join_halves(json.dumps(value, ensure_ascii=False)))
    except RecursionError as error:
        raise ValueError("nests too deeply") from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
