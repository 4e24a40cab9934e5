"""Sending messages."""

from tests.contract.cases.common import (
    ASTRAL,
    JSON_NULL,
    JSON_TEXT,
    JSON_TYPES,
    METADATA_LIMIT,
    config,
    contents,
    expired,
    metadata_of,
    nested,
    reply,
    user_message,
)
from tests.contract.shapes import TEXT, UUID, Each, Is, Some
from tests.contract.steps import (
    MINUTE,
    At,
    Fails,
    Step,
    Text,
    advance,
    call,
    case,
    converse,
    create,
    get,
    heartbeat,
    messages,
    patch,
    renew,
    send,
    settle,
    timed,
)
from tests.support.service import ECHO, UNKNOWN

CASES = [
    case(
        "a message is answered in full and renews its session",
        create(),
        advance(10),
        send(
            content="Hello, world",
            gives={
                "id": UUID,
                "content": "Hello, world",
                "authorId": "$user",
                "createdAt": At(10),
                "metadata": {"sessionId": "$sid"},
                "sessionStatus": {
                    "expiresAt": At(40),
                    "renewalCount": 1,
                    "wasRenewed": True,
                    "isNearExpiration": False,
                },
            },
        ),
        get(lastActivity=At(10), expiresAt=At(40), renewalCount=1, timeRemaining=30 * MINUTE),
    ),
    case(
        "without auto-renewal a message is activity and no more",
        timed(30, autoRenew=False),
        advance(10),
        send(
            gives={
                "sessionStatus": {
                    "expiresAt": At(30),
                    "renewalCount": 0,
                    "wasRenewed": False,
                    "isNearExpiration": False,
                }
            }
        ),
        get(lastActivity=At(10), expiresAt=At(30), renewalCount=0),
        advance(16),
        send(
            gives={
                "sessionStatus": {
                    "expiresAt": At(30),
                    "renewalCount": 0,
                    "wasRenewed": False,
                    "isNearExpiration": True,
                }
            }
        ),
        advance(4),
        get(fails=expired(30)),
    ),
    case(
        "renewals stop at the maximum duration, which warns and then ends the session",
        timed(30, maxDurationMinutes=60, warningThresholdMinutes=7),
        advance(25),
        send(
            gives={
                "sessionStatus": {
                    "expiresAt": At(55),
                    "renewalCount": 1,
                    "wasRenewed": True,
                    "isNearExpiration": False,
                }
            }
        ),
        advance(25),
        send(
            gives={
                "sessionStatus": {
                    "expiresAt": At(60),
                    "renewalCount": 2,
                    "wasRenewed": True,
                    "isNearExpiration": False,
                }
            }
        ),
        advance(5),
        send(
            gives={
                "sessionStatus": {
                    "expiresAt": At(60),
                    "renewalCount": 3,
                    "wasRenewed": True,
                    "isNearExpiration": True,
                }
            }
        ),
        heartbeat(expiresAt=At(60), renewalCount=4, isNearExpiration=True),
        advance(5),
        send(fails=expired(60)),
    ),
    case(
        "the session's metadata lies under the message's, and sessionId over both",
        create(metadata={"a": 1, "b": {"c": 2}, "sessionId": "session's"}),
        send(
            metadata={"b": "mine", "d": [None], "sessionId": "message's"},
            gives={"metadata": {"a": 1, "b": "mine", "d": [None], "sessionId": "$sid"}},
        ),
        settle(2),
        messages(
            gives={
                "messages": [
                    Some({"isAgent": True, "metadata": {"a": 1, "b": {"c": 2}, "sessionId": "$sid"}}),
                    Some(
                        {
                            "isAgent": False,
                            "metadata": {"a": 1, "b": "mine", "d": [None], "sessionId": "$sid"},
                        }
                    ),
                ]
            }
        ),
        get(metadata={"a": 1, "b": {"c": 2}, "sessionId": "session's"}),
    ),
    case(
        "attachments come back where they were given",
        create(),
        send(
            attachments=[{"url": "http://x/y.png", "n": 1}, "text", 5, None, [True]],
            gives={"attachments": [{"url": "http://x/y.png", "n": 1}, "text", 5, None, [True]]},
        ),
        send(attachments=[], gives={"attachments": []}),
        send(gives={}),
        settle(6),
        messages(
            gives={
                "messages": Is(
                    "six messages, two of them with attachments",
                    lambda page: len(page) == 6 and sum("attachments" in one for one in page) == 2,
                )
            }
        ),
    ),
    case(
        "attachments that are null are none",
        create(),
        send(attachments=None, metadata=None),
        rest_only=JSON_NULL,
    ),
    *(
        case(
            f"attachments cannot be {given!r}",
            create(),
            send(attachments=given, fails=Fails("INVALID_CONTENT")),
            rest_only=JSON_TYPES,
        )
        for given in ("x", "", 5, 0, True, False, {})
    ),
    case(
        "attachments have room for 2,000 values through all levels",
        create(),
        send(attachments=[[0] * 999, {str(number): None for number in range(999)}], gives={"id": UUID}),
        send(
            attachments=[[0] * 999, {str(number): None for number in range(1000)}],
            fails=Fails("INVALID_CONTENT"),
        ),
    ),
    case(
        "metadata and attachments have room for 30 levels",
        create(metadata=nested(30), gives={"metadata": nested(30)}),
        create(metadata=nested(31), fails=Fails("INVALID_METADATA")),
        send(metadata=nested(30), attachments=[[nested(28)]], gives={"attachments": [[nested(28)]]}),
        send(metadata=nested(31), fails=Fails("INVALID_METADATA")),
        send(attachments=[[nested(29)]], fails=Fails("INVALID_CONTENT")),
    ),
    case(
        "attachments have room for 2 MiB",
        create(),
        send(attachments=["x" * (2 * 1024 * 1024 - 4)], gives={"attachments": ["x" * (2 * 1024 * 1024 - 4)]}),
        send(attachments=["x" * (2 * 1024 * 1024 - 3)], fails=Fails("INVALID_CONTENT")),
        grpc_only="a body of REST is no larger than that in all",
    ),
    *(
        case(
            f"content may be {name}",
            create(),
            send(content=content, gives={"content": content}),
            settle(2),
            messages(gives={"messages": contents(content, content)}),
        )
        for name, content in (
            ("one character", "x"),
            ("white space", " "),
            ("line breaks and tabs", "\r\n\t\v\f\u2028\u00a0"),
            ("4000 characters", "x" * 4000),
            ("4000 astral characters", ASTRAL * 4000),
            ("4000 that combine", "e" + "\u0301" * 3999),
            ("controls and a BOM", "\x01\x7f\x1b\ufeff\uffff\u202e"),
            ("markup", "<script>alert(1)</script> ' OR 1=1; -- %s {0}"),
        )
    ),
    *(
        case(
            f"content cannot be {name}",
            create(),
            send(content=content, fails=Fails("INVALID_CONTENT")),
            get(renewalCount=0, lastActivity=At()),
            messages(gives={"messages": []}),
        )
        for name, content in (
            ("empty", ""),
            ("4001 characters", "x" * 4001),
            ("4001 astral characters", ASTRAL * 4001),
            ("a NUL", "\0"),
            ("text around a NUL", "a\0b"),
        )
    ),
    *(
        case(
            f"content cannot be {given!r}",
            create(),
            send(content=given, fails=Fails("INVALID_CONTENT")),
            messages(gives={"messages": []}),
            rest_only=JSON_TYPES,
        )
        for given in (None, 5, 0, True, [], ["text"], {}, {"text": "x"})
    ),
    case("content is required", create(), Step("send", fails=Fails("INVALID_CONTENT"))),
    *(
        case(
            f"a lone surrogate is not text: {escape}",
            create(),
            Step("send", given=Text(f'{{"content": "{escape}"}}'), fails=Fails("INVALID_CONTENT")),
            Step(
                "send",
                given=Text(f'{{"content": "x", "metadata": {{"k": "{escape}"}}}}'),
                fails=Fails("INVALID_METADATA"),
            ),
            Step(
                "send",
                given=Text(f'{{"content": "x", "metadata": {{"{escape}": 1}}}}'),
                fails=Fails("INVALID_METADATA"),
            ),
            Step(
                "send",
                given=Text(f'{{"content": "x", "attachments": ["{escape}"]}}'),
                fails=Fails("INVALID_CONTENT"),
            ),
            messages(gives={"messages": []}),
            rest_only="a proto's strings are UTF-8",
        )
        for escape in (r"\ud800", r"\udfff", r"a\udc00\ud800b", r"\ud83d")
    ),
    case(
        "a pair of surrogates is a character",
        create(),
        Step("send", given=Text(r'{"content": "\ud83d\ude00"}'), gives={"content": "😀"}),
        rest_only=JSON_TEXT,
    ),
    case(
        "the sender of a message may wait for the reply",
        create(metadata={"a": 1}),
        converse(
            content="Hello there",
            metadata={"b": 2},
            gives={
                "content": "Hello there",
                "authorId": "$user",
                "createdAt": At(),
                "metadata": {"a": 1, "b": 2, "sessionId": "$sid"},
                "sessionStatus": {
                    "expiresAt": At(30),
                    "renewalCount": 1,
                    "wasRenewed": True,
                    "isNearExpiration": False,
                },
                "agentResponse": {
                    "id": UUID,
                    "content": "Hello there",
                    "text": "Hello there",
                    "authorId": ECHO,
                    "isAgent": True,
                    "createdAt": At(ms=1),
                    "metadata": {"a": 1, "sessionId": "$sid"},
                    "thought": None,
                    "actions": [],
                },
            },
            saves={"reply": "agentResponse.id", "sent": "id"},
        ),
        messages(
            gives={
                "messages": [Some({"id": "$reply", "isAgent": True}), Some({"id": "$sent", "isAgent": False})]
            }
        ),
    ),
    case(
        "the reply may come in pieces",
        create(),
        converse(
            call="stream",
            content="Hello there, world",
            gives={"events": Is("several pieces", lambda events: len(events) > 3)},
        ),
        converse(call="stream", content="one"),
        messages(gives={"messages": contents("one", "one", "Hello there, world", "Hello there, world")}),
    ),
    *(
        case(
            f"a message that cannot be stored fails the same way: {call}",
            converse(UNKNOWN, call=call, fails=Fails("SESSION_NOT_FOUND", {"sessionId": UNKNOWN})),
            converse(UNKNOWN, call=call, content="", fails=Fails("SESSION_NOT_FOUND")),
            create(),
            converse(call=call, content="", fails=Fails("INVALID_CONTENT")),
            converse(call=call, metadata=metadata_of(METADATA_LIMIT + 1), fails=Fails("INVALID_METADATA")),
            messages(gives={"messages": []}),
            advance(30),
            converse(call=call, fails=expired(30)),
            converse(call=call, content="", fails=expired(30)),
        )
        for call in ("converse", "stream")
    ),
    case(
        "a reply that cannot be had leaves the message",
        call("create_agent", {"name": "gone", "kind": "AGENT_KIND_ECHO"}, saves={"agent": "agentId"}),
        create(agentId="$agent"),
        call("delete_agent", {"agentId": "$agent"}),
        converse(
            content="Anyone?",
            fails=Fails("AGENT_REPLY_FAILED", {"sessionId": "$sid", "messageId": UUID, "reason": TEXT}),
        ),
        messages(gives={"messages": contents("Anyone?")}),
    ),
    case(
        "a stream tells of a reply that cannot be had",
        call("create_agent", {"name": "gone", "kind": "AGENT_KIND_ECHO"}, saves={"agent": "agentId"}),
        create(agentId="$agent"),
        call("delete_agent", {"agentId": "$agent"}),
        converse(
            call="stream",
            gives={
                "events": [
                    Some({"event": "user_message"}),
                    {
                        "event": "error",
                        "data": {
                            "error": TEXT,
                            "code": "AGENT_REPLY_FAILED",
                            "details": {"sessionId": "$sid", "messageId": UUID, "reason": TEXT},
                        },
                    },
                ]
            },
        ),
        rest_only="gRPC's stream ends with a status",
    ),
    case(
        "transport and the older mode take either set of names",
        create(),
        *(
            send(**{name: value}, gives={"agentResponse": Some({"text": "Hello"})})
            for name in ("transport", "mode")
            for value in ("http", "sync")
        ),
        send(transport="sync", mode="sse", gives={"agentResponse": Some({"text": "Hello"})}),
        send(transport="http", mode="stream", gives={"agentResponse": Some({"text": "Hello"})}),
        send(transport="http", mode="pigeon", gives={"agentResponse": Some({"text": "Hello"})}),
        rest_only="the way of a reply is not gRPC's",
    ),
    case(
        "a watch tells what happened, in order, from where the client left off to the end",
        create(),
        send(content="one"),
        settle(2),
        renew(),
        patch(timeoutMinutes=20, warningThresholdMinutes=3),
        advance(17),
        advance(3),
        Step(
            "watch",
            given={"after": 0, "entries": 6, "to_the_end": True},
            gives={
                "entries": [
                    Some(
                        {
                            "sessionId": "$sid",
                            "sequence": 1,
                            "at": At(),
                            "event": "message",
                            "message": user_message("one", At()),
                        }
                    ),
                    Some(
                        {"sequence": 2, "at": At(ms=1), "event": "message", "message": reply("one", At(ms=1))}
                    ),
                    Some(
                        {
                            "sequence": 3,
                            "event": "renewal",
                            "sessionStatus": Some({"wasRenewed": True, "renewalCount": 2}),
                        }
                    ),
                    Some(
                        {
                            "sequence": 4,
                            "event": "timeout_change",
                            "timeoutConfig": config(timeoutMinutes=20, warningThresholdMinutes=3),
                            "sessionStatus": Some({"expiresAt": At(20), "wasRenewed": False}),
                        }
                    ),
                    Some({"sequence": 5, "at": At(17), "event": "expiration_warning", "minutesRemaining": 3}),
                    Some({"sequence": 6, "at": At(20), "event": "expiry", "expiredAt": At(20)}),
                ]
            },
        ),
        Step("watch", given={"after": 4, "entries": 1}, gives={"entries": [Some({"sequence": 5})]}),
        Step(
            "watch",
            UNKNOWN,
            {"after": 0, "entries": 1},
            fails=Fails("SESSION_NOT_FOUND", {"sessionId": UNKNOWN}),
        ),
        Step(
            "watch",
            given={"after": -1, "entries": 1},
            fails=Fails("INVALID_FIELD", {"field": "afterSequence", "value": "-1"}),
        ),
        grpc_only="REST has events of its own",
    ),
    case(
        "many sessions are watched on one stream",
        create(save="one"),
        create(save="two"),
        heartbeat("$one"),
        heartbeat("$two"),
        Step(
            "watch_many",
            "",
            {"sessions": ["$one", UNKNOWN, "$two"], "after": 0, "events": 3},
            gives={
                "joined": Is("both", lambda joined: len(set(joined)) == 2),
                "entries": Each(Some({"event": "renewal", "sequence": 1})),
                "ends": [
                    {"sessionId": UNKNOWN, "reason": "SESSION_NOT_FOUND", "details": {"sessionId": UNKNOWN}}
                ],
            },
        ),
        grpc_only="REST has sockets for it",
    ),
    case(
        "the reply comes later over websocket, the default",
        create(),
        send(transport="websocket"),
        send(transport=None),
        send(mode="websocket"),
        send(transport="websocket", mode="pigeon"),
        rest_only="the way of a reply is not gRPC's",
    ),
    *(
        case(
            f"there is no {name} {given!r}",
            create(),
            send(**{name: given}, fails=Fails("INVALID_CONTENT")),
            messages(gives={"messages": []}),
            rest_only="the way of a reply is not gRPC's",
        )
        for name in ("transport", "mode")
        for given in ("pigeon", "", "WEBSOCKET", 5, True, [], {})
    ),
    case(
        "transport wins over mode",
        create(),
        send(transport="pigeon", mode="websocket", fails=Fails("INVALID_CONTENT")),
        rest_only="the way of a reply is not gRPC's",
    ),
    case(
        "a message says its place in the log",
        create(),
        send(gives={"sequence": 1, "sessionId": "$sid", "isAgent": False}),
        settle(2),
        renew(lastSequence=3),
        send(gives={"sequence": 4}),
        settle(5),
        messages(gives={"sequences": [5, 4, 2, 1]}),
        get(lastSequence=5),
        grpc_only="REST has no sequences",
    ),
]
