"""Bad input over gRPC, as data: the bytes of a request, and what must come of it."""

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import orjson
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import ListValue, Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp

from eliza.sessions.v1 import agent_service_pb2 as agents
from eliza.sessions.v1 import clock_service_pb2 as clock
from eliza.sessions.v1 import message_service_pb2 as messages
from eliza.sessions.v1 import session_service_pb2 as sessions
from tests.contract.bad_input import ANY, FINE, SID, USER
from tests.support.service import ECHO

STREAM: Final = "55555555-5555-4555-8555-555555555555"
"""An agent of the kind `stream`.

In pieces of Connect and Reply SID stands for a session with it, whose user has said one thing.
"""

REFUSED: Final = "refused"
"""gRPC itself refuses it, before our code: no ErrorInfo."""

_NAN, _INFINITY = float("nan"), float("inf")
_NUMBERS = {
    "NaN": _NAN,
    "negative NaN": -_NAN,
    "infinity": _INFINITY,
    "minus infinity": -_INFINITY,
    "huge": 1e308,
    "minus huge": -1e308,
    "tiny": 5e-324,
    "minus zero": -0.0,
}
_SERVICES = {
    "SessionService": sessions,
    "MessageService": messages,
    "AgentService": agents,
    "ClockService": clock,
}


@dataclass(frozen=True)
class BadRpc:
    """A piece: method, bytes, and the reason (or the reasons, of which one) of its error, or FINE, ANY or
    REFUSED.

    `more` are further requests of a stream.
    """

    name: str
    method: str
    request: bytes
    outcome: str
    more: tuple[bytes, ...] = ()


def paths() -> dict[str, str]:
    """The path of every RPC by its name."""
    return {
        method.name: f"/{service.full_name}/{method.name}"
        for module in _SERVICES.values()
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }


_PATHS = paths()
_EMPTY = {
    "CreateSession": "MISSING_FIELDS",
    "GetSession": "SESSION_NOT_FOUND",
    "ListSessions": FINE,
    "DeleteSession": "SESSION_NOT_FOUND",
    "RenewSession": "SESSION_NOT_FOUND",
    "UpdateTimeout": "SESSION_NOT_FOUND",
    "SendHeartbeat": "SESSION_NOT_FOUND",
    "GetServiceStatus": FINE,
    "WatchSession": "SESSION_NOT_FOUND",
    "WatchSessions": FINE,
    "SendMessage": "SESSION_NOT_FOUND",
    "Converse": "SESSION_NOT_FOUND",
    "ListMessages": "SESSION_NOT_FOUND",
    "CreateAgent": "MISSING_FIELDS",
    "GetAgent": "AGENT_NOT_FOUND",
    "ListAgents": FINE,
    "UpdateAgent": "AGENT_NOT_FOUND",
    "DeleteAgent": "AGENT_NOT_FOUND",
    "Connect": "MISSING_FIELDS",
    "Reply": "MISSING_FIELDS",
    "GetClock": FINE,
    "SetClock": "MISSING_FIELDS",
    "AdvanceClock": FINE,
}
"""What an empty request of each RPC gives."""


def _bad(name: str, rpc: str, request: Message | bytes, outcome: str, *more: Message | bytes) -> BadRpc:
    first, *rest = (
        each if isinstance(each, bytes) else each.SerializeToString(deterministic=True)
        for each in (request, *more)
    )
    return BadRpc(f"{rpc}: {name}", _PATHS[rpc], first, outcome, tuple(rest))


def _on_every_method() -> Iterator[BadRpc]:
    for rpc, outcome in _EMPTY.items():
        yield _bad("nothing", rpc, b"", outcome)
        yield _bad("a field nobody knows", rpc, b"\xc0\x3e\x05", outcome)
        yield _bad(
            "fields nobody knows of every wire type",
            rpc,
            b"\xc0\x3e\x05\xc1\x3e12345678\xc2\x3e\x03abc\xc5\x3e1234",
            outcome,
        )
        yield _bad("random bytes", rpc, b"\xff" * 20, "INVALID_REQUEST")
        yield _bad("a field that ends too early", rpc, b"\x0a\x24short", "INVALID_REQUEST")
        yield _bad("a field number 0", rpc, b"\x00\x00", f"{outcome} INVALID_REQUEST")
        yield _bad("half a varint", rpc, b"\x08\xff\xff", "INVALID_REQUEST")
        yield _bad("JSON", rpc, b'{"session_id": "x"}', "INVALID_REQUEST")


