"""UUIDs of any version. The API accepts either letter case; the service has only lower case inside."""

import re
import uuid

from server.domain.errors import InvalidUuidError

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)


def new_id() -> str:
    """A fresh random UUID."""
    return str(uuid.uuid4())


def uuid_field(field: str, value: str) -> str:
    """The UUID in a field, in lower case. Raises InvalidUuidError."""
    lower = value.lower()
    if not _UUID.fullmatch(lower):
        raise InvalidUuidError(field, value)
    return lower
