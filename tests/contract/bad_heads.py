"""Bad heads: content types, queries, paths, methods, lengths, header fields."""

import gzip
from collections.abc import Iterable, Iterator

from tests.contract.bad_pieces import (
    ANY,
    BODIES,
    FINE,
    HUGE,
    JSON,
    LIMIT,
    NO_ANSWER,
    SESSIONS,
    SID,
    USER,
    Bad,
    get,
    post,
)
from tests.contract.raw_http import request


def content_types() -> Iterator[Bad]:
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
        yield post(
            f"content type {kind[:40]!r}",
            "send",
            '{"content":"x"}',
            "UNSUPPORTED_MEDIA_TYPE",
            (("Content-Type", kind),),
        )
    yield post(
        "a charset of no name",
        "send",
        '{"content":"x"}',
        ANY,
        (("Content-Type", "application/json; charset="),),
    )
    yield post("no content type", "send", '{"content":"x"}', "UNSUPPORTED_MEDIA_TYPE", ())
    yield post(
        "two content types",
        "send",
        '{"content":"x"}',
        "UNSUPPORTED_MEDIA_TYPE",
        (*JSON, ("Content-Type", "text/plain")),
    )
    yield post("no body and a strange type", "renew", "", FINE, (("Content-Type", "text/plain"),))
    for kind in (
        "APPLICATION/JSON",
        "application/json;",
        "application/json;charset=UTF8",
        " application/json ",
        "application/vnd.api+json",
    ):
        yield post(f"content type {kind!r}", "send", '{"content":"x"}', FINE, (("Content-Type", kind),))
    refused = "INVALID_REQUEST UNSUPPORTED_MEDIA_TYPE"
    yield post(
        "gzip that is claimed",
        "send",
        gzip.compress(b'{"content":"x"}'),
        refused,
        (*JSON, ("Content-Encoding", "gzip")),
    )
    yield post(
        "gzip that is claimed and is not",
        "send",
        '{"content":"x"}',
        ANY,
        (*JSON, ("Content-Encoding", "gzip")),
    )


