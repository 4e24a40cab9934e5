"""What an agent answered over HTTP: its status, what to wait, and what to tell of it."""

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.agents.agent_json import read_clean_json, read_json
from server.agents.failure_detail import MAX_DETAIL_CHARACTERS, describe_cause, make_detail
from server.agents.guarded_http import MAX_RETRY_AFTER_SECONDS, is_temporary, retry_after_s
from tests.unit.samples import T0


class TestRetryAfter:
    @pytest.mark.parametrize(
        ("value", "seconds"),
        [
            *(
                (None, 0),
                ("", 0),
                ("0", 0),
                ("1", 1),
                (" 30 ", 30),
                ("007", 7),
                ("600", 600),
                ("601", 600),
                ("9" * 400, 600),
            ),
            *(
                ("-1", 0),
                ("1.5", 0),
                ("1e3", 0),
                ("soon", 0),
                ("0x10", 0),
                ("+5", 0),
                ("\xb2", 0),
                ("nan", 0),
                ("inf", 0),
                ("5, 6", 0),
            ),
            # The clock stands at 2026-01-31T09:05:00.000Z.
            *(
                ("Sat, 31 Jan 2026 09:05:30 GMT", 30),
                ("Sat, 31 Jan 2026 10:05:30 +0100", 30),
                ("Saturday, 31-Jan-26 09:05:30 GMT", 30),
            ),
            *(
                ("Sat, 31 Jan 2026 09:05:00 GMT", 0),
                ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
                ("Fri, 31 Dec 9999 23:59:59 GMT", 600),
            ),
            *(
                ("Mon, 01 Jan 0001 00:00:00 GMT", 0),
                ("Mon, 99 Jan 2026 00:00:00 GMT", 0),
                ("Mon, 01 Jan 99999 00:00:00 GMT", 0),
            ),
            ("Mon, 01 Jan 2024 00:00:00 +9999999999999999", 0),
        ],
    )
    def test_a_retry_after_is_read_as_seconds(self, value: str | None, seconds: float) -> None:
        headers = httpx2.Headers({} if value is None else {"Retry-After": value.encode("latin-1")})
        assert retry_after_s(headers, T0) == pytest.approx(seconds)

    @given(
        st.text(st.characters(max_codepoint=255))
        | st.from_regex(r"\A[A-Z][a-z]{2}, [0-9]{1,6} Jan [0-9]{1,6} [0-9]+:[0-9]+:[0-9]+ [-+][0-9]{1,6}\Z")
    )
    def test_whatever_it_says_it_is_a_time_within_bounds(self, value: str) -> None:
        assert (
            0
            <= retry_after_s(httpx2.Headers({"Retry-After": value.encode("latin-1")}), T0)
            <= MAX_RETRY_AFTER_SECONDS
        )


@pytest.mark.parametrize(
    ("status", "temporary", "with_retry_after"),
    [
        *((number, True, True) for number in (408, 409, 421, 425, 429, 500, 501, 503, 599)),
        *((number, False, False) for number in (300, 307, 400, 401, 402, 403, 404, 405, 410, 422, 423, 451)),
        (413, False, True),
    ],
)
def test_a_status_says_whether_another_attempt_follows(
    status: int, temporary: bool, with_retry_after: bool
) -> None:
    assert is_temporary(status, httpx2.Headers()) is temporary
    assert is_temporary(status, httpx2.Headers({"Retry-After": "1"})) is with_retry_after


class TestDetail:
    @pytest.mark.parametrize(
        ("url", "place"),
        [
            ("http://agent.example/hook?token=1", "agent.example:80"),
            ("https://user:password@Agent.Example/v1", "agent.example:443"),
            ("http://127.0.0.1:8080", "127.0.0.1:8080"),
            ("https://[::1]:8443/", "[::1]:8443"),
            *((url, "an address that is none") for url in ("http://[x", "http://x:99999", "ftp://x", "")),
        ],
    )
    def test_it_names_host_and_port_and_no_more_of_the_address(self, url: str, place: str) -> None:
        assert (make_detail(url, "", ""), make_detail(url, "oh", "")) == (place, f"{place}: oh")

    @given(
        st.lists(
            st.text()
            | st.sampled_from(["whsec_", "c2Vj/cmV0", "c2Vj\\/cmV0", "c2Vj%2FcmV0", "\x1b[0m", "\r\n"])
        ).map("".join),
        st.sampled_from(["c2Vj/cmV0", "whsec_c2Vj/cmV0"]),
    )
    def test_it_is_short_and_harmless_and_holds_no_secret(self, words: str, secret: str) -> None:
        told = make_detail("https://a.example/", words, secret)
        assert told.isprintable()
        assert len(told) <= len("a.example:443: ") + MAX_DETAIL_CHARACTERS
        assert not any(form in told for form in ("c2Vj/cmV0", "c2Vj\\/cmV0", "c2Vj%2FcmV0"))

    def test_the_secret_is_replaced_before_the_words_are_cut(self) -> None:
        told = make_detail("http://x/", "y" * (MAX_DETAIL_CHARACTERS - 3) + "secret", "secret")
        assert told == "x:80: " + "y" * (MAX_DETAIL_CHARACTERS - 3) + "[se"


def test_the_cause_of_a_failure_is_never_empty() -> None:
    assert describe_cause(httpx2.ConnectTimeout("")) == "ConnectTimeout"
    broken = httpx2.ReadError("")
    broken.__cause__ = ConnectionResetError(104, "a text of whoever raised it")
    assert describe_cause(broken) == "Connection reset by peer"


class TestJson:
    @pytest.mark.parametrize(
        ("text", "value", "cleaned"),
        [
            (r'{"a":"x\ud83e"}', {"a": "x\ud83e"}, {"a": "x\ufffd"}),
            (r'["\ud83e\udd16"]', ["🤖"], ["🤖"]),
            (r'["\udd16\ud83e\udd16",1,null]', ["\udd16🤖", 1, None], ["\ufffd🤖", 1, None]),
            (
                r'{"\ud83e":{"\\ud83e":"\u0000"}}',
                {"\ud83e": {r"\ud83e": "\0"}},
                {"\ufffd": {r"\ud83e": "\0"}},
            ),
        ],
    )
    def test_halves_of_a_surrogate_pair_are_joined_or_replaced(
        self, text: str, value: object, cleaned: object
    ) -> None:
        assert read_json(text) == value
        assert read_clean_json(text) == cleaned

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "x",
            "NaN",
            "[Infinity]",
            "'x'",
            '"\0"',
            "[" * 200_000,
            r'["\ud83e",NaN]',
            r'["\ud83e"' + ",[" * 200_000,
        ],
    )
    def test_text_that_is_not_json_is_refused(self, text: str) -> None:
        for read in (read_json, read_clean_json):
            with pytest.raises(ValueError):  # noqa: PT011 - of whichever reader
                read(text)
