"""Carries out a step through gRPC; what comes back has REST's words, so that one expectation fits both."""

import itertools
import json
import threading
from collections.abc import Iterator
from typing import Any

import grpc
from google.protobuf import json_format
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import ListValue, Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp

from eliza.sessions.errors import DOMAIN, TABLE, error_info
from eliza.sessions.v1 import (
    agent_pb2,
    agent_service_pb2,
    clock_service_pb2,
    errors_pb2,
    log_pb2,
    message_pb2,
    message_service_pb2,
    session_pb2,
)
from eliza.sessions.v1 import session_service_pb2 as session_service
from eliza.sessions.v1.timeout_pb2 import TimeoutConfig
from tests.contract.answers import Failure, Success
from tests.contract.drivers import PATIENCE_SECONDS
from tests.contract.shapes import details_shape, differences, iso, ms_of
from tests.support.service import Serve
from tests.support.waiting import until

_HEALTH = {1: "healthy", 2: "degraded", 3: "unhealthy"}


def read_records(lines: bytes) -> dict[str, Any]:
    """What the lines of a transcript are records of."""
    return {"records": [json.loads(line)["record"] for line in lines.splitlines()]}


class GrpcDriver:
    """Calls the generated stubs."""

    def __init__(self, service: Serve) -> None:
        self._service = service

    def perform(self, call: str, session: str, given: Any) -> Success | Failure:
        try:
            return getattr(self, f"_{call}")(session, given)
        except grpc.RpcError as error:
            return read_rpc_error(error)

    def _create(self, _: str, given: Any) -> Success:
        request = json_format.ParseDict(given, session_service.CreateSessionRequest())
        body, extras = _session(
            self._service.sessions.CreateSession(request, timeout=PATIENCE_SECONDS).session
        )
        live = ("lastActivity", "renewalCount", "timeRemaining", "isNearExpiration")
        return Success(
            {key: value for key, value in body.items() if key not in live},
            {**extras, **{key: body[key] for key in live}},
        )

    def _get(self, session: str, _: Any) -> Success:
        request = session_service.GetSessionRequest(session_id=session)
        return Success(
            *_session(self._service.sessions.GetSession(request, timeout=PATIENCE_SECONDS).session)
        )

    def _renew(self, session: str, _: Any) -> Success:
        request = session_service.RenewSessionRequest(session_id=session)
        return Success(
            *_session(self._service.sessions.RenewSession(request, timeout=PATIENCE_SECONDS).session)
        )

    def _heartbeat(self, session: str, _: Any) -> Success:
        request = session_service.SendHeartbeatRequest(session_id=session)
        return Success(
            *_session(self._service.sessions.SendHeartbeat(request, timeout=PATIENCE_SECONDS).session)
        )

    def _token(self, session: str, given: Any) -> Success:
        request = session_service.CreateAccessTokenRequest(session_id=session, verbs=given.get("verbs", []))
        if "seconds" in given:
            request.lifetime.FromNanoseconds(round(given["seconds"] * 1e9))
        answer = self._service.sessions.CreateAccessToken(request, timeout=PATIENCE_SECONDS)
        body = {"accessToken": answer.access_token, "expiresAt": _time(answer.expires_at)}
        # REST repeats the id that it was given, in lower case.
        return Success({**body, "verbs": list(answer.verbs), "sessionId": session.lower()}, {})

    def _transcript(self, session: str, _: Any) -> Success:
        request = message_service_pb2.ExportTranscriptRequest(session_id=session)
        parts = self._service.messages.ExportTranscript(request, timeout=PATIENCE_SECONDS)
        return Success(read_records(b"".join(part.lines for part in parts)), {})

    def _update_timeout(self, session: str, given: Any) -> Success:
        request = session_service.UpdateTimeoutRequest(
            session_id=session, timeout_config=json_format.ParseDict(given, TimeoutConfig())
        )
        return Success(
            *_session(self._service.sessions.UpdateTimeout(request, timeout=PATIENCE_SECONDS).session)
        )

    def _delete(self, session: str, _: Any) -> Success:
        self._service.sessions.DeleteSession(
            session_service.DeleteSessionRequest(session_id=session), timeout=PATIENCE_SECONDS
        )
        # The empty answer says what REST has a sentence for.
        return Success({"success": True, "message": f"Session {session.lower()} deleted successfully"}, {})

    def _send(self, session: str, given: Any) -> Success:
        request = json_format.ParseDict(
            {"sessionId": session, **given}, message_service_pb2.SendMessageRequest()
        )
        return _sent(self._service.messages.SendMessage(request, timeout=PATIENCE_SECONDS))

    def _converse(self, session: str, given: Any) -> Success:
        events = self._stream(session, given).body["events"]
        return Success({**events[0]["data"], "agentResponse": events[-1]["data"]}, {})

    def _stream(self, session: str, given: Any) -> Success:
        request = json_format.ParseDict(
            {"message": {"sessionId": session, **given}}, message_service_pb2.ConverseRequest()
        )
        events = []
        for answer in self._service.messages.Converse(request, timeout=PATIENCE_SECONDS):
            match answer.WhichOneof("part"):
                case "user_message":
                    events.append({"event": "user_message", "data": _sent(answer.user_message).body})
                case "chunk":
                    chunk = answer.chunk
                    data = {
                        "messageId": chunk.message_id,
                        "chunk": chunk.chunk,
                        "index": chunk.index,
                        "attempt": chunk.attempt,
                    }
                    events.append({"event": "chunk", "data": data})
                case "reply":
                    thought = answer.reply.thought if answer.reply.HasField("thought") else None
                    live = {
                        "text": answer.reply.content,
                        "thought": thought,
                        "actions": list(answer.reply.actions),
                    }
                    events.append({"event": "done", "data": {**_message(answer.reply)[0], **live}})
        return Success({"events": events}, {})

    def _watch(self, session: str, given: Any) -> Success:
        request = session_service.WatchSessionRequest(session_id=session, after_sequence=given["after"])
        call = self._service.sessions.WatchSession(request, timeout=PATIENCE_SECONDS)
        entries = (_entry(answer.entry) for answer in call if answer.HasField("entry"))
        body = {"entries": list(itertools.islice(entries, given["entries"]))}
        if given.get("to_the_end"):
            body["entries"] += entries
        call.cancel()
        return Success(body, {})

    def _watch_many(self, _: str, given: Any) -> Success:
        """Joins the sessions, and reads until there are so many entries and ends; then half-closes, and the
        stream ends.
        """
        enough = threading.Event()

        def changes() -> Iterator[session_service.WatchSessionsRequest]:
            for session in given["sessions"]:
                yield session_service.WatchSessionsRequest(
                    join={"session_id": session, "after_sequence": given["after"]}
                )
            enough.wait(PATIENCE_SECONDS)

        seen: list[Any] = []
        body: dict[str, Any] = {"joined": [], "entries": [], "ends": []}
        for answer in self._service.sessions.WatchSessions(changes(), timeout=PATIENCE_SECONDS):
            match answer.WhichOneof("event"):
                case "joined":
                    body["joined"].append(answer.joined.session.session_id)
                case "entry":
                    body["entries"].append(_entry(answer.entry))
                case "end":
                    reason = errors_pb2.ErrorReason.Name(answer.end.reason).removeprefix("ERROR_REASON_")
                    body["ends"].append(
                        {
                            "sessionId": answer.end.session_id,
                            "reason": reason,
                            "details": dict(answer.end.details),
                        }
                    )
            seen = body["entries"] + body["ends"]
            if len(seen) >= given["events"]:
                enough.set()
        return Success(body, {})

    def _messages(self, session: str, given: Any) -> Success:
        cursors = {name: _timestamp(given[name]) for name in ("before", "after") if name in given}
        request = message_service_pb2.ListMessagesRequest(
            session_id=session,
            page_size=given.get("limit", 0),
            page_token=given.get("pageToken", ""),
            **cursors,
        )
        answer = self._service.messages.ListMessages(request, timeout=PATIENCE_SECONDS)
        read = [_message(message) for message in answer.messages]
        body: dict[str, Any] = {"messages": [body for body, _ in read], "hasMore": answer.has_more}
        if answer.HasField("cursor_before") or answer.HasField("cursor_after"):
            body["cursors"] = {
                "before": ms_of(_time(answer.cursor_before)),
                "after": ms_of(_time(answer.cursor_after)),
            }
        assert bool(answer.next_page_token) == answer.has_more
        return Success(
            body,
            {
                "nextPageToken": answer.next_page_token,
                "sequences": [extras["sequence"] for _, extras in read],
            },
        )

    def _list(self, _: str, given: Any) -> Success:
        request = session_service.ListSessionsRequest(
            page_size=given.get("limit", 0),
            page_token=given.get("pageToken", ""),
            agent_id=given.get("agentId", ""),
            user_id=given.get("userId", ""),
        )
        answer = self._service.sessions.ListSessions(request, timeout=PATIENCE_SECONDS)
        body: dict[str, Any] = {
            "sessions": [_session(session)[0] for session in answer.sessions],
            "total": answer.total_size,
            "stats": {
                "totalSessions": answer.stats.total_sessions,
                "activeSessions": answer.stats.active_sessions,
                "expiredSessions": answer.stats.expired_sessions,
            },
        }
        if answer.next_page_token:
            body["nextPageToken"] = answer.next_page_token
        return Success(body, {})

    def _health(self, _: str, __: Any) -> Success:
        answer = self._service.sessions.GetServiceStatus(
            session_service.GetServiceStatusRequest(), timeout=PATIENCE_SECONDS
        )
        body = {
            "status": _HEALTH[answer.health],
            "activeSessions": answer.active_sessions,
            "timestamp": _time(answer.timestamp),
            "expiringSoon": answer.expiring_soon,
            "invalidSessions": answer.invalid_sessions,
            "uptime": _number(answer.uptime_seconds),
            "version": answer.version,
        }
        return Success(body, {})

    def _clock(self, _: str, __: Any) -> Success:
        return Success(
            {
                "now": _time(
                    self._service.clock.GetClock(
                        clock_service_pb2.GetClockRequest(), timeout=PATIENCE_SECONDS
                    ).now
                )
            },
            {},
        )

    def _set_clock(self, _: str, given: Any) -> Success:
        request = clock_service_pb2.SetClockRequest(now=_timestamp(given["now"]) if "now" in given else None)
        return Success(
            {"now": _time(self._service.clock.SetClock(request, timeout=PATIENCE_SECONDS).now)}, {}
        )

    def _advance(self, _: str, given: Any) -> Success:
        request = clock_service_pb2.AdvanceClockRequest(advance_ms=given["advanceMs"])
        return Success(
            {"now": _time(self._service.clock.AdvanceClock(request, timeout=PATIENCE_SECONDS).now)}, {}
        )

    def _create_agent(self, _: str, given: Any) -> Success:
        request = agent_service_pb2.CreateAgentRequest(agent=json_format.ParseDict(given, agent_pb2.Agent()))
        return Success(_agent(self._service.agents.CreateAgent(request, timeout=PATIENCE_SECONDS).agent), {})

    def _get_agent(self, _: str, given: Any) -> Success:
        request = agent_service_pb2.GetAgentRequest(agent_id=given["agentId"])
        return Success(_agent(self._service.agents.GetAgent(request, timeout=PATIENCE_SECONDS).agent), {})

    def _list_agents(self, _: str, given: Any) -> Success:
        request = agent_service_pb2.ListAgentsRequest(
            page_size=given.get("limit", 0), page_token=given.get("pageToken", "")
        )
        answer = self._service.agents.ListAgents(request, timeout=PATIENCE_SECONDS)
        body: dict[str, Any] = {"agents": [_agent(agent) for agent in answer.agents]}
        if answer.next_page_token:
            body["nextPageToken"] = answer.next_page_token
        return Success(body, {})

    def _update_agent(self, _: str, given: Any) -> Success:
        request = json_format.ParseDict({"agent": given["agent"]}, agent_service_pb2.UpdateAgentRequest())
        if "paths" in given:
            request.update_mask.paths.extend(given["paths"])
        return Success(_agent(self._service.agents.UpdateAgent(request, timeout=PATIENCE_SECONDS).agent), {})

    def _delete_agent(self, _: str, given: Any) -> Success:
        request = agent_service_pb2.DeleteAgentRequest(agent_id=given["agentId"])
        self._service.agents.DeleteAgent(request, timeout=PATIENCE_SECONDS)
        return Success({}, {})

    def _reply(self, _: str, given: Any) -> Success:
        request = json_format.ParseDict(given, agent_service_pb2.ReplyRequest())
        return Success(*_answered(self._service.agents.Reply(request, timeout=PATIENCE_SECONDS).message))

    def _connect(self, _: str, given: Any) -> Success:
        """Plays a worker: says each thing of the script once the things before it were said and told; then
        half-closes.
        """
        told: list[dict[str, Any]] = []
        news, over = threading.Condition(), False

        def says() -> Iterator[agent_service_pb2.ConnectRequest]:
            yield json_format.ParseDict({"hello": given["hello"]}, agent_service_pb2.ConnectRequest())
            seen, latest = 0, ""
            for line in given["script"]:
                if isinstance(line, str):
                    with news:
                        while line not in (events := [each["event"] for each in told[seen:]]):
                            if over or not news.wait(PATIENCE_SECONDS):
                                return
                    seen += events.index(line) + 1
                    latest = told[seen - 1].get("deliveryId", latest)
                    continue
                ((part, fields),) = line.items()
                about = {"deliveryId": latest, **fields}
                if part == "posted":
                    request = json_format.ParseDict(about, agent_service_pb2.ReplyRequest())
                    self._service.agents.Reply(request, timeout=PATIENCE_SECONDS)
                else:
                    yield json_format.ParseDict({part: about}, agent_service_pb2.ConnectRequest())

        try:
            for answer in self._service.agents.Connect(says(), timeout=PATIENCE_SECONDS):
                with news:
                    told += _told(answer)
                    news.notify_all()
        finally:
            with news:
                over = True
                news.notify_all()
        return Success({"told": told}, {})

    def _settle(self, session: str, given: Any) -> Success:
        request = session_service.GetSessionRequest(session_id=session)

        def settled() -> bool:
            found = self._service.sessions.GetSession(request, timeout=PATIENCE_SECONDS).session
            return found.last_sequence >= given["entries"]

        until(settled, f"{given['entries']} entries in the log")
        return Success({}, {})


