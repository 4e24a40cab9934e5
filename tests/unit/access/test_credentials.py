"""What a call presents: one credential, in one of two headers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.access.credentials import Credentials, read_credentials
from server.domain.errors import DomainError, InvalidUuidError, UnauthenticatedError


def test_nothing_is_no_credential() -> None:
    assert read_credentials(None) == read_credentials([]) == Credentials()
    assert read_credentials([("user-agent", "x"), ("x_api_key", "a"), ("x-api-keys", "b")]) == Credentials()


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
@pytest.mark.parametrize("name", ["authorization", "Authorization", "AUTHORIZATION"])
def test_a_bearer_token_is_read_in_any_case(scheme: str, name: str) -> None:
    assert read_credentials([(name, f"{scheme} abc")]).secret == "abc"


def test_each_part_is_read() -> None:
    metadata = [
        ("X-API-Key", "abc"),
        ("x-on-behalf-of", "user"),
        ("eliza-facade-key", "facade"),
        ("eliza-client-address", "192.0.2.1"),
    ]
    assert read_credentials(metadata, ("a.example",)) == Credentials(
        "abc", "user", "facade", "192.0.2.1", ("a.example",)
    )


@pytest.mark.parametrize(
    "value", ["Basic YTpi", "Digest x=y", "Bearerabc", "", "Negotiate", "basic Bearer a"]
)
def test_another_authorization_is_none_of_ours(value: str) -> None:
    assert read_credentials([("authorization", value)]) == Credentials()
    both = [("authorization", value), ("x-api-key", "abc"), ("authorization", "Bearer abc")]
    assert read_credentials(both).secret == "abc"


def test_equal_values_are_one_credential() -> None:
    assert read_credentials([("authorization", "Bearer abc"), ("x-api-key", "abc")]).secret == "abc"


@pytest.mark.parametrize(
    "metadata",
    [
        [("authorization", "Bearer abc"), ("x-api-key", "abd")],
        [("x-api-key", "abc"), ("x-api-key", "abc")],
        [("x-api-key", "abc"), ("X-API-KEY", "abd")],
        [("authorization", "Bearer abc"), ("Authorization", "bearer abc")],
        [("x-on-behalf-of", "a"), ("x-on-behalf-of", "a")],
        [("x-api-key", ""), ("x-api-key", "abc")],
        [("eliza-facade-key", "a"), ("eliza-facade-key", "a")],
        [("eliza-client-address", "a"), ("eliza-client-address", "b")],
    ],
)
def test_two_of_a_kind_are_refused(metadata: list[tuple[str, str]]) -> None:
    with pytest.raises(UnauthenticatedError) as refused:
        read_credentials(metadata)
    assert "ab" not in str(refused.value)


@pytest.mark.parametrize(
    "metadata",
    [
        [("authorization", "Bearer abc"), ("x-api-key", "abd")],
        [("x-api-key", "abc"), ("X-API-KEY", "abd")],
        [("authorization", "Bearer abc"), ("authorization", "Bearer abd")],
    ],
)
def test_an_open_service_does_not_mind_two(metadata: list[tuple[str, str]]) -> None:
    assert read_credentials(metadata, is_open=True).secret in ("abc", "abd")
    # Whom a caller speaks for is another matter.
    with pytest.raises(UnauthenticatedError):
        read_credentials([*metadata, ("x-on-behalf-of", "a"), ("x-on-behalf-of", "b")], is_open=True)


def test_folded_headers_are_one_wrong_credential() -> None:
    assert read_credentials([("authorization", "Bearer abc, Bearer abc")]).secret == "abc, Bearer abc"


def test_an_empty_user_is_not_everybody() -> None:
    with pytest.raises(InvalidUuidError) as refused:
        read_credentials([("x-api-key", "abc"), ("x-on-behalf-of", " ")])
    assert refused.value.details["field"] == "X-On-Behalf-Of"


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["authorization", "X-Api-Key", "x-on-behalf-of", "te", "eliza-client-address"]),
            st.text() | st.binary() | st.text().map("Bearer ".__add__),
        ),
        max_size=4,
    )
)
def test_any_metadata_is_read_or_refused(metadata: list[tuple[str, str | bytes]]) -> None:
    try:
        found = read_credentials(metadata)
    except DomainError:
        return
    sent = [
        value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value
        for _, value in metadata
    ]
    assert not found.secret or any(found.secret in value for value in sent)