def _strings() -> Iterator[BadRpc]:
    for rpc in (
        "CreateSession",
        "GetSession",
        "DeleteSession",
        "RenewSession",
        "UpdateTimeout",
        "SendHeartbeat",
        "SendMessage",
        "GetAgent",
    ):
        for name, text in (
            ("not UTF-8", b"\xff\xfe"),
            ("a surrogate", b"\xed\xa0\x80"),
            ("overlong", b"\xc0\x80"),
        ):
            yield _bad(
                f"a string that is {name}", rpc, b"\x0a" + bytes([len(text)]) + text, "INVALID_REQUEST"
            )
    yield _bad(
        "content that is not UTF-8",
        "SendMessage",
        b"\x0a\x24" + SID.encode() + b"\x12\x02\xff\xfe",
        "INVALID_REQUEST",
    )
    yield _bad("a string as a number", "GetSession", b"\x08\x05", "SESSION_NOT_FOUND")
    for name, text in (
        ("a NUL", "\0"),
        ("60 KB", "x" * 60_000),
        ("emoji", "😀" * 1000),
        ("line breaks", "a\r\nb: c"),
        ("percent", "%00%ff%"),
        ("İ", "İ" * 36),
    ):
        for rpc, request in (
            ("GetSession", sessions.GetSessionRequest(session_id=text)),
            ("SendMessage", messages.SendMessageRequest(session_id=text)),
            ("ListMessages", messages.ListMessagesRequest(session_id=text)),
            ("UpdateTimeout", sessions.UpdateTimeoutRequest(session_id=text)),
        ):
            yield _bad(f"a session that is called {name}", rpc, request, "SESSION_NOT_FOUND")
        yield _bad(
            f"an agent that is called {name}",
            "GetAgent",
            agents.GetAgentRequest(agent_id=text),
            "AGENT_NOT_FOUND",
        )
        yield _bad(
            f"a user that is called {name}",
            "CreateSession",
            sessions.CreateSessionRequest(agent_id=ECHO, user_id=text),
            "INVALID_UUID",
        )
        yield _bad(
            f"a filter that is {name}",
            "ListSessions",
            sessions.ListSessionsRequest(user_id=text),
            "INVALID_UUID",
        )
    for name, text in (
        ("a NUL", "a\0b"),
        ("nothing", ""),
        ("2 MB", "x" * 2_000_000),
        ("4001 characters", "é" * 4001),
    ):
        yield _bad(
            f"content that is {name}",
            "SendMessage",
            messages.SendMessageRequest(session_id=SID, content=text),
            "INVALID_CONTENT",
        )


def _struct_bytes(depth: int) -> bytes:
    """A Struct of so many levels, put together by hand: the library would refuse to read it."""
    content = b""
    for _ in range(depth):
        value = b"\x2a" + _varint(len(content)) + content
        entry = b"\x0a\x01k\x12" + _varint(len(value)) + value
        content = b"\x0a" + _varint(len(entry)) + entry
    return content


def _varint(number: int) -> bytes:
    result = bytearray()
    while number > 127:
        result.append(number & 127 | 128)
        number >>= 7
    return bytes([*result, number])


