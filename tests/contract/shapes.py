"""What bodies must look like: matchers that an expectation may hold beside plain values, and the shape of
every documented body.
"""

import datetime as dt
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from eliza.sessions.errors import TABLE
from eliza.sessions.v1 import errors_pb2

EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def iso(ms: int) -> str:
    """An instant as the contract writes it. Not the product's own function, which is under test."""
    return f"{EPOCH + dt.timedelta(milliseconds=ms):%Y-%m-%dT%H:%M:%S}.{ms % 1000:03}Z"


def ms_of(text: str) -> int:
    """The instant that the contract's text names."""
    return (
        dt.datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=dt.UTC) - EPOCH
    ) // dt.timedelta(milliseconds=1)


@dataclass(frozen=True)
class Is:
    """Matches what the test finds true; `words` say it."""

    words: str
    test: Callable[[Any], bool]

    def __repr__(self) -> str:
        return f"<{self.words}>"


@dataclass(frozen=True)
class Some:
    """Matches an object that has at least these keys."""

    fields: Mapping[str, Any]


@dataclass(frozen=True)
class Each:
    """Matches an array each of whose items matches."""

    item: Any


@dataclass(frozen=True)
class Maybe:
    """In an object: the key may be absent."""

    value: Any


ANYTHING: Final = Is("anything", lambda _: True)
UUID: Final = Is(
    "a UUID in lower case", lambda value: isinstance(value, str) and bool(_UUID.fullmatch(value))
)
TIME: Final = Is(
    "ISO 8601 with three digits and Z", lambda value: isinstance(value, str) and bool(_TIME.fullmatch(value))
)
BOOLEAN: Final = Is("a boolean", lambda value: isinstance(value, bool))
COUNT: Final = Is("a whole number, 0 or more", lambda value: type(value) is int and value >= 0)
MS: Final = Is("whole milliseconds", lambda value: type(value) is int)
NUMBER: Final = Is(
    "a number, an int where it is whole",
    lambda value: type(value) is int or (type(value) is float and value % 1 != 0),
)
TEXT: Final = Is("text", lambda value: isinstance(value, str) and value != "")
STRING: Final = Is("a string", lambda value: isinstance(value, str))
STRINGS: Final = Is(
    "an array of text",
    lambda value: isinstance(value, list) and all(isinstance(item, str) and item for item in value),
)
OBJECT: Final = Is("an object", lambda value: isinstance(value, dict))
ARRAY: Final = Is("an array", lambda value: isinstance(value, list))


def above(number: float) -> Is:
    """A number greater than this."""
    return Is(f"above {number}", lambda value: value > number)


def differences(expected: Any, actual: Any, path: str = "body") -> Iterator[str]:
    """Where the actual value is not what is expected.

    Objects match key by key, numbers by value and JSON type.
    """
    match expected:
        case Is():
            if not expected.test(actual):
                yield f"{path} is {actual!r}, not {expected.words}"
        case Maybe():
            yield from differences(expected.value, actual, path)
        case Some() if isinstance(actual, dict):
            yield from _fields(
                expected.fields, {key: value for key, value in actual.items() if key in expected.fields}, path
            )
        case Each() if isinstance(actual, list):
            for index, item in enumerate(actual):
                yield from differences(expected.item, item, f"{path}[{index}]")
        case dict() if isinstance(actual, dict):
            yield from _fields(expected, actual, path)
        case list() if isinstance(actual, list) and len(actual) == len(expected):
            for index, (wanted, item) in enumerate(zip(expected, actual, strict=True)):
                yield from differences(wanted, item, f"{path}[{index}]")
        case _:
            if type(actual) is not type(expected) or actual != expected:
                yield f"{path} is {actual!r}, not {expected!r}"


def _fields(expected: Mapping[str, Any], actual: Mapping[str, Any], path: str) -> Iterator[str]:
    for key in actual.keys() - expected.keys():
        yield f"{path} has a key {key!r}"
    for key, value in expected.items():
        if key in actual:
            yield from differences(value, actual[key], f"{path}.{key}")
        elif not isinstance(value, Maybe):
            yield f"{path} has no key {key!r}"


