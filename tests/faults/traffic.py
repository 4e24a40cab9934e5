"""Mixed load for the campaigns: clients of all three kinds that repeat their calls until they are acknowledged, watchers that resume, and a
model of what was acknowledged, with which the store and what the watchers saw are compared.

The clients are as thin as they can be, so that they see what happens to their connections: `AgainError` says how an attempt ended.
"""

import asyncio
import contextlib
import itertools
import json
import random
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeVar

import grpc
import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from eliza.sessions.v1 import (
    log_pb2,
    message_service_pb2,
    message_service_pb2_grpc,
    session_pb2,
    session_service_pb2,
    session_service_pb2_grpc,
    timeout_pb2,
    values,
)
from eliza.sessions.v1.errors import error_info
from tests.harness import ECHO, USER

T = TypeVar("T")

CALL_SECONDS = 20
"""After which an attempt is given up; far above what it takes, also beside other work."""
SETTLING_SECONDS = 60
"""After which without anything new what replies and watchers still owe in the end is lost."""
PAUSE_SECONDS = 0.05
"""How long a client waits before the next attempt, at most."""
REPEATED = 0.05
"""The share of acknowledged requests that are made once more, and that are made twice at a time."""

_CHANNEL = [
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
]


class AgainError(Exception):
    """An attempt has no answer, or one that says to try again. `how`: `refused`, `dropped`, `late`, or the reason given."""

    def __init__(self, how: str, detail: str = "") -> None:
        super().__init__(f"{how} {detail}")
        self.how = how


