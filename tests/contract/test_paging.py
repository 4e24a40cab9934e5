"""Paging by the published cursors through what many callers wrote at once: each message exactly once, in
order.
"""

import asyncio
import itertools
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
import requests

from eliza.sessions.v1 import message_service_pb2 as pb
from eliza.sessions.v1 import message_service_pb2_grpc, session_service_pb2, session_service_pb2_grpc
from tests.contract.drivers import PATIENCE_SECONDS
from tests.contract.shapes import ms_of
from tests.support.service import ECHO, USER, Serve
from tests.support.waiting import until

CALLERS = 64
EVERYTHING = 10_000

Page = Callable[[dict[str, int]], tuple[list[tuple[str, int]], bool, dict[str, int]]]
"""Reads a page by its query: its messages (content and time in ms, newest first), whether there is more, and
its cursors.
"""


@dataclass(frozen=True)
class Talk:
    """A session and what was sent into it; every message has its reply."""

    session: str
    sent: frozenset[str]

    @property
    def count(self) -> int:
        """How many messages its history holds."""
        return 2 * len(self.sent)


async def fill_over_grpc(service: Serve, session: str, contents: Iterable[str]) -> None:
    """Sends the messages by 64 callers at once."""
    async with grpc.aio.insecure_channel(service.grpc) as channel:
        stub, left = message_service_pb2_grpc.MessageServiceStub(channel), iter(contents)

        async def caller() -> None:
            for content in left:
                await stub.SendMessage(
                    pb.SendMessageRequest(session_id=session, content=content), timeout=PATIENCE_SECONDS
                )

        await asyncio.gather(*(caller() for _ in range(CALLERS)))


def fill_over_rest(service: Serve, session: str, contents: Iterable[str]) -> None:
    """Sends the messages by 64 callers at once."""

    def caller(mine: list[str]) -> None:
        with requests.Session() as http:
            for content in mine:
                response = http.post(
                    f"{service.url}/{session}/messages", json={"content": content}, timeout=PATIENCE_SECONDS
                )
                assert response.status_code == 201, response.text

    contents = list(contents)
    with ThreadPoolExecutor(CALLERS) as pool:
        list(pool.map(caller, (contents[start::CALLERS] for start in range(CALLERS))))


def wait_for_replies(service: Serve, session: str, count: int) -> None:
    request = session_service_pb2.GetSessionRequest(session_id=session)
    until(
        lambda: service.sessions.GetSession(request, timeout=PATIENCE_SECONDS).session.last_sequence >= count,
        f"{count} entries in the log",
        PATIENCE_SECONDS,
    )


def talk(service: Serve, count: int, *, rest: bool = False) -> Talk:
    """A session into which so many messages were sent."""
    session, contents = service.create()["sessionId"], [f"message {number}" for number in range(count)]
    if rest:
        fill_over_rest(service, session, contents)
    else:
        asyncio.run(fill_over_grpc(service, session, contents))
    wait_for_replies(service, session, 2 * count)
    return Talk(session, frozenset(contents))


