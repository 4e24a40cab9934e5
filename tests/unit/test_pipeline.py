"""The way through the pipeline: what the health of the service hears of failed calls."""

from typing import Any

import pytest

from server.domain.errors import UnavailableError
from server.rpc.call import Call, Caller
from server.rpc.gate import OpenGate
from server.rpc.paths import PREFIX
from server.rpc.pipeline import CallPipeline
from tests.unit.test_audit import Here

METHOD = f"{PREFIX}SessionService/GetSession"


class Closed(OpenGate):
    """Cannot say who its callers are."""

    async def enter(self, method: str, caller: Caller) -> Call:
        raise UnavailableError("The keys of the identity provider cannot be had")


async def fail(request: Any, call: Any) -> Any:
    raise UnavailableError("The store cannot be used now")


@pytest.mark.parametrize(("gate", "troubles"), [(Closed(), 0), (OpenGate(), 1)])
async def test_trouble_with_credentials_is_none_of_the_store(gate: OpenGate, troubles: int) -> None:
    told: list[bool] = []
    pipeline = CallPipeline(
        lambda: told.append(True), max_calls=10, max_streams=10, slow_call_s=60, gate=gate
    )
    _, fault = await pipeline.answer(METHOD, fail, lambda raw: raw, None, Here())
    assert fault
    assert fault.code.name == "UNAVAILABLE"
    assert len(told) == troubles