_CREATED = {
    "sessionId": UUID,
    "channelId": UUID,
    "agentId": UUID,
    "userId": UUID,
    "createdAt": TIME,
    "metadata": OBJECT,
    "expiresAt": TIME,
    "timeoutConfig": {
        "timeoutMinutes": NUMBER,
        "autoRenew": BOOLEAN,
        "maxDurationMinutes": NUMBER,
        "warningThresholdMinutes": NUMBER,
    },
}
_SESSION = {
    **_CREATED,
    "lastActivity": TIME,
    "renewalCount": COUNT,
    "timeRemaining": COUNT,
    "isNearExpiration": BOOLEAN,
}
_MESSAGE = {
    "id": UUID,
    "content": TEXT,
    "authorId": UUID,
    "createdAt": TIME,
    "metadata": OBJECT,
    "attachments": Maybe(ARRAY),
}
_SENT = {
    **_MESSAGE,
    "sessionStatus": {
        "expiresAt": TIME,
        "renewalCount": COUNT,
        "wasRenewed": BOOLEAN,
        "isNearExpiration": BOOLEAN,
    },
}
_REPLY = {
    **_MESSAGE,
    "isAgent": True,
    "text": TEXT,
    "thought": Is("text or null", lambda value: value is None or isinstance(value, str)),
    "actions": ARRAY,
}
_CHUNK = {"messageId": UUID, "chunk": TEXT, "index": COUNT, "attempt": COUNT}
_STREAM = {"user_message": _SENT, "chunk": _CHUNK, "done": _REPLY, "error": OBJECT}
_AGENT = {
    "agentId": UUID,
    "name": TEXT,
    "kind": Is(
        "a kind of agent",
        {f"AGENT_KIND_{kind}" for kind in ("ECHO", "STREAM", "WEBHOOK", "OPENAI")}.__contains__,
    ),
    "timeoutConfig": {
        "timeoutMinutes": Maybe(NUMBER),
        "autoRenew": Maybe(BOOLEAN),
        "maxDurationMinutes": Maybe(NUMBER),
        "warningThresholdMinutes": Maybe(NUMBER),
    },
    "createdAt": TIME,
    "updatedAt": TIME,
    "webhook": Maybe(
        {"url": TEXT, "secret": TEXT, "timeoutSeconds": NUMBER, "historyMessages": Maybe(COUNT)}
    ),
    "openai": Maybe(
        {
            "baseUrl": TEXT,
            "model": TEXT,
            "apiKey": Maybe(TEXT),
            "systemPrompt": Maybe(TEXT),
            "temperature": Maybe(NUMBER),
            "topP": Maybe(NUMBER),
            "maxTokens": Maybe(COUNT),
            "historyMessages": COUNT,
            "historyCharacters": COUNT,
            "timeoutSeconds": NUMBER,
        }
    ),
}
_ANSWERED = {**_MESSAGE, "isAgent": True, "thought": Maybe(STRING), "actions": Maybe(STRINGS)}
_DELIVERY_ID = Is(
    "a session's id and a sequence",
    lambda value: UUID.test(value[:36]) and value[36] == "-" and int(value[37:]) > 0,
)
_TOLD = {
    "welcome": {"agent": _AGENT},
    "delivery": {
        "deliveryId": _DELIVERY_ID,
        "attempt": above(0),
        "session": _SESSION,
        "message": {**_MESSAGE, "isAgent": False},
        "history": Each({**_MESSAGE, "isAgent": BOOLEAN}),
        "replyMessageId": UUID,
        "leaseExpiresAt": TIME,
    },
    "accepted": {"deliveryId": _DELIVERY_ID},
    "refused": {"deliveryId": STRING, "reason": TEXT, "message": TEXT, "details": OBJECT},
    "revoked": {"deliveryId": _DELIVERY_ID},
}

