"""The kind `echo`: what it sends ahead."""

import pytest

from server.agents.echo import Echo
from tests.unit.samples import work


@pytest.mark.parametrize("content", ["hello", "How do I\n reset my password? ", "  \t", " a"])
async def test_a_reply_that_is_heard_is_sent_ahead_word_by_word(content: str) -> None:
    pieces: list[str] = []

    def emit(piece: str) -> bool:
        pieces.append(piece)
        return True

    reply = await Echo().reply(work(content), emit)
    assert "".join(pieces) == reply.draft.content == content
    assert len(pieces) == (len(content.split()) or 1) + (content == " a")


async def test_nothing_is_sent_ahead_that_nobody_hears() -> None:
    pieces: list[str] = []

    def emit(piece: str) -> bool:
        pieces.append(piece)
        return False

    reply = await Echo().reply(work("one two three"), emit)
    assert (pieces, reply.draft.content) == (["one "], "one two three")