def _structs() -> Iterator[BadRpc]:
    values = {
        "NaN": (Value(number_value=_NAN), "INVALID_METADATA"),
        "infinity": (Value(number_value=_INFINITY), "INVALID_METADATA"),
        "minus infinity": (Value(number_value=-_INFINITY), "INVALID_METADATA"),
        "NaN in an array": (
            Value(list_value=ListValue(values=[Value(number_value=_NAN)])),
            "INVALID_METADATA",
        ),
        "no kind": (Value(), FINE),
        "no kind in an array": (Value(list_value=ListValue(values=[Value(), Value()])), FINE),
        "a null of an unknown number": (Value.FromString(b"\x08\x4d"), FINE),
        "the greatest number": (Value(number_value=1.7976931348623157e308), FINE),
        "the least number": (Value(number_value=5e-324), FINE),
        "minus zero": (Value(number_value=-0.0), FINE),
        "a NUL": (Value(string_value="\0"), FINE),
        "11 KB": (Value(string_value="x" * 11_000), "INVALID_METADATA"),
    }
    for name, (value, outcome) in values.items():
        metadata = Struct(fields={"k": value})
        yield _bad(
            f"metadata with {name}",
            "CreateSession",
            sessions.CreateSessionRequest(agent_id=ECHO, user_id=USER, metadata=metadata),
            outcome,
        )
        request = messages.SendMessageRequest(session_id=SID, content="x", metadata=metadata)
        yield _bad(f"metadata with {name}", "SendMessage", request, outcome)
        request = messages.SendMessageRequest(
            session_id=SID, content="x", attachments=ListValue(values=[value])
        )
        yield _bad(
            f"attachments with {name}",
            "SendMessage",
            request,
            FINE if "KB" in name else outcome.replace("METADATA", "CONTENT"),
        )
    many = ListValue(values=[Value(number_value=1)] * 30_000)
    yield _bad(
        "30,000 attachments",
        "SendMessage",
        messages.SendMessageRequest(session_id=SID, content="x", attachments=many),
        "INVALID_CONTENT",
    )
    send = messages.SendMessageRequest(session_id=SID, content="x").SerializeToString()
    for depth, outcome in (
        (31, "INVALID_METADATA"),
        (33, "INVALID_METADATA INVALID_REQUEST"),
        (100, "INVALID_REQUEST"),
        (10_000, "INVALID_REQUEST"),
    ):
        struct = _struct_bytes(depth)
        yield _bad(
            f"metadata of {depth} levels",
            "SendMessage",
            send + b"\x1a" + _varint(len(struct)) + struct,
            outcome,
        )
    yield _bad("groups of 100,000 levels", "GetSession", b"\xc3\x3e" * 100_000, "INVALID_REQUEST")
    twice = b"\x0a\x05\x0a\x01k\x12\x00" * 2
    yield _bad("the same key twice", "SendMessage", send + b"\x1a" + _varint(len(twice)) + twice, FINE)


def _numbers() -> Iterator[BadRpc]:
    for field in ("timeout_minutes", "max_duration_minutes", "warning_threshold_minutes"):
        for name, number in _NUMBERS.items():
            config = {field: number}
            bad = number != number
            request: Message = sessions.CreateSessionRequest(
                agent_id=ECHO, user_id=USER, timeout_config=config
            )
            yield _bad(
                f"{field} is {name}", "CreateSession", request, "INVALID_TIMEOUT_CONFIG" if bad else FINE
            )
            request = sessions.UpdateTimeoutRequest(session_id=SID, timeout_config=config)
            refused = bad or field == "timeout_minutes"
            yield _bad(
                f"{field} is {name}", "UpdateTimeout", request, "INVALID_TIMEOUT_CONFIG" if refused else FINE
            )
            request = agents.CreateAgentRequest(agent={"name": "x", "kind": 1, "timeout_config": config})
            yield _bad(f"{field} is {name}", "CreateAgent", request, "INVALID_TIMEOUT_CONFIG")
    for rpc, make in (
        ("ListSessions", sessions.ListSessionsRequest),
        ("ListAgents", agents.ListAgentsRequest),
    ):
        for size in (-1, -(2**31)):
            yield _bad(f"a page of {size}", rpc, make(page_size=size), "INVALID_PAGINATION")
        yield _bad("a page of 2**31 - 1", rpc, make(page_size=2**31 - 1), FINE)
    for size in (-1, -(2**31)):
        yield _bad(
            f"a page of {size}",
            "ListMessages",
            messages.ListMessagesRequest(session_id=SID, page_size=size),
            "INVALID_PAGINATION",
        )
    yield _bad(
        "a page of 2**31 - 1",
        "ListMessages",
        messages.ListMessagesRequest(session_id=SID, page_size=2**31 - 1),
        FINE,
    )
    for by in (-1, -(2**63), 2**63 - 1, 2**62):
        yield _bad(
            f"an advance by {by}", "AdvanceClock", clock.AdvanceClockRequest(advance_ms=by), "INVALID_FIELD"
        )
    for kind in (5, 77, -1, -(2**31), 2**31 - 1):
        yield _bad(
            f"a kind {kind}",
            "CreateAgent",
            agents.CreateAgentRequest(agent={"name": "x", "kind": kind}),
            "INVALID_FIELD",
        )
        mask = {"paths": ["kind"]}
        request = agents.UpdateAgentRequest(agent={"agent_id": ECHO, "kind": kind}, update_mask=mask)
        yield _bad(f"a kind {kind}", "UpdateAgent", request, "INVALID_FIELD")


