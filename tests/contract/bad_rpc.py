"""Bad input over gRPC, as data: the bytes of a request, and what must come of it."""

import base64
from collections.abc import Iterator
from typing import Any, Final

import orjson
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import ListValue, Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp

from eliza.sessions.v1 import agent_service_pb2 as agents
from eliza.sessions.v1 import clock_service_pb2 as clock
from eliza.sessions.v1 import message_service_pb2 as messages
from eliza.sessions.v1 import session_service_pb2 as sessions
from tests.contract.bad_pieces import FINE, SID, USER
from tests.contract.bad_rpc_access import bad_tokens_and_users
from tests.contract.bad_rpc_admin import bad_deliveries, bad_searches
from tests.contract.bad_rpc_agents import bad_agents, bad_replies, bad_settings, bad_workers
from tests.contract.rpc_pieces import INFINITY, NAN, NUMBERS, REFUSED, BadRpc, bad_rpc, struct_bytes, varint
from tests.support.service import ECHO

_EMPTY = {
    "CreateSession": "MISSING_FIELDS",
    "GetSession": "SESSION_NOT_FOUND",
    "ListSessions": FINE,
    "DeleteSession": "SESSION_NOT_FOUND",
    "RenewSession": "SESSION_NOT_FOUND",
    "UpdateTimeout": "SESSION_NOT_FOUND",
    "SendHeartbeat": "SESSION_NOT_FOUND",
    "GetServiceStatus": FINE,
    "CreateAccessToken": "SESSION_NOT_FOUND",
    "ListUserSessions": "MISSING_FIELDS",
    "ExportUserData": "MISSING_FIELDS",
    "DeleteUserData": "MISSING_FIELDS",
    "WatchSession": "SESSION_NOT_FOUND",
    "WatchSessions": FINE,
    "SendMessage": "SESSION_NOT_FOUND",
    "Converse": "SESSION_NOT_FOUND",
    "ListMessages": "SESSION_NOT_FOUND",
    "ExportTranscript": "SESSION_NOT_FOUND",
    "CreateAgent": "MISSING_FIELDS",
    "GetAgent": "AGENT_NOT_FOUND",
    "ListAgents": FINE,
    "UpdateAgent": "AGENT_NOT_FOUND",
    "DeleteAgent": "AGENT_NOT_FOUND",
    "Connect": "MISSING_FIELDS",
    "Reply": "MISSING_FIELDS",
    "GetOverview": FINE,
    "GetSystem": FINE,
    "SearchSessions": FINE,
    "ListDeliveries": "MISSING_FIELDS",
    "RedeliverMessage": "MISSING_FIELDS",
    "GetAgentActivity": "AGENT_NOT_FOUND",
    "GetClock": FINE,
    "SetClock": "MISSING_FIELDS",
    "AdvanceClock": FINE,
}
"""What an empty request of each RPC gives."""


def on_every_method() -> Iterator[BadRpc]:
    for rpc, outcome in _EMPTY.items():
        yield bad_rpc("nothing", rpc, b"", outcome)
        yield bad_rpc("a field nobody knows", rpc, b"\xc0\x3e\x05", outcome)
        yield bad_rpc(
            "fields nobody knows of every wire type",
            rpc,
            b"\xc0\x3e\x05\xc1\x3e12345678\xc2\x3e\x03abc\xc5\x3e1234",
            outcome,
        )
        yield bad_rpc("random bytes", rpc, b"\xff" * 20, "INVALID_REQUEST")
        yield bad_rpc("a field that ends too early", rpc, b"\x0a\x24short", "INVALID_REQUEST")
        yield bad_rpc("a field number 0", rpc, b"\x00\x00", f"{outcome} INVALID_REQUEST")
        yield bad_rpc("half a varint", rpc, b"\x08\xff\xff", "INVALID_REQUEST")
        yield bad_rpc("JSON", rpc, b'{"session_id": "x"}', "INVALID_REQUEST")