def grpc_page(service: Serve, session: str) -> Page:
    def instant(ms: int) -> Any:
        return {"seconds": ms // 1000, "nanos": ms % 1000 * 1_000_000}

    def page(query: dict[str, int]) -> tuple[list[tuple[str, int]], bool, dict[str, int]]:
        cursors = {name: instant(query[name]) for name in ("before", "after") if name in query}
        request = pb.ListMessagesRequest(session_id=session, page_size=query["limit"], **cursors)
        answer = service.messages.ListMessages(request, timeout=PATIENCE_SECONDS)
        read = [(message.content, message.created_at.ToMilliseconds()) for message in answer.messages]
        return (
            read,
            answer.has_more,
            {"before": answer.cursor_before.ToMilliseconds(), "after": answer.cursor_after.ToMilliseconds()},
        )

    return page


def rest_page(service: Serve, session: str) -> Page:
    def page(query: dict[str, int]) -> tuple[list[tuple[str, int]], bool, dict[str, int]]:
        answer = service.http.get(
            f"{service.url}/{session}/messages", params=query, timeout=PATIENCE_SECONDS
        ).json()
        read = [(message["content"], ms_of(message["createdAt"])) for message in answer["messages"]]
        return read, answer["hasMore"], answer["cursors"]

    return page


def check(talk: Talk, page: Page, limit: int, direction: str) -> None:
    """Follows the cursors to the end and compares what was seen with what was sent."""
    seen: list[tuple[str, int]] = []
    query, has_more = {"limit": limit} if direction == "before" else {"limit": limit, "after": 0}, True
    while has_more:
        read, has_more, cursors = page(query)
        assert len(read) == limit if has_more else 0 < len(read) <= limit
        assert cursors == {"before": read[-1][1], "after": read[0][1]}
        seen += read if direction == "before" else reversed(read)
        query = {"limit": limit, direction: cursors[direction]}
    if direction == "before":
        seen.reverse()
    times = [at for _, at in seen]
    assert all(earlier < later for earlier, later in itertools.pairwise(times))
    # The clock stands still, so that times have no gap: a message that was skipped would leave one.
    assert times == list(range(times[0], times[0] + talk.count))
    contents = [content for content, _ in seen]
    assert sorted(contents) == sorted([*talk.sent, *talk.sent])


@pytest.fixture(scope="module")
def large(service: Serve) -> Talk:
    return talk(service, EVERYTHING)


@pytest.fixture(scope="module")
def small(service: Serve) -> Talk:
    return talk(service, 4 * CALLERS, rest=True)


@pytest.mark.slow
def test_ten_thousand_messages_are_paged_over_grpc(service: Serve) -> None:
    # One test, because filling the session is most of the work.
    filled = talk(service, EVERYTHING)
    for limit, direction in itertools.product((100, 7), ("before", "after")):
        check(filled, grpc_page(service, filled.session), limit, direction)


@pytest.mark.slow
@pytest.mark.parametrize("direction", ["before", "after"])
def test_ten_thousand_messages_are_paged_one_by_one(service: Serve, large: Talk, direction: str) -> None:
    check(large, grpc_page(service, large.session), 1, direction)


@pytest.mark.slow
@pytest.mark.parametrize("limit", [100, 7, 1])
@pytest.mark.parametrize("direction", ["before", "after"])
def test_ten_thousand_messages_are_paged_over_rest(
    service: Serve, large: Talk, limit: int, direction: str
) -> None:
    check(large, rest_page(service, large.session), limit, direction)


@pytest.mark.parametrize("direction", ["before", "after"])
@pytest.mark.parametrize("limit", [100, 7, pytest.param(1, marks=pytest.mark.slow)])
def test_what_came_over_rest_is_paged_over_rest(
    service: Serve, small: Talk, limit: int, direction: str
) -> None:
    check(small, rest_page(service, small.session), limit, direction)


@pytest.mark.parametrize("direction", ["before", "after"])
def test_what_came_over_rest_is_paged_one_by_one_over_grpc(
    service: Serve, small: Talk, direction: str
) -> None:
    check(small, grpc_page(service, small.session), 1, direction)


def test_paging_while_others_write_skips_and_repeats_nothing(service: Serve) -> None:
    """A client that follows `after` while messages come in misses none of them."""
    session, contents = service.create()["sessionId"], [f"message {number}" for number in range(4 * CALLERS)]
    page, seen, after = grpc_page(service, session), [], 0
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(lambda: asyncio.run(fill_over_grpc(service, session, contents)))

        def follow() -> bool:
            nonlocal after
            read, _, cursors = page({"limit": 7, "after": after})
            seen.extend(content for content, _ in reversed(read))
            after = cursors["after"] if read else after
            return len(seen) >= 2 * len(contents)

        until(follow, "all messages", PATIENCE_SECONDS)
        writing.result()
    assert sorted(seen) == sorted([*contents, *contents])


def test_a_list_of_more_sessions_than_one_answer_holds(service: Serve) -> None:
    """docs/sessions-api.md: "Without `limit` it returns all up to 1000, and says when there is more"."""
    agent, count = service.create()["agentId"], 1100
    user = "22222222-2222-4222-8222-222222222222"

    async def fill() -> list[str]:
        async with grpc.aio.insecure_channel(service.grpc) as channel:
            stub, left = session_service_pb2_grpc.SessionServiceStub(channel), iter(range(count))
            made: list[str] = []

            async def caller() -> None:
                for _ in left:
                    request = session_service_pb2.CreateSessionRequest(agent_id=agent, user_id=user)
                    made.append(
                        (await stub.CreateSession(request, timeout=PATIENCE_SECONDS)).session.session_id
                    )

            await asyncio.gather(*(caller() for _ in range(CALLERS)))
            return made

    assert agent == ECHO != USER
    made = asyncio.run(fill())
    first = service.http.get(service.url, params={"userId": user}, timeout=PATIENCE_SECONDS).json()
    assert (len(first["sessions"]), first["total"]) == (1000, count)
    rest = service.http.get(
        service.url, params={"userId": user, "pageToken": first["nextPageToken"]}, timeout=PATIENCE_SECONDS
    ).json()
    assert "nextPageToken" not in rest
    assert sorted(one["sessionId"] for one in first["sessions"] + rest["sessions"]) == sorted(made)
    seen, query = [], {"userId": user, "limit": 300}
    while True:
        page = service.http.get(service.url, params=query, timeout=PATIENCE_SECONDS).json()
        seen += [one["sessionId"] for one in page["sessions"]]
        if "nextPageToken" not in page:
            break
        assert len(page["sessions"]) == 300
        query["pageToken"] = page["nextPageToken"]
    assert sorted(seen) == sorted(made)
    assert seen == [one["sessionId"] for one in first["sessions"] + rest["sessions"]]
