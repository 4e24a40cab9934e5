"""Numbers that clients write as text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rest_facade.shapes.numbers import MAX_INT64, whole_number


@given(st.integers(0, MAX_INT64), st.integers(0, 5000))
def test_a_number_is_read_whatever_zeros_are_in_front(number: int, zeros: int) -> None:
    assert whole_number("0" * zeros + str(number)) == number


@given(st.integers(MAX_INT64 + 1), st.integers(0, 30))
def test_a_greater_one_is_none(number: int, zeros: int) -> None:
    assert whole_number("0" * zeros + str(number)) is None


@pytest.mark.parametrize("text", ["", " ", "x", "-1", "+1", "1.5", "1e3", "1_0", "٣", "²", "9" * 5000])
def test_other_texts_are_none(text: str) -> None:
    assert whole_number(text) is None


def test_a_smaller_bound_holds() -> None:
    assert [whole_number(text, 99) for text in ("99", "0099", "100")] == [99, 99, None]
