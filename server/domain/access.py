"""Who may do what: the caller of a call as a value, and the table of the methods.

Pure rules: who a credential belongs to is found out in `server/access`, and whose a session is the store
checks by the `Scope`.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final, NamedTuple, Protocol

from server.domain.errors import CredentialExpiredError, PermissionDeniedError, UnauthenticatedError

ALL_TENANTS: Final = "*"
"""The tenant of an administrator who sees all of them."""


class Role(StrEnum):
    """What a caller is."""

    NOBODY = "nobody"
    """A caller without a credential, where the service is protected."""
    OPEN = "open"
    """Any caller of a service that is open."""
    USER = "user"
    """A user: has its own sessions."""
    AGENT = "agent"
    """A worker of one agent: takes its deliveries, reads its sessions."""
    SERVICE = "service"
    """A backend: has every session of its tenant."""
    ADMIN = "admin"
    """An operator: has agents, counts and users' data, too."""
    FACADE = "facade"
    """A REST facade: asks how the service is, and says from which address a call comes."""


class Verb(StrEnum):
    """What a method does to a session."""

    READ = "read"
    SEND = "send"
    """Creates, sends, renews, keeps alive."""
    CHANGE = "change"
    """Changes the timeout settings, deletes."""


ALL_VERBS: Final = frozenset(Verb)


class RateKind(StrEnum):
    """The kinds of calls that have a rate each."""

    CREATE = "create"
    SEND = "send"
    READ = "read"
    WATCH = "watch"
    ADMIN = "admin"


class Principal(NamedTuple):
    """Who makes a call.

    `id` names the key or token for the log: it is never the credential. `source` and `proof` say where the
    credential came from and which one of them it was, so that its removal is noticed. What it is narrowed to
    is empty where it is not. `not_after_ms`: the instant from which on the credential is expired.
    `on_behalf`: a service that has narrowed itself to a user for this call. `share`: the part of any bound
    that it may have under way. `address` is the caller's address where it is known.
    """

    id: str
    role: Role
    tenant: str = ""
    user_id: str = ""
    agent_id: str = ""
    session_id: str = ""
    verbs: frozenset[Verb] = ALL_VERBS
    not_after_ms: int | None = None
    source: str = ""
    proof: str = ""
    on_behalf: bool = False
    share: float = 1.0
    address: str = ""


class _Agent(Protocol):
    """An agent, as far as a scope goes by it."""

    @property
    def id(self) -> str: ...
    @property
    def tenant(self) -> str: ...


class _Session(Protocol):
    """A session, as far as a scope goes by it."""

    @property
    def id(self) -> str: ...
    @property
    def tenant(self) -> str: ...
    @property
    def user_id(self) -> str: ...
    @property
    def agent_id(self) -> str: ...


class Scope(NamedTuple):
    """The sessions and agents that a call may see. None: of any."""

    tenant: str | None = None
    user_id: str | None = None
    agent_id: str | None = None
    session_id: str | None = None

    def has(self, session: _Session) -> bool:
        """Whether a session is one of these."""
        return self.includes(session.id, session.tenant, session.user_id, session.agent_id)

    def includes(self, session_id: str, tenant: str, user_id: str, agent_id: str) -> bool:
        """Whether a session of which only this is known is one of these."""
        return (
            self.tenant in (None, tenant)
            and self.user_id in (None, user_id)
            and self.agent_id in (None, agent_id)
            and self.session_id in (None, session_id)
        )

    def has_agent(self, agent: _Agent) -> bool:
        """Whether an agent is one of these: its tenant's own, or one of all tenants."""
        return (self.tenant is None or agent.tenant in ("", self.tenant)) and (
            self.agent_id is None or self.agent_id == agent.id
        )

    def owns_agent(self, agent: _Agent) -> bool:
        """Whether an agent may be changed: another tenant's may not, nor may one of all tenants by one of
        them.
        """
        return (self.tenant is None or agent.tenant == self.tenant) and (
            self.agent_id is None or self.agent_id == agent.id
        )

    @property
    def new_tenant(self) -> str:
        """The tenant of what is made in this scope."""
        return self.tenant or ""


EVERYTHING: Final = Scope()
"""What the service itself sees, and everybody where it is open."""

OPEN: Final = Principal("open", Role.OPEN)
"""The caller of an open service."""

NOBODY: Final = Principal("nobody", Role.NOBODY, verbs=frozenset())
"""The caller of a protected service who has no credential."""


class AccessRule(NamedTuple):
    """Who may call a method.

    `in_session`: a credential for one session may, too. `is_audited`: each success is a line of the audit
    log. `is_public`: it needs no credential. `of_all_tenants`: it tells of the whole service, and is for
    whoever sees all of it.
    """

    roles: frozenset[Role]
    verb: Verb
    kind: RateKind
    in_session: bool = False
    is_audited: bool = False
    is_public: bool = False
    of_all_tenants: bool = False


_CALLERS: Final = frozenset((Role.OPEN, Role.USER, Role.SERVICE, Role.ADMIN))
_READERS: Final = _CALLERS | {Role.AGENT}
_WORKERS: Final = frozenset((Role.OPEN, Role.AGENT))
_BACKENDS: Final = frozenset((Role.OPEN, Role.SERVICE, Role.ADMIN))
_ADMINS: Final = frozenset((Role.OPEN, Role.ADMIN))