def _times() -> Iterator[BadRpc]:
    instants = {
        "beyond the year 9999": Timestamp(seconds=253_402_300_800),
        "before the year 1": Timestamp(seconds=-62_135_596_801),
        "10**18 seconds": Timestamp(seconds=10**18),
        "-10**18 seconds": Timestamp(seconds=-(10**18)),
        "2**63 - 1 seconds": Timestamp(seconds=2**63 - 1, nanos=999_999_999),
        "-2**63 seconds": Timestamp(seconds=-(2**63)),
        "negative nanoseconds": Timestamp(nanos=-1),
        "too many nanoseconds": Timestamp(nanos=2**31 - 1),
        "-2**31 nanoseconds": Timestamp(nanos=-(2**31)),
    }
    for name, instant in instants.items():
        for field in ("before", "after"):
            request = messages.ListMessagesRequest(session_id=SID, **{field: instant})
            yield _bad(f"{field} {name}", "ListMessages", request, "fine INVALID_PAGINATION")
        if "nanoseconds" not in name:
            yield _bad(name, "SetClock", clock.SetClockRequest(now=instant), "INVALID_FIELD")
    yield _bad(
        "-2**31 nanoseconds",
        "SetClock",
        clock.SetClockRequest(now=instants["-2**31 nanoseconds"]),
        "INVALID_FIELD",
    )
    both = messages.ListMessagesRequest(
        session_id=SID, before=Timestamp(seconds=1), after=Timestamp(seconds=2)
    )
    yield _bad("before before after", "ListMessages", both, FINE)


def token(content: Any) -> str:
    """A page token of this content, which may be bytes that are no JSON."""
    raw = content if isinstance(content, bytes) else orjson.dumps(content)
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _tokens() -> Iterator[BadRpc]:
    scopes = {
        "ListSessions": ["sessions", None, None],
        "ListAgents": ["agents"],
        "ListMessages": ["messages", SID, None, None],
    }
    for rpc, scope in scopes.items():
        tokens = {
            "a letter": "x",
            "no base64": "é😀",
            "a NUL": "\0",
            "60 KB": "A" * 60_000,
            "no JSON": token(b"{"),
            "no UTF-8": token(b"\xff\xfe"),
            "a number": token(5),
            "an object": token({}),
            "two strings": token(["a", "b"]),
            "no position": token([scope, None]),
            "an empty position": token([scope, []]),
            "a position of objects": token([scope, [{}, {}]]),
            "a position of booleans": token([scope, [True, True]]),
            "a position of fractions": token([scope, [0.5, "x"]]),
            "a scope that is an object": token([{}, [1, "x"]]),
            "another scope": token([["cats"], [1, "x"]]),
            "three parts": token([scope, [1, "x"], 1]),
            "deep arrays": token(b"[" * 1000 + b"]" * 1000),
            "very deep arrays": token(b"[" * 20_000 + b"]" * 20_000),
        }
        forged = {
            "the greatest integer": [2**64 - 1],
            "2**63": [2**63],
            "-2**63": [-(2**63)],
        }
        makers = {
            "ListSessions": lambda text: sessions.ListSessionsRequest(page_token=text),
            "ListAgents": lambda text: agents.ListAgentsRequest(page_token=text),
            "ListMessages": lambda text: messages.ListMessagesRequest(session_id=SID, page_token=text),
        }
        for name, text in tokens.items():
            yield _bad(f"a token of {name}", rpc, makers[rpc](text), "INVALID_PAGINATION")
        for name, position in forged.items():
            if rpc != "ListMessages":
                yield _bad(
                    f"a token of {name}",
                    rpc,
                    makers[rpc](token([scope, [*position, "x"]])),
                    "fine INVALID_PAGINATION",
                )


