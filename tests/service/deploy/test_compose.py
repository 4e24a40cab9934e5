"""deploy/compose.yaml: compose takes it, each container may do little, and the files they read are there."""

import json
import re
import shlex
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from server.environment import load_settings
from tests.service.deploy.programs import DEPLOY, run
from tests.service.docs.pages import ROOT, example

pytestmark = pytest.mark.deploy("compose")

FILE: Final = DEPLOY / "compose.yaml"
PROFILE: Final = "metrics"
PINNED: Final = re.compile(r"[a-z]+/[a-z]+:v?\d+\.\d+\.\d+@sha256:[0-9a-f]{64}")
GRAFANA: Final = DEPLOY / "grafana"

Service = dict[str, Any]


def services(*options: str) -> dict[str, Service]:
    """The services that compose makes of the file, with all that is implied written out."""
    printed = run("docker-compose", "-f", FILE, *options, "config", "--format", "json")
    return json.loads(printed)["services"]


@pytest.fixture(scope="module")
def watched() -> dict[str, Service]:
    """The services of the profile with the metrics."""
    return services("--profile", PROFILE)


def mounts(service: Service, kind: str) -> dict[str, str]:
    """The files (`bind`) or volumes that a service is given, by their places in its container."""
    return {one["target"]: one["source"] for one in service.get("volumes", ()) if one["type"] == kind}


def port(address: str) -> str:
    """The port of an address."""
    return address.rpartition(":")[2]


@pytest.mark.parametrize(
    ("line", "options"), [(example("compose"), []), (example("compose-metrics"), ["--profile", PROFILE])]
)
def test_compose_takes_the_command_of_the_docs(line: str, options: list[str]) -> None:
    words = shlex.split(line)
    assert words[:3] == ["docker", "compose", "-f"]
    assert words[4:] == [*options, "up", "-d", "--build"]
    run("docker-compose", "-f", ROOT / words[3], *options, "config", "-q")


def test_compose_refuses_a_mistake(tmp_path: Path) -> None:
    text = FILE.read_text()
    (tmp_path / "compose.yaml").write_text(text.replace("read_only:", "readonly:"))
    with pytest.raises(AssertionError, match="readonly"):
        run("docker-compose", "-f", tmp_path / "compose.yaml", "config", "-q")


def test_the_metrics_are_a_profile(watched: dict[str, Service]) -> None:
    assert set(services()) == {"sessions"}
    assert set(watched) == {"sessions", "prometheus", "grafana"}


def test_no_container_may_do_more_than_it_has_to(watched: dict[str, Service]) -> None:
    for name, service in watched.items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["logging"]["options"]["max-size"], name
        # Until there is authentication, no other machine reaches it.
        assert {one["host_ip"] for one in service["ports"]} == {"127.0.0.1"}, name
    published = [one["published"] for service in watched.values() for one in service["ports"]]
    assert len(published) == len(set(published))


def test_the_service_has_its_ports_its_settings_and_the_time_to_drain(watched: dict[str, Service]) -> None:
    service = watched["sessions"]
    assert {one["target"] for one in service["ports"]} == {50051, 3000}
    assert service["stop_grace_period"] == "20s"
    assert {name.lower() for name in service["environment"]} <= set(type(load_settings()).model_fields)


def test_other_images_are_pinned(watched: dict[str, Service]) -> None:
    for name in ("prometheus", "grafana"):
        assert PINNED.fullmatch(watched[name]["image"]), name


def test_each_mounted_file_is_there_and_cannot_be_written(watched: dict[str, Service]) -> None:
    found = [
        one for service in watched.values() for one in service.get("volumes", ()) if one["type"] == "bind"
    ]
    assert len(found) == 4
    for one in found:
        path = Path(one["source"])
        assert path.is_relative_to(DEPLOY)
        assert path.exists(), path
        assert one["read_only"], path


def test_prometheus_scrapes_the_service(watched: dict[str, Service]) -> None:
    prometheus = watched["prometheus"]
    files = mounts(prometheus, "bind")
    (configuration,) = re.findall(r"--config\.file=(\S+)", " ".join(prometheus["command"]))
    told = yaml.safe_load(Path(files[configuration]).read_text())
    (job,) = told["scrape_configs"]
    address = watched["sessions"]["environment"]["METRICS_ADDRESS"]
    assert job["static_configs"] == [{"targets": [f"sessions:{port(address)}"]}]
    # The rules choose by the name of the job; they stand beside the configuration.
    assert job["job_name"] == "eliza-sessions"
    for rules in told["rule_files"]:
        assert str(Path(configuration).parent / rules) in files
    (store,) = re.findall(r"--storage\.tsdb\.path=(\S+)", " ".join(prometheus["command"]))
    assert mounts(prometheus, "volume") == {store: "prometheus"}


def test_grafana_asks_this_prometheus(watched: dict[str, Service]) -> None:
    (source,) = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yaml").read_text())[
        "datasources"
    ]
    (listens,) = [one["target"] for one in watched["prometheus"]["ports"]]
    assert source["url"] == f"http://prometheus:{listens}"
    assert (source["type"], source["access"], source["isDefault"]) == ("prometheus", "proxy", True)
    told = yaml.safe_load((DEPLOY / "prometheus/prometheus.compose.yml").read_text())
    assert source["jsonData"]["timeInterval"] == told["global"]["scrape_interval"]
    # The dashboard takes the source that is chosen, of this type.
    dashboard = json.loads((GRAFANA / "eliza-sessions.json").read_text())
    (chosen,) = [one for one in dashboard["templating"]["list"] if one["type"] == "datasource"]
    assert chosen["query"] == source["type"]


def test_grafana_finds_what_it_is_given(watched: dict[str, Service]) -> None:
    files = mounts(watched["grafana"], "bind")
    assert files["/etc/grafana/provisioning"] == str(GRAFANA / "provisioning")
    (dashboards,) = yaml.safe_load((GRAFANA / "provisioning/dashboards/eliza-sessions.yaml").read_text())[
        "providers"
    ]
    (place,) = [target for target, source in files.items() if source == str(GRAFANA / "eliza-sessions.json")]
    assert str(Path(place).parent) == dashboards["options"]["path"]
    settings = watched["grafana"]["environment"]
    assert settings["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] == place
    assert mounts(watched["grafana"], "volume") == {"/var/lib/grafana": "grafana"}


def test_grafana_has_no_password_that_everybody_knows(watched: dict[str, Service]) -> None:
    settings = watched["grafana"]["environment"]
    assert settings["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert settings["GF_AUTH_DISABLE_LOGIN_FORM"] == "true"
    assert settings["GF_AUTH_BASIC_ENABLED"] == "false"
