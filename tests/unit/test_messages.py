"""What may be stored as a message."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain.errors import InvalidContentError, InvalidMetadataError
from server.domain.messages import MAX_ATTACHMENTS_BYTES, Draft, check_draft, check_metadata

GRIN = "\U0001f600"


def metadata_of(size: int, filler: str = "x") -> str:
    """Compact JSON of exactly so many bytes in UTF-8."""
    empty = '{"a":""}'
    count, rest = divmod(size - len(empty), len(filler.encode()))
    text = f'{{"a":"{filler * count}{"x" * rest}"}}'
    assert len(text.encode()) == size
    return text


class TestContent:
    @pytest.mark.parametrize(
        "content",
        ["x", " ", "\n\t ", "\u2028", GRIN * 4000, "é" * 4000, "x" * 4000, "\ufeff", "\x01", "\x7f"],
    )
    def test_1_to_4000_code_points_are_accepted(self, content: str) -> None:
        check_draft(Draft(content))

    @pytest.mark.parametrize("content", ["", "x" * 4001, GRIN * 4001, "\0", "a\0b", "x" * 3999 + "\0"])
    def test_no_or_more_code_points_or_a_nul_are_refused(self, content: str) -> None:
        with pytest.raises(InvalidContentError) as caught:
            check_draft(Draft(content))
        assert "content" in str(caught.value)
        assert set(caught.value.details) == {"reason"}

    @given(st.text(st.characters(exclude_categories=["Cs"]), max_size=50))
    def test_any_text_without_nul_is_accepted(self, content: str) -> None:
        if content and "\0" not in content:
            check_draft(Draft(content))
        else:
            with pytest.raises(InvalidContentError):
                check_draft(Draft(content))


class TestMetadata:
    @pytest.mark.parametrize("filler", ["x", "é", "€", GRIN])
    def test_more_than_10240_bytes_of_utf8_are_refused(self, filler: str) -> None:
        check_metadata(metadata_of(10_240, filler))
        check_draft(Draft("x", metadata_of(10_240, filler)))
        for check in (check_metadata, lambda text: check_draft(Draft("x", text))):
            with pytest.raises(InvalidMetadataError) as caught:
                check(metadata_of(10_241, filler))
            assert caught.value.details["maxBytes"] == "10240"
            assert "metadata" in str(caught.value)
            assert "x" * 5 not in str(caught.value), "an error never holds the offending metadata"

    @given(st.text(st.characters(exclude_categories=["Cs"]), max_size=200), st.integers(10_100, 10_240))
    def test_bytes_are_counted_not_characters(self, text: str, size: int) -> None:
        body = json.dumps({"k": text}, ensure_ascii=False)
        body += " " * max(0, size - len(body))
        if len(body.encode()) <= 10_240:
            check_metadata(body)
        else:
            with pytest.raises(InvalidMetadataError):
                check_metadata(body)


class TestAttachments:
    def test_attachments_are_accepted_up_to_their_bound(self) -> None:
        full = '["' + "x" * (MAX_ATTACHMENTS_BYTES - 4) + '"]'
        for attachments in (None, "[]", full):
            check_draft(Draft("x", attachments=attachments))
        with pytest.raises(InvalidContentError):
            check_draft(Draft("x", attachments=full + " "))

    def test_bytes_are_counted_not_characters(self) -> None:
        with pytest.raises(InvalidContentError):
            check_draft(Draft("x", attachments='["' + GRIN * (MAX_ATTACHMENTS_BYTES // 4) + '"]'))
