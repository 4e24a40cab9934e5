"""The contract as cases: each is told once and runs through REST and through gRPC, which promise the same."""

from typing import Any, Final

from tests.harness import ECHO, USER
from tests.wire.shapes import ANYTHING, TEXT, UUID, Each, Is, Maybe, Some, above
from tests.wire.steps import (
    ABSENT,
    DAY,
    MINUTE,
    At,
    AtMs,
    Case,
    DeliveryId,
    Fails,
    Step,
    Text,
    Upper,
    advance,
    agent_of,
    call,
    case,
    connect,
    converse,
    create,
    delete,
    get,
    health,
    heartbeat,
    http,
    listing,
    messages,
    on_every_call,
    patch,
    refused,
    renew,
    send,
    settle,
    timed,
    told,
)

_NOT_FOUND = Fails("SESSION_NOT_FOUND", {"sessionId": "$sid"})
_UNKNOWN = "deadbeef-dead-4ead-8ead-deaddeadbeef"
_PURGED = advance(3 * DAY + 1)
"""Whatever there was has expired and is purged, so that counts over everything are known."""

_JSON_TYPES = "a proto's field has one type"
_JSON_NULL = "a proto has no null for a field"
_JSON_TEXT = "a proto is no text"
_PATHS = "gRPC has no paths"
_REST_PAGES = "gRPC refuses a negative size and takes 0 for the default"
_NO_REST = "REST has no paths for it"
_GRPC_NUMBERS = "JSON does not write this number"

METADATA_LIMIT: Final = 10_240
ASTRAL = "\U0001f600"


def _metadata_of(size: int, letter: str = "x") -> dict[str, str]:
    """Metadata of so many bytes as compact JSON in UTF-8."""
    count, rest = divmod(size - len('{"k":""}'), len(letter.encode()))
    return {"k": letter * count + "x" * rest}


def _nested(depth: int) -> dict[str, Any]:
    """An object of so many levels."""
    return {"k": _nested(depth - 1)} if depth > 1 else {}


def _expired(minutes: float, session: str = "$sid") -> Fails:
    return Fails("SESSION_EXPIRED", {"sessionId": session, "expiresAt": At(minutes)})


def _renewal_failed(max_duration: float) -> Fails:
    return Fails("SESSION_RENEWAL_FAILED", {"sessionId": "$sid", "maxDurationMinutes": max_duration, "createdAt": At()})


def _config(**fields: Any) -> dict[str, Any]:
    """Settings in force: the service's defaults where nothing is named."""
    return {"timeoutMinutes": 30, "autoRenew": True, "maxDurationMinutes": 720, "warningThresholdMinutes": 5, **fields}


def _bad_timeout(field: str) -> Fails:
    return Fails("INVALID_TIMEOUT_CONFIG", {"field": field})


def _user_message(content: str, at: At, **fields: Any) -> dict[str, Any]:
    return {
        "id": UUID,
        "content": content,
        "authorId": "$user",
        "isAgent": False,
        "createdAt": at,
        "metadata": {"sessionId": "$sid"},
        **fields,
    }


def _reply(content: str, at: At) -> dict[str, Any]:
    return {**_user_message(content, at), "authorId": ECHO, "isAgent": True}


def _contents(*contents: str) -> list[Any]:
    return [Some({"content": content}) for content in contents]


_CREATE = [
    case(
        "a session that asks for nothing gets the defaults",
        create(
            gives={
                "createdAt": At(),
                "expiresAt": At(30),
                "agentId": ECHO,
                "userId": "$user",
                "metadata": {},
                "timeoutConfig": _config(),
            }
        ),
        get(
            createdAt=At(),
            expiresAt=At(30),
            lastActivity=At(),
            renewalCount=0,
            timeRemaining=30 * MINUTE,
            isNearExpiration=False,
            agentId=ECHO,
            userId="$user",
            metadata={},
            timeoutConfig=_config(),
        ),
    ),
    case(
        "what create answers is what is read later",
        Step(
            "create",
            "",
            {"agentId": ECHO, "userId": "$user", "metadata": {"a": 1}},
            saves={"sid": "sessionId", "channel": "channelId", "created": "createdAt", "expires": "expiresAt"},
        ),
        get(channelId="$channel", createdAt="$created", expiresAt="$expires", metadata={"a": 1}),
    ),
    case(
        "every session has ids of its own",
        Step("create", "", {"agentId": ECHO, "userId": "$user"}, saves={"one": "sessionId", "channel": "channelId"}),
        create(),
        get(sessionId=Is("another", lambda value: UUID.test(value))),
        get("$one", channelId="$channel"),
    ),
    case(
        "metadata of every kind comes back as it went in",
        create(
            metadata={
                "text": "Grüße, 世界 😀",
                "empty": "",
                "whole": 7,
                "negative": -3,
                "fraction": 0.5,
                "large": 2**53,
                "yes": True,
                "no": False,
                "nothing": None,
                "array": [1, "two", [3], {}, None],
                "object": {"deep": {"deeper": {"": "empty key"}}},
                "sessionId": "mine",
            },
            gives={
                "metadata": {
                    "text": "Grüße, 世界 😀",
                    "empty": "",
                    "whole": 7,
                    "negative": -3,
                    "fraction": 0.5,
                    "large": 2**53,
                    "yes": True,
                    "no": False,
                    "nothing": None,
                    "array": [1, "two", [3], {}, None],
                    "object": {"deep": {"deeper": {"": "empty key"}}},
                    "sessionId": "mine",
                }
            },
        ),
        get(metadata=Some({"sessionId": "mine", "whole": 7, "fraction": 0.5})),
    ),
    case(
        "ids are accepted in upper case and returned in lower case",
        create(agentId=ECHO.upper(), userId=USER.replace("1", "A"), gives={"agentId": ECHO, "userId": USER.replace("1", "a")}),
        get(agentId=ECHO, userId=USER.replace("1", "a")),
    ),
    *(
        case(f"a UUID of any version is one: {user}", create(userId=user, gives={"userId": user}))
        for user in (
            "00000000-0000-0000-0000-000000000000",
            "ffffffff-ffff-ffff-ffff-ffffffffffff",
            "c232ab00-9414-11ec-b3c8-9f6bdeced846",
            "9073926b-929f-31c2-abc9-fad77ae3e8eb",
            "017f22e2-79b0-7cc3-98c4-dc0c0c07398f",
            "2489e9ad-2ee2-8e00-0ec9-32d5f69181c0",
        )
    ),
    *(
        case(
            f"timeoutMinutes {given} becomes {kept}",
            timed(given, gives={"timeoutConfig": _config(timeoutMinutes=kept, maxDurationMinutes=max(720, kept)), "expiresAt": At(kept)}),
        )
        for given, kept in (
            (1, 5),
            (0, 5),
            (-3, 5),
            (4.999, 5),
            (5, 5),
            (7.5, 7.5),
            (45.25, 45.25),
            (1440, 1440),
            (1441, 1440),
            (1e9, 1440),
        )
    ),
    *(
        case(f"timeoutMinutes {given} becomes {kept}", timed(given, gives={"expiresAt": At(kept)}), grpc_only=_GRPC_NUMBERS)
        for given, kept in (("Infinity", 1440), ("-Infinity", 5))
    ),
    *(
        case(
            f"maxDurationMinutes {given} with a timeout of {timeout} becomes {kept}",
            timed(timeout, maxDurationMinutes=given, gives={"timeoutConfig": _config(timeoutMinutes=timeout, maxDurationMinutes=kept)}),
        )
        for timeout, given, kept in (
            (60, 30, 60),
            (60, 60, 60),
            (60, 61.5, 61.5),
            (60, 0, 60),
            (60, -1, 60),
            (60, 2880, 2880),
            (5, 2881, 2880),
        )
    ),
    case(
        "a default maximum duration gives way to a longer timeout",
        timed(1000, gives={"timeoutConfig": _config(timeoutMinutes=1000, maxDurationMinutes=1000), "expiresAt": At(1000)}),
    ),
    *(
        case(
            f"warningThresholdMinutes {given} becomes {kept}",
            timed(warningThresholdMinutes=given, gives={"timeoutConfig": _config(warningThresholdMinutes=kept)}),
        )
        for given, kept in ((0, 1), (-5, 1), (0.5, 1), (1, 1), (2.5, 2.5), (60, 60))
    ),
    case("autoRenew false is kept", timed(autoRenew=False, gives={"timeoutConfig": _config(autoRenew=False)})),
    case("autoRenew true is kept", timed(autoRenew=True, gives={"timeoutConfig": _config()})),
    case("an empty timeoutConfig is none", timed(gives={"timeoutConfig": _config()})),
    case(
        "null counts as absent",
        create(
            metadata=None,
            timeoutConfig={"timeoutMinutes": None, "autoRenew": None, "maxDurationMinutes": None, "warningThresholdMinutes": None},
            gives={"metadata": {}, "timeoutConfig": _config()},
        ),
        create(timeoutConfig=None, gives={"timeoutConfig": _config()}),
        rest_only=_JSON_NULL,
    ),
    case(
        "decimal strings are numbers",
        create(
            timeoutConfig={"timeoutMinutes": "45", "maxDurationMinutes": "100.5", "warningThresholdMinutes": "2"},
            gives={"timeoutConfig": _config(timeoutMinutes=45, maxDurationMinutes=100.5, warningThresholdMinutes=2), "expiresAt": At(45)},
        ),
        create(timeoutConfig={"timeoutMinutes": "-7"}, gives={"expiresAt": At(5)}),
        rest_only=_JSON_TYPES,
    ),
    case(
        "numbers written in other ways are the same numbers",
        Step(
            "create",
            "",
            Text(f'{{"agentId":"{ECHO}","userId":"{USER}","timeoutConfig":{{"timeoutMinutes":3e1,"maxDurationMinutes":60.0}}}}'),
            {"timeoutConfig": _config(timeoutMinutes=30, maxDurationMinutes=60)},
        ),
        rest_only=_JSON_TEXT,
    ),
    case("fields that nobody knows are ignored", create(colour="blue", timeoutConfig={"colour": 1}), rest_only="stubs cannot send them"),
    *(
        case(f"{field} cannot be {given!r}", create(timeoutConfig={field: given}, fails=_bad_timeout(field)), rest_only=_JSON_TYPES)
        for field in ("timeoutMinutes", "maxDurationMinutes", "warningThresholdMinutes")
        for given in ("soon", "", "NaN", "Infinity", "0x10", "12 minutes", True, False, [], [5], {})
    ),
    *(
        case(
            f"autoRenew cannot be {given!r}",
            create(timeoutConfig={"autoRenew": given}, fails=_bad_timeout("autoRenew")),
            rest_only=_JSON_TYPES,
        )
        for given in ("true", "", 0, 1, [], {})
    ),
    *(
        case(f"timeoutConfig cannot be {given!r}", create(timeoutConfig=given, fails=_bad_timeout("timeoutConfig")), rest_only=_JSON_TYPES)
        for given in ("x", 5, True, [], [{}])
    ),
    *(
        case(f"{field} cannot be NaN", create(timeoutConfig={field: "NaN"}, fails=_bad_timeout(field)), grpc_only=_GRPC_NUMBERS)
        for field in ("timeoutMinutes", "maxDurationMinutes", "warningThresholdMinutes")
    ),
    *(
        case(f"missing fields: {how}", create(**given, fails=Fails("MISSING_FIELDS", {"missingFields": missing})))
        for how, given, missing in (
            ("both", {"agentId": ABSENT, "userId": ABSENT}, ["agentId", "userId"]),
            ("the agent", {"agentId": ABSENT}, ["agentId"]),
            ("the user", {"userId": ABSENT}, ["userId"]),
            ("both, being empty", {"agentId": "", "userId": ""}, ["agentId", "userId"]),
            ("the user, being empty", {"userId": ""}, ["userId"]),
        )
    ),
    case(
        "missing fields come before malformed ones",
        create(agentId="x", userId=ABSENT, fails=Fails("MISSING_FIELDS", {"missingFields": ["userId"]})),
        create(agentId=ABSENT, userId="x", fails=Fails("MISSING_FIELDS", {"missingFields": ["agentId"]})),
    ),
    case(
        "a required field that is null is missing",
        create(agentId=None, userId=None, fails=Fails("MISSING_FIELDS", {"missingFields": ["agentId", "userId"]})),
        create(userId=None, fails=Fails("MISSING_FIELDS", {"missingFields": ["userId"]})),
        rest_only=_JSON_NULL,
    ),
    case(
        "a body that is missing is an empty one",
        Step("create", "", fails=Fails("MISSING_FIELDS", {"missingFields": ["agentId", "userId"]})),
    ),
    *(
        case(f"{field} cannot be {given!r}", create(**{field: given}, fails=Fails("INVALID_UUID", {"field": field, "value": given})))
        for field in ("agentId", "userId")
        for given in (
            "x",
            USER[:-1],
            USER + "1",
            USER.replace("-", ""),
            f"{{{USER}}}",
            f"urn:uuid:{USER}",
            f" {USER}",
            f"{USER}\n",
            USER.replace("1", "g"),
            USER.replace("1", "१"),
        )
    ),
    *(
        case(
            f"{field} cannot be {given!r}",
            create(**{field: given}, fails=Fails("INVALID_UUID", {"field": field, "value": shown})),
            rest_only=_JSON_TYPES,
        )
        for field in ("agentId", "userId")
        for given, shown in ((5, "5"), (True, "true"), ([USER], f'["{USER}"]'), ({}, "{}"))
    ),
    case(
        "an error repeats only the beginning of a long value",
        create(userId="u" * 5000, fails=Fails("INVALID_UUID", {"value": Is("at most 100 characters", lambda value: len(value) <= 100)})),
    ),
    case("an unknown agent is not found", create(agentId=_UNKNOWN, fails=Fails("AGENT_NOT_FOUND", {"agentId": _UNKNOWN}))),
    case(
        "the agent of an error is told in lower case",
        create(agentId=_UNKNOWN.upper(), fails=Fails("AGENT_NOT_FOUND", {"agentId": _UNKNOWN})),
    ),
    case(
        "the body is judged before the agent is looked for",
        create(agentId=_UNKNOWN, userId="x", fails=Fails("INVALID_UUID", {"field": "userId"})),
        create(agentId=_UNKNOWN, metadata=_metadata_of(METADATA_LIMIT + 1), fails=Fails("INVALID_METADATA")),
    ),
    *(
        case(
            f"metadata has room for {METADATA_LIMIT} bytes ({name})",
            create(metadata=_metadata_of(METADATA_LIMIT, letter), gives={"metadata": _metadata_of(METADATA_LIMIT, letter)}),
            create(metadata=_metadata_of(METADATA_LIMIT + 1, letter), fails=Fails("INVALID_METADATA", {"maxBytes": METADATA_LIMIT})),
            send(metadata=_metadata_of(METADATA_LIMIT, letter), gives={"metadata": Some({"k": _metadata_of(METADATA_LIMIT, letter)["k"]})}),
            send(metadata=_metadata_of(METADATA_LIMIT + 1, letter), fails=Fails("INVALID_METADATA", {"maxBytes": METADATA_LIMIT})),
        )
        for name, letter in (("ASCII", "x"), ("two bytes each", "é"), ("four bytes each", ASTRAL))
    ),
    case(
        "the size of metadata is that of compact JSON",
        Step(
            "create",
            "",
            Text(f'{{"agentId":"{ECHO}","userId":"{USER}","metadata":{{ "k" :  "{"x" * (METADATA_LIMIT - 8)}"   }}}}'),
            saves={"sid": "sessionId"},
        ),
        rest_only=_JSON_TEXT,
    ),
    *(
        case(
            f"metadata cannot be {given!r}",
            create(metadata=given, fails=Fails("INVALID_METADATA", {"maxBytes": METADATA_LIMIT})),
            create(),
            send(metadata=given, fails=Fails("INVALID_METADATA", {"maxBytes": METADATA_LIMIT})),
            rest_only=_JSON_TYPES,
        )
        for given in ("x", "", 5, 0, True, False, [], [{}])
    ),
]