def _agents() -> Iterator[BadRpc]:
    for path in (
        "",
        ".",
        "name.",
        "timeout_config.",
        "timeout_config.x",
        "agent_id",
        "created_at",
        "Name",
        "timeoutConfig",
        "x" * 100_000,
        "\0",
        "😀",
    ):
        request = agents.UpdateAgentRequest(agent={"agent_id": ECHO}, update_mask={"paths": [path]})
        yield _bad(f"a mask of {path[:20]!r}", "UpdateAgent", request, "INVALID_FIELD")
    request = agents.UpdateAgentRequest(agent={"agent_id": ECHO}, update_mask={"paths": ["x"] * 30_000})
    yield _bad("a mask of 30,000 paths", "UpdateAgent", request, "INVALID_FIELD")
    yield _bad(
        "a mask without paths",
        "UpdateAgent",
        agents.UpdateAgentRequest(agent={"agent_id": ECHO}, update_mask={}),
        ANY,
    )
    for name in ("\0", "\n", "\u202e", "x" * 101, "x" * 100_000, "\u2028", "\ufeff"):
        yield _bad(
            f"a name {name[:10]!r} of {len(name)}",
            "CreateAgent",
            agents.CreateAgentRequest(agent={"name": name, "kind": 1}),
            "INVALID_FIELD",
        )