SHAPES: Final[Mapping[str, Any]] = {
    "create": _CREATED,
    "get": _SESSION,
    "renew": _SESSION,
    "update_timeout": _SESSION,
    "heartbeat": _SESSION,
    "transcript": {"records": Each(TEXT)},
    "token": {
        "accessToken": Is("a token", lambda value: isinstance(value, str) and value.startswith("est_")),
        "expiresAt": TIME,
        "verbs": Each(TEXT),
        "sessionId": UUID,
    },
    "delete": {
        "success": True,
        "message": Is(
            "the documented sentence",
            lambda text: (
                text.startswith("Session ")
                and text.endswith(" deleted successfully")
                and UUID.test(text.split(" ")[1])
            ),
        ),
    },
    "send": _SENT,
    "converse": {**_SENT, "agentResponse": _REPLY},
    "messages": {
        "messages": Each({**_MESSAGE, "isAgent": BOOLEAN}),
        "hasMore": BOOLEAN,
        "cursors": Maybe({"before": MS, "after": MS}),
    },
    "list": {
        "sessions": Each(_SESSION),
        "total": COUNT,
        "stats": {"totalSessions": COUNT, "activeSessions": COUNT, "expiredSessions": COUNT},
        "nextPageToken": Maybe(TEXT),
    },
    "health": {
        "status": Is("healthy, degraded or unhealthy", {"healthy", "degraded", "unhealthy"}.__contains__),
        "activeSessions": COUNT,
        "timestamp": TIME,
        "expiringSoon": COUNT,
        "invalidSessions": COUNT,
        "uptime": NUMBER,
        "version": TEXT,
    },
    "clock": {"now": TIME},
    "set_clock": {"now": TIME},
    "advance": {"now": TIME},
    "create_agent": _AGENT,
    "get_agent": _AGENT,
    "update_agent": _AGENT,
    "delete_agent": {},
    "list_agents": {"agents": Each(_AGENT), "nextPageToken": Maybe(TEXT)},
    "reply": _ANSWERED,
    "connect": {"told": ARRAY},
}
"""The body of every operation's answer, exactly."""

_DETAILS = {
    errors_pb2.DETAIL_KIND_UNSPECIFIED: STRING,
    errors_pb2.DETAIL_KIND_NUMBER: NUMBER,
    errors_pb2.DETAIL_KIND_FIELD: TEXT,
    errors_pb2.DETAIL_KIND_FIELD_LIST: STRINGS,
}
_TIMES = ("expiresAt", "createdAt")


def details_shape(code: str) -> Mapping[str, Any]:
    """The details of an error, exactly."""
    return {name: TIME if name in _TIMES else _DETAILS[kind] for name, kind in TABLE[code].details.items()}


def _stream_differences(events: list[Any]) -> Iterator[str]:
    """Contract: "`user_message` (MessageResponse), `chunk` any number of times, then `done` (the reply) or
    `error`".
    """
    names = [event["event"] for event in events]
    if names[0] != "user_message" or names[-1] not in ("done", "error") or set(names[1:-1]) - {"chunk"}:
        yield f"the stream has {names}"
        return
    for event in events:
        yield from differences(_STREAM[event["event"]], event["data"], event["event"])
    chunks = [event["data"] for event in events[1:-1]]
    if [chunk["index"] for chunk in chunks] != list(range(len(chunks))):
        yield "chunks are out of order"
    if names[-1] == "done":
        reply = events[-1]["data"]
        if {chunk["messageId"] for chunk in chunks} - {reply["id"]} or "".join(
            chunk["chunk"] for chunk in chunks
        ) != reply["text"]:
            yield "chunks do not make up the reply"


def consistent(call: str, body: Mapping[str, Any]) -> Iterator[str]:
    """What one body says twice must agree."""
    if "timeRemaining" in body and body["isNearExpiration"]:
        threshold_ms = body["timeoutConfig"]["warningThresholdMinutes"] * 60_000
        if not 0 < body["timeRemaining"] <= threshold_ms:
            yield "isNearExpiration does not fit timeRemaining"
    if call == "stream":
        yield from _stream_differences(body["events"])
    for told in body["told"] if call == "connect" else ():
        yield from differences({"event": ANYTHING, **_TOLD[told["event"]]}, told, told["event"])
        if told["event"] == "refused":
            yield from differences(details_shape(told["reason"]), told["details"], "details")
    if call == "messages":
        times = [ms_of(message["createdAt"]) for message in body["messages"]]
        if sorted(set(times), reverse=True) != times:
            yield "messages are not newest first, each at a time of its own"
        if body.get("cursors") != ({"before": times[-1], "after": times[0]} if times else None):
            yield "cursors are not the times of the page's oldest and newest message"
    if (
        call == "list"
        and body["stats"]["totalSessions"]
        != body["stats"]["activeSessions"] + body["stats"]["expiredSessions"]
    ):
        yield "stats do not add up"
