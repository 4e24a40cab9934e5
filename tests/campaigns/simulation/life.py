"""The rules of a session's life, and what is known of all sessions; see `model`."""

from dataclasses import replace
from typing import Any

from tests.campaigns.simulation.state import (
    MINUTE,
    REUSED,
    Known,
    Limits,
    Refusal,
    Session,
    State,
    require,
)

PUNCTUAL_MS = 1000
"""Contract: "Warnings and expiries happen when they fall due, to the second"."""


class Life:
    """All sessions, and the requests that are known."""

    def __init__(self, limits: Limits, agents: set[str], echo: str) -> None:
        self.limits = limits
        self.agents = agents
        self.echo = echo
        self.sessions: dict[str, Session] = {}
        self.gone: dict[str, Session] = {}
        self.requests: dict[tuple[str, str], Known] = {}
        self.ids: set[str] = set()
        self.etags: dict[tuple[str, str], State] = {}
        self.up_since = 0

    def message(self, session: Session, entry: dict[str, Any]) -> dict[str, Any]:
        """A message as clients see it."""
        state = session.state
        return {
            "id": entry["id"],
            "session": state.id,
            "sequence": entry["sequence"],
            "author": state.agent if entry["is_agent"] else state.user,
            "is_agent": entry["is_agent"],
            "content": entry["content"],
            "at": entry["at"],
            "metadata": {**dict(state.metadata), **entry["metadata"], "sessionId": state.id},
            "answers": entry.get("answers", 0),
        }

    def log_of(self, session_id: str) -> list[dict[str, Any]]:
        """The log of a session, also of one that is gone."""
        session = self.sessions.get(session_id) or self.gone[session_id]
        return session.log

    def _active(self, session: Session, now: int) -> None:
        if session.state.auto_renew:
            self._renew(session, now)
        else:
            session.state = replace(session.state, activity=now)

    def _renew(self, session: Session, now: int) -> None:
        state = session.state
        expires = min(now + round(state.timeout * MINUTE), state.end)
        session.state = replace(
            state, activity=now, renewed=now, expires=expires, renewals=state.renewals + 1
        )
        session.changed, session.warned = now, False

    def _append(
        self, session: Session, now: int, kind: str, *, renewed: bool = False, **more: Any
    ) -> dict[str, Any]:
        last = session.log[-1] if session.log else {"at": session.state.created - 1, "sequence": 0}
        state = session.state = replace(session.state, last_sequence=last["sequence"] + 1)
        entry = {
            "sequence": state.last_sequence,
            "at": max(now, last["at"] + 1),
            "kind": kind,
            "expires": state.expires,
            "renewals": state.renewals,
            "renewed": renewed,
            "near": state.warn_at <= now < state.expires and not session.expired,
            **more,
        }
        session.log.append(entry)
        return entry

    def _known(
        self, scope: str, call: dict[str, Any], now: int, observed: dict[str, Any]
    ) -> Refusal | dict[str, Any] | None:
        """What a request was answered before. Once it may be forgotten, either is right."""
        known = self.requests.get((scope, call["request"])) if call["request"] else None
        if known is None:
            return None
        if observed.get("fresh") and self.may_be_forgotten(scope, call["request"], now):
            return None
        return {**known.answer, "replayed": True} if known.content == content(call) else REUSED

    def made(self, scope: str, request: str) -> int | None:
        """When a request was made before; None when it was not."""
        known = self.requests.get((scope, request)) if request else None
        return known.made if known else None

    def may_be_forgotten(self, scope: str, request: str, now: int) -> bool:
        """Whether a request was made before, and its retention is over, or that of its session, which goes
        after it.
        """
        known = self.requests.get((scope, request)) if request else None
        return known is not None and (
            now >= known.made + self.limits.request_retention_ms or self._is_old(known.session, now)
        )

    def _remember(
        self, scope: str, call: dict[str, Any], answer: dict[str, Any], now: int, session_id: str
    ) -> None:
        if call["request"]:
            self.requests[scope, call["request"]] = Known(content(call), answer, now, session_id)

    def _matches(self, session: Session, etag: str) -> bool:
        return not etag or etag == "*" or self.etags.get((session.state.id, etag)) == session.state

    def _new(self, new_id: str) -> None:
        require(new_id not in self.ids, "an id twice:", new_id)
        self.ids.add(new_id)

    def _require_punctual(self, session: Session, due: int, now: int) -> None:
        late = now - max(due, session.changed, self.up_since)
        require(late <= PUNCTUAL_MS, f"what was due in session {session.state.id} at {due} is {late} ms late")


def content(call: dict[str, Any]) -> object:
    """What must be the same in a call that is repeated."""
    return [call.get(key) for key in ("agent", "content", "metadata", "timeout")]


def status(entry: dict[str, Any]) -> tuple[int, int, bool, bool]:
    """What a message did to its session."""
    return entry["expires"], entry["renewals"], entry["renewed"], entry["near"]
