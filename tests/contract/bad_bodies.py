"""Bad bodies: malformed JSON, wrong values, too deep, too large, said twice, empty."""

import gzip
import json
from collections.abc import Iterator
from typing import Final

from tests.contract.bad_pieces import (
    ANY,
    BODIES,
    FINE,
    HUGE,
    JSON,
    LIMIT,
    SESSIONS,
    SID,
    USER,
    Bad,
    post,
)
from tests.contract.raw_http import request
from tests.support.service import ECHO


def create_body(**fields: str) -> str:
    """A create's body whose fields are JSON texts."""
    texts = {"agentId": json.dumps(ECHO), "userId": json.dumps(USER), **fields}
    return "{" + ",".join(f"{json.dumps(name)}:{text}" for name, text in texts.items()) + "}"


def nested(depth: int, opening: str, closing: str) -> str:
    return opening * depth + closing * depth


_NOT_JSON: Final[dict[str, str | bytes]] = {
    "an opening brace": "{",
    "a closing brace": "}",
    "no value": '{"a":}',
    "no colon": '{"a" 1}',
    "no quotes": "{a:1}",
    "single quotes": "{'a':1}",
    "a comma too many": '{"a":1,}',
    "a comma too many in an array": '{"a":[1,]}',
    "no comma": '{"a":1 "b":2}',
    "a brace too many": "{}}",
    "two bodies": "{} {}",
    "something behind": "{}x",
    "a comment": "// hello\n{}",
    "a comment in between": '{/* hello */"a":1}',
    "a leading zero": '{"a":01}',
    "a plus": '{"a":+1}',
    "no digit before the point": '{"a":.5}',
    "no digit behind the point": '{"a":1.}',
    "hexadecimal": '{"a":0x1}',
    "an exponent without digits": '{"a":1e}',
    "NaN": '{"a":NaN}',
    "Infinity": '{"a":Infinity}',
    "-Infinity": '{"a":-Infinity}',
    "undefined": '{"a":undefined}',
    "True": '{"a":True}',
    "a control character": '{"a":"\x01"}',
    "a line break in a string": '{"a":"\n"}',
    "a bad escape": '{"a":"\\x"}',
    "half a unicode escape": '{"a":"\\u12"}',
    "an open string": '{"a":"',
    "an open array": '{"a":[1',
    "a number for a key": "{1:1}",
    "a byte that is not UTF-8": b'{"a":"\xff"}',
    "an overlong encoding": b'{"a":"\xc0\x80"}',
    "a surrogate in UTF-8": b'{"a":"\xed\xa0\x80"}',
    "half a character": b'{"a":"\xf0\x9f"}',
    "beyond Unicode": b'{"a":"\xf4\x90\x80\x80"}',
    "UTF-16": '{"a":1}'.encode("utf-16"),
    "UTF-32": '{"a":1}'.encode("utf-32"),
    "a BOM": b'\xef\xbb\xbf{"a":1}',
    "NULs": b"\0\0\0\0",
    "white space": " \r\n\t",
    "gzip that nobody claims": gzip.compress(b"{}"),
    "random bytes": bytes(range(256)),
    "XML": "<?xml version='1.0'?><a/>",
    "a form": "agentId=1&userId=2",
    "an array": "[]",
    "an array of objects": "[{}]",
    "a string": '"x"',
    "a number": "5",
    "a huge number": HUGE,
    "true": "true",
    "null": "null",
    "10,000 open arrays": "[" * 10_000,
    "100,000 open arrays": "[" * 100_000,
    "100,000 arrays": nested(100_000, "[", "]"),
    "100,000 objects": '{"a":' * 100_000 + "1" + "}" * 100_000,
    "10,000 open objects": '{"a":' * 10_000,
}


def malformed() -> Iterator[Bad]:
    for name, body in _NOT_JSON.items():
        yield post(name, "create", body, "INVALID_REQUEST")
    for operation in ("send", "patch", "renew", "heartbeat", "clock"):
        for name in (
            "an opening brace",
            "NaN",
            "a byte that is not UTF-8",
            "an array",
            "null",
            "100,000 arrays",
            "a BOM",
        ):
            yield post(name, operation, _NOT_JSON[name], "INVALID_REQUEST")


