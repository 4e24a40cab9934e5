"""What clients ask for, and what they must be answered; see `model`."""

from dataclasses import replace
from typing import Any

from tests.campaigns.simulation.life import Life, status
from tests.campaigns.simulation.state import (
    AGENT_NOT_FOUND,
    EXPIRED,
    MINUTE,
    MISMATCH,
    NOT_FOUND,
    Delivery,
    Refusal,
    Session,
    State,
)


class ClientRules(Life):
    """The rules of the calls of clients."""

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
