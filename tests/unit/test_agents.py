"""What may be registered as an agent."""

import math
from dataclasses import fields, replace

import pytest
from hypothesis import given

from server.domain.agents import (
    SETTINGS,
    Agent,
    AgentKind,
    AgentSettings,
    OpenAiSettings,
    WebhookSettings,
    check_agent,
)
from server.domain.errors import DomainError, InvalidFieldError, InvalidTimeoutConfigError, MissingFieldsError
from server.domain.timeouts import NOTHING_NAMED, PartialTimeoutConfig, resolve
from tests.unit.samples import AGENT, POLICY, T0, partials


def agent(name: str = "helper", timeout: PartialTimeoutConfig = NOTHING_NAMED) -> Agent:
    return Agent(AGENT, name, AgentKind.ECHO, T0, T0, timeout)


@pytest.mark.parametrize("name", ["a", "x" * 100, "\U0001f600" * 100, "Frau Müller", "助手", " "])
def test_a_printable_name_of_up_to_100_characters_is_accepted(name: str) -> None:
    check_agent(agent(name), POLICY)


@pytest.mark.parametrize("name", ["x" * 101, "a\nb", "a\0b", "\x7f", "\u202e", "\ud800"])
def test_a_name_too_long_or_not_printable_is_refused(name: str) -> None:
    with pytest.raises(InvalidFieldError) as caught:
        check_agent(agent(name), POLICY)
    assert caught.value.details["field"] == "name"
    assert "100" in caught.value.details["reason"]


def test_a_name_is_required() -> None:
    with pytest.raises(MissingFieldsError) as caught:
        check_agent(agent(""), POLICY)
    assert caught.value.details == {"missingFields": "name"}


@pytest.mark.parametrize(
    "timeout",
    [
        PartialTimeoutConfig(),
        PartialTimeoutConfig(timeout_minutes=5.0),
        PartialTimeoutConfig(timeout_minutes=1440.0),
        PartialTimeoutConfig(auto_renew=False),
        PartialTimeoutConfig(max_duration_minutes=2880.0),
        PartialTimeoutConfig(max_duration_minutes=5.0),
        PartialTimeoutConfig(timeout_minutes=60.0, max_duration_minutes=60.0),
        PartialTimeoutConfig(warning_threshold_minutes=1.0),
    ],
)
def test_timeout_settings_in_range_are_accepted(timeout: PartialTimeoutConfig) -> None:
    check_agent(agent(timeout=timeout), POLICY)


@pytest.mark.parametrize(
    ("field", "timeout"),
    [
        ("timeout_minutes", PartialTimeoutConfig(timeout_minutes=4.99)),
        ("timeout_minutes", PartialTimeoutConfig(timeout_minutes=1440.01)),
        ("timeout_minutes", PartialTimeoutConfig(timeout_minutes=math.inf)),
        ("timeout_minutes", PartialTimeoutConfig(timeout_minutes=math.nan)),
        ("max_duration_minutes", PartialTimeoutConfig(max_duration_minutes=2880.01)),
        ("max_duration_minutes", PartialTimeoutConfig(timeout_minutes=60.0, max_duration_minutes=59.0)),
        ("max_duration_minutes", PartialTimeoutConfig(max_duration_minutes=4.0)),
        ("max_duration_minutes", PartialTimeoutConfig(max_duration_minutes=math.nan)),
        ("warning_threshold_minutes", PartialTimeoutConfig(warning_threshold_minutes=0.99)),
        ("warning_threshold_minutes", PartialTimeoutConfig(warning_threshold_minutes=math.inf)),
        ("warning_threshold_minutes", PartialTimeoutConfig(warning_threshold_minutes=math.nan)),
    ],
)
def test_settings_out_of_range_are_errors_not_clamped(field: str, timeout: PartialTimeoutConfig) -> None:
    with pytest.raises(InvalidTimeoutConfigError) as caught:
        check_agent(agent(timeout=timeout), POLICY)
    assert caught.value.details["field"] == field


@given(partials())
def test_a_timeout_that_passes_is_what_a_session_gets(timeout: PartialTimeoutConfig) -> None:
    try:
        check_agent(agent(timeout=timeout), POLICY)
    except DomainError:
        return
    given = resolve(POLICY, NOTHING_NAMED, timeout)
    for field in ("timeout_minutes", "auto_renew", "warning_threshold_minutes"):
        asked = getattr(timeout, field)
        assert asked is None or getattr(given, field) == asked
    # A duration that is shorter than the service's own timeout, which the agent leaves in force, gives way to
    # it.
    asked = timeout.max_duration_minutes
    assert asked is None or given.max_duration_minutes == max(asked, given.timeout_minutes)


