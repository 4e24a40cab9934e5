"""The kinds of tests of deploy/: what each needs. A test names its own: `mark.deploy("nginx")`."""

import json
import os
from pathlib import Path
from typing import Final, NamedTuple, NoReturn

import pytest

CANNOT_RUN: Final = "DEPLOY_TESTS_CANNOT_RUN"
"""The variable that names prepare.py's file: the kinds that this machine cannot run, with the reasons."""
DEADLINE: Final = "DEPLOY_TESTS_DEADLINE"
"""The variable with the time, in seconds since the epoch, at which tests/run_deploy ends everything."""


class Kind(NamedTuple):
    """What a kind of test needs: programs, and the right to make and change roots of file systems."""

    programs: tuple[str, ...]
    changes_roots: bool = False


KINDS: Final = {
    "compose": Kind(("docker-compose",)),
    "envoy": Kind(("envoy",)),
    "hadolint": Kind(("hadolint",)),
    "image": Kind(("buildah", "debootstrap", "unshare", "setpriv"), changes_roots=True),
    "kustomize": Kind(("kubectl", "kubernetes-validate")),
    "litestream": Kind(("litestream",)),
    "nginx": Kind(("nginx",)),
    "prometheus": Kind(("prometheus", "promtool")),
    "systemd": Kind(("systemd-analyze", "systemd-sysusers")),
    "systemd boot": Kind(
        ("buildah", "debootstrap", "unshare", "nsenter", "systemd-nspawn"), changes_roots=True
    ),
}


def cannot_run(kind: str, reason: str) -> NoReturn:
    """Skips a test, because this machine cannot run its kind; tests/run_deploy prints the reason."""
    assert kind in KINDS
    pytest.skip(f"{kind}: {' '.join(reason.split())}")


def read_reasons() -> dict[str, str]:
    """The kinds that prepare.py found this machine unable to run; none without tests/run_deploy."""
    path = os.environ.get(CANNOT_RUN)
    return json.loads(Path(path).read_text()) if path else {}
