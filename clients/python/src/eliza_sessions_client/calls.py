"""The calls of the API, described once for both clients: the request that the arguments make, and what the
response gives. Nothing here talks to the service.
"""

import datetime as dt
import json
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from eliza_sessions_client._api import (
    agent_pb2,
    agent_service_pb2,
    message_pb2,
    message_service_pb2,
    session_pb2,
    session_service_pb2,
    timeout_pb2,
    user_data_service_pb2,
)

T = TypeVar("T")

Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"
"""A JSON value."""

Metadata: TypeAlias = Mapping[str, Json]
Attachments: TypeAlias = Sequence[Json]


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """A call: its method, its request, and what its response gives.

    `is_repeatable`: twice does the same as once. `removes`: where a repeated call finds no session, the call
    before has done it.
    """

    service: str
    method: str
    request: Any
    unpack: Callable[[Any], T]
    is_repeatable: bool = True
    removes: bool = False


@dataclass(frozen=True, slots=True)
class Pages(Generic[T]):
    """A list that comes in pages: the call for the first one, and the items of a page."""

    first: Call[Any]
    items: Callable[[Any], Iterable[T]]

    def after(self, page: Any) -> Call[Any] | None:
        """The call for the page behind this one; None: it was the last."""
        if not page.next_page_token:
            return None
        request = type(self.first.request)()
        request.CopyFrom(self.first.request)
        request.page_token = page.next_page_token
        return Call(self.first.service, self.first.method, request, _whole)


def _whole(response: Any) -> Any:
    return response


def _nothing(response: Any) -> None:
    """What a call gives that gives nothing."""


def _session(response: Any) -> session_pb2.Session:
    session: session_pb2.Session = response.session
    return session


def _timestamp(when: dt.datetime | None) -> Timestamp | None:
    """Raises ValueError for a time without a zone."""
    if when is None:
        return None
    if when.tzinfo is None:
        raise ValueError("a time needs a time zone")
    made = Timestamp()
    made.FromDatetime(when)
    return made


def _duration(time: dt.timedelta | None) -> Duration | None:
    if time is None:
        return None
    made = Duration()
    made.FromTimedelta(time)
    return made


