"""When to make a call again. Pure rules: who waits is the client's affair."""

import random
import time
from typing import Any, Final

import grpc

from eliza_sessions_client.calls import Call
from eliza_sessions_client.error_classes import (
    DeadlineExceededError,
    SessionNotFoundError,
    UnavailableError,
)
from eliza_sessions_client.errors import SessionsError
from eliza_sessions_client.failures import error_from

CALL_SECONDS: Final = 30.0
"""How long a call may take with all its attempts, where nothing else is said."""

MAX_PAUSE_SECONDS: Final = 5.0
"""How long a pause grows where the service does not say how long to wait."""

_FIRST_PAUSE_SECONDS: Final = 0.1


class Backoff:
    """Pauses that grow, each by chance a little shorter, so that clients do not come back together."""

    def __init__(self, most_s: float = MAX_PAUSE_SECONDS) -> None:
        self._most_s = most_s
        self._next_s = _FIRST_PAUSE_SECONDS

    def pause(self, at_least_s: float = 0.0) -> float:
        """The seconds to wait now: as the service says, or as long as it is the turn of."""
        longest_s, self._next_s = self._next_s, min(self._most_s, 2 * self._next_s)
        return max(at_least_s * random.uniform(1, 1.25), longest_s * random.uniform(0.5, 1))

    def reset(self) -> None:
        """Begins anew, because a call has worked."""
        self._next_s = _FIRST_PAUSE_SECONDS


class Attempts:
    """The attempts at one call, until its deadline."""

    def __init__(self, call: Call[Any], timeout_s: float) -> None:
        self._call = call
        self._earlier: SessionsError | None = None
        self._deadline_s = time.monotonic() + timeout_s
        self._backoff = Backoff()

    def left(self) -> float:
        """The seconds that are left."""
        return max(0.001, self._deadline_s - time.monotonic())

    def pause(self, failed: grpc.RpcError) -> float | None:
        """The seconds to wait before the next attempt; None: an attempt before has done it after all.

        :raises SessionsError: another attempt makes no sense, may do harm, or would come too late
        """
        error = error_from(failed)
        if self._earlier and self._call.removes and isinstance(error, SessionNotFoundError):
            return None
        if self._earlier and isinstance(error, DeadlineExceededError):
            # Says more than that the time is over.
            raise self._earlier from None
        if not may_repeat(error, is_repeatable=self._call.is_repeatable):
            raise error from None
        pause_s = self._backoff.pause(wait_of(error))
        if pause_s >= self.left():
            raise error from None
        self._earlier = error
        return pause_s


def wait_of(error: SessionsError) -> float:
    """How many seconds the service wants us to wait; 0 where it does not say."""
    return float(error.details.get("retryAfterSeconds") or 0)


def may_repeat(error: SessionsError, *, is_repeatable: bool) -> bool:
    """Whether a call may be made again. `is_repeatable`: for this call twice is the same as once."""
    if "retryAfterSeconds" in error.details:
        # The service has done nothing.
        return True
    return isinstance(error, UnavailableError) and is_repeatable
