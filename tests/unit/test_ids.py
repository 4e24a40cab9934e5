"""UUIDs: any version, either letter case, and nothing else."""

import re
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain.errors import InvalidUuidError
from server.domain.ids import id_at, new_id, uuid_field


@given(st.uuids())
def test_any_uuid_is_accepted_in_either_case(value: object) -> None:
    assert uuid_field("agent_id", str(value)) == str(value)
    assert uuid_field("agent_id", str(value).upper()) == str(value)


@pytest.mark.parametrize(
    "value", ["00000000-0000-0000-0000-000000000000", "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF"]
)
def test_a_uuid_of_no_version_is_accepted(value: str) -> None:
    assert uuid_field("user_id", value) == value.lower()


@pytest.mark.parametrize(
    "value",
    [
        "",
        "x",
        "11111111-1111-4111-8111-11111111111",
        "11111111-1111-4111-8111-1111111111111",
        "11111111-1111-4111-8111-11111111111g",
        "11111111111141118111111111111111",
        "{11111111-1111-4111-8111-111111111111}",
        "urn:uuid:11111111-1111-4111-8111-111111111111",
        " 11111111-1111-4111-8111-111111111111",
        "11111111-1111-4111-8111-111111111111\n",
        "1111111-11111-4111-8111-111111111111",
        "１1111111-1111-4111-8111-111111111111",
        "11111111-1111-4111-8111-11111111111\u0661",
        "11111111\u20101111-4111-8111-111111111111",
    ],
)
def test_a_malformed_uuid_is_refused(value: str) -> None:
    with pytest.raises(InvalidUuidError) as caught:
        uuid_field("user_id", value)
    assert caught.value.details == {"field": "user_id", "value": value}


@given(st.text() | st.from_regex(r"[0-9a-fA-F-]{30,40}"))
def test_any_text_is_one_or_is_refused(value: str) -> None:
    well_formed = re.fullmatch("-".join(rf"[0-9a-fA-F]{{{n}}}" for n in (8, 4, 4, 4, 12)), value)
    if well_formed:
        assert uuid_field("f", value) == value.lower()
    else:
        with pytest.raises(InvalidUuidError):
            uuid_field("f", value)


def test_new_ids_are_uuids_and_differ() -> None:
    ids = {new_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(uuid_field("f", one) == one for one in ids)


@given(st.integers(0, 2**48 - 1), st.integers(0, 2**48 - 1))
def test_ids_of_an_instant_are_of_version_7_and_in_its_order(first_ms: int, second_ms: int) -> None:
    first, second = id_at(first_ms), id_at(second_ms)
    for made, ms in ((first, first_ms), (second, second_ms)):
        assert uuid_field("f", made) == made
        assert uuid.UUID(made).version == 7
        assert uuid.UUID(made).variant == uuid.RFC_4122
        assert uuid.UUID(made).int >> 80 == ms
    assert first_ms == second_ms or (first < second) == (first_ms < second_ms)


@pytest.mark.parametrize(("ms", "told"), [(-1, 0), (2**48, 2**48 - 1)])
def test_an_instant_that_no_id_can_tell_is_the_nearest_one(ms: int, told: int) -> None:
    assert uuid.UUID(id_at(ms)).int >> 80 == told


def test_ids_of_the_same_instant_differ() -> None:
    assert len({id_at(5) for _ in range(1000)}) == 1000