class RefusedError(Exception):
    """The answer is an error that another attempt does not change."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Sent:
    """An acknowledged message; `replayed` and `reply_id` where the client is told."""

    message_id: str
    replayed: bool | None = None
    reply_id: str | None = None


class Client(Protocol):
    """Sends messages. Raises AgainError, RefusedError."""

    kind: str

    async def send(self, session_id: str, request_id: str, content: str, *, wait: bool = False) -> Sent:
        """Sends a message, and where `wait` waits for the reply."""

    async def close(self) -> None:
        """Closes the connection."""


_REASONS = {
    grpc.StatusCode.UNAVAILABLE: "dropped",
    grpc.StatusCode.CANCELLED: "cancelled",
    grpc.StatusCode.DEADLINE_EXCEEDED: "late",
}


def _judged(error: grpc.aio.AioRpcError) -> AgainError | RefusedError:
    detail = error.details() or ""
    info = error_info(error)
    if info is not None:
        again = info.reason in ("UNAVAILABLE", "OVERLOADED", "AGENT_REPLY_TIMEOUT", "DEADLINE_EXCEEDED")
        return AgainError(info.reason, detail) if again else RefusedError(info.reason, detail)
    if error.code() == grpc.StatusCode.UNAVAILABLE and ("failed to connect" in detail.lower() or "refused" in detail.lower()):
        return AgainError("refused", detail)
    if error.code() in _REASONS:
        return AgainError(_REASONS[error.code()], detail)
    return RefusedError(error.code().name, detail)


class GrpcClient:
    """The stubs, on a channel of its own."""

    kind = "gRPC"

    def __init__(self, address: str) -> None:
        self.channel = grpc.aio.insecure_channel(address, _CHANNEL)
        self.sessions = session_service_pb2_grpc.SessionServiceStub(self.channel)
        self.messages = message_service_pb2_grpc.MessageServiceStub(self.channel)

    async def call(self, method: Callable[..., Awaitable[T]], request: object) -> T:
        """Makes a call. Raises AgainError, RefusedError."""
        try:
            return await method(request, timeout=CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise _judged(error) from None

    async def create(self, request_id: str, mark: str, minutes: float | None = None) -> str:
        """Creates a session with this mark in its metadata; returns its id."""
        config = timeout_pb2.TimeoutConfig(timeout_minutes=minutes)
        request = session_service_pb2.CreateSessionRequest(agent_id=ECHO, user_id=USER, request_id=request_id, timeout_config=config)
        request.metadata.CopyFrom(values.struct({"mark": mark}))
        return (await self.call(self.sessions.CreateSession, request)).session.session_id

    async def send(self, session_id: str, request_id: str, content: str, *, wait: bool = False) -> Sent:
        request = message_service_pb2.SendMessageRequest(session_id=session_id, content=content, request_id=request_id)
        if not wait:
            answer = await self.call(self.messages.SendMessage, request)
            return Sent(answer.message.message_id, answer.replayed)
        sent, reply = None, None
        try:
            async for part in self.messages.Converse(message_service_pb2.ConverseRequest(message=request), timeout=CALL_SECONDS):
                if part.HasField("user_message"):
                    sent = part.user_message
                elif part.HasField("reply"):
                    reply = part.reply
        except grpc.aio.AioRpcError as error:
            raise _judged(error) from None
        if sent is None or reply is None:
            raise AgainError("unfinished")
        return Sent(sent.message.message_id, sent.replayed, reply.message_id)

    async def get(self, session_id: str) -> session_pb2.Session:
        """Reads a session."""
        return (await self.call(self.sessions.GetSession, session_service_pb2.GetSessionRequest(session_id=session_id))).session

    async def renew(self, session_id: str, etag: str) -> tuple[int, str]:
        """Renews a session in this state; returns the sequence of its entry, and the new state's tag."""
        request = session_service_pb2.RenewSessionRequest(session_id=session_id, etag=etag)
        session = (await self.call(self.sessions.RenewSession, request)).session
        return session.last_sequence, session.etag

    async def patch(self, session_id: str, etag: str, minutes: int) -> tuple[int, str]:
        """Changes the timeout of a session in this state."""
        config = timeout_pb2.TimeoutConfig(timeout_minutes=minutes)
        request = session_service_pb2.UpdateTimeoutRequest(session_id=session_id, etag=etag, timeout_config=config)
        session = (await self.call(self.sessions.UpdateTimeout, request)).session
        return session.last_sequence, session.etag

    async def heartbeat(self, session_id: str) -> None:
        """Keeps a session alive."""
        await self.call(self.sessions.SendHeartbeat, session_service_pb2.SendHeartbeatRequest(session_id=session_id))

    async def delete(self, session_id: str) -> None:
        """Deletes a session."""
        await self.call(self.sessions.DeleteSession, session_service_pb2.DeleteSessionRequest(session_id=session_id))

    async def watch(self, session_id: str, after: int) -> AsyncIterator[log_pb2.LogEntry]:
        """The entries of a session's log behind a sequence, as they come."""
        request = session_service_pb2.WatchSessionRequest(session_id=session_id, after_sequence=after)
        call = self.sessions.WatchSession(request)
        try:
            async for response in call:
                if response.HasField("entry"):
                    yield response.entry
        except grpc.aio.AioRpcError as error:
            raise _judged(error) from None
        finally:
            call.cancel()

    async def close(self) -> None:
        await self.channel.close()


