"""The streams of the API, described once for both clients: what to ask for next, and what a response gives.

A stream goes on over lost connections. Nothing here talks to the service.
"""

import json
import time
from collections.abc import Callable
from typing import Any, Final, Protocol, TypeAlias, TypeVar

import grpc

from eliza_sessions_client import calls
from eliza_sessions_client._api import (
    log_pb2,
    message_pb2,
    message_service_pb2,
    session_service_pb2,
    user_data_service_pb2,
)
from eliza_sessions_client.error_classes import (
    AgentReplyTimeoutError,
    DeadlineExceededError,
    SessionNotFoundError,
    UnavailableError,
)
from eliza_sessions_client.errors import SessionsError
from eliza_sessions_client.failures import error_from
from eliza_sessions_client.retries import Backoff, may_repeat, wait_of

T = TypeVar("T")

Record: TypeAlias = dict[str, Any]
"""A line of a transcript or an export: `record` says what it is, a `session` or an `entry` of its log."""

CREDENTIAL_EXPIRED: Final = "CREDENTIAL_EXPIRED"
PATIENCE_SECONDS: Final = 300.0
"""How long `watch` tries to reach a service that is away."""

REPLY_SECONDS: Final = 120.0
"""How long `converse` and `send_and_wait` wait for the reply."""

WatchEvent: TypeAlias = log_pb2.LogEntry | log_pb2.ReplyChunk | log_pb2.ReplyAborted | log_pb2.SessionDeleted
"""What `watch` yields: entries of the log, pieces of replies under way, and that such pieces are void."""

ConversePart: TypeAlias = (
    message_service_pb2.SendMessageResponse | log_pb2.ReplyChunk | log_pb2.ReplyAborted | message_pb2.Message
)
"""What `converse` yields: the stored message, pieces of the reply, that they are void, and the reply."""


class Stream(Protocol[T]):
    """A stream that goes on over lost connections."""

    service: str
    method: str
    is_over: bool
    """Whether nothing more is to come."""

    def request(self) -> Any:
        """What to ask for: all that comes behind what came."""

    def timeout(self) -> float | None:
        """After how many seconds the next connection ends; None: never."""

    def take(self, response: Any) -> "list[T]":
        """Takes a response; returns what it means."""

    def lose(self, failed: grpc.RpcError | None, *, is_renewable: bool) -> "list[T]":
        """Takes the end of a connection; returns what is void with it. `is_renewable`: there are new tokens.

        :raises SessionsError: another connection makes no sense
        """

    def pause(self) -> float:
        """The seconds to wait before the next connection."""


class _Pieces:
    """The replies under way of which pieces were shown, by the last piece of each.

    A reply is shown from its first piece on, or not at all: a piece in the middle of a text says nothing.
    """

    def __init__(self) -> None:
        self._shown: dict[str, log_pb2.ReplyChunk] = {}

    def show(self, chunk: log_pb2.ReplyChunk) -> list[log_pb2.ReplyChunk]:
        """Takes a piece; returns it where it is to be shown."""
        if chunk.index and chunk.message_id not in self._shown:
            return []
        self._shown[chunk.message_id] = chunk
        return [chunk]

    def end(self, message_id: str) -> bool:
        """Takes the end of a reply. Returns whether pieces of it were shown."""
        return self._shown.pop(message_id, None) is not None

    def void(self) -> list[log_pb2.ReplyAborted]:
        """Takes back all that was shown: on the next connection, pieces may be missing."""
        shown, self._shown = self._shown, {}
        return [
            log_pb2.ReplyAborted(
                session_id=chunk.session_id,
                agent_id=chunk.agent_id,
                message_id=chunk.message_id,
                attempt=chunk.attempt,
            )
            for chunk in shown.values()
        ]


