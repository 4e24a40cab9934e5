"""Which error comes first, and lists of sessions."""

from server.version import VERSION
from tests.contract.cases.common import (
    JSON_TEXT,
    JSON_TYPES,
    METADATA_LIMIT,
    PURGED,
    REST_PAGES,
    expired,
    metadata_of,
    renewal_failed,
)
from tests.contract.shapes import ANYTHING, TEXT, Each, Some, above
from tests.contract.steps import (
    MINUTE,
    At,
    Fails,
    Step,
    Text,
    Upper,
    advance,
    call,
    case,
    create,
    delete,
    health,
    listing,
    messages,
    patch,
    renew,
    send,
    timed,
)
from tests.support.service import ECHO, UNKNOWN, USER

CASES = [
    case(
        "an unknown session comes before an invalid body",
        send(UNKNOWN, content="", fails=Fails("SESSION_NOT_FOUND")),
        send(UNKNOWN, metadata=metadata_of(METADATA_LIMIT + 1), fails=Fails("SESSION_NOT_FOUND")),
        patch(UNKNOWN, timeoutMinutes=1, fails=Fails("SESSION_NOT_FOUND")),
        messages(UNKNOWN, pageToken="garbage", fails=Fails("SESSION_NOT_FOUND")),
    ),
    case(
        "an expired session comes before an invalid body",
        create(),
        advance(30),
        send(content="", fails=expired(30)),
        send(metadata=metadata_of(METADATA_LIMIT + 1), fails=expired(30)),
        patch(timeoutMinutes=1, fails=expired(30)),
        messages(pageToken="garbage", fails=expired(30)),
    ),
    case(
        "so it does where the type is wrong",
        *(
            step
            for session, fails in (
                (UNKNOWN, Fails("SESSION_NOT_FOUND")),
                ("not-a-uuid", Fails("SESSION_NOT_FOUND")),
            )
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
        send(content=5, fails=expired(30)),
        patch(autoRenew="yes", fails=expired(30)),
        messages(after="garbage", fails=expired(30)),
        rest_only=JSON_TYPES,
    ),
    case(
        "a body that does not parse comes before everything",
        *(
            Step(call, session, Text("{"), fails=Fails("INVALID_REQUEST"))
            for session in (UNKNOWN, "not-a-uuid")
            for call in ("send", "renew", "update_timeout", "heartbeat")
        ),
        timed(30, maxDurationMinutes=30),
        Step("renew", given=Text("{"), fails=Fails("INVALID_REQUEST")),
        Step("renew", given=Text("[]"), fails=Fails("INVALID_REQUEST")),
        renew(fails=renewal_failed(30)),
        advance(30),
        *(
            Step(call, given=Text("{"), fails=Fails("INVALID_REQUEST"))
            for call in ("send", "renew", "update_timeout", "heartbeat")
        ),
        rest_only=JSON_TEXT,
    ),
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
        PURGED,
        listing(
            gives={
                "sessions": [],
                "total": 0,
                "stats": {"totalSessions": 0, "activeSessions": 0, "expiredSessions": 0},
            }
        ),
        health(activeSessions=0, expiringSoon=0, invalidSessions=0, status="healthy"),
        timed(5),
        timed(20),
        timed(30),
        create(userId=USER, timeoutConfig={"timeoutMinutes": 30}),
        advance(5),
        listing(
            userId="$user",
            gives={"total": 2, "stats": {"totalSessions": 4, "activeSessions": 3, "expiredSessions": 1}},
        ),
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
        listing(
            agentId="$agent",
            gives={"sessions": [Some({"sessionId": "$its", "agentId": "$agent"})], "total": 1},
        ),
        listing(
            agentId=Upper("$agent"),
            userId=Upper("$user"),
            gives={"sessions": [Some({"sessionId": "$its"})], "total": 1},
        ),
        listing(agentId=ECHO, userId="$user", gives={"sessions": [Some({"sessionId": "$mine"})], "total": 1}),
        listing(agentId="$agent", userId=UNKNOWN, gives={"sessions": [], "total": 0}),
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
        listing(
            userId="$user",
            limit=1,
            gives={"sessions": [Some({"sessionId": "$first"})], "nextPageToken": TEXT},
        ),
        listing(
            limit=2,
            pageToken="$token",
            fails=Fails("INVALID_PAGINATION", {"parameter": "pageToken", "value": ANYTHING}),
        ),
        listing(
            userId="$user",
            agentId=ECHO,
            pageToken="$token",
            fails=Fails("INVALID_PAGINATION", {"parameter": "pageToken"}),
        ),
        listing(
            pageToken="garbage",
            fails=Fails("INVALID_PAGINATION", {"parameter": "pageToken", "value": "garbage"}),
        ),
    ),
    case(
        "a limit of the list is clamped",
        create(),
        create(),
        listing(userId="$user", limit=0, gives={"sessions": [ANYTHING], "total": 2}),
        listing(userId="$user", limit=-1, gives={"sessions": [ANYTHING]}),
        listing(userId="$user", limit="1e99", gives={"sessions": [ANYTHING, ANYTHING]}),
        listing(userId="$user", limit="", gives={"sessions": [ANYTHING, ANYTHING]}),
        rest_only=REST_PAGES,
    ),
    case(
        "a limit of the list that is not a number counts as absent",
        create(),
        create(),
        *(
            listing(userId="$user", limit=value, gives={"sessions": [ANYTHING, ANYTHING]})
            for value in ("many", "x", "NaN")
        ),
        rest_only="gRPC's is typed",
    ),
    *(
        case(
            f"{field} of the list cannot be 'x'",
            listing(**{field: "x"}, fails=Fails("INVALID_UUID", {"field": field, "value": "x"})),
        )
        for field in ("agentId", "userId")
    ),
    case(
        "health says how the service is",
        advance(ms=1),
        health(status="healthy", invalidSessions=0, timestamp=At(ms=1), uptime=above(0), version=VERSION),
    ),
]
