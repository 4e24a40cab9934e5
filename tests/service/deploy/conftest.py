"""The image, which several tests run; kinds of tests that this machine cannot run; the figures of a run."""

import os
import shutil
import signal
from collections.abc import Iterator

import pytest

from tests.service.deploy.image import Image
from tests.service.deploy.kinds import DEADLINE, KINDS, cannot_run, read_reasons

FIGURES: pytest.StashKey[list[str]] = pytest.StashKey()
REASONS: pytest.StashKey[dict[str, str]] = pytest.StashKey()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[FIGURES] = []
    config.stash[REASONS] = read_reasons()
    if DEADLINE in os.environ:
        # tests/run_deploy ends what takes too long: mounts and containers go, too.
        signal.signal(signal.SIGTERM, lambda *_: pytest.exit("SIGTERM", returncode=124))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    mark = item.get_closest_marker("deploy")
    for kind in mark.args if mark else ():
        assert kind in KINDS, f"no such kind of test: {kind}"
        if reason := item.config.stash[REASONS].get(kind):
            cannot_run(kind, reason)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Prints a line for each kind that could not run and why, and the figures."""
    reasons: dict[str, int] = {}
    for report in terminalreporter.stats.get("skipped", ()):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if reason.partition(":")[0] in KINDS:
            reasons[reason] = reasons.get(reason, 0) + 1
    if reasons:
        terminalreporter.section("deploy: not run on this machine")
        for reason, count in sorted(reasons.items()):
            terminalreporter.line(f"{reason} ({count} tests)")
    if config.stash[FIGURES]:
        terminalreporter.section("deploy: measured")
        for figure in config.stash[FIGURES]:
            terminalreporter.line(figure)


@pytest.fixture
def figures(pytestconfig: pytest.Config) -> list[str]:
    """Lines that are printed at the end of the run."""
    return pytestconfig.stash[FIGURES]


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    """The image, built on a base that debootstrap made."""
    directory = tmp_path_factory.mktemp("image")
    built = Image(directory)
    try:
        built.make_base()
        built.build()
        yield built
    finally:
        built.buildah("rm", "--all")
        built.buildah("rmi", "--all", "--force")
        built.unmount()
        shutil.rmtree(directory)
