"""Who may call what, as a table: the expected outcome of each method for each caller."""

from typing import Final

CALLERS: Final = (
    *("none", "wrong", "expired", "user", "other_user", "other_tenant", "agent", "other_agent"),
    *("service", "behalf", "behalf_other", "admin", "token", "other_token"),
)
"""`token`: one for the session that the methods are called for, `other_token`: one for another session."""

OUTCOMES: Final = {
    "ok": "",
    "401": "UNAUTHENTICATED",
    "exp": "CREDENTIAL_EXPIRED",
    "403": "PERMISSION_DENIED",
    "404": "SESSION_NOT_FOUND",
    "40a": "AGENT_NOT_FOUND",
}
"""What stands for which reason."""

_METHODS: Final = """
                                none wrong exp. user o.u. o.t. agnt o.ag serv beh. b.o. admn tokn o.tk
SessionService/CreateSession     401  401  exp  ok   403  40a  403  403  ok   ok   403  ok   403  403
SessionService/GetSession        401  401  exp  ok   404  404  ok   404  ok   ok   404  ok   ok   404
SessionService/ListSessions      401  401  exp  ok   ok   ok   ok   ok   ok   ok   ok   ok   403  403
SessionService/DeleteSession     401  401  exp  403  403  404  403  403  ok   ok   404  ok   403  403
SessionService/RenewSession      401  401  exp  ok   404  404  403  403  ok   ok   404  ok   ok   404
SessionService/UpdateTimeout     401  401  exp  403  403  404  403  403  ok   ok   404  ok   403  403
SessionService/SendHeartbeat     401  401  exp  ok   404  404  403  403  ok   ok   404  ok   ok   404
SessionService/WatchSession      401  401  exp  ok   404  404  ok   404  ok   ok   404  ok   ok   404
SessionService/WatchSessions     401  401  exp  ok   404  404  ok   404  ok   ok   404  ok   ok   404
SessionService/CreateAccessToken 401  401  exp  ok   404  404  403  403  ok   ok   404  ok   403  403
SessionService/GetServiceStatus  ok   401  exp  ok   ok   ok   ok   ok   ok   ok   ok   ok   ok   ok
MessageService/SendMessage       401  401  exp  ok   404  404  403  403  ok   ok   404  ok   ok   404
MessageService/Converse          401  401  exp  ok   404  404  403  403  ok   ok   404  ok   ok   404
MessageService/ListMessages      401  401  exp  ok   404  404  ok   404  ok   ok   404  ok   ok   404
MessageService/ExportTranscript  401  401  exp  403  403  404  403  403  ok   ok   404  ok   403  403
AgentService/CreateAgent         401  401  exp  403  403  403  403  403  403  403  403  ok   403  403
AgentService/GetAgent            401  401  exp  403  403  40a  403  403  ok   ok   ok   ok   403  403
AgentService/ListAgents          401  401  exp  403  403  ok   403  403  ok   ok   ok   ok   403  403
AgentService/UpdateAgent         401  401  exp  403  403  403  403  403  403  403  403  ok   403  403
AgentService/DeleteAgent         401  401  exp  403  403  403  403  403  403  403  403  ok   403  403
AgentService/Connect             401  401  exp  403  403  403  ok   40a  403  403  403  403  403  403
AgentService/Reply               401  401  exp  403  403  403  ok   404  403  403  403  403  403  403
UserDataService/ListUserSessions 401  401  exp  403  403  ok   403  403  ok   ok   403  ok   403  403
UserDataService/ExportUserData   401  401  exp  403  403  403  403  403  403  403  403  ok   403  403
UserDataService/DeleteUserData   401  401  exp  403  403  403  403  403  403  403  403  ok   403  403
ClockService/GetClock            401  401  exp  403  403  403  403  403  403  403  403  ok   403  403
ClockService/SetClock            401  401  exp  403  403  403  403  403  403  403  403  ok   403  403
ClockService/AdvanceClock        401  401  exp  403  403  403  403  403  403  403  403  ok   403  403
"""


def _read(text: str) -> dict[str, dict[str, str]]:
    rows = {}
    for line in text.strip().splitlines()[1:]:
        name, *cells = line.split()
        rows[name] = dict(zip(CALLERS, (OUTCOMES[cell] for cell in cells), strict=True))
    return rows


EXPECTED: Final = _read(_METHODS)
"""By method and caller: the reason of the refusal, empty where the call is answered."""

ROUTES: Final = {
    "POST /sessions": "SessionService/CreateSession",
    "GET /sessions": "SessionService/ListSessions",
    "GET /sessions/health": "SessionService/GetServiceStatus",
    "GET /sessions/{id}": "SessionService/GetSession",
    "DELETE /sessions/{id}": "SessionService/DeleteSession",
    "POST /sessions/{id}/messages": "MessageService/SendMessage",
    "GET /sessions/{id}/messages": "MessageService/ListMessages",
    "GET /sessions/{id}/transcript": "MessageService/ExportTranscript",
    "GET /sessions/{id}/events": "SessionService/WatchSessions",
    "POST /sessions/{id}/renew": "SessionService/RenewSession",
    "PATCH /sessions/{id}/timeout": "SessionService/UpdateTimeout",
    "POST /sessions/{id}/heartbeat": "SessionService/SendHeartbeat",
    "POST /sessions/{id}/tokens": "SessionService/CreateAccessToken",
    "GET /api/agents": "AgentService/ListAgents",
    "GET /clock": "ClockService/GetClock",
    "POST /clock": "ClockService/AdvanceClock",
}
"""The method that each route of REST calls, and whose row it has."""

EVENTS: Final = {"join": "SessionService/WatchSessions", "message": "MessageService/SendMessage"}
"""The same for the events of a socket."""
