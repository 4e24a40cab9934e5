"""The page of one session, over a service that runs: what it shows, and what can be done on it."""

import json
import os
import re
import subprocess

import pytest
from playwright.sync_api import expect

from tests.service.access.world import make_key
from tests.service.agents.worker import Worker, stream_agent
from tests.service.console.conftest import Open
from tests.service.console.live import (
    HOSTILE,
    await_shown,
    fill,
    last_sequence,
    open_session,
    say,
    shown,
    unexpected,
)
from tests.service.console.pages import WIDTHS
from tests.support.chromium import Watched
from tests.support.service import USER, Serve, Start
from tests.support.waiting import until


@pytest.fixture
def watched(plain: Serve, watch: Open) -> Watched:
    return watch(f"http://{plain.rest}")


def test_a_message_is_sent_as_the_user_and_answered(plain: Serve, watched: Watched) -> None:
    session = plain.create(metadata={"shop": None})
    page = open_session(watched, session["sessionId"])
    expect(page.locator("#empty")).to_be_visible()
    page.fill("#text", "Is anybody there?\nReally?")
    page.press("#text", "Enter")
    await_shown(page, lambda there: there == [1, 2], "the message and its reply")
    expect(page.locator("#text")).to_have_value("")
    expect(page.locator(".said.user .text")).to_have_text("Is anybody there?\nReally?")
    expect(page.locator(".said.user .delivery")).to_contain_text("answered")
    expect(page.locator("#facts")).to_contain_text(USER)
    page.click("text=Metadata")
    expect(page.locator("#metadata")).to_contain_text('"shop": null')
    assert unexpected(watched) == []


def test_a_reply_is_shown_word_by_word_and_what_is_void_goes(plain: Serve, watched: Watched) -> None:
    agent_id = stream_agent(plain)
    session_id = plain.create(agentId=agent_id)["sessionId"]
    page = open_session(watched, session_id)
    with Worker(plain.channel, agent_id) as worker:
        say(plain, session_id, "Tell me")
        delivery = worker.next()
        expect(page.locator(".said.user .delivery")).to_contain_text("in hand attempt 1 of")
        expect(page.locator(".said.user .delivery")).to_contain_text("worker")
        draft = page.locator("#drafts .text")
        for text, so_far in (("One", "One"), (" and", "One and"), (" two", "One and two")):
            worker.chunk(delivery, text)
            expect(draft).to_have_text(so_far)
        worker.fail(delivery, "out of words")
        expect(draft).to_have_count(0)
        expect(page.locator(".said.user .delivery")).to_contain_text("out of words")
        again = worker.next()
        worker.chunk(again, "Three")
        expect(page.locator("#drafts .who")).to_contain_text("attempt 2")
        worker.answer(again, "Three", thought="a thought", actions=("WAVE",))
    expect(page.locator("#entries .said.agent .text").first).to_have_text("Three")
    expect(page.locator("#drafts > li")).to_have_count(0)
    expect(page.locator("#entries")).to_contain_text("Actions: WAVE")
    assert unexpected(watched) == []


def test_a_failed_message_is_delivered_anew_by_a_click(plain: Serve, watched: Watched) -> None:
    agent_id = stream_agent(plain)
    session_id = plain.create(agentId=agent_id)["sessionId"]
    with Worker(plain.channel, agent_id) as worker:
        say(plain, session_id, "Tell me")
        worker.fail(worker.next(), "<b>no model</b>", final=True)
        page = open_session(watched, session_id)
        delivery = page.locator(".said.user .delivery")
        expect(delivery).to_contain_text("failed")
        expect(delivery).to_contain_text("<b>no model</b>")
        page.click("text=Redeliver")
        again = worker.next()
        expect(delivery).to_contain_text("in hand attempt 1 of")
        worker.answer(again, "Here it is")
    expect(page.locator("#entries .said.agent .text")).to_have_text("Here it is")
    expect(delivery).to_contain_text("answered")
    expect(page.locator("text=Redeliver")).to_have_count(0)
    assert unexpected(watched) == []


def test_the_views_show_the_same_log_and_the_address_names_the_view(plain: Serve, watched: Watched) -> None:
    session_id = plain.create()["sessionId"]
    say(plain, session_id, "Hello", transport="http")
    plain.http.post(f"{plain.url}/{session_id}/renew", timeout=10)
    page = open_session(watched, session_id)
    await_shown(page, lambda there: there == [1, 2, 3], "the log")
    expect(page.locator("#entries > li").nth(2)).to_be_hidden()
    page.check("input[value=log]", force=True)
    expect(page.locator("#entries > li").nth(2)).to_contain_text("renewed")
    page.check("input[value=json]", force=True)
    expect(page.locator("#entries pre").first).to_contain_text('"content": "Hello"')
    assert page.url.endswith("?view=json")
    page.reload()
    expect(page.locator("#entries pre").first).to_contain_text('"content": "Hello"')


