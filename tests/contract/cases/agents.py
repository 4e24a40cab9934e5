"""Agents, as they are registered."""

from tests.contract.cases.common import NO_REST, bad_timeout, config, contents
from tests.contract.shapes import ANYTHING, TEXT, UUID, Is, Some
from tests.contract.steps import (
    At,
    Fails,
    Upper,
    advance,
    call,
    case,
    create,
    get,
    listing,
    messages,
    renew,
    send,
    settle,
)
from tests.support.service import ECHO

CASES = [
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
            gives={
                "timeoutConfig": config(timeoutMinutes=10, autoRenew=False, warningThresholdMinutes=2),
                "expiresAt": At(10),
            },
        ),
        create(
            agentId="$agent",
            timeoutConfig={"timeoutMinutes": 20, "autoRenew": True},
            gives={
                "timeoutConfig": config(timeoutMinutes=20, warningThresholdMinutes=2),
                "expiresAt": At(20),
            },
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
        create(agentId="$agent", gives={"timeoutConfig": config(maxDurationMinutes=40)}),
        create(
            agentId="$agent",
            timeoutConfig={"timeoutMinutes": 50},
            gives={"timeoutConfig": config(timeoutMinutes=50, maxDurationMinutes=50)},
        ),
        create(
            agentId="$agent",
            timeoutConfig={"maxDurationMinutes": 90},
            gives={"timeoutConfig": config(maxDurationMinutes=90)},
        ),
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
            {
                "agent": {"agentId": "$agent", "timeoutConfig": {"timeoutMinutes": 15}},
                "paths": ["timeout_config.timeout_minutes"],
            },
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
        messages(gives={"messages": contents("after", "before", "before")}),
    ),
    case(
        "an agent is registered, read, changed and removed",
        call(
            "create_agent",
            {
                "name": "Ada",
                "kind": "AGENT_KIND_ECHO",
                "timeoutConfig": {
                    "timeoutMinutes": 7.5,
                    "autoRenew": False,
                    "maxDurationMinutes": 60,
                    "warningThresholdMinutes": 2,
                },
            },
            gives={"agentId": UUID, "name": "Ada", "createdAt": At(), "updatedAt": At()},
            saves={"agent": "agentId"},
        ),
        call(
            "get_agent",
            {"agentId": "$agent"},
            gives={
                "timeoutConfig": {
                    "timeoutMinutes": 7.5,
                    "autoRenew": False,
                    "maxDurationMinutes": 60,
                    "warningThresholdMinutes": 2,
                }
            },
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
            {
                "agent": {"agentId": "$agent", "timeoutConfig": {"timeoutMinutes": 8}},
                "paths": ["timeout_config.auto_renew"],
            },
            gives={
                "timeoutConfig": {"timeoutMinutes": 9, "maxDurationMinutes": 60, "warningThresholdMinutes": 2}
            },
        ),
        call(
            "update_agent",
            {"agent": {"agentId": "$agent"}, "paths": ["timeout_config"]},
            gives={"name": "Bob", "timeoutConfig": {}},
        ),
        call(
            "update_agent",
            {
                "agent": {
                    "agentId": "$agent",
                    "name": "Cy",
                    "kind": "AGENT_KIND_ECHO",
                    "timeoutConfig": {"autoRenew": True},
                },
                "paths": ["*"],
            },
            gives={"name": "Cy", "timeoutConfig": {"autoRenew": True}},
        ),
        call("update_agent", {"agent": {"agentId": "$agent"}}, gives={"name": "Cy"}),
        call("delete_agent", {"agentId": "$agent"}),
        call("get_agent", {"agentId": "$agent"}, fails=Fails("AGENT_NOT_FOUND", {"agentId": "$agent"})),
        call(
            "update_agent",
            {"agent": {"agentId": "$agent", "name": "x"}},
            fails=Fails("AGENT_NOT_FOUND", {"agentId": "$agent"}),
        ),
        call("delete_agent", {"agentId": "$agent"}, fails=Fails("AGENT_NOT_FOUND", {"agentId": "$agent"})),
        grpc_only=NO_REST,
    ),
    case(
        "an agent may bring its id, which must be new",
        call(
            "create_agent",
            {"agentId": Upper("$user"), "name": "own", "kind": "AGENT_KIND_ECHO"},
            gives={"agentId": "$user"},
        ),
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
        grpc_only=NO_REST,
    ),
    case(
        "an agent that cannot be registered is refused",
        call("create_agent", {}, fails=Fails("MISSING_FIELDS", {"missingFields": ["name", "kind"]})),
        call(
            "create_agent",
            {"kind": "AGENT_KIND_ECHO"},
            fails=Fails("MISSING_FIELDS", {"missingFields": ["name"]}),
        ),
        call("create_agent", {"name": "x"}, fails=Fails("MISSING_FIELDS", {"missingFields": ["kind"]})),
        call(
            "create_agent",
            {"name": "x", "kind": 77},
            fails=Fails("INVALID_FIELD", {"field": "kind", "value": "77"}),
        ),
        call("create_agent", {"name": "x" * 101, "kind": 1}, fails=Fails("INVALID_FIELD", {"field": "name"})),
        call("create_agent", {"name": "a\nb", "kind": 1}, fails=Fails("INVALID_FIELD", {"field": "name"})),
        call(
            "create_agent",
            {"agentId": "x", "name": "x", "kind": 1},
            fails=Fails("INVALID_UUID", {"field": "agentId", "value": "x"}),
        ),
        *(
            call(
                "create_agent",
                {"name": "x", "kind": 1, "timeoutConfig": {field: given}},
                fails=bad_timeout(field),
            )
            for field, values in (
                ("timeoutMinutes", (4, 1441, "NaN", "Infinity")),
                ("maxDurationMinutes", (4, 2881, "NaN")),
                ("warningThresholdMinutes", (0.5, "Infinity", "NaN")),
            )
            for given in values
        ),
        call(
            "create_agent",
            {"name": "x" * 100, "kind": 1},
            gives={"name": "x" * 100},
            saves={"agent": "agentId"},
        ),
        call(
            "update_agent",
            {"agent": {"agentId": "$agent", "name": ""}, "paths": ["name"]},
            fails=Fails("MISSING_FIELDS", {"missingFields": ["name"]}),
        ),
        call(
            "update_agent",
            {"agent": {"agentId": "$agent"}, "paths": ["agent_id"]},
            fails=Fails("INVALID_FIELD", {"value": "agent_id"}),
        ),
        call(
            "update_agent",
            {"agent": {"agentId": "$agent"}, "paths": ["timeout_config.colour"]},
            fails=Fails("INVALID_FIELD", {"value": "timeout_config.colour"}),
        ),
        call(
            "update_agent",
            {"agent": {"agentId": "$agent"}, "paths": ["name.first"]},
            fails=Fails("INVALID_FIELD", {"value": "name.first"}),
        ),
        call(
            "update_agent",
            {"agent": {"agentId": "$agent", "timeoutConfig": {"timeoutMinutes": 1}}},
            fails=bad_timeout("timeoutMinutes"),
        ),
        call("get_agent", {"agentId": "$agent"}, gives={"name": "x" * 100, "timeoutConfig": {}}),
        call(
            "get_agent", {"agentId": "not-a-uuid"}, fails=Fails("AGENT_NOT_FOUND", {"agentId": "not-a-uuid"})
        ),
        grpc_only=NO_REST,
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
                    lambda agents: (
                        [agents[0]["agentId"], agents[-2]["name"], agents[-1]["name"]]
                        == [ECHO, "last but one", "last"]
                    ),
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
        call(
            "list_agents",
            {"pageToken": "garbage"},
            fails=Fails("INVALID_PAGINATION", {"parameter": "pageToken", "value": "garbage"}),
        ),
        listing(pageToken="$token", fails=Fails("INVALID_PAGINATION", {"parameter": "pageToken"})),
        grpc_only=NO_REST,
    ),
]