def read_rpc_error(error: grpc.RpcError) -> Failure:
    """The error of a failed call, which keeps to the table in every respect."""
    info = error_info(error)
    assert info is not None, error
    assert info.domain == DOMAIN
    row = TABLE[info.reason]
    assert error.code() is row.grpc_status, error
    details = {name: _detail(row.details.get(name), text) for name, text in info.metadata.items()}
    problems = [*differences(details_shape(info.reason), details, "details")]
    assert not problems, (problems, error)
    assert error.details(), error
    return Failure(info.reason, error.details(), details)


def camel(name: str) -> str:
    """A field of a proto as REST spells it."""
    head, *rest = name.split("_")
    return head + "".join(map(str.title, rest))


def _detail(kind: int | None, text: str) -> Any:
    match kind:
        case errors_pb2.DETAIL_KIND_NUMBER:
            return _number(float(text))
        case errors_pb2.DETAIL_KIND_FIELD:
            return ".".join(map(camel, text.split(".")))
        case errors_pb2.DETAIL_KIND_FIELD_LIST:
            return list(map(camel, text.split(",")))
        case _:
            return text


def _session(session: session_pb2.Session) -> tuple[dict[str, Any], dict[str, Any]]:
    config = session.timeout_config
    assert all(config.HasField(field) for field in TimeoutConfig.DESCRIPTOR.fields_by_name)
    body = {
        "sessionId": session.session_id,
        "channelId": session.channel_id,
        "agentId": session.agent_id,
        "userId": session.user_id,
        "createdAt": _time(session.created_at),
        "metadata": _plain(session.metadata),
        "expiresAt": _time(session.expires_at),
        "timeoutConfig": _settings(config),
        "lastActivity": _time(session.last_activity),
        "renewalCount": session.renewal_count,
        "timeRemaining": session.time_remaining_ms,
        "isNearExpiration": session.is_near_expiration,
    }
    return body, {"lastSequence": session.last_sequence}