def bad_values() -> Iterator[Bad]:
    """Values of the wrong type or size in every field."""
    wrong = {
        "1e400": "1e400",
        "-1e400": "-1e400",
        "a huge integer": HUGE,
        "minus zero": "-0.0",
        "a number": "5",
        "true": "true",
        "false": "false",
        "an array": "[]",
        "an array of itself": "[[[[[]]]]]",
        "100 arrays": nested(100, "[", "]"),
        "10,000 arrays": nested(900, "[", "]"),
        "an object": '{"a":{}}',
    }
    texts = {
        "a NUL": '"\\u0000"',
        "a lone surrogate": '"\\ud800"',
        "an emoji": '"😀"',
        "100,000 characters": json.dumps("x" * 100_000),
        "path-like": '"../../etc/passwd"',
        "format-like": '"%s%n{0}$' + '{x}"',
    }
    for field in ("agentId", "userId"):
        for name, text in {**wrong, **texts}.items():
            yield post(f"{field} is {name}", "create", create_body(**{field: text}), "INVALID_UUID")
    for name, text in {**wrong, **texts}.items():
        if name != "an object":
            yield post(f"metadata is {name}", "create", create_body(metadata=text), "INVALID_METADATA")
            yield post(
                f"metadata is {name}", "send", f'{{"content":"x","metadata":{text}}}', "INVALID_METADATA"
            )
        yield post(
            f"timeoutConfig is {name}",
            "create",
            create_body(timeoutConfig=text),
            FINE if name == "an object" else "INVALID_TIMEOUT_CONFIG",
        )
        if name not in texts:
            yield post(f"content is {name}", "send", f'{{"content":{text}}}', "INVALID_CONTENT")
        if "array" not in name:
            yield post(
                f"attachments are {name}",
                "send",
                f'{{"content":"x","attachments":{text}}}',
                "INVALID_CONTENT",
            )
        yield post(f"transport is {name}", "send", f'{{"content":"x","transport":{text}}}', "INVALID_CONTENT")
        yield post(
            f"autoRenew is {name}",
            "patch",
            f'{{"autoRenew":{text}}}',
            FINE if name in ("true", "false") else "INVALID_TIMEOUT_CONFIG",
        )
    for field in ("timeoutMinutes", "maxDurationMinutes", "warningThresholdMinutes"):
        for name, text in {**wrong, **texts}.items():
            number = name in ("1e400", "-1e400", "a huge integer", "minus zero", "a number")
            yield post(
                f"{field} is {name}",
                "create",
                create_body(timeoutConfig=f'{{"{field}":{text}}}'),
                FINE if number else "INVALID_TIMEOUT_CONFIG",
            )
            bad = field == "timeoutMinutes" and name != "a number"
            yield post(
                f"{field} is {name}",
                "patch",
                f'{{"{field}":{text}}}',
                FINE if number and not bad else "INVALID_TIMEOUT_CONFIG",
            )
        for name, text in (
            ("digits of another script", "١٢"),
            ("NaN", "NaN"),
            ("a NUL behind", "5\\u0000"),
            ("an underscore", "1_0"),
            ("hex", "0x5"),
        ):
            yield post(
                f"{field} is text: {name}",
                "create",
                create_body(timeoutConfig=f'{{"{field}":"{text}"}}'),
                "INVALID_TIMEOUT_CONFIG",
            )
        yield post(
            f"{field} is 400 digits of text",
            "create",
            create_body(timeoutConfig=f'{{"{field}":"{HUGE}"}}'),
            FINE,
        )
        yield post(
            f"{field} is 400 digits of text",
            "patch",
            f'{{"{field}":"{HUGE}"}}',
            "INVALID_TIMEOUT_CONFIG" if field == "timeoutMinutes" else FINE,
        )


def depths_and_sizes() -> Iterator[Bad]:
    inside = {
        "1e400": ("1e400", "INVALID_METADATA"),
        "-1e400": ("-1e400", "INVALID_METADATA"),
        "a huge integer": (HUGE, "INVALID_METADATA"),
        "1e308": ("1e308", FINE),
        "5e-324": ("5e-324", FINE),
        "1e-400": ("1e-400", FINE),
        "2**63": (str(2**63), FINE),
        "2**64": (str(2**64), FINE),
        "-2**63 - 1": (str(-(2**63) - 1), FINE),
        "a lone surrogate": ('"\\udfff"', "INVALID_METADATA"),
        "a NUL": ('"\\u0000"', FINE),
        "100 arrays": (nested(100, "[", "]"), "INVALID_METADATA"),
        "900 objects": ('{"a":' * 900 + "1" + "}" * 900, "INVALID_METADATA"),
        "20 arrays": (nested(20, "[", "]"), FINE),
        "100 KB of text": (json.dumps("x" * 100_000), "INVALID_METADATA"),
        "100 KB of numbers": ("[" + ",".join(["1"] * 50_000) + "]", "INVALID_METADATA"),
        "1 MB of keys": (
            json.dumps({f"key{number}": number for number in range(60_000)}),
            "INVALID_METADATA",
        ),
    }
    for name, (text, outcome) in inside.items():
        yield post(f"metadata holds {name}", "create", create_body(metadata=f'{{"k":{text}}}'), outcome)
        yield post(f"metadata holds {name}", "send", f'{{"content":"x","metadata":{{"k":{text}}}}}', outcome)
        fits = FINE if name == "100 KB of text" else outcome.replace("METADATA", "CONTENT")
        yield post(f"attachments hold {name}", "send", f'{{"content":"x","attachments":[{text}]}}', fits)
    for name, key in (
        ("empty", ""),
        ("NUL", "\\u0000"),
        ("__proto__", "__proto__"),
        ("dotted", "a.b[0]"),
        ("1000 long", "k" * 1000),
        ("sessionId", "sessionId"),
    ):
        yield post(
            f"metadata has a key that is {name}", "send", f'{{"content":"x","metadata":{{"{key}":1}}}}', FINE
        )
    yield post(
        "metadata has a lone surrogate for a key",
        "send",
        '{"content":"x","metadata":{"\\ud800":1}}',
        "INVALID_METADATA",
    )
    yield post(
        "10,000 keys nobody knows",
        "create",
        create_body(**{f"key{number}": "1" for number in range(10_000)}),
        FINE,
    )
    yield post("1 MB of content", "send", json.dumps({"content": "x" * 1_000_000}), "INVALID_CONTENT")
    yield post("a NUL in content", "send", '{"content":"a\\u0000b"}', "INVALID_CONTENT")
    yield post("a lone surrogate in content", "send", '{"content":"a\\udc00b"}', "INVALID_CONTENT")
    yield post("surrogates the wrong way round", "send", '{"content":"\\ude00\\ud83d"}', "INVALID_CONTENT")


