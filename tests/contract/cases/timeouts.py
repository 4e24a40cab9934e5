"""Renewals, heartbeats and changes of the timeout."""

from tests.contract.cases.common import (
    GRPC_NUMBERS,
    JSON_NULL,
    JSON_TYPES,
    NOT_FOUND,
    bad_timeout,
    config,
    expired,
    renewal_failed,
)
from tests.contract.steps import (
    MINUTE,
    At,
    Fails,
    advance,
    case,
    create,
    delete,
    get,
    heartbeat,
    listing,
    messages,
    on_every_call,
    patch,
    renew,
    send,
    timed,
)

CASES = [
    case(
        "renewing by hand is activity and moves the expiry",
        create(),
        advance(10),
        renew(
            expiresAt=At(40),
            renewalCount=1,
            lastActivity=At(10),
            timeRemaining=30 * MINUTE,
            isNearExpiration=False,
        ),
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
        renew(fails=renewal_failed(45)),
        advance(10),
        renew(fails=renewal_failed(45)),
        get(expiresAt=At(45), renewalCount=1, lastActivity=At(20)),
        advance(15),
        renew(fails=expired(45)),
    ),
    case(
        "a life no longer than the timeout cannot be renewed",
        timed(30, maxDurationMinutes=30),
        renew(fails=renewal_failed(30)),
    ),
    case(
        "the maximum duration of an error may be a fraction",
        timed(30, maxDurationMinutes=30.5),
        advance(1),
        renew(),
        renew(fails=renewal_failed(30.5)),
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
    case(
        "a heartbeat and a renewal are not messages",
        create(),
        heartbeat(),
        renew(),
        messages(gives={"messages": []}),
    ),
    case(
        "a change names what it changes and keeps the rest",
        create(
            timeoutConfig={
                "timeoutMinutes": 40,
                "autoRenew": False,
                "maxDurationMinutes": 100,
                "warningThresholdMinutes": 3,
            }
        ),
        patch(
            timeoutMinutes=50,
            gives={
                "timeoutConfig": {
                    "timeoutMinutes": 50,
                    "autoRenew": False,
                    "maxDurationMinutes": 100,
                    "warningThresholdMinutes": 3,
                }
            },
        ),
        patch(
            autoRenew=True,
            gives={
                "timeoutConfig": {
                    "timeoutMinutes": 50,
                    "autoRenew": True,
                    "maxDurationMinutes": 100,
                    "warningThresholdMinutes": 3,
                }
            },
        ),
        patch(
            maxDurationMinutes=200,
            gives={
                "timeoutConfig": {
                    "timeoutMinutes": 50,
                    "autoRenew": True,
                    "maxDurationMinutes": 200,
                    "warningThresholdMinutes": 3,
                }
            },
        ),
        patch(
            warningThresholdMinutes=9.5,
            gives={
                "timeoutConfig": {
                    "timeoutMinutes": 50,
                    "autoRenew": True,
                    "maxDurationMinutes": 200,
                    "warningThresholdMinutes": 9.5,
                }
            },
        ),
        patch(
            gives={
                "timeoutConfig": {
                    "timeoutMinutes": 50,
                    "autoRenew": True,
                    "maxDurationMinutes": 200,
                    "warningThresholdMinutes": 9.5,
                }
            }
        ),
        get(
            timeoutConfig={
                "timeoutMinutes": 50,
                "autoRenew": True,
                "maxDurationMinutes": 200,
                "warningThresholdMinutes": 9.5,
            },
            expiresAt=At(50),
        ),
    ),
    case(
        "a change is no activity and no renewal",
        create(),
        advance(10),
        patch(
            timeoutMinutes=60,
            gives={
                "lastActivity": At(),
                "renewalCount": 0,
                "expiresAt": At(60),
                "timeRemaining": 50 * MINUTE,
            },
        ),
        get(lastActivity=At(), renewalCount=0, expiresAt=At(60)),
        messages(gives={"messages": []}),
    ),
    case(
        "a change that names nothing changes nothing",
        create(),
        advance(10),
        patch(gives={"expiresAt": At(30), "timeoutConfig": config()}),
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
        patch(
            timeoutMinutes=90,
            gives={"expiresAt": At(60), "timeoutConfig": config(timeoutMinutes=90, maxDurationMinutes=60)},
        ),
        renew(fails=renewal_failed(60)),
        patch(
            maxDurationMinutes=80,
            gives={"expiresAt": At(90), "timeoutConfig": config(timeoutMinutes=90, maxDurationMinutes=90)},
        ),
    ),
    *(
        case(
            f"maxDurationMinutes changed to {given} becomes {kept}",
            timed(60),
            patch(
                maxDurationMinutes=given,
                gives={"timeoutConfig": config(timeoutMinutes=60, maxDurationMinutes=kept)},
            ),
        )
        for given, kept in (
            (100, 100),
            (60, 60),
            (59, 60),
            (0, 60),
            (-1, 60),
            (2880, 2880),
            (2881, 2880),
            (1e300, 2880),
        )
    ),
    *(
        case(
            f"warningThresholdMinutes changed to {given} becomes {kept}",
            create(),
            patch(
                warningThresholdMinutes=given, gives={"timeoutConfig": config(warningThresholdMinutes=kept)}
            ),
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
            get(timeoutConfig=config(), expiresAt=At(30)),
        )
        for given, shown in ((4.999, "4.999"), (0, "0"), (-1, "-1"), (1440.001, "1440.001"), (1441, "1441"))
    ),
    *(
        case(
            f"timeoutMinutes cannot be changed to {given}",
            create(),
            patch(timeoutMinutes=given, fails=bad_timeout("timeoutMinutes")),
            grpc_only=GRPC_NUMBERS,
        )
        for given in ("NaN", "Infinity", "-Infinity")
    ),
    *(
        case(
            f"{field} cannot be changed to NaN",
            create(),
            patch(**{field: "NaN"}, fails=bad_timeout(field)),
            grpc_only=GRPC_NUMBERS,
        )
        for field in ("maxDurationMinutes", "warningThresholdMinutes")
    ),
    *(
        case(
            f"{field} cannot be changed to {given!r}",
            create(),
            patch(**{field: given}, fails=bad_timeout(field)),
            get(timeoutConfig=config()),
            rest_only=JSON_TYPES,
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
        patch(timeoutMinutes="3", fails=bad_timeout("timeoutMinutes")),
        rest_only=JSON_TYPES,
    ),
    case(
        "null changes nothing",
        create(),
        patch(
            timeoutMinutes=None,
            autoRenew=None,
            maxDurationMinutes=None,
            warningThresholdMinutes=None,
            gives={"timeoutConfig": config(), "expiresAt": At(30)},
        ),
        rest_only=JSON_NULL,
    ),
    case(
        "a change into the past is shown once and then the session is expired",
        timed(60),
        advance(30),
        patch(
            timeoutMinutes=5,
            gives={
                "expiresAt": At(5),
                "timeRemaining": 0,
                "isNearExpiration": False,
                "timeoutConfig": config(timeoutMinutes=5),
            },
        ),
        on_every_call(expired(5), but_delete=True),
        # Its total counts the session until its expiry is written, which may be a moment later.
        listing(userId="$user", gives={"sessions": []}),
        delete(success=True),
        get(fails=NOT_FOUND),
    ),
    case(
        "a shorter life may be over already",
        timed(10),
        advance(5),
        renew(),
        advance(7),
        patch(maxDurationMinutes=10, gives={"expiresAt": At(10), "timeRemaining": 0}),
        get(fails=expired(10)),
    ),
    case(
        "a change to this very instant expires",
        timed(60),
        advance(30),
        patch(timeoutMinutes=30, gives={"timeRemaining": 0}),
        get(fails=expired(30)),
    ),
]
