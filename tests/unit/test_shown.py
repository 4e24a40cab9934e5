"""A reader hears that pieces are void, also where the server that sent them cannot say so any more."""

import pytest

from server.domain.log import Abort, Chunk, Entry, ReplyFailure
from server.domain.messages import AgentMessage
from server.lifecycle.other_servers import OtherServers
from server.lifecycle.shown import Shown, abort_of
from server.lifecycle.watches import Watches
from server.store.hints import Hint
from server.store.sharing import Sharing


def chunk(message_id: str, attempt: int, answers: int = 1, index: int = 0) -> Chunk:
    return Chunk("s", "a", message_id, "text", index, answers, attempt, answers)


def entry(event: AgentMessage | ReplyFailure) -> Entry:
    return Entry("s", 2, 0, event, 0, 0, False, False)


def reply(message_id: str, answers: int = 1) -> Entry:
    return entry(AgentMessage(message_id, "text", "{}", None, answers=answers))


def failure(reply_message_id: str) -> Entry:
    return entry(ReplyFailure("asked", 1, "why", 2, reply_message_id))


def told(*pieces: Chunk | Abort) -> tuple[Shown, list[Chunk | Abort]]:
    shown = Shown()
    return shown, [one for piece in pieces for one in shown.take_piece(piece)]


def test_a_piece_of_a_later_attempt_voids_the_one_before() -> None:
    first, more, second = chunk("m1", 1), chunk("m1", 1, index=1), chunk("m2", 2)
    assert told(first, more, second)[1] == [first, more, abort_of(first), second]


def test_an_attempt_of_the_same_number_is_another_one_all_the_same() -> None:
    """One that is not charged leaves its number to the next."""
    first, second = chunk("m1", 1), chunk("m2", 1)
    assert told(first, second)[1] == [first, abort_of(first), second]


@pytest.mark.parametrize("late", [chunk("m1", 1, index=1), abort_of(chunk("m1", 1))])
def test_what_comes_late_of_a_void_attempt_is_not_told(late: Chunk | Abort) -> None:
    first, second, third = chunk("m1", 1), chunk("m2", 2), chunk("m2", 2, index=1)
    assert told(first, second, late, third)[1] == [first, abort_of(first), second, third]


def test_what_comes_late_of_an_attempt_that_was_never_shown_voids_none() -> None:
    second = chunk("m2", 2)
    assert told(second, chunk("m1", 1))[1] == [second]


def test_an_abort_that_was_told_is_not_told_again() -> None:
    first, second = chunk("m1", 1), chunk("m2", 2)
    assert told(first, abort_of(first), abort_of(first), second)[1] == [first, abort_of(first), second]


@pytest.mark.parametrize("end", [reply("m2"), failure("m2"), failure("")])
def test_the_end_of_a_reply_voids_pieces_of_another_attempt(end: Entry) -> None:
    first = chunk("m1", 1)
    shown, _ = told(first)
    assert list(shown.take_entry(end)) == [abort_of(first)]
    assert list(shown.take_entry(end)) == []


@pytest.mark.parametrize("end", [reply("m1"), failure("m1")])
def test_the_end_of_a_reply_says_itself_that_its_pieces_are_over(end: Entry) -> None:
    first = chunk("m1", 1)
    shown, _ = told(first)
    assert list(shown.take_entry(end)) == []
    assert list(shown.take_piece(abort_of(first))) == []


def test_the_end_of_another_reply_voids_nothing() -> None:
    first = chunk("m1", 1)
    shown, _ = told(first)
    assert list(shown.take_entry(reply("m0", answers=3))) == []
    assert list(shown.take_piece(abort_of(first))) == [abort_of(first)]


class Dead(Sharing):
    """A store by which these servers run no more. `asked`: of which it was asked."""

    def __init__(self, *dead: str) -> None:
        self.dead = dead
        self.asked: list[set[str]] = []

    async def find_dead(self, server_ids: set[str]) -> list[str]:  # type: ignore[override]
        self.asked.append(set(server_ids))
        return [one for one in self.dead if one in server_ids]


class Watch:
    def wake(self, session_id: str, *, has_grown: bool = True) -> None: ...

    def wake_up(self) -> None: ...

    def mark_deleted(self, session_id: str) -> None: ...


async def test_pieces_of_a_server_that_is_dead_are_voided_once() -> None:
    store, watches = Dead("A"), Watches()
    watched = watches.add("s", Watch())
    others = OtherServers(store, watches)  # type: ignore[arg-type]
    first = chunk("m1", 1)
    others.on_hint(Hint(pieces=[first], sender="B"))
    await others.look()
    assert watched.pieces.take(0, 1)[0] == [first]
    others.on_hint(Hint(pieces=[second := chunk("m2", 2)], sender="A"))
    await others.look()
    await others.look()
    assert watched.pieces.take(1, 1)[0] == [abort_of(second)]
    assert store.asked == [{"B"}, {"A"}]


@pytest.mark.parametrize("piece", [abort_of(chunk("m1", 1)), None])
async def test_nothing_is_voided_of_a_reply_that_is_over(piece: Abort | None) -> None:
    store, watches = Dead("A"), Watches()
    watched = watches.add("s", Watch())
    others = OtherServers(store, watches)  # type: ignore[arg-type]
    others.on_hint(Hint(pieces=[chunk("m1", 1)], sender="A"))
    if piece:
        others.on_hint(Hint(pieces=[piece], sender="A"))
    else:
        watched.end_reply(reply("m1"))
    await others.look()
    assert store.asked == []


async def test_the_end_before_a_message_was_delivered_anew_is_not_that_of_its_reply() -> None:
    store, watches = Dead("A"), Watches()
    watched = watches.add("s", Watch())
    others = OtherServers(store, watches)  # type: ignore[arg-type]
    others.on_hint(Hint(pieces=[Chunk("s", "a", "m2", "text", 0, 1, 1, 2)], sender="A"))
    watched.end_reply(failure("m1"))
    await others.look()
    assert store.asked == [{"A"}]