def json_text(value: Any) -> str:
    """Raises ValueError, TypeError for what JSON cannot write."""
    return "" if value is None else json.dumps(value, allow_nan=False, separators=(",", ":"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Timeouts:
    """Timeout settings in minutes. Those that are None stay as they are, or as the agent or the service has
    them.
    """

    timeout_minutes: float | None = None
    auto_renew: bool | None = None
    max_duration_minutes: float | None = None
    warning_threshold_minutes: float | None = None

    def message(self) -> timeout_pb2.TimeoutConfig:
        """The same for the wire."""
        return timeout_pb2.TimeoutConfig(
            timeout_minutes=self.timeout_minutes,
            auto_renew=self.auto_renew,
            max_duration_minutes=self.max_duration_minutes,
            warning_threshold_minutes=self.warning_threshold_minutes,
        )


def new_request_id() -> str:
    """A request id that nobody else has."""
    return str(uuid.uuid4())


def create(
    agent_id: str,
    user_id: str,
    *,
    metadata: Metadata | None = None,
    timeouts: Timeouts | None = None,
    request_id: str | None = None,
) -> Call[session_pb2.Session]:
    """Creates a session of a user with an agent.

    It has a request id, so that a repeated call gives the same session; yours, where you name one.
    """
    request = session_service_pb2.CreateSessionRequest(
        agent_id=agent_id,
        user_id=user_id,
        metadata_json=json_text(metadata),
        timeout_config=timeouts.message() if timeouts else None,
        request_id=request_id or new_request_id(),
    )
    return Call("SessionService", "CreateSession", request, _session)


def get(session_id: str) -> Call[session_pb2.Session]:
    """Reads a session as it is now."""
    return Call(
        "SessionService", "GetSession", session_service_pb2.GetSessionRequest(session_id=session_id), _session
    )


def sessions(*, agent_id: str = "", user_id: str = "", page_size: int = 0) -> Pages[session_pb2.Session]:
    """Iterates over the active sessions, the oldest first: all of them, or those of an agent or a user."""
    request = session_service_pb2.ListSessionsRequest(agent_id=agent_id, user_id=user_id, page_size=page_size)
    return Pages(Call("SessionService", "ListSessions", request, _whole), lambda page: page.sessions)


def renew(session_id: str, *, etag: str = "") -> Call[session_pb2.Session]:
    """Renews a session by hand. With `etag`: only in the state that has it."""
    request = session_service_pb2.RenewSessionRequest(session_id=session_id, etag=etag)
    return Call("SessionService", "RenewSession", request, _session, is_repeatable=not etag)


def update_timeout(session_id: str, timeouts: Timeouts, *, etag: str = "") -> Call[session_pb2.Session]:
    """Changes the timeout settings that are not None. With `etag`: only in the state that has it."""
    request = session_service_pb2.UpdateTimeoutRequest(
        session_id=session_id, timeout_config=timeouts.message(), etag=etag
    )
    return Call("SessionService", "UpdateTimeout", request, _session, is_repeatable=not etag)


def heartbeat(session_id: str) -> Call[session_pb2.Session]:
    """Keeps a session alive, and renews it where it renews by itself."""
    request = session_service_pb2.SendHeartbeatRequest(session_id=session_id)
    return Call("SessionService", "SendHeartbeat", request, _session)


def delete(session_id: str, *, etag: str = "") -> Call[None]:
    """Ends a session and removes it with its messages. With `etag`: only in the state that has it."""
    request = session_service_pb2.DeleteSessionRequest(session_id=session_id, etag=etag)
    return Call("SessionService", "DeleteSession", request, _nothing, not etag, removes=True)


def create_access_token(
    session_id: str, *, verbs: Iterable[str] = (), lifetime: dt.timedelta | None = None
) -> Call[session_service_pb2.CreateAccessTokenResponse]:
    """Makes a token for one session, which a browser may have: `access_token`, `expires_at`, `verbs`.

    `verbs` are of `read`, `send` and `change`; none: `read` and `send`. It is good for `lifetime`, at least a
    second; None: as long as the service allows.
    """
    request = session_service_pb2.CreateAccessTokenRequest(
        session_id=session_id, verbs=verbs, lifetime=_duration(lifetime)
    )
    return Call("SessionService", "CreateAccessToken", request, _whole)


def user_sessions(user_id: str, *, page_size: int = 0) -> Pages[session_pb2.Session]:
    """Iterates over the sessions of a user, live and expired, the newest first."""
    request = user_data_service_pb2.ListUserSessionsRequest(user_id=user_id, page_size=page_size)
    return Pages(Call("UserDataService", "ListUserSessions", request, _whole), lambda page: page.sessions)


def status() -> Call[session_service_pb2.GetServiceStatusResponse]:
    """Tells how the service is."""
    return Call("SessionService", "GetServiceStatus", session_service_pb2.GetServiceStatusRequest(), _whole)


def send(
    session_id: str,
    content: str,
    *,
    metadata: Metadata | None = None,
    attachments: Attachments | None = None,
    request_id: str | None = None,
) -> Call[message_service_pb2.SendMessageResponse]:
    """Sends a message of the user, and does not wait for the reply. Returns it as it was stored.

    It has a request id, so that a repeated call stores nothing twice; yours, where you name one.
    """
    request = message_service_pb2.SendMessageRequest(
        session_id=session_id,
        content=content,
        metadata_json=json_text(metadata),
        attachments_json=json_text(attachments),
        request_id=request_id or new_request_id(),
    )
    return Call("MessageService", "SendMessage", request, _whole)


def messages(
    session_id: str,
    *,
    before: dt.datetime | None = None,
    after: dt.datetime | None = None,
    page_size: int = 0,
) -> Pages[message_pb2.Message]:
    """Iterates over the messages of a session, the newest first; with `after` alone, the oldest first."""
    request = message_service_pb2.ListMessagesRequest(
        session_id=session_id, page_size=page_size, before=_timestamp(before), after=_timestamp(after)
    )
    # A page has its newest message first, also where the pages go forward.
    forward = after is not None and before is None
    return Pages(
        Call("MessageService", "ListMessages", request, _whole),
        lambda page: reversed(page.messages) if forward else page.messages,
    )


def agents(*, with_status: bool = False, page_size: int = 0) -> Pages[agent_pb2.Agent]:
    """Iterates over the agents in order of registration: id, name, kind, times, and how they are doing."""
    view = agent_pb2.AGENT_VIEW_SUMMARY if with_status else agent_pb2.AGENT_VIEW_BASIC
    request = agent_service_pb2.ListAgentsRequest(page_size=page_size, view=view)
    return Pages(Call("AgentService", "ListAgents", request, _whole), lambda page: page.agents)