def _sent(answer: message_service_pb2.SendMessageResponse) -> Success:
    body, extras = _message(answer.message)
    del body["isAgent"]
    body["sessionStatus"] = _status(answer.session_status)
    return Success(body, {**extras, "isAgent": answer.message.is_agent})


def _status(status: message_pb2.SessionStatus) -> dict[str, Any]:
    return {
        "expiresAt": _time(status.expires_at),
        "renewalCount": status.renewal_count,
        "wasRenewed": status.was_renewed,
        "isNearExpiration": status.is_near_expiration,
    }


def _entry(entry: log_pb2.LogEntry) -> dict[str, Any]:
    body = {
        "sessionId": entry.session_id,
        "sequence": entry.sequence,
        "at": _time(entry.at),
        "event": entry.WhichOneof("event"),
        "sessionStatus": _status(entry.session_status),
    }
    match body["event"]:
        case "message":
            body["message"] = _message(entry.message)[0]
        case "timeout_change":
            body["timeoutConfig"] = _settings(entry.timeout_change.timeout_config)
        case "expiration_warning":
            body["minutesRemaining"] = _number(entry.expiration_warning.minutes_remaining)
        case "expiry":
            body["expiredAt"] = _time(entry.expiry.expired_at)
        case "reply_failure":
            failure = entry.reply_failure
            body["failure"] = {
                "messageId": failure.message_id,
                "replyMessageId": failure.reply_message_id,
                "messageSequence": failure.message_sequence,
                "reason": failure.reason,
                "attempts": failure.attempts,
            }
    return body


