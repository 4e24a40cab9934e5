"""deploy/prometheus and deploy/grafana: promtool takes the configuration and tries the rules, and the
dashboard's panels have their places.
"""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest
import yaml

from tests.service.deploy.programs import complete, program
from tests.service.docs.pages import DOCS, ROOT
from tests.service.metric_names import DASHBOARD, RULES

pytestmark = pytest.mark.deploy("prometheus")

PROMETHEUS: Final = ROOT / "deploy" / "prometheus"
RULES_TEST: Final = "rules_test.yml"
ALERTS: Final = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


CONFIGURATIONS: Final = ("prometheus.yml", "prometheus.compose.yml", "prometheus.postgres.yml")


def promtool(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs promtool. tests/run_deploy installs it, with Debian's package `prometheus`."""
    return complete([program("promtool"), *arguments], 60, cwd=directory)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_promtool_takes_the_configuration_and_its_rules(name: str) -> None:
    checked = promtool(PROMETHEUS, "check", "config", name)
    assert checked.returncode == 0, checked.stderr
    assert f"{len(ALERTS)} rules found" in checked.stdout


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_promtool_names_a_mistake(name: str, tmp_path: Path) -> None:
    shutil.copytree(PROMETHEUS, tmp_path, dirs_exist_ok=True)
    wrong = (PROMETHEUS / name).read_text().replace("static_configs", "static_config")
    (tmp_path / name).write_text(wrong)
    checked = promtool(tmp_path, "check", "config", name)
    assert checked.returncode != 0
    assert "static_config" in checked.stdout + checked.stderr


def test_each_alert_fires_in_trouble_and_is_silent_otherwise() -> None:
    tried = promtool(PROMETHEUS, "test", "rules", RULES_TEST)
    assert tried.returncode == 0, tried.stdout + tried.stderr
    tests = yaml.safe_load((PROMETHEUS / RULES_TEST).read_text())["tests"]
    fires = [{one["alertname"]: bool(one["exp_alerts"]) for one in test["alert_rule_test"]} for test in tests]
    names = [rule["alert"] for rule in ALERTS]
    assert fires[:2] == [dict.fromkeys(names, False), dict.fromkeys(names, True)]


def test_what_servers_on_one_store_say_of_it_is_told_once() -> None:
    """The rules' third test has two servers; each of its alerts stands for both."""
    *_, shared = yaml.safe_load((PROMETHEUS / RULES_TEST).read_text())["tests"]
    for one in shared["alert_rule_test"]:
        assert len(one["exp_alerts"]) <= 1, one["alertname"]
    said = {one["alertname"] for one in shared["alert_rule_test"]}
    by_job = {rule["alert"] for rule in ALERTS if "by (job" in rule["expr"]}
    assert by_job <= said


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
@pytest.mark.parametrize("always", [True, False], ids=["always", "never"])
def test_the_tests_of_the_rules_notice_a_wrong_bound(rule: dict, always: bool, tmp_path: Path) -> None:
    """They notice an alert that would always fire, and one that never would."""
    bound = re.search(r"(<|>|==) [\d.]+\s*$", rule["expr"])
    assert bound, rule["expr"]
    wrong = {"<": ("< 1e18", "< 0"), ">": (">= 0", "> 1e18"), "==": (">= 0", "== 7")}[bound[1]]
    shutil.copytree(PROMETHEUS, tmp_path, dirs_exist_ok=True)
    changed = {**rule, "expr": rule["expr"][: bound.start()] + wrong[0 if always else 1]}
    rules = [changed if one is rule else one for one in ALERTS]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "changed", "rules": rules}]}))
    tried = promtool(tmp_path, "test", "rules", RULES_TEST)
    assert tried.returncode != 0
    assert f"alertname: {rule['alert']}," in tried.stdout + tried.stderr


@pytest.mark.deploy
def test_the_docs_say_what_to_do_for_each_alert() -> None:
    page = (DOCS / "metrics.md").read_text()
    said = re.findall(r"^\| `(Eliza\w+)` \|", page, re.MULTILINE)
    assert said == [rule["alert"] for rule in ALERTS]


@pytest.mark.deploy
def test_the_dashboard_has_a_place_for_each_panel() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    ids, places = set(), set()
    for panel in dashboard["panels"]:
        assert panel["id"] not in ids
        ids.add(panel["id"])
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in places, f"{panel['title']} lies over another panel"
                places.add((x, y))
        for target in panel.get("targets", ()):
            assert target["datasource"]["uid"] == "${datasource}"
            assert 'instance=~"$instance"' in target["expr"]
