"""The console of a real service: what it shows is what the service does."""

from pathlib import Path

import pytest
import requests

from tests.support.clients import invoke
from tests.support.service import Serve, Start
from tests.support.waiting import until


def overview(service: Serve, **headers: str) -> dict:
    answer = requests.get(f"http://{service.rest}/console/data/overview", headers=headers, timeout=20)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_the_figures_are_those_of_the_service(start: Start) -> None:
    service = start()
    before = overview(service)["now"]
    session_id = service.create()["sessionId"]
    body = {"content": "Hello!", "transport": "http"}
    assert service.http.post(f"{service.url}/{session_id}/messages", json=body, timeout=60).status_code == 201
    assert service.http.get(f"{service.url}/{session_id[:-1]}/nothing", timeout=20).status_code == 404

    def counted() -> bool:
        now = overview(service)["now"]
        return now["liveSessions"] == before["liveSessions"] + 1 and now["messages"] > 0

    until(counted, "the session and the message")
    now = overview(service)["now"]
    assert now["storeBytes"] > 0
    assert now["replyP50"] is None or now["replyP50"] > 0


@pytest.mark.sqlite
def test_the_system_page_tells_of_this_service(start: Start) -> None:
    service = start(LOG_LEVEL="debug")
    part = requests.get(f"http://{service.rest}/console/parts/system", timeout=20)
    assert part.status_code == 200
    for told in ("LOG_LEVEL", "debug", "store.db", "free of", "healthy", "none noted", "open"):
        assert told in part.text, told


def test_each_key_sees_what_it_may(start: Start, tmp_path: Path) -> None:
    keys = str(tmp_path / "keys.toml")
    rows = (("all", "admin", "*"), ("one", "admin", ""), ("service", "service", ""))
    made = {
        name: invoke(
            "keys", "add", "--role", role, "--id", name, "--tenant", tenant, "--file", keys
        ).out.strip()
        for name, role, tenant in rows
    }
    service = start(KEYS_FILE=keys)

    def statuses(key: str) -> list[int]:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        paths = ("console", "console/data/key", "console/data/overview", "console/parts/system")
        return [
            requests.get(f"http://{service.rest}/{path}", headers=headers, timeout=20).status_code
            for path in paths
        ]

    assert statuses(made["all"]) == [200, 200, 200, 200]
    assert statuses(made["one"]) == [200, 200, 403, 403]
    assert statuses(made["service"]) == [200, 200, 403, 403]
    assert statuses("es_of_nobody_0123456789abcdef") == [200, 401, 401, 401]
    assert statuses("")[2:] == [401, 401]
    log = service.log()
    assert not any(key in log for key in made.values())
