"""An agent as a function of a message: how it is declared, what it is given, and what it returns."""

import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

from eliza_sessions_client._api import agent_service_pb2, message_pb2, session_pb2
from eliza_sessions_client.calls import Attachments, Metadata
from eliza_sessions_client.values import to_dict, to_list

MAX_PIECE_CHARACTERS: Final = 50_000
"""How long a piece is that goes out: the service ends the stream of a worker that sends more than 4 MiB."""

CONCURRENCY: Final = 10


class AgentError(Exception):
    """Raised by an agent that cannot answer. Its text is public: users may see it.

    `final`: another attempt makes no sense. Any other exception becomes a failure whose text says nothing,
    and its cause goes to the log.
    """

    def __init__(self, public_text: str, *, final: bool = False) -> None:
        super().__init__(public_text)
        self.final = final


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply that is more than its text. Without `content` its text is that of the pieces before it."""

    content: str | None = None
    metadata: Metadata | None = None
    attachments: Attachments | None = None
    thought: str | None = None
    actions: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Turn:
    """A message of a user, for the agent to answer."""

    delivery: agent_service_pb2.Delivery
    """All of it, as the service gave it."""

    @property
    def text(self) -> str:
        """What the user said."""
        return self.delivery.message.content

    @property
    def message(self) -> message_pb2.Message:
        """The message to answer."""
        return self.delivery.message

    @property
    def history(self) -> Sequence[message_pb2.Message]:
        """The messages before it, the oldest first, as many as the agent asks for and fit."""
        return self.delivery.history

    @property
    def session(self) -> session_pb2.Session:
        """The session, as it is now."""
        return self.delivery.session

    @property
    def user_id(self) -> str:
        """UUID of the user."""
        return self.delivery.session.user_id

    @property
    def metadata(self) -> dict[str, Any]:
        """What the creator of the session attached to it. Trust this alone."""
        return to_dict(self.delivery.session.metadata)

    @property
    def own_metadata(self) -> dict[str, Any]:
        """What the user attached to the message."""
        return to_dict(self.delivery.message.own_metadata)

    @property
    def attachments(self) -> list[Any]:
        """What the user attached to the message besides, of any JSON shape."""
        return to_list(self.delivery.message.attachments)

    @property
    def attempt(self) -> int:
        """Which attempt at the reply this is, from 1. An earlier one may have done something already."""
        return self.delivery.attempt

    @property
    def trace(self) -> dict[str, str]:
        """Where this attempt is in the trace of the message, as W3C's headers `traceparent` and `tracestate`.
        Empty where the service traces nothing.

        With opentelemetry-api installed it is the parent of the agent's spans already.
        """
        found = {"traceparent": self.delivery.traceparent, "tracestate": self.delivery.tracestate}
        return {name: value for name, value in found.items() if value}


Answering: TypeAlias = AsyncIterator[str | Reply] | Awaitable[str | Reply]
"""What an agent's function gives: pieces and perhaps a Reply at the end, or its whole reply at once."""

AgentFunction: TypeAlias = Callable[[Turn], Answering]


@dataclass(frozen=True, slots=True)
class Agent:
    """A function that answers for an agent of the kind `stream`, and how it wants to be asked."""

    agent_id: str
    function: AgentFunction
    concurrency: int = CONCURRENCY
    history_messages: int = 0

    def __call__(self, turn: Turn) -> Answering:
        return self.function(turn)


def agent(
    agent_id: str, *, concurrency: int = CONCURRENCY, history_messages: int = 0
) -> Callable[[AgentFunction], Agent]:
    """Declares an asynchronous function to be the agent with this id.

    It answers at most `concurrency` messages at a time, and gets with each so many earlier ones of the
    session. The function yields its reply piece by piece, or returns it. It is cancelled when its answer is
    wanted no longer. Without a piece for longer than DELIVERY_LEASE_SECONDS (120), the service asks again.
    """

    def declare(function: AgentFunction) -> Agent:
        if not (inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)):
            raise TypeError("an agent is an `async def`; call what blocks by asyncio.to_thread")
        return Agent(agent_id, function, concurrency, history_messages)

    return declare


class _HalfJoiner:
    """Joins halves of surrogate pairs that come in two pieces, which some providers send. Python cannot
    encode them apart. A half that stays alone becomes U+FFFD.
    """

    def __init__(self) -> None:
        self._half = ""

    def add(self, piece: str) -> str:
        """Takes a piece; returns what can go out. Holds back a first half at its end."""
        text = self._half + piece
        self._half = text[-1:] if "\ud800" <= text[-1:] <= "\udbff" else ""
        return clean(text.removesuffix(self._half))

    def flush(self) -> str:
        """Ends the text; returns what was held back."""
        half, self._half = self._half, ""
        return clean(half)


def clean(text: str) -> str:
    """The text with its surrogate halves joined; each lone half becomes U+FFFD."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


async def answer(function: AgentFunction, turn: Turn) -> AsyncGenerator[str | Reply, None]:
    """Asks an agent: yields its pieces, none too long to go out, and at the end one Reply with its content.

    :raises TypeError: it gives something else
    :raises Exception: what it raises
    """
    given = function(turn)
    if inspect.isawaitable(given):
        yield _reply(await given, "")
        return
    joiner, text, reply = _HalfJoiner(), "", None
    async with aclosing(given) as pieces:  # type: ignore[type-var]
        async for piece in pieces:
            if reply is not None:
                raise TypeError("the agent yields something after its Reply")
            if isinstance(piece, Reply):
                reply = piece
            elif isinstance(piece, str):
                for part in _parts(joiner.add(piece)):
                    text += part
                    yield part
            else:
                raise TypeError(f"the agent yields a {type(piece).__name__}, which is no str or Reply")
    if rest := joiner.flush():
        text += rest
        yield rest
    yield _reply(reply or Reply(), text)


def _reply(given: object, text: str) -> Reply:
    if isinstance(given, str):
        return Reply(clean(given))
    if not isinstance(given, Reply):
        raise TypeError(f"the agent returns a {type(given).__name__}, which is no str or Reply")
    return replace(given, content=text if given.content is None else clean(given.content))


def _parts(text: str) -> list[str]:
    return [text[start : start + MAX_PIECE_CHARACTERS] for start in range(0, len(text), MAX_PIECE_CHARACTERS)]
