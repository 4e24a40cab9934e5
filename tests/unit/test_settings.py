"""The environment: every documented variable with its default and bounds."""

import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from server.access.access_settings import AccessSettings
from server.access.limits import Rate
from server.addresses import split_address
from server.domain.access import RateKind
from server.domain.timeouts import TimeoutConfig, TimeoutPolicy
from server.environment import SettingsError, changed_settings, load_settings, overruled_settings
from server.settings import Settings

VARIABLES = [
    ("SESSION_DEFAULT_TIMEOUT_MINUTES", 30, 1, 10080),
    ("SESSION_MIN_TIMEOUT_MINUTES", 5, 1, 60),
    ("SESSION_MAX_TIMEOUT_MINUTES", 1440, 60, 10080),
    ("SESSION_MAX_DURATION_MINUTES", 720, 60, 20160),
    ("SESSION_WARNING_THRESHOLD_MINUTES", 5, 1, 60),
    ("SESSION_CLEANUP_INTERVAL_MINUTES", 5, 1, 60),
]
"""The contract's table: variable, default, bounds."""
NAMES = [row[0] for row in VARIABLES]

Load = Callable[..., Settings]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    """Loads the settings from these variables and no others."""

    def loader(**variables: str) -> Settings:
        for name in Settings.model_fields:
            monkeypatch.delenv(name.upper(), raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return load_settings()

    return loader


def refusal(load: Load, **variables: str) -> str:
    with pytest.raises(SettingsError) as caught:
        load(**variables)
    return str(caught.value)


@pytest.mark.parametrize(("name", "default", "low", "high"), VARIABLES, ids=NAMES)
class TestMinutes:
    def test_the_default_applies(
        self, load: Load, name: str, default: float, low: float, high: float
    ) -> None:
        assert getattr(load(), name.lower()) == default

    def test_empty_counts_as_unset(
        self, load: Load, name: str, default: float, low: float, high: float
    ) -> None:
        assert getattr(load(**{name: ""}), name.lower()) == default

    def test_both_bounds_are_accepted(
        self, load: Load, name: str, default: float, low: float, high: float
    ) -> None:
        for bound in (low, high, low + 0.5):
            assert getattr(load(**{name: str(bound)}), name.lower()) == bound

    def test_out_of_bounds_or_no_number_stops_the_start(
        self, load: Load, name: str, default: float, low: float, high: float
    ) -> None:
        beyond = [low - 1, high + 1, math.nextafter(low, 0), math.nextafter(high, math.inf), -low, 0]
        for value in [*map(str, beyond), "thirty", "nan", "inf", "-inf", "30 minutes", "1,5", "0x10", "true"]:
            line = refusal(load, **{name: value})
            assert line.startswith(name)
            assert "\n" not in line
            assert value in line
            assert re.search(rf"\b{low}\b.*\b{high}\b", line.partition(value)[2]), line


def test_every_wrong_variable_has_its_line(load: Load) -> None:
    lines = refusal(load, **dict.fromkeys(NAMES, "-7")).splitlines()
    assert [line.split()[0] for line in lines] == NAMES


@pytest.mark.parametrize(
    ("variables", "overruled"),
    [
        ({}, {}),
        (
            {"SESSION_DEFAULT_TIMEOUT_MINUTES": "10", "SESSION_MIN_TIMEOUT_MINUTES": "20"},
            {"SESSION_DEFAULT_TIMEOUT_MINUTES": 20},
        ),
        (
            {"SESSION_DEFAULT_TIMEOUT_MINUTES": "90", "SESSION_MAX_TIMEOUT_MINUTES": "60"},
            {"SESSION_DEFAULT_TIMEOUT_MINUTES": 60},
        ),
        (
            {"DELIVERY_BACKOFF_SECONDS": "30", "DELIVERY_MAX_BACKOFF_SECONDS": "5"},
            {"DELIVERY_BACKOFF_SECONDS": 5},
        ),
        ({"DELIVERY_BACKOFF_SECONDS": "5", "DELIVERY_MAX_BACKOFF_SECONDS": "5"}, {}),
    ],
)
def test_a_setting_that_another_overrules_is_found(
    load: Load, variables: dict[str, str], overruled: dict[str, float]
) -> None:
    assert overruled_settings(load(**variables)) == overruled


class TestClearSessions:
    @pytest.mark.parametrize(
        ("value", "means"),
        [("", False), ("false", False), ("true", True), ("1", True), ("0", False), ("TRUE", True)],
    )
    def test_a_value_is_read_as_true_or_false(self, load: Load, value: str, means: bool) -> None:
        assert load(CLEAR_SESSIONS_ON_SHUTDOWN=value).clear_sessions_on_shutdown is means

    def test_the_default_applies(self, load: Load) -> None:
        assert load().clear_sessions_on_shutdown is False

    def test_anything_else_stops_the_start(self, load: Load) -> None:
        line = refusal(load, CLEAR_SESSIONS_ON_SHUTDOWN="maybe")
        assert "CLEAR_SESSIONS_ON_SHUTDOWN" in line
        assert "maybe" in line
        assert "true or false" in line


class TestLogs:
    @pytest.mark.parametrize(
        ("value", "means"),
        [
            ("INFO", "info"),
            ("warn", "warning"),
            ("WARN", "warning"),
            ("Warning", "warning"),
            ("debug", "debug"),
            ("ERROR", "error"),
        ],
    )
    def test_levels_are_accepted_in_any_case(self, load: Load, value: str, means: str) -> None:
        assert load(LOG_LEVEL=value).log_level == means

    def test_formats_are_accepted_in_any_case(self, load: Load) -> None:
        assert load(LOG_FORMAT="JSON").log_format == "json"

    def test_another_word_stops_the_start(self, load: Load) -> None:
        line = refusal(load, LOG_LEVEL="Loud")
        assert "LOG_LEVEL is 'Loud'" in line
        assert "debug or info or warning or error" in line


class TestAuthToken:
    def test_it_is_kept_and_never_shown(self, load: Load) -> None:
        settings = load(ELIZA_SERVER_AUTH_TOKEN="a token of our own")
        assert settings.access.auth_token == "a token of our own"
        assert changed_settings(settings) == {"ELIZA_SERVER_AUTH_TOKEN": "***"}

    @pytest.mark.parametrize(
        ("url", "shown"),
        [
            ("postgresql://u:secret@one,two/x", "postgresql://u:***@one,two/x"),
            ("postgresql://u@h/x?password=secret&a=b", "postgresql://u@h/x?password=***&a=b"),
            ("postgresql://u@h/x?a=b&sslpassword=secret", "postgresql://u@h/x?a=b&sslpassword=***"),
            ("postgresql://u:secret@h/x?password=secret", "postgresql://u:***@h/x?password=***"),
            ("postgresql://u@h/x?sslmode=verify-full", "postgresql://u@h/x?sslmode=verify-full"),
        ],
    )
    def test_a_password_in_an_address_is_not_logged(self, url: str, shown: str) -> None:
        settings = Settings(database_url=url, database_listen_url=url)
        assert changed_settings(settings) == {"DATABASE_URL": shown, "DATABASE_LISTEN_URL": shown}

    @pytest.mark.parametrize(
        "value", ["s3cret", "fifteen letters", " a token with a space", "est_" + "a" * 20]
    )
    def test_a_bad_one_stops_the_start_and_is_not_repeated(self, load: Load, value: str) -> None:
        line = refusal(load, ELIZA_SERVER_AUTH_TOKEN=value)
        assert line.startswith("ELIZA_SERVER_AUTH_TOKEN is wrong: it must be at least 16 characters")
        assert value not in line

    @pytest.mark.parametrize("name", ["ELIZA_SERVER_AUTH_TOKEN", "eliza_server_auth_token"])
    def test_an_empty_one_does_not_leave_the_service_open(self, load: Load, name: str) -> None:
        line = refusal(load, **{name: ""})
        assert line.startswith("ELIZA_SERVER_AUTH_TOKEN is empty: it must be at least 16 characters")


class TestAccess:
    def test_there_is_no_authentication_by_default(self, load: Load) -> None:
        assert load().access == AccessSettings()
        assert load().access_token_seconds == 900
        assert set(load().rates.values()) == {None}

    def test_each_setting_is_passed_on(self, load: Load) -> None:
        settings = load(
            KEYS_FILE="/k.toml",
            ACCESS_TOKEN_KEYS_FILE="/s",
            JWT_KEYS="https://login.example.com/keys",
            JWT_ISSUER="i",
            JWT_AUDIENCE="a",
            JWT_USER_CLAIM="uid",
            JWT_TENANT_CLAIM="org",
            USERS_MAY_CHANGE="true",
        )
        assert settings.access == AccessSettings(
            Path("/k.toml"), None, Path("/s"), "https://login.example.com/keys", "i", "a", "uid", "org", True
        )

    def test_json_web_tokens_need_an_issuer_and_an_audience(self, load: Load) -> None:
        assert refusal(load, JWT_KEYS="/jwks.json", JWT_ISSUER="i") == (
            "JWT_AUDIENCE is not set: JWT_KEYS needs it"
        )
        assert len(refusal(load, JWT_KEYS="/jwks.json").splitlines()) == 2
        assert "JWT_KEYS is not set" in refusal(load, JWT_ISSUER="i")
        assert "JWT_KEYS is not set" in refusal(load, JWT_AUDIENCE="a")

    def test_the_keys_of_tokens_are_not_fetched_in_the_clear(self, load: Load) -> None:
        line = refusal(load, JWT_KEYS="http://login.example.com/keys", JWT_ISSUER="i", JWT_AUDIENCE="a")
        assert line.endswith("it must be a file or an https URL")

    @pytest.mark.parametrize("kind", RateKind)
    def test_rates_are_read(self, load: Load, kind: RateKind) -> None:
        name = f"RATE_{kind.upper()}"
        assert load(**{name: "10/minute"}).rates[kind] == Rate(10, 60)
        assert refusal(load, **{name: "10"}).startswith(f"{name} is '10': it must be a rate such as")


def test_the_policy_is_what_the_variables_say(load: Load) -> None:
    assert load().timeout_policy == TimeoutPolicy(TimeoutConfig(30, True, 720, 5), 5, 1440)
    given = load(
        SESSION_DEFAULT_TIMEOUT_MINUTES="10",
        SESSION_MIN_TIMEOUT_MINUTES="2",
        SESSION_MAX_TIMEOUT_MINUTES="100",
        SESSION_MAX_DURATION_MINUTES="90",
        SESSION_WARNING_THRESHOLD_MINUTES="3",
    ).timeout_policy
    assert given == TimeoutPolicy(TimeoutConfig(10, True, 90, 3), 2, 100)
    assert given.max_duration_minutes == 200


def test_the_command_line_comes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRPC_ADDRESS", "127.0.0.1:1")
    assert load_settings(grpc_address="127.0.0.1:2").grpc_address == "127.0.0.1:2"
    assert load_settings(grpc_address=None).grpc_address == "127.0.0.1:1"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("127.0.0.1:0", ("127.0.0.1", 0)),
        ("localhost:65535", ("localhost", 65535)),
        ("[::1]:50051", ("::1", 50051)),
        (":3000", ("0.0.0.0", 3000)),
    ],
)
def test_an_address_is_split_into_host_and_port(text: str, parts: tuple[str, int]) -> None:
    assert split_address(text) == parts


@pytest.mark.parametrize(
    "text", ["localhost", "127.0.0.1", "h:65536", "h:-1", "h:", "::1:80", "h:http", "h:8０", "h: 1"]
)
def test_what_is_no_address_stops_the_start(load: Load, text: str) -> None:
    for name in ("GRPC_ADDRESS", "REST_ADDRESS"):
        line = refusal(load, **{name: text})
        assert line.startswith(name)
        assert text in line
        assert "HOST:PORT" in line


@pytest.mark.parametrize(("grace", "drain"), [("0", 0), ("1", 0.9), ("10", 9), ("600", 599)])
def test_a_shutdown_has_time_left_for_closing(load: Load, grace: str, drain: float) -> None:
    assert load(SHUTDOWN_GRACE_SECONDS=grace).drain_seconds == pytest.approx(drain)
