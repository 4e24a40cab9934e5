"""Pages by AIP-158: bounded sizes, and tokens that are bound to their list."""

import base64
from collections.abc import Sequence

import orjson

from server.domain.errors import InvalidPaginationError

Item = str | int | None

_MAX_INT64 = 2**63 - 1


def page_size(requested: int, default: int, greatest: int) -> int:
    """The size of a page: 0 means the default, more than the greatest counts as that.

    Raises InvalidPaginationError for less than 0.
    """
    if requested < 0:
        raise InvalidPaginationError("page_size", requested, "must not be negative")
    return min(requested or default, greatest)


def make_token(scope: Sequence[Item], position: Sequence[Item]) -> str:
    """Makes an opaque token for a position in a list. `scope` names the list and its arguments."""
    return base64.urlsafe_b64encode(orjson.dumps([scope, position])).decode().rstrip("=")


def read_token(token: str, scope: Sequence[Item], kinds: Sequence[type]) -> list[Item]:
    """The position in a token, whose items have these types.

    Raises InvalidPaginationError for a token of anything but this very list.
    """
    try:
        found_scope, position = orjson.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    except (ValueError, TypeError) as error:
        raise _invalid(token) from error
    if (
        found_scope != list(scope)
        or not isinstance(position, list)
        or [type(item) for item in position] != list(kinds)
    ):
        raise _invalid(token)
    if any(isinstance(item, int) and abs(item) > _MAX_INT64 for item in position):
        raise _invalid(token)
    return position


def _invalid(token: str) -> InvalidPaginationError:
    return InvalidPaginationError(
        "page_token", token, "is not a page token of this list with these arguments"
    )
