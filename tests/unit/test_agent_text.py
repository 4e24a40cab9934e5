"""Text as agents write it: halves of surrogate pairs, in one piece and in many, and NULs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eliza.sessions.texts import is_text
from server.domain.agent_text import TextJoiner, clean

HIGH, LOW = "\ud83e", "\udd16"
UNITS = st.sampled_from(["a", "ü", "\0", "🤖", "\ufffd", HIGH, LOW, "\udbff", "\ud800", "\udfff", "\udc00"])


def joined(pieces: list[str]) -> str:
    joiner = TextJoiner()
    return "".join([*map(joiner.add, pieces), joiner.flush()])


def units(text: str) -> list[str]:
    """The UTF-16 units of a text, each as a string of its own."""
    return [chr(unit) for unit in memoryview(text.encode("utf-16-le", "surrogatepass")).cast("H")]


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        *(("", ""), ("plain", "plain"), ("ünï 🤖", "ünï 🤖"), ("\0", ""), ("a\0b\0", "ab")),
        *(
            (HIGH + LOW, "🤖"),
            (HIGH, "\ufffd"),
            (LOW, "\ufffd"),
            (LOW + HIGH, "\ufffd\ufffd"),
            (HIGH + "a", "\ufffda"),
        ),
        *(
            (HIGH + HIGH + LOW, "\ufffd🤖"),
            (HIGH + LOW + LOW, "🤖\ufffd"),
            (HIGH + "\0" + LOW, "🤖"),
            (HIGH + "🤖", "\ufffd🤖"),
        ),
    ],
)
def test_a_text_is_cleaned(text: str, cleaned: str) -> None:
    assert clean(text) == cleaned


@pytest.mark.parametrize(
    ("pieces", "out"),
    [
        (["a" + HIGH, LOW + "b"], ["a", "🤖b", ""]),
        (["a" + HIGH, "b"], ["a", "\ufffdb", ""]),
        (["a" + HIGH], ["a", "\ufffd"]),
        ([HIGH, "", "\0", LOW], ["", "", "", "🤖", ""]),
        ([HIGH, HIGH, LOW], ["", "\ufffd", "🤖", ""]),
        ([LOW, "a"], ["\ufffd", "a", ""]),
    ],
)
def test_a_high_half_is_held_back_until_it_is_clear_what_follows(pieces: list[str], out: list[str]) -> None:
    joiner = TextJoiner()
    assert [*map(joiner.add, pieces), joiner.flush()] == out


def test_what_is_flushed_is_gone() -> None:
    joiner = TextJoiner()
    assert (joiner.add(HIGH), joiner.flush(), joiner.add(LOW), joiner.flush()) == ("", "\ufffd", "\ufffd", "")


@given(st.text(), st.data())
def test_a_text_that_was_cut_anywhere_between_its_utf16_units_is_whole_again(
    text: str, data: st.DataObject
) -> None:
    text = text.replace("\0", "")
    parts = units(text)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(parts)))))
    pieces = ["".join(parts[start:end]) for start, end in zip([0, *cuts], [*cuts, len(parts)], strict=True)]
    assert joined(pieces) == text


@given(st.lists(st.lists(UNITS).map("".join)))
def test_the_pieces_that_go_out_are_the_whole_text_cleaned_and_each_is_text(pieces: list[str]) -> None:
    joiner = TextJoiner()
    out = [*map(joiner.add, pieces), joiner.flush()]
    assert all(map(is_text, out))
    assert "".join(out) == clean("".join(pieces))


@given(st.lists(UNITS).map("".join))
def test_cleaning_loses_only_nuls_and_leaves_nothing_to_clean(text: str) -> None:
    cleaned = clean(text)
    assert is_text(cleaned)
    assert clean(cleaned) == cleaned
    joined_pairs = (
        text.replace("\0", "").encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
    )
    assert len(cleaned) == len(joined_pairs)
