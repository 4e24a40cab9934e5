"""A real Prometheus, started as compose.yaml starts it, scrapes a service under load. The dashboard's panels
have data, and the rules load.
"""

import json
import math
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, Self

import pytest
import requests
import yaml

from tests.service.deploy.programs import DEPLOY, program, running
from tests.service.metric_names import DASHBOARD, RULES
from tests.support.realtime.programs import free_address
from tests.support.service import UNKNOWN, Serve
from tests.support.waiting import PATIENCE_SECONDS, until

pytestmark = pytest.mark.deploy("prometheus")

TARGET: Final = "sessions:9464"
CONFIGURATION: Final = "etc/prometheus/prometheus.yml"
SCRAPES: Final = 8
"""How many scrapes the tests wait for; they come once a second."""
WINDOW: Final = "10s"
START_SECONDS: Final = 60
"""How long Prometheus may take until it has them."""
CLIENTS: Final = 2
QUIET: Final = {"Failed attempts by agent"}
"""Panels that stay empty while all is well."""

PANELS: Final = [
    (panel["title"], target["expr"])
    for panel in json.loads(DASHBOARD.read_text())["panels"]
    for target in panel.get("targets", ())
]


class Prometheus:
    """A running Prometheus, asked over its API."""

    def __init__(self, address: str) -> None:
        self._base = f"http://{address}"
        self.http = requests.Session()
        self.http.trust_env = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def get(self, path: str, **parameters: str) -> Any:
        """What it answers; raises where it refuses the question."""
        answer = self.http.get(f"{self._base}/api/v1/{path}", params=parameters, timeout=PATIENCE_SECONDS)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    def ask(self, expression: str) -> list[float]:
        """The values of an expression's series, now."""
        return [float(one["value"][1]) for one in self.get("query", query=expression)["result"]]

    def scrapes(self) -> float:
        """How many scrapes it has of the service; 0 while it starts."""
        try:
            ready = self.http.get(f"{self._base}/-/ready", timeout=PATIENCE_SECONDS)
        except requests.ConnectionError:
            return 0
        return sum(self.ask("count_over_time(up[1m])")) if ready.status_code == 200 else 0


def lay_out(directory: Path, metrics: str) -> list[str]:
    """Puts the files where compose mounts them, below a directory; returns the line that compose runs.

    The target is this address, and there is a scrape each second.
    """
    service = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["prometheus"]
    for volume in service["volumes"]:
        source, target = volume.split(":")[:2]
        place = directory / target.removeprefix("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        if source.startswith("./"):
            shutil.copy(DEPLOY / source, place)
        else:
            place.mkdir()
    told = (directory / CONFIGURATION).read_text()
    for old, new in ((TARGET, metrics), ("15s", "1s")):
        assert old in told
        told = told.replace(old, new)
    (directory / CONFIGURATION).write_text(told)
    return [program("prometheus"), *(word.replace("=/", f"={directory}/") for word in service["command"])]


def load(service: Serve, stopped: threading.Event) -> int:
    """Talks to the service until the event; returns how many messages got their replies."""
    session_id = service.create()["sessionId"]
    sent = 0
    with requests.Session() as http:
        http.trust_env = False
        while not stopped.is_set():
            body = {"content": "Hello", "transport": "http"}
            url = f"{service.url}/{session_id}/messages"
            http.post(url, json=body, timeout=PATIENCE_SECONDS).raise_for_status()
            sent += 1
            assert http.get(f"{service.url}/{UNKNOWN}", timeout=PATIENCE_SECONDS).status_code == 404
    return sent


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Prometheus with some scrapes of a service that is under load as long as the tests last."""
    directory = tmp_path_factory.mktemp("prometheus")
    with ExitStack() as stack:
        service = Serve(directory / "service", METRICS_ADDRESS="127.0.0.1:0")
        stack.callback(service.kill)
        address = free_address()
        line = [*lay_out(directory, service.metrics), f"--web.listen-address={address}"]
        stack.enter_context(running(line, directory, "prometheus.log"))
        pool = stack.enter_context(ThreadPoolExecutor(CLIENTS))
        stopped = threading.Event()
        stack.callback(stopped.set)
        clients = [pool.submit(load, service, stopped) for _ in range(CLIENTS)]
        found = stack.enter_context(Prometheus(address))
        until(lambda: found.scrapes() >= SCRAPES, f"{SCRAPES} scrapes", START_SECONDS)
        yield found
        stopped.set()
        assert all(client.result() > 0 for client in clients)


def test_each_scrape_under_load_comes_in_time(prometheus: Prometheus, figures: list[str]) -> None:
    assert prometheus.ask("min_over_time(up[1m])") == [1]
    (slowest,) = prometheus.ask("max_over_time(scrape_duration_seconds[1m])")
    (samples,) = prometheus.ask("scrape_samples_scraped")
    (messages,) = prometheus.ask(f"sum(rate(eliza_reply_seconds_count[{WINDOW}]))")
    figures.append(
        f"prometheus: scrapes of {samples:.0f} samples took at most {1000 * slowest:.0f} ms"
        f" at {messages:.0f} messages a second"
    )
    assert slowest < 1
    assert samples > 100
    assert messages > 1


@pytest.mark.parametrize(
    ("title", "expression"), PANELS, ids=[f"{title}-{n}" for n, (title, _) in enumerate(PANELS)]
)
def test_each_panel_has_data(prometheus: Prometheus, title: str, expression: str) -> None:
    asked = expression.replace("$__rate_interval", WINDOW).replace("$instance", ".*")
    assert "$" not in asked
    if title in QUIET:
        assert prometheus.ask(asked) == []
    else:
        until(lambda: any(map(math.isfinite, prometheus.ask(asked))), f"data of {title}")


def test_the_dashboard_can_choose_the_instance(prometheus: Prometheus) -> None:
    (instance,) = prometheus.get("label/instance/values", **{"match[]": "eliza_build_info"})
    assert prometheus.ask(f'eliza_build_info{{instance="{instance}"}}') == [1]


def test_each_rule_is_loaded_and_can_be_evaluated(prometheus: Prometheus) -> None:
    def evaluated() -> list[dict[str, Any]]:
        rules = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
        return rules if all(rule["health"] != "unknown" for rule in rules) else []

    rules = until(evaluated, "the first evaluation")
    wanted = [
        rule["alert"] for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]
    ]
    assert [rule["name"] for rule in rules] == wanted
    assert {rule["health"] for rule in rules} == {"ok"}
    assert [rule["name"] for rule in rules if rule["state"] == "firing"] == []
