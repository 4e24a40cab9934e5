"""The text of agents: nothing of it is lost but what is no character."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain.agent_text import TextJoiner, clean

GRIN, HIGH, LOW = "\U0001f600", "\ud83d", "\ude00"

texts = st.text(
    st.sampled_from(["a", "\0", "é", GRIN, "\ufeff", "\udbff", "\ud800", "\udc00", "\udfff"]) | st.characters(codec=None), max_size=20
)


def cleaned(text: str) -> str:
    """The same in another way."""
    pairs = re.sub(
        "[\ud800-\udbff][\udc00-\udfff]", lambda pair: pair[0].encode("utf-16", "surrogatepass").decode("utf-16"), text.replace("\0", "")
    )
    return re.sub("[\ud800-\udfff]", "\ufffd", pairs)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("plain", "plain"),
        (f"hi {GRIN} é", f"hi {GRIN} é"),
        (HIGH + LOW, GRIN),
        (LOW + HIGH, "\ufffd\ufffd"),
        (HIGH + HIGH + LOW, f"\ufffd{GRIN}"),
        (f"a{HIGH}b", "a\ufffdb"),
        ("a\0b\0", "ab"),
        (f"{HIGH}\0{LOW}", GRIN),
        ("\ufeffx", "\ufeffx"),
    ],
    ids=ascii,
)
def test_halves_are_joined_and_one_alone_is_replaced(text: str, expected: str) -> None:
    assert clean(text) == cleaned(text) == expected


@given(st.lists(texts, max_size=8))
def test_a_text_in_pieces_is_the_text_in_one(pieces: list[str]) -> None:
    joiner = TextJoiner()
    said = [joiner.add(piece) for piece in pieces] + [joiner.flush()]
    assert "".join(said) == clean("".join(pieces)) == cleaned("".join(pieces))
    assert all(clean(one) == one and one.encode() is not None for one in said)
    assert joiner.flush() == ""
