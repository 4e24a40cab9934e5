"""What the kinds of agents have for settings."""

from tests.contract.cases.common import NO_REST, changed
from tests.contract.shapes import Is, Maybe, Some
from tests.contract.steps import Fails, agent_of, call, case

_HOOK = {"url": "https://agent.example/hook?x=1", "secret": "env:AGENT_SECRET_TEST"}
_NOWHERE = Maybe(Is("absent", lambda _: False))
_PRIVATE_HOSTS = (
    *(
        "localhost",
        "LOCALHOST.",
        "a.localhost",
        "127.0.0.1",
        "10.1.2.3",
        "192.168.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
    ),
    *(
        "[::1]",
        "[::]",
        "[fe80::1]",
        "[fd00::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:a9fe:a9fe]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
    ),
)


CASES = [
    case(
        "a webhook is registered, read and changed",
        agent_of("WEBHOOK", webhook=_HOOK),
        call(
            "get_agent",
            {"agentId": "$agent"},
            gives={"kind": "AGENT_KIND_WEBHOOK", "webhook": {**_HOOK, "timeoutSeconds": 60}},
        ),
        changed(
            ["webhook.url"],
            webhook={"url": "http://b.example"},
            gives={"webhook": Some({"url": "http://b.example", "secret": _HOOK["secret"]})},
        ),
        changed(
            webhook={"timeoutSeconds": 0.5 + 1, "historyMessages": 100},
            gives={
                "webhook": {
                    "url": "http://b.example",
                    "secret": _HOOK["secret"],
                    "timeoutSeconds": 1.5,
                    "historyMessages": 100,
                }
            },
        ),
        changed(
            ["webhook.timeout_seconds", "webhook.history_messages"],
            gives={"webhook": {"url": "http://b.example", "secret": _HOOK["secret"], "timeoutSeconds": 60}},
        ),
        changed(["webhook"], webhook=_HOOK, gives={"webhook": {**_HOOK, "timeoutSeconds": 60}}),
        changed(["webhook.secret"], fails=Fails("MISSING_FIELDS", {"missingFields": ["webhook.secret"]})),
        changed(["webhook"], fails=Fails("MISSING_FIELDS", {"missingFields": ["webhook"]})),
        changed(
            ["webhook"],
            webhook={"historyMessages": 1},
            fails=Fails("MISSING_FIELDS", {"missingFields": ["webhook.url", "webhook.secret"]}),
        ),
        changed(
            ["webhook.colour"],
            fails=Fails("INVALID_FIELD", {"field": "updateMask", "value": "webhook.colour"}),
        ),
        changed(
            ["kind"], kind="AGENT_KIND_OPENAI", fails=Fails("MISSING_FIELDS", {"missingFields": ["openai"]})
        ),
        changed(
            ["openai.model"],
            openai={"model": "m"},
            fails=Fails("MISSING_FIELDS", {"missingFields": ["webhook"]}),
        ),
        call(
            "get_agent",
            {"agentId": "$agent"},
            gives={"webhook": {**_HOOK, "timeoutSeconds": 60}, "openai": _NOWHERE},
        ),
        grpc_only=NO_REST,
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
        changed(
            openai={
                "temperature": 0,
                "topP": 0.5,
                "maxTokens": 7,
                "apiKey": "env:AGENT_SECRET_TEST",
                "systemPrompt": "Be brief.",
            },
            gives={
                "openai": Some(
                    {
                        "temperature": 0,
                        "topP": 0.5,
                        "maxTokens": 7,
                        "apiKey": "env:AGENT_SECRET_TEST",
                        "systemPrompt": "Be brief.",
                    }
                )
            },
        ),
        changed(
            ["openai.temperature"],
            openai={"temperature": 1.5},
            gives={"openai": Some({"temperature": 1.5, "topP": 0.5})},
        ),
        changed(
            ["openai.temperature"],
            openai={"topP": 1},
            gives={"openai": Some({"temperature": _NOWHERE, "topP": 0.5})},
        ),
        changed(["openai.api_key"], gives={"openai": Some({"apiKey": _NOWHERE, "maxTokens": 7})}),
        changed(["openai.model"], fails=Fails("MISSING_FIELDS", {"missingFields": ["openai.model"]})),
        changed(
            ["openai.temperature"],
            openai={"temperature": 2.5},
            fails=Fails("INVALID_FIELD", {"field": "openai.temperature"}),
        ),
        changed(openai={"topP": "NaN"}, fails=Fails("INVALID_FIELD", {"field": "openai.topP"})),
        changed(
            ["*"],
            name="new",
            kind="AGENT_KIND_OPENAI",
            openai={"model": "m2"},
            gives={
                "name": "new",
                "openai": Some(
                    {"model": "m2", "topP": _NOWHERE, "systemPrompt": _NOWHERE, "timeoutSeconds": 120}
                ),
            },
        ),
        grpc_only=NO_REST,
    ),
    case(
        "with another kind the settings of the old one go",
        agent_of("WEBHOOK", webhook=_HOOK),
        changed(
            kind="AGENT_KIND_OPENAI",
            openai={"model": "m"},
            gives={"webhook": _NOWHERE, "openai": Some({"model": "m"})},
        ),
        changed(["kind"], kind="AGENT_KIND_OPENAI", gives={"openai": Some({"model": "m"})}),
        changed(
            ["kind"],
            kind="AGENT_KIND_STREAM",
            gives={"kind": "AGENT_KIND_STREAM", "webhook": _NOWHERE, "openai": _NOWHERE},
        ),
        changed(
            ["kind"], kind="AGENT_KIND_OPENAI", fails=Fails("MISSING_FIELDS", {"missingFields": ["openai"]})
        ),
        changed(
            ["kind", "webhook"], kind="AGENT_KIND_WEBHOOK", webhook=_HOOK, gives={"webhook": Some(_HOOK)}
        ),
        changed(
            ["*"],
            name="x",
            kind="AGENT_KIND_ECHO",
            gives={"kind": "AGENT_KIND_ECHO", "webhook": _NOWHERE, "openai": _NOWHERE},
        ),
        changed(webhook=_HOOK, fails=Fails("INVALID_FIELD", {"field": "webhook"})),
        changed(["openai.model"], openai={"model": "m"}, fails=Fails("INVALID_FIELD", {"field": "openai"})),
        call(
            "get_agent",
            {"agentId": "$agent"},
            gives={"kind": "AGENT_KIND_ECHO", "webhook": _NOWHERE, "openai": _NOWHERE},
        ),
        grpc_only=NO_REST,
    ),
    *(
        case(
            f"an agent of the kind {kind} with {given} is refused",
            call(
                "create_agent",
                {"name": "x", "kind": f"AGENT_KIND_{kind}", **given},
                fails=Fails(code, details),
            ),
            grpc_only=NO_REST,
        )
        for kind, given, code, details in (
            ("WEBHOOK", {}, "MISSING_FIELDS", {"missingFields": ["webhook"]}),
            ("OPENAI", {}, "MISSING_FIELDS", {"missingFields": ["openai"]}),
            (
                "WEBHOOK",
                {"webhook": {}},
                "MISSING_FIELDS",
                {"missingFields": ["webhook.url", "webhook.secret"]},
            ),
            ("OPENAI", {"openai": {}}, "MISSING_FIELDS", {"missingFields": ["openai.model"]}),
            ("WEBHOOK", {"openai": {"model": "m"}}, "MISSING_FIELDS", {"missingFields": ["webhook"]}),
            ("ECHO", {"webhook": _HOOK}, "INVALID_FIELD", {"field": "webhook"}),
            ("STREAM", {"openai": {"model": "m"}}, "INVALID_FIELD", {"field": "openai"}),
            (
                "WEBHOOK",
                {"webhook": {**_HOOK, "url": "ftp://a"}},
                "INVALID_FIELD",
                {"field": "webhook.url", "value": "ftp://a"},
            ),
            (
                "WEBHOOK",
                {"webhook": {**_HOOK, "url": "https://u:p@a"}},
                "INVALID_FIELD",
                {"field": "webhook.url", "value": ""},
            ),
            (
                "WEBHOOK",
                {"webhook": {**_HOOK, "secret": "whsec_abc"}},
                "INVALID_FIELD",
                {"field": "webhook.secret", "value": ""},
            ),
            (
                "WEBHOOK",
                {"webhook": {**_HOOK, "timeoutSeconds": 0.5}},
                "INVALID_FIELD",
                {"field": "webhook.timeoutSeconds", "value": "0.5"},
            ),
            (
                "WEBHOOK",
                {"webhook": {**_HOOK, "historyMessages": 101}},
                "INVALID_FIELD",
                {"field": "webhook.historyMessages"},
            ),
            (
                "OPENAI",
                {"openai": {"model": "m", "apiKey": "sk-abc"}},
                "INVALID_FIELD",
                {"field": "openai.apiKey", "value": ""},
            ),
            (
                "OPENAI",
                {"openai": {"model": "m", "maxTokens": 0}},
                "INVALID_FIELD",
                {"field": "openai.maxTokens", "value": "0"},
            ),
            *(
                (
                    "WEBHOOK",
                    {"webhook": {**_HOOK, "secret": reference}},
                    "INVALID_FIELD",
                    {
                        "field": "webhook.secret",
                        "value": reference,
                        "reason": Is(why, lambda text, why=why: why in text),
                    },
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
                {
                    "name": "x",
                    "kind": f"AGENT_KIND_{kind.upper()}",
                    kind: {**given, field: f"http://{host}:8080/x"},
                },
                fails=Fails(
                    "INVALID_FIELD",
                    {
                        "field": f"{kind}.{field}",
                        "reason": Is("of the setting", lambda text: "ALLOWED_HOSTS" in text),
                    },
                ),
            )
            for host in _PRIVATE_HOSTS
            for kind, field, given in (("webhook", "url", _HOOK), ("openai", "baseUrl", {"model": "m"}))
        ),
        agent_of("WEBHOOK", webhook=_HOOK),
        changed(
            ["webhook.url"],
            webhook={"url": "http://127.0.0.1/"},
            fails=Fails("INVALID_FIELD", {"field": "webhook.url"}),
        ),
        call("get_agent", {"agentId": "$agent"}, gives={"webhook": Some(_HOOK)}),
        grpc_only=NO_REST,
    ),
]
