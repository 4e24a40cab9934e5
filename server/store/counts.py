"""How many sessions there are of each kind: numbers that each write keeps, so that nobody counts a table."""

from collections import Counter
from collections.abc import Iterable
from typing import Final, TypeAlias

from server.domain.sessions import Session

CountKey: TypeAlias = tuple[str, str, str]
"""What is counted: sessions in a state (LIVE, WARNED, EXPIRED), of an agent, of a user. Empty: of any."""

LIVE: Final = "live"
WARNED: Final = "warned"
"""Of those that are live."""
EXPIRED: Final = "expired"


def counts_of(session: Session) -> list[CountKey]:
    """The counts that a session adds one to."""
    if session.expiry_logged:
        return [(EXPIRED, "", "")]
    live = [
        (LIVE, agent_id, user_id) for agent_id in ("", session.agent_id) for user_id in ("", session.user_id)
    ]
    return [*live, (WARNED, "", "")] if session.warning_logged else live


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
