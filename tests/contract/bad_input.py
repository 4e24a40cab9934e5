"""Bad input over REST, as data: what is sent, and what must come of it."""

import gzip
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from tests.contract.raw_http import request
from tests.support.service import ECHO

FINE: Final = "fine"
"""Odd, but the answer is a success."""
NO_ANSWER: Final = "no answer"
"""The request never ends, so there is nothing to answer."""
ANY: Final = "any"
"""Whether it is an error is not in the contract; it must not be a fault of the service."""

SID: Final = "5e551011-5e55-4e55-8e55-5e5510115e55"
USER: Final = "05e40000-05e4-4e05-8e05-05e405e405e4"
"""These stand for the ids of the session that each piece gets; they have the same length."""

SESSIONS: Final = "/api/messaging/sessions"
LIMIT: Final = 2 * 1024 * 1024
_JSON = (("Content-Type", "application/json"),)
_BODIES = {
    "create": ("POST", SESSIONS),
    "send": ("POST", f"{SESSIONS}/{SID}/messages"),
    "patch": ("PATCH", f"{SESSIONS}/{SID}/timeout"),
    "renew": ("POST", f"{SESSIONS}/{SID}/renew"),
    "heartbeat": ("POST", f"{SESSIONS}/{SID}/heartbeat"),
    "clock": ("POST", "/test/clock"),
}
_HUGE = "9" * 400


@dataclass(frozen=True)
class Bad:
    """A piece: its bytes, and the code (or the codes, of which one) of its error, or FINE,
    NO_ANSWER or ANY.
    """

    name: str
    pieces: tuple[bytes, ...]
    outcome: str
    method: str = "GET"
    half_close: bool = False


def _body(
    name: str, operation: str, body: str | bytes, outcome: str, headers: Iterable[tuple[str, str]] = _JSON
) -> Bad:
    method, path = _BODIES[operation]
    content = body if isinstance(body, bytes) else body.encode()
    return Bad(f"{operation}: {name}", (request(method, path, content, headers),), outcome, method)


def _get(path: str | bytes, outcome: str, headers: Iterable[tuple[str, str]] = (), name: str = "") -> Bad:
    return Bad(
        name or f"GET {path[:100]!r} of {len(path)}", (request("GET", path, headers=headers),), outcome
    )


def _create(**fields: str) -> str:
    """A create's body whose fields are JSON texts."""
    texts = {"agentId": json.dumps(ECHO), "userId": json.dumps(USER), **fields}
    return "{" + ",".join(f"{json.dumps(name)}:{text}" for name, text in texts.items()) + "}"


def _nested(depth: int, opening: str, closing: str) -> str:
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
    "a huge number": _HUGE,
    "true": "true",
    "null": "null",
    "10,000 open arrays": "[" * 10_000,
    "100,000 open arrays": "[" * 100_000,
    "100,000 arrays": _nested(100_000, "[", "]"),
    "100,000 objects": '{"a":' * 100_000 + "1" + "}" * 100_000,
    "10,000 open objects": '{"a":' * 10_000,
}


def _malformed() -> Iterator[Bad]:
    for name, body in _NOT_JSON.items():
        yield _body(name, "create", body, "INVALID_REQUEST")
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
            yield _body(name, operation, _NOT_JSON[name], "INVALID_REQUEST")


