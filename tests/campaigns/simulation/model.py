"""What the service should do, from the contract in another hand: it shares no code with the server.

Every write of the service is told to the model in the order in which it was carried out, with its instant;
the model says what the answer must be, and judges what the service does by itself. Values are plain: dicts,
strings, ms since the epoch.
"""

from collections.abc import Iterable
from typing import Any

from tests.campaigns.simulation.client_rules import ClientRules
from tests.campaigns.simulation.state import (
    EXPIRED,
    Refusal,
    Session,
    State,
    Violation,
    require,
)

MAX_LOST = 20
"""How many lost connections are not charged to a message."""


class Model(ClientRules):
    """All sessions, what clients ask for, and what the service does by itself."""

    def did(
        self,
        session_id: str,
        sequence: int | None,
        now: int,
        entries: list[dict[str, Any]],
        error: str | None,
    ) -> None:
        """Judges a write that no client asked for: by a worker's reply, a deadline or a delivery."""
        session = self.sessions.get(session_id)
        if error is not None:
            self._judge_refusal(session, sequence, now, error)
            return
        require(session is not None, "a session that is gone was written to:", session_id)
        assert session is not None
        for entry in entries:
            match entry["kind"]:
                case "warning":
                    require(not session.warned, "a warning twice:", entry)
                    require(
                        session.state.warn_at <= now < session.state.expires,
                        "a warning that is not due at",
                        now,
                        entry,
                    )
                    self._require_punctual(session, session.state.warn_at, now)
                    session.warned = True
                    self._append(session, now, "warning")
                case "expiry":
                    require(not session.expired, "an expiry twice:", entry)
                    require(now >= session.state.expires, "an expiry too early at", now, entry)
                    self._require_punctual(session, session.state.expires, now)
                    if not session.warned:
                        self._require_punctual(session, session.state.warn_at, now)
                    session.expired = True
                    for delivery in session.deliveries.values():
                        delivery.open = False
                    self._append(session, now, "expiry")
                case "message":
                    require(entry["is_agent"], "a message of the user that nobody sent:", entry)
                    require(sequence == entry["answers"], "a reply to another message than", sequence, entry)
                    answer = self._reply(session, entry["answers"], now, entry["content"], entry)
                    require(
                        not isinstance(answer, Refusal),
                        "a reply was stored that should be refused:",
                        answer,
                        entry,
                    )
                case "reply_failure":
                    self._judge_failure(session, sequence, now, entry)
                case other:
                    raise Violation(f"the service made a {other} by itself: {entry}")
            require(session.log[-1] == entry, "the log should have", session.log[-1], "but has", entry)

    def leased(self, session_id: str, sequence: int, now: int) -> None:
        """A message is given to its agent."""
        session = self.sessions[session_id]
        require(
            not session.is_expired(now),
            "a message of an expired session is given to its agent:",
            session_id,
            sequence,
        )
        delivery = session.deliveries[sequence]
        require(
            session.open()[:1] == [sequence],
            "message",
            sequence,
            "is given before its turn; open are",
            session.open(),
        )
        require(delivery.attempts < self.limits.max_attempts, "message", sequence, "is given too often")
        delivery.attempts += 1

    def lost(self, session_id: str, sequence: int, times: int, *, gone: bool) -> None:
        """An attempt was not charged to a message, because a worker went away (has any `gone`?); it is the
        `times`-th.
        """
        delivery = self.sessions[session_id].deliveries[sequence]
        require(delivery.attempts > 0, "message", sequence, "is given back, but nobody had it")
        require(
            times == delivery.lost + 1 <= MAX_LOST,
            "message",
            sequence,
            "is given back for the",
            times,
            "time after",
            delivery.lost,
        )
        require(gone, "message", sequence, "is given back, but no worker of its agent went")
        delivery.attempts -= 1
        # The next attempt has the same number, and no agent has got that one.
        delivery.given = min(delivery.given, delivery.attempts)
        delivery.lost = times

    def given_back(self, session_id: str, sequence: int, *, stopping: bool) -> None:
        """A lease that came with the stop is given back: the agent has not got the message."""
        delivery = self.sessions[session_id].deliveries[sequence]
        require(stopping, "message", sequence, "is given back, but nothing stops")
        require(delivery.given < delivery.attempts, "message", sequence, "is given back, but an agent has it")
        delivery.attempts -= 1

    def _judge_failure(self, session: Session, sequence: int | None, now: int, entry: dict[str, Any]) -> None:
        require(not session.is_expired(now), "a failure in an expired session:", entry)
        require(
            sequence == entry["answers"] and sequence in session.deliveries,
            "a failure of no delivery:",
            entry,
        )
        assert sequence is not None
        delivery = session.deliveries[sequence]
        require(delivery.open, "a failure after the end of the delivery:", entry)
        require(
            delivery.final or delivery.attempts >= self.limits.max_attempts,
            "a failure while the agent could be asked again:",
            entry,
        )
        require(entry["attempts"] == delivery.attempts, "attempts should be", delivery.attempts, entry)
        require(
            entry["message_id"] == session.log[sequence - 1]["id"], "a failure of another message:", entry
        )
        delivery.open = False
        self._append(
            session,
            now,
            "reply_failure",
            answers=sequence,
            attempts=entry["attempts"],
            message_id=entry["message_id"],
        )

    def _judge_refusal(self, session: Session | None, sequence: int | None, now: int, error: str) -> None:
        if session is None:
            require(
                error in ("SESSION_NOT_FOUND", "DELIVERY_NOT_FOUND"), "a session that is gone, but:", error
            )
        elif session.is_expired(now):
            require(error == "SESSION_EXPIRED", "an expired session, but:", error)
        else:
            delivery = session.deliveries.get(sequence or 0)
            right = delivery and {
                "DELIVERY_ALREADY_ANSWERED": delivery.answered,
                "DELIVERY_NOT_LEASED": not delivery.open,
                "INVALID_CONTENT": "" in delivery.said,
            }.get(error)
            require(
                right, "a delivery in session", session.state.id, sequence, "was refused:", error, delivery
            )

    def _reply(
        self, session: Session, sequence: int, now: int, content: str, observed: dict[str, Any]
    ) -> Refusal | dict[str, Any]:
        if session.is_expired(now):
            return EXPIRED
        delivery = session.deliveries.get(sequence)
        if delivery is None:
            return Refusal("DELIVERY_NOT_FOUND")
        if delivery.answered:
            return Refusal("DELIVERY_ALREADY_ANSWERED")
        echoed = session.state.agent == self.echo and content == session.log[sequence - 1]["content"]
        require(
            echoed or content in delivery.said,
            "a reply that the agent did not give:",
            content,
            "of",
            delivery.said,
        )
        self._new(observed["id"])
        delivery.open, delivery.answered = False, True
        entry = self._append(
            session,
            now,
            "message",
            id=observed["id"],
            content=content,
            metadata={},
            is_agent=True,
            answers=sequence,
        )
        return {"message": self.message(session, entry)}

    def purged(self, left: Iterable[str], now: int) -> None:
        """The service has removed all sessions but those that are `left`."""
        for session_id in sorted(set(self.sessions) - set(left)):
            require(self._is_old(session_id, now), "a session was purged before its time:", session_id)
            self._remove(session_id)

    def _is_old(self, session_id: str, now: int) -> bool:
        """Whether the purge may take a session."""
        session = self.sessions[session_id]
        return session.is_expired(now) and session.state.expires <= now - self.limits.retention_ms

    def _remove(self, session_id: str) -> None:
        """A session is gone, and with it what clients asked for with a request id."""
        self.gone[session_id] = self.sessions.pop(session_id)
        self.requests = {key: known for key, known in self.requests.items() if known.session != session_id}

    def overdue(self, now: int) -> None:
        """Raises Violation where something should have happened by now."""
        for session in self.sessions.values():
            if not session.expired:
                self._require_punctual(
                    session, session.state.expires if session.warned else session.state.warn_at, now
                )

    def saw_etag(self, session_id: str, etag: str, state: State) -> None:
        """A client was given an etag for a state: the same for the same, another for another."""
        known = self.etags.setdefault((session_id, etag), state)
        require(known == state, "one etag", etag, "for two states:", known, state)
