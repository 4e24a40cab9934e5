"""Over a real connection: the front door's rules and limits hold for the console as for the API."""

import socket
from urllib.parse import urlsplit

import requests

from rest_facade.console.assets import asset_url
from tests.support.service import Serve


def raw(service: Serve, *lines: str) -> bytes:
    """What the service sends until it closes."""
    host, port = service.rest.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        received = b""
        while part := connection.recv(65_536):
            received += part
    return received


def test_a_file_that_is_known_has_no_body_and_no_length(plain: Serve) -> None:
    url = f"http://{plain.rest}/{asset_url('vendor/swagger-ui/swagger-ui-bundle.js')}"
    whole = requests.get(url, timeout=20)
    assert len(whole.content) == int(whole.headers["Content-Length"]) > 1_000_000
    assert requests.head(url, timeout=20).headers["Content-Length"] == whole.headers["Content-Length"]
    asked = ["Host: localhost", "Connection: close", f"If-None-Match: {whole.headers['ETag']}"]
    received = raw(plain, f"GET {urlsplit(url).path} HTTP/1.1", *asked)
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 304 Not Modified\r\n")
    assert b"content-length" not in head.lower()
    assert body == b""


def test_a_connection_goes_on_behind_a_304(plain: Serve) -> None:
    with requests.Session() as session:
        etag = session.get(f"http://{plain.rest}/console", timeout=20).headers["ETag"]
        again = session.get(f"http://{plain.rest}/console", headers={"If-None-Match": etag}, timeout=20)
        assert again.status_code == 304
        assert session.get(f"http://{plain.rest}/console", timeout=20).status_code == 200


def test_pages_of_others_may_neither_read_nor_frame_it(plain: Serve) -> None:
    foreign = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}
    for path in ("/console", "/console/data/overview", "/docs"):
        answer = requests.get(f"http://{plain.rest}{path}", headers=foreign, timeout=20)
        assert (answer.status_code, answer.json()["code"]) == (403, "ORIGIN_NOT_ALLOWED")
        other = requests.get(f"http://{plain.rest}{path}", headers={"Host": "evil.example"}, timeout=20)
        assert (other.status_code, other.json()["code"]) == (421, "HOST_NOT_ALLOWED")
    page = requests.get(f"http://{plain.rest}/console", timeout=20)
    assert page.headers["X-Content-Type-Options"] == "nosniff"
    assert "frame-ancestors 'none'" in page.headers["Content-Security-Policy"]
    assert "Set-Cookie" not in page.headers


def test_other_methods_are_refused(plain: Serve) -> None:
    for path in ("/", "/console", "/docs", "/console/parts/status"):
        answer = requests.post(f"http://{plain.rest}{path}", timeout=20)
        assert (answer.status_code, answer.headers["Allow"]) == (405, "GET, HEAD, OPTIONS")
