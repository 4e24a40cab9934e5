"""What is the same in all simulated worlds: who is there, and the service's times and limits, which are
small.
"""

from server.domain.agents import ECHO_ID
from server.domain.deliveries import RetryPolicy
from server.domain.timeouts import TimeoutConfig, TimeoutPolicy
from tests.campaigns.simulation.state import Limits

T0 = 1_800_000_000_000
AGENTS = (ECHO_ID, "00000000-0000-4000-8000-00000000000a", "00000000-0000-4000-8000-00000000000b")
USERS = ("10000000-0000-4000-8000-000000000001", "10000000-0000-4000-8000-000000000002")

LEASE_SECONDS = 10.0
REPLY_SECONDS = 30.0
HEAL_SECONDS = 90.537
"""How long the service may take to give out all that is left once every agent answers at once.

It is no sum of other times: else a watcher might join at an expiry in the very last moment.
"""
PURGE_MINUTES = 20.0
POLICY = TimeoutPolicy(TimeoutConfig(5, True, 20, 1), 1, 60)
RETRIES = RetryPolicy(3, 1000, 8000)
LIMITS = Limits(1, 60, 5, 20, 1, 30 * 60_000, 60 * 60_000, RETRIES.max_attempts, 6)