class Response(NamedTuple):
    """An answer over HTTP; the names of headers are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return orjson.loads(self.body)


class RestClient:
    """HTTP/1.1 over one connection, which is opened when it is needed and kept."""

    kind = "REST"

    def __init__(self, address: str) -> None:
        self._address = address
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def request(self, method: str, path: str, body: object = None, **headers: str) -> Response:
        """Makes a request of the sessions API. Raises AgainError; RefusedError for a status of 400 or more."""
        try:
            async with asyncio.timeout(CALL_SECONDS):
                reader = await self._begin(method, path, body, headers)
                status, heads = await _head(reader)
                content = await reader.readexactly(int(heads.get("content-length", 0)))
                if heads.get("connection") == "close":
                    await self.close()
        except TimeoutError:
            await self.close()
            raise AgainError("late") from None
        except (OSError, asyncio.IncompleteReadError) as error:
            await self.close()
            raise AgainError("dropped", repr(error)) from None
        if status >= 400:
            code = orjson.loads(content)["code"]
            if status in (503, 504):
                assert status == 504 or int(heads["retry-after"]) >= 1
                raise AgainError(code)
            raise RefusedError(code, content.decode())
        return Response(status, heads, content)

    async def create(self, request_id: str, mark: str, minutes: float | None = None) -> str:
        """Creates a session with this mark in its metadata; returns its id."""
        body = {"agentId": ECHO, "userId": USER, "metadata": {"mark": mark}, "timeoutConfig": {"timeoutMinutes": minutes}}
        return (await self.request("POST", "", body, **{"Idempotency-Key": request_id})).json()["sessionId"]

    async def send(self, session_id: str, request_id: str, content: str, *, wait: bool = False) -> Sent:
        body = {"content": content, "transport": "http" if wait else "websocket"}
        answer = await self.request("POST", f"/{session_id}/messages", body, **{"Idempotency-Key": request_id})
        sent = answer.json()
        return Sent(sent["id"], "idempotency-replayed" in answer.headers, sent["agentResponse"]["id"] if wait else None)

    async def renew(self, session_id: str, etag: str) -> tuple[int, str]:
        """Renews a session in this state; returns the sequence of its entry, and the new state's tag."""
        return _state(await self.request("POST", f"/{session_id}/renew", **{"If-Match": etag}))

    async def patch(self, session_id: str, etag: str, minutes: int) -> tuple[int, str]:
        """Changes the timeout of a session in this state."""
        return _state(await self.request("PATCH", f"/{session_id}/timeout", {"timeoutMinutes": minutes}, **{"If-Match": etag}))

    async def heartbeat(self, session_id: str) -> None:
        """Keeps a session alive."""
        await self.request("POST", f"/{session_id}/heartbeat")

    async def delete(self, session_id: str) -> None:
        """Deletes a session."""
        await self.request("DELETE", f"/{session_id}")

    async def watch(self, session_id: str, after: int) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        """The events of a session behind a sequence, as an EventSource reads them. Raises AgainError, RefusedError."""
        try:
            reader = await self._begin("GET", f"/{session_id}/events", None, {"Last-Event-ID": str(after)})
            status, heads = await _head(reader)
            if status != 200:
                code = orjson.loads(await reader.readexactly(int(heads["content-length"])))["code"]
                raise AgainError(code) if status in (503, 504) else RefusedError(code, "")
            text = b""
            while size := int(await reader.readuntil(b"\r\n"), 16):
                text += (await reader.readexactly(size + 2))[:-2]
                *events, text = text.split(b"\n\n")
                for event in events:
                    fields = dict(line.split(": ", 1) for line in event.decode().split("\n") if not line.startswith(":"))
                    # Chunks have no sequence, and are not kept.
                    if "id" in fields:
                        yield fields["event"], orjson.loads(fields["data"])
        except (OSError, asyncio.IncompleteReadError) as error:
            raise AgainError("dropped", repr(error)) from None
        finally:
            await self.close()

    async def close(self) -> None:
        if self._streams:
            self._streams[1].close()
            self._streams = None

    async def _begin(self, method: str, path: str, body: object, headers: dict[str, str]) -> asyncio.StreamReader:
        """Sends a request. Raises AgainError where there is no connection, OSError."""
        if self._streams is None:
            host, port = self._address.split(":")
            try:
                self._streams = await asyncio.open_connection(host, int(port))
            except OSError as error:
                raise AgainError("refused", repr(error)) from None
        reader, writer = self._streams
        data = b"" if body is None else orjson.dumps(body)
        lines = [f"{method} /api/messaging/sessions{path} HTTP/1.1", "Host: x", *(f"{name}: {value}" for name, value in headers.items())]
        if data:
            lines += ["Content-Type: application/json"]
        writer.write("\r\n".join([*lines, f"Content-Length: {len(data)}", "", ""]).encode() + data)
        return reader


async def _head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    """The status and the headers of an answer."""
    first, *lines = (await reader.readuntil(b"\r\n\r\n"))[:-4].decode("latin-1").split("\r\n")
    return int(first.split(" ")[1]), {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}


def _state(answer: Response) -> tuple[int, str]:
    """The sequence and the tag of the state that an answer tells of: the tag begins with the sequence."""
    etag = answer.headers["etag"]
    return int(etag.strip('"').split("-")[0]), etag


