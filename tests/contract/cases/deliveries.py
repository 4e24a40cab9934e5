"""Deliveries to agents that are connected."""

from typing import Any

from tests.contract.cases.common import (
    METADATA_LIMIT,
    NO_REST,
    NOT_FOUND,
    changed,
    contents,
    expired,
    metadata_of,
    nested,
)
from tests.contract.shapes import ANYTHING, UUID, Is, Some
from tests.contract.steps import (
    At,
    DeliveryId,
    Fails,
    Step,
    Upper,
    advance,
    agent_of,
    call,
    case,
    connect,
    create,
    delete,
    get,
    messages,
    refused,
    send,
    settle,
    told,
)
from tests.support.service import ECHO, UNKNOWN


def _says(content: str, **fields: Any) -> dict[str, Any]:
    """A worker's reply to the delivery that it got last."""
    return {"reply": {"reply": {"content": content, **fields}}}


def _reply_to(given: dict[str, Any], *, gives: Any = None, fails: Fails | None = None) -> Step:
    return call("reply", given, gives=gives, fails=fails)


_ID = DeliveryId("$sid")
_LATE = {"deliveryId": _ID, "reply": {"content": "late"}}
_STALE = Fails("DELIVERY_ALREADY_ANSWERED", {"deliveryId": _ID})

