"""Which failed calls are in the log."""

import pytest
from structlog.testing import capture_logs

from server.access.limits import WRONG_POLICY
from server.domain.errors import DomainError, RateLimitedError, SessionNotFoundError, UnauthenticatedError
from server.rpc.failures import fault_of
from server.rpc.paths import PREFIX


@pytest.mark.parametrize(
    ("error", "count"),
    [
        (SessionNotFoundError("x"), 1),
        (UnauthenticatedError("The credential is wrong"), 1),
        (RateLimitedError("read", 10, 60, 1.0), 1),
        # Whoever guesses would fill the disk.
        (RateLimitedError(WRONG_POLICY, 10, 60, 1.0), 0),
    ],
)
def test_a_failed_call_is_a_line_and_further_guesses_are_none(error: DomainError, count: int) -> None:
    with capture_logs() as lines:
        fault_of(f"{PREFIX}SessionService/GetSession", None, error, None, "r1")
    assert len(lines) == count