def test_what_comes_without_its_time_is_shown_with_it(plain: Serve, watched: Watched) -> None:
    session_id = plain.create()["sessionId"]
    page = open_session(watched, session_id, "?view=log")
    plain.http.post(f"{plain.url}/{session_id}/renew", timeout=10)
    plain.http.patch(f"{plain.url}/{session_id}/timeout", json={"autoRenew": False}, timeout=10)
    await_shown(page, lambda there: there == [1, 2], "both entries")
    expect(page.locator("#entries time")).to_have_count(2)
    expect(page.locator("#entries")).to_contain_text("does not renew by itself")


@pytest.mark.parametrize("view", ["conversation", "log", "json"])
def test_no_text_is_more_than_a_text(plain: Serve, watched: Watched, view: str) -> None:
    metadata = {"null": None, "<b>": HOSTILE[0], "deep": [[None, {"\u202e": 1}]]}
    session_id = plain.create(metadata=metadata)["sessionId"]
    for content in HOSTILE:
        say(plain, session_id, content, metadata={"<i>": content[:100], "null": None})
    say(plain, session_id, "with it", attachments=["x" * (1 << 19), None, {"url": "javascript:1"}])
    count = 2 * len(HOSTILE) + 2
    page = open_session(watched, session_id, f"?view={view}")
    await_shown(page, lambda there: there == list(range(1, count + 1)), "all entries")
    # In both themes each view is looked at with other texts.
    for width in WIDTHS:
        watched.look(width, "light")
        assert watched.sticks_out() == []
        assert watched.barriers() == []
        watched.shoot(f"session-{view}-hostile-{width}")
    if view == "conversation":
        texts = page.locator(".said.user .text").all_text_contents()
        assert texts[:3] == list(HOSTILE[:3])
    else:
        assert "\u202e" not in page.content(), "what nobody sees is written as an escape"
    assert page.evaluate("window.pwned") is None
    assert page.locator("#entries script, #entries img, #entries b").count() == 0
    assert unexpected(watched) == []


def test_large_attachments_are_written_only_when_they_are_opened(plain: Serve, watched: Watched) -> None:
    session_id = plain.create()["sessionId"]
    say(plain, session_id, "with it", attachments=["x" * (1 << 20)])
    page = open_session(watched, session_id)
    # A page of the log has no more than 1 MiB.
    page.click("#older")
    await_shown(page, lambda there: there == [1, 2], "the message")
    assert len(page.content()) < 100_000
    page.click("text=1 attachment")
    expect(page.locator("details pre").first).to_contain_text("xxxx")
    assert len(page.content()) < 200_000
    page.click("text=/Show all [0-9,]+ characters/")
    assert len(page.locator("details pre").first.text_content() or "") > 1 << 20


def test_a_long_log_is_paged_and_the_page_stays_small(plain: Serve, watched: Watched) -> None:
    session_id = plain.create()["sessionId"]
    fill(plain, session_id, 120)
    total = until(lambda: (n := last_sequence(plain, session_id)) >= 240 and n, "all replies")
    page = open_session(watched, session_id)
    await_shown(page, lambda there: there == list(range(total - 49, total + 1)), "the newest page")
    while page.locator("#older").is_visible():
        first = shown(page)[0]
        page.click("#older")
        there = await_shown(page, lambda there, before=first: there[0] < before, "an older page")
        assert len(there) <= 200
        assert there == list(range(there[0], there[0] + len(there)))
    assert shown(page)[0] == 1
    expect(page.locator(".said.user .delivery").first).to_contain_text("answered")
    expect(page.locator(".said.user .delivery").nth(99)).to_contain_text("answered")
    expect(page.locator("#newer")).to_contain_text(f"{total - 200} further on")
    say(plain, session_id, "one more", transport="http")
    expect(page.locator("#newer")).to_contain_text(f"{total - 198} further on")
    page.click("#newer")
    await_shown(page, lambda there: there[-1] == total + 2 and len(there) == 50, "the newest again")
    say(plain, session_id, "and one", transport="http")
    await_shown(page, lambda there: there[-1] == total + 4, "what comes live")
    assert unexpected(watched) == []


