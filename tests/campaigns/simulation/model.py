"""What the service should do, from the contract in another hand: it shares no code with the server.

Every write of the service is told to the model in the order in which it was carried out, with its instant;
the model says what the answer must be, and judges what the service does by itself. Values are plain: dicts,
strings, ms since the epoch.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from tests.campaigns.simulation.state import (
    AGENT_NOT_FOUND,
    EXPIRED,
    MINUTE,
    MISMATCH,
    NOT_FOUND,
    REUSED,
    Delivery,
    Known,
    Limits,
    Refusal,
    Session,
    State,
    Violation,
    require,
)

MAX_LOST = 20
"""How many lost connections are not charged to a message."""

PUNCTUAL_MS = 1000
"""Contract: "Warnings and expiries happen when they fall due, to the second"."""


class Model:
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

    # What clients ask for.

    def before_write(self, call: dict[str, Any], now: int) -> Refusal | dict[str, Any] | None:
        """What a call is answered at once: a read, or a refusal that needs no write; None: it is to be
        carried out.
        """
        match call["kind"]:
            case "get" | "list_messages":
                session = self.sessions.get(call["session"])
                if session is None:
                    return NOT_FOUND
                if session.is_expired(now):
                    return EXPIRED
                return (
                    {"session": session.state.view(now)}
                    if call["kind"] == "get"
                    else self._page(session, call)
                )
            case "list_sessions":
                return self._list(call, now)
        return None

    def carried_out(self, call: dict[str, Any], now: int, observed: dict[str, Any]) -> list[Any]:
        """The answers that a call may get which is carried out at an instant. `observed` is what only the
        service knows: new ids.

        An answer is a Refusal, or a dict in which a State under "session" is yet to be viewed at the instant
        of the answer.
        """
        kind = call["kind"]
        if kind == "create":
            return [self._create(call, now, observed)]
        session = self.sessions.get(call["session"])
        if session is None:
            return [NOT_FOUND]
        if kind == "delete":
            if not self._matches(session, call["etag"]):
                return [MISMATCH]
            self._remove(call["session"])
            return [{}]
        if kind == "reply":
            return [self._reply(session, call["sequence"], now, call["content"], observed)]
        if kind == "send" and (known := self._known(f"session {call['session']}", call, now, observed)):
            # Contract: expired sessions answer 410 to all, and replays the first answer to all: either is
            # right.
            return [known, EXPIRED] if session.is_expired(now) else [known]
        if session.is_expired(now):
            return [EXPIRED]
        match kind:
            case "send":
                return [self._send(session, call, now, observed)]
            case "heartbeat":
                return [self._heartbeat(session, now)]
            case "renew":
                if not self._matches(session, call["etag"]):
                    return [MISMATCH]
                if session.state.expires >= session.state.end:
                    return [Refusal("SESSION_RENEWAL_FAILED")]
                self._renew(session, now)
                self._append(session, now, "renewal", renewed=True)
                return [{"session": session.state}]
            case "patch":
                return self._patch(session, call, now)
        raise AssertionError(kind)

    def _create(self, call: dict[str, Any], now: int, observed: dict[str, Any]) -> Refusal | dict[str, Any]:
        if known := self._known(f"user {call['user']}", call, now, observed):
            return known
        if call["agent"] not in self.agents:
            return AGENT_NOT_FOUND
        limits, wanted = self.limits, call["timeout"]
        timeout = min(
            max(wanted.get("timeout", limits.default_timeout), limits.min_timeout), limits.max_timeout
        )
        duration = min(max(wanted.get("duration", limits.default_duration), timeout), 2 * limits.max_timeout)
        warning = max(wanted.get("warning", limits.default_warning), 1)
        self._new(observed["id"])
        self._new(observed["channel"])
        state = State(
            observed["id"],
            observed["channel"],
            call["agent"],
            call["user"],
            tuple(call["metadata"].items()),
            now,
            timeout,
            wanted.get("auto_renew", True),
            duration,
            warning,
            now,
            now,
            now + round(min(timeout, duration) * MINUTE),
        )
        self.sessions[state.id] = Session(state, now)
        answer = {"session": state.view(now), "replayed": False}
        self._remember(f"user {call['user']}", call, answer, now, state.id)
        return answer

    def _send(
        self, session: Session, call: dict[str, Any], now: int, observed: dict[str, Any]
    ) -> Refusal | dict[str, Any]:
        if not 1 <= len(call["content"]) <= 4000 or "\0" in call["content"]:
            return Refusal("INVALID_CONTENT")
        if len(session.open()) >= self.limits.max_open:
            return Refusal("OVERLOADED")
        self._new(observed["id"])
        self._active(session, now)
        entry = self._append(
            session,
            now,
            "message",
            renewed=session.state.auto_renew,
            id=observed["id"],
            content=call["content"],
            metadata=call["metadata"],
            is_agent=False,
        )
        session.deliveries[entry["sequence"]] = Delivery()
        answer = {"message": self.message(session, entry), "status": status(entry), "replayed": False}
        self._remember(f"session {session.state.id}", call, answer, now, session.state.id)
        return answer

    def _heartbeat(self, session: Session, now: int) -> dict[str, Any]:
        self._active(session, now)
        if session.state.auto_renew:
            self._append(session, now, "renewal", renewed=True)
        return {"session": session.state}

    def _patch(self, session: Session, call: dict[str, Any], now: int) -> list[Any]:
        wanted, limits, state = call["timeout"], self.limits, session.state
        out_of_range = (
            "timeout" in wanted and not limits.min_timeout <= wanted["timeout"] <= limits.max_timeout
        )
        refusals = [MISMATCH] if not self._matches(session, call["etag"]) else []
        refusals += [Refusal("INVALID_TIMEOUT_CONFIG")] if out_of_range else []
        if refusals:
            return refusals
        if wanted:
            timeout = wanted.get("timeout", state.timeout)
            duration = (
                min(max(wanted["duration"], timeout), 2 * limits.max_timeout)
                if "duration" in wanted
                else state.duration
            )
            warning = max(wanted["warning"], 1) if "warning" in wanted else state.warning
            state = replace(
                state,
                timeout=timeout,
                duration=duration,
                warning=warning,
                auto_renew=wanted.get("auto_renew", state.auto_renew),
            )
            start = state.activity if state.auto_renew else state.renewed
            session.state = replace(state, expires=min(start + round(timeout * MINUTE), state.end))
            session.changed = now
            # A warning that lies ahead again will be given again.
            session.warned = session.warned and session.state.warn_at <= now
            self._append(
                session, now, "timeout_change", timeout=(timeout, state.auto_renew, duration, warning)
            )
        return [{"session": session.state}]

    def _page(self, session: Session, call: dict[str, Any]) -> dict[str, Any]:
        low, high, limit = call["after"], call["before"], min(call["limit"] or 50, 100)
        found = [
            entry
            for entry in session.messages()
            if (low is None or entry["at"] > low) and (high is None or entry["at"] < high)
        ]
        forward = low is not None and high is None
        page = found[:limit] if forward else found[-limit:]
        answer = {
            "messages": [self.message(session, entry) for entry in reversed(page)],
            "has_more": len(found) > limit,
        }
        if page:
            answer["cursors"] = (page[0]["at"], page[-1]["at"])
        return answer

    def _list(self, call: dict[str, Any], now: int) -> dict[str, Any]:
        # A session counts as active until its expiry is written.
        active = [session for session in self.sessions.values() if not session.expired]
        matching = [
            one
            for one in active
            if call["user"] in ("", one.state.user) and call["agent"] in ("", one.state.agent)
        ]
        found = sorted(
            (session.state for session in matching if not session.is_expired(now)),
            key=lambda state: (state.created, state.id),
        )
        return {
            "sessions": [state.view(now) for state in found[: call["limit"]]],
            "total": len(matching),
            "stats": (len(self.sessions), len(active), len(self.sessions) - len(active)),
        }

    # What the service does by itself.

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

    # What clients and workers were told.

    def saw_etag(self, session_id: str, etag: str, state: State) -> None:
        """A client was given an etag for a state: the same for the same, another for another."""
        known = self.etags.setdefault((session_id, etag), state)
        require(known == state, "one etag", etag, "for two states:", known, state)

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

    # The rules of a life.

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
