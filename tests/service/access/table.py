"""Who may call what, as a table: the expected outcome of each method for each caller."""

from typing import Final

CALLERS: Final = (
    *("none", "wrong", "expired", "user", "other_user", "other_tenant", "agent", "other_agent"),
    *("service", "behalf", "behalf_other", "admin", "token", "other_token", "operator"),
)
"""`token`: one for the session that the methods are called for, `other_token`: one for another session;
`operator`: an administrator of all tenants.
"""

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
                                none wrong exp. user o.u. o.t. agnt o.ag serv beh. b.o. admn tokn o.tk oper
SessionService/CreateSession     401  401  exp  ok   403  40a  403  403  ok   ok   403  ok   403  403  ok
SessionService/GetSession        401  401  exp  ok   404  404  ok   404  ok   ok   404  ok   ok   404  ok
SessionService/ListSessions      401  401  exp  ok   ok   ok   ok   ok   ok   ok   ok   ok   403  403  ok
SessionService/DeleteSession     401  401  exp  403  403  404  403  403  ok   ok   404  ok   403  403  ok
SessionService/RenewSession      401  401  exp  ok   404  404  403  403  ok   ok   404  ok   ok   404  ok
SessionService/UpdateTimeout     401  401  exp  403  403  404  403  403  ok   ok   404  ok   403  403  ok
SessionService/SendHeartbeat     401  401  exp  ok   404  404  403  403  ok   ok   404  ok   ok   404  ok
SessionService/WatchSession      401  401  exp  ok   404  404  ok   404  ok   ok   404  ok   ok   404  ok
SessionService/WatchSessions     401  401  exp  ok   404  404  ok   404  ok   ok   404  ok   ok   404  ok
SessionService/CreateAccessToken 401  401  exp  ok   404  404  403  403  ok   ok   404  ok   403  403  ok
SessionService/GetServiceStatus  ok   401  exp  ok   ok   ok   ok   ok   ok   ok   ok   ok   ok   ok   ok
MessageService/SendMessage       401  401  exp  ok   404  404  403  403  ok   ok   404  ok   ok   404  ok
MessageService/Converse          401  401  exp  ok   404  404  403  403  ok   ok   404  ok   ok   404  ok
MessageService/ListMessages      401  401  exp  ok   404  404  ok   404  ok   ok   404  ok   ok   404  ok
MessageService/ExportTranscript  401  401  exp  403  403  404  403  403  ok   ok   404  ok   403  403  ok
AgentService/CreateAgent         401  401  exp  403  403  403  403  403  403  403  403  ok   403  403  ok
AgentService/GetAgent            401  401  exp  403  403  40a  403  403  ok   ok   ok   ok   403  403  ok
AgentService/ListAgents          401  401  exp  403  403  ok   403  403  ok   ok   ok   ok   403  403  ok
AgentService/UpdateAgent         401  401  exp  403  403  403  403  403  403  403  403  ok   403  403  ok
AgentService/DeleteAgent         401  401  exp  403  403  403  403  403  403  403  403  ok   403  403  ok
AgentService/Connect             401  401  exp  403  403  403  ok   40a  403  403  403  403  403  403  403
AgentService/Reply               401  401  exp  403  403  403  ok   404  403  403  403  403  403  403  403
UserDataService/ListUserSessions 401  401  exp  403  403  ok   403  403  ok   ok   403  ok   403  403  ok
UserDataService/ExportUserData   401  401  exp  403  403  403  403  403  403  403  403  ok   403  403  ok
UserDataService/DeleteUserData   401  401  exp  403  403  403  403  403  403  403  403  ok   403  403  ok
AdminService/GetOverview         401  401  exp  403  403  403  403  403  403  403  403  403  403  403  ok
AdminService/GetSystem           401  401  exp  403  403  403  403  403  403  403  403  403  403  403  ok
AdminService/SearchSessions      401  401  exp  403  403  ok   403  403  ok   ok   ok   ok   403  403  ok
AdminService/ListDeliveries      401  401  exp  403  403  404  403  403  ok   ok   404  ok   403  403  ok
AdminService/RedeliverMessage    401  401  exp  403  403  403  403  403  403  403  403  ok   403  403  ok
AdminService/GetAgentActivity    401  401  exp  403  403  403  403  403  403  403  403  ok   403  403  ok
ClockService/GetClock            401  401  exp  403  403  403  403  403  403  403  403  ok   403  403  ok
ClockService/SetClock            401  401  exp  403  403  403  403  403  403  403  403  ok   403  403  ok
ClockService/AdvanceClock        401  401  exp  403  403  403  403  403  403  403  403  ok   403  403  ok
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
