"""Limits of what one caller may take: rates, wrong credentials, and shares of what is under way."""

import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import Final, NamedTuple

from server.domain.access import RateKind
from server.domain.errors import OverloadedError, RateLimitedError

MAX_KEYS: Final = 100_000
"""How many callers are remembered at a time; the one that was heard of the longest ago is forgotten."""
MAX_ADDRESS_LENGTH: Final = 64
"""How much of what is no address is kept."""
WRONG_POLICY: Final = "wrong-credentials"
RATE_FORM: Final = "a rate such as 10/second, 600/minute or 10000/hour, of at most a million"

_WINDOWS: Final = {"second": 1, "minute": 60, "hour": 3600}
_RATE: Final = re.compile(r"([1-9][0-9]{0,6})\s*/\s*(second|minute|hour)", re.ASCII | re.IGNORECASE)
_NS: Final = 1_000_000_000


class Rate(NamedTuple):
    """At most `limit` at a time, and from then on as many in `window_s`, evenly."""

    limit: int
    window_s: int


WRONG_RATE: Final = Rate(10, 60)


def read_rate(text: str) -> Rate | None:
    """Reads a rate; None where the text is empty. Raises ValueError."""
    if not text.strip():
        return None
    found = _RATE.fullmatch(text.strip())
    if not found or int(found[1]) > 1_000_000:
        raise ValueError(RATE_FORM)
    return Rate(int(found[1]), _WINDOWS[found[2].lower()])


class _Instants:
    """When each caller has worked off its calls, in whole ns: of the `size` callers that called last."""

    def __init__(self, clock: Callable[[], float], size: int) -> None:
        self._clock = clock
        self._size = size
        self._due_ns: OrderedDict[str, int] = OrderedDict()

    def take(self, key: str, step_ns: int, slack_ns: int) -> float:
        """Counts one by the generic cell rate algorithm (GCRA), and returns 0; or returns after how many
        seconds one is allowed again, and counts nothing.
        """
        now_ns = int(self._clock() * _NS)
        due_ns = self._due_ns.get(key, 0)
        if due_ns < now_ns:
            due_ns = now_ns
        wait_ns = due_ns - now_ns - slack_ns
        if wait_ns > 0:
            return wait_ns / _NS
        self._due_ns[key] = due_ns + step_ns
        self._due_ns.move_to_end(key)
        if len(self._due_ns) > self._size:
            self._due_ns.popitem(last=False)
        return 0.0

    def __len__(self) -> int:
        return len(self._due_ns)


class _Policy:
    """A rate with its name, over the callers' instants."""

    def __init__(self, name: str, rate: Rate, instants: _Instants) -> None:
        self._name = name
        self._rate = rate
        self._instants = instants
        self._step_ns = rate.window_s * _NS // rate.limit
        self._slack_ns = self._step_ns * (rate.limit - 1)

    def take(self, key: str) -> None:
        """Counts one. Raises RateLimitedError where it is one too many, and counts nothing then."""
        wait_s = self._instants.take(f"{self._name} {key}", self._step_ns, self._slack_ns)
        if wait_s:
            raise RateLimitedError(self._name, self._rate.limit, self._rate.window_s, wait_s)


class Rates:
    """The rates of callers, by the kind of their calls. A kind without a rate has no limit."""

    def __init__(
        self, rates: Mapping[RateKind, Rate | None], clock: Callable[[], float], size: int = MAX_KEYS
    ) -> None:
        """`clock` tells monotonic seconds; `size` bounds what is remembered, a caller's kinds one by one."""
        self._instants = _Instants(clock, size)
        self._policies = {
            kind: _Policy(kind.value, rate, self._instants) for kind, rate in rates.items() if rate
        }

    @property
    def has_any(self) -> bool:
        """Whether any kind of calls has a rate."""
        return bool(self._policies)

    def take(self, key: str, kind: RateKind) -> None:
        """Counts a call of a caller. Raises RateLimitedError where it is one too many."""
        policy = self._policies.get(kind)
        if policy is not None:
            policy.take(key)

    def __len__(self) -> int:
        return len(self._instants)


class WrongCredentials:
    """Limits wrong credentials by address, so that guessing and its log stay cheap. It never concerns a right
    one.
    """

    def __init__(self, clock: Callable[[], float], size: int = MAX_KEYS) -> None:
        """`clock` tells monotonic seconds."""
        self._instants = _Instants(clock, size)
        self._policy = _Policy(WRONG_POLICY, WRONG_RATE, self._instants)

    def take(self, address: str) -> None:
        """Counts a wrong credential. Raises RateLimitedError where it is one too many."""
        self._policy.take(address_key(address))

    def __len__(self) -> int:
        return len(self._instants)


@lru_cache(4096)
def address_key(address: str) -> str:
    """What limits by address count: an address of IPv4, the /64 of one of IPv6, any other text as it is."""
    try:
        found = ip_address(address)
    except ValueError:
        return address[:MAX_ADDRESS_LENGTH]
    if isinstance(found, IPv6Address):
        if found.ipv4_mapped:
            return str(found.ipv4_mapped)
        return f"{IPv6Address(int(found) >> 64 << 64)}/64"
    return str(found)


class Shares:
    """Counts what each caller has under way, so that none takes more than its share of a bound."""

    def __init__(self) -> None:
        self._under_way: dict[tuple[str, str], int] = {}

    def begin(self, key: str, share: float, bound: int, what: str, amount: int = 1) -> None:
        """Counts `amount` more. Each `begin` that does not raise needs its `end`.

        :raises OverloadedError: the caller has its share of the bound under way already
        """
        place = (key, what)
        before = self._under_way.get(place, 0)
        if before >= max(1, int(bound * share)):
            raise OverloadedError(f"the caller has its share of {what} under way")
        self._under_way[place] = before + amount

    def end(self, key: str, what: str, amount: int = 1) -> None:
        """Counts `amount` less."""
        place = (key, what)
        left = self._under_way[place] - amount
        if left > 0:
            self._under_way[place] = left
        else:
            del self._under_way[place]

    @contextmanager
    def hold(self, key: str, share: float, bound: int, what: str, amount: int = 1) -> Iterator[None]:
        """Counts `amount` more for as long as the block runs. Raises OverloadedError as `begin` does."""
        self.begin(key, share, bound, what, amount)
        try:
            yield
        finally:
            self.end(key, what, amount)

    def __len__(self) -> int:
        return len(self._under_way)
