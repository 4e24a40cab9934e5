"""Creating sessions."""

from tests.contract.cases.common import (
    ASTRAL,
    GRPC_NUMBERS,
    JSON_NULL,
    JSON_TEXT,
    JSON_TYPES,
    METADATA_LIMIT,
    bad_timeout,
    config,
    metadata_of,
)
from tests.contract.shapes import UUID, Is, Some
from tests.contract.steps import ABSENT, MINUTE, At, Fails, Step, Text, case, create, get, send, timed
from tests.support.service import ECHO, UNKNOWN, USER

CASES = [
    case(
        "a session that asks for nothing gets the defaults",
        create(
            gives={
                "createdAt": At(),
                "expiresAt": At(30),
                "agentId": ECHO,
                "userId": "$user",
                "metadata": {},
                "timeoutConfig": config(),
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
            timeoutConfig=config(),
        ),
    ),
    case(
        "what create answers is what is read later",
        Step(
            "create",
            "",
            {"agentId": ECHO, "userId": "$user", "metadata": {"a": 1}},
            saves={
                "sid": "sessionId",
                "channel": "channelId",
                "created": "createdAt",
                "expires": "expiresAt",
            },
        ),
        get(channelId="$channel", createdAt="$created", expiresAt="$expires", metadata={"a": 1}),
    ),
    case(
        "every session has ids of its own",
        Step(
            "create",
            "",
            {"agentId": ECHO, "userId": "$user"},
            saves={"one": "sessionId", "channel": "channelId"},
        ),
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
        create(
            agentId=ECHO.upper(),
            userId=USER.replace("1", "A"),
            gives={"agentId": ECHO, "userId": USER.replace("1", "a")},
        ),
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
            timed(
                given,
                gives={
                    "timeoutConfig": config(timeoutMinutes=kept, maxDurationMinutes=max(720, kept)),
                    "expiresAt": At(kept),
                },
            ),
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
        case(
            f"timeoutMinutes {given} becomes {kept}",
            timed(given, gives={"expiresAt": At(kept)}),
            grpc_only=GRPC_NUMBERS,
        )
        for given, kept in (("Infinity", 1440), ("-Infinity", 5))
    ),
    *(
        case(
            f"maxDurationMinutes {given} with a timeout of {timeout} becomes {kept}",
            timed(
                timeout,
                maxDurationMinutes=given,
                gives={"timeoutConfig": config(timeoutMinutes=timeout, maxDurationMinutes=kept)},
            ),
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
        timed(
            1000,
            gives={
                "timeoutConfig": config(timeoutMinutes=1000, maxDurationMinutes=1000),
                "expiresAt": At(1000),
            },
        ),
    ),
    *(
        case(
            f"warningThresholdMinutes {given} becomes {kept}",
            timed(
                warningThresholdMinutes=given, gives={"timeoutConfig": config(warningThresholdMinutes=kept)}
            ),
        )
        for given, kept in ((0, 1), (-5, 1), (0.5, 1), (1, 1), (2.5, 2.5), (60, 60))
    ),
    case("autoRenew false is kept", timed(autoRenew=False, gives={"timeoutConfig": config(autoRenew=False)})),
    case("autoRenew true is kept", timed(autoRenew=True, gives={"timeoutConfig": config()})),
    case("an empty timeoutConfig is none", timed(gives={"timeoutConfig": config()})),
    case(
        "null counts as absent",
        create(
            metadata=None,
            timeoutConfig={
                "timeoutMinutes": None,
                "autoRenew": None,
                "maxDurationMinutes": None,
                "warningThresholdMinutes": None,
            },
            gives={"metadata": {}, "timeoutConfig": config()},
        ),
        create(timeoutConfig=None, gives={"timeoutConfig": config()}),
        rest_only=JSON_NULL,
    ),
    case(
        "decimal strings are numbers",
        create(
            timeoutConfig={
                "timeoutMinutes": "45",
                "maxDurationMinutes": "100.5",
                "warningThresholdMinutes": "2",
            },
            gives={
                "timeoutConfig": config(
                    timeoutMinutes=45, maxDurationMinutes=100.5, warningThresholdMinutes=2
                ),
                "expiresAt": At(45),
            },
        ),
        create(timeoutConfig={"timeoutMinutes": "-7"}, gives={"expiresAt": At(5)}),
        rest_only=JSON_TYPES,
    ),
    case(
        "numbers written in other ways are the same numbers",
        Step(
            "create",
            "",
            Text(
                f'{{"agentId":"{ECHO}","userId":"{USER}","timeoutConfig":{{"timeoutMinutes":3e1,"maxDurationMinutes":60.0}}}}'
            ),
            {"timeoutConfig": config(timeoutMinutes=30, maxDurationMinutes=60)},
        ),
        rest_only=JSON_TEXT,
    ),
    case(
        "fields that nobody knows are ignored",
        create(colour="blue", timeoutConfig={"colour": 1}),
        rest_only="stubs cannot send them",
    ),
    *(
        case(
            f"{field} cannot be {given!r}",
            create(timeoutConfig={field: given}, fails=bad_timeout(field)),
            rest_only=JSON_TYPES,
        )
        for field in ("timeoutMinutes", "maxDurationMinutes", "warningThresholdMinutes")
        for given in ("soon", "", "NaN", "Infinity", "0x10", "12 minutes", True, False, [], [5], {})
    ),
    *(
        case(
            f"autoRenew cannot be {given!r}",
            create(timeoutConfig={"autoRenew": given}, fails=bad_timeout("autoRenew")),
            rest_only=JSON_TYPES,
        )
        for given in ("true", "", 0, 1, [], {})
    ),
    *(
        case(
            f"timeoutConfig cannot be {given!r}",
            create(timeoutConfig=given, fails=bad_timeout("timeoutConfig")),
            rest_only=JSON_TYPES,
        )
        for given in ("x", 5, True, [], [{}])
    ),
    *(
        case(
            f"{field} cannot be NaN",
            create(timeoutConfig={field: "NaN"}, fails=bad_timeout(field)),
            grpc_only=GRPC_NUMBERS,
        )
        for field in ("timeoutMinutes", "maxDurationMinutes", "warningThresholdMinutes")
    ),
    *(
        case(
            f"missing fields: {how}",
            create(**given, fails=Fails("MISSING_FIELDS", {"missingFields": missing})),
        )
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
        create(
            agentId=None, userId=None, fails=Fails("MISSING_FIELDS", {"missingFields": ["agentId", "userId"]})
        ),
        create(userId=None, fails=Fails("MISSING_FIELDS", {"missingFields": ["userId"]})),
        rest_only=JSON_NULL,
    ),
    case(
        "a body that is missing is an empty one",
        Step("create", "", fails=Fails("MISSING_FIELDS", {"missingFields": ["agentId", "userId"]})),
    ),
    *(
        case(
            f"{field} cannot be {given!r}",
            create(**{field: given}, fails=Fails("INVALID_UUID", {"field": field, "value": given})),
        )
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
            rest_only=JSON_TYPES,
        )
        for field in ("agentId", "userId")
        for given, shown in ((5, "5"), (True, "true"), ([USER], f'["{USER}"]'), ({}, "{}"))
    ),
    case(
        "an error repeats only the beginning of a long value",
        create(
            userId="u" * 5000,
            fails=Fails(
                "INVALID_UUID", {"value": Is("at most 100 characters", lambda value: len(value) <= 100)}
            ),
        ),
    ),
    case(
        "an unknown agent is not found",
        create(agentId=UNKNOWN, fails=Fails("AGENT_NOT_FOUND", {"agentId": UNKNOWN})),
    ),
    case(
        "the agent of an error is told in lower case",
        create(agentId=UNKNOWN.upper(), fails=Fails("AGENT_NOT_FOUND", {"agentId": UNKNOWN})),
    ),
    case(
        "the body is judged before the agent is looked for",
        create(agentId=UNKNOWN, userId="x", fails=Fails("INVALID_UUID", {"field": "userId"})),
        create(agentId=UNKNOWN, metadata=metadata_of(METADATA_LIMIT + 1), fails=Fails("INVALID_METADATA")),
    ),
    *(
        case(
            f"metadata has room for {METADATA_LIMIT} bytes ({name})",
            create(
                metadata=metadata_of(METADATA_LIMIT, letter),
                gives={"metadata": metadata_of(METADATA_LIMIT, letter)},
            ),
            create(
                metadata=metadata_of(METADATA_LIMIT + 1, letter),
                fails=Fails("INVALID_METADATA", {"maxBytes": METADATA_LIMIT}),
            ),
            send(
                metadata=metadata_of(METADATA_LIMIT, letter),
                gives={"metadata": Some({"k": metadata_of(METADATA_LIMIT, letter)["k"]})},
            ),
            send(
                metadata=metadata_of(METADATA_LIMIT + 1, letter),
                fails=Fails("INVALID_METADATA", {"maxBytes": METADATA_LIMIT}),
            ),
        )
        for name, letter in (("ASCII", "x"), ("two bytes each", "é"), ("four bytes each", ASTRAL))
    ),
    case(
        "the size of metadata is that of compact JSON",
        Step(
            "create",
            "",
            Text(
                f'{{"agentId":"{ECHO}","userId":"{USER}","metadata":{{ "k" :  '
                f'"{"x" * (METADATA_LIMIT - 8)}"   }}}}'
            ),
            saves={"sid": "sessionId"},
        ),
        rest_only=JSON_TEXT,
    ),
    *(
        case(
            f"metadata cannot be {given!r}",
            create(metadata=given, fails=Fails("INVALID_METADATA", {"maxBytes": METADATA_LIMIT})),
            create(),
            send(metadata=given, fails=Fails("INVALID_METADATA", {"maxBytes": METADATA_LIMIT})),
            rest_only=JSON_TYPES,
        )
        for given in ("x", "", 5, 0, True, False, [], [{}])
    ),
]
