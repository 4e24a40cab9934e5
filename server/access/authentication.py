"""Finds out who makes a call by what it presents: keys, tokens, certificates."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from eliza.sessions.call_metadata import SESSION_TOKEN_PREFIX
from server.access.access_settings import AccessSettings
from server.access.credentials import ON_BEHALF_OF_FIELD, Credentials
from server.access.errors import AccessError
from server.access.files import WatchedFile
from server.access.keys import NO_KEYS, KeyTable, digest_of, open_keys
from server.access.limits import WrongCredentials
from server.access.session_tokens import SessionTokens
from server.access.static_token import VARIABLE as STATIC_VARIABLE
from server.access.static_token import read_static_token
from server.domain.access import (
    ALL_VERBS,
    NOBODY,
    OPEN,
    Principal,
    Role,
    Verb,
    on_behalf_of,
    require_current,
)
from server.domain.errors import UnauthenticatedError
from server.domain.ids import uuid_field

if TYPE_CHECKING:
    from server.access.jwt_tokens import JwtTokens

_USER_VERBS: Final = ALL_VERBS - {Verb.CHANGE}


class Authentication:
    """Who callers are. Made by `open`, ended by `close`.

    `is_open`: there is no source of credentials, so that everybody may do everything. `tokens` makes session
    access tokens.
    """

    def __init__(
        self,
        keys: WatchedFile[KeyTable] | None,
        static: tuple[bytes, Principal] | None,
        jwt: "JwtTokens | None",
        tokens: SessionTokens,
        *,
        now_ms: Callable[[], int],
        monotonic: Callable[[], float],
    ) -> None:
        self.is_open = keys is None and static is None and jwt is None
        self.tokens = tokens
        self._keys = keys
        self._static = dict([static]) if static else {}
        self._jwt = jwt
        self._now_ms = now_ms
        self._wrong = WrongCredentials(monotonic)

    @classmethod
    def open(
        cls,
        settings: AccessSettings,
        now_ms: Callable[[], int],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> "Authentication":
        """Reads the files of the settings. `now_ms` tells the service's time, `monotonic` seconds.

        :raises AccessError: one of them cannot be used
        """
        user_verbs = ALL_VERBS if settings.users_may_change else _USER_VERBS
        keys = static = jwt = None
        if settings.keys_file is not None:
            keys = open_keys(settings.keys_file, now_ms, user_verbs)
        if settings.auth_token is not None:
            try:
                static = read_static_token(settings.auth_token)
            except ValueError as error:
                raise AccessError(f"{STATIC_VARIABLE} is wrong: it must be {error}") from None
        if settings.jwt_keys is not None:
            jwt = _open_jwt(settings, settings.jwt_keys, user_verbs, now_ms, monotonic)
        tokens = SessionTokens(now_ms, settings.access_token_keys_file)
        return cls(keys, static, jwt, tokens, now_ms=now_ms, monotonic=monotonic)

    async def identify(self, credentials: Credentials, address: str, *, is_facade: bool) -> Principal:
        """Who makes a call that comes from an address.

        `is_facade`: the call comes through a REST facade that is known, by its key or because it is in this
        process. So its word for the client's address is taken, and its own certificate is not the client's.

        :raises UnauthenticatedError: the credential is wrong
        :raises CredentialExpiredError: it was good once
        :raises RateLimitedError: it is wrong, and too many from this address were
        :raises InvalidUuidError: X-On-Behalf-Of is no UUID
        :raises PermissionDeniedError: it may not act on behalf of that user
        :raises UnavailableError: the keys of tokens cannot be had now
        """
        if is_facade and credentials.client_address:
            address = credentials.client_address
        if credentials.secret:
            try:
                principal = self._find(credentials.secret)
                if principal is None:
                    principal = await self._find_token(credentials.secret)
            except UnauthenticatedError:
                self._wrong.take(address)
                raise
        else:
            principal = self._nobody(() if is_facade else credentials.certificate_names)
        if credentials.on_behalf_of and principal.role is not Role.NOBODY:
            principal = on_behalf_of(principal, uuid_field(ON_BEHALF_OF_FIELD, credentials.on_behalf_of))
        if address == principal.address:
            return principal
        # As `_replace`, which takes four times as long.
        return Principal._make((*principal[:-1], address))

    def may_know(self, secret: str) -> bool:
        """Whether a secret may be somebody's, as far as that is known at once, whatever the time is."""
        if secret.startswith(SESSION_TOKEN_PREFIX) or (self._jwt is not None and _looks_like_jwt(secret)):
            return True
        digest = digest_of(secret)
        return digest in self._table.by_digest or digest in self._static

    def identify_facade(self, facade_key: str, address: str = "") -> Principal:
        """The facade of a key, which is at an address.

        :raises UnauthenticatedError: it is no facade's key
        :raises CredentialExpiredError: it was good once
        :raises RateLimitedError: it is wrong, and too many from this address were
        """
        principal = self._table.by_digest.get(digest_of(facade_key))
        if principal is None or principal.role is not Role.FACADE:
            self._wrong.take(address)
            raise UnauthenticatedError("The facade's key is wrong")
        require_current(principal, self._now_ms())
        return Principal._make((*principal[:-1], address))

    def is_current(self, principal: Principal) -> bool:
        """Whether the credential of a caller is still there and means the same, whatever the time is."""
        if principal.source == "key":
            return _is_same(self._table.by_proof.get(principal.proof), principal)
        if principal.source == "certificate":
            return _is_same(self._table.by_certificate.get(principal.proof), principal)
        if principal.source == "session_token":
            return self.tokens.has_key(principal.proof)
        if principal.source == "jwt":
            return self._jwt is not None and self._jwt.has_key(principal.proof)
        return True

    def reload_if_changed(self) -> None:
        """Reads again what has changed. Blocking: to be called in a thread, each second."""
        if self._keys is not None:
            self._keys.reload_if_changed()
        self.tokens.reload_if_changed()
        if self._jwt is not None:
            self._jwt.source.reload_if_changed()

    def list_troubles(self) -> list[str]:
        """Why sources of credentials cannot be read again, so that their last content stays."""
        found = [self.tokens.trouble]
        if self._keys is not None:
            found.append(self._keys.trouble)
        if self._jwt is not None:
            found.append(self._jwt.source.trouble)
        return [trouble for trouble in found if trouble]

    async def close(self) -> None:
        """Lets go of connections."""
        if self._jwt is not None:
            await self._jwt.source.close()

    @property
    def _table(self) -> KeyTable:
        return NO_KEYS if self._keys is None else self._keys.value

    def _find(self, secret: str) -> Principal | None:
        """The caller of a secret that is known already. Raises what `identify` does."""
        if secret.startswith(SESSION_TOKEN_PREFIX):
            return self.tokens.read(secret)
        if self.is_open:
            # Clients of this ecosystem send a key whether one is wanted or not.
            return OPEN
        digest = digest_of(secret)
        principal = self._table.by_digest.get(digest) or self._static.get(digest)
        if principal is not None:
            require_current(principal, self._now_ms())
        elif self._jwt is not None:
            principal = self._jwt.find_known(digest)
        return principal

    async def _find_token(self, secret: str) -> Principal:
        """The caller of a token that is not known yet. Raises what `identify` does."""
        if self._jwt is None or not _looks_like_jwt(secret):
            raise UnauthenticatedError("The credential is wrong")
        return await self._jwt.identify(secret, digest_of(secret))

    def _nobody(self, certificate_names: tuple[str, ...]) -> Principal:
        """The caller without a secret: of a certificate, if it is a key's. Raises CredentialExpiredError."""
        for name in certificate_names:
            principal = self._table.by_certificate.get(name)
            if principal is not None:
                require_current(principal, self._now_ms())
                return principal
        return OPEN if self.is_open else NOBODY