def duplicates() -> Iterator[Bad]:
    yield post("the same key twice, the last one good", "send", '{"content":5,"content":"x"}', ANY)
    yield post(
        "the same key twice, the last one bad", "send", '{"content":"x","content":5}', "INVALID_CONTENT"
    )
    yield post("the same user twice", "create", f'{{"agentId":"{ECHO}","userId":"x","userId":"{USER}"}}', ANY)
    yield post("the same key of metadata twice", "send", '{"content":"x","metadata":{"a":1,"a":2}}', FINE)
    yield post(
        "the same setting twice",
        "patch",
        '{"timeoutMinutes":30,"timeoutMinutes":1}',
        "INVALID_TIMEOUT_CONFIG",
    )


def clock() -> Iterator[Bad]:
    for text in (
        "-1",
        "0.5",
        '"5"',
        "1e400",
        HUGE,
        "true",
        "[]",
        "{}",
        str(2**63),
        str(2**63 - 1),
        '"\\ud800"',
    ):
        yield post(f"advanceMs is {text[:30]}", "clock", f'{{"advanceMs":{text}}}', "INVALID_FIELD")
    for text in (
        '"x"',
        '""',
        "5",
        "true",
        "[]",
        "{}",
        '"9999-12-31T23:59:59Z"',
        '"1969-01-01T00:00:00Z"',
        '"0001-01-01"',
        '"\\ud800"',
        '"\\u0000"',
        '"10000-01-01"',
        '"2026-01-01T00:00:00+99:99"',
        json.dumps("9" * 100_000),
    ):
        yield post(f"now is {text[:30]}", "clock", f'{{"now":{text}}}', "INVALID_FIELD")
    yield post("nothing", "clock", "{}", "MISSING_FIELDS")
    yield post("no body", "clock", "", "MISSING_FIELDS")
    yield post("nulls", "clock", '{"now":null,"advanceMs":null}', "MISSING_FIELDS")
    yield post("both", "clock", '{"now":"2026-01-01T00:00:00Z","advanceMs":1}', "INVALID_FIELD")


def empty() -> Iterator[Bad]:
    for operation, outcome in (
        ("create", "MISSING_FIELDS"),
        ("send", "INVALID_CONTENT"),
        ("patch", FINE),
        ("renew", FINE),
        ("heartbeat", FINE),
    ):
        yield post("an empty body", operation, "", outcome)
        yield post("an empty object", operation, "{}", outcome)
        method, path = BODIES[operation]
        yield Bad(f"{operation}: no body and no length", (request(method, path),), outcome, method)
    yield post("an empty body of no type", "create", "", "MISSING_FIELDS", ())
    for method in ("HEAD", "OPTIONS"):
        yield Bad(f"{method} with a body", (request(method, f"{SESSIONS}/{SID}", b"{", JSON),), FINE, method)
    yield Bad("GET with a broken body", (request("GET", f"{SESSIONS}/{SID}", b"{", JSON),), FINE)
    yield Bad(
        "GET with 2 MiB and more", (request("GET", f"{SESSIONS}/{SID}", b"x" * (LIMIT + 1), JSON),), ANY
    )
    yield Bad(
        "DELETE of nothing, with a broken body",
        (request("DELETE", f"{SESSIONS}/x", b"{", JSON),),
        "SESSION_NOT_FOUND INVALID_REQUEST",
        "DELETE",
    )