class _Resuming:
    """What the streams have in common: the patience with a service that is away."""

    def __init__(self, patience_s: float) -> None:
        self.is_over = False
        self.pieces = _Pieces()
        self._patience_s = patience_s
        self._lost_at_s: float | None = None
        self._wait_s = 0.0
        self._backoff = Backoff()

    def note_life(self) -> None:
        """Notes that the connection works."""
        self._lost_at_s = None
        self._backoff.reset()

    def judge(self, error: SessionsError, *, is_renewable: bool) -> None:
        """Raises the error where another connection makes no sense."""
        is_first, now_s = self._lost_at_s is None, time.monotonic()
        self._lost_at_s = now_s if self._lost_at_s is None else self._lost_at_s
        # With a new token, but only where the last one was good for something.
        has_new_token = error.code == CREDENTIAL_EXPIRED and is_renewable and is_first
        wait_s, ends_s = wait_of(error), self._lost_at_s + self._patience_s
        # Nobody waits for what comes when it is too late.
        is_late = now_s > ends_s or (wait_s > 0 and now_s + wait_s > self.bound(ends_s))
        if is_late or not (has_new_token or may_repeat(error, is_repeatable=True)):
            raise error from None
        self._wait_s = wait_s

    def bound(self, ends_s: float) -> float:
        """Until when another connection makes sense, where the patience ends at `ends_s`."""
        return ends_s

    def pause(self) -> float:
        """See Stream."""
        return self._backoff.pause(self._wait_s)


def _error(failed: grpc.RpcError | None) -> SessionsError:
    if failed is None:
        return UnavailableError("The service ended the stream", grpc.StatusCode.UNAVAILABLE)
    return error_from(failed)


class Watch(_Resuming):
    """See `watch`."""

    service, method = "SessionService", "WatchSession"

    def __init__(self, session_id: str, after: int, patience_s: float) -> None:
        super().__init__(patience_s)
        self._session_id = session_id
        self._sequence = after
        self._was_there = False

    def request(self) -> session_service_pb2.WatchSessionRequest:
        """See Stream."""
        return session_service_pb2.WatchSessionRequest(
            session_id=self._session_id, after_sequence=self._sequence
        )

    def timeout(self) -> None:
        """See Stream."""

    def take(self, response: session_service_pb2.WatchSessionResponse) -> list[WatchEvent]:
        """See Stream."""
        self.note_life()
        self._was_there = True
        match response.WhichOneof("event"):
            case "entry":
                return [self._take_entry(response.entry)]
            case "chunk":
                return list(self.pieces.show(response.chunk))
            case "aborted":
                return [response.aborted] if self.pieces.end(response.aborted.message_id) else []
            case "deleted":
                self.is_over = True
                return [response.deleted]
            case _:
                return []

    def _take_entry(self, entry: log_pb2.LogEntry) -> log_pb2.LogEntry:
        self._sequence = entry.sequence
        match entry.WhichOneof("event"):
            case "message":
                self.pieces.end(entry.message.message_id)
            case "reply_failure":
                self.pieces.end(entry.reply_failure.reply_message_id)
            case "expiry":
                self.is_over = True
        return entry

    def lose(self, failed: grpc.RpcError | None, *, is_renewable: bool) -> list[WatchEvent]:
        """See Stream."""
        error = _error(failed)
        if isinstance(error, SessionNotFoundError) and self._was_there:
            # It was removed while nobody listened.
            self.is_over = True
            return [*self.pieces.void(), log_pb2.SessionDeleted(session_id=self._session_id)]
        self.judge(error, is_renewable=is_renewable)
        return list(self.pieces.void())


class Conversation(_Resuming):
    """See `converse`."""

    service, method = "MessageService", "Converse"

    def __init__(self, sent: message_service_pb2.SendMessageRequest, timeout_s: float) -> None:
        super().__init__(timeout_s)
        self._sent = sent
        self._deadline_s = time.monotonic() + timeout_s
        self._message_id = ""

    def request(self) -> message_service_pb2.ConverseRequest:
        """See Stream. Each has the same request id, so it stores nothing twice."""
        return message_service_pb2.ConverseRequest(message=self._sent)

    def timeout(self) -> float:
        """See Stream."""
        return max(0.001, self._deadline_s - time.monotonic())

    def take(self, response: message_service_pb2.ConverseResponse) -> list[ConversePart]:
        """See Stream."""
        self.note_life()
        match response.WhichOneof("part"):
            case "user_message" if not self._message_id:
                self._message_id = response.user_message.message.message_id
                return [response.user_message]
            case "chunk":
                return list(self.pieces.show(response.chunk))
            case "aborted":
                return [response.aborted] if self.pieces.end(response.aborted.message_id) else []
            case "reply":
                self.is_over = True
                return [response.reply]
            case _:
                return []

    def lose(self, failed: grpc.RpcError | None, *, is_renewable: bool) -> list[ConversePart]:
        """See Stream. The service may be less patient than we are: then we ask once more."""
        error = _error(failed)
        if isinstance(error, AgentReplyTimeoutError | DeadlineExceededError):
            if time.monotonic() >= self._deadline_s - 0.001:
                raise self._no_reply(error) from None
            self._wait_s = 0.0
        else:
            self.judge(error, is_renewable=is_renewable)
        return list(self.pieces.void())

    def bound(self, ends_s: float) -> float:
        """See _Resuming."""
        return min(ends_s, self._deadline_s)

    def _no_reply(self, error: SessionsError) -> SessionsError:
        if not self._message_id:
            return error
        details = {"sessionId": self._sent.session_id, "messageId": self._message_id}
        text = "The agent has not replied in time; the message is kept"
        return AgentReplyTimeoutError(text, grpc.StatusCode.DEADLINE_EXCEEDED, details)


