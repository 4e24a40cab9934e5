"""The pages of sessions and agents as people see them, over a service that runs."""

from collections.abc import Iterator
from typing import NamedTuple

import pytest
from playwright.sync_api import expect

from tests.service.agents.worker import Worker, stream_agent
from tests.service.console.conftest import Open
from tests.service.console.live import say
from tests.service.console.looking import check_keyboard, check_whole
from tests.service.console.pages import LIVE_PAGES, Looked
from tests.support.service import UNKNOWN, USER, Serve
from tests.support.waiting import until


class Filled(NamedTuple):
    """A service, and the ids of what is there."""

    root: str
    ids: dict[str, str]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Filled]:
    """A service with an agent and its worker, and a session: of its messages one was answered, one failed,
    and one is in hand.
    """
    service = Serve(tmp_path_factory.mktemp("filled"))
    agent_id = stream_agent(service, "An agent with quite a long name: Order clerk of the night")
    for _ in range(4):
        service.create()
    session_id = service.create(agentId=agent_id, metadata={"plan": "gold", "null": None})["sessionId"]
    with Worker(service.channel, agent_id) as worker:
        say(service, session_id, "Where is my order?")
        worker.answer(
            worker.next(), "On its way.\n\nIt is there by Monday.", thought="look", actions=("LOOK",)
        )
        say(service, session_id, "Change its address!", attachments=[{"url": "https://example.com/a.png"}])
        worker.fail(worker.next(), "the warehouse does not answer: " + "x" * 200, final=True)
        until(lambda: "replyFailure" in transcript(service, session_id), "the failure")
        say(service, session_id, "Are you there?")
        worker.next()
        ids = {"agent": agent_id, "session": session_id, "user": USER, "missing": UNKNOWN}
        yield Filled(f"http://{service.rest}", ids)
    assert service.stop() == 0, service.log()


def transcript(service: Serve, session_id: str) -> str:
    return service.http.get(f"{service.url}/{session_id}/transcript", timeout=30).text


@pytest.mark.parametrize("looked", LIVE_PAGES, ids=lambda looked: looked.name)
def test_a_live_page_is_whole_and_the_keyboard_is_enough(looked: Looked, filled: Filled, watch: Open) -> None:
    watched = watch(filled.root)
    path = looked.path.format(**filled.ids)
    page = watched.go(path)
    page.wait_for_selector(looked.shows)
    check_keyboard(page, f"{filled.root}{path}")
    if looked.name == "session":
        page.click("text=Metadata")
        page.click("text=Copy as curl")
        page.click("text=1 attachment")
        expect(page.locator("#command-list li")).to_have_count(8)
    check_whole(watched, looked)