def _open_jwt(
    settings: AccessSettings,
    keys: str,
    user_verbs: frozenset[Verb],
    now_ms: Callable[[], int],
    monotonic: Callable[[], float],
) -> "JwtTokens":
    """The tokens by these keys, a path or an https URL. Raises AccessError."""
    # Only here, because cryptography takes a tenth of a start.
    from server.access.jwks import open_source
    from server.access.jwt_keys import JwtRules
    from server.access.jwt_tokens import JwtTokens

    if not settings.jwt_issuer or not settings.jwt_audience:
        raise AccessError("JWT_KEYS is set, so JWT_ISSUER and JWT_AUDIENCE must be, too")
    rules = JwtRules(
        settings.jwt_issuer,
        settings.jwt_audience,
        settings.jwt_user_claim,
        settings.jwt_tenant_claim,
        user_verbs,
    )
    return JwtTokens(open_source(keys, monotonic), rules, now_ms)


def _looks_like_jwt(secret: str) -> bool:
    """Whether a secret has the shape of a token: three parts, the first of which is an object."""
    return secret.startswith("ey") and secret.count(".") == 2


def _is_same(now: Principal | None, then: Principal) -> bool:
    """Whether a key allows what it did when a caller was found by it, and no shorter."""
    return (
        now is not None
        and (now.id, now.role, now.tenant, now.agent_id) == (then.id, then.role, then.tenant, then.agent_id)
        and now.user_id == ("" if then.on_behalf else then.user_id)
        and (
            now.not_after_ms is None
            or (then.not_after_ms is not None and now.not_after_ms >= then.not_after_ms)
        )
    )