def _message(message: message_pb2.Message) -> tuple[dict[str, Any], dict[str, Any]]:
    body = {
        "id": message.message_id,
        "content": message.content,
        "authorId": message.author_id,
        "isAgent": message.is_agent,
        "createdAt": _time(message.created_at),
        "metadata": _plain(message.metadata),
    }
    if message.HasField("attachments"):
        body["attachments"] = _plain(message.attachments)
    return body, {"sequence": message.sequence, "sessionId": message.session_id}


def _answered(message: message_pb2.Message) -> tuple[dict[str, Any], dict[str, Any]]:
    """A reply, with what the agent gave beside its text."""
    body, extras = _message(message)
    if message.HasField("thought"):
        body["thought"] = message.thought
    if message.actions:
        body["actions"] = list(message.actions)
    return body, {**extras, "answers": message.reply_to_sequence}


def _told(answer: agent_service_pb2.ConnectResponse) -> list[dict[str, Any]]:
    """What a worker is told; nothing, for a sign of life."""
    event = answer.WhichOneof("part")
    match event:
        case "heartbeat":
            return []
        case "welcome":
            return [{"event": event, "agent": _agent(answer.welcome.agent)}]
        case "delivery":
            delivery = answer.delivery
            return [
                {
                    "event": event,
                    "deliveryId": delivery.delivery_id,
                    "attempt": delivery.attempt,
                    "session": _session(delivery.session)[0],
                    "message": _message(delivery.message)[0],
                    "history": [_message(message)[0] for message in delivery.history],
                    "replyMessageId": delivery.reply_message_id,
                    "leaseExpiresAt": _time(delivery.lease_expires_at),
                }
            ]
        case "refused":
            reason = errors_pb2.ErrorReason.Name(answer.refused.reason).removeprefix("ERROR_REASON_")
            details = {
                name: _detail(TABLE[reason].details.get(name), text)
                for name, text in answer.refused.details.items()
            }
            about = {"deliveryId": answer.refused.delivery_id, "reason": reason}
            return [{"event": event, **about, "message": answer.refused.message, "details": details}]
        case _:
            return [{"event": event, "deliveryId": getattr(answer, event).delivery_id}]