class OneCall:
    """A stream that cannot be taken up where it broke off: its error is raised."""

    def __init__(self, service: str, method: str, request: Any, read: Callable[[Any], list[Any]]) -> None:
        """`read` says what a response means."""
        self.service, self.method = service, method
        self.is_over = False
        self._request = request
        self._read = read

    def request(self) -> Any:
        """See Stream."""
        return self._request

    def timeout(self) -> None:
        """See Stream."""

    def take(self, response: Any) -> list[Any]:
        """See Stream."""
        return self._read(response)

    def lose(self, failed: grpc.RpcError | None, *, is_renewable: bool) -> list[Any]:
        """See Stream."""
        if failed is not None:
            raise error_from(failed) from None
        self.is_over = True
        return []

    def pause(self) -> float:
        """See Stream."""
        return 0.0


def _records(response: Any) -> list[Record]:
    return [json.loads(line) for line in response.lines.splitlines()]


def transcript(session_id: str, *, after: int = 0) -> Stream[Record]:
    """Iterates over all that the service has of a session, live or expired: the `session`, then each `entry`
    of its log behind the sequence `after`, as dicts of JSON.

    A transcript that breaks off raises the error: ask again, with `after`.
    """
    request = message_service_pb2.ExportTranscriptRequest(session_id=session_id, after_sequence=after)
    return OneCall("MessageService", "ExportTranscript", request, _records)


def export_user(user_id: str) -> Stream[Record]:
    """Iterates over all that the service has about a user, as dicts of JSON: each `session`, followed by each
    `entry` of its log.

    An export that breaks off raises the error, and is to be made anew.
    """
    request = user_data_service_pb2.ExportUserDataRequest(user_id=user_id)
    return OneCall("UserDataService", "ExportUserData", request, _records)


def erase_user(user_id: str) -> Stream[user_data_service_pb2.DeleteUserDataResponse.Receipt]:
    """Erases all that the service has about a user, and returns the receipt.

    An erase that breaks off raises the error, and may be made again. The receipt then tells of the rest.
    """
    request = user_data_service_pb2.DeleteUserDataRequest(user_id=user_id)
    return OneCall("UserDataService", "DeleteUserData", request, _receipts)


def _receipts(response: Any) -> list[user_data_service_pb2.DeleteUserDataResponse.Receipt]:
    return [response.receipt] if response.HasField("receipt") else []


def watch(session_id: str, *, after: int = 0, patience: float = PATIENCE_SECONDS) -> Stream[WatchEvent]:
    """Iterates over what happens in a session: first the log behind the sequence `after`, then live.

    It goes on over lost connections, with no gap and no repeat, and ends with the session's expiry or
    removal. It raises UnavailableError once the service has been away for `patience` seconds, and the error
    of a service that asks for a longer wait at once.

    Pieces of a reply (`ReplyChunk`) come from its first one on, or not at all. After a lost connection they
    are void, which a `ReplyAborted` says.
    """
    return Watch(session_id, after, patience)


def converse(
    session_id: str,
    content: str,
    *,
    metadata: calls.Metadata | None = None,
    attachments: calls.Attachments | None = None,
    request_id: str | None = None,
    timeout: float = REPLY_SECONDS,
) -> Stream[ConversePart]:
    """Sends a message and iterates over what comes of it: the stored message (`SendMessageResponse`), pieces
    of the reply (`ReplyChunk`), that they are void (`ReplyAborted`), and at last the reply (`Message`).

    It goes on over lost connections; the message is stored once. It raises AgentReplyError where there will
    be no reply, and AgentReplyTimeoutError after `timeout` seconds: the message is stored all the same. Where
    the service asks for a wait beyond that, it raises the service's error at once.
    """
    sent = calls.send(session_id, content, metadata=metadata, attachments=attachments, request_id=request_id)
    return Conversation(sent.request, timeout)