def test_an_expired_session_shows_its_transcript_and_takes_nothing(start: Start, watch: Open) -> None:
    service = start(TEST_CLOCK="1")
    session_id = service.create()["sessionId"]
    say(service, session_id, "the last words", transport="http")
    watched = watch(f"http://{service.rest}")
    page = open_session(watched, session_id)
    expect(page.locator("#expiry")).to_have_text(re.compile("^(29|30):[0-9]{2}$"))
    service.advance(minutes=26)
    expect(page.locator("#entries")).to_contain_text("expires soon")
    service.advance(minutes=5)
    expect(page.locator("#state")).to_have_text("expired")
    expect(page.locator("#stream")).to_have_text("over")
    expect(page.locator("#entries > li").last).to_contain_text("expired")
    seen = shown(page)
    watched.requests.clear()
    page.reload()
    expect(page.locator("#stream")).to_have_text("over")
    assert await_shown(page, lambda there: there == seen, "the same log")
    expect(page.locator("#entries")).to_contain_text("the last words")
    for one in ("#text", "#send", "#renew"):
        expect(page.locator(one)).to_be_disabled()
    assert [url for url in watched.requests if "/events" in url] == []


def test_a_session_is_renewed_and_ended_after_a_question(plain: Serve, watched: Watched) -> None:
    session_id = plain.create()["sessionId"]
    page = open_session(watched, session_id)
    page.click("#renew")
    expect(page.locator("#facts")).to_contain_text("1, 30 min each")
    page.click("#end")
    page.click("#end-cancel")
    assert plain.http.get(f"{plain.url}/{session_id}", timeout=10).status_code == 200
    page.click("#end")
    page.click("text=End the session")
    expect(page.locator("#missing")).to_contain_text("was deleted")
    assert plain.http.get(f"{plain.url}/{session_id}", timeout=10).status_code == 404
    page.reload()
    expect(page.locator("#missing")).to_contain_text("There is no session")


def test_a_session_that_somebody_else_ends_says_so(plain: Serve, watched: Watched) -> None:
    session_id = plain.create()["sessionId"]
    page = open_session(watched, session_id)
    plain.http.delete(f"{plain.url}/{session_id}", timeout=10)
    expect(page.locator("#missing")).to_contain_text("was deleted")
    expect(page.locator("#send")).to_be_disabled()


def test_a_refused_message_stays_and_says_why(plain: Serve, watched: Watched) -> None:
    session_id = plain.create()["sessionId"]
    page = open_session(watched, session_id)
    page.fill("#text", "x" * 4001)
    page.press("#text", "Enter")
    expect(page.locator("#action-error")).to_contain_text("content")
    expect(page.locator("#text")).to_have_value("x" * 4001)


def run_curl(command: str, **variables: str) -> str:
    """Runs a command as a person does who has pasted it."""
    done = subprocess.run(
        ["bash", "-c", command.replace("curl", "curl -s --max-time 10", 1)],
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], "no_proxy": "*", **variables},
        timeout=30,
        check=False,
    )
    return done.stdout


def test_the_commands_do_what_the_page_does(start: Start, watch: Open) -> None:
    key = make_key("admin")
    service = start(ELIZA_SERVER_AUTH_TOKEN=key)
    service.http.headers["X-API-KEY"] = key
    session_id = service.create()["sessionId"]
    watched = watch(f"http://{service.rest}")
    watched.context.add_init_script(f"sessionStorage['eliza-sessions.key'] = {json.dumps(key)}")
    watched.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = open_session(watched, session_id)
    content = 'it\'s "quoted" $HOME `id` \\ \u202e !\nand a line'
    page.fill("#text", content)
    page.click("text=Copy as curl")
    commands = dict(
        zip(
            page.locator(".command").all_text_contents(),
            page.locator("#command-list code").all_text_contents(),
            strict=True,
        )
    )
    assert not any(key in command for command in commands.values())
    variable = {"ELIZA_SESSIONS_KEY": key}
    assert json.loads(run_curl(commands["Read it"], **variable))["sessionId"] == session_id
    assert json.loads(run_curl(commands["Read it"]))["code"] == "UNAUTHENTICATED"
    assert json.loads(run_curl(commands["Send a message"], **variable))["content"] == content
    assert json.loads(run_curl(commands["Renew it"], **variable))["renewalCount"] >= 1
    texts = [
        one["content"] for one in json.loads(run_curl(commands["Read its messages"], **variable))["messages"]
    ]
    assert content in texts
    assert '"record":"session"' in run_curl(commands["Read its transcript"], **variable)
    page.click("[aria-label='Copy: Read it']")
    until(lambda: page.evaluate("navigator.clipboard.readText()") == commands["Read it"], "the copy")
    assert json.loads(run_curl(commands["End it"], **variable))["success"] is True
