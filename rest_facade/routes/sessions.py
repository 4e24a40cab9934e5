"""The endpoints under /api/messaging/sessions: each reads its request, makes its call, and
writes the answer.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Final, TypeVar

import flask
import grpc.aio
from werkzeug.routing import BaseConverter

from eliza.sessions.errors import error_info, forget_frames
from eliza.sessions.v1.json_form_pb2 import JSON_FORM_TEXT
from eliza.sessions.v1.message_service_pb2 import SendMessageRequest, SendMessageResponse
from eliza.sessions.v1.session_pb2 import Session
from eliza.sessions.v1.session_service_pb2 import (
    CreateSessionResponse,
    DeleteSessionRequest,
    GetServiceStatusRequest,
    GetServiceStatusResponse,
    GetSessionRequest,
    RenewSessionRequest,
    SendHeartbeatRequest,
)
from rest_facade.front_door.greenlets import stop_counting
from rest_facade.routes import pages, sse
from rest_facade.routes.caller import request_metadata, stream_metadata
from rest_facade.shapes import errors, fields, json_body, requests, responses
from rest_facade.shapes.credentials import Metadata, has_credential
from rest_facade.shapes.errors import ApiError
from rest_facade.shapes.events import FollowedSession
from rest_facade.shapes.response import Response
from rest_facade.upstream.backend import Backend
from rest_facade.upstream.conversation import AwaitedReply, Conversation
from rest_facade.upstream.following import Follower
from rest_facade.upstream.transcript import Transcript

BASE: Final = "/api/messaging/sessions"
"""The path of the collection of sessions."""

HEALTH: Final = f"{BASE}/health"
"""The path of the service's health, which waits for nobody."""

UNASKED_BYTES: Final = 65_536
"""How large a body is parsed before the server is asked about its sender."""

_Request = TypeVar("_Request")


class _SessionId(BaseConverter):
    """Any one segment of a path but `health`, which is matched before it, whatever the method."""

    regex = r"(?!health(?:/|$))[^/]+"


def add_routes(app: flask.Flask, backend: Backend) -> None:
    """Gives the app the endpoints of the contract."""
    views = _Views(backend)
    session = f"{BASE}/<session:session_id>"
    app.url_map.converters["session"] = _SessionId
    app.add_url_rule(BASE, view_func=views.create_session, methods=["POST"])
    app.add_url_rule(BASE, view_func=views.list_sessions, methods=["GET"])
    app.add_url_rule(HEALTH, view_func=views.get_health, methods=["GET"])
    app.add_url_rule(session, view_func=views.get_session, methods=["GET"])
    app.add_url_rule(session, view_func=views.delete_session, methods=["DELETE"])
    app.add_url_rule(f"{session}/messages", view_func=views.send_message, methods=["POST"])
    app.add_url_rule(f"{session}/messages", view_func=views.list_messages, methods=["GET"])
    app.add_url_rule(f"{session}/events", view_func=views.watch_events, methods=["GET"])
    app.add_url_rule(f"{session}/transcript", view_func=views.export_transcript, methods=["GET"])
    app.add_url_rule(f"{session}/tokens", view_func=views.create_access_token, methods=["POST"])
    app.add_url_rule(f"{session}/renew", view_func=views.renew_session, methods=["POST"])
    app.add_url_rule(f"{session}/timeout", view_func=views.update_timeout, methods=["PATCH"])
    app.add_url_rule(f"{session}/heartbeat", view_func=views.send_heartbeat, methods=["POST"])


