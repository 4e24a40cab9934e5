"""How many sessions there are of each kind: numbers that each write keeps, so that nobody counts a table."""

from collections import Counter
from collections.abc import Iterable
from typing import Final, TypeAlias

from server.domain.sessions import Session

CountKey: TypeAlias = tuple[str, str, str, str]
"""What is counted: sessions in a state (LIVE, WARNED, EXPIRED), of an agent, of a user, of a tenant. An empty
agent or user: of any. Those of all tenants are added up when they are asked for.
"""

LIVE: Final = "live"
WARNED: Final = "warned"
"""Of those that are live."""
EXPIRED: Final = "expired"


def counts_of(session: Session) -> list[CountKey]:
    """The counts that a session adds one to."""
    state, tenant = EXPIRED if session.expiry_logged else LIVE, session.tenant
    counts = counts_of_state(state, session.agent_id, session.user_id, tenant)
    warned = session.warning_logged and not session.expiry_logged
    return [*counts, (WARNED, "", "", tenant)] if warned else counts


def counts_of_state(state: str, agent_id: str, user_id: str, tenant: str) -> list[CountKey]:
    """The counts of a state that a session adds one to."""
    return [(state, agent, user, tenant) for agent in ("", agent_id) for user in ("", user_id)]


def live_of_user(user_id: str, tenant: str) -> CountKey:
    """The count of a user's live sessions."""
    return LIVE, "", user_id, tenant


def changed_counts(changes: Iterable[tuple[Session | None, Session | None]]) -> Counter[CountKey]:
    """By how much each count changes, given sessions as they were before and are after; None: not there."""
    counts: Counter[CountKey] = Counter()
    for before, after in changes:
        if (
            before
            and after
            and (before.warning_logged, before.expiry_logged) == (after.warning_logged, after.expiry_logged)
        ):
            continue
        counts.update(counts_of(after) if after else ())
        counts.subtract(counts_of(before) if before else ())
    return counts