class SocketClient:
    """Socket.IO over a bare websocket, opened when it is needed and kept."""

    kind = "Socket.IO"

    def __init__(self, address: str) -> None:
        self._url = f"ws://{address}/socket.io/?EIO=4&transport=websocket"
        self._socket: ClientConnection | None = None

    async def send(self, session_id: str, request_id: str, content: str, *, wait: bool = False) -> Sent:
        payload = {"senderId": USER, "message": content, "roomId": session_id, "messageId": request_id, "requestId": request_id}
        try:
            async with asyncio.timeout(CALL_SECONDS):
                socket = await self._opened()
                # Both dialects, in turns.
                envelope = ["message", {"type": 2, "payload": payload}] if len(content) % 2 else ["2", payload]
                await socket.send("42" + json.dumps(envelope))
                async for name, answer in self._events(socket):
                    if name == "messageAck" and answer["clientMessageId"] == request_id:
                        return Sent(answer["messageId"])
                    if name == "messageError":
                        again = answer["code"] in ("UNAVAILABLE", "OVERLOADED", "DEADLINE_EXCEEDED")
                        raise AgainError(answer["code"]) if again else RefusedError(answer["code"], answer["error"])
        except TimeoutError:
            await self.close()
            raise AgainError("late") from None
        except (OSError, WebSocketException) as error:
            await self.close()
            raise AgainError("dropped", repr(error)) from None
        await self.close()
        raise AgainError("dropped")

    async def watch(self, session_id: str, after: int) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        """The events of a session behind a sequence. Raises AgainError, RefusedError."""
        try:
            socket = await self._opened()
            await socket.send("42" + json.dumps(["join", {"roomId": session_id, "after": after}]))
            async for name, event in self._events(socket):
                if name == "messageError":
                    raise AgainError(event["code"]) if event["code"] == "UNAVAILABLE" else RefusedError(event["code"], event["error"])
                if "sequence" in event:
                    yield name, event
        except (OSError, WebSocketException) as error:
            raise AgainError("dropped", repr(error)) from None
        finally:
            await self.close()

    async def close(self) -> None:
        if self._socket:
            socket, self._socket = self._socket, None
            # Not waited for: the other side may be gone.
            socket.transport.abort()

    async def _opened(self) -> ClientConnection:
        if self._socket is None:
            try:
                self._socket = await connect(self._url, compression=None, ping_interval=None, proxy=None, max_size=None)
                await self._socket.recv()
                await self._socket.send("40")
            except (OSError, WebSocketException) as error:
                await self.close()
                raise AgainError("refused", repr(error)) from None
        return self._socket

    @staticmethod
    async def _events(socket: ClientConnection) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        async for text in socket:
            if text == "2":
                await socket.send("3")
            elif str(text).startswith("42"):
                name, payload = orjson.loads(str(text)[2:])
                yield name, payload


Seen = tuple[int, str, str]
"""An entry as a watcher is told of it: its sequence, its kind, and a message's id."""

_KINDS = {"messageBroadcast": "message", "sessionRenewed": "renewal", "sessionTimeoutChanged": "timeout_change"}


def seen_entry(entry: log_pb2.LogEntry) -> Seen:
    kind = entry.WhichOneof("event")
    return entry.sequence, kind, entry.message.message_id if kind == "message" else ""


def seen_event(name: str, event: dict[str, Any]) -> Seen:
    return event["sequence"], _KINDS.get(name, name), event["id"] if name == "messageBroadcast" else ""


@dataclass
class Findings:
    """What does not fit, a line each."""

    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    gaps: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return any(vars(self).values())

    def __str__(self) -> str:
        counts = ", ".join(f"{name.capitalize()}: {len(lines)}" for name, lines in vars(self).items())
        return "\n".join([counts, *(f"  {name}: {line}" for name, lines in vars(self).items() for line in lines[:10])])


class Watcher:
    """Follows a session over the lives of the service, from the last entry that it was told of."""

    def __init__(self, client: GrpcClient | RestClient | SocketClient, session_id: str) -> None:
        self.client = client
        self.session_id = session_id
        self.seen: list[Seen] = []
        self.resumed = -1

    @property
    def sequence(self) -> int:
        return self.seen[-1][0] if self.seen else 0

    async def follow(self) -> None:
        """Follows until cancelled."""
        while True:
            self.resumed += 1
            with contextlib.suppress(AgainError):
                async with contextlib.aclosing(self.client.watch(self.session_id, self.sequence)) as events:
                    async for event in events:
                        told = seen_entry(event) if isinstance(event, log_pb2.LogEntry) else seen_event(*event)
                        # Over Socket.IO a message that renewed is told of by two events.
                        if (*told, self.client.kind) != (self.sequence, "renewal", "", "Socket.IO") or self.seen[-1][1] != "message":
                            self.seen.append(told)
            await asyncio.sleep(PAUSE_SECONDS)