class _Views:
    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._told = sse.Told()

    def create_session(self) -> Response:
        """Creates a session of a user with an agent: 201."""
        body = self._read_object(fields.CREATE_SESSION)
        json_body.refuse_unknown()
        request = requests.create_session(
            body, requests.idempotency_key(flask.request.headers.get("Idempotency-Key"))
        )
        answer = self._backend.call(self._backend.sessions.CreateSession, request, request_metadata())
        return json_body.respond(
            responses.created_session(answer.session), 201, {"ETag": answer.session.etag, **_replayed(answer)}
        )

    def list_sessions(self) -> Response:
        """Lists the active sessions, the oldest first."""
        request = requests.list_sessions(flask.request.args)
        return pages.respond("sessions", pages.list_sessions(self._backend, request, request_metadata()))

    def get_health(self) -> Response:
        """Tells how the service is: 503 when it cannot serve."""
        try:
            status = self._backend.call(
                self._backend.sessions.GetServiceStatus, GetServiceStatusRequest(), request_metadata()
            )
        except grpc.aio.AioRpcError as error:
            fault = errors.from_rpc(error)
            if fault.http_status in (401, 403, 429):
                raise fault from error
            if fault.http_status != 503:
                fault = ApiError("UNAVAILABLE", fault.message, retryAfterSeconds=errors.RETRY_AFTER_SECONDS)
            return json_body.respond({"status": "unhealthy", **fault.body}, fault.http_status, fault.headers)
        if status.health == GetServiceStatusResponse.HEALTH_UNHEALTHY:
            fault = ApiError(
                "UNAVAILABLE", "The store cannot write", retryAfterSeconds=errors.RETRY_AFTER_SECONDS
            )
            return json_body.respond(
                {**responses.health(status), **fault.body}, fault.http_status, fault.headers
            )
        return json_body.respond(responses.health(status))

    def get_session(self, session_id: str) -> Response:
        """Reads one session and its live status."""
        answer = self._backend.call(
            self._backend.sessions.GetSession,
            GetSessionRequest(session_id=session_id, json_form=JSON_FORM_TEXT),
            request_metadata(),
        )
        return _session(answer.session)

    def delete_session(self, session_id: str) -> Response:
        """Ends and removes a session, live or expired."""
        self._backend.call(
            self._backend.sessions.DeleteSession,
            DeleteSessionRequest(session_id=session_id, etag=_if_match()),
            request_metadata(),
        )
        return json_body.respond(
            {"success": True, "message": f"Session {session_id.lower()} deleted successfully"}
        )

    def send_message(self, session_id: str) -> Response:
        """Sends a message, which renews the session when auto-renewal is on: 201."""
        body = self._read_object(fields.SEND_MESSAGE)
        request, transport = self._judge(partial(requests.send_message, body, session_id), session_id)
        request.request_id = requests.idempotency_key(flask.request.headers.get("Idempotency-Key"))
        if transport == "websocket":
            answer = self._backend.call(self._backend.messages.SendMessage, request, request_metadata())
            return json_body.respond(
                responses.sent_message(answer.message, answer.session_status), 201, _replayed(answer)
            )
        if transport == "http":
            return self._send_and_wait(request)
        talk = Conversation(self._backend, request, request_metadata())
        try:
            sent = self._backend.wait(talk.open())
            return sse.respond(sse.conversation(self._backend, talk, sent), talk.close, _replayed(sent))
        except BaseException:
            talk.close()
            raise

    def _send_and_wait(self, request: SendMessageRequest) -> Response:
        """Sends a message and waits for its reply: 201 with both."""
        waiting = AwaitedReply(self._backend, request, request_metadata())
        try:
            self._backend.wait(waiting.open())
            stop_counting()
            sent = self._backend.wait(waiting.answer())
        finally:
            waiting.close()
        body = responses.sent_message(sent.message, sent.session_status)
        return json_body.respond(
            {**body, "agentResponse": responses.agent_response(sent.reply)}, 201, _replayed(sent)
        )

    def watch_events(self, session_id: str) -> Response:
        """Streams the session's events (`text/event-stream`), from the first or from behind `Last-Event-ID`
        or `after`, a sequence.
        """
        metadata = stream_metadata()
        last = flask.request.headers.get("Last-Event-ID", "")
        given = last or flask.request.args.get("after", "")
        after = self._judge(partial(requests.after_sequence, given), session_id, metadata)
        follower = Follower(self._backend, session_id, after, metadata)
        try:
            session = self._backend.wait(follower.open())
            room = FollowedSession(session, follower.agent_name, session.session_id)
        except BaseException:
            follower.close()
            raise
        return sse.respond(sse.session_events(self._backend, follower, room, self._told), follower.close)

    def list_messages(self, session_id: str) -> Response:
        """Pages through the history, newest first."""
        query = flask.request.args
        request = self._judge(partial(requests.list_messages, query, session_id), session_id)
        return pages.respond("messages", pages.list_messages(self._backend, request, request_metadata()))

    def export_transcript(self, session_id: str) -> Response:
        """Streams all that there is of a session, live or expired, as JSON Lines."""
        transcript = Transcript(self._backend, session_id, request_metadata())
        try:
            first = self._backend.wait(transcript.open())
        except BaseException:
            transcript.close()
            raise
        lines = pages.write_transcript(self._backend, transcript, first)
        return Response(lines, 200, pages.JSON_LINES, transcript.close)

    def renew_session(self, session_id: str) -> Response:
        """Renews by hand, also when auto-renewal is off: 422 at the maximum duration."""
        self._judge_unused_body(session_id)
        answer = self._backend.call(
            self._backend.sessions.RenewSession,
            RenewSessionRequest(session_id=session_id, etag=_if_match(), json_form=JSON_FORM_TEXT),
            request_metadata(),
        )
        return _session(answer.session)

    def update_timeout(self, session_id: str) -> Response:
        """Changes the timeout settings that the body names."""
        body = self._read_object(fields.UPDATE_TIMEOUT)
        request = self._judge(partial(requests.update_timeout, body, session_id), session_id)
        request.etag = _if_match()
        answer = self._backend.call(self._backend.sessions.UpdateTimeout, request, request_metadata())
        return _session(answer.session)

    def send_heartbeat(self, session_id: str) -> Response:
        """Keeps alive, and renews when auto-renewal is on."""
        self._judge_unused_body(session_id)
        answer = self._backend.call(
            self._backend.sessions.SendHeartbeat,
            SendHeartbeatRequest(session_id=session_id, json_form=JSON_FORM_TEXT),
            request_metadata(),
        )
        return _session(answer.session)

    def create_access_token(self, session_id: str) -> Response:
        """Makes a token for this session, for a short time: what a browser gets. 201."""
        body = self._read_object(fields.CREATE_ACCESS_TOKEN)
        request = self._judge(partial(requests.create_access_token, body, session_id), session_id)
        answer = self._backend.call(self._backend.sessions.CreateAccessToken, request, request_metadata())
        return json_body.respond(
            responses.access_token(answer, session_id), 201, {"Cache-Control": "no-store"}
        )

    def _read_object(self, known: fields.Fields) -> dict[str, Any]:
        """Reads the body. A caller without a good credential hears of that first: nothing large of theirs is
        parsed, and nothing is called malformed.
        """
        is_large = int(flask.request.environ["CONTENT_LENGTH"]) > UNASKED_BYTES
        if is_large:
            self._require_credential()
        try:
            return json_body.read_object(known)
        except ApiError:
            if not is_large:
                self._require_credential()
            raise

    def _require_credential(self) -> None:
        """Raises ApiError where the server refuses a caller for its credential, or for having none.

        The call that asks needs no credential, so that the log has no failed one. A server that cannot say
        hears of the request itself.
        """
        metadata = request_metadata()
        try:
            status = self._backend.call(
                self._backend.sessions.GetServiceStatus, GetServiceStatusRequest(), metadata
            )
        except grpc.aio.AioRpcError as error:
            fault = errors.from_rpc(error) if error_info(error) else None
            forget_frames(error)
            if fault and fault.http_status in (401, 403, 429):
                raise fault from None
            return
        if status.status_only and not has_credential(metadata):
            raise ApiError("UNAUTHENTICATED", "The service needs a credential")

    def _judge(
        self, read: Callable[[], _Request], session_id: str, metadata: Metadata | None = None
    ) -> _Request:
        """What `read` makes of the client's request.

        Before that is called bad (400), the session must exist (404) and be live (410).
        """
        try:
            json_body.refuse_unknown()
            return read()
        except ApiError:
            self._backend.call(
                self._backend.sessions.GetSession,
                GetSessionRequest(session_id=session_id, json_form=JSON_FORM_TEXT),
                request_metadata() if metadata is None else metadata,
            )
            raise

    def _judge_unused_body(self, session_id: str) -> None:
        """Judges a body of which no field is used."""
        body = self._read_object(fields.NOTHING)
        self._judge(lambda: body, session_id)


def _session(session: Session) -> Response:
    """SessionInfo, and the entity tag of the state that it tells of."""
    return json_body.respond(responses.session_info(session), 200, {"ETag": session.etag})


def _if_match() -> str:
    """The tags of If-Match; a header that names none matches none, because who sends it means a condition."""
    headers = flask.request.headers.getlist("If-Match")
    return ",".join(headers) or ("," if headers else "")


def _replayed(answer: CreateSessionResponse | SendMessageResponse) -> dict[str, str]:
    """The header that marks the first answer to a request that is repeated."""
    return {"Idempotency-Replayed": "true"} if answer.replayed else {}
