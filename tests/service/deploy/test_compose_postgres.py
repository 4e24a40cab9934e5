"""deploy/compose.postgres.yaml, three servers on one PostgreSQL: compose takes it, and it fits together."""

import json
import os
import re
import shlex
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from server.environment import load_settings
from server.setting_types import read_networks
from tests.service.deploy.programs import DEPLOY, complete, program, run
from tests.service.docs.pages import ROOT, example

pytestmark = pytest.mark.deploy("compose")

FILE: Final = DEPLOY / "compose.postgres.yaml"
SERVERS: Final = ("server-1", "server-2", "server-3")
FACADES: Final = ("rest-1", "rest-2")
PINNED: Final = re.compile(r"([a-z]+/)?[a-z-]+:v?\d+\.\d+[\w.-]*@sha256:[0-9a-f]{64}")
PASSWORD: Final = "any :/@ character"

Service = dict[str, Any]


def config(*options: str) -> dict[str, Service]:
    """The services that compose makes of the file, with all that is implied written out."""
    environment = {**os.environ, "POSTGRES_PASSWORD": PASSWORD}
    return json.loads(
        run("docker-compose", "-f", FILE, *options, "config", "--format", "json", env=environment)
    )["services"]


@pytest.fixture(scope="module")
def services() -> dict[str, Service]:
    """All of them."""
    return config("--profile", "metrics")


def test_compose_takes_the_commands_of_the_docs() -> None:
    secret, up = example("compose-postgres").splitlines()
    assert secret == 'echo "POSTGRES_PASSWORD=$(openssl rand -hex 24)" > deploy/.env'
    words = shlex.split(up)
    assert (words[:3], words[4:]) == (["docker", "compose", "-f"], ["up", "-d", "--build"])
    assert ROOT / words[3] == FILE
    head = FILE.read_text().partition("\nname:")[0]
    assert f"#   {secret}\n" in head
    assert f"#   {up}\n" in head
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert "/deploy/.env" in ignored


def test_without_a_password_compose_says_where_it_belongs() -> None:
    environment = {name: text for name, text in os.environ.items() if name != "POSTGRES_PASSWORD"}
    line = [program("docker-compose"), "-f", str(FILE), "--env-file", os.devnull, "config", "-q"]
    done = complete(line, 60, env=environment)
    assert done.returncode != 0
    assert "write it to deploy/.env" in done.stderr


def test_the_metrics_are_a_profile(services: dict[str, Service]) -> None:
    running = {"database", *SERVERS, *FACADES, "front"}
    assert set(config()) == running
    assert set(services) == running | {"prometheus", "grafana"}


def test_no_container_may_do_more_than_it_has_to(services: dict[str, Service]) -> None:
    for name, service in services.items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["logging"]["options"]["max-size"], name
        assert {one["host_ip"] for one in service.get("ports", ())} <= {"127.0.0.1"}, name
    # As root it would need rights to become its ordinary user.
    assert services["database"]["user"] == "999:999"
    published = [one["published"] for service in services.values() for one in service.get("ports", ())]
    assert sorted(published) == ["3000", "3100", "50051", "9090"]


def test_other_images_are_pinned(services: dict[str, Service]) -> None:
    for name in ("database", "front", "prometheus", "grafana"):
        assert PINNED.fullmatch(services[name]["image"]), name


def test_each_server_has_the_same_store_and_the_time_to_drain(services: dict[str, Service]) -> None:
    database = services["database"]["environment"]
    assert database["POSTGRES_PASSWORD"] == PASSWORD
    for name in SERVERS:
        service = services[name]
        settings = service["environment"]
        user, db = database["POSTGRES_USER"], database["POSTGRES_DB"]
        assert settings["DATABASE_URL"] == f"postgresql://{user}@database/{db}"
        assert settings.pop("PGPASSWORD") == PASSWORD
        assert {one.lower() for one in settings} <= set(type(load_settings()).model_fields)
        assert service["stop_grace_period"] == "20s"
        assert service["depends_on"]["database"]["condition"] == "service_healthy"
        assert "volumes" not in service
        assert service["command"] == ["serve", "--no-rest"]


def test_the_facades_have_all_servers(services: dict[str, Service]) -> None:
    for name in FACADES:
        words = services[name]["command"]
        (alias,) = re.findall(r"^dns:///([a-z]+):50051$", words[-1])
        for server in SERVERS:
            assert services[server]["networks"]["default"]["aliases"] == [alias]
        assert "PGPASSWORD" not in services[name]["environment"]
        assert "DATABASE_URL" not in services[name]["environment"]
        read_networks(services[name]["environment"]["TRUSTED_PROXIES"])


def test_each_service_that_others_wait_for_says_how_it_is(services: dict[str, Service]) -> None:
    """The servers by the image's own check."""
    for service in services.values():
        for other, how in service.get("depends_on", {}).items():
            if how["condition"] == "service_healthy":
                assert other in SERVERS or services[other]["healthcheck"]["test"][0] == "CMD", other


def test_the_front_leads_to_each_of_them_and_starts_again_where_one_is_made_anew(
    services: dict[str, Service],
) -> None:
    front = services["front"]
    (mount,) = front["volumes"]
    assert mount["read_only"]
    text = Path(mount["source"]).read_text()
    assert set(re.findall(r"server (\S+):3000", text)) == set(FACADES)
    assert set(re.findall(r"server (\S+):50051", text)) == set(SERVERS)
    listens = {int(port) for port in re.findall(r"listen (\d+)", text)}
    assert listens == {one["target"] for one in front["ports"]}
    assert set(front["depends_on"]) == {*SERVERS, *FACADES}
    assert all(how["restart"] for how in front["depends_on"].values())


def test_prometheus_scrapes_each_process(services: dict[str, Service]) -> None:
    (told,) = [
        one["source"]
        for one in services["prometheus"]["volumes"]
        if one["target"] == "/etc/prometheus/prometheus.yml"
    ]
    assert Path(told).name == "prometheus.postgres.yml"
    jobs = yaml.safe_load(Path(told).read_text())["scrape_configs"]
    targets = {job["job_name"]: job["static_configs"][0]["targets"] for job in jobs}
    port = services[SERVERS[0]]["environment"]["METRICS_ADDRESS"].rpartition(":")[2]
    assert targets == {
        "eliza-sessions": [f"{name}:{port}" for name in SERVERS],
        "eliza-sessions-rest": [f"{name}:{port}" for name in FACADES],
    }


def test_the_upgrade_of_the_docs_replaces_each_server(services: dict[str, Service]) -> None:
    text = example("compose-upgrade")
    (numbers,) = re.findall(r"for number in ([\d ]+);", text)
    assert tuple(f"server-{number}" for number in numbers.split()) == SERVERS
    assert "eliza-sessions migrate" in text
