"""How long the command line waits for a server."""

from typing import Any

from server.cli.agent_calls import call, find_activity
from server.shared_settings import SharedStoreSettings
from server.store.postgres.link import LONGEST_PAUSE_S
from server.store.postgres.place import CONNECT_SECONDS


class Asked:
    """Stubs of a server; notes how long each call may take."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.admin = self

    def GetAgentActivity(self, request: object, timeout: float) -> None:
        self.seconds.append(timeout)


def test_a_server_whose_database_is_away_has_the_time_to_say_so() -> None:
    """It waits, and may then be about to try once more."""
    asked: Any = Asked()
    call(asked.GetAgentActivity, object())
    find_activity(asked, "a")
    waits_s = SharedStoreSettings().database_wait_seconds + CONNECT_SECONDS + LONGEST_PAUSE_S
    assert len(asked.seconds) == 2
    assert all(seconds > waits_s for seconds in asked.seconds)
