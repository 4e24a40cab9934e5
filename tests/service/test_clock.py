"""The test clock over REST."""

import re

import pytest
import requests

from tests.support.service import Serve


def test_the_test_clock_is_read_and_moved_over_rest(service: Serve) -> None:
    url = f"http://{service.rest}/test/clock"
    before = requests.get(url, timeout=10).json()
    assert list(before) == ["now"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", before["now"])
    assert requests.get(url, timeout=10).json() == before
    session = service.create()
    assert session["createdAt"] == before["now"]
    assert requests.post(url, json={"advanceMs": 0}, timeout=10).json() == before
    moved = requests.post(url, json={"advanceMs": 61_001}, timeout=10)
    assert moved.status_code == 200
    found = requests.get(f"{service.url}/{session['sessionId']}", timeout=10).json()
    assert found["timeRemaining"] == 30 * 60_000 - 61_001
    assert requests.post(url, json={"now": session["expiresAt"]}, timeout=10).json() == {
        "now": session["expiresAt"]
    }
    assert requests.get(f"{service.url}/{session['sessionId']}", timeout=10).status_code == 410


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "MISSING_FIELDS"),
        ({"now": "tomorrow"}, "INVALID_FIELD"),
        ({"now": "9999-01-01T00:00:00.000Z"}, "INVALID_FIELD"),
        ({"advanceMs": -1}, "INVALID_FIELD"),
        ({"advanceMs": 0.5}, "INVALID_FIELD"),
        ({"advanceMs": "1"}, "INVALID_FIELD"),
        ({"advanceMs": 2**70}, "INVALID_FIELD"),
        ({"advanceMs": 1, "now": "2040-01-01T00:00:00.000Z"}, "INVALID_FIELD"),
        ([], "INVALID_REQUEST"),
    ],
)
def test_a_move_of_the_test_clock_that_makes_no_sense_is_refused(
    service: Serve, body: object, code: str
) -> None:
    url = f"http://{service.rest}/test/clock"
    before = requests.get(url, timeout=10).json()
    answer = requests.post(url, json=body, timeout=10)
    assert (answer.status_code, answer.json()["code"]) == (400, code)
    assert requests.get(url, timeout=10).json() == before
