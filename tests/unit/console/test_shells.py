"""Pages, files and headers: the same for everyone, kept or asked for again, and strict with scripts."""

import re
from typing import Any

import pytest

from rest_facade.console import assets
from rest_facade.console.pages import NAVIGATION, PAGES
from tests.unit.console.asking import Asker

SHELLS = [re.sub(r"<\w+>", "x", page.rule) for page in PAGES]
WHOLE = ["/", *SHELLS, "/docs", "/readme"]


def unasked(request: Any, _metadata: Any) -> Any:
    raise AssertionError(f"a page made a call: {request}")


@pytest.fixture
def ask() -> Asker:
    return Asker(unasked)


@pytest.mark.parametrize("path", WHOLE)
def test_a_page_makes_no_call_and_says_the_same_to_everyone(ask: Asker, path: str) -> None:
    stranger = ask(path)
    known = Asker(unasked, metadata=(("authorization", "Bearer es_admin_secret"),))(path)
    assert (stranger.status_code, stranger.data) == (200, known.data)
    assert known.headers["Cache-Control"] == "no-store"
    assert stranger.headers["Cache-Control"] == "no-cache"


@pytest.mark.parametrize("path", [*WHOLE, "/console/nothing"])
def test_pages_have_the_security_headers(ask: Asker, path: str) -> None:
    headers = ask(path).headers
    policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
    assert (policy["default-src"], policy["frame-ancestors"]) == ("'self'", "'none'")
    assert "script-src" not in policy
    assert ("style-src" in policy, "img-src" in policy) == ((path == "/docs",) * 2)
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"


@pytest.mark.parametrize("path", WHOLE)
def test_a_page_that_is_known_is_not_sent_again(ask: Asker, path: str) -> None:
    etag = ask(path).headers["ETag"]
    for known in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        again = ask(path, If_None_Match=known)
        assert (again.status_code, again.data, again.headers["ETag"]) == (304, b"", etag), known
        assert "Content-Length" not in again.headers
        assert "Content-Type" not in again.headers
    assert ask(path, If_None_Match='"other"').status_code == 200


@pytest.mark.parametrize("path", WHOLE)
def test_head_tells_the_length_and_nothing_else(ask: Asker, path: str) -> None:
    page, head = ask(path), ask(path, "HEAD")
    assert head.status_code == 200
    assert head.headers["Content-Length"] == str(len(page.data)) == page.headers["Content-Length"]


@pytest.mark.parametrize("path", ["/", *SHELLS, "/docs"])
def test_a_page_has_no_script_and_no_style_of_its_own(ask: Asker, path: str) -> None:
    page = ask(path).text
    assert re.findall(r"<script(?![^>]*\bsrc=)", page) == []
    assert re.findall(r"<style|\bstyle=|\bon[a-z]+=|javascript:", page) == []
    assert "://" not in page


@pytest.mark.parametrize("path", ["/", *SHELLS, "/docs"])
@pytest.mark.parametrize("slashes", ["", "/", "///"])
def test_addresses_are_relative_to_the_root_wherever_that_is(ask: Asker, path: str, slashes: str) -> None:
    """Below a path of a proxy, too, and with slashes at the end."""
    asked = path + slashes if path != "/" else "/"
    page = ask(asked).text
    (base,) = re.findall(r'<base href="(.*?)">', page)
    assert base == ("../" * (asked.count("/") - 1) or "./")
    assert re.findall(r'(?:href|src|hx-get)="/', page) == []
    files = re.findall(r'(?:href|src)="(console/static/.*?)"', page)
    assert files
    assert all(ask(f"/{file}").status_code == 200 for file in files)


def test_the_navigation_leads_to_pages_and_says_where_one_is(ask: Asker) -> None:
    for _, address in NAVIGATION:
        assert ask(f"/{address}").status_code == 200
    assert ask("/console/system").text.count('aria-current="page"') == 1
    assert {page.entry for page in PAGES} <= {name for name, _ in NAVIGATION}


def test_an_unknown_page_is_told_to_people_and_an_unknown_part_to_programs(ask: Asker) -> None:
    assert "No such page" in ask("/console/nothing").text
    for path in ("/console/parts/nothing", "/console/data/nothing", "/console/static/x/nothing.js"):
        answer = ask(path)
        assert (answer.status_code, answer.json["code"]) == (404, "PATH_NOT_FOUND")


def test_files_are_kept_for_ever_where_their_path_names_this_version(ask: Asker) -> None:
    path = f"/{assets.asset_url('js/console.js')}"
    answer = ask(path)
    assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert answer.headers["Content-Type"] == "text/javascript; charset=utf-8"
    assert answer.headers["Content-Security-Policy"]
    other = ask("/console/static/of-another-version/js/console.js")
    assert (other.data, other.headers["Cache-Control"]) == (answer.data, "no-cache")
    assert ask(path, If_None_Match=answer.headers["ETag"]).status_code == 304


@pytest.mark.parametrize(
    "path",
    [
        "vendor/vendored.toml",
        "vendor/htmx/LICENSE",
        "../console.css",
        "js/../console.css",
        "..%2f..%2fassets.py",
        "js",
        "",
        "js//console.js",
        "%00",
    ],
)
def test_only_the_files_of_the_pages_are_served(ask: Asker, path: str) -> None:
    assert ask(f"/console/static/{assets.digest()}/{path}").status_code == 404


def test_off_means_that_there_is_neither_console_nor_docs() -> None:
    ask = Asker(unasked, is_on=False)
    file = assets.asset_url("console.css")
    for path in (*SHELLS, "/docs", "/console/nothing", "/console/parts/status", "/console/data/overview"):
        answer = ask(path)
        assert (answer.status_code, answer.json["code"]) == (404, "PATH_NOT_FOUND"), path
    assert ask(f"/{file}").status_code == 404
    root = ask("/")
    assert root.status_code == 200
    assert "console" not in root.text
    assert 'href="docs"' not in root.text
    ask.console.is_on = True
    assert ask("/console").status_code == 200


def test_the_root_leads_to_all_there_is(ask: Asker) -> None:
    links = re.findall(r'<a href="(.*?)"', ask("/").text)
    assert links == ["console", "docs", "openapi.json", "api/messaging/sessions/health", "readme"]
    assert ask("/readme").text.startswith("# ")
    assert ask("/readme").headers["Content-Type"] == "text/plain; charset=utf-8"


def test_htmx_may_not_run_what_is_written_in_pages(ask: Asker) -> None:
    page = ask("/console").text
    for setting in (
        "&#34;allowEval&#34;: false",
        "&#34;includeIndicatorStyles&#34;: false",
        "&#34;selfRequestsOnly&#34;: true",
        "&#34;historyCacheSize&#34;: 0",
    ):
        assert setting in page, setting