def _agent(agent: agent_pb2.Agent) -> dict[str, Any]:
    kind = agent.WhichOneof("settings")
    settings = {kind: _settings(getattr(agent, kind))} if kind else {}
    return {
        **settings,
        "agentId": agent.agent_id,
        "name": agent.name,
        "kind": agent_pb2.AgentKind.Name(agent.kind),
        "timeoutConfig": _settings(agent.timeout_config),
        "createdAt": _time(agent.created_at),
        "updatedAt": _time(agent.updated_at),
    }


def _settings(config: Message) -> dict[str, Any]:
    return {
        camel(field.name): value if isinstance(value, (bool, str)) else _number(value)
        for field, value in config.ListFields()
    }


def _plain(value: Message) -> Any:
    match value:
        case Struct():
            return {key: _plain(item) for key, item in value.fields.items()}
        case ListValue():
            return [_plain(item) for item in value.values]
        case Value():
            kind = value.WhichOneof("kind")
            inner = getattr(value, kind)
            if kind in ("struct_value", "list_value"):
                return _plain(inner)
            return None if kind == "null_value" else _number(inner) if kind == "number_value" else inner
    raise TypeError(value)


def _number(value: float) -> int | float:
    return int(value) if value % 1 == 0 else value


def _time(when: Timestamp) -> str:
    assert when.nanos % 1_000_000 == 0, when
    return iso(when.seconds * 1000 + when.nanos // 1_000_000)


def _timestamp(value: int | str) -> Timestamp:
    ms = value if isinstance(value, int) else ms_of(value)
    return Timestamp(seconds=ms // 1000, nanos=ms % 1000 * 1_000_000)


def now_ms(service: Serve) -> int:
    """The service's time."""
    now = service.clock.GetClock(clock_service_pb2.GetClockRequest(), timeout=PATIENCE_SECONDS).now
    return ms_of(_time(now))
