"""Instants as text."""

import datetime as dt
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eliza.sessions import values
from eliza.sessions.times import LATEST_MS, iso, ms_from_iso

FIRST_MS, LAST_MS = -62_135_596_800_000, 253_402_300_799_999
"""The years 1 to 9999."""
INSTANTS = st.integers(FIRST_MS, LAST_MS)


@given(INSTANTS)
def test_what_is_written_is_read_back(ms: int) -> None:
    text = iso(ms)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", text)
    assert ms_from_iso(text) == ms


@given(INSTANTS, INSTANTS)
def test_the_order_of_texts_is_that_of_instants(one: int, other: int) -> None:
    assert (iso(one) < iso(other)) == (one < other)


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1_769_850_300_000, "2026-01-31T09:05:00.000Z"),
        (-1, "1969-12-31T23:59:59.999Z"),
    ],
)
def test_an_instant_is_written_as_iso_8601(ms: int, text: str) -> None:
    assert iso(ms) == text
    assert ms_from_iso(text) == ms


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("1970-01-01", 0),
        ("1970-01-01T00:00:01", 1000),
        ("1970-01-01T01:00:00+01:00", 0),
        ("1970-01-01T00:00:00.0019Z", 1),
        ("1969-12-31T23:59:59.9991Z", -1),
        ("1970-01-01 00:00:00.5Z", 500),
    ],
)
def test_other_forms_of_iso_8601_are_read(text: str, ms: int) -> None:
    assert ms_from_iso(text) == ms


@given(st.text() | st.from_regex(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d([+-]\d\d:\d\d|Z)?", fullmatch=True))
def test_any_text_is_an_instant_or_a_value_error(text: str) -> None:
    try:
        ms = ms_from_iso(text)
    except ValueError:
        return
    day_ms = 86_400_000
    assert FIRST_MS - day_ms <= ms <= LAST_MS + day_ms


@pytest.mark.parametrize(
    "text", ["", "now", "2026-13-01", "2026-01-31T25:00:00Z", "1769850300000.5", "0001-01-01T00:00:00+23:59"]
)
def test_text_that_is_no_instant_is_refused(text: str) -> None:
    try:
        assert ms_from_iso(text) < FIRST_MS, "only what lies before all years may pass"
    except ValueError:
        return


def test_the_latest_instant_of_a_client_is_in_the_year_9000() -> None:
    assert iso(LATEST_MS) == "9000-01-01T00:00:00.000Z"


@given(INSTANTS)
def test_an_instant_survives_as_a_timestamp(ms: int) -> None:
    when = values.timestamp(ms)
    assert 0 <= when.nanos < 10**9
    assert values.ms_floor(when) == values.ms_ceil(when) == ms
    assert when.ToDatetime(dt.UTC) == dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(milliseconds=ms)


@given(INSTANTS, st.integers(1, 999_999))
def test_a_timestamp_is_rounded_to_ms(ms: int, nanos: int) -> None:
    when = values.timestamp(ms)
    when.nanos += nanos
    assert (values.ms_floor(when), values.ms_ceil(when)) == (ms, ms + 1)