CASES = [
    case(
        "a message waits for a worker, who answers it",
        agent_of(),
        create(agentId="$agent", metadata={"plan": "pro", "n": 0}),
        send(metadata={"n": 1}),
        connect(
            "delivery",
            {"chunk": {"chunk": "Hi "}},
            {"chunk": {"chunk": "you"}},
            _says(
                "Hi you",
                metadata={"k": [1, None]},
                attachments=[{"url": "x"}],
                thought="hm",
                actions=["WAVE"],
            ),
            "accepted",
            tells=[
                told("welcome", agent=Some({"agentId": "$agent", "kind": "AGENT_KIND_STREAM"})),
                told(
                    "delivery",
                    deliveryId=_ID,
                    attempt=1,
                    session=Some(
                        {"sessionId": "$sid", "userId": "$user", "metadata": {"plan": "pro", "n": 0}}
                    ),
                    message=Some(
                        {
                            "content": "Hello",
                            "authorId": "$user",
                            "metadata": {"plan": "pro", "n": 1, "sessionId": "$sid"},
                        }
                    ),
                    history=[],
                    leaseExpiresAt=At(2),
                ),
                told("accepted", deliveryId=_ID),
            ],
        ),
        messages(
            gives={
                "messages": [
                    Some(
                        {
                            "content": "Hi you",
                            "isAgent": True,
                            "authorId": "$agent",
                            "attachments": [{"url": "x"}],
                        }
                    ),
                    ANYTHING,
                ]
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
                told(
                    "delivery", deliveryId=DeliveryId("$sid", 1), message=Some({"content": "a"}), history=[]
                ),
                ANYTHING,
                told(
                    "delivery",
                    deliveryId=DeliveryId("$sid", 2),
                    message=Some({"content": "b"}),
                    history=contents("a", "A"),
                ),
                ANYTHING,
                told(
                    "delivery",
                    deliveryId=DeliveryId("$sid", 3),
                    message=Some({"content": "c"}),
                    history=contents("A", "b", "B"),
                ),
            ],
        ),
        grpc_only=NO_REST,
    ),
    case(
        "a session's messages go out one at a time, those of other sessions beside them",
        agent_of(),
        create(save="one", agentId="$agent"),
        create(save="two", agentId="$agent"),
        *(
            send(session, content=content)
            for session, content in (("$one", "a"), ("$one", "b"), ("$two", "x"))
        ),
        connect(
            *(
                "delivery",
                "delivery",
                {"reply": {"deliveryId": DeliveryId("$one"), "reply": {"content": "A"}}},
                "accepted",
                "delivery",
            ),
            maxDeliveries=10,
            tells=[
                ANYTHING,
                *[told("delivery", message=Some({"content": Is("a first message", {"a", "x"}.__contains__)}))]
                * 2,
                told("accepted", deliveryId=DeliveryId("$one")),
                told("delivery", deliveryId=DeliveryId("$one", 2), message=Some({"content": "b"})),
            ],
        ),
        grpc_only=NO_REST,
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
        grpc_only=NO_REST,
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
                            "failure": {
                                "messageId": UUID,
                                "replyMessageId": UUID,
                                "messageSequence": 1,
                                "reason": "no idea",
                                "attempts": 1,
                            },
                        }
                    )
                ]
            },
        ),
        _reply_to(_LATE, gives={"content": "late", "answers": 1, "sequence": 3}),
        _reply_to(_LATE, fails=_STALE),
        messages(
            gives={"messages": [Some({"content": "late", "isAgent": True}), Some({"content": "Hello"})]}
        ),
    ),
    case(
        "a reply without a stream",
        agent_of(),
        create(agentId="$agent", metadata={"a": 1}),
        send(),
        _reply_to(
            {
                "deliveryId": _ID,
                "reply": {
                    "content": "Hi",
                    "metadata": {"b": 2},
                    "attachments": [],
                    "thought": "",
                    "actions": ["X"],
                },
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
        messages(gives={"messages": contents("first", "Hello")}),
    ),
    case(
        "a worker whose reply is refused may still give a late one",
        agent_of(),
        create(agentId="$agent"),
        send(),
        connect(
            "delivery",
            *(
                line
                for said in (
                    {"chunk": {"chunk": "x" * 100_001}},
                    *(_says(content) for content in ("", "x" * 100_001)),
                    _says("x", thought="x" * 100_001),
                    _says("x", actions=["x"] * 101),
                    _says("x", actions=["x" * 1001]),
                    _says("x", metadata=metadata_of(METADATA_LIMIT + 1)),
                    _says("x", metadata=nested(31)),
                    {"reply": {}},
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
                refused("INVALID_CONTENT", deliveryId=_ID),
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
            tells=[
                ANYTHING,
                refused("DELIVERY_NOT_FOUND", details={"deliveryId": _ID}),
                refused("DELIVERY_NOT_LEASED"),
            ],
        ),
        _reply_to(_LATE, gives={"content": "late"}),
        grpc_only=NO_REST,
    ),
    case(
        "a session that has ended gets no replies",
        agent_of(),
        create(agentId="$agent"),
        send(),
        advance(30),
        _reply_to(_LATE, fails=expired(30)),
        connect(
            {"reply": _LATE},
            "refused",
            tells=[ANYTHING, refused("SESSION_EXPIRED", details={"sessionId": "$sid", "expiresAt": At(30)})],
        ),
        delete(),
        _reply_to(_LATE, fails=NOT_FOUND),
        connect(
            {"reply": _LATE},
            "refused",
            tells=[ANYTHING, refused("SESSION_NOT_FOUND", details={"sessionId": "$sid"})],
        ),
    ),
    case(
        "a reply that cannot be stored",
        agent_of(),
        create(agentId="$agent"),
        send(),
        _reply_to({}, fails=Fails("MISSING_FIELDS", {"missingFields": ["deliveryId", "reply"]})),
        _reply_to({"deliveryId": _ID}, fails=Fails("MISSING_FIELDS", {"missingFields": ["reply"]})),
        _reply_to(
            {"reply": {"content": "x"}}, fails=Fails("MISSING_FIELDS", {"missingFields": ["deliveryId"]})
        ),
        _reply_to({**_LATE, "deliveryId": "x"}, fails=Fails("DELIVERY_NOT_FOUND", {"deliveryId": "x"})),
        _reply_to(
            {**_LATE, "deliveryId": DeliveryId("$sid", 2)},
            fails=Fails("DELIVERY_NOT_FOUND", {"deliveryId": DeliveryId("$sid", 2)}),
        ),
        _reply_to(
            {**_LATE, "deliveryId": f"{UNKNOWN}-1"}, fails=Fails("SESSION_NOT_FOUND", {"sessionId": UNKNOWN})
        ),
        *(
            _reply_to({"deliveryId": _ID, "reply": reply}, fails=Fails(code))
            for reply, code in (
                ({}, "INVALID_CONTENT"),
                ({"content": "x" * 100_001}, "INVALID_CONTENT"),
                ({"content": "\0"}, "INVALID_CONTENT"),
                ({"content": "x", "thought": "x" * 100_001}, "INVALID_CONTENT"),
                ({"content": "x", "metadata": metadata_of(METADATA_LIMIT + 1)}, "INVALID_METADATA"),
            )
        ),
        messages(gives={"messages": contents("Hello")}),
        _reply_to(_LATE, gives={"content": "late"}),
        grpc_only=NO_REST,
    ),
    case(
        "whom a worker cannot serve, and how",
        agent_of(),
        connect(agent=UNKNOWN, fails=Fails("AGENT_NOT_FOUND", {"agentId": UNKNOWN})),
        connect(agent="x", fails=Fails("AGENT_NOT_FOUND", {"agentId": "x"})),
        connect(agent="", fails=Fails("MISSING_FIELDS", {"missingFields": ["hello.agentId"]})),
        connect(agent=ECHO, fails=Fails("INVALID_FIELD", {"field": "hello.agentId", "value": ECHO})),
        *(
            connect(
                **{field: number},
                fails=Fails("INVALID_FIELD", {"field": f"hello.{field}", "value": str(number)}),
            )
            for field, numbers in (("maxDeliveries", (-1, 1001)), ("historyMessages", (-1, 101)))
            for number in numbers
        ),
        connect(
            "welcome", maxDeliveries=1000, historyMessages=100, agent=Upper("$agent"), tells=[told("welcome")]
        ),
        grpc_only=NO_REST,
    ),
    case(
        "what waits for an agent follows a change of its kind",
        agent_of(),
        create(agentId="$agent"),
        send(),
        changed(["kind"], kind="AGENT_KIND_ECHO", gives={"kind": "AGENT_KIND_ECHO"}),
        settle(2),
        messages(
            gives={"messages": [Some({"content": "Hello", "isAgent": True, "authorId": "$agent"}), ANYTHING]}
        ),
    ),
]
