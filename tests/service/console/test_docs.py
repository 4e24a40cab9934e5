"""The API docs: what is tried there is done by the service, and nobody else hears of it."""

import json
from urllib.parse import urlsplit

from playwright.sync_api import expect

from tests.service.console.conftest import Open
from tests.support.service import ECHO, USER, Serve


def test_a_session_is_created_from_the_docs(plain: Serve, watch: Open) -> None:
    watched = watch(f"http://{plain.rest}")
    page = watched.go("/docs")
    page.click("text=Creates a session of a user with an agent.")
    operation = page.locator(".opblock.is-open")
    operation.locator("textarea").fill(json.dumps({"agentId": ECHO, "userId": USER}))
    operation.locator("button:text-is('Execute')").click()
    answer = operation.locator(".live-responses-table")
    expect(answer.locator(".response .response-col_status")).to_contain_text("201")
    session_id = json.loads(answer.locator(".response code").first.text_content() or "")["sessionId"]
    assert plain.http.get(f"{plain.url}/{session_id}", timeout=10).status_code == 200
    assert watched.problems == []
    assert watched.hosts == {urlsplit(watched.root).netloc}


def test_the_docs_are_of_every_operation_and_take_a_key(plain: Serve, watch: Open) -> None:
    page = watch(f"http://{plain.rest}").go("/docs")
    page.wait_for_selector(".opblock")
    document = plain.http.get(f"http://{plain.rest}/openapi.json", timeout=10).json()
    operations = [one for item in document["paths"].values() for one in item.values() if "operationId" in one]
    assert page.locator(".opblock").count() == len(operations)
    page.click("button.authorize")
    schemes = document["components"]["securitySchemes"]
    expect(page.locator(".auth-container")).to_have_count(len(schemes))
    # Its badge would tell a validator elsewhere where this service is.
    assert page.locator("img[src*=validator], a[href*=validator]").count() == 0
