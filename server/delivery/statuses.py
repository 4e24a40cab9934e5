"""How agents fare: their deliveries that are open and in hand, and what their last failures were."""

from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import structlog

from eliza.sessions.errors import forget_frames
from server.agents.connector import AgentUnavailableError, NoReplyError
from server.domain.deliveries import AttemptFailure, Delivery, DeliveryState

MAX_AGENTS: Final = 1000
"""Of how many agents the last failure is kept: of those that failed last."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class LastFailure:
    """An attempt that came to nothing, of which message, and whether there will be no more."""

    session_id: str
    message_id: str
    failure: AttemptFailure
    final: bool


@dataclass(frozen=True, slots=True)
class AgentStatus:
    """How an agent fares: deliveries that are open, those of them that it has in hand, and its last failure
    since the start.
    """

    open: int
    in_hand: int
    last_failure: LastFailure | None


class AgentStatuses:
    """How all agents fare, since the start."""

    def __init__(self) -> None:
        self._open: Counter[str] = Counter()
        self._in_hand: Counter[str] = Counter()
        self._last_failures: OrderedDict[str, LastFailure] = OrderedDict()
        # Why an agent cannot be asked, as it was logged.
        self._unavailable: dict[str, str] = {}

    def status(self, agent_id: str) -> AgentStatus:
        """How an agent fares. Costs the same whatever is open."""
        return AgentStatus(self._open[agent_id], self._in_hand[agent_id], self._last_failures.get(agent_id))

    def count_all(self) -> tuple[int, int]:
        """How many deliveries of all agents are open, and how many of them are in hand."""
        return self._open.total(), self._in_hand.total()

    @property
    def unavailable(self) -> Mapping[str, str]:
        """The agents that cannot be asked, and why."""
        return self._unavailable

    def forget(self, agent_id: str) -> None:
        """Forgets what was noted of an agent that has been removed."""
        self._last_failures.pop(agent_id, None)
        self._unavailable.pop(agent_id, None)

    def count_open(self, agent_id: str, more: int) -> None:
        """Counts more open deliveries of an agent, or fewer."""
        _add(self._open, agent_id, more)

    def set_open(self, counts: Mapping[str, int]) -> None:
        """Takes note of how many deliveries are open, of each agent that has any: other servers change it."""
        self._open = Counter(counts)

    def count_in_hand(self, agent_id: str, more: int) -> None:
        """Counts more deliveries that an agent has in hand, or fewer."""
        _add(self._in_hand, agent_id, more)

    def note_failure(
        self, agent_id: str, message_id: str, delivery: Delivery, cause: NoReplyError | None = None
    ) -> None:
        """Logs an attempt that came to nothing, and keeps it for the agent's status."""
        failure, final = delivery.last_failure, delivery.state is DeliveryState.FAILED
        assert failure is not None
        self._keep(agent_id, LastFailure(delivery.session_id, message_id, failure, final))
        told = {
            "agent_id": agent_id,
            "session_id": delivery.session_id,
            "message_id": message_id,
            "attempt": failure.attempt,
        }
        told |= {"final": final, "reason": failure.reason, "detail": failure.detail}
        if cause and cause.error_id:
            log.error("no reply", error_id=cause.error_id, **told, exc_info=cause.__cause__)
        elif final:
            log.warning("no reply", **told)
        else:
            log.info("no reply", **told)
        if cause:
            forget_frames(cause)

    def note_unavailable(
        self, agent_id: str, session_id: str, message_id: str, now_ms: int, cause: AgentUnavailableError
    ) -> None:
        """Keeps that an agent cannot even be asked, and logs it where the cause is new."""
        noted = AttemptFailure(now_ms, 0, cause.reason, cause.detail)
        self._keep(agent_id, LastFailure(session_id, message_id, noted, final=False))
        if self._unavailable.get(agent_id) != cause.detail:
            log.warning("agent cannot be asked", agent_id=agent_id, cause=cause.detail)
            self._unavailable[agent_id] = cause.detail

    def note_available(self, agent_id: str) -> None:
        """Logs that an agent can be asked again, where it could not."""
        if self._unavailable.pop(agent_id, None):
            log.info("agent can be asked again", agent_id=agent_id)

    def _keep(self, agent_id: str, failure: LastFailure) -> None:
        self._last_failures[agent_id] = failure
        self._last_failures.move_to_end(agent_id)
        if len(self._last_failures) > MAX_AGENTS:
            self._last_failures.popitem(last=False)


def _add(counts: Counter[str], key: str, more: int) -> None:
    """Counts on, and keeps no zeros."""
    counts[key] += more
    if not counts[key]:
        del counts[key]
