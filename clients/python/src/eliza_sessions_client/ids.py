"""Ids of users: the API wants UUIDs, and most applications have something else."""

import re
from typing import Final
from uuid import NAMESPACE_URL, uuid5

USERS: Final = "https://example.com/users"
"""The namespace of `user_id_for` where none is given."""

_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def user_id_for(user: str, *, namespace: str = USERS) -> str:
    """The UUID of a user whom an application knows by any text, such as an e-mail address. It is always the
    same.

    It is `uuid5(uuid5(NAMESPACE_URL, namespace), user)`. A text that is a UUID already stays what it is, in
    lower case. The service makes the user of a JWT the same way, with the token's issuer as `namespace`. The
    client for TypeScript does the same as this one.
    """
    if _UUID.fullmatch(user):
        return user.lower()
    return str(uuid5(uuid5(NAMESPACE_URL, namespace), user))