_READ: Final = AccessRule(_READERS, Verb.READ, RateKind.READ)
_OF_SESSION: Final = _READ._replace(in_session=True)
_WATCH: Final = _OF_SESSION._replace(kind=RateKind.WATCH)
_SEND: Final = AccessRule(_CALLERS, Verb.SEND, RateKind.SEND, in_session=True)
_CREATE: Final = AccessRule(_CALLERS, Verb.SEND, RateKind.CREATE)
_CHANGE: Final = AccessRule(_CALLERS, Verb.CHANGE, RateKind.SEND, in_session=True)
_WORK: Final = AccessRule(_WORKERS, Verb.SEND, RateKind.SEND)
_LOOK: Final = AccessRule(_BACKENDS, Verb.READ, RateKind.READ)
_ADMINISTER: Final = AccessRule(_ADMINS, Verb.CHANGE, RateKind.ADMIN, is_audited=True)
_INSPECT: Final = AccessRule(_ADMINS, Verb.READ, RateKind.ADMIN)
_OVERSEE: Final = _INSPECT._replace(of_all_tenants=True)

RULES: Final[Mapping[str, AccessRule]] = {
    "SessionService/CreateSession": _CREATE,
    "SessionService/GetSession": _OF_SESSION,
    "SessionService/ListSessions": _READ,
    "SessionService/DeleteSession": _CHANGE,
    "SessionService/RenewSession": _SEND,
    "SessionService/UpdateTimeout": _CHANGE,
    "SessionService/SendHeartbeat": _SEND,
    "SessionService/WatchSession": _WATCH,
    "SessionService/WatchSessions": _WATCH,
    "SessionService/CreateAccessToken": AccessRule(_CALLERS, Verb.READ, RateKind.CREATE),
    "SessionService/GetServiceStatus": AccessRule(frozenset(Role), Verb.READ, RateKind.READ, is_public=True),
    "MessageService/SendMessage": _SEND,
    "MessageService/Converse": _SEND,
    "MessageService/ListMessages": _OF_SESSION,
    "MessageService/ExportTranscript": AccessRule(_CALLERS, Verb.READ, RateKind.READ),
    "AgentService/CreateAgent": _ADMINISTER,
    "AgentService/GetAgent": _LOOK,
    "AgentService/ListAgents": _LOOK,
    "AgentService/UpdateAgent": _ADMINISTER,
    "AgentService/DeleteAgent": _ADMINISTER,
    "AgentService/Connect": _WORK._replace(kind=RateKind.WATCH),
    "AgentService/Reply": _WORK,
    "UserDataService/ListUserSessions": _LOOK,
    "UserDataService/ExportUserData": _INSPECT._replace(is_audited=True),
    "UserDataService/DeleteUserData": _ADMINISTER,
    "AdminService/GetOverview": _OVERSEE,
    "AdminService/GetSystem": _OVERSEE,
    "AdminService/SearchSessions": _LOOK,
    "AdminService/ListDeliveries": _LOOK,
    "AdminService/RedeliverMessage": _ADMINISTER,
    "AdminService/GetAgentActivity": _INSPECT,
    "ClockService/GetClock": _INSPECT,
    "ClockService/SetClock": _ADMINISTER,
    "ClockService/AdvanceClock": _ADMINISTER,
}
"""Who may call each method, by its service and name. A method without a row is not served."""


def authorize(principal: Principal, rule: AccessRule) -> None:
    """Checks that a caller may call a method.

    :raises UnauthenticatedError: it has no credential
    :raises PermissionDeniedError: its role or its verbs do not allow it
    """
    if rule.is_public:
        return
    if principal.role is Role.NOBODY:
        raise UnauthenticatedError("The service needs a credential")
    if principal.role not in rule.roles or (principal.session_id and not rule.in_session):
        raise PermissionDeniedError(f"The role {principal.role} may not do this")
    if rule.verb not in principal.verbs:
        raise PermissionDeniedError(f"The credential does not allow to {rule.verb}")
    if rule.of_all_tenants and scope_of(principal) != EVERYTHING:
        raise PermissionDeniedError("Only an administrator of all tenants may do this")


def scope_of(principal: Principal) -> Scope:
    """The sessions and agents that a caller may see."""
    if principal.role is Role.OPEN and not principal.user_id:
        return EVERYTHING
    return Scope(
        None if principal.role is Role.OPEN or principal.tenant == ALL_TENANTS else principal.tenant,
        principal.user_id or None,
        principal.agent_id or None,
        principal.session_id or None,
    )


def on_behalf_of(principal: Principal, user_id: str) -> Principal:
    """A service, narrowed to one of its users. Raises PermissionDeniedError for another role, or another
    user than that of the credential.
    """
    if principal.user_id == user_id:
        return principal
    if principal.role not in (Role.SERVICE, Role.OPEN) or principal.user_id or principal.session_id:
        raise PermissionDeniedError("Only a service may act on behalf of a user")
    return principal._replace(user_id=user_id, on_behalf=True)


def require_own_user(principal: Principal, user_id: str) -> None:
    """Raises PermissionDeniedError where a caller that is narrowed to a user acts for another one."""
    if principal.user_id and principal.user_id != user_id:
        raise PermissionDeniedError("The credential is that of another user")


def require_transcripts(principal: Principal, *, users_may_read: bool) -> None:
    """Raises PermissionDeniedError for a user, unless users may read the transcripts of their sessions."""
    if principal.role is Role.USER and not users_may_read:
        raise PermissionDeniedError("Users may not read transcripts")


def require_current(principal: Principal, now_ms: int) -> None:
    """Raises CredentialExpiredError from the instant on from which the credential is expired."""
    if principal.not_after_ms is not None and now_ms >= principal.not_after_ms:
        raise CredentialExpiredError("The credential has expired")


def sees_counts(principal: Principal) -> bool:
    """Whether a caller is told how many sessions the service has."""
    return principal.role in (Role.OPEN, Role.ADMIN) and not principal.user_id


def sees_whole_agents(principal: Principal) -> bool:
    """Whether a caller sees the settings and the status of agents; others see id, name and kind."""
    return principal.role in (Role.OPEN, Role.ADMIN)