def strings() -> Iterator[BadRpc]:
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
            yield bad_rpc(
                f"a string that is {name}", rpc, b"\x0a" + bytes([len(text)]) + text, "INVALID_REQUEST"
            )
    yield bad_rpc(
        "content that is not UTF-8",
        "SendMessage",
        b"\x0a\x24" + SID.encode() + b"\x12\x02\xff\xfe",
        "INVALID_REQUEST",
    )
    yield bad_rpc("a string as a number", "GetSession", b"\x08\x05", "SESSION_NOT_FOUND")
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
            yield bad_rpc(f"a session that is called {name}", rpc, request, "SESSION_NOT_FOUND")
        yield bad_rpc(
            f"an agent that is called {name}",
            "GetAgent",
            agents.GetAgentRequest(agent_id=text),
            "AGENT_NOT_FOUND",
        )
        yield bad_rpc(
            f"a user that is called {name}",
            "CreateSession",
            sessions.CreateSessionRequest(agent_id=ECHO, user_id=text),
            "INVALID_UUID",
        )
        yield bad_rpc(
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
        yield bad_rpc(
            f"content that is {name}",
            "SendMessage",
            messages.SendMessageRequest(session_id=SID, content=text),
            "INVALID_CONTENT",
        )


def structs() -> Iterator[BadRpc]:
    values = {
        "NaN": (Value(number_value=NAN), "INVALID_METADATA"),
        "infinity": (Value(number_value=INFINITY), "INVALID_METADATA"),
        "minus infinity": (Value(number_value=-INFINITY), "INVALID_METADATA"),
        "NaN in an array": (
            Value(list_value=ListValue(values=[Value(number_value=NAN)])),
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
        yield bad_rpc(
            f"metadata with {name}",
            "CreateSession",
            sessions.CreateSessionRequest(agent_id=ECHO, user_id=USER, metadata=metadata),
            outcome,
        )
        request = messages.SendMessageRequest(session_id=SID, content="x", metadata=metadata)
        yield bad_rpc(f"metadata with {name}", "SendMessage", request, outcome)
        request = messages.SendMessageRequest(
            session_id=SID, content="x", attachments=ListValue(values=[value])
        )
        yield bad_rpc(
            f"attachments with {name}",
            "SendMessage",
            request,
            FINE if "KB" in name else outcome.replace("METADATA", "CONTENT"),
        )
    many = ListValue(values=[Value(number_value=1)] * 30_000)
    yield bad_rpc(
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
        struct = struct_bytes(depth)
        yield bad_rpc(
            f"metadata of {depth} levels",
            "SendMessage",
            send + b"\x1a" + varint(len(struct)) + struct,
            outcome,
        )
    yield bad_rpc("groups of 100,000 levels", "GetSession", b"\xc3\x3e" * 100_000, "INVALID_REQUEST")
    twice = b"\x0a\x05\x0a\x01k\x12\x00" * 2
    yield bad_rpc("the same key twice", "SendMessage", send + b"\x1a" + varint(len(twice)) + twice, FINE)


def numbers() -> Iterator[BadRpc]:
    for field in ("timeout_minutes", "max_duration_minutes", "warning_threshold_minutes"):
        for name, number in NUMBERS.items():
            config = {field: number}
            bad = number != number
            request: Message = sessions.CreateSessionRequest(
                agent_id=ECHO, user_id=USER, timeout_config=config
            )
            yield bad_rpc(
                f"{field} is {name}", "CreateSession", request, "INVALID_TIMEOUT_CONFIG" if bad else FINE
            )
            request = sessions.UpdateTimeoutRequest(session_id=SID, timeout_config=config)
            refused = bad or field == "timeout_minutes"
            yield bad_rpc(
                f"{field} is {name}", "UpdateTimeout", request, "INVALID_TIMEOUT_CONFIG" if refused else FINE
            )
            request = agents.CreateAgentRequest(agent={"name": "x", "kind": 1, "timeout_config": config})
            yield bad_rpc(f"{field} is {name}", "CreateAgent", request, "INVALID_TIMEOUT_CONFIG")
    for rpc, make in (
        ("ListSessions", sessions.ListSessionsRequest),
        ("ListAgents", agents.ListAgentsRequest),
    ):
        for size in (-1, -(2**31)):
            yield bad_rpc(f"a page of {size}", rpc, make(page_size=size), "INVALID_PAGINATION")
        yield bad_rpc("a page of 2**31 - 1", rpc, make(page_size=2**31 - 1), FINE)
    for size in (-1, -(2**31)):
        yield bad_rpc(
            f"a page of {size}",
            "ListMessages",
            messages.ListMessagesRequest(session_id=SID, page_size=size),
            "INVALID_PAGINATION",
        )
    yield bad_rpc(
        "a page of 2**31 - 1",
        "ListMessages",
        messages.ListMessagesRequest(session_id=SID, page_size=2**31 - 1),
        FINE,
    )
    for after in (-1, -(2**63)):
        yield bad_rpc(
            f"a sequence of {after}",
            "ExportTranscript",
            messages.ExportTranscriptRequest(session_id=SID, after_sequence=after),
            "INVALID_FIELD",
        )
    for by in (-1, -(2**63), 2**63 - 1, 2**62):
        yield bad_rpc(
            f"an advance by {by}", "AdvanceClock", clock.AdvanceClockRequest(advance_ms=by), "INVALID_FIELD"
        )
    for kind in (5, 77, -1, -(2**31), 2**31 - 1):
        yield bad_rpc(
            f"a kind {kind}",
            "CreateAgent",
            agents.CreateAgentRequest(agent={"name": "x", "kind": kind}),
            "INVALID_FIELD",
        )
        mask = {"paths": ["kind"]}
        request = agents.UpdateAgentRequest(agent={"agent_id": ECHO, "kind": kind}, update_mask=mask)
        yield bad_rpc(f"a kind {kind}", "UpdateAgent", request, "INVALID_FIELD")


def bad_times() -> Iterator[BadRpc]:
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
            yield bad_rpc(f"{field} {name}", "ListMessages", request, "fine INVALID_PAGINATION")
        if "nanoseconds" not in name:
            yield bad_rpc(name, "SetClock", clock.SetClockRequest(now=instant), "INVALID_FIELD")
    yield bad_rpc(
        "-2**31 nanoseconds",
        "SetClock",
        clock.SetClockRequest(now=instants["-2**31 nanoseconds"]),
        "INVALID_FIELD",
    )
    both = messages.ListMessagesRequest(
        session_id=SID, before=Timestamp(seconds=1), after=Timestamp(seconds=2)
    )
    yield bad_rpc("before before after", "ListMessages", both, FINE)


def token(content: Any) -> str:
    """A page token of this content, which may be bytes that are no JSON."""
    raw = content if isinstance(content, bytes) else orjson.dumps(content)
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def tokens() -> Iterator[BadRpc]:
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
            yield bad_rpc(f"a token of {name}", rpc, makers[rpc](text), "INVALID_PAGINATION")
        for name, position in forged.items():
            if rpc != "ListMessages":
                yield bad_rpc(
                    f"a token of {name}",
                    rpc,
                    makers[rpc](token([scope, [*position, "x"]])),
                    "fine INVALID_PAGINATION",
                )


def beyond() -> Iterator[BadRpc]:
    """What is too large, and what gRPC refuses by itself."""
    for mib, outcome in ((3.5, "INVALID_REQUEST"), (5, REFUSED)):
        large = messages.SendMessageRequest(session_id=SID, content="x" * int(mib * 1024 * 1024))
        yield bad_rpc(f"{mib} MiB", "SendMessage", large, outcome)
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
        on_every_method,
        strings,
        structs,
        numbers,
        bad_times,
        tokens,
        bad_agents,
        bad_settings,
        bad_workers,
        bad_replies,
        bad_tokens_and_users,
        bad_searches,
        bad_deliveries,
        beyond,
    )
    for piece in maker()
)
"""All pieces."""