def queries() -> Iterator[Bad]:
    history = f"{SESSIONS}/{SID}/messages"
    for parameter in ("before", "after"):
        for value in (
            "x",
            "NaN",
            "Infinity",
            "-Infinity",
            "1e400",
            HUGE,
            f"-{HUGE}",
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
            yield get(f"{history}?{parameter}={value}", "INVALID_PAGINATION")
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
            yield get(f"{history}?{parameter}={value}", FINE)
        yield get(f"{history}?{parameter}=253402300800000", "INVALID_PAGINATION")
        yield get(f"{history}?{parameter}=-62135596800001", "INVALID_PAGINATION")
    for value in ("x", "NaN", "-1", "0", HUGE, "1e400", "-1e400", "%00", "%ff", "%zz", "%", "1.9", "[]", ""):
        yield get(f"{history}?limit={value}", FINE)
    for value in ("x", "NaN", "Infinity", "%00", "%ff", "[]", "0x10", "-1", "0", HUGE, "1e400", ""):
        yield get(f"{SESSIONS}?limit={value}", FINE)
    for parameter in ("agentId", "userId"):
        for value in ("x", "%00", "%ff", "5", f"{USER}x", "%2e%2e%2f", "'%20OR%201=1"):
            yield get(f"{SESSIONS}?{parameter}={value}", "INVALID_UUID")
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
        yield get(f"{SESSIONS}?pageToken={token}", "INVALID_PAGINATION")
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
        yield get(f"{history}?{query}", FINE)
    yield get(f"{history}?{'a' * 1_000_000}", "INVALID_REQUEST", name="GET with a query of 1 MB")
    yield get(
        f"{history}?before=".encode() + b"\xff\xfe",
        "INVALID_PAGINATION INVALID_REQUEST",
        name="GET with a query that is not UTF-8",
    )
    yield get(
        f"{SESSIONS}?userId=".encode() + "é".encode(),
        "INVALID_UUID INVALID_REQUEST",
        name="GET with a query that is not ASCII",
    )


def _events() -> Iterator[Bad]:
    for value in ("x", "-1", "1.5", HUGE, "%00", "%ff", "%D9%A1", str(2**63), "0" * 20 + "9" * 20):
        yield get(f"{SESSIONS}/{SID}/events?after={value}", "INVALID_FIELD")
        if "%" not in value:
            yield get(
                f"{SESSIONS}/{SID}/events",
                "INVALID_FIELD",
                (("Last-Event-ID", value),),
                f"GET of events after {value[:20]}",
            )
    for segment in ("x", "%00", "0"):
        yield get(f"{SESSIONS}/{segment}/events", "SESSION_NOT_FOUND")


def bad_paths() -> Iterator[Bad]:
    for path in (
        "/x",
        "//x",
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
        yield get(path, "PATH_NOT_FOUND")
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
        yield get(
            f"{SESSIONS}/{segment}",
            "SESSION_NOT_FOUND INVALID_REQUEST" if segment in ("<script>", '"') else "SESSION_NOT_FOUND",
        )
    yield get(f"/{SESSIONS}", ANY)
    yield get(f"{SESSIONS}/%2F", ANY)
    yield get(f"{SESSIONS}/a%2Fb", "PATH_NOT_FOUND SESSION_NOT_FOUND")
    yield get(f"{SESSIONS}/{'x' * 1_000_000}", "INVALID_REQUEST", name="GET of a path of 1 MB")
    yield get(
        f"{SESSIONS}/".encode() + b"\xff\xfe",
        "SESSION_NOT_FOUND INVALID_REQUEST",
        name="GET of a path that is not UTF-8",
    )
    yield get(
        f"{SESSIONS}/".encode() + "é😀".encode(),
        "SESSION_NOT_FOUND INVALID_REQUEST",
        name="GET of a path that is not ASCII",
    )
    yield get(f"{SESSIONS}/{SID}#x", ANY)
    yield get(f"http://elsewhere:99{SESSIONS}/{SID}", ANY)
    yield get("*", "PATH_NOT_FOUND INVALID_REQUEST")
    yield get(f"{SESSIONS}/{SID.upper()}", FINE)
    yield get(f"{SESSIONS}/%35{SID[1:]}", ANY)
    yield get(f"{SESSIONS}/{SID}////", FINE)


def methods() -> Iterator[Bad]:
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
                    f"{method} {path}", (request(method, path, b"{}", JSON),), "METHOD_NOT_ALLOWED", method
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
    yield get(f"{SESSIONS}/{SID}", FINE, override, "GET that wants to be a DELETE")
    yield Bad("OPTIONS *", (request("OPTIONS", "*"),), "any", "OPTIONS")


def _chunked(*chunks: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + end


def _send_with(
    name: str, headers: Iterable[tuple[str, str]], body: bytes, outcome: str, *, half_close: bool = False
) -> Bad:
    method, path = BODIES["send"]
    return Bad(name, (request(method, path, body, (*JSON, *headers)),), outcome, method, half_close)


def lengths() -> Iterator[Bad]:
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


def heads() -> Iterator[Bad]:
    for name, headers in {
        "a header of 1 MB": (("X-Long", "x" * 1_000_000),),
        "100,000 headers": tuple((f"X-{number}", "x") for number in range(100_000)),
        "a cookie of 1 MB": (("Cookie", "x" * 1_000_000),),
    }.items():
        yield get(f"{SESSIONS}/{SID}", "INVALID_REQUEST", headers, name)
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
        "a proxy": (("Proxy", "http://elsewhere"),),
        "an expectation": (("Expect", "100-continue"),),
    }.items():
        yield get(f"{SESSIONS}/{SID}", FINE, headers, f"GET with {name}")
    underscore = (("Content_Length", "5"),)
    yield get(f"{SESSIONS}/{SID}", "INVALID_REQUEST", underscore, "GET with an underscore")
    yield get(f"{SESSIONS}/{SID}", "ORIGIN_NOT_ALLOWED", (("Origin", "null"),), "GET with an origin")
    for name, host in {"a host that is not ours": "elsewhere:99999999", "a host that is none": "[::"}.items():
        yield get(f"{SESSIONS}/{SID}", "HOST_NOT_ALLOWED", (("Host", host),), f"GET with {name}")
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
        yield get(f"{SESSIONS}/{SID}", ANY, headers, f"GET with {name}")
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
    yield Bad("no version", (b"GET /nothing\r\n\r\n",), "INVALID_REQUEST PATH_NOT_FOUND")
    yield Bad("half a request", (b"GET / HT",), NO_ANSWER, half_close=True)
    yield Bad("nothing", (b"",), NO_ANSWER, half_close=True)
