"""Campaign 5, bad input, in short; at full size it is `python -m tests.campaigns.bad_input`, or these tests
with `-m slow`.
"""

import pytest

from tests.campaigns import bad_input
from tests.campaigns.bad_input import Report

SEED = 5


def passes(report: Report) -> None:
    print(*report.lines, sep="\n")
    assert not report.problems, "\n".join([*report.problems[:10], *report.lines])


def test_requests_made_of_the_openapi_document_meet_no_fault() -> None:
    passes(bad_input.rest(SEED, 80))


def test_random_bytes_on_every_rpc_meet_no_fault() -> None:
    passes(bad_input.rpc(SEED, 400))


def test_broken_http_meets_no_fault() -> None:
    passes(bad_input.frames(SEED, 0, 200))


def test_clients_that_send_a_byte_a_second_keep_nobody_out() -> None:
    # As many as there are places for requests, and more.
    passes(bad_input.slow(24, 1, REST_MAX_REQUESTS="20"))


@pytest.mark.slow
def test_very_many_requests_made_of_the_openapi_document_meet_no_fault() -> None:
    passes(bad_input.rest(SEED, bad_input.EXAMPLES))


@pytest.mark.slow
def test_very_many_random_bytes_on_every_rpc_meet_no_fault() -> None:
    passes(bad_input.rpc(SEED, bad_input.CALLS))


@pytest.mark.slow
def test_very_much_broken_http_meets_no_fault() -> None:
    passes(bad_input.frames(SEED, bad_input.FRAMES, bad_input.FLOOD))


@pytest.mark.slow
def test_a_thousand_clients_that_send_a_byte_a_second() -> None:
    passes(bad_input.slow(bad_input.SLOW, bad_input.SLOW_SECONDS))