_READ = [
    case(
        "time passes",
        create(),
        advance(12.5),
        get(timeRemaining=round(17.5 * MINUTE), expiresAt=At(30), lastActivity=At(), renewalCount=0),
        get(timeRemaining=round(17.5 * MINUTE)),
    ),
    case(
        "a session is near its expiration from its warning threshold on",
        timed(30, warningThresholdMinutes=7),
        advance(23, ms=-1),
        get(timeRemaining=7 * MINUTE + 1, isNearExpiration=False),
        advance(ms=1),
        get(timeRemaining=7 * MINUTE, isNearExpiration=True),
        advance(7, ms=-1),
        get(timeRemaining=1, isNearExpiration=True),
    ),
    case("a threshold longer than the timeout is near from the start", timed(5, warningThresholdMinutes=60), get(isNearExpiration=True)),
    case(
        "session ids are accepted in upper case and returned in lower case",
        create(),
        get(Upper("$sid"), sessionId="$sid"),
        send(Upper("$sid"), gives={"metadata": {"sessionId": "$sid"}}),
        messages(Upper("$sid")),
        renew(Upper("$sid"), sessionId="$sid"),
        patch(Upper("$sid"), timeoutMinutes=20, gives={"sessionId": "$sid"}),
        heartbeat(Upper("$sid"), sessionId="$sid"),
        delete(Upper("$sid")),
        get(Upper("$sid"), fails=_NOT_FOUND),
    ),
    *(
        case(f"no session is called {name}", on_every_call(Fails("SESSION_NOT_FOUND", {"sessionId": name}), name))
        for name in (_UNKNOWN, "not-a-uuid", "0", "~", f"{{{USER}}}")
    ),
    case(
        "the session of an error is told in lower case",
        get(_UNKNOWN.upper(), fails=Fails("SESSION_NOT_FOUND", {"sessionId": _UNKNOWN})),
        create(),
        advance(30),
        get(Upper("$sid"), fails=_expired(30)),
    ),
    case(
        "a channel's id is not a session's",
        create(save="sid", gives={}),
        Step("get", saves={"c": "channelId"}),
        get("$c", fails=Fails("SESSION_NOT_FOUND")),
    ),
]

_EXPIRY = [
    case(
        "a session is expired from the very instant of its expiry",
        timed(5),
        advance(5, ms=-1),
        get(timeRemaining=1),
        advance(ms=1),
        get(fails=_expired(5)),
    ),
    case(
        "an expired session answers 410 to everything but DELETE, again and again, until its record is purged",
        timed(5, autoRenew=False),
        advance(5),
        on_every_call(_expired(5), but_delete=True),
        on_every_call(_expired(5), but_delete=True),
        advance(DAY, ms=-1),
        on_every_call(_expired(5), but_delete=True),
        advance(ms=1),
        on_every_call(_NOT_FOUND),
    ),
    case("an expired session can be deleted", create(), advance(30), delete(success=True), on_every_call(_NOT_FOUND)),
    case("a deleted session is gone", create(), send(), delete(success=True), on_every_call(_NOT_FOUND), on_every_call(_NOT_FOUND)),
    case(
        "nothing revives an expired session",
        create(),
        advance(30),
        renew(fails=_expired(30)),
        heartbeat(fails=_expired(30)),
        send(fails=_expired(30)),
        patch(timeoutMinutes=1440, fails=_expired(30)),
        get(fails=_expired(30)),
    ),
    case(
        "activity at the last instant keeps a session alive",
        create(),
        advance(30, ms=-1),
        heartbeat(expiresAt=At(60, ms=-1), renewalCount=1),
        advance(30, ms=-1),
        get(timeRemaining=1),
        send(gives={"sessionStatus": Some({"expiresAt": At(90, ms=-2), "renewalCount": 2})}),
    ),
    case("a clock that goes on does not expire what was renewed", create(), advance(29), renew(), advance(29), renew(), advance(29), get()),
]

