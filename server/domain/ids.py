"""UUIDs of any version. The API accepts either letter case; the service has only lower case inside."""

import os
import re
from typing import Final

from server.domain.errors import InvalidUuidError

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
_ID_BYTES: Final = 16
_POOL_BYTES: Final = 4096
_LATEST_MS: Final = 2**48 - 1
"""The last instant that a UUID of version 7 can tell."""
# Random bytes for the next ids: the system is asked for many at once. A child process must not give out those
# of its parent.
_pool: list[bytes] = []
os.register_at_fork(after_in_child=_pool.clear)


def new_id() -> str:
    """A fresh random UUID, of version 4."""
    if not _pool:
        fresh = os.urandom(_POOL_BYTES)
        _pool.extend(fresh[start : start + _ID_BYTES] for start in range(0, _POOL_BYTES, _ID_BYTES))
    digits, variant = (raw := _pool.pop()).hex(), "89ab"[raw[8] & 3]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


def id_at(now_ms: int) -> str:
    """A fresh UUID of version 7: ordered by its instant, in ms since the epoch, random beyond that.

    What is made at about the same time lies side by side in an index.
    """
    fresh = new_id()
    stamp = f"{min(max(now_ms, 0), _LATEST_MS):012x}"
    return f"{stamp[:8]}-{stamp[8:]}-7{fresh[15:]}"


def uuid_field(field: str, value: str) -> str:
    """The UUID in a field, in lower case. Raises InvalidUuidError."""
    lower = value.lower()
    if not _UUID.fullmatch(lower):
        raise InvalidUuidError(field, value)
    return lower