HOOK = WebhookSettings("https://agent.example/hook", "env:AGENT_SECRET_X")
MODEL = OpenAiSettings("a-model")
KIND_OF = {settings_class: kind for kind, settings_class in SETTINGS.items()}


def checked(settings: AgentSettings, kind: AgentKind | None = None) -> None:
    """Checks an agent with these settings, of the kind that they belong to unless told otherwise."""
    check_agent(replace(agent(), kind=kind or KIND_OF[type(settings)], settings=settings), POLICY)


def refused(settings: AgentSettings, field: str) -> str:
    """Asserts that the field cannot be so; returns all that the error says."""
    with pytest.raises(InvalidFieldError) as caught:
        checked(settings)
    assert caught.value.details["field"] == field
    return f"{caught.value} {caught.value.details}"


@pytest.mark.parametrize(
    ("settings", "field", "good", "bad"),
    [
        (HOOK, "timeout_seconds", (1, 1.5, 3600), (0, 0.99, -1, 3600.01, math.inf, -math.inf, math.nan)),
        (HOOK, "history_messages", (0, 1, 100), (-1, 101, 2**31 - 1, -(2**31))),
        (MODEL, "temperature", (None, 0, 0.5, 2), (-0.01, 2.01, math.inf, math.nan)),
        (MODEL, "top_p", (None, 0, 0.5, 1), (-0.01, 1.01, -math.inf, math.nan)),
        (MODEL, "max_tokens", (None, 1, 2**31 - 1), (0, -1, 2**31)),
        (MODEL, "history_messages", (1, 100), (0, -1, 101)),
        (MODEL, "history_characters", (1, 1_000_000), (0, -1, 1_000_001)),
        (MODEL, "timeout_seconds", (1, 3600), (0, 0.99, 3601, math.inf, math.nan)),
        (MODEL, "model", ("m", " ", "x" * 100, "org/model:7b"), ("x" * 101, "a\nb", "\0", "\ud800")),
        (MODEL, "system_prompt", ("", "x" * 32_768, "Zoë\n\t\U0001f600"), ("x" * 32_769,)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_setting_is_accepted_within_its_bounds_only(
    settings: AgentSettings, field: str, good: tuple[object, ...], bad: tuple[object, ...]
) -> None:
    for value in good:
        checked(replace(settings, **{field: value}))
    for value in bad:
        refused(replace(settings, **{field: value}), f"{KIND_OF[type(settings)]}.{field}")


ADDRESSES = [(HOOK, "url"), (MODEL, "base_url")]


@pytest.mark.parametrize(("settings", "field"), ADDRESSES, ids=["webhook", "openai"])
class TestAddresses:
    @pytest.mark.parametrize(
        "url",
        [
            *(
                "http://a",
                "https://a",
                "HTTPS://A.example/",
                "https://a:1",
                "https://a:65535/x/y?z=%20&u=@",
                "https://a/@b",
                "https://a:/",
            ),
            *(
                "http://127.0.0.1:8080/v1",
                "http://[::1]/",
                "http://[2001:db8::1]:8080/x",
                "https://xn--nxasmq6b/",
                "https://a/" + "x" * 1990,
            ),
        ],
        ids=lambda url: url[:40],
    )
    def test_an_http_url_is_accepted(self, settings: AgentSettings, field: str, url: str) -> None:
        """Where it leads is not judged here."""
        checked(replace(settings, **{field: url}))

    @pytest.mark.parametrize(
        "url",
        [
            *(
                "x",
                "a.example",
                "//a",
                "/x",
                "ftp://a",
                "file:///etc/passwd",
                "javascript:alert(1)",
                "ws://a",
                "unix:/x",
                "http:a",
                "https:///x",
            ),
            *(
                "http://",
                "http://:80",
                "http://?x",
                "http://a:0",
                "http://a:65536",
                "http://a:-1",
                "http://a:x",
                "http://a:8\u0660",
            ),
            *("http://[::1", "http://::1]/", "http://[x]/", "http://[127.0.0.1]/x y"),
            *(
                " http://a",
                "http://a ",
                "http://a b",
                "http://a/\n",
                "http://a\r\nHost: b",
                "ht\ntp://a",
                "http://a/\0",
                "http://a/\x7f",
                "\thttp://a",
            ),
            *("http://ä", "http://a/ä", "http://a/\u200b", "http://\uff41", "https://a/" + "x" * 1991),
        ],
        ids=lambda url: ascii(url[:40]),
    )
    def test_any_other_url_is_refused(self, settings: AgentSettings, field: str, url: str) -> None:
        refused(replace(settings, **{field: url}), f"{KIND_OF[type(settings)]}.{field}")

    @pytest.mark.parametrize(
        "url",
        ["https://u@a", "https://u:hunter2@a/", "https://:hunter2@a", "https://@a", "https://a/#hunter2"],
    )
    def test_a_user_or_a_fragment_is_not_told(self, settings: AgentSettings, field: str, url: str) -> None:
        assert "hunter2" not in refused(
            replace(settings, **{field: url}), f"{KIND_OF[type(settings)]}.{field}"
        )


@pytest.mark.parametrize(
    ("settings", "field"), [(HOOK, "secret"), (MODEL, "api_key")], ids=["webhook", "openai"]
)
class TestReferences:
    @pytest.mark.parametrize(
        "reference",
        ["env:X", "env:AGENT_SECRET_ä", "file:/x", "file:/run/secrets/a b", "file:/a:b", "env:x:y"],
    )
    def test_a_reference_to_a_secret_is_accepted(
        self, settings: AgentSettings, field: str, reference: str
    ) -> None:
        checked(replace(settings, **{field: reference}))

    @pytest.mark.parametrize(
        "reference",
        [
            *(
                "hunter2",
                "sk-hunter2",
                "whsec_hunter2",
                ":hunter2",
                "ENV:hunter2",
                "env hunter2",
                " env:hunter2",
                "http:hunter2",
            ),
            *(
                "env:",
                "file:",
                "file:hunter2",
                "file:../hunter2",
                "file:./hunter2",
                "env:hunter2\n",
                "env:hunter2\0",
                "file:/\0hunter2",
            ),
        ],
        ids=ascii,
    )
    def test_anything_else_may_be_the_secret_and_is_not_told(
        self, settings: AgentSettings, field: str, reference: str
    ) -> None:
        said = refused(replace(settings, **{field: reference}), f"{KIND_OF[type(settings)]}.{field}")
        assert "hunter2" not in said
        assert "env:NAME" in said


@pytest.mark.parametrize(
    ("settings", "missing"),
    [
        (replace(HOOK, url=""), "webhook.url"),
        (replace(HOOK, secret=""), "webhook.secret"),
        (WebhookSettings("", ""), "webhook.url,webhook.secret"),
        (replace(MODEL, model=""), "openai.model"),
    ],
)
def test_a_missing_setting_is_named(settings: AgentSettings, missing: str) -> None:
    with pytest.raises(MissingFieldsError) as caught:
        checked(settings)
    assert caught.value.details == {"missingFields": missing}


def test_an_endpoint_may_want_no_key_but_has_an_address() -> None:
    checked(replace(MODEL, api_key=""))
    refused(replace(MODEL, base_url=""), "openai.base_url")


@pytest.mark.parametrize("kind", SETTINGS)
def test_settings_are_required_and_are_those_of_the_kind(kind: AgentKind) -> None:
    for settings in (None, HOOK, MODEL):
        if not isinstance(settings, SETTINGS[kind]):
            with pytest.raises(MissingFieldsError) as caught:
                checked(settings, kind)
            assert caught.value.details == {"missingFields": str(kind)}


@pytest.mark.parametrize("kind", [kind for kind in AgentKind if kind not in SETTINGS])
def test_a_kind_without_settings_has_none(kind: AgentKind) -> None:
    checked(None, kind)
    for settings, field in ((HOOK, "webhook"), (MODEL, "openai")):
        with pytest.raises(InvalidFieldError) as caught:
            checked(settings, kind)
        assert caught.value.details["field"] == field
        assert settings is MODEL or HOOK.secret not in str(caught.value.details)


def test_every_setting_of_a_kind_has_a_test_of_its_bounds() -> None:
    """Of numbers and texts above; addresses and references have tests of their own."""
    apart = {"url", "secret", "base_url", "api_key"}
    tested = {
        (type(row[0]), row[1])
        for mark in test_a_setting_is_accepted_within_its_bounds_only.pytestmark
        for row in mark.args[1]
    }
    assert {
        (kind, field.name) for kind in KIND_OF for field in fields(kind) if field.name not in apart
    } == tested
