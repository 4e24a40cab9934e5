"""The calls of the service, as a client of it makes them: from plain values, and to plain values."""

import asyncio
import contextvars
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from eliza.sessions import values
from eliza.sessions.v1 import agent_service_pb2 as agents_pb
from eliza.sessions.v1 import message_service_pb2 as messages_pb
from eliza.sessions.v1 import session_service_pb2 as sessions_pb
from eliza.sessions.v1.timeout_pb2 import TimeoutConfig as TimeoutMessage
from server.rpc.call import Call as Context
from tests.campaigns.simulation.translation import message, ms, received, session

if TYPE_CHECKING:
    from tests.campaigns.simulation.world import World

CALL: contextvars.ContextVar["Call | None"] = contextvars.ContextVar("call", default=None)
"""The call that a task of the loop belongs to."""


@dataclass(eq=False)
class Call:
    """A client's call: what it asks for, what it must be answered at once, or what once it was
    carried out.
    """

    arguments: dict[str, Any]
    at_once: Any = None
    """How it may be refused, too: its request was made before, so long ago that it may be forgotten."""
    answers: list[Any] | None = None
    task: "asyncio.Task[None] | None" = None


class Stream:
    """The client's half of a stream: what it sends, one after the other."""

    def __init__(self) -> None:
        self._requests: asyncio.Queue[Any] = asyncio.Queue()

    def send(self, request: Any) -> None:
        self._requests.put_nowait(request)

    async def requests(self) -> AsyncIterator[Any]:
        while (request := await self._requests.get()) is not None:
            yield request


def _timeout_request(wanted: dict[str, Any]) -> TimeoutMessage:
    names = {
        "timeout": "timeout_minutes",
        "duration": "max_duration_minutes",
        "warning": "warning_threshold_minutes",
    }
    return TimeoutMessage(**{names.get(name, name): value for name, value in wanted.items()})


def message_request(arguments: dict[str, Any]) -> messages_pb.SendMessageRequest:
    return messages_pb.SendMessageRequest(
        session_id=arguments["session"],
        content=arguments["content"],
        metadata=values.struct(arguments["metadata"]),
        request_id=arguments["request"],
    )


def sent(response: messages_pb.SendMessageResponse) -> dict[str, Any]:
    standing = response.session_status
    return {
        "message": message(response.message),
        "status": (
            ms(standing.expires_at),
            standing.renewal_count,
            standing.was_renewed,
            standing.is_near_expiration,
        ),
        "replayed": response.replayed,
    }


async def _create(world: "World", arguments: dict[str, Any]) -> dict[str, Any]:
    request = sessions_pb.CreateSessionRequest(
        agent_id=arguments["agent"],
        user_id=arguments["user"],
        metadata=values.struct(arguments["metadata"]),
        timeout_config=_timeout_request(arguments["timeout"]),
        request_id=arguments["request"],
    )
    response = await world.session_service.CreateSession(request, Context(None))
    return {"session": session(response.session), "replayed": response.replayed}


async def _get(world: "World", arguments: dict[str, Any]) -> dict[str, Any]:
    request = sessions_pb.GetSessionRequest(session_id=arguments["session"])
    return {"session": session((await world.session_service.GetSession(request, Context(None))).session)}


async def _send(world: "World", arguments: dict[str, Any]) -> dict[str, Any]:
    return sent(await world.message_service.SendMessage(message_request(arguments), Context(None)))


async def _heartbeat(world: "World", arguments: dict[str, Any]) -> dict[str, Any]:
    request = sessions_pb.SendHeartbeatRequest(session_id=arguments["session"])
    return {"session": session((await world.session_service.SendHeartbeat(request, Context(None))).session)}


async def _renew(world: "World", arguments: dict[str, Any]) -> dict[str, Any]:
    request = sessions_pb.RenewSessionRequest(session_id=arguments["session"], etag=arguments["etag"])
    return {"session": session((await world.session_service.RenewSession(request, Context(None))).session)}


async def _patch(world: "World", arguments: dict[str, Any]) -> dict[str, Any]:
    config = _timeout_request(arguments["timeout"])
    request = sessions_pb.UpdateTimeoutRequest(
        session_id=arguments["session"], timeout_config=config, etag=arguments["etag"]
    )
    return {"session": session((await world.session_service.UpdateTimeout(request, Context(None))).session)}


async def _delete(world: "World", arguments: dict[str, Any]) -> dict[str, Any]:
    request = sessions_pb.DeleteSessionRequest(session_id=arguments["session"], etag=arguments["etag"])
    await world.session_service.DeleteSession(request, Context(None))
    return {}


async def _list_messages(world: "World", arguments: dict[str, Any]) -> dict[str, Any]:
    request = messages_pb.ListMessagesRequest(session_id=arguments["session"], page_size=arguments["limit"])
    for side in ("before", "after"):
        if arguments[side] is not None:
            getattr(request, side).CopyFrom(values.timestamp(arguments[side]))
    response = received(
        messages_pb.ListMessagesResponse, await world.message_service.ListMessages(request, Context(None))
    )
    answer: dict[str, Any] = {
        "messages": list(map(message, response.messages)),
        "has_more": response.has_more,
    }
    if response.messages:
        answer["cursors"] = (ms(response.cursor_before), ms(response.cursor_after))
    return answer


async def _list_sessions(world: "World", arguments: dict[str, Any]) -> dict[str, Any]:
    request = sessions_pb.ListSessionsRequest(
        page_size=arguments["limit"], agent_id=arguments["agent"], user_id=arguments["user"]
    )
    response = received(
        sessions_pb.ListSessionsResponse, await world.session_service.ListSessions(request, Context(None))
    )
    found = list(map(session, response.sessions))
    for one in found:
        del one["etag"]
    stats = response.stats
    return {
        "sessions": found,
        "total": response.total_size,
        "stats": (stats.total_sessions, stats.active_sessions, stats.expired_sessions),
    }


async def _reply(world: "World", arguments: dict[str, Any]) -> dict[str, Any]:
    delivery_id = f"{arguments['session']}-{arguments['sequence']}"
    request = agents_pb.ReplyRequest(
        delivery_id=delivery_id, reply=agents_pb.AgentReply(content=arguments["content"])
    )
    return {"message": message((await world.agent_service.Reply(request, Context(None))).message)}


CALLS: dict[str, Callable[["World", dict[str, Any]], Coroutine[Any, Any, dict[str, Any]]]] = {
    "create": _create,
    "get": _get,
    "send": _send,
    "heartbeat": _heartbeat,
    "renew": _renew,
    "patch": _patch,
    "delete": _delete,
    "list_messages": _list_messages,
    "list_sessions": _list_sessions,
    "reply": _reply,
}
