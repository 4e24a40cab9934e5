"""UUIDs of any version. The API accepts either letter case; the service has only lower case inside."""

import os
import re
from typing import Final

from server.domain.errors import InvalidUuidError

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
_ID_BYTES: Final = 16
_POOL_BYTES: Final = 4096
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


def uuid_field(field: str, value: str) -> str:
    """The UUID in a field, in lower case. Raises InvalidUuidError."""
    lower = value.lower()
    if not _UUID.fullmatch(lower):
        raise InvalidUuidError(field, value)
    return lower
