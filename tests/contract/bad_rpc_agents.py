"""Bad input over gRPC about agents: registrations, replies, workers, settings."""

from collections.abc import Iterator

from google.protobuf.struct_pb2 import ListValue, Struct, Value

from eliza.sessions.v1 import agent_service_pb2 as agents
from tests.contract.bad_pieces import ANY, FINE, SID, USER
from tests.contract.rpc_pieces import INFINITY, NAN, NUMBERS, STREAM, BadRpc, bad_rpc, struct_bytes, varint
from tests.support.service import ECHO


def bad_agents() -> Iterator[BadRpc]:
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
        yield bad_rpc(f"a mask of {path[:20]!r}", "UpdateAgent", request, "INVALID_FIELD")
    request = agents.UpdateAgentRequest(agent={"agent_id": ECHO}, update_mask={"paths": ["x"] * 30_000})
    yield bad_rpc("a mask of 30,000 paths", "UpdateAgent", request, "INVALID_FIELD")
    yield bad_rpc(
        "a mask without paths",
        "UpdateAgent",
        agents.UpdateAgentRequest(agent={"agent_id": ECHO}, update_mask={}),
        ANY,
    )
    for name in ("\0", "\n", "\u202e", "x" * 101, "x" * 100_000, "\u2028", "\ufeff"):
        yield bad_rpc(
            f"a name {name[:10]!r} of {len(name)}",
            "CreateAgent",
            agents.CreateAgentRequest(agent={"name": name, "kind": 1}),
            "INVALID_FIELD",
        )


def bad_replies() -> Iterator[BadRpc]:
    values = {"NaN": Value(number_value=NAN), "infinity": Value(number_value=INFINITY)}
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
        yield bad_rpc(
            f"a reply that is {name}",
            "Reply",
            agents.ReplyRequest(delivery_id=f"{SID}-1", reply=reply),
            outcome,
        )
        # What is wrong with a worker's answer does not end its stream: the driver of the cases sees that it
        # is refused.
        said = agents.ConnectRequest(reply={"delivery_id": f"{SID}-1", "reply": reply})
        yield bad_rpc(f"a reply that is {name}", "Connect", hello, FINE, said)
    for depth in (31, 33, 100, 8_000):
        struct = struct_bytes(depth)
        content = b"\x0a\x01x\x12" + varint(len(struct)) + struct
        said = b"\x0a\x26" + f"{SID}-1".encode() + b"\x12" + varint(len(content)) + content
        yield bad_rpc(f"metadata of {depth} levels", "Reply", said, "INVALID_METADATA")
        worker = b"\x1a" + varint(len(said)) + said
        yield bad_rpc(f"metadata of {depth} levels", "Connect", hello, FINE, worker)
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
        yield bad_rpc(f"a delivery that is {name}", "Reply", request, "DELIVERY_NOT_FOUND")
        for part in (
            {"reply": {"delivery_id": text, "reply": {"content": "x"}}},
            {"chunk": {"delivery_id": text}},
            {"failure": {"delivery_id": text}},
        ):
            yield bad_rpc(
                f"a {next(iter(part))} to a delivery that is {name}",
                "Connect",
                hello,
                FINE,
                agents.ConnectRequest(**part),
            )


def bad_workers() -> Iterator[BadRpc]:
    hello = agents.ConnectRequest(hello={"agent_id": STREAM})
    yield bad_rpc("a good hello", "Connect", hello, FINE)
    yield bad_rpc("hello twice", "Connect", hello, "MISSING_FIELDS", hello)
    yield bad_rpc("nothing after hello", "Connect", hello, "MISSING_FIELDS", b"")
    yield bad_rpc("what nobody knows after hello", "Connect", hello, "MISSING_FIELDS", b"\xc0\x3e\x05")
    for name, garbage in (
        ("random bytes", b"\xff" * 20),
        ("a hello that is not UTF-8", b"\x0a\x04\x0a\x02\xff\xfe"),
        ("half a varint", b"\x08\xff\xff"),
    ):
        yield bad_rpc(f"{name} after hello", "Connect", hello, "INVALID_REQUEST", garbage)
    yield bad_rpc(
        "the id of a delivery that is not UTF-8", "Connect", hello, FINE, b"\x1a\x04\x0a\x02\xff\xfe"
    )
    for part in (
        {"chunk": {"chunk": "x"}},
        {"reply": {"reply": {"content": "x"}}},
        {"failure": {"reason": "x"}},
    ):
        yield bad_rpc(
            f"a {next(iter(part))} before hello",
            "Connect",
            agents.ConnectRequest(**part),
            "MISSING_FIELDS",
            hello,
        )
    yield bad_rpc("a hello to nobody", "Connect", agents.ConnectRequest(hello={}), "MISSING_FIELDS")
    yield bad_rpc(
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
        yield bad_rpc(
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
            yield bad_rpc(f"{field} of {number}", "Connect", request, "INVALID_FIELD")


def bad_settings() -> Iterator[BadRpc]:
    hook = {"url": "https://a.example", "secret": "env:AGENT_SECRET_TEST"}
    for kind, head, field, fine in (
        (3, "webhook", "timeout_seconds", ()),
        (4, "openai", "timeout_seconds", ()),
        (4, "openai", "temperature", ("tiny", "minus zero")),
        (4, "openai", "top_p", ("tiny", "minus zero")),
    ):
        for name, number in NUMBERS.items():
            settings = {**(hook if head == "webhook" else {"model": "m"}), field: number}
            request = agents.CreateAgentRequest(agent={"name": "x", "kind": kind, head: settings})
            yield bad_rpc(
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
            yield bad_rpc(f"webhook.{field} {text[:25]!r}", "CreateAgent", request, "INVALID_FIELD")
    for path in ("webhook.", "openai.x", "webhook.url.x", "settings", "webhook.timeoutSeconds", "*.url"):
        request = agents.UpdateAgentRequest(
            agent={"agent_id": ECHO, "webhook": hook}, update_mask={"paths": [path]}
        )
        yield bad_rpc(f"a mask of {path!r}", "UpdateAgent", request, "INVALID_FIELD")
