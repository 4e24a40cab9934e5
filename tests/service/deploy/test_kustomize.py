"""deploy/kustomize: kubectl puts it together, the API's schemas take it, and it says what the image is."""

import shutil
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from server.environment import load_settings
from server.rpc.health import ALIVE
from tests.service.deploy.programs import DEPLOY, run
from tests.service.docs.pages import example

pytestmark = pytest.mark.deploy("kustomize")

BASE: Final = DEPLOY / "kustomize/base"
VERSIONS: Final = ("1.32.0", "1.37.0")
"""The oldest and the newest version of Kubernetes whose schemas the manifests are held to."""
SECRETS: Final = "# secretGenerator:"


@pytest.fixture(scope="module")
def printed() -> str:
    """The manifests as one text."""
    return run("kubectl", "kustomize", BASE)


@pytest.fixture(scope="module")
def resources(printed: str) -> dict[tuple[str, str], dict[str, Any]]:
    """The resources by their kinds and names."""
    found = [resource for resource in yaml.safe_load_all(printed) if resource]
    return {(one["kind"], one["metadata"]["name"]): one for one in found}


@pytest.fixture(scope="module")
def pods(resources: dict[tuple[str, str], dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The two workloads' pods."""
    return {
        "server": resources["StatefulSet", "eliza-sessions"]["spec"]["template"]["spec"],
        "rest": resources["Deployment", "eliza-sessions-rest"]["spec"]["template"]["spec"],
    }


@pytest.mark.parametrize("version", VERSIONS)
def test_the_schemas_take_it(printed: str, version: str, tmp_path: Path) -> None:
    path = tmp_path / "all.yaml"
    path.write_text(printed)
    said = run("kubernetes-validate", "--strict", "-k", version, path)
    assert said.count("passed") == printed.count("\nkind: ")


def test_the_schemas_refuse_a_mistake(printed: str, tmp_path: Path) -> None:
    path = tmp_path / "all.yaml"
    path.write_text(printed.replace("readOnlyRootFilesystem", "readonlyRootFilesystem"))
    with pytest.raises(AssertionError, match="readonlyRootFilesystem"):
        run("kubernetes-validate", "--strict", path)


def test_one_pod_owns_the_store(resources: dict[tuple[str, str], dict[str, Any]]) -> None:
    spec = resources["StatefulSet", "eliza-sessions"]["spec"]
    (claim,) = spec["volumeClaimTemplates"]
    assert spec["replicas"] == 1
    assert claim["spec"]["accessModes"] == ["ReadWriteOncePod"]
    (container,) = spec["template"]["spec"]["containers"]
    (mount,) = [mount for mount in container["volumeMounts"] if mount["name"] == claim["metadata"]["name"]]
    (url,) = [one["value"] for one in container["env"] if one["name"] == "DATABASE_URL"]
    assert url.startswith(f"sqlite:///{mount['mountPath']}/")
    assert spec["serviceName"] == "eliza-sessions"
    assert ("Service", "eliza-sessions") in resources


@pytest.mark.parametrize("name", ["server", "rest"])
def test_a_pod_may_do_nothing_more_than_it_has_to(pods: dict[str, dict[str, Any]], name: str) -> None:
    (container,) = pods[name]["containers"]
    context, pod = container["securityContext"], pods[name]["securityContext"]
    assert context == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert (pod["runAsNonRoot"], pod["runAsUser"], pod["runAsGroup"]) == (True, 10001, 10001)
    assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pods[name]["automountServiceAccountToken"] is False
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    assert f"USER {pod['runAsUser']}:{pod['runAsGroup']}" in dockerfile


def test_the_probes_ask_what_there_is(pods: dict[str, dict[str, Any]]) -> None:
    (server,) = pods["server"]["containers"]
    port = load_settings().grpc_address.rpartition(":")[2]
    for probe in ("startupProbe", "livenessProbe"):
        assert server[probe]["grpc"] == {"port": int(port), "service": ALIVE}
    assert server["readinessProbe"]["grpc"] == {"port": int(port)}
    (rest,) = pods["rest"]["containers"]
    assert rest["livenessProbe"]["httpGet"]["path"] == "/openapi.json"
    assert rest["readinessProbe"]["httpGet"]["path"] == "/api/messaging/sessions/health"


@pytest.mark.parametrize("name", ["server", "rest"])
def test_a_pod_has_the_time_to_drain(
    pods: dict[str, dict[str, Any]], resources: dict[tuple[str, str], dict[str, Any]], name: str
) -> None:
    (container,) = pods[name]["containers"]
    (settings,) = [one for (kind, _), one in resources.items() if kind == "ConfigMap"]
    drain = float(settings["data"]["SHUTDOWN_GRACE_SECONDS"])
    rest = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert rest > 0
    assert pods[name]["terminationGracePeriodSeconds"] >= rest + drain + 5


def test_the_settings_are_settings(resources: dict[tuple[str, str], dict[str, Any]]) -> None:
    (settings,) = [one for (kind, _), one in resources.items() if kind == "ConfigMap"]
    assert {name.lower() for name in settings["data"]} <= set(type(load_settings()).model_fields)


def test_the_selectors_find_their_pods(resources: dict[tuple[str, str], dict[str, Any]]) -> None:
    labels = {
        name: resources[kind, name]["spec"]["template"]["metadata"]["labels"]
        for kind, name in (("StatefulSet", "eliza-sessions"), ("Deployment", "eliza-sessions-rest"))
    }
    for (kind, name), resource in resources.items():
        if kind == "Service":
            selector = resource["spec"]["selector"]
        elif kind == "NetworkPolicy":
            selector = resource["spec"]["podSelector"]["matchLabels"]
        else:
            continue
        found = [pod for pod, have in labels.items() if selector.items() <= have.items()]
        assert found == [name], (kind, name)


def test_an_overlay_as_the_comments_have_it(tmp_path: Path) -> None:
    """A secret of an agent as a file: what is commented out in the base works where it is not."""
    copy = tmp_path / "base"
    copy.mkdir()
    for path in BASE.iterdir():
        text = path.read_text()
        begin = text.find(SECRETS)
        if begin >= 0:
            text = text[:begin] + "\n".join(line.removeprefix("# ") for line in text[begin:].splitlines())
        lines = [
            line.replace("# ", "", 1) if line.strip().startswith(("# - name: secrets", "#   ")) else line
            for line in text.splitlines()
        ]
        (copy / path.name).write_text("\n".join(lines) + "\n")
    (copy / "secrets").mkdir()
    (copy / "secrets/support").write_text("whsec_x")
    printed = run("kubectl", "kustomize", copy)
    found = [one for one in yaml.safe_load_all(printed) if one]
    (secret,) = [one for one in found if one["kind"] == "Secret"]
    (server,) = [one for one in found if one["kind"] == "StatefulSet"]
    pod = server["spec"]["template"]["spec"]
    (volume,) = [one for one in pod["volumes"] if one["name"] == "secrets"]
    assert volume["secret"]["secretName"] == secret["metadata"]["name"]
    assert {"name": "secrets", "mountPath": "/run/secrets", "readOnly": True} in pod["containers"][0][
        "volumeMounts"
    ]
    (tmp_path / "all.yaml").write_text(printed)
    run("kubernetes-validate", "--strict", tmp_path / "all.yaml")


def test_the_overlay_of_the_docs(tmp_path: Path) -> None:
    *_, path = example("kubernetes").split()
    assert path.startswith("deploy/kustomize/")
    shutil.copytree(BASE, tmp_path / "base")
    overlay = tmp_path / Path(path).name
    overlay.mkdir()
    (overlay / "kustomization.yaml").write_text(example("overlay"))
    printed = run("kubectl", "kustomize", overlay)
    (tmp_path / "all.yaml").write_text(printed)
    run("kubernetes-validate", "--strict", tmp_path / "all.yaml")
    found = [one for one in yaml.safe_load_all(printed) if one]
    assert {one["metadata"]["namespace"] for one in found} == {"eliza"}
    (settings,) = [one["data"] for one in found if one["kind"] == "ConfigMap"]
    assert settings["REST_ALLOWED_HOSTS"] == "sessions.example.com"
    assert settings["ALLOW_OPEN"] == "true"
    images = {
        one["spec"]["template"]["spec"]["containers"][0]["image"]
        for one in found
        if one["kind"] in ("StatefulSet", "Deployment")
    }
    assert images == {"registry.example.com/eliza-sessions:0.2.0"}
