"""The lists of sessions and agents, and the page of one agent, over a service that runs."""

import uuid

import pytest
from playwright.sync_api import expect

from tests.service.agents.worker import Worker, stream_agent
from tests.service.console.conftest import Open
from tests.service.console.live import say, unexpected
from tests.support.chromium import Watched
from tests.support.service import ECHO, Serve


@pytest.fixture
def watched(plain: Serve, watch: Open) -> Watched:
    return watch(f"http://{plain.rest}")


def test_filters_are_in_the_address_and_pages_are_linked(plain: Serve, watched: Watched) -> None:
    user = str(uuid.uuid4())
    made = [plain.create(userId=user)["sessionId"] for _ in range(53)]
    page = watched.go("/console/sessions")
    page.fill("#filter-user", user)
    page.select_option("#filter-state", "live")
    page.press("#filter-user", "Enter")
    page.wait_for_url(f"**/console/sessions?user={user}&state=live")
    expect(page.locator("tbody tr")).to_have_count(50)
    expect(page.locator("#filter-user")).to_have_value(user)
    expect(page.locator("#filter-state")).to_have_value("live")
    shown = page.locator('td[data-name="Session"]').all_text_contents()
    assert shown == made[::-1][:50]
    page.click("text=Older")
    expect(page.locator("tbody tr")).to_have_count(3)
    assert page.locator('td[data-name="Session"]').all_text_contents() == made[::-1][50:]
    shared = page.url
    page.click("text=Newest")
    expect(page.locator("tbody tr")).to_have_count(50)
    watched.page.goto(shared)
    expect(page.locator("tbody tr")).to_have_count(3)
    watched.go(f"/console/sessions?id={made[7][:13]}")
    expect(page.locator("tbody tr")).to_have_count(1)
    watched.go(f"/console/sessions?user={user}&state=expired")
    expect(page.locator("#sessions")).to_contain_text("No session matches")
    watched.go(f"/console/sessions?user={user}&to=2020-01-01T00:00")
    expect(page.locator("#sessions")).to_contain_text("No session matches")
    assert unexpected(watched) == []
    watched.go("/console/sessions?user=nobody")
    expect(page.locator("#sessions")).to_contain_text("INVALID_UUID")


def test_an_agents_page_shows_its_workers_and_what_waits(plain: Serve, watched: Watched) -> None:
    agent_id = stream_agent(plain, "<b>clerk</b>")
    session_id = plain.create(agentId=agent_id)["sessionId"]
    say(plain, session_id, "Hello")
    page = watched.go("/console/agents")
    page.click("text=<b>clerk</b>")
    expect(page.locator("#activity")).to_contain_text("No worker is connected")
    expect(page.locator("#activity")).to_contain_text("1 message, the oldest for")
    expect(page.locator("#open")).to_contain_text(session_id[:8])
    with Worker(plain.channel, agent_id, max_deliveries=3) as worker:
        delivery = worker.next()
        expect(page.locator("#agent-workers + table")).to_contain_text("127.0.0.1")
        worker.fail(delivery, "cannot", final=True)
        expect(page.locator("#failed")).to_contain_text("cannot")
        expect(page.locator("#redeliver-all")).to_have_count(0)
        page.click("[data-redeliver]")
        worker.fail(worker.next(), "cannot either", final=True)
        say(plain, plain.create(agentId=agent_id)["sessionId"], "And I?")
        worker.fail(worker.next(), "nor this", final=True)
        expect(page.locator("#failed")).to_contain_text("nor this")
        page.click("text=Redeliver these 2")
        both = [worker.next(), worker.next()]
        for one in both:
            worker.answer(one, "can")
        expect(page.locator("#failed")).to_contain_text("Nothing that could be redelivered")
    assert page.locator("b").count() == 0
    assert unexpected(watched) == []


def test_an_agent_is_tried_in_its_chat_box(plain: Serve, watched: Watched) -> None:
    agent_id = stream_agent(plain)
    page = watched.go(f"/console/agents/{agent_id}")
    page.fill("#chat-text", "Are you <i>there</i>?")
    page.press("#chat-text", "Enter")
    with Worker(plain.channel, agent_id) as worker:
        delivery = worker.next()
        expect(page.locator("#chat-said .user .text")).to_have_text("Are you <i>there</i>?")
        for text, so_far in (("Yes", "Yes"), (", I", "Yes, I"), (" am", "Yes, I am")):
            worker.chunk(delivery, text)
            expect(page.locator("#chat-said .draft .text")).to_have_text(so_far)
        worker.answer(delivery, "Yes, I am.")
        expect(page.locator("#chat-said .agent .text")).to_have_text("Yes, I am.")
        expect(page.locator("#chat-said .draft")).to_have_count(0)
        page.fill("#chat-text", "And now?")
        page.press("#chat-text", "Enter")
        second = worker.next()
        assert second.session.session_id == delivery.session.session_id
        worker.fail(second, "gone home", final=True)
        expect(page.locator("#chat-error")).to_contain_text("gone home")
    user = page.input_value("#chat-user")
    assert user == delivery.session.user_id
    page.click("#chat-link")
    expect(page.locator("#entries")).to_contain_text("Yes, I am.")
    assert unexpected(watched) == []


def test_a_chat_says_what_is_wrong_with_its_user(watched: Watched) -> None:
    page = watched.go(f"/console/agents/{ECHO}")
    page.fill("#chat-user", "nobody")
    page.fill("#chat-text", "Hello")
    page.click("#chat-send")
    expect(page.locator("#chat-error")).to_contain_text("userId is not a UUID")
    page.click("#chat-make")
    page.click("#chat-send")
    expect(page.locator("#chat-said .agent")).to_have_count(1)
