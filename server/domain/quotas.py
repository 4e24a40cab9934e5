"""Quotas: how much a user, a session and a tenant may have in the store. 0: as much as it wants."""

from typing import Final, NamedTuple

from server.domain.errors import QuotaExceededError


class Quotas(NamedTuple):
    """The quotas of a service.

    `user_sessions`: live sessions of a user in its tenant. `session_entries`: of a session's log, beyond
    which it takes no message of its user. `session_bytes`: of content, metadata and attachments of its
    messages. `tenant_agents`: agents that a tenant registers.
    """

    user_sessions: int = 0
    session_entries: int = 0
    session_bytes: int = 0
    tenant_agents: int = 0


NO_QUOTAS: Final = Quotas()


class UserQuota(NamedTuple):
    """How many live sessions a user may have in its tenant."""

    user_id: str
    tenant: str
    limit: int


USER_SESSIONS: Final = "sessions of a user"
SESSION_ENTRIES: Final = "entries of a session"
SESSION_BYTES: Final = "bytes of a session"
TENANT_AGENTS: Final = "agents of a tenant"
"""The names of the quotas, as clients get them."""


def require_room(quota: str, limit: int, wanted: int) -> None:
    """Raises QuotaExceededError where there would be more than the limit, unless that is 0."""
    if limit and wanted > limit:
        raise QuotaExceededError(quota, limit)