def _replies() -> Iterator[BadRpc]:
    values = {"NaN": Value(number_value=_NAN), "infinity": Value(number_value=_INFINITY)}
    replies = {
        "nothing": ({}, "INVALID_CONTENT"),
        "100,001 characters": ({"content": "é" * 100_001}, "INVALID_CONTENT"),
        "2 MB": ({"content": "x" * 2_000_000}, "INVALID_CONTENT"),
        "only a NUL": ({"content": "\0"}, "INVALID_CONTENT"),
        "a NUL": ({"content": "a\0b"}, FINE),
        "a long thought": ({"content": "x", "thought": "x" * 100_001}, "INVALID_CONTENT"),
        "a thought of 2 MB": ({"content": "x", "thought": "x" * 2_000_000}, "INVALID_CONTENT"),
        "a thought that is a NUL": ({"content": "x", "thought": "\0", "actions": ["\0"]}, FINE),
        "101 actions": ({"content": "x", "actions": ["x"] * 101}, "INVALID_CONTENT"),
        "30,000 actions": ({"content": "x", "actions": [""] * 30_000}, "INVALID_CONTENT"),
        "a long action": ({"content": "x", "actions": ["x" * 1001]}, "INVALID_CONTENT"),
        "metadata of 11 KB": (
            {"content": "x", "metadata": Struct(fields={"k": Value(string_value="x" * 11_000)})},
            "INVALID_METADATA",
        ),
        "30,000 attachments": (
            {"content": "x", "attachments": ListValue(values=[Value(number_value=1)] * 30_000)},
            "INVALID_CONTENT",
        ),
        "attachments of 3 MB": (
            {"content": "x", "attachments": ListValue(values=[Value(string_value="x" * 3_000_000)])},
            "INVALID_CONTENT",
        ),
        **{
            f"metadata with {name}": (
                {"content": "x", "metadata": Struct(fields={"k": value})},
                "INVALID_METADATA",
            )
            for name, value in values.items()
        },
        **{
            f"attachments with {name}": (
                {"content": "x", "attachments": ListValue(values=[value])},
                "INVALID_CONTENT",
            )
            for name, value in values.items()
        },
    }
    hello = agents.ConnectRequest(hello={"agent_id": STREAM})
    for name, (fields, outcome) in replies.items():
        reply = agents.AgentReply(**fields)
        yield _bad(
            f"a reply that is {name}",
            "Reply",
            agents.ReplyRequest(delivery_id=f"{SID}-1", reply=reply),
            outcome,
        )
        # What is wrong with a worker's answer does not end its stream: the driver of the cases sees that it
        # is refused.
        said = agents.ConnectRequest(reply={"delivery_id": f"{SID}-1", "reply": reply})
        yield _bad(f"a reply that is {name}", "Connect", hello, FINE, said)
    for depth in (31, 33, 100, 8_000):
        struct = _struct_bytes(depth)
        content = b"\x0a\x01x\x12" + _varint(len(struct)) + struct
        said = b"\x0a\x26" + f"{SID}-1".encode() + b"\x12" + _varint(len(content)) + content
        yield _bad(f"metadata of {depth} levels", "Reply", said, "INVALID_METADATA")
        worker = b"\x1a" + _varint(len(said)) + said
        yield _bad(f"metadata of {depth} levels", "Connect", hello, FINE, worker)
    for name, text in (
        ("nothing much", "x"),
        ("a session", SID),
        ("sequence 0", f"{SID}-0"),
        ("too great", f"{SID}-{2**63}"),
        ("another", f"{SID}-2"),
        ("a NUL", f"{SID}-1\0"),
        ("1 MB", "x" * 1_000_000),
        ("digits", "9" * 1_000_000),
        ("İ", "İ" * 36 + "-1"),
    ):
        request = agents.ReplyRequest(delivery_id=text, reply={"content": "x"})
        yield _bad(f"a delivery that is {name}", "Reply", request, "DELIVERY_NOT_FOUND")
        for part in (
            {"reply": {"delivery_id": text, "reply": {"content": "x"}}},
            {"chunk": {"delivery_id": text}},
            {"failure": {"delivery_id": text}},
        ):
            yield _bad(
                f"a {next(iter(part))} to a delivery that is {name}",
                "Connect",
                hello,
                FINE,
                agents.ConnectRequest(**part),
            )


def _workers() -> Iterator[BadRpc]:
    hello = agents.ConnectRequest(hello={"agent_id": STREAM})
    yield _bad("a good hello", "Connect", hello, FINE)
    yield _bad("hello twice", "Connect", hello, "MISSING_FIELDS", hello)
    yield _bad("nothing after hello", "Connect", hello, "MISSING_FIELDS", b"")
    yield _bad("what nobody knows after hello", "Connect", hello, "MISSING_FIELDS", b"\xc0\x3e\x05")
    for name, garbage in (
        ("random bytes", b"\xff" * 20),
        ("a hello that is not UTF-8", b"\x0a\x04\x0a\x02\xff\xfe"),
        ("half a varint", b"\x08\xff\xff"),
    ):
        yield _bad(f"{name} after hello", "Connect", hello, "INVALID_REQUEST", garbage)
    yield _bad("the id of a delivery that is not UTF-8", "Connect", hello, FINE, b"\x1a\x04\x0a\x02\xff\xfe")
    for part in (
        {"chunk": {"chunk": "x"}},
        {"reply": {"reply": {"content": "x"}}},
        {"failure": {"reason": "x"}},
    ):
        yield _bad(
            f"a {next(iter(part))} before hello",
            "Connect",
            agents.ConnectRequest(**part),
            "MISSING_FIELDS",
            hello,
        )
    yield _bad("a hello to nobody", "Connect", agents.ConnectRequest(hello={}), "MISSING_FIELDS")
    yield _bad(
        "an agent of another kind",
        "Connect",
        agents.ConnectRequest(hello={"agent_id": ECHO}),
        "INVALID_FIELD",
    )
    for name, text in (
        ("nobody", USER),
        ("a NUL", "\0"),
        ("1 MB", "x" * 1_000_000),
        ("İ", "İ" * 36),
        ("no UUID", "x"),
    ):
        yield _bad(
            f"an agent that is {name}",
            "Connect",
            agents.ConnectRequest(hello={"agent_id": text}),
            "AGENT_NOT_FOUND",
        )
    for field, numbers in (
        ("max_deliveries", (-1, 1001, 2**31 - 1, -(2**31))),
        ("history_messages", (-1, 101, 2**31 - 1, -(2**31))),
    ):
        for number in numbers:
            request = agents.ConnectRequest(hello={"agent_id": STREAM, field: number})
            yield _bad(f"{field} of {number}", "Connect", request, "INVALID_FIELD")


