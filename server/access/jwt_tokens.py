"""JSON web tokens as credentials. Those that were good are remembered, so that each is checked once."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from server.access.jwks import KeySource
from server.access.jwt_keys import JwtRules, kid_of, verify
from server.domain.access import Principal, require_current
from server.domain.errors import CredentialExpiredError, UnauthenticatedError

MAX_REMEMBERED: Final = 10_000


class JwtTokens:
    """The callers of tokens."""

    def __init__(
        self, source: KeySource, rules: JwtRules, now_ms: Callable[[], int], size: int = MAX_REMEMBERED
    ) -> None:
        """`size` is how many tokens are remembered: those of the latest calls."""
        self.source = source
        self._rules = rules
        self._now_ms = now_ms
        self._size = size
        self._known: OrderedDict[bytes, Principal] = OrderedDict()
        self._known_by = source.keys

    def find_known(self, digest: bytes) -> Principal | None:
        """The caller of a token that was good, by its SHA-256; None where it is not remembered.

        :raises CredentialExpiredError: it has expired since
        """
        self._forget_if_changed()
        found = self._known.get(digest)
        if found is None:
            return None
        try:
            require_current(found, self._now_ms())
        except CredentialExpiredError:
            del self._known[digest]
            raise
        self._known.move_to_end(digest)
        return found

    async def identify(self, token: str, digest: bytes) -> Principal:
        """The caller of a token that is not remembered.

        :raises UnauthenticatedError: the token is wrong
        :raises CredentialExpiredError: it was good once
        :raises UnavailableError: the keys cannot be had now
        """
        kid = kid_of(token)
        key = await self.source.find(kid)
        if key is None:
            raise UnauthenticatedError("The token is signed by a key that is not known")
        principal = verify(token, key, self._rules, self._now_ms())
        self._forget_if_changed()
        # Another thread may have changed the keys since.
        if self.has_key(principal.proof):
            self._known[digest] = principal
            if len(self._known) > self._size:
                self._known.popitem(last=False)
        return principal

    def has_key(self, proof: str) -> bool:
        """Whether the key of a principal's `proof` is still there."""
        return proof in self.source.keys.proofs

    def _forget_if_changed(self) -> None:
        """Forgets all tokens where the keys are others than those that they were checked by."""
        if self._known_by is not self.source.keys:
            self._known_by = self.source.keys
            self._known.clear()

    def __len__(self) -> int:
        return len(self._known)
