"""The alarm of a pump, on the loop that the service runs on."""

import asyncio

import pytest
import uvloop

from server.delivery.alarm import Alarm


@pytest.mark.parametrize("seconds", [0.0004, 0, -0.01])
def test_an_alarm_that_is_about_to_end_can_be_set_again(seconds: float) -> None:
    async def ring() -> list[int]:
        rung: list[int] = []
        alarm = Alarm(lambda: rung.append(alarm.take_waited_ms()))
        alarm.set(seconds, 1)
        alarm.set(3600, 2)
        async with asyncio.timeout(30):
            while not rung:  # noqa: ASYNC110 - nothing else tells
                await asyncio.sleep(0)
        return rung

    assert uvloop.run(ring()) == [1]