def _settings() -> Iterator[BadRpc]:
    hook = {"url": "https://a.example", "secret": "env:AGENT_SECRET_TEST"}
    for kind, head, field, fine in (
        (3, "webhook", "timeout_seconds", ()),
        (4, "openai", "timeout_seconds", ()),
        (4, "openai", "temperature", ("tiny", "minus zero")),
        (4, "openai", "top_p", ("tiny", "minus zero")),
    ):
        for name, number in _NUMBERS.items():
            settings = {**(hook if head == "webhook" else {"model": "m"}), field: number}
            request = agents.CreateAgentRequest(agent={"name": "x", "kind": kind, head: settings})
            yield _bad(
                f"{head}.{field} is {name}", "CreateAgent", request, FINE if name in fine else "INVALID_FIELD"
            )
    for field, texts in (
        (
            "url",
            (
                "\0",
                "x",
                "http://\0",
                "http://[",
                "http://a\r\nb: c",
                "http://" + "x" * 100_000,
                "http://İ",
                "file:///etc/passwd",
            ),
        ),
        (
            "secret",
            (
                "\0",
                "x",
                "env:\0",
                "file:\0",
                "file:/\0",
                "env:" + "x" * 100_000,
                "file:/proc/self/environ",
                "file:/run/../etc/passwd",
            ),
        ),
    ):
        for text in texts:
            request = agents.CreateAgentRequest(
                agent={"name": "x", "kind": 3, "webhook": {**hook, field: text}}
            )
            yield _bad(f"webhook.{field} {text[:25]!r}", "CreateAgent", request, "INVALID_FIELD")
    for path in ("webhook.", "openai.x", "webhook.url.x", "settings", "webhook.timeoutSeconds", "*.url"):
        request = agents.UpdateAgentRequest(
            agent={"agent_id": ECHO, "webhook": hook}, update_mask={"paths": [path]}
        )
        yield _bad(f"a mask of {path!r}", "UpdateAgent", request, "INVALID_FIELD")


def _beyond() -> Iterator[BadRpc]:
    """What is too large, and what gRPC refuses by itself."""
    for mib, outcome in ((3.5, "INVALID_REQUEST"), (5, REFUSED)):
        large = messages.SendMessageRequest(session_id=SID, content="x" * int(mib * 1024 * 1024))
        yield _bad(f"{mib} MiB", "SendMessage", large, outcome)
    for path in (
        "/eliza.sessions.v1.SessionService/Nothing",
        "/eliza.sessions.v1.Nothing/GetSession",
        "/x",
        "/eliza.sessions.v1.sessionservice/GetSession",
    ):
        yield BadRpc(f"no method {path}", path, b"", REFUSED)


BAD: Final = tuple(
    piece
    for maker in (
        _on_every_method,
        _strings,
        _structs,
        _numbers,
        _times,
        _tokens,
        _agents,
        _settings,
        _workers,
        _replies,
        _beyond,
    )
    for piece in maker()
)
"""All pieces."""