@dataclass
class Model:
    """What was acknowledged, over all lives of the service."""

    sent: dict[str, dict[str, Sent]] = field(default_factory=lambda: defaultdict(dict))
    """By session, by content; the content is the request id, too."""
    created: dict[str, str] = field(default_factory=dict)
    """Session ids by mark, which is the request id."""
    deleted: set[str] = field(default_factory=set)
    kept: dict[str, list[tuple[int, str]]] = field(default_factory=lambda: defaultdict(list))
    """By session: the sequences and kinds of the entries that calls with a tag have made, all in order."""
    beats: Counter[str] = field(default_factory=Counter)
    """Acknowledged heartbeats by session."""
    tries: Counter[str] = field(default_factory=Counter)
    """Heartbeats that were tried by session."""
    findings: Findings = field(default_factory=Findings)

    @property
    def acknowledged(self) -> Counter[str]:
        return Counter(
            messages=sum(map(len, self.sent.values())),
            sessions=len(self.created),
            deletions=len(self.deleted),
            renewals_and_changes=sum(map(len, self.kept.values())),
            heartbeats=self.beats.total(),
        )


class Traffic:
    """Callers and watchers of every kind against one service, over its lives. `attempts` counts how attempts ended, by phase and client."""

    def __init__(self, grpc_address: str, rest_address: str, seed: int, *, senders: int = 6) -> None:
        """`senders`: how many callers of each kind send messages, at as many sessions."""
        self.model = Model()
        self.phase = "start"
        self.attempts: Counter[tuple[str, str, str]] = Counter()
        self.done: Counter[str] = Counter()
        self.watchers: list[Watcher] = []
        # Messages whose connection was dropped in a phase, by that phase.
        self.dropped: dict[str, set[tuple[str, str]]] = defaultdict(set)
        self._addresses = grpc_address, rest_address
        self._seed = seed
        self._senders = senders
        self._stopping = False
        self._callers: list[asyncio.Task[None]] = []
        self._following: list[asyncio.Task[None]] = []
        self._clients: list[Any] = []
        self.reader = self._client("gRPC")

    def _client(self, kind: str) -> Any:
        grpc_address, rest_address = self._addresses
        made: dict[str, Callable[[], Any]] = {
            "gRPC": lambda: GrpcClient(grpc_address),
            "REST": lambda: RestClient(rest_address),
            "Socket.IO": lambda: SocketClient(rest_address),
        }
        self._clients.append(made[kind]())
        return self._clients[-1]

    async def begin(self) -> None:
        """Creates the sessions and starts everything."""
        chats = [await self._create(f"chat-{n}") for n in range(self._senders)]
        kept = [await self._create(f"kept-{n}") for n in range(2)]
        beaten = [await self._create(f"beaten-{n}") for n in range(2)]
        grpc_client = self._client("gRPC")
        callers: list[Awaitable[None]] = []
        for kind in ("gRPC", "REST", "Socket.IO"):
            for n in range(self._senders):
                client = grpc_client if kind == "gRPC" else self._client(kind)
                callers.append(self._sender(client, chats[n % len(chats)], f"{kind}-{n}"))
            for session_id in (*chats, *kept):
                client = grpc_client if kind == "gRPC" else self._client(kind)
                self.watchers.append(Watcher(client, session_id))
        for kind, keeper, beater in zip(("gRPC", "REST"), kept, beaten, strict=True):
            callers += [
                self._sender(self._client(kind), chats[0], f"{kind}-wait", wait=True),
                self._creator(self._client(kind), f"{kind}-new"),
                self._keeper(self._client(kind), keeper),
                self._beater(self._client(kind), beater),
            ]
        self._callers = [asyncio.create_task(self._reported(caller)) for caller in callers]
        self._following = [asyncio.create_task(self._reported(watcher.follow())) for watcher in self.watchers]

    async def stop(self, seconds: float) -> None:
        """Lets every caller finish what it is at, which needs a running service. A caller that takes longer is a finding."""
        self._stopping = True
        _, left = await asyncio.wait(self._callers, timeout=seconds)
        if left:
            self.model.findings.other.append(f"{len(left)} callers have no answer after {seconds:g} s")

    async def close(self) -> None:
        """Ends the watchers and the connections."""
        for task in (*self._callers, *self._following):
            task.cancel()
        await asyncio.gather(*self._callers, *self._following, return_exceptions=True)
        for client in self._clients:
            await client.close()

    async def all_kinds(self, seconds: float) -> None:
        """Waits until a call of each kind of client has been acknowledged from now on. That it takes longer is a finding; after any
        finding nothing is waited for, because callers have given up.
        """
        before, give_up_s = Counter(self.done), time.monotonic() + seconds
        while not self.model.findings and any(self.done[kind] == before[kind] for kind in ("gRPC", "REST", "Socket.IO")):
            if time.monotonic() > give_up_s:
                self.model.findings.other.append(f"{self.phase}: not everyone is served within {seconds:g} s")
            await asyncio.sleep(0.01)

    async def _reported(self, work: Awaitable[None]) -> None:
        try:
            await work
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - a caller or a watcher that fails is a finding
            self.model.findings.other.append(f"{type(error).__name__}: {error}")

    async def _insist(self, client: Client, call: Callable[[], Awaitable[T]], on_again: Callable[[AgainError], None] | None = None) -> T:
        """Makes a call until it is acknowledged."""
        pause = random.Random(self._seed)
        while True:
            phase = self.phase
            try:
                answer = await call()
            except AgainError as again:
                # Where the phase has changed meanwhile, it counts for the one in which it ended.
                self.attempts[self.phase, client.kind, again.how] += 1
                if on_again:
                    on_again(again)
                await asyncio.sleep(pause.uniform(0.2, 1) * PAUSE_SECONDS)
            else:
                self.attempts[phase, client.kind, "ok"] += 1
                self.done[client.kind] += 1
                return answer

    async def _create(self, mark: str, client: Any = None) -> str:
        client = client or self.reader
        session_id = await self._insist(client, lambda: client.create(mark, mark))
        self.model.created[mark] = session_id
        return session_id

    async def _sender(self, client: Client, session_id: str, name: str, *, wait: bool = False) -> None:
        choose = random.Random(f"{self._seed}-{name}")
        for n in itertools.count():
            if self._stopping:
                return
            content = f"{name}-{n}"
            twice = choose.random() < REPEATED
            calls = [self._send(client, session_id, content, wait=wait)]
            if twice:
                calls.append(self._send(self.reader, session_id, content))
            answers = await asyncio.gather(*calls)
            if twice or answers[0].replayed is False:
                # It was not stored by the attempt whose connection was dropped, or nobody knows by which.
                for dropped in self.dropped.values():
                    dropped.discard((session_id, content))
            self.model.sent[session_id][content] = answers[0]
            if choose.random() < REPEATED:
                again = await self._insist(client, lambda content=content: client.send(session_id, content, content, wait=wait))
                if again.replayed is False:
                    self.model.findings.doubled.append(f"{content}: answered before, and not replayed")
                answers.append(again)
            if len({answer.message_id for answer in answers}) > 1 or len({answer.reply_id for answer in answers} - {None}) > 1:
                self.model.findings.doubled.append(f"{content}: its answers differ: {answers}")

    async def _send(self, client: Client, session_id: str, content: str, *, wait: bool = False) -> Sent:
        told = False

        def note(again: AgainError) -> None:
            nonlocal told
            # Whoever waits in vain for a reply hears that the message is kept.
            told = told or again.how == "AGENT_REPLY_TIMEOUT"
            if again.how in ("dropped", "cancelled") and not told:
                self.dropped[self.phase].add((session_id, content))

        return await self._insist(client, lambda: client.send(session_id, content, content, wait=wait), note)

    async def _creator(self, client: Any, name: str) -> None:
        """Creates sessions, and deletes two of three."""
        for n in itertools.count():
            if self._stopping:
                return
            session_id = await self._create(f"{name}-{n}", client)
            if n % 3:
                tried = 0

                async def delete(session_id: str = session_id) -> None:
                    nonlocal tried
                    tried += 1
                    try:
                        await client.delete(session_id)
                    except RefusedError as error:
                        # Done by an attempt that had no answer.
                        if error.reason != "SESSION_NOT_FOUND" or tried == 1:
                            raise

                await self._insist(client, delete)
                self.model.deleted.add(session_id)

    async def _keeper(self, client: Any, session_id: str) -> None:
        """Renews and changes a session of its own, each step under the tag of the state before, so that it is done once."""
        session = await self._insist(self.reader, lambda: self.reader.get(session_id))
        sequence, etag = session.last_sequence, session.etag
        for n in itertools.count():
            if self._stopping:
                return
            kind = "timeout_change" if n % 2 else "renewal"
            tried = 0

            async def step(etag: str = etag, kind: str = kind, n: int = n) -> tuple[int, str] | None:
                nonlocal tried
                tried += 1
                try:
                    return await (client.renew(session_id, etag) if kind == "renewal" else client.patch(session_id, etag, 30 + n % 100))
                except RefusedError as error:
                    if error.reason != "ETAG_MISMATCH" or tried == 1:
                        raise
                    return None

            state = await self._insist(client, step)
            if state is None:
                session = await self._insist(self.reader, lambda: self.reader.get(session_id))
                state = session.last_sequence, session.etag
            if state[0] != sequence + 1:
                self.model.findings.doubled.append(f"{kind} of {session_id}: the log went from {sequence} to {state[0]}")
            sequence, etag = state
            self.model.kept[session_id].append((sequence, kind))

    async def _beater(self, client: Any, session_id: str) -> None:
        """Heartbeats, which may be done more often than they are acknowledged."""

        async def beat() -> None:
            self.model.tries[session_id] += 1
            await client.heartbeat(session_id)

        while not self._stopping:
            await self._insist(client, beat)
            self.model.beats[session_id] += 1

    async def check(self, ended_ms: dict[str, int] | None = None) -> Findings:
        """Compares model, store and watchers, once the callers have stopped; the service runs. `ended_ms`: when phases ended."""
        model, found = self.model, self.model.findings
        ids = list({*model.sent, *model.kept, *model.beats})
        # All at a time, because where something is lost each is waited for to the end of patience.
        logs = dict(zip(ids, await asyncio.gather(*(self._log(one, 2 * len(model.sent[one])) for one in ids)), strict=True))
        for session_id, log in logs.items():
            self._check_log(session_id, log, ended_ms or {})
        await asyncio.gather(*(self._check_watcher(watcher, logs[watcher.session_id]) for watcher in self.watchers))
        marks: Counter[str] = Counter()
        request = session_service_pb2.ListSessionsRequest(page_size=1000)
        while True:
            page = await self.reader.call(self.reader.sessions.ListSessions, request)
            marks.update(str(session.metadata["mark"]) for session in page.sessions)
            there = {session.session_id: str(session.metadata["mark"]) for session in page.sessions}
            found.lost += [f"session {one} was deleted and is there" for one in there.keys() & model.deleted]
            found.doubled += [
                f"session {one} of {mark} was never acknowledged" for one, mark in there.items() if model.created[mark] != one
            ]
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token
        found.doubled += [f"{mark} has {count} sessions" for mark, count in marks.items() if count > 1]
        found.lost += [f"session of {mark}" for mark, one in model.created.items() if one not in model.deleted and mark not in marks]
        return found

    async def _log(self, session_id: str, messages: int) -> list[log_pb2.LogEntry]:
        """A session's whole log, with so many messages in it; less, where nothing more comes."""
        entries: list[log_pb2.LogEntry] = []
        now_s = asyncio.get_running_loop().time
        with contextlib.suppress(TimeoutError):
            last = (await self.reader.get(session_id)).last_sequence
            async with asyncio.timeout(SETTLING_SECONDS) as patience:
                async for entry in self.reader.watch(session_id, 0):
                    patience.reschedule(now_s() + SETTLING_SECONDS)
                    entries.append(entry)
                    messages -= entry.HasField("message")
                    if entry.sequence >= last and messages <= 0:
                        last = (await self.reader.get(session_id)).last_sequence
                        if entry.sequence == last:
                            break
        return entries

    def _check_log(self, session_id: str, log: list[log_pb2.LogEntry], ended_ms: dict[str, int]) -> None:
        model, found = self.model, self.model.findings
        if [entry.sequence for entry in log] != list(range(1, len(log) + 1)):
            found.gaps.append(f"the log of {session_id}: {_breaks([entry.sequence for entry in log])}")
        messages = [entry.message for entry in log if entry.HasField("message")]
        asked: dict[str, list[Any]] = defaultdict(list)
        replies: dict[int, list[Any]] = defaultdict(list)
        for message in messages:
            if message.is_agent:
                replies[message.reply_to_sequence].append(message)
            else:
                asked[message.content].append(message)
        sent = model.sent[session_id]
        for content, stored in asked.items():
            if len(stored) > 1:
                found.doubled.append(f"{content} is there {len(stored)} times")
            if content not in sent:
                found.other.append(f"{content} was never acknowledged")
        for content, answer in sent.items():
            ours = [message for message in asked.get(content, ()) if message.message_id == answer.message_id]
            if not ours:
                found.lost.append(f"{content}, acknowledged as {answer.message_id}")
                continue
            answers = replies[ours[0].sequence]
            if len(answers) != 1 or answers[0].content != content:
                (found.doubled if len(answers) > 1 else found.lost).append(f"{content} has {len(answers)} replies")
            elif answer.reply_id not in (None, answers[0].message_id):
                found.lost.append(f"the reply {answer.reply_id} to {content}")
            for phase, dropped in self.dropped.items():
                if phase in ended_ms and (session_id, content) in dropped and values.ms_floor(ours[0].created_at) <= ended_ms[phase]:
                    found.dropped.append(f"{content} was stored in {phase}, and its connection dropped without an answer")
        if session_id in model.kept:
            stored_kinds = [(entry.sequence, entry.WhichOneof("event")) for entry in log]
            found.lost += [f"{kind} {n} of {session_id}" for n, kind in model.kept[session_id] if (n, kind) not in stored_kinds]
            found.doubled += [
                f"{kind} {n} of {session_id} was not asked for" for n, kind in stored_kinds if (n, kind) not in model.kept[session_id]
            ]
        if session_id in model.beats:
            count = sum(entry.HasField("renewal") for entry in log)
            if count < model.beats[session_id]:
                found.lost.append(f"heartbeats of {session_id}: {count} of {model.beats[session_id]}")
            if count > model.tries[session_id]:
                found.doubled.append(f"heartbeats of {session_id}: {count} of {model.tries[session_id]} tried")
        if sent and log and log[-1].session_status.renewal_count != len(asked):
            found.other.append(f"{session_id} was renewed {log[-1].session_status.renewal_count} times by {len(asked)} messages")

    @staticmethod
    async def _caught_up(watcher: Watcher, count: int) -> None:
        """Waits until a watcher has seen so many entries, or sees nothing more."""
        stood, since = -1, 0.0
        while watcher.sequence < count and (stood != watcher.sequence or time.monotonic() < since + SETTLING_SECONDS):
            if stood != watcher.sequence:
                stood, since = watcher.sequence, time.monotonic()
            await asyncio.sleep(0.02)

    async def _check_watcher(self, watcher: Watcher, log: list[log_pb2.LogEntry]) -> None:
        await self._caught_up(watcher, len(log))
        stored = [seen_entry(entry) for entry in log]
        if watcher.seen != stored:
            numbers = [number for number, _, _ in watcher.seen]
            what = _breaks(numbers) or f"{len(numbers)} of {len(stored)} entries, or others"
            self.model.findings.gaps.append(f"{watcher.client.kind} watcher of {watcher.session_id}: {what}")


def _breaks(numbers: list[int]) -> str:
    """Where a list of sequences does not go on by one."""
    steps = [f"{one} then {two}" for one, two in itertools.pairwise([0, *numbers]) if two != one + 1]
    return ", ".join(steps[:5])


def now_ms() -> int:
    """The machine's time, which is the service's."""
    return time.time_ns() // 1_000_000


def new_request_id() -> str:
    return str(uuid.uuid4())
