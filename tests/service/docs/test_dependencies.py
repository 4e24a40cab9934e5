"""Dependencies that cannot surprise: each is bounded in pyproject.toml, and the tested versions stand in
.ci/constraints.txt.
"""

import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CALENDAR = {"structlog", "xllamacpp"}
"""Packages whose versions are dates: the next one says nothing about what changes."""
PRIVATE = {"grpcio", "python-engineio", "python-socketio", "uvicorn"}
"""Packages whose private names are used: these may change with any minor version."""

REQUIREMENTS = [
    requirement
    for line in [
        *PROJECT["dependencies"],
        *(line for extra in PROJECT["optional-dependencies"].values() for line in extra),
    ]
    if (requirement := Requirement(line)).name != PROJECT["name"]
]
CONSTRAINTS = {
    canonicalize_name(requirement.name): requirement.specifier
    for line in (ROOT / ".ci" / "constraints.txt").read_text().splitlines()
    if not line.startswith("#")
    for requirement in [Requirement(line)]
}


def bound(requirement: Requirement) -> str | None:
    """The version that a requirement keeps out, as `3` or `1.86`."""
    return next((one.version for one in requirement.specifier if one.operator == "<"), None)


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=str)
def test_a_dependency_is_bounded_by_the_next_version_that_may_break_it(requirement: Requirement) -> None:
    installed = tuple(map(int, metadata.version(requirement.name).split(".")[:2]))
    if any(one.operator == "==" for one in requirement.specifier):
        return
    if requirement.name in CALENDAR:
        assert bound(requirement) is None
    elif requirement.name in PRIVATE:
        assert bound(requirement) == f"{installed[0]}.{installed[1] + 1}"
    else:
        assert bound(requirement) == str(installed[0] + 1)


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=str)
def test_a_dependency_has_a_tested_version_that_its_bounds_allow(requirement: Requirement) -> None:
    (tested,) = CONSTRAINTS[canonicalize_name(requirement.name)]
    assert tested.operator == "=="
    assert requirement.specifier.contains(tested.version)
