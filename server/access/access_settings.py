"""The settings of authentication, as values."""

from pathlib import Path
from typing import NamedTuple


class AccessSettings(NamedTuple):
    """Where credentials come from; None where they do not. `jwt_keys` is a path or an https URL."""

    keys_file: Path | None = None
    auth_token: str | None = None
    access_token_keys_file: Path | None = None
    jwt_keys: str | None = None
    jwt_issuer: str = ""
    jwt_audience: str = ""
    jwt_user_claim: str = "sub"
    jwt_tenant_claim: str = ""
    users_may_change: bool = False
