"""GET /api/agents: the list that clients choose an agent from, as the published npm package reads it."""

import json
import shutil
import subprocess
from pathlib import Path

from eliza.sessions.v1 import agent_pb2
from eliza.sessions.v1.agent_service_pb2 import CreateAgentRequest
from rest_facade.routes.agents import MAX_AGENTS, PATH
from tests.contract import openapi
from tests.service.agents.worker import Worker, stream_agent
from tests.support import node
from tests.support.clients import agent_ids
from tests.support.service import ECHO, Serve, Start

CLIENT = Path(__file__).parent / "clients" / "agents.mjs"


def listed(service: Serve) -> list[dict[str, str]]:
    """The agents, as REST lists them."""
    url = f"http://{service.rest}{PATH}"
    answer = service.http.get(url, timeout=10)
    assert answer.status_code == 200
    assert openapi.problems("GET", url, 200, answer.headers, answer.content) == []
    body = answer.json()
    assert (list(body), body["success"], list(body["data"])) == (["success", "data"], True, ["agents"])
    return body["data"]["agents"]


def status(service: Serve, agent_id: str) -> str:
    (found,) = (agent["status"] for agent in listed(service) if agent["id"] == agent_id)
    return found


def test_it_tells_id_name_and_status_and_nothing_of_the_settings(rest_service: Serve) -> None:
    settings = agent_pb2.WebhookSettings(url="https://example.com/hook", secret="env:AGENT_SECRET_TEST")
    agent = agent_pb2.Agent(name="A hook of ours", kind=agent_pb2.AGENT_KIND_WEBHOOK, webhook=settings)
    made = rest_service.agents.CreateAgent(CreateAgentRequest(agent=agent), timeout=10).agent
    found = listed(rest_service)
    assert [agent["id"] for agent in found] == agent_ids(rest_service)
    assert {"id": ECHO, "name": "echo", "status": "active"} in found
    assert {"id": made.agent_id, "name": "A hook of ours", "status": "active"} in found


def test_an_agent_without_workers_is_inactive(rest_service: Serve) -> None:
    agent_id = stream_agent(rest_service)
    assert status(rest_service, agent_id) == "inactive"
    with Worker(rest_service.channel, agent_id):
        assert status(rest_service, agent_id) == "active"


def test_the_published_package_reads_it(service: Serve, tmp_path: Path) -> None:
    agent_id = stream_agent(service, "for the package")
    (tmp_path / "node_modules").symlink_to(node.install())
    shutil.copy(CLIENT, tmp_path)
    command = [node.NODE, CLIENT.name, f"http://{service.rest}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    agents = json.loads(done.stdout)["agents"]
    assert {"id": agent_id, "name": "for the package", "status": "inactive"} in agents
    assert [agent["id"] for agent in agents] == agent_ids(service)


def test_other_methods_and_paths_are_not_there(rest_service: Serve) -> None:
    url = f"http://{rest_service.rest}{PATH}"
    assert rest_service.http.post(url, json={}, timeout=10).status_code == 405
    assert rest_service.http.get(f"{url}/{ECHO}", timeout=10).status_code == 404
    assert rest_service.http.head(url, timeout=10).status_code == 200


def test_it_is_bounded(start: Start) -> None:
    service = start()
    agents = [
        agent_pb2.Agent(name=f"agent {number}", kind=agent_pb2.AGENT_KIND_ECHO)
        for number in range(MAX_AGENTS)
    ]
    # As many at a time as a connection may have open.
    for begin in range(0, MAX_AGENTS, 100):
        making = [
            service.agents.CreateAgent.future(CreateAgentRequest(agent=agent), timeout=60)
            for agent in agents[begin : begin + 100]
        ]
        for one in making:
            one.result()
    found = listed(service)
    assert [agent["id"] for agent in found] == agent_ids(service)
    assert len(found) == MAX_AGENTS
