"""Rates, wrong credentials and shares."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.access.limits import Rate, Rates, Shares, WrongCredentials, address_key, read_rate
from server.domain.access import RateKind
from server.domain.errors import OverloadedError, RateLimitedError


class Time:
    """A monotonic clock in seconds that the tests move, by whole ms."""

    def __init__(self, s: float = 1000.0) -> None:
        self.s = s

    def __call__(self) -> float:
        return self.s


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("", None),
        ("  ", None),
        ("10/minute", Rate(10, 60)),
        ("1/second", Rate(1, 1)),
        ("1000000/HOUR", Rate(1_000_000, 3600)),
        (" 5 / minute ", Rate(5, 60)),
    ],
)
def test_a_rate_is_read(text: str, rate: Rate | None) -> None:
    assert read_rate(text) == rate


@pytest.mark.parametrize(
    "text", ["0/minute", "10", "10/day", "-1/minute", "1.5/minute", "1000001/hour", "١/minute", "10/minutes"]
)
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="10/second, 600/minute"):
        read_rate(text)


def refusal(rates: Rates, key: str = "a", kind: RateKind = RateKind.SEND) -> RateLimitedError | None:
    try:
        rates.take(key, kind)
    except RateLimitedError as error:
        return error
    return None


def test_one_too_many_is_refused_and_told_when_to_come_again() -> None:
    time = Time()
    rates = Rates({RateKind.SEND: Rate(10, 60), RateKind.READ: None}, time)
    assert [refusal(rates) for _ in range(10)] == [None] * 10
    refused = refusal(rates)
    assert refused is not None
    assert refused.details == {
        "policy": "send",
        "limit": "10",
        "windowSeconds": "60",
        "retryAfterSeconds": "6",
    }
    time.s += 5.999
    assert refusal(rates) is not None
    time.s += 0.001
    assert refusal(rates) is None
    assert refusal(rates) is not None


def test_each_caller_and_each_kind_has_its_own() -> None:
    rates = Rates({RateKind.SEND: Rate(1, 60), RateKind.WATCH: Rate(1, 60), RateKind.READ: None}, Time())
    assert [refusal(rates, "a"), refusal(rates, "b"), refusal(rates, "a", RateKind.WATCH)] == [None] * 3
    assert refusal(rates, "a") is not None
    assert [refusal(rates, "a", kind) for kind in [RateKind.READ, RateKind.ADMIN] * 20] == [None] * 40


def test_callers_that_were_not_heard_of_are_forgotten() -> None:
    rates = Rates({RateKind.SEND: Rate(1, 3600)}, Time(), size=100)
    for number in range(1000):
        assert refusal(rates, f"caller {number}") is None
    assert len(rates) == 100
    assert refusal(rates, "caller 999") is not None


@given(
    st.integers(1, 50),
    st.sampled_from([1, 60, 3600]),
    st.lists(st.integers(0, 100_000), min_size=1, max_size=200),
)
def test_no_interval_has_more_than_the_rate_allows(limit: int, window_s: int, pauses_ms: list[int]) -> None:
    time = Time(0)
    rates = Rates({RateKind.SEND: Rate(limit, window_s)}, time)
    now_ms, taken_ms = 1_000_000, []
    for pause_ms in pauses_ms:
        now_ms += pause_ms
        time.s = now_ms / 1000
        if refusal(rates) is None:
            taken_ms.append(now_ms)
    for first in range(len(taken_ms)):
        for last in range(first, len(taken_ms)):
            most = limit + (taken_ms[last] - taken_ms[first]) * limit / (1000 * window_s)
            assert last - first + 1 <= most + 1e-3


@given(st.integers(1, 1000), st.sampled_from([1, 60, 3600]), st.integers(0, 10**7))
def test_who_keeps_the_rate_is_never_refused(limit: int, window_s: int, start_ms: int) -> None:
    time = Time(start_ms / 1000)
    rates = Rates({RateKind.SEND: Rate(limit, window_s)}, time)
    assert [refusal(rates) for _ in range(limit)] == [None] * limit
    for number in range(1, 100):
        time.s = start_ms / 1000 + number * (window_s / limit + 1e-6)
        assert refusal(rates) is None


@given(st.integers(1, 100), st.sampled_from([1, 60, 3600]), st.integers(0, 300))
def test_refused_calls_cost_nothing(limit: int, window_s: int, wrong: int) -> None:
    time = Time()
    rates = Rates({RateKind.SEND: Rate(limit, window_s)}, time)
    for _ in range(limit):
        rates.take("a", RateKind.SEND)
    assert all(refusal(rates) for _ in range(wrong))
    time.s += window_s / limit + 1e-6
    assert refusal(rates) is None


class TestWrongCredentials:
    def test_the_eleventh_in_a_minute_is_refused(self) -> None:
        time = Time()
        wrong = WrongCredentials(time)
        for _ in range(10):
            wrong.take("192.0.2.1")
        with pytest.raises(RateLimitedError) as refused:
            wrong.take("::ffff:192.0.2.1")
        assert refused.value.details["policy"] == "wrong-credentials"
        assert refused.value.details["limit"] == "10"
        assert refused.value.details["windowSeconds"] == "60"
        wrong.take("192.0.2.2")
        time.s += 60
        for _ in range(10):
            wrong.take("192.0.2.1")

    def test_a_network_is_one_address(self) -> None:
        wrong = WrongCredentials(Time())
        for number in range(10):
            wrong.take(f"2001:db8::{number:x}:1")
        with pytest.raises(RateLimitedError):
            wrong.take("2001:db8::ffff")
        wrong.take("2001:db8:0:1::1")

    def test_it_remembers_a_bounded_number(self) -> None:
        wrong = WrongCredentials(Time(), size=50)
        for number in range(1000):
            wrong.take(f"10.0.{number // 250}.{number % 250}")
        assert len(wrong) == 50


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:DB8:1:2::", "2001:db8:1:2::/64"),
        ("::1", "::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("unix:", "unix:"),
        ("", ""),
        ("x" * 100, "x" * 64),
    ],
)
def test_addresses_count_by_their_network(address: str, key: str) -> None:
    assert address_key(address) == key


class TestShares:
    def test_a_caller_has_its_share_and_no_more(self) -> None:
        shares = Shares()
        for _ in range(5):
            shares.begin("a", 0.5, 10, "calls")
        with pytest.raises(OverloadedError, match="calls"):
            shares.begin("a", 0.5, 10, "calls")
        shares.begin("b", 0.5, 10, "calls")
        shares.begin("a", 0.5, 10, "streams")
        shares.end("a", "calls")
        shares.begin("a", 0.5, 10, "calls")

    def test_everybody_may_have_one(self) -> None:
        shares = Shares()
        with shares.hold("a", 0.01, 10, "calls"), pytest.raises(OverloadedError):
            shares.begin("a", 0.01, 10, "calls")

    def test_nothing_is_left_when_nothing_is_under_way(self) -> None:
        shares = Shares()
        with suppress(RuntimeError), shares.hold("a", 1, 10, "calls"):
            assert len(shares) == 1
            raise RuntimeError
        assert len(shares) == 0
        shares.begin("a", 1, 100, "bytes", 60)
        shares.begin("a", 1, 100, "bytes", 60)
        with pytest.raises(OverloadedError):
            shares.begin("a", 1, 100, "bytes", 1)
        shares.end("a", "bytes", 60)
        shares.end("a", "bytes", 60)
        assert len(shares) == 0