_SEND = [
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
                "sessionStatus": {"expiresAt": At(40), "renewalCount": 1, "wasRenewed": True, "isNearExpiration": False},
            },
        ),
        get(lastActivity=At(10), expiresAt=At(40), renewalCount=1, timeRemaining=30 * MINUTE),
    ),
    case(
        "without auto-renewal a message is activity and no more",
        timed(30, autoRenew=False),
        advance(10),
        send(gives={"sessionStatus": {"expiresAt": At(30), "renewalCount": 0, "wasRenewed": False, "isNearExpiration": False}}),
        get(lastActivity=At(10), expiresAt=At(30), renewalCount=0),
        advance(16),
        send(gives={"sessionStatus": {"expiresAt": At(30), "renewalCount": 0, "wasRenewed": False, "isNearExpiration": True}}),
        advance(4),
        get(fails=_expired(30)),
    ),
    case(
        "renewals stop at the maximum duration, which warns and then ends the session",
        timed(30, maxDurationMinutes=60, warningThresholdMinutes=7),
        advance(25),
        send(gives={"sessionStatus": {"expiresAt": At(55), "renewalCount": 1, "wasRenewed": True, "isNearExpiration": False}}),
        advance(25),
        send(gives={"sessionStatus": {"expiresAt": At(60), "renewalCount": 2, "wasRenewed": True, "isNearExpiration": False}}),
        advance(5),
        send(gives={"sessionStatus": {"expiresAt": At(60), "renewalCount": 3, "wasRenewed": True, "isNearExpiration": True}}),
        heartbeat(expiresAt=At(60), renewalCount=4, isNearExpiration=True),
        advance(5),
        send(fails=_expired(60)),
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
                    Some({"isAgent": False, "metadata": {"a": 1, "b": "mine", "d": [None], "sessionId": "$sid"}}),
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
    case("attachments that are null are none", create(), send(attachments=None, metadata=None), rest_only=_JSON_NULL),
    *(
        case(f"attachments cannot be {given!r}", create(), send(attachments=given, fails=Fails("INVALID_CONTENT")), rest_only=_JSON_TYPES)
        for given in ("x", "", 5, 0, True, False, {})
    ),
    case(
        "attachments have room for 20,000 values through all levels",
        create(),
        send(attachments=[[0] * 9_999, {str(number): None for number in range(9_999)}], gives={"id": UUID}),
        send(attachments=[[0] * 9_999, {str(number): None for number in range(10_000)}], fails=Fails("INVALID_CONTENT")),
    ),
    case(
        "metadata and attachments have room for 30 levels",
        create(metadata=_nested(30), gives={"metadata": _nested(30)}),
        create(metadata=_nested(31), fails=Fails("INVALID_METADATA")),
        send(metadata=_nested(30), attachments=[[_nested(28)]], gives={"attachments": [[_nested(28)]]}),
        send(metadata=_nested(31), fails=Fails("INVALID_METADATA")),
        send(attachments=[[_nested(29)]], fails=Fails("INVALID_CONTENT")),
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
            messages(gives={"messages": _contents(content, content)}),
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
            rest_only=_JSON_TYPES,
        )
        for given in (None, 5, 0, True, [], ["text"], {}, {"text": "x"})
    ),
    case("content is required", create(), Step("send", fails=Fails("INVALID_CONTENT"))),
    *(
        case(
            f"a lone surrogate is not text: {escape}",
            create(),
            Step("send", given=Text(f'{{"content": "{escape}"}}'), fails=Fails("INVALID_CONTENT")),
            Step("send", given=Text(f'{{"content": "x", "metadata": {{"k": "{escape}"}}}}'), fails=Fails("INVALID_METADATA")),
            Step("send", given=Text(f'{{"content": "x", "metadata": {{"{escape}": 1}}}}'), fails=Fails("INVALID_METADATA")),
            Step("send", given=Text(f'{{"content": "x", "attachments": ["{escape}"]}}'), fails=Fails("INVALID_CONTENT")),
            messages(gives={"messages": []}),
            rest_only="a proto's strings are UTF-8",
        )
        for escape in (r"\ud800", r"\udfff", r"a\udc00\ud800b", r"\ud83d")
    ),
    case(
        "a pair of surrogates is a character",
        create(),
        Step("send", given=Text(r'{"content": "\ud83d\ude00"}'), gives={"content": "😀"}),
        rest_only=_JSON_TEXT,
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
                "sessionStatus": {"expiresAt": At(30), "renewalCount": 1, "wasRenewed": True, "isNearExpiration": False},
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
        messages(gives={"messages": [Some({"id": "$reply", "isAgent": True}), Some({"id": "$sent", "isAgent": False})]}),
    ),
    case(
        "the reply may come in pieces",
        create(),
        converse(call="stream", content="Hello there, world", gives={"events": Is("several pieces", lambda events: len(events) > 3)}),
        converse(call="stream", content="one"),
        messages(gives={"messages": _contents("one", "one", "Hello there, world", "Hello there, world")}),
    ),
    *(
        case(
            f"a message that cannot be stored fails the same way: {call}",
            converse(_UNKNOWN, call=call, fails=Fails("SESSION_NOT_FOUND", {"sessionId": _UNKNOWN})),
            converse(_UNKNOWN, call=call, content="", fails=Fails("SESSION_NOT_FOUND")),
            create(),
            converse(call=call, content="", fails=Fails("INVALID_CONTENT")),
            converse(call=call, metadata=_metadata_of(METADATA_LIMIT + 1), fails=Fails("INVALID_METADATA")),
            messages(gives={"messages": []}),
            advance(30),
            converse(call=call, fails=_expired(30)),
            converse(call=call, content="", fails=_expired(30)),
        )
        for call in ("converse", "stream")
    ),
    case(
        "a reply that cannot be had leaves the message",
        call("create_agent", {"name": "gone", "kind": "AGENT_KIND_ECHO"}, saves={"agent": "agentId"}),
        create(agentId="$agent"),
        call("delete_agent", {"agentId": "$agent"}),
        converse(content="Anyone?", fails=Fails("AGENT_REPLY_FAILED", {"sessionId": "$sid", "messageId": UUID, "reason": TEXT})),
        messages(gives={"messages": _contents("Anyone?")}),
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
        "transport and the older mode have three values each",
        create(),
        send(mode="sync", gives={"agentResponse": Some({"text": "Hello"})}),
        send(transport="http", mode="stream", gives={"agentResponse": Some({"text": "Hello"})}),
        send(transport="http", mode="pigeon", gives={"agentResponse": Some({"text": "Hello"})}),
        *(
            send(**{name: value}, fails=Fails("INVALID_CONTENT"))
            for name, values in (("transport", ("sync", "stream")), ("mode", ("http", "sse")))
            for value in values
        ),
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
                    Some({"sessionId": "$sid", "sequence": 1, "at": At(), "event": "message", "message": _user_message("one", At())}),
                    Some({"sequence": 2, "at": At(ms=1), "event": "message", "message": _reply("one", At(ms=1))}),
                    Some({"sequence": 3, "event": "renewal", "sessionStatus": Some({"wasRenewed": True, "renewalCount": 2})}),
                    Some(
                        {
                            "sequence": 4,
                            "event": "timeout_change",
                            "timeoutConfig": _config(timeoutMinutes=20, warningThresholdMinutes=3),
                            "sessionStatus": Some({"expiresAt": At(20), "wasRenewed": False}),
                        }
                    ),
                    Some({"sequence": 5, "at": At(17), "event": "expiration_warning", "minutesRemaining": 3}),
                    Some({"sequence": 6, "at": At(20), "event": "expiry", "expiredAt": At(20)}),
                ]
            },
        ),
        Step("watch", given={"after": 4, "entries": 1}, gives={"entries": [Some({"sequence": 5})]}),
        Step("watch", _UNKNOWN, {"after": 0, "entries": 1}, fails=Fails("SESSION_NOT_FOUND", {"sessionId": _UNKNOWN})),
        Step("watch", given={"after": -1, "entries": 1}, fails=Fails("INVALID_FIELD", {"field": "afterSequence", "value": "-1"})),
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
            {"sessions": ["$one", _UNKNOWN, "$two"], "after": 0, "events": 3},
            gives={
                "joined": Is("both", lambda joined: len(set(joined)) == 2),
                "entries": Each(Some({"event": "renewal", "sequence": 1})),
                "ends": [{"sessionId": _UNKNOWN, "reason": "SESSION_NOT_FOUND", "details": {"sessionId": _UNKNOWN}}],
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

_HISTORY = [
    case("a history starts empty, without cursors", create(), messages(gives={"messages": [], "hasMore": False})),
    case(
        "the history has the messages of both, newest first",
        create(),
        send(content="one"),
        settle(2),
        advance(1),
        send(content="two", attachments=[1]),
        settle(4),
        messages(
            gives={
                "messages": [
                    _reply("two", At(1, ms=1)),
                    _user_message("two", At(1), attachments=[1]),
                    _reply("one", At(ms=1)),
                    _user_message("one", At()),
                ],
                "hasMore": False,
                "cursors": {"before": AtMs(), "after": AtMs(1, ms=1)},
            }
        ),
    ),
    case(
        "times are unique where the clock stands still",
        create(),
        send(content="1", gives={"createdAt": At()}),
        settle(2),
        send(content="2", gives={"createdAt": At(ms=2)}),
        settle(4),
        send(content="3", gives={"createdAt": At(ms=4)}),
        settle(6),
        advance(ms=3),
        send(content="4", gives={"createdAt": At(ms=6)}),
        settle(8),
        messages(gives={"messages": _contents("4", "4", "3", "3", "2", "2", "1", "1")}),
    ),
    case(
        "before and after exclude their own instant",
        create(),
        send(content="a", times=1),
        settle(2),
        send(content="b"),
        settle(4),
        messages(before=AtMs(), gives={"messages": [], "hasMore": False}),
        messages(before=AtMs(ms=1), gives={"messages": [_user_message("a", At())], "hasMore": False}),
        messages(after=AtMs(ms=3), gives={"messages": [], "hasMore": False}),
        messages(after=AtMs(ms=2), gives={"messages": [_reply("b", At(ms=3))], "hasMore": False}),
        messages(
            after=AtMs(), before=AtMs(ms=3), gives={"messages": [_user_message("b", At(ms=2)), _reply("a", At(ms=1))], "hasMore": False}
        ),
        messages(after=AtMs(ms=2), before=AtMs(ms=2), gives={"messages": [], "hasMore": False}),
        messages(after=AtMs(ms=3), before=AtMs(), gives={"messages": [], "hasMore": False}),
        messages(before=At(ms=1), gives={"messages": [_user_message("a", At())]}),
        messages(after=At(ms=2), gives={"messages": [_reply("b", At(ms=3))]}),
        messages(before=-1, gives={"messages": []}),
        messages(after=-1, gives={"messages": Is("all four", lambda page: len(page) == 4)}),
    ),
    case(
        "cursors may be ISO 8601 with other digits and zones",
        create(),
        send(),
        settle(2),
        messages(before="2000-01-01T00:00:00Z", gives={"messages": []}),
        messages(before="2000-01-01", gives={"messages": []}),
        messages(before="2000-01-01T00:00:00+02:00", gives={"messages": []}),
        messages(after="2000-01-01T00:00:00.5Z", gives={"messages": Is("both", lambda page: len(page) == 2)}),
        messages(after="946684800000", gives={"messages": Is("both", lambda page: len(page) == 2)}),
        rest_only="a Timestamp has no spelling",
    ),
    case(
        "hasMore is exact, backward and forward",
        create(),
        send(content="a"),
        settle(2),
        send(content="b"),
        settle(4),
        messages(limit=4, gives={"hasMore": False, "messages": _contents("b", "b", "a", "a")}),
        messages(limit=3, gives={"hasMore": True, "messages": _contents("b", "b", "a")}),
        messages(limit=2, before=AtMs(ms=2), gives={"hasMore": False, "messages": _contents("a", "a")}),
        messages(limit=1, before=AtMs(ms=2), gives={"hasMore": True, "messages": [_reply("a", At(ms=1))]}),
        messages(limit=1, before=AtMs(ms=1), gives={"hasMore": False, "messages": [_user_message("a", At())]}),
        messages(limit=3, after=AtMs(ms=-1), gives={"hasMore": True, "messages": _contents("b", "a", "a")}),
        messages(limit=4, after=AtMs(ms=-1), gives={"hasMore": False, "messages": _contents("b", "b", "a", "a")}),
        messages(limit=1, after=AtMs(ms=2), gives={"hasMore": False, "messages": [_reply("b", At(ms=3))]}),
        messages(limit=1, after=AtMs(ms=1), gives={"hasMore": True, "messages": [_user_message("b", At(ms=2))]}),
        messages(limit=1, after=AtMs(), before=AtMs(ms=3), gives={"hasMore": True, "messages": [_user_message("b", At(ms=2))]}),
        messages(limit=2, after=AtMs(), before=AtMs(ms=3), gives={"hasMore": False, "messages": _contents("b", "a")}),
    ),
    case(
        "a client that follows the cursors sees everything",
        create(),
        send(content="a"),
        settle(2),
        send(content="b"),
        settle(4),
        messages(limit=1, gives={"messages": _contents("b")}, saves={"back": "cursors.before", "forth": "cursors.after"}),
        messages(limit=2, before="$back", gives={"messages": _contents("b", "a"), "hasMore": True}, saves={"back": "cursors.before"}),
        messages(limit=2, before="$back", gives={"messages": _contents("a"), "hasMore": False}),
        messages(after="$forth", gives={"messages": [], "hasMore": False}),
        send(content="c"),
        settle(6),
        messages(after="$forth", gives={"messages": _contents("c", "c"), "hasMore": False}),
    ),
    case(
        "a page has 50 messages unless asked otherwise, and never more than 100",
        create(),
        send(times=60),
        settle(120),
        messages(gives={"messages": Is("50", lambda page: len(page) == 50), "hasMore": True}),
        messages(limit=100, gives={"messages": Is("100", lambda page: len(page) == 100), "hasMore": True}),
        messages(limit=101, gives={"messages": Is("100", lambda page: len(page) == 100), "hasMore": True}),
        messages(limit=2_000_000_000, gives={"messages": Is("100", lambda page: len(page) == 100), "hasMore": True}),
        messages(limit=1, gives={"messages": Is("1", lambda page: len(page) == 1), "hasMore": True}),
    ),
    case(
        "a limit that makes no sense is clamped or the default",
        create(),
        send(times=60),
        settle(120),
        *(
            messages(limit=given, gives={"messages": Is(f"{kept}", lambda page, kept=kept: len(page) == kept), "hasMore": True})
            for given, kept in (
                ("0", 1),
                ("-5", 1),
                ("-1e9", 1),
                ("abc", 50),
                ("", 50),
                ("NaN", 50),
                ("1e3", 100),
                ("99999999999999999999999", 100),
                ("1e999", 100),
                ("2.9", 2),
                ("١", 50),
            )
        ),
        rest_only=_REST_PAGES,
    ),
    *(
        case(
            f"{parameter} cannot be {given!r}",
            create(),
            messages(**{parameter: given}, fails=Fails("INVALID_PAGINATION", {"parameter": parameter, "value": given})),
            rest_only="a Timestamp is typed",
        )
        for parameter in ("before", "after")
        for given in (
            "yesterday",
            "NaN",
            "2026-13-01T00:00:00Z",
            "2026-01-01T25:00:00Z",
            "1e400",
            "9" * 30,
            "-" + "9" * 30,
            "0x10",
            "null",
            "[]",
        )
    ),
    case(
        "a size cannot be negative",
        create(),
        messages(limit=-1, fails=Fails("INVALID_PAGINATION", {"parameter": "pageSize", "value": "-1"})),
        listing(limit=-1, fails=Fails("INVALID_PAGINATION", {"parameter": "pageSize", "value": "-1"})),
        call("list_agents", {"limit": -1}, fails=Fails("INVALID_PAGINATION", {"parameter": "pageSize", "value": "-1"})),
        grpc_only="REST clamps",
    ),
    case(
        "page tokens lead through the history, and belong to it",
        create(),
        send(content="a"),
        settle(2),
        send(content="b"),
        settle(4),
        messages(limit=3, gives={"hasMore": True}, saves={"token": "nextPageToken"}),
        messages(limit=3, pageToken="$token", gives={"messages": _contents("a"), "hasMore": False, "nextPageToken": ""}),
        messages(limit=1, after=AtMs(ms=-1), gives={"messages": [_user_message("a", At())]}, saves={"forth": "nextPageToken"}),
        messages(limit=2, after=AtMs(ms=-1), pageToken="$forth", gives={"messages": _contents("b", "a"), "hasMore": True}),
        messages(limit=2, pageToken="$forth", fails=Fails("INVALID_PAGINATION", {"parameter": "pageToken"})),
        messages(limit=2, before=AtMs(ms=2), pageToken="$token", fails=Fails("INVALID_PAGINATION", {"parameter": "pageToken"})),
        messages(pageToken="garbage", fails=Fails("INVALID_PAGINATION", {"parameter": "pageToken", "value": "garbage"})),
        create(save="other"),
        messages("$other", pageToken="$token", fails=Fails("INVALID_PAGINATION", {"parameter": "pageToken"})),
        listing(pageToken="$token", fails=Fails("INVALID_PAGINATION", {"parameter": "pageToken"})),
        grpc_only="REST follows the cursors",
    ),
]

_RENEWAL = [
    case(
        "renewing by hand is activity and moves the expiry",
        create(),
        advance(10),
        renew(expiresAt=At(40), renewalCount=1, lastActivity=At(10), timeRemaining=30 * MINUTE, isNearExpiration=False),
        renew(expiresAt=At(40), renewalCount=2),
        get(expiresAt=At(40), renewalCount=2, lastActivity=At(10)),
    ),
    case(
        "renewing by hand works without auto-renewal",
        timed(30, autoRenew=False),
        advance(29),
        renew(expiresAt=At(59), renewalCount=1, lastActivity=At(29), isNearExpiration=False),
    ),
    case(
        "at the maximum duration a renewal by hand has nothing to gain",
        timed(30, maxDurationMinutes=45),
        advance(20),
        renew(expiresAt=At(45), renewalCount=1),
        renew(fails=_renewal_failed(45)),
        advance(10),
        renew(fails=_renewal_failed(45)),
        get(expiresAt=At(45), renewalCount=1, lastActivity=At(20)),
        advance(15),
        renew(fails=_expired(45)),
    ),
    case("a life no longer than the timeout cannot be renewed", timed(30, maxDurationMinutes=30), renew(fails=_renewal_failed(30))),
    case(
        "the maximum duration of an error may be a fraction",
        timed(30, maxDurationMinutes=30.5),
        advance(1),
        renew(),
        renew(fails=_renewal_failed(30.5)),
    ),
    case(
        "a heartbeat renews",
        create(),
        advance(10),
        heartbeat(expiresAt=At(40), renewalCount=1, lastActivity=At(10), timeRemaining=30 * MINUTE),
        get(expiresAt=At(40), renewalCount=1, lastActivity=At(10)),
    ),
    case(
        "without auto-renewal a heartbeat is activity and no more",
        timed(30, autoRenew=False),
        advance(10),
        heartbeat(expiresAt=At(30), renewalCount=0, lastActivity=At(10), timeRemaining=20 * MINUTE),
        get(expiresAt=At(30), renewalCount=0, lastActivity=At(10)),
    ),
    case(
        "a renewal ends the nearness",
        timed(30),
        advance(26),
        get(isNearExpiration=True),
        heartbeat(isNearExpiration=False),
        get(isNearExpiration=False),
    ),
    case("a heartbeat and a renewal are not messages", create(), heartbeat(), renew(), messages(gives={"messages": []})),
]

_PATCH = [
    case(
        "a change names what it changes and keeps the rest",
        create(timeoutConfig={"timeoutMinutes": 40, "autoRenew": False, "maxDurationMinutes": 100, "warningThresholdMinutes": 3}),
        patch(
            timeoutMinutes=50,
            gives={"timeoutConfig": {"timeoutMinutes": 50, "autoRenew": False, "maxDurationMinutes": 100, "warningThresholdMinutes": 3}},
        ),
        patch(
            autoRenew=True,
            gives={"timeoutConfig": {"timeoutMinutes": 50, "autoRenew": True, "maxDurationMinutes": 100, "warningThresholdMinutes": 3}},
        ),
        patch(
            maxDurationMinutes=200,
            gives={"timeoutConfig": {"timeoutMinutes": 50, "autoRenew": True, "maxDurationMinutes": 200, "warningThresholdMinutes": 3}},
        ),
        patch(
            warningThresholdMinutes=9.5,
            gives={"timeoutConfig": {"timeoutMinutes": 50, "autoRenew": True, "maxDurationMinutes": 200, "warningThresholdMinutes": 9.5}},
        ),
        patch(
            gives={"timeoutConfig": {"timeoutMinutes": 50, "autoRenew": True, "maxDurationMinutes": 200, "warningThresholdMinutes": 9.5}}
        ),
        get(
            timeoutConfig={"timeoutMinutes": 50, "autoRenew": True, "maxDurationMinutes": 200, "warningThresholdMinutes": 9.5},
            expiresAt=At(50),
        ),
    ),
    case(
        "a change is no activity and no renewal",
        create(),
        advance(10),
        patch(timeoutMinutes=60, gives={"lastActivity": At(), "renewalCount": 0, "expiresAt": At(60), "timeRemaining": 50 * MINUTE}),
        get(lastActivity=At(), renewalCount=0, expiresAt=At(60)),
        messages(gives={"messages": []}),
    ),
    case(
        "a change that names nothing changes nothing", create(), advance(10), patch(gives={"expiresAt": At(30), "timeoutConfig": _config()})
    ),
    case(
        "with auto-renewal the expiry is computed from the last activity",
        create(),
        advance(10),
        send(),
        advance(10),
        patch(timeoutMinutes=60, gives={"expiresAt": At(70), "lastActivity": At(10)}),
    ),
    case(
        "without auto-renewal it is computed from the creation",
        timed(30, autoRenew=False),
        advance(10),
        heartbeat(lastActivity=At(10)),
        advance(10),
        patch(timeoutMinutes=60, gives={"expiresAt": At(60), "lastActivity": At(10)}),
    ),
    case(
        "without auto-renewal it is computed from the last renewal",
        timed(30, autoRenew=False),
        advance(5),
        renew(expiresAt=At(35)),
        advance(5),
        send(),
        advance(10),
        patch(timeoutMinutes=60, gives={"expiresAt": At(65), "lastActivity": At(10)}),
    ),
    case(
        "auto-renewal that is switched decides by its new value",
        timed(30, autoRenew=False),
        advance(10),
        heartbeat(),
        patch(autoRenew=True, gives={"expiresAt": At(40)}),
        advance(5),
        heartbeat(expiresAt=At(45), renewalCount=1),
        patch(autoRenew=False, gives={"expiresAt": At(45)}),
        advance(5),
        heartbeat(expiresAt=At(45), renewalCount=1),
    ),
    case(
        "the maximum duration caps the new expiry",
        timed(30, maxDurationMinutes=60),
        patch(timeoutMinutes=90, gives={"expiresAt": At(60), "timeoutConfig": _config(timeoutMinutes=90, maxDurationMinutes=60)}),
        renew(fails=_renewal_failed(60)),
        patch(maxDurationMinutes=80, gives={"expiresAt": At(90), "timeoutConfig": _config(timeoutMinutes=90, maxDurationMinutes=90)}),
    ),
    *(
        case(
            f"maxDurationMinutes changed to {given} becomes {kept}",
            timed(60),
            patch(maxDurationMinutes=given, gives={"timeoutConfig": _config(timeoutMinutes=60, maxDurationMinutes=kept)}),
        )
        for given, kept in ((100, 100), (60, 60), (59, 60), (0, 60), (-1, 60), (2880, 2880), (2881, 2880), (1e300, 2880))
    ),
    *(
        case(
            f"warningThresholdMinutes changed to {given} becomes {kept}",
            create(),
            patch(warningThresholdMinutes=given, gives={"timeoutConfig": _config(warningThresholdMinutes=kept)}),
        )
        for given, kept in ((0, 1), (0.99, 1), (-1, 1), (1, 1), (29.5, 29.5))
    ),
    case(
        "timeoutMinutes may be changed to its bounds",
        create(),
        patch(timeoutMinutes=5, gives={"expiresAt": At(5)}),
        patch(timeoutMinutes=1440),
    ),
    *(
        case(
            f"timeoutMinutes cannot be changed to {given}",
            create(),
            patch(
                timeoutMinutes=given,
                warningThresholdMinutes=9,
                fails=Fails("INVALID_TIMEOUT_CONFIG", {"field": "timeoutMinutes", "value": shown}),
            ),
            get(timeoutConfig=_config(), expiresAt=At(30)),
        )
        for given, shown in ((4.999, "4.999"), (0, "0"), (-1, "-1"), (1440.001, "1440.001"), (1441, "1441"))
    ),
    *(
        case(
            f"timeoutMinutes cannot be changed to {given}",
            create(),
            patch(timeoutMinutes=given, fails=_bad_timeout("timeoutMinutes")),
            grpc_only=_GRPC_NUMBERS,
        )
        for given in ("NaN", "Infinity", "-Infinity")
    ),
    *(
        case(f"{field} cannot be changed to NaN", create(), patch(**{field: "NaN"}, fails=_bad_timeout(field)), grpc_only=_GRPC_NUMBERS)
        for field in ("maxDurationMinutes", "warningThresholdMinutes")
    ),
    *(
        case(
            f"{field} cannot be changed to {given!r}",
            create(),
            patch(**{field: given}, fails=_bad_timeout(field)),
            get(timeoutConfig=_config()),
            rest_only=_JSON_TYPES,
        )
        for field, values in (
            ("timeoutMinutes", ("soon", "", True, [], {})),
            ("maxDurationMinutes", ("soon", False, [5])),
            ("warningThresholdMinutes", ("soon", True, {})),
            ("autoRenew", ("true", 1, 0, [], {})),
        )
        for given in values
    ),
    case(
        "decimal strings change too",
        create(),
        patch(timeoutMinutes="45.5", gives={"expiresAt": At(45.5)}),
        patch(timeoutMinutes="3", fails=_bad_timeout("timeoutMinutes")),
        rest_only=_JSON_TYPES,
    ),
    case(
        "null changes nothing",
        create(),
        patch(
            timeoutMinutes=None,
            autoRenew=None,
            maxDurationMinutes=None,
            warningThresholdMinutes=None,
            gives={"timeoutConfig": _config(), "expiresAt": At(30)},
        ),
        rest_only=_JSON_NULL,
    ),
    case(
        "a change into the past is shown once and then the session is expired",
        timed(60),
        advance(30),
        patch(
            timeoutMinutes=5,
            gives={"expiresAt": At(5), "timeRemaining": 0, "isNearExpiration": False, "timeoutConfig": _config(timeoutMinutes=5)},
        ),
        on_every_call(_expired(5), but_delete=True),
        listing(userId="$user", gives={"sessions": [], "total": 0}),
        delete(success=True),
        get(fails=_NOT_FOUND),
    ),
    case(
        "a shorter life may be over already",
        timed(10),
        advance(5),
        renew(),
        advance(7),
        patch(maxDurationMinutes=10, gives={"expiresAt": At(10), "timeRemaining": 0}),
        get(fails=_expired(10)),
    ),
    case(
        "a change to this very instant expires",
        timed(60),
        advance(30),
        patch(timeoutMinutes=30, gives={"timeRemaining": 0}),
        get(fails=_expired(30)),
    ),
]

_ORDER = [
    case(
        "an unknown session comes before an invalid body",
        send(_UNKNOWN, content="", fails=Fails("SESSION_NOT_FOUND")),
        send(_UNKNOWN, metadata=_metadata_of(METADATA_LIMIT + 1), fails=Fails("SESSION_NOT_FOUND")),
        patch(_UNKNOWN, timeoutMinutes=1, fails=Fails("SESSION_NOT_FOUND")),
        messages(_UNKNOWN, pageToken="garbage", fails=Fails("SESSION_NOT_FOUND")),
    ),
    case(
        "an expired session comes before an invalid body",
        create(),
        advance(30),
        send(content="", fails=_expired(30)),
        send(metadata=_metadata_of(METADATA_LIMIT + 1), fails=_expired(30)),
        patch(timeoutMinutes=1, fails=_expired(30)),
        messages(pageToken="garbage", fails=_expired(30)),
    ),
    case(
        "so it does where the type is wrong",
        *(
            step
            for session, fails in ((_UNKNOWN, Fails("SESSION_NOT_FOUND")), ("not-a-uuid", Fails("SESSION_NOT_FOUND")))
            for step in (
                send(session, content=5, fails=fails),
                send(session, metadata=5, fails=fails),
                send(session, attachments=5, fails=fails),
                send(session, transport="pigeon", fails=fails),
                patch(session, timeoutMinutes="soon", fails=fails),
                patch(session, autoRenew="yes", fails=fails),
                messages(session, before="garbage", fails=fails),
            )
        ),
        create(),
        advance(30),
        send(content=5, fails=_expired(30)),
        patch(autoRenew="yes", fails=_expired(30)),
        messages(after="garbage", fails=_expired(30)),
        rest_only=_JSON_TYPES,
    ),
    case(
        "a body that does not parse comes before everything",
        *(
            Step(call, session, Text("{"), fails=Fails("INVALID_REQUEST"))
            for session in (_UNKNOWN, "not-a-uuid")
            for call in ("send", "renew", "update_timeout", "heartbeat")
        ),
        timed(30, maxDurationMinutes=30),
        Step("renew", given=Text("{"), fails=Fails("INVALID_REQUEST")),
        Step("renew", given=Text("[]"), fails=Fails("INVALID_REQUEST")),
        renew(fails=_renewal_failed(30)),
        advance(30),
        *(Step(call, given=Text("{"), fails=Fails("INVALID_REQUEST")) for call in ("send", "renew", "update_timeout", "heartbeat")),
        rest_only=_JSON_TEXT,
    ),
]

_LIST = [
    case(
        "the list has the active sessions of a user, the oldest first",
        create(save="one"),
        advance(1),
        create(save="two"),
        advance(1),
        create(save="three", metadata={"n": 3}),
        delete("$two"),
        listing(
            userId="$user",
            gives={
                "sessions": [
                    Some({"sessionId": "$one", "createdAt": At(), "timeRemaining": 28 * MINUTE}),
                    Some({"sessionId": "$three", "createdAt": At(2), "metadata": {"n": 3}}),
                ],
                "total": 2,
            },
        ),
        advance(28),
        listing(userId="$user", gives={"sessions": [Some({"sessionId": "$three"})], "total": 1}),
        advance(2),
        listing(userId="$user", gives={"sessions": [], "total": 0}),
    ),
    case(
        "the list counts everything stored",
        _PURGED,
        listing(gives={"sessions": [], "total": 0, "stats": {"totalSessions": 0, "activeSessions": 0, "expiredSessions": 0}}),
        health(activeSessions=0, expiringSoon=0, invalidSessions=0, status="healthy"),
        timed(5),
        timed(20),
        timed(30),
        create(userId=USER, timeoutConfig={"timeoutMinutes": 30}),
        advance(5),
        listing(userId="$user", gives={"total": 2, "stats": {"totalSessions": 4, "activeSessions": 3, "expiredSessions": 1}}),
        listing(gives={"total": 3, "stats": {"totalSessions": 4, "activeSessions": 3, "expiredSessions": 1}}),
        health(activeSessions=3, expiringSoon=0),
        advance(10),
        health(activeSessions=3, expiringSoon=1),
        advance(5),
        health(activeSessions=2, expiringSoon=0),
        advance(5, ms=-1),
        health(activeSessions=2, expiringSoon=0),
        advance(ms=1),
        health(activeSessions=2, expiringSoon=2, timestamp=ANYTHING),
        delete(),
        listing(gives={"total": 1, "stats": {"totalSessions": 3, "activeSessions": 1, "expiredSessions": 2}}),
    ),
    case(
        "filters are ids in either case",
        call("create_agent", {"name": "filter", "kind": "AGENT_KIND_ECHO"}, saves={"agent": "agentId"}),
        create(save="mine"),
        create(save="its", agentId="$agent"),
        listing(agentId="$agent", gives={"sessions": [Some({"sessionId": "$its", "agentId": "$agent"})], "total": 1}),
        listing(agentId=Upper("$agent"), userId=Upper("$user"), gives={"sessions": [Some({"sessionId": "$its"})], "total": 1}),
        listing(agentId=ECHO, userId="$user", gives={"sessions": [Some({"sessionId": "$mine"})], "total": 1}),
        listing(agentId="$agent", userId=_UNKNOWN, gives={"sessions": [], "total": 0}),
        listing(agentId="", userId="$user", gives={"total": 2}),
    ),
    case(
        "the list pages when asked",
        create(save="one"),
        create(save="two"),
        create(save="three"),
        listing(userId="$user", limit=3, gives={"sessions": Each(Some({"userId": "$user"})), "total": 3}),
        listing(
            userId="$user",
            limit=2,
            gives={"sessions": [ANYTHING, ANYTHING], "total": 3, "nextPageToken": TEXT},
            saves={"token": "nextPageToken", "first": "sessions.0.sessionId"},
        ),
        listing(
            userId="$user",
            limit=2,
            pageToken="$token",
            gives={"sessions": [Some({"userId": "$user"})], "total": 3},
            saves={"last": "sessions.0.sessionId"},
        ),
        delete("$last"),
        listing(userId="$user", limit=2, pageToken="$token", gives={"sessions": [], "total": 2}),
        listing(userId="$user", limit=1, gives={"sessions": [Some({"sessionId": "$first"})], "nextPageToken": TEXT}),
        listing(limit=2, pageToken="$token", fails=Fails("INVALID_PAGINATION", {"parameter": "pageToken", "value": ANYTHING})),
        listing(userId="$user", agentId=ECHO, pageToken="$token", fails=Fails("INVALID_PAGINATION", {"parameter": "pageToken"})),
        listing(pageToken="garbage", fails=Fails("INVALID_PAGINATION", {"parameter": "pageToken", "value": "garbage"})),
    ),
    case(
        "a limit of the list is clamped",
        create(),
        create(),
        listing(userId="$user", limit=0, gives={"sessions": [ANYTHING], "total": 2}),
        listing(userId="$user", limit=-1, gives={"sessions": [ANYTHING]}),
        listing(userId="$user", limit="1e99", gives={"sessions": [ANYTHING, ANYTHING]}),
        listing(userId="$user", limit="", gives={"sessions": [ANYTHING, ANYTHING]}),
        rest_only=_REST_PAGES,
    ),
    case(
        "a limit of the list is a number",
        listing(limit="many", fails=Fails("INVALID_PAGINATION", {"parameter": "limit", "value": "many"})),
        rest_only="gRPC's is typed",
    ),
    *(
        case(f"{field} of the list cannot be 'x'", listing(**{field: "x"}, fails=Fails("INVALID_UUID", {"field": field, "value": "x"})))
        for field in ("agentId", "userId")
    ),
    case("health says how the service is", advance(ms=1), health(status="healthy", invalidSessions=0, timestamp=At(ms=1), uptime=above(0))),
]

_AGENTS = [
    case(
        "an agent's settings come after the session's and before the service's",
        call(
            "create_agent",
            {
                "name": "precedence",
                "kind": "AGENT_KIND_ECHO",
                "timeoutConfig": {"timeoutMinutes": 10, "autoRenew": False, "warningThresholdMinutes": 2},
            },
            saves={"agent": "agentId"},
        ),
        create(
            agentId="$agent",
            gives={"timeoutConfig": _config(timeoutMinutes=10, autoRenew=False, warningThresholdMinutes=2), "expiresAt": At(10)},
        ),
        create(
            agentId="$agent",
            timeoutConfig={"timeoutMinutes": 20, "autoRenew": True},
            gives={"timeoutConfig": _config(timeoutMinutes=20, warningThresholdMinutes=2), "expiresAt": At(20)},
        ),
        send(gives={"authorId": "$user"}),
        settle(2),
        messages(gives={"messages": [Some({"authorId": "$agent", "isAgent": True}), ANYTHING]}),
    ),
    case(
        "an agent's maximum duration is its sessions'",
        call(
            "create_agent",
            {"name": "short", "kind": "AGENT_KIND_ECHO", "timeoutConfig": {"maxDurationMinutes": 40}},
            saves={"agent": "agentId"},
        ),
        create(agentId="$agent", gives={"timeoutConfig": _config(maxDurationMinutes=40)}),
        create(
            agentId="$agent",
            timeoutConfig={"timeoutMinutes": 50},
            gives={"timeoutConfig": _config(timeoutMinutes=50, maxDurationMinutes=50)},
        ),
        create(agentId="$agent", timeoutConfig={"maxDurationMinutes": 90}, gives={"timeoutConfig": _config(maxDurationMinutes=90)}),
    ),
    case(
        "changed settings of an agent are for the sessions to come",
        call(
            "create_agent",
            {"name": "changing", "kind": "AGENT_KIND_ECHO", "timeoutConfig": {"timeoutMinutes": 10}},
            saves={"agent": "agentId"},
        ),
        create(agentId="$agent"),
        call(
            "update_agent",
            {"agent": {"agentId": "$agent", "timeoutConfig": {"timeoutMinutes": 15}}, "paths": ["timeout_config.timeout_minutes"]},
        ),
        get(expiresAt=At(10)),
        create(agentId="$agent", gives={"expiresAt": At(15)}),
    ),
    case(
        "an agent that is removed leaves its sessions, without replies",
        call("create_agent", {"name": "leaving", "kind": "AGENT_KIND_ECHO"}, saves={"agent": "agentId"}),
        create(agentId="$agent"),
        send(content="before"),
        settle(2),
        call("delete_agent", {"agentId": "$agent"}),
        create(agentId="$agent", fails=Fails("AGENT_NOT_FOUND", {"agentId": "$agent"})),
        send(content="after"),
        get(agentId="$agent", renewalCount=2),
        renew(),
        messages(gives={"messages": _contents("after", "before", "before")}),
    ),
    case(
        "an agent is registered, read, changed and removed",
        call(
            "create_agent",
            {
                "name": "Ada",
                "kind": "AGENT_KIND_ECHO",
                "timeoutConfig": {"timeoutMinutes": 7.5, "autoRenew": False, "maxDurationMinutes": 60, "warningThresholdMinutes": 2},
            },
            gives={"agentId": UUID, "name": "Ada", "createdAt": At(), "updatedAt": At()},
            saves={"agent": "agentId"},
        ),
        call(
            "get_agent",
            {"agentId": "$agent"},
            gives={"timeoutConfig": {"timeoutMinutes": 7.5, "autoRenew": False, "maxDurationMinutes": 60, "warningThresholdMinutes": 2}},
        ),
        call("get_agent", {"agentId": Upper("$agent")}, gives={"agentId": "$agent"}),
        advance(1),
        call(
            "update_agent",
            {"agent": {"agentId": "$agent", "name": "Bob", "kind": "AGENT_KIND_ECHO"}, "paths": ["name"]},
            gives={"name": "Bob", "createdAt": At(), "updatedAt": At(1)},
        ),
        call(
            "update_agent",
            {"agent": {"agentId": "$agent", "timeoutConfig": {"timeoutMinutes": 9}}},
            gives={"name": "Bob", "timeoutConfig": Some({"timeoutMinutes": 9, "autoRenew": False})},
        ),
        call(
            "update_agent",
            {"agent": {"agentId": "$agent", "timeoutConfig": {"timeoutMinutes": 8}}, "paths": ["timeout_config.auto_renew"]},
            gives={"timeoutConfig": {"timeoutMinutes": 9, "maxDurationMinutes": 60, "warningThresholdMinutes": 2}},
        ),
        call("update_agent", {"agent": {"agentId": "$agent"}, "paths": ["timeout_config"]}, gives={"name": "Bob", "timeoutConfig": {}}),
        call(
            "update_agent",
            {"agent": {"agentId": "$agent", "name": "Cy", "kind": "AGENT_KIND_ECHO", "timeoutConfig": {"autoRenew": True}}, "paths": ["*"]},
            gives={"name": "Cy", "timeoutConfig": {"autoRenew": True}},
        ),
        call("update_agent", {"agent": {"agentId": "$agent"}}, gives={"name": "Cy"}),
        call("delete_agent", {"agentId": "$agent"}),
        call("get_agent", {"agentId": "$agent"}, fails=Fails("AGENT_NOT_FOUND", {"agentId": "$agent"})),
        call("update_agent", {"agent": {"agentId": "$agent", "name": "x"}}, fails=Fails("AGENT_NOT_FOUND", {"agentId": "$agent"})),
        call("delete_agent", {"agentId": "$agent"}, fails=Fails("AGENT_NOT_FOUND", {"agentId": "$agent"})),
        grpc_only=_NO_REST,
    ),
    case(
        "an agent may bring its id, which must be new",
        call("create_agent", {"agentId": Upper("$user"), "name": "own", "kind": "AGENT_KIND_ECHO"}, gives={"agentId": "$user"}),
        call(
            "create_agent",
            {"agentId": "$user", "name": "again", "kind": "AGENT_KIND_ECHO"},
            fails=Fails("AGENT_ALREADY_EXISTS", {"agentId": "$user"}),
        ),
        call("get_agent", {"agentId": "$user"}, gives={"name": "own"}),
        call(
            "create_agent",
            {"agentId": ECHO, "name": "echo", "kind": "AGENT_KIND_ECHO"},
            fails=Fails("AGENT_ALREADY_EXISTS", {"agentId": ECHO}),
        ),
        grpc_only=_NO_REST,
    ),
    case(
        "an agent that cannot be registered is refused",
        call("create_agent", {}, fails=Fails("MISSING_FIELDS", {"missingFields": ["name", "kind"]})),
        call("create_agent", {"kind": "AGENT_KIND_ECHO"}, fails=Fails("MISSING_FIELDS", {"missingFields": ["name"]})),
        call("create_agent", {"name": "x"}, fails=Fails("MISSING_FIELDS", {"missingFields": ["kind"]})),
        call("create_agent", {"name": "x", "kind": 77}, fails=Fails("INVALID_FIELD", {"field": "kind", "value": "77"})),
        call("create_agent", {"name": "x" * 101, "kind": 1}, fails=Fails("INVALID_FIELD", {"field": "name"})),
        call("create_agent", {"name": "a\nb", "kind": 1}, fails=Fails("INVALID_FIELD", {"field": "name"})),
        call("create_agent", {"agentId": "x", "name": "x", "kind": 1}, fails=Fails("INVALID_UUID", {"field": "agentId", "value": "x"})),
        *(
            call("create_agent", {"name": "x", "kind": 1, "timeoutConfig": {field: given}}, fails=_bad_timeout(field))
            for field, values in (
                ("timeoutMinutes", (4, 1441, "NaN", "Infinity")),
                ("maxDurationMinutes", (4, 2881, "NaN")),
                ("warningThresholdMinutes", (0.5, "Infinity", "NaN")),
            )
            for given in values
        ),
        call("create_agent", {"name": "x" * 100, "kind": 1}, gives={"name": "x" * 100}, saves={"agent": "agentId"}),
        call(
            "update_agent",
            {"agent": {"agentId": "$agent", "name": ""}, "paths": ["name"]},
            fails=Fails("MISSING_FIELDS", {"missingFields": ["name"]}),
        ),
        call("update_agent", {"agent": {"agentId": "$agent"}, "paths": ["agent_id"]}, fails=Fails("INVALID_FIELD", {"value": "agent_id"})),
        call(
            "update_agent",
            {"agent": {"agentId": "$agent"}, "paths": ["timeout_config.colour"]},
            fails=Fails("INVALID_FIELD", {"value": "timeout_config.colour"}),
        ),
        call(
            "update_agent", {"agent": {"agentId": "$agent"}, "paths": ["name.first"]}, fails=Fails("INVALID_FIELD", {"value": "name.first"})
        ),
        call(
            "update_agent", {"agent": {"agentId": "$agent", "timeoutConfig": {"timeoutMinutes": 1}}}, fails=_bad_timeout("timeoutMinutes")
        ),
        call("get_agent", {"agentId": "$agent"}, gives={"name": "x" * 100, "timeoutConfig": {}}),
        call("get_agent", {"agentId": "not-a-uuid"}, fails=Fails("AGENT_NOT_FOUND", {"agentId": "not-a-uuid"})),
        grpc_only=_NO_REST,
    ),
    case(
        "the list of agents pages in order of registration",
        advance(1),
        call("create_agent", {"name": "last but one", "kind": 1}, saves={"one": "agentId"}),
        advance(1),
        call("create_agent", {"name": "last", "kind": 1}, saves={"two": "agentId"}),
        call(
            "list_agents",
            {"limit": 1000},
            gives={
                "agents": Is(
                    "echo first, ours last",
                    lambda agents: [agents[0]["agentId"], agents[-2]["name"], agents[-1]["name"]] == [ECHO, "last but one", "last"],
                )
            },
        ),
        call(
            "list_agents",
            {"limit": 1},
            gives={"agents": [Some({"agentId": ECHO})], "nextPageToken": TEXT},
            saves={"token": "nextPageToken"},
        ),
        call(
            "list_agents",
            {"limit": 1, "pageToken": "$token"},
            gives={"agents": [Some({"agentId": Is("another", lambda value: value != ECHO)})]},
        ),
        call("list_agents", {"pageToken": "garbage"}, fails=Fails("INVALID_PAGINATION", {"parameter": "pageToken", "value": "garbage"})),
        listing(pageToken="$token", fails=Fails("INVALID_PAGINATION", {"parameter": "pageToken"})),
        grpc_only=_NO_REST,
    ),
]

_HOOK = {"url": "https://agent.example/hook?x=1", "secret": "env:AGENT_SECRET_TEST"}
_NOWHERE = Maybe(Is("absent", lambda _: False))
_PRIVATE_HOSTS = (
    *("localhost", "LOCALHOST.", "a.localhost", "127.0.0.1", "10.1.2.3", "192.168.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0"),
    *("[::1]", "[::]", "[fe80::1]", "[fd00::1]", "[::ffff:127.0.0.1]", "[::ffff:a9fe:a9fe]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]"),
)


def _changed(paths: list[str] | None = None, *, gives: Any = None, fails: Fails | None = None, **fields: Any) -> Step:
    """Changes the case's agent."""
    mask = {} if paths is None else {"paths": paths}
    return call("update_agent", {"agent": {"agentId": "$agent", **fields}, **mask}, gives=gives, fails=fails)


_SETTINGS = [
    case(
        "a webhook is registered, read and changed",
        agent_of("WEBHOOK", webhook=_HOOK),
        call("get_agent", {"agentId": "$agent"}, gives={"kind": "AGENT_KIND_WEBHOOK", "webhook": {**_HOOK, "timeoutSeconds": 60}}),
        _changed(
            ["webhook.url"],
            webhook={"url": "http://b.example"},
            gives={"webhook": Some({"url": "http://b.example", "secret": _HOOK["secret"]})},
        ),
        _changed(
            webhook={"timeoutSeconds": 0.5 + 1, "historyMessages": 100},
            gives={"webhook": {"url": "http://b.example", "secret": _HOOK["secret"], "timeoutSeconds": 1.5, "historyMessages": 100}},
        ),
        _changed(
            ["webhook.timeout_seconds", "webhook.history_messages"],
            gives={"webhook": {"url": "http://b.example", "secret": _HOOK["secret"], "timeoutSeconds": 60}},
        ),
        _changed(["webhook"], webhook=_HOOK, gives={"webhook": {**_HOOK, "timeoutSeconds": 60}}),
        _changed(["webhook.secret"], fails=Fails("MISSING_FIELDS", {"missingFields": ["webhook.secret"]})),
        _changed(["webhook"], fails=Fails("MISSING_FIELDS", {"missingFields": ["webhook"]})),
        _changed(
            ["webhook"], webhook={"historyMessages": 1}, fails=Fails("MISSING_FIELDS", {"missingFields": ["webhook.url", "webhook.secret"]})
        ),
        _changed(["webhook.colour"], fails=Fails("INVALID_FIELD", {"field": "updateMask", "value": "webhook.colour"})),
        _changed(["kind"], kind="AGENT_KIND_OPENAI", fails=Fails("MISSING_FIELDS", {"missingFields": ["openai"]})),
        _changed(["openai.model"], openai={"model": "m"}, fails=Fails("MISSING_FIELDS", {"missingFields": ["webhook"]})),
        call("get_agent", {"agentId": "$agent"}, gives={"webhook": {**_HOOK, "timeoutSeconds": 60}, "openai": _NOWHERE}),
        grpc_only=_NO_REST,
    ),
    case(
        "an endpoint of chat completions is registered, read and changed",
        agent_of("OPENAI", openai={"model": "m"}),
        call(
            "get_agent",
            {"agentId": "$agent"},
            gives={
                "kind": "AGENT_KIND_OPENAI",
                "openai": {
                    "model": "m",
                    "baseUrl": "https://api.openai.com/v1",
                    "historyMessages": 20,
                    "historyCharacters": 20_000,
                    "timeoutSeconds": 120,
                },
            },
        ),
        _changed(
            openai={"temperature": 0, "topP": 0.5, "maxTokens": 7, "apiKey": "env:AGENT_SECRET_TEST", "systemPrompt": "Be brief."},
            gives={
                "openai": Some(
                    {"temperature": 0, "topP": 0.5, "maxTokens": 7, "apiKey": "env:AGENT_SECRET_TEST", "systemPrompt": "Be brief."}
                )
            },
        ),
        _changed(["openai.temperature"], openai={"temperature": 1.5}, gives={"openai": Some({"temperature": 1.5, "topP": 0.5})}),
        _changed(["openai.temperature"], openai={"topP": 1}, gives={"openai": Some({"temperature": _NOWHERE, "topP": 0.5})}),
        _changed(["openai.api_key"], gives={"openai": Some({"apiKey": _NOWHERE, "maxTokens": 7})}),
        _changed(["openai.model"], fails=Fails("MISSING_FIELDS", {"missingFields": ["openai.model"]})),
        _changed(["openai.temperature"], openai={"temperature": 2.5}, fails=Fails("INVALID_FIELD", {"field": "openai.temperature"})),
        _changed(openai={"topP": "NaN"}, fails=Fails("INVALID_FIELD", {"field": "openai.topP"})),
        _changed(
            ["*"],
            name="new",
            kind="AGENT_KIND_OPENAI",
            openai={"model": "m2"},
            gives={"name": "new", "openai": Some({"model": "m2", "topP": _NOWHERE, "systemPrompt": _NOWHERE, "timeoutSeconds": 120})},
        ),
        grpc_only=_NO_REST,
    ),
    case(
        "with another kind the settings of the old one go",
        agent_of("WEBHOOK", webhook=_HOOK),
        _changed(kind="AGENT_KIND_OPENAI", openai={"model": "m"}, gives={"webhook": _NOWHERE, "openai": Some({"model": "m"})}),
        _changed(["kind"], kind="AGENT_KIND_OPENAI", gives={"openai": Some({"model": "m"})}),
        _changed(["kind"], kind="AGENT_KIND_STREAM", gives={"kind": "AGENT_KIND_STREAM", "webhook": _NOWHERE, "openai": _NOWHERE}),
        _changed(["kind"], kind="AGENT_KIND_OPENAI", fails=Fails("MISSING_FIELDS", {"missingFields": ["openai"]})),
        _changed(["kind", "webhook"], kind="AGENT_KIND_WEBHOOK", webhook=_HOOK, gives={"webhook": Some(_HOOK)}),
        _changed(["*"], name="x", kind="AGENT_KIND_ECHO", gives={"kind": "AGENT_KIND_ECHO", "webhook": _NOWHERE, "openai": _NOWHERE}),
        _changed(webhook=_HOOK, fails=Fails("INVALID_FIELD", {"field": "webhook"})),
        _changed(["openai.model"], openai={"model": "m"}, fails=Fails("INVALID_FIELD", {"field": "openai"})),
        call("get_agent", {"agentId": "$agent"}, gives={"kind": "AGENT_KIND_ECHO", "webhook": _NOWHERE, "openai": _NOWHERE}),
        grpc_only=_NO_REST,
    ),
    *(
        case(
            f"an agent of the kind {kind} with {given} is refused",
            call("create_agent", {"name": "x", "kind": f"AGENT_KIND_{kind}", **given}, fails=Fails(code, details)),
            grpc_only=_NO_REST,
        )
        for kind, given, code, details in (
            ("WEBHOOK", {}, "MISSING_FIELDS", {"missingFields": ["webhook"]}),
            ("OPENAI", {}, "MISSING_FIELDS", {"missingFields": ["openai"]}),
            ("WEBHOOK", {"webhook": {}}, "MISSING_FIELDS", {"missingFields": ["webhook.url", "webhook.secret"]}),
            ("OPENAI", {"openai": {}}, "MISSING_FIELDS", {"missingFields": ["openai.model"]}),
            ("WEBHOOK", {"openai": {"model": "m"}}, "MISSING_FIELDS", {"missingFields": ["webhook"]}),
            ("ECHO", {"webhook": _HOOK}, "INVALID_FIELD", {"field": "webhook"}),
            ("STREAM", {"openai": {"model": "m"}}, "INVALID_FIELD", {"field": "openai"}),
            ("WEBHOOK", {"webhook": {**_HOOK, "url": "ftp://a"}}, "INVALID_FIELD", {"field": "webhook.url", "value": "ftp://a"}),
            ("WEBHOOK", {"webhook": {**_HOOK, "url": "https://u:p@a"}}, "INVALID_FIELD", {"field": "webhook.url", "value": ""}),
            ("WEBHOOK", {"webhook": {**_HOOK, "secret": "whsec_abc"}}, "INVALID_FIELD", {"field": "webhook.secret", "value": ""}),
            (
                "WEBHOOK",
                {"webhook": {**_HOOK, "timeoutSeconds": 0.5}},
                "INVALID_FIELD",
                {"field": "webhook.timeoutSeconds", "value": "0.5"},
            ),
            ("WEBHOOK", {"webhook": {**_HOOK, "historyMessages": 101}}, "INVALID_FIELD", {"field": "webhook.historyMessages"}),
            ("OPENAI", {"openai": {"model": "m", "apiKey": "sk-abc"}}, "INVALID_FIELD", {"field": "openai.apiKey", "value": ""}),
            ("OPENAI", {"openai": {"model": "m", "maxTokens": 0}}, "INVALID_FIELD", {"field": "openai.maxTokens", "value": "0"}),
            *(
                (
                    "WEBHOOK",
                    {"webhook": {**_HOOK, "secret": reference}},
                    "INVALID_FIELD",
                    {"field": "webhook.secret", "value": reference, "reason": Is(why, lambda text, why=why: why in text)},
                )
                for reference, why in (
                    ("env:AGENT_SECRET_ABSENT", "not set or empty"),
                    ("env:PATH", "AGENT_SECRETS does not allow"),
                    ("file:/etc/passwd", "AGENT_SECRETS does not allow"),
                )
            ),
        )
    ),
    case(
        "no agent may be registered at an address of the inside",
        *(
            call(
                "create_agent",
                {"name": "x", "kind": f"AGENT_KIND_{kind.upper()}", kind: {**given, field: f"http://{host}:8080/x"}},
                fails=Fails(
                    "INVALID_FIELD", {"field": f"{kind}.{field}", "reason": Is("of the setting", lambda text: "ALLOWED_HOSTS" in text)}
                ),
            )
            for host in _PRIVATE_HOSTS
            for kind, field, given in (("webhook", "url", _HOOK), ("openai", "baseUrl", {"model": "m"}))
        ),
        agent_of("WEBHOOK", webhook=_HOOK),
        _changed(["webhook.url"], webhook={"url": "http://127.0.0.1/"}, fails=Fails("INVALID_FIELD", {"field": "webhook.url"})),
        call("get_agent", {"agentId": "$agent"}, gives={"webhook": Some(_HOOK)}),
        grpc_only=_NO_REST,
    ),
]


def _says(content: str, **fields: Any) -> dict[str, Any]:
    """A worker's reply to the delivery that it got last."""
    return {"reply": {"reply": {"content": content, **fields}}}


def _reply_to(given: dict[str, Any], *, gives: Any = None, fails: Fails | None = None) -> Step:
    return call("reply", given, gives=gives, fails=fails)


_ID = DeliveryId("$sid")
_LATE = {"deliveryId": _ID, "reply": {"content": "late"}}
_STALE = Fails("DELIVERY_ALREADY_ANSWERED", {"deliveryId": _ID})

_DELIVERIES = [
    case(
        "a message waits for a worker, who answers it",
        agent_of(),
        create(agentId="$agent", metadata={"plan": "pro", "n": 0}),
        send(metadata={"n": 1}),
        connect(
            "delivery",
            {"chunk": {"chunk": "Hi "}},
            {"chunk": {"chunk": "you"}},
            _says("Hi you", metadata={"k": [1, None]}, attachments=[{"url": "x"}], thought="hm", actions=["WAVE"]),
            "accepted",
            tells=[
                told("welcome", agent=Some({"agentId": "$agent", "kind": "AGENT_KIND_STREAM"})),
                told(
                    "delivery",
                    deliveryId=_ID,
                    attempt=1,
                    session=Some({"sessionId": "$sid", "userId": "$user", "metadata": {"plan": "pro", "n": 0}}),
                    message=Some({"content": "Hello", "authorId": "$user", "metadata": {"plan": "pro", "n": 1, "sessionId": "$sid"}}),
                    history=[],
                    leaseExpiresAt=At(2),
                ),
                told("accepted", deliveryId=_ID),
            ],
        ),
        messages(
            gives={
                "messages": [Some({"content": "Hi you", "isAgent": True, "authorId": "$agent", "attachments": [{"url": "x"}]}), ANYTHING]
            }
        ),
        _reply_to(_LATE, fails=_STALE),
    ),
    case(
        "a worker is shown as much of the conversation as it wants, each reply behind what it answers",
        agent_of(),
        create(agentId="$agent"),
        *(send(content=content) for content in ("a", "b", "c")),
        connect(
            *("delivery", _says("A"), "accepted", "delivery", _says("B"), "accepted", "delivery"),
            historyMessages=3,
            tells=[
                ANYTHING,
                told("delivery", deliveryId=DeliveryId("$sid", 1), message=Some({"content": "a"}), history=[]),
                ANYTHING,
                told("delivery", deliveryId=DeliveryId("$sid", 2), message=Some({"content": "b"}), history=_contents("a", "A")),
                ANYTHING,
                told("delivery", deliveryId=DeliveryId("$sid", 3), message=Some({"content": "c"}), history=_contents("A", "b", "B")),
            ],
        ),
        grpc_only=_NO_REST,
    ),
    case(
        "a session's messages go out one at a time, those of other sessions beside them",
        agent_of(),
        create(save="one", agentId="$agent"),
        create(save="two", agentId="$agent"),
        *(send(session, content=content) for session, content in (("$one", "a"), ("$one", "b"), ("$two", "x"))),
        connect(
            *("delivery", "delivery", {"reply": {"deliveryId": DeliveryId("$one"), "reply": {"content": "A"}}}, "accepted", "delivery"),
            maxDeliveries=10,
            tells=[
                ANYTHING,
                *[told("delivery", message=Some({"content": Is("a first message", {"a", "x"}.__contains__)}))] * 2,
                told("accepted", deliveryId=DeliveryId("$one")),
                told("delivery", deliveryId=DeliveryId("$one", 2), message=Some({"content": "b"})),
            ],
        ),
        grpc_only=_NO_REST,
    ),
    case(
        "what a worker cannot answer now is given again",
        agent_of(),
        create(agentId="$agent"),
        send(),
        connect(
            *("delivery", {"failure": {"reason": "busy"}}, "delivery", _says("now"), "accepted"),
            tells=[
                ANYTHING,
                told("delivery", deliveryId=_ID, attempt=1),
                told("delivery", deliveryId=_ID, attempt=2),
                told("accepted", deliveryId=_ID),
            ],
        ),
        grpc_only=_NO_REST,
    ),
    case(
        "a failure that is final is an entry of the log, and a late reply is stored all the same",
        agent_of(),
        create(agentId="$agent"),
        send(),
        connect("delivery", {"failure": {"reason": "no idea", "final": True}}),
        settle(2),
        Step(
            "watch",
            given={"after": 1, "entries": 1},
            gives={
                "entries": [
                    Some(
                        {
                            "event": "reply_failure",
                            "sequence": 2,
                            "failure": {"messageId": UUID, "messageSequence": 1, "reason": "no idea", "attempts": 1},
                        }
                    )
                ]
            },
        ),
        _reply_to(_LATE, gives={"content": "late", "answers": 1, "sequence": 3}),
        _reply_to(_LATE, fails=_STALE),
        messages(gives={"messages": [Some({"content": "late", "isAgent": True}), Some({"content": "Hello"})]}),
    ),
    case(
        "a reply without a stream",
        agent_of(),
        create(agentId="$agent", metadata={"a": 1}),
        send(),
        _reply_to(
            {
                "deliveryId": _ID,
                "reply": {"content": "Hi", "metadata": {"b": 2}, "attachments": [], "thought": "", "actions": ["X"]},
            },
            gives={
                "content": "Hi",
                "authorId": "$agent",
                "createdAt": At(ms=1),
                "metadata": {"a": 1, "b": 2, "sessionId": "$sid"},
                "attachments": [],
                "thought": "",
                "actions": ["X"],
                "sequence": 2,
                "answers": 1,
            },
        ),
        _reply_to(_LATE, fails=_STALE),
        get(renewalCount=1),
        messages(gives={"messages": [Some({"content": "Hi", "isAgent": True, "attachments": []}), ANYTHING]}),
    ),
    case(
        "a reply that comes by other means ends the worker's delivery",
        agent_of(),
        create(agentId="$agent"),
        send(),
        connect(
            *("delivery", {"posted": {"reply": {"content": "first"}}}, "revoked", _says("second"), "refused"),
            *({"chunk": {"chunk": "x"}}, "refused", {"failure": {"reason": "x"}}, "refused"),
            tells=[
                ANYTHING,
                told("delivery", deliveryId=_ID),
                told("revoked", deliveryId=_ID),
                refused("DELIVERY_ALREADY_ANSWERED", deliveryId=_ID, details={"deliveryId": _ID}),
                *[refused("DELIVERY_NOT_LEASED", deliveryId=_ID, details={"deliveryId": _ID})] * 2,
            ],
        ),
        messages(gives={"messages": _contents("first", "Hello")}),
    ),
    case(
        "a worker whose reply is refused may say something else",
        agent_of(),
        create(agentId="$agent"),
        send(),
        connect(
            "delivery",
            *(
                line
                for said in (
                    *(_says(content) for content in ("", "a\0b", "x" * 100_001)),
                    _says("x", thought="x" * 100_001),
                    _says("x", actions=["x"] * 101),
                    _says("x", actions=["x" * 1001]),
                    _says("x", metadata=_metadata_of(METADATA_LIMIT + 1)),
                    _says("x", metadata=_nested(31)),
                    {"reply": {}},
                    {"chunk": {"chunk": "x" * 100_001}},
                    {"failure": {"reason": "x" * 501}},
                    {"reply": {"deliveryId": "x", "reply": {"content": "x"}}},
                    {"reply": {"deliveryId": DeliveryId("$sid", 2), "reply": {"content": "x"}}},
                    {"chunk": {"deliveryId": "", "chunk": "x"}},
                    {"failure": {"deliveryId": "x"}},
                )
                for line in (said, "refused")
            ),
            {"reply": {"deliveryId": _ID, "reply": {"content": "x" * 100_000}}},
            "accepted",
            tells=[
                ANYTHING,
                ANYTHING,
                *[refused("INVALID_CONTENT", deliveryId=_ID)] * 6,
                *[refused("INVALID_METADATA", deliveryId=_ID)] * 2,
                refused("MISSING_FIELDS", deliveryId=_ID, details={"missingFields": ["reply"]}),
                *[refused("INVALID_CONTENT", deliveryId=_ID)] * 2,
                refused("DELIVERY_NOT_FOUND", deliveryId="x", details={"deliveryId": "x"}),
                refused("DELIVERY_NOT_FOUND", details={"deliveryId": DeliveryId("$sid", 2)}),
                refused("DELIVERY_NOT_LEASED", deliveryId=""),
                refused("DELIVERY_NOT_LEASED", deliveryId="x"),
                told("accepted", deliveryId=_ID),
            ],
        ),
        messages(gives={"messages": [Some({"content": "x" * 100_000, "isAgent": True}), ANYTHING]}),
    ),
    case(
        "another agent's delivery does not exist for a worker",
        agent_of(save="other"),
        agent_of(),
        create(agentId="$agent"),
        send(),
        connect(
            {"reply": _LATE},
            "refused",
            {"chunk": {"deliveryId": _ID, "chunk": "x"}},
            "refused",
            agent="$other",
            tells=[ANYTHING, refused("DELIVERY_NOT_FOUND", details={"deliveryId": _ID}), refused("DELIVERY_NOT_LEASED")],
        ),
        _reply_to(_LATE, gives={"content": "late"}),
        grpc_only=_NO_REST,
    ),
    case(
        "a session that has ended gets no replies",
        agent_of(),
        create(agentId="$agent"),
        send(),
        advance(30),
        _reply_to(_LATE, fails=_expired(30)),
        connect(
            {"reply": _LATE}, "refused", tells=[ANYTHING, refused("SESSION_EXPIRED", details={"sessionId": "$sid", "expiresAt": At(30)})]
        ),
        delete(),
        _reply_to(_LATE, fails=_NOT_FOUND),
        connect({"reply": _LATE}, "refused", tells=[ANYTHING, refused("SESSION_NOT_FOUND", details={"sessionId": "$sid"})]),
    ),
    case(
        "a reply that cannot be stored",
        agent_of(),
        create(agentId="$agent"),
        send(),
        _reply_to({}, fails=Fails("MISSING_FIELDS", {"missingFields": ["deliveryId", "reply"]})),
        _reply_to({"deliveryId": _ID}, fails=Fails("MISSING_FIELDS", {"missingFields": ["reply"]})),
        _reply_to({"reply": {"content": "x"}}, fails=Fails("MISSING_FIELDS", {"missingFields": ["deliveryId"]})),
        _reply_to({**_LATE, "deliveryId": "x"}, fails=Fails("DELIVERY_NOT_FOUND", {"deliveryId": "x"})),
        _reply_to({**_LATE, "deliveryId": DeliveryId("$sid", 2)}, fails=Fails("DELIVERY_NOT_FOUND", {"deliveryId": DeliveryId("$sid", 2)})),
        _reply_to({**_LATE, "deliveryId": f"{_UNKNOWN}-1"}, fails=Fails("SESSION_NOT_FOUND", {"sessionId": _UNKNOWN})),
        *(
            _reply_to({"deliveryId": _ID, "reply": reply}, fails=Fails(code))
            for reply, code in (
                ({}, "INVALID_CONTENT"),
                ({"content": "x" * 100_001}, "INVALID_CONTENT"),
                ({"content": "\0"}, "INVALID_CONTENT"),
                ({"content": "x", "thought": "x" * 100_001}, "INVALID_CONTENT"),
                ({"content": "x", "metadata": _metadata_of(METADATA_LIMIT + 1)}, "INVALID_METADATA"),
            )
        ),
        messages(gives={"messages": _contents("Hello")}),
        _reply_to(_LATE, gives={"content": "late"}),
        grpc_only=_NO_REST,
    ),
    case(
        "whom a worker cannot serve, and how",
        agent_of(),
        connect(agent=_UNKNOWN, fails=Fails("AGENT_NOT_FOUND", {"agentId": _UNKNOWN})),
        connect(agent="x", fails=Fails("AGENT_NOT_FOUND", {"agentId": "x"})),
        connect(agent="", fails=Fails("MISSING_FIELDS", {"missingFields": ["hello.agentId"]})),
        connect(agent=ECHO, fails=Fails("INVALID_FIELD", {"field": "hello.agentId", "value": ECHO})),
        *(
            connect(**{field: number}, fails=Fails("INVALID_FIELD", {"field": f"hello.{field}", "value": str(number)}))
            for field, numbers in (("maxDeliveries", (-1, 1001)), ("historyMessages", (-1, 101)))
            for number in numbers
        ),
        connect("welcome", maxDeliveries=1000, historyMessages=100, agent=Upper("$agent"), tells=[told("welcome")]),
        grpc_only=_NO_REST,
    ),
    case(
        "what waits for an agent follows a change of its kind",
        agent_of(),
        create(agentId="$agent"),
        send(),
        _changed(["kind"], kind="AGENT_KIND_ECHO", gives={"kind": "AGENT_KIND_ECHO"}),
        settle(2),
        messages(gives={"messages": [Some({"content": "Hello", "isAgent": True, "authorId": "$agent"}), ANYTHING]}),
    ),
]

_CLOCK = [
    case(
        "the test clock stands still until it is moved",
        call("clock", gives={"now": At()}),
        call("clock", gives={"now": At()}),
        call("advance", {"advanceMs": 1500}, gives={"now": At(ms=1500)}),
        call("advance", {"advanceMs": 0}, gives={"now": At(ms=1500)}),
        call("set_clock", {"now": At(2)}, gives={"now": At(2)}),
        call("clock", gives={"now": At(2)}),
    ),
    case(
        "the test clock stays within bounds",
        call("advance", {"advanceMs": -1}, fails=Fails("INVALID_FIELD", {"field": "advanceMs", "value": "-1"})),
        call("advance", {"advanceMs": 2**62}, fails=Fails("INVALID_FIELD", {"field": "advanceMs"})),
        call("set_clock", {"now": "9000-01-01T00:00:00.001Z"}, fails=Fails("INVALID_FIELD", {"field": "now"})),
        call("set_clock", {"now": "1969-12-31T23:59:59.999Z"}, fails=Fails("INVALID_FIELD", {"field": "now"})),
        call("clock", gives={"now": At()}),
    ),
    case(
        "the test clock cannot be set to nothing",
        call("set_clock", fails=Fails("MISSING_FIELDS", {"missingFields": ["now"]})),
        grpc_only="REST has one path for both",
    ),
    case(
        "the test clock is told one thing at a time, in its type",
        call("set_clock", {"x": 1}, fails=Fails("MISSING_FIELDS", {"missingFields": ["advanceMs", "now"]})),
        call("set_clock", {"now": At(1), "advanceMs": 1}, fails=Fails("INVALID_FIELD", {"field": "now"})),
        *(
            call("advance", {"advanceMs": given}, fails=Fails("INVALID_FIELD", {"field": "advanceMs"}))
            for given in ("5", 0.5, True, [], {}, 2**63, "x")
        ),
        *(
            call("set_clock", {"now": given}, fails=Fails("INVALID_FIELD", {"field": "now"}))
            for given in (5, True, "tomorrow", "", [], {}, "9999-99-99")
        ),
        call("advance", {"advanceMs": 1000.0, "now": None}, gives={"now": At(ms=1000)}),
        call("clock", gives={"now": At(ms=1000)}),
        rest_only=_JSON_TYPES,
    ),
]

_SESSIONS = "/api/messaging/sessions"
_JSON = "application/json"

_REQUESTS = [
    *(
        case(f"there is no path {path}", http("GET", path, fails=Fails("PATH_NOT_FOUND", {"path": shown})), rest_only=_PATHS)
        for path, shown in (
            ("/", "/"),
            ("/api", "/api"),
            ("/api/messaging", "/api/messaging"),
            ("/sessions", "/sessions"),
            (f"{_SESSIONS}/health/x", f"{_SESSIONS}/health/x"),
            (f"{_SESSIONS}/{USER}/colour", f"{_SESSIONS}/{USER}/colour"),
            ("/api/Messaging/sessions", "/api/Messaging/sessions"),
            ("/api/messaging/sessions2", "/api/messaging/sessions2"),
        )
    ),
    *(
        case(
            f"{path} does not have {method}",
            http(method, path, fails=Fails("METHOD_NOT_ALLOWED", {"method": method, "allowed": allowed})),
            rest_only=_PATHS,
        )
        for path, method, allowed in (
            (_SESSIONS, "DELETE", ["GET", "HEAD", "OPTIONS", "POST"]),
            (_SESSIONS, "PUT", ["GET", "HEAD", "OPTIONS", "POST"]),
            (f"{_SESSIONS}/health", "POST", ["GET", "HEAD", "OPTIONS"]),
            (f"{_SESSIONS}/health", "DELETE", ["GET", "HEAD", "OPTIONS"]),
            (f"{_SESSIONS}/{USER}", "POST", ["DELETE", "GET", "HEAD", "OPTIONS"]),
            (f"{_SESSIONS}/{USER}", "PATCH", ["DELETE", "GET", "HEAD", "OPTIONS"]),
            (f"{_SESSIONS}/{USER}/messages", "DELETE", ["GET", "HEAD", "OPTIONS", "POST"]),
            (f"{_SESSIONS}/{USER}/renew", "GET", ["OPTIONS", "POST"]),
            (f"{_SESSIONS}/{USER}/timeout", "POST", ["OPTIONS", "PATCH"]),
            (f"{_SESSIONS}/{USER}/heartbeat", "PUT", ["OPTIONS", "POST"]),
        )
    ),
    *(
        case(
            f"a body cannot be {kind or 'without a type'}",
            create(),
            http(
                "POST",
                f"{_SESSIONS}",
                data='{"agentId": 1}',
                fails=Fails("UNSUPPORTED_MEDIA_TYPE", {"contentType": kind}),
                Content_Type=kind,
            ),
            rest_only="gRPC has one encoding",
        )
        for kind in (
            "text/plain",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
            "application/json; charset=latin-1",
            "application/jsonp",
            "",
        )
    ),
    *(
        case(
            f"a body may be {kind}",
            http("POST", _SESSIONS, data="{}", fails=Fails("MISSING_FIELDS"), Content_Type=kind),
            rest_only="gRPC has one encoding",
        )
        for kind in (
            _JSON,
            "application/json; charset=utf-8",
            'Application/JSON; charset="UTF-8"',
            "application/problem+json",
            "application/json;x=y",
        )
    ),
    *(
        case(
            f"a body cannot be {body!r}",
            http("POST", _SESSIONS, data=body, fails=Fails("INVALID_REQUEST"), Content_Type=_JSON),
            rest_only=_JSON_TEXT,
        )
        for body in ("{", "[]", '"text"', "5", "null", "true", "{'a': 1}", "{} {}", " ", "NaN")
    ),
    case(
        "a body has room for 2 MiB",
        http("POST", _SESSIONS, data='{"x":"' + "x" * (2 * 1024 * 1024 - 8) + '"}', fails=Fails("MISSING_FIELDS"), Content_Type=_JSON),
        http(
            "POST",
            _SESSIONS,
            data='{"x":"' + "x" * (2 * 1024 * 1024 - 7) + '"}',
            fails=Fails("REQUEST_TOO_LARGE", {"maxBytes": 2 * 1024 * 1024}),
            Content_Type=_JSON,
        ),
        rest_only="gRPC has a limit of its own",
    ),
]

CASES: Final[tuple[Case, ...]] = (
    *_CREATE,
    *_READ,
    *_EXPIRY,
    *_SEND,
    *_HISTORY,
    *_RENEWAL,
    *_PATCH,
    *_ORDER,
    *_LIST,
    *_AGENTS,
    *_SETTINGS,
    *_DELIVERIES,
    *_CLOCK,
    *_REQUESTS,
)
"""All of them."""