def _values() -> Iterator[Bad]:
    """Values of the wrong type or size in every field."""
    wrong = {
        "1e400": "1e400",
        "-1e400": "-1e400",
        "a huge integer": _HUGE,
        "minus zero": "-0.0",
        "a number": "5",
        "true": "true",
        "false": "false",
        "an array": "[]",
        "an array of itself": "[[[[[]]]]]",
        "100 arrays": _nested(100, "[", "]"),
        "10,000 arrays": _nested(900, "[", "]"),
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
            yield _body(f"{field} is {name}", "create", _create(**{field: text}), "INVALID_UUID")
    for name, text in {**wrong, **texts}.items():
        if name != "an object":
            yield _body(f"metadata is {name}", "create", _create(metadata=text), "INVALID_METADATA")
            yield _body(
                f"metadata is {name}", "send", f'{{"content":"x","metadata":{text}}}', "INVALID_METADATA"
            )
        yield _body(
            f"timeoutConfig is {name}",
            "create",
            _create(timeoutConfig=text),
            FINE if name == "an object" else "INVALID_TIMEOUT_CONFIG",
        )
        if name not in texts:
            yield _body(f"content is {name}", "send", f'{{"content":{text}}}', "INVALID_CONTENT")
        if "array" not in name:
            yield _body(
                f"attachments are {name}",
                "send",
                f'{{"content":"x","attachments":{text}}}',
                "INVALID_CONTENT",
            )
        yield _body(
            f"transport is {name}", "send", f'{{"content":"x","transport":{text}}}', "INVALID_CONTENT"
        )
        yield _body(
            f"autoRenew is {name}",
            "patch",
            f'{{"autoRenew":{text}}}',
            FINE if name in ("true", "false") else "INVALID_TIMEOUT_CONFIG",
        )
    for field in ("timeoutMinutes", "maxDurationMinutes", "warningThresholdMinutes"):
        for name, text in {**wrong, **texts}.items():
            number = name in ("1e400", "-1e400", "a huge integer", "minus zero", "a number")
            yield _body(
                f"{field} is {name}",
                "create",
                _create(timeoutConfig=f'{{"{field}":{text}}}'),
                FINE if number else "INVALID_TIMEOUT_CONFIG",
            )
            bad = field == "timeoutMinutes" and name != "a number"
            yield _body(
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
            yield _body(
                f"{field} is text: {name}",
                "create",
                _create(timeoutConfig=f'{{"{field}":"{text}"}}'),
                "INVALID_TIMEOUT_CONFIG",
            )
        yield _body(
            f"{field} is 400 digits of text",
            "create",
            _create(timeoutConfig=f'{{"{field}":"{_HUGE}"}}'),
            FINE,
        )
        yield _body(
            f"{field} is 400 digits of text",
            "patch",
            f'{{"{field}":"{_HUGE}"}}',
            "INVALID_TIMEOUT_CONFIG" if field == "timeoutMinutes" else FINE,
        )


def _depths_and_sizes() -> Iterator[Bad]:
    inside = {
        "1e400": ("1e400", "INVALID_METADATA"),
        "-1e400": ("-1e400", "INVALID_METADATA"),
        "a huge integer": (_HUGE, "INVALID_METADATA"),
        "1e308": ("1e308", FINE),
        "5e-324": ("5e-324", FINE),
        "1e-400": ("1e-400", FINE),
        "2**63": (str(2**63), FINE),
        "2**64": (str(2**64), FINE),
        "-2**63 - 1": (str(-(2**63) - 1), FINE),
        "a lone surrogate": ('"\\udfff"', "INVALID_METADATA"),
        "a NUL": ('"\\u0000"', FINE),
        "100 arrays": (_nested(100, "[", "]"), "INVALID_METADATA"),
        "900 objects": ('{"a":' * 900 + "1" + "}" * 900, "INVALID_METADATA"),
        "20 arrays": (_nested(20, "[", "]"), FINE),
        "100 KB of text": (json.dumps("x" * 100_000), "INVALID_METADATA"),
        "100 KB of numbers": ("[" + ",".join(["1"] * 50_000) + "]", "INVALID_METADATA"),
        "1 MB of keys": (
            json.dumps({f"key{number}": number for number in range(60_000)}),
            "INVALID_METADATA",
        ),
    }
    for name, (text, outcome) in inside.items():
        yield _body(f"metadata holds {name}", "create", _create(metadata=f'{{"k":{text}}}'), outcome)
        yield _body(f"metadata holds {name}", "send", f'{{"content":"x","metadata":{{"k":{text}}}}}', outcome)
        fits = FINE if name == "100 KB of text" else outcome.replace("METADATA", "CONTENT")
        yield _body(f"attachments hold {name}", "send", f'{{"content":"x","attachments":[{text}]}}', fits)
    for name, key in (
        ("empty", ""),
        ("NUL", "\\u0000"),
        ("__proto__", "__proto__"),
        ("dotted", "a.b[0]"),
        ("1000 long", "k" * 1000),
        ("sessionId", "sessionId"),
    ):
        yield _body(
            f"metadata has a key that is {name}", "send", f'{{"content":"x","metadata":{{"{key}":1}}}}', FINE
        )
    yield _body(
        "metadata has a lone surrogate for a key",
        "send",
        '{"content":"x","metadata":{"\\ud800":1}}',
        "INVALID_METADATA",
    )
    yield _body(
        "10,000 keys nobody knows",
        "create",
        _create(**{f"key{number}": "1" for number in range(10_000)}),
        FINE,
    )
    yield _body("1 MB of content", "send", json.dumps({"content": "x" * 1_000_000}), "INVALID_CONTENT")
    yield _body("a NUL in content", "send", '{"content":"a\\u0000b"}', "INVALID_CONTENT")
    yield _body("a lone surrogate in content", "send", '{"content":"a\\udc00b"}', "INVALID_CONTENT")
    yield _body("surrogates the wrong way round", "send", '{"content":"\\ude00\\ud83d"}', "INVALID_CONTENT")


def _duplicates() -> Iterator[Bad]:
    yield _body("the same key twice, the last one good", "send", '{"content":5,"content":"x"}', ANY)
    yield _body(
        "the same key twice, the last one bad", "send", '{"content":"x","content":5}', "INVALID_CONTENT"
    )
    yield _body(
        "the same user twice", "create", f'{{"agentId":"{ECHO}","userId":"x","userId":"{USER}"}}', ANY
    )
    yield _body("the same key of metadata twice", "send", '{"content":"x","metadata":{"a":1,"a":2}}', FINE)
    yield _body(
        "the same setting twice",
        "patch",
        '{"timeoutMinutes":30,"timeoutMinutes":1}',
        "INVALID_TIMEOUT_CONFIG",
    )


def _types() -> Iterator[Bad]:
    for kind in (
        "text/plain",
        "text/json",
        "application/xml",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "multipart/form-data",
        "application/octet-stream",
        "application/json; charset=utf-16",
        "application/json; charset=latin-1",
        "application/",
        "/",
        "json",
        "*/*",
        "application/json, text/plain",
        "x" * 10_000,
        "\xff\xfe",
        '"application/json"',
    ):
        yield _body(
            f"content type {kind[:40]!r}",
            "send",
            '{"content":"x"}',
            "UNSUPPORTED_MEDIA_TYPE",
            (("Content-Type", kind),),
        )
    yield _body(
        "a charset of no name",
        "send",
        '{"content":"x"}',
        ANY,
        (("Content-Type", "application/json; charset="),),
    )
    yield _body("no content type", "send", '{"content":"x"}', "UNSUPPORTED_MEDIA_TYPE", ())
    yield _body(
        "two content types",
        "send",
        '{"content":"x"}',
        "UNSUPPORTED_MEDIA_TYPE",
        (*_JSON, ("Content-Type", "text/plain")),
    )
    yield _body("no body and a strange type", "renew", "", FINE, (("Content-Type", "text/plain"),))
    for kind in (
        "APPLICATION/JSON",
        "application/json;",
        "application/json;charset=UTF8",
        " application/json ",
        "application/vnd.api+json",
    ):
        yield _body(f"content type {kind!r}", "send", '{"content":"x"}', FINE, (("Content-Type", kind),))
    refused = "INVALID_REQUEST UNSUPPORTED_MEDIA_TYPE"
    yield _body(
        "gzip that is claimed",
        "send",
        gzip.compress(b'{"content":"x"}'),
        refused,
        (*_JSON, ("Content-Encoding", "gzip")),
    )
    yield _body(
        "gzip that is claimed and is not",
        "send",
        '{"content":"x"}',
        ANY,
        (*_JSON, ("Content-Encoding", "gzip")),
    )


def _queries() -> Iterator[Bad]:
    history = f"{SESSIONS}/{SID}/messages"
    for parameter in ("before", "after"):
        for value in (
            "x",
            "NaN",
            "Infinity",
            "-Infinity",
            "1e400",
            _HUGE,
            f"-{_HUGE}",
            "2026-02-30T00:00:00Z",
            "0000-01-01",
            "99999-01-01T00:00:00Z",
            "%00",
            "%ff",
            "%ed%a0%80",
            "[]",
            "1;DROP",
            "0x10",
            "1_000",
            "%D9%A1",
        ):
            yield _get(f"{history}?{parameter}={value}", "INVALID_PAGINATION")
        for value in (
            "-1",
            "0",
            "-62135596800000",
            "253402300799999",
            "1.5",
            "+5",
            "%205%20",
            "",
            "0001-01-01T00:00:00Z",
            "2026-W01-1",
        ):
            yield _get(f"{history}?{parameter}={value}", FINE)
        yield _get(f"{history}?{parameter}=253402300800000", "INVALID_PAGINATION")
        yield _get(f"{history}?{parameter}=-62135596800001", "INVALID_PAGINATION")
    for value in ("x", "NaN", "-1", "0", _HUGE, "1e400", "-1e400", "%00", "%ff", "%zz", "%", "1.9", "[]", ""):
        yield _get(f"{history}?limit={value}", FINE)
    for value in ("x", "NaN", "Infinity", "%00", "%ff", "[]", "0x10", "-1", "0", _HUGE, "1e400", ""):
        yield _get(f"{SESSIONS}?limit={value}", FINE)
    for parameter in ("agentId", "userId"):
        for value in ("x", "%00", "%ff", "5", f"{USER}x", "%2e%2e%2f", "'%20OR%201=1"):
            yield _get(f"{SESSIONS}?{parameter}={value}", "INVALID_UUID")
    for token in (
        "x",
        "%00",
        "%ff",
        "AAAA",
        "WyJ4Il0",
        "W10",
        "bnVsbA",
        "WzEsMl0",
        "e30",
        "W1tdLFtdXQ",
        "W1sic2Vzc2lvbnMiLG51bGwsbnVsbF0sWyJ4IiwieSJdXQ",
        "W1sic2Vzc2lvbnMiLG51bGwsbnVsbF0sWzFdXQ",
        "x" * 10_000,
        "%F0%9F%98%80",
        "a=b",
        "=====",
    ):
        yield _get(f"{SESSIONS}?pageToken={token}", "INVALID_PAGINATION")
    for query in (
        "limit=1&limit=2",
        "before=5&after=9",
        "before=5&before=x",
        "?",
        "&&&&",
        "=",
        "=5",
        ";",
        "limit",
        "x=1&y=2",
        "a" * 30_000,
        "&".join(["a=1"] * 10_000),
        "limit[]=1",
        "limit%00=1",
        "%=%",
    ):
        yield _get(f"{history}?{query}", FINE)
    yield _get(f"{history}?{'a' * 1_000_000}", "INVALID_REQUEST", name="GET with a query of 1 MB")
    yield _get(
        f"{history}?before=".encode() + b"\xff\xfe",
        "INVALID_PAGINATION INVALID_REQUEST",
        name="GET with a query that is not UTF-8",
    )
    yield _get(
        f"{SESSIONS}?userId=".encode() + "é".encode(),
        "INVALID_UUID INVALID_REQUEST",
        name="GET with a query that is not ASCII",
    )


def _events() -> Iterator[Bad]:
    for value in ("x", "-1", "1.5", _HUGE, "%00", "%ff", "%D9%A1", str(2**63)):
        yield _get(f"{SESSIONS}/{SID}/events?after={value}", "INVALID_FIELD")
        if "%" not in value:
            yield _get(
                f"{SESSIONS}/{SID}/events",
                "INVALID_FIELD",
                (("Last-Event-ID", value),),
                f"GET of events after {value[:20]}",
            )
    for segment in ("x", "%00", "0"):
        yield _get(f"{SESSIONS}/{segment}/events", "SESSION_NOT_FOUND")


def _paths() -> Iterator[Bad]:
    for path in (
        "/",
        "//",
        "/x",
        "/api",
        "/api//messaging/sessions",
        "/api/messaging//sessions",
        "/api/messaging/./sessions",
        f"{SESSIONS}/../sessions/{SID}",
        f"{SESSIONS}/{SID}/../{SID}/renew",
        "/..",
        "/../../etc/passwd",
        "/%2e%2e/etc/passwd",
        f"{SESSIONS}/{SID}//messages",
        f"{SESSIONS}/{SID}/messages/x",
        f"{SESSIONS}/{SID}/Messages",
        f"{SESSIONS}//{SID}",
        "/metrics",
        "/favicon.ico",
        "/.env",
        "/index.php",
        f"{SESSIONS.upper()}",
        "/test",
        "/test/clock/x",
        "/static/x",
        "/%00",
        "/%ff",
        "/%zz",
        "/%",
        "/x" * 5000,
        f"{SESSIONS};x=1",
        f"{SESSIONS}/health/messages/x",
    ):
        yield _get(path, "PATH_NOT_FOUND")
    for segment in (
        "x",
        "%00",
        "%ff",
        "%c0%80",
        "%ed%a0%80",
        "%zz",
        "%",
        "%2",
        "%2e%2e",
        "..",
        ".",
        "%20",
        "%0a",
        "%0d%0aX:%201",
        f"{SID}%20",
        f"{SID}%0a",
        f"{SID}%00",
        f"{SID}.json",
        f"%7b{SID}%7d",
        f"{SID};x",
        "HEALTH",
        "health%00",
        "%F0%9F%98%80",
        "null",
        "undefined",
        "0",
        "-1",
        "*",
        "$",
        "'%20OR%201=1--",
        "x" * 10_000,
        "x" * 60_000,
        "a+b",
        "%5c",
        "&",
        "=",
        "~",
        "(",
        "<script>",
        '"',
    ):
        yield _get(
            f"{SESSIONS}/{segment}",
            "SESSION_NOT_FOUND INVALID_REQUEST" if segment in ("<script>", '"') else "SESSION_NOT_FOUND",
        )
    yield _get(f"/{SESSIONS}", ANY)
    yield _get(f"{SESSIONS}/%2F", ANY)
    yield _get(f"{SESSIONS}/a%2Fb", "PATH_NOT_FOUND SESSION_NOT_FOUND")
    yield _get(f"{SESSIONS}/{'x' * 1_000_000}", "INVALID_REQUEST", name="GET of a path of 1 MB")
    yield _get(
        f"{SESSIONS}/".encode() + b"\xff\xfe",
        "SESSION_NOT_FOUND INVALID_REQUEST",
        name="GET of a path that is not UTF-8",
    )
    yield _get(
        f"{SESSIONS}/".encode() + "é😀".encode(),
        "SESSION_NOT_FOUND INVALID_REQUEST",
        name="GET of a path that is not ASCII",
    )
    yield _get(f"{SESSIONS}/{SID}#x", ANY)
    yield _get(f"http://elsewhere:99{SESSIONS}/{SID}", ANY)
    yield _get("*", "PATH_NOT_FOUND INVALID_REQUEST")
    yield _get(f"{SESSIONS}/{SID.upper()}", FINE)
    yield _get(f"{SESSIONS}/%35{SID[1:]}", ANY)
    yield _get(f"{SESSIONS}/{SID}////", FINE)


def _methods() -> Iterator[Bad]:
    paths = {
        SESSIONS: ("GET", "POST"),
        f"{SESSIONS}/health": ("GET",),
        f"{SESSIONS}/{SID}": ("GET", "DELETE"),
        f"{SESSIONS}/{SID}/messages": ("GET", "POST"),
        f"{SESSIONS}/{SID}/renew": ("POST",),
        f"{SESSIONS}/{SID}/timeout": ("PATCH",),
        f"{SESSIONS}/{SID}/heartbeat": ("POST",),
        "/test/clock": ("GET", "POST"),
    }
    for path, allowed in paths.items():
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "PROPFIND", "TRACE", "LOCK"):
            if method not in allowed:
                yield Bad(
                    f"{method} {path}", (request(method, path, b"{}", _JSON),), "METHOD_NOT_ALLOWED", method
                )
    for method in ("FOO", "get", "G", "X" * 5000, "PRI"):
        yield Bad(
            f"method {method[:20]!r}", (request(method, SESSIONS),), "METHOD_NOT_ALLOWED INVALID_REQUEST"
        )
    yield Bad(
        "a connection to elsewhere",
        (request("CONNECT", "elsewhere:443"),),
        "METHOD_NOT_ALLOWED INVALID_REQUEST PATH_NOT_FOUND",
    )
    override = (("X-HTTP-Method-Override", "DELETE"), ("X-Method", "DELETE"))
    yield _get(f"{SESSIONS}/{SID}", FINE, override, "GET that wants to be a DELETE")
    yield Bad("OPTIONS *", (request("OPTIONS", "*"),), "any", "OPTIONS")


def _chunked(*chunks: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + end


def _send_with(
    name: str, headers: Iterable[tuple[str, str]], body: bytes, outcome: str, *, half_close: bool = False
) -> Bad:
    method, path = _BODIES["send"]
    return Bad(name, (request(method, path, body, (*_JSON, *headers)),), outcome, method, half_close)


def _lengths() -> Iterator[Bad]:
    good = b'{"content":"x"}'
    large = b'{"content":"' + b"x" * LIMIT + b'"}'
    chunked = (("Transfer-Encoding", "chunked"),)
    yield _send_with("2 MiB and more", (), large, "REQUEST_TOO_LARGE")
    yield _send_with("40 MiB", (), large * 20, "REQUEST_TOO_LARGE")
    yield _send_with("2 MiB and more of white space", (), b" " * (LIMIT + 1), "REQUEST_TOO_LARGE")
    yield _send_with(
        "2 MiB and more in chunks", chunked, _chunked(*[b"x" * 65_536] * 33), "REQUEST_TOO_LARGE"
    )
    yield _send_with("40 MiB in chunks", chunked, _chunked(*[b"x" * 1_048_576] * 40), "REQUEST_TOO_LARGE")
    yield _send_with(
        "a length of 10 GB and nothing behind",
        (("Content-Length", str(10**10)),),
        b"",
        "REQUEST_TOO_LARGE",
        half_close=True,
    )
    yield _send_with("chunks", chunked, _chunked(good[:5], good[5:]), FINE)
    yield _send_with("chunks of one byte", chunked, _chunked(*(bytes([byte]) for byte in good)), FINE)
    yield _send_with(
        "chunks with an extension and a trailer",
        chunked,
        b"f;x=y\r\n" + good + b"\r\n0\r\nX: y\r\n\r\n",
        FINE,
    )
    yield _send_with("chunks that are not", chunked, good, "INVALID_REQUEST")
    yield _send_with("a chunk of negative size", chunked, b"-1\r\n\r\n", "INVALID_REQUEST")
    yield _send_with("a chunk of endless size", chunked, b"f" * 100 + b"\r\n", "INVALID_REQUEST")
    yield _send_with(
        "a chunk without its end", chunked, _chunked(good, end=b"xxxx\r\n\r\n"), "INVALID_REQUEST"
    )
    yield _send_with("an encoding nobody knows", (("Transfer-Encoding", "cowbell"),), b"", "INVALID_REQUEST")
    yield _send_with(
        "chunks and a length", (*chunked, ("Content-Length", "5")), _chunked(good), "INVALID_REQUEST"
    )
    for length in ("-1", "abc", "1e3", "0x10", "5, 6", "9" * 30, "1 5", "+15", ""):
        yield _send_with(
            f"a length of {length!r}",
            (("Content-Length", length),),
            good,
            "INVALID_REQUEST REQUEST_TOO_LARGE",
        )
    yield _send_with(
        "two lengths", (("Content-Length", "15"), ("Content-Length", "14")), good, "INVALID_REQUEST"
    )
    yield _send_with(
        "less than the length says", (("Content-Length", "1000"),), good, NO_ANSWER, half_close=True
    )
    yield _send_with("chunks without an end", chunked, _chunked(good, end=b""), NO_ANSWER, half_close=True)
    yield _send_with("a length of 0 before a body", (("Content-Length", "0"),), b"", "INVALID_CONTENT")


def _heads() -> Iterator[Bad]:
    for name, headers in {
        "a header of 1 MB": (("X-Long", "x" * 1_000_000),),
        "100,000 headers": tuple((f"X-{number}", "x") for number in range(100_000)),
        "a cookie of 1 MB": (("Cookie", "x" * 1_000_000),),
    }.items():
        yield _get(f"{SESSIONS}/{SID}", "INVALID_REQUEST", headers, name)
    for name, headers in {
        "a header of 30 KB": (("X-Long", "x" * 30_000),),
        "no media type that we have": (("Accept", "text/xml"),),
        "an unreadable Accept": (("Accept", ";;;,=/"),),
        "a range": (("Range", "bytes=0-1"),),
        "a condition": (("If-None-Match", "*"), ("If-Modified-Since", "tomorrow")),
        "cookies": (("Cookie", "a=b; \xff=\xfe; =;"),),
        "forged addresses": (
            ("X-Forwarded-For", "' OR 1=1"),
            ("X-Forwarded-Host", "elsewhere"),
            ("X-Forwarded-Proto", "gopher"),
        ),
        "credentials": (("Authorization", "Basic \xff"), ("X-API-KEY", "\xff")),
        "an empty header": (("X-Empty", ""),),
        "an underscore": (("Content_Length", "5"),),
        "a proxy": (("Proxy", "http://elsewhere"),),
        "an expectation": (("Expect", "100-continue"),),
    }.items():
        yield _get(f"{SESSIONS}/{SID}", FINE, headers, f"GET with {name}")
    yield _get(f"{SESSIONS}/{SID}", "ORIGIN_NOT_ALLOWED", (("Origin", "null"),), "GET with an origin")
    for name, host in {"a host that is not ours": "elsewhere:99999999", "a host that is none": "[::"}.items():
        yield _get(f"{SESSIONS}/{SID}", "HOST_NOT_ALLOWED", (("Host", host),), f"GET with {name}")
    for name, headers in {
        "an expectation nobody knows": (("Expect", "cake"),),
        "an upgrade to HTTP/2": (
            ("Connection", "Upgrade, HTTP2-Settings"),
            ("Upgrade", "h2c"),
            ("HTTP2-Settings", "AAMAAABkAAQAAP__"),
        ),
        "two hosts": (("Host", "a"), ("Host", "b")),
        "a body in a GET": (("Content-Length", "0"),),
    }.items():
        yield _get(f"{SESSIONS}/{SID}", ANY, headers, f"GET with {name}")
    for name, raw in {
        "HTTP/1.0": b"GET %b HTTP/1.0\r\n\r\n",
        "no host": b"GET %b HTTP/1.1\r\n\r\n",
    }.items():
        yield Bad(name, (raw % f"{SESSIONS}/{SID}".encode(),), FINE)
    for name, raw in {
        "HTTP/2's preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "a version nobody knows": b"GET / HTTP/9.9\r\n\r\n",
        "a TLS greeting": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 100,
        "noise": bytes(range(128, 256)) * 4 + b"\r\n\r\n",
        "NULs": b"\0" * 100 + b"\r\n\r\n",
        "no method": b" / HTTP/1.1\r\n\r\n",
        "a space in the path": b"GET /a b HTTP/1.1\r\n\r\n",
        "a header without a colon": b"GET / HTTP/1.1\r\nnonsense\r\n\r\n",
        "a header without a name": b"GET / HTTP/1.1\r\n: x\r\n\r\n",
        "a header name with a space": b"GET / HTTP/1.1\r\nX Y: z\r\n\r\n",
        "a NUL in a header": b"GET / HTTP/1.1\r\nX: a\0b\r\n\r\n",
        "a folded header first": b"GET / HTTP/1.1\r\n X: y\r\n\r\n",
        "a request line of 1 MB": b"GET /" + b"x" * 1_000_000 + b" HTTP/1.1\r\n\r\n",
        "headers without an end": b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 200_000,
    }.items():
        yield Bad(name, (raw,), "INVALID_REQUEST")
    yield Bad("no version", (b"GET /\r\n\r\n",), "INVALID_REQUEST PATH_NOT_FOUND")
    yield Bad("half a request", (b"GET / HT",), NO_ANSWER, half_close=True)
    yield Bad("nothing", (b"",), NO_ANSWER, half_close=True)


def _clock() -> Iterator[Bad]:
    for text in (
        "-1",
        "0.5",
        '"5"',
        "1e400",
        _HUGE,
        "true",
        "[]",
        "{}",
        str(2**63),
        str(2**63 - 1),
        '"\\ud800"',
    ):
        yield _body(f"advanceMs is {text[:30]}", "clock", f'{{"advanceMs":{text}}}', "INVALID_FIELD")
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
        yield _body(f"now is {text[:30]}", "clock", f'{{"now":{text}}}', "INVALID_FIELD")
    yield _body("nothing", "clock", "{}", "MISSING_FIELDS")
    yield _body("no body", "clock", "", "MISSING_FIELDS")
    yield _body("nulls", "clock", '{"now":null,"advanceMs":null}', "MISSING_FIELDS")
    yield _body("both", "clock", '{"now":"2026-01-01T00:00:00Z","advanceMs":1}', "INVALID_FIELD")


def _empty() -> Iterator[Bad]:
    for operation, outcome in (
        ("create", "MISSING_FIELDS"),
        ("send", "INVALID_CONTENT"),
        ("patch", FINE),
        ("renew", FINE),
        ("heartbeat", FINE),
    ):
        yield _body("an empty body", operation, "", outcome)
        yield _body("an empty object", operation, "{}", outcome)
        method, path = _BODIES[operation]
        yield Bad(f"{operation}: no body and no length", (request(method, path),), outcome, method)
    yield _body("an empty body of no type", "create", "", "MISSING_FIELDS", ())
    for method in ("HEAD", "OPTIONS"):
        yield Bad(f"{method} with a body", (request(method, f"{SESSIONS}/{SID}", b"{", _JSON),), FINE, method)
    yield Bad("GET with a broken body", (request("GET", f"{SESSIONS}/{SID}", b"{", _JSON),), FINE)
    yield Bad(
        "GET with 2 MiB and more", (request("GET", f"{SESSIONS}/{SID}", b"x" * (LIMIT + 1), _JSON),), ANY
    )
    yield Bad(
        "DELETE of nothing, with a broken body",
        (request("DELETE", f"{SESSIONS}/x", b"{", _JSON),),
        "SESSION_NOT_FOUND INVALID_REQUEST",
        "DELETE",
    )


def _all() -> tuple[Bad, ...]:
    makers: Any = (
        _malformed,
        _values,
        _depths_and_sizes,
        _duplicates,
        _types,
        _queries,
        _paths,
        _methods,
        _lengths,
        _heads,
        _clock,
        _empty,
    )
    return tuple(piece for maker in makers for piece in maker())


BAD: Final = _all()
"""All pieces."""
