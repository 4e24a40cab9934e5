"""deploy/kustomize/postgres: three servers on a PostgreSQL, made of the base by an overlay."""

import shlex
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.service.deploy.programs import DEPLOY, run
from tests.service.deploy.test_kustomize import BASE, VERSIONS
from tests.service.docs.pages import ROOT, example

pytestmark = pytest.mark.deploy("kustomize")

OVERLAY: Final = DEPLOY / "kustomize/postgres"
SECRET: Final = "eliza-sessions-database"

Resources = dict[tuple[str, str], dict[str, Any]]


def read(printed: str) -> Resources:
    """The resources by their kinds and names."""
    found = [resource for resource in yaml.safe_load_all(printed) if resource]
    return {(one["kind"], one["metadata"]["name"]): one for one in found}


@pytest.fixture(scope="module")
def printed() -> str:
    """The manifests as one text."""
    return run("kubectl", "kustomize", OVERLAY)


@pytest.fixture(scope="module")
def resources(printed: str) -> Resources:
    """The manifests."""
    return read(printed)


@pytest.fixture(scope="module")
def servers(resources: Resources) -> dict[str, Any]:
    """What the servers' Deployment wants."""
    return resources["Deployment", "eliza-sessions"]["spec"]


@pytest.mark.parametrize("version", VERSIONS)
def test_the_schemas_take_it(printed: str, version: str, tmp_path: Path) -> None:
    path = tmp_path / "all.yaml"
    path.write_text(printed)
    said = run("kubernetes-validate", "--strict", "-k", version, path)
    assert said.count("passed") == printed.count("\nkind: ") + printed.startswith("kind: ")


def test_no_pod_has_a_store_of_its_own(resources: Resources) -> None:
    assert {kind for kind, _ in resources} & {"StatefulSet", "PersistentVolumeClaim"} == set()
    for (kind, _), resource in resources.items():
        if kind == "Deployment":
            volumes = resource["spec"]["template"]["spec"]["volumes"]
            assert all({"emptyDir", "secret"} & set(volume) for volume in volumes)


def test_three_servers_where_one_always_may_be_away(servers: dict[str, Any], resources: Resources) -> None:
    assert servers["replicas"] == 3
    assert servers["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    budget = resources["PodDisruptionBudget", "eliza-sessions"]["spec"]
    labels = servers["template"]["metadata"]["labels"]
    assert budget["maxUnavailable"] == 1
    assert budget["selector"]["matchLabels"].items() <= labels.items()
    spread = servers["template"]["spec"]["topologySpreadConstraints"]
    assert {one["topologyKey"] for one in spread} == {
        "kubernetes.io/hostname",
        "topology.kubernetes.io/zone",
    }
    for one in spread:
        assert one["labelSelector"]["matchLabels"].items() <= labels.items()


def test_the_url_is_a_secret_and_its_authority_a_file(servers: dict[str, Any]) -> None:
    pod = servers["template"]["spec"]
    (container,) = pod["containers"]
    (url,) = container["env"]
    assert url["name"] == "DATABASE_URL"
    assert url["valueFrom"]["secretKeyRef"] == {"name": SECRET, "key": "url"}
    (volume,) = [one for one in pod["volumes"] if one.get("secret", {}).get("secretName") == SECRET]
    (mount,) = [one for one in container["volumeMounts"] if one["name"] == volume["name"]]
    assert mount["readOnly"]
    # The image's user reads it by its group.
    assert (volume["secret"]["defaultMode"], pod["securityContext"]["fsGroup"]) == (0o440, 10001)
    told, make, apply = map(shlex.split, example("kubernetes-postgres").splitlines())
    assert make[:5] == ["kubectl", "create", "secret", "generic", SECRET]
    assert make[5:] == ["--from-literal=url=$URL", "--from-file=ca.crt"]
    assert told[0].startswith("URL=postgresql://")
    assert f"sslrootcert={mount['mountPath']}/ca.crt" in told[0]
    assert apply == ["kubectl", "apply", "-k", str(OVERLAY.relative_to(ROOT))]


def test_the_pod_is_that_of_the_base_but_for_its_store(servers: dict[str, Any]) -> None:
    """Probes, rights, drain and limits are said twice, and must not drift apart."""
    base = read(run("kubectl", "kustomize", BASE))["StatefulSet", "eliza-sessions"]["spec"]["template"]
    mine = servers["template"]
    assert mine["metadata"]["labels"] == base["metadata"]["labels"]
    own = {"env", "volumeMounts"}
    ((container,), (other,)) = mine["spec"]["containers"], base["spec"]["containers"]
    assert {name: text for name, text in container.items() if name not in own} == {
        name: text for name, text in other.items() if name not in own
    }
    own = {"containers", "volumes", "topologySpreadConstraints"}
    assert {name: text for name, text in mine["spec"].items() if name not in own} == {
        name: text for name, text in base["spec"].items() if name not in own
    }


def test_the_services_and_policies_find_the_servers(servers: dict[str, Any], resources: Resources) -> None:
    labels = servers["template"]["metadata"]["labels"]
    service = resources["Service", "eliza-sessions"]["spec"]
    assert service["selector"].items() <= labels.items()
    # Each pod has an address of its own: the facades' calls go to all.
    assert service["clusterIP"] == "None"
    policy = resources["NetworkPolicy", "eliza-sessions"]["spec"]["podSelector"]["matchLabels"]
    assert policy.items() <= labels.items()
    rest = resources["Deployment", "eliza-sessions-rest"]["spec"]["template"]["spec"]["containers"][0]
    assert rest["args"] == ["rest", "--server", "dns:///eliza-sessions:50051"]
    # Long-polling stays with its facade.
    assert resources["Service", "eliza-sessions-rest"]["spec"]["sessionAffinity"] == "ClientIP"


def test_an_overlay_of_the_overlay_sets_image_namespace_and_settings(tmp_path: Path) -> None:
    overlay = tmp_path / "kustomize/overlay"
    for directory in (BASE, OVERLAY):
        copy = tmp_path / "kustomize" / directory.name
        copy.mkdir(parents=True)
        for path in directory.iterdir():
            (copy / path.name).write_text(path.read_text())
    overlay.mkdir()
    (overlay / "kustomization.yaml").write_text(example("overlay").replace("../base", "../postgres"))
    found = read(run("kubectl", "kustomize", overlay))
    assert {one["metadata"]["namespace"] for one in found.values()} == {"eliza"}
    images = {
        one["spec"]["template"]["spec"]["containers"][0]["image"]
        for (kind, _), one in found.items()
        if kind == "Deployment"
    }
    assert images == {"registry.example.com/eliza-sessions:0.2.0"}
    (settings,) = [one["data"] for (kind, _), one in found.items() if kind == "ConfigMap"]
    assert settings["REST_ALLOWED_HOSTS"] == "sessions.example.com"
