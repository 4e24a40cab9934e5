"""`eliza-sessions status`, through real services."""

import json
import re
import time
from functools import partial
from pathlib import Path

import pytest

from eliza.sessions.v1.session_service_pb2 import WatchSessionRequest
from tests.service.access.world import make_world
from tests.service.agents.worker import Worker, stream_agent
from tests.support.clients import clean_failure, create, invoke, replies, send
from tests.support.service import UNKNOWN, Serve, Start
from tests.support.waiting import until

INSTANT = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


def shown(service: Serve) -> dict[str, str]:
    """What is printed for people, by the names on the left."""
    ended = invoke("status", "--server", service.grpc)
    assert (ended.status, ended.errors) == (0, ""), ended
    return dict(re.split(r":\s+", line, maxsplit=1) for line in ended.out.splitlines())


def told(service: Serve) -> dict:
    """What is printed for programs."""
    ended = invoke("status", "--json", "--server", service.grpc)
    assert (ended.status, ended.errors) == (0, ""), ended
    return json.loads(ended.out)


@pytest.mark.sqlite
def test_a_fresh_service_is_well(start: Start) -> None:
    service = start("--no-rest", DELIVERY_ATTEMPTS="3")
    facts, values = shown(service), told(service)
    assert re.fullmatch(r"\d\S*, schema \d+, open", facts["version"])
    assert re.fullmatch(INSTANT, facts["started"])
    assert facts["store"].startswith(str(Path(values["store"]["path"])))
    assert (facts["backup"], facts["check"]) == ("none is known of", "none is known of")
    assert facts["waiting"] == "0 messages"
    assert facts["refusals"] == "none since the start"
    assert values["changedSettings"]["DELIVERY_ATTEMPTS"] == "3"
    assert {part["health"] for part in values["parts"].values()} == {"healthy"}
    assert (values["lastBackup"], values["lastCheck"], values["isProtected"]) == (None, None, False)
    assert 0 < values["store"]["diskFreeBytes"] < values["store"]["diskTotalBytes"]


@pytest.mark.sqlite
def test_what_happened_is_in_its_figures(start: Start, tmp_path: Path) -> None:
    service = start("--no-rest")
    agent_id = stream_agent(service)
    answered, waiting = create(service).session_id, create(service, agent_id).session_id
    send(service, answered, "Hello")
    replies(service, answered, 1)
    send(service, waiting, "Hello?")
    assert invoke("sessions", "--server", service.grpc, "show", UNKNOWN).status == 1
    url = f"sqlite:///{told(service)['store']['path']}"
    assert invoke("backup", "--database-url", url, str(tmp_path / "copy.db")).status == 0
    assert invoke("check", "--database-url", url).status == 0
    values, facts = told(service), shown(service)
    assert (values["openDeliveries"], values["liveSessions"]) == (1, 2)
    assert values["oldestDeliverySeconds"] > 0
    assert re.fullmatch(r"1 messages, the oldest for \S+ s", facts["waiting"])
    assert values["refusals"] == {"SESSION_NOT_FOUND": 1}
    assert facts["refusals"] == "SESSION_NOT_FOUND 1"
    assert re.fullmatch(rf"{INSTANT}, good: .*copy\.db.*", facts["backup"])
    assert re.fullmatch(rf"{INSTANT}, good: .+", facts["check"])
    assert values["lastBackup"]["isGood"] is values["lastCheck"]["isGood"] is True
    until(lambda: told(service)["replyP95Ms"] is not None, "the time of the reply", 30)


def test_the_key_is_that_of_an_administrator_of_all_tenants(tmp_path: Path) -> None:
    world = make_world(partial(Serve, tmp_path), tmp_path)
    for caller in ("admin", "service", "user"):
        ended = invoke("status", "--server", world.service.grpc, ELIZA_API_KEY=world.keys[caller])
        assert clean_failure(ended).startswith("Error: PERMISSION_DENIED: "), caller
    assert clean_failure(invoke("status", "--server", world.service.grpc)).startswith(
        "Error: UNAUTHENTICATED: "
    )
    assert world.service.stop() == 0


def test_a_server_that_is_away_is_told_in_a_line() -> None:
    begun_s = time.monotonic()
    away = invoke("status", "--server", "127.0.0.1:1")
    assert clean_failure(away).startswith("Error: UNAVAILABLE: ")
    assert time.monotonic() - begun_s < 20


def test_the_workers_of_an_agent_are_shown(start: Start) -> None:
    service = start("--no-rest", DELIVERY_ATTEMPTS="1")
    agent_id = stream_agent(service)
    session_id = create(service, agent_id).session_id
    with Worker(service.channel, agent_id) as worker:
        send(service, session_id, "fails")
        worker.fail(worker.next(), "no", final=True)
        send(service, session_id, "in hand")
        worker.next()
        send(service, session_id, "waits")
        ended = invoke("agents", "--server", service.grpc, "show", agent_id)
        assert (ended.status, ended.errors) == (0, ""), ended
        about, _, table = ended.out.partition("\n\n")
        facts = dict(re.split(r":\s+", line, maxsplit=1) for line in about.splitlines())
        assert facts["failed"] == "1 messages got no reply, and can be delivered anew"
        assert re.fullmatch(r"\S+ s", facts["oldest"])
        heading, row = [re.split(r"  +", line) for line in table.splitlines()]
        assert heading == ["WORKER", "ADDRESS", "CREDENTIAL", "CONNECTED", "IN HAND", "STATE"]
        assert re.fullmatch(INSTANT, row[3])
        assert row[4:] == ["1 of 1", "works"]
        activity = json.loads(invoke("agents", "--server", service.grpc, "show", agent_id, "--json").out)[
            "activity"
        ]
        assert (activity["waiting"], activity["failed"], len(activity["workers"])) == (1, 1, 1)
        assert activity["workers"][0]["inHand"] == 1


def test_a_tail_that_is_refused_for_long_ends_with_the_refusal(start: Start) -> None:
    service = start("--no-rest", RATE_WATCH="1/hour")
    session_id = create(service).session_id
    send(service, session_id, "Hello")
    stream = service.sessions.WatchSession(WatchSessionRequest(session_id=session_id), timeout=30)
    next(iter(stream))
    stream.cancel()
    refused = clean_failure(invoke("sessions", "--server", service.grpc, "tail", session_id))
    assert refused.startswith("Error: RESOURCE_EXHAUSTED: Too many requests")
