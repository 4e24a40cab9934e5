"""The way into a call: who makes it, whether that caller may, and at what rate. All of it before anything of
the request is parsed.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final, Protocol
from urllib.parse import unquote

from server.access.authentication import Authentication
from server.access.credentials import KEYS, read_credentials
from server.access.limits import Rates, address_key
from server.domain.access import (
    EVERYTHING,
    OPEN,
    RULES,
    AccessRule,
    Principal,
    Role,
    Scope,
    authorize,
    require_current,
    scope_of,
)
from server.domain.errors import (
    CredentialExpiredError,
    DomainError,
    PermissionDeniedError,
    RateLimitedError,
    UnauthenticatedError,
    UnavailableError,
)
from server.rpc.call import IN_PROCESS, Call, Caller
from server.rpc.paths import PREFIX

UNKNOWN_SHARE: Final = 0.5
"""Which part of any bound an address may have under way whose callers are not known."""

REMEMBERED: Final = 10_000
"""Of how many callers the terms are kept."""

RULES_BY_PATH: Final[dict[str, AccessRule]] = {f"{PREFIX}{name}": rule for name, rule in RULES.items()}

CertificateNames = Callable[[Caller], tuple[str, ...]]
"""Reads the names in the certificate of a caller that has one."""


class Gate(Protocol):
    """Lets callers in."""

    looks_ahead: bool
    """Whether there are calls that are not worth reading."""

    async def enter(self, method: str, caller: Caller) -> Call:
        """The call as its servicer sees it. Raises DomainError where the caller may not make it."""

    def may_let_in(self, method: str, metadata: Any) -> bool:
        """Whether a call is worth reading: not where its caller will be refused for its credential."""

    def require_current(self, principal: Principal) -> None:
        """Raises CredentialExpiredError where a credential that was let in has expired."""

    def is_removed(self, principal: Principal) -> bool:
        """Whether a credential that was let in is gone, or means something else now."""


class OpenGate:
    """Lets everybody in."""

    looks_ahead = False

    async def enter(self, method: str, caller: Caller) -> Call:
        return open_call(caller)

    def may_let_in(self, method: str, metadata: Any) -> bool:
        return True

    def require_current(self, principal: Principal) -> None:
        """Nobody has a credential."""

    def is_removed(self, principal: Principal) -> bool:
        return False


class AccessGate:
    """Lets in who has a credential that allows the call, or everybody where the service has none."""

    def __init__(
        self,
        authentication: Authentication,
        rates: Rates,
        now_ms: Callable[[], int],
        certificate_names: CertificateNames | None = None,
    ) -> None:
        """`certificate_names`: None where no client has a certificate."""
        self._authentication = authentication
        self._rates = rates
        self._now_ms = now_ms
        self._certificate_names = certificate_names
        self.looks_ahead = not (authentication.is_open or certificate_names)
        # The way of most calls where nothing is protected: who calls makes no difference.
        self._lets_everybody_in = authentication.is_open and not rates.has_any

    async def enter(self, method: str, caller: Caller) -> Call:
        rule = RULES_BY_PATH.get(method)
        if rule is None:
            if method.startswith(PREFIX):
                raise PermissionDeniedError("Nobody may call this method")
            # That of another API, which is there for everybody.
            return open_call(caller)
        metadata, peer = caller.invocation_metadata(), caller.peer()
        if self._lets_everybody_in and (not metadata or KEYS.isdisjoint([key for key, _ in metadata])):
            return open_call(caller)
        is_inside = peer == IN_PROCESS
        names: tuple[str, ...] = ()
        if self._certificate_names and not is_inside:
            names = self._certificate_names(caller)
        is_open, host, is_facade = self._authentication.is_open, host_of(peer), is_inside
        credentials = read_credentials(metadata, names, is_open=is_open)
        if credentials.facade_key and not is_inside and not is_open:
            facade = self._identify_facade(credentials.facade_key, host)
            if not credentials.secret and rule.is_public:
                # It asks for itself.
                return Call(caller, facade, scope_of(facade))
            is_facade = True
        principal = await self._authentication.identify(credentials, host, is_facade=is_facade)
        authorize(principal, rule)
        scope, account, share = _terms(principal)
        if not rule.is_public:
            # Health is asked for by who watches over the service, from the address of others, too.
            self._rates.take(account or "address:", rule.kind)
        return Call(caller, principal, scope, account, share)

    def may_let_in(self, method: str, metadata: Any) -> bool:
        rule = RULES_BY_PATH.get(method)
        if not self.looks_ahead or rule is None or rule.is_public:
            return True
        try:
            secret = read_credentials(metadata).secret
        except DomainError:
            return False
        return bool(secret) and self._authentication.may_know(secret)

    def _identify_facade(self, facade_key: str, host: str) -> Principal:
        """The facade of a key. Raises UnavailableError: its clients' credentials are not at fault."""
        try:
            return self._authentication.identify_facade(facade_key, host)
        except (UnauthenticatedError, CredentialExpiredError, RateLimitedError) as error:
            raise UnavailableError("The key of the REST facade is not good") from error

    def require_current(self, principal: Principal) -> None:
        require_current(principal, self._now_ms())

    def is_removed(self, principal: Principal) -> bool:
        return not self._authentication.is_current(principal)


def open_call(caller: Caller) -> Call:
    """A call that everybody may make."""
    return Call(caller, OPEN, EVERYTHING, account_of(host_of(caller.peer())), UNKNOWN_SHARE)


def account_of(host: str) -> str:
    """By what name the calls of an unknown caller are counted: its address; empty for this machine's own."""
    return f"address:{address_key(host)}" if host else ""


@lru_cache(REMEMBERED)
def _terms(principal: Principal) -> tuple[Scope, str, float]:
    """What a caller may see, by what name its calls are counted, and which part of any bound it may have.

    The name is empty for callers of this machine who are not known: they are not bounded.
    """
    scope = scope_of(principal)
    if principal.role in (Role.OPEN, Role.NOBODY):
        return scope, account_of(principal.address), UNKNOWN_SHARE
    if principal.user_id:
        # Whatever number of tokens a user has.
        return scope, f"user:{principal.tenant}/{principal.user_id}", principal.share
    return scope, f"key:{principal.tenant}/{principal.id}", principal.share


@lru_cache(REMEMBERED)
def host_of(peer: str) -> str:
    """The address that a call comes from, without its port; empty for this machine's own."""
    if not peer.startswith("ip"):
        # From within the process, or by a socket of this machine.
        return ""
    host = unquote(peer.removeprefix("ipv4:").removeprefix("ipv6:").rpartition(":")[0]).strip("[]")
    return "" if host.startswith("127.") or host in ("::1", "") else host
