"""Fixtures that more than one folder uses."""

import base64
import contextlib
import faulthandler
import gc
import importlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support import service as services
from tests.support.forks import ForkServer
from tests.support.service import Serve, Start, environment

# Without regard to the speed of the machine; and the store's conformance runs its properties on each store.
# Half as many examples as by default: each run has others.
settings.register_profile(
    "any-speed",
    deadline=None,
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.differing_executors],
)
settings.load_profile("any-speed")

ROOT = Path(__file__).parents[1]

SECRET = "whsec_" + base64.b64encode(b"hunter2, hunter2, hunter2").decode()
"""What `env:AGENT_SECRET_TEST` leads to."""

SHARED = {
    "TEST_CLOCK": "1",
    "MAX_OPEN_DELIVERIES": "100000",
    "AGENT_SECRET_TEST": SECRET,
    "AGENT_SECRETS": "AGENT_SECRET_*,AGENT_SECRET_TEST@api.openai.com",
    "AGENT_ALLOWED_HOSTS": "",
}
"""The settings of a service that many tests share."""

HANG_SECONDS = 240
"""After which a test hangs: the longest takes half a minute on two cores."""
REARM_SECONDS = 20


class Watchdog:
    """Ends a process in which a test hangs, with every thread's stack.

    pytest's own makes a thread for each test, which costs as much as many a test; this one for all those that
    begin within REARM_SECONDS.
    """

    def __init__(self) -> None:
        # Tests run while pytest captures the descriptor 2.
        self._stderr = os.dup(2)
        self._armed_s = 0.0

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self) -> None:
        if time.monotonic() - self._armed_s > REARM_SECONDS:
            self._armed_s = time.monotonic()
            faulthandler.dump_traceback_later(HANG_SECONDS + REARM_SECONDS, file=self._stderr, exit=True)

    @pytest.hookimpl(trylast=True)
    def pytest_exception_interact(self) -> None:
        # pytest has just called it off.
        self._armed_s = 0.0

    def pytest_unconfigure(self) -> None:
        faulthandler.cancel_dump_traceback_later()
        os.close(self._stderr)


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Watchdog())


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    """Has each worker of xdist import a share of the modules first, and so compile them for the others.

    In a fresh clone pytest rewrites every assert of every module, which takes 15 s of CPU.
    """
    worker, count = os.environ.get("PYTEST_XDIST_WORKER"), os.environ.get("PYTEST_XDIST_WORKER_COUNT")
    if not worker or not count:
        return
    # Almost nothing that is made until the tests begin is garbage.
    gc.disable()
    folders = [path for path in map(Path, session.config.args) if path.is_dir()]
    modules = sorted({module.resolve() for folder in folders for module in folder.rglob("test_*.py")})
    for module in modules[int(worker.removeprefix("gw")) :: int(count)]:
        # Whatever is wrong with it, pytest tells when it collects it.
        with contextlib.suppress(Exception, pytest.skip.Exception):
            importlib.import_module(".".join(module.relative_to(ROOT).with_suffix("").parts))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the long tests first: at the end one worker would run them while the others have nothing to do."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


def pytest_collection_finish() -> None:
    """Has the garbage collector leave out the ten thousand tests, which stay to the end."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Removes the databases that stood for the stores in a test's directory, once its services have ended."""
    directory = getattr(item, "funcargs", {}).get("tmp_path")
    # Nobody has made one where nobody has imported it.
    if directory and (databases := sys.modules.get("tests.support.postgres")):
        databases.remove_databases(directory)


@pytest.fixture(scope="session", autouse=True)
def fork_server() -> Iterator[None]:
    """Has services start as forks of one process."""
    with ForkServer(environment()) as services.fork_server:
        yield
    services.fork_server = None


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """One service with a test clock for all tests of a pytest process: move its clock forward only; other
    tests' sessions are in it.
    """
    running = Serve(tmp_path_factory.mktemp("service"), **SHARED)
    yield running
    assert running.stop() == 0, running.log()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts services of the test's own: `start("--no-rest", TEST_CLOCK="1")`.

    Those in one directory share a store, so the earlier one must have ended; `directory=` names another.
    `fresh=True` starts a Python of its own (see `start_command`).
    """
    running: list[Serve] = []

    def starter(
        *arguments: str, directory: Path = tmp_path, fresh: bool = False, **environment: str
    ) -> Serve:
        running.append(Serve(directory, *arguments, fresh=fresh, **environment))
        return running[-1]

    yield starter
    for one in running:
        if one.process.poll() is None:
            one.kill()
