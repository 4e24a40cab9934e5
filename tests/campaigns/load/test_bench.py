"""The benchmark's command: what it needs, what it tells, and what it compares with."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.campaigns.load import bench, plot
from tests.campaigns.load.figures import ANSWERED, Figures, Plan, missed, table
from tests.campaigns.load.goals import BY_NAME
from tests.campaigns.load.subjects import Checkout, other


def figures() -> Figures:
    """A run with a row of each kind: missed, reached, refused, relative to the other checkout, and without a
    goal.
    """
    found = Figures()
    for number in (1, 2, 3):
        found.add("rest-get", "this", 0.6 + number / 10, **{"CPU µs": 700 + number})
        found.add("rest-get", "other", 0.4, **{"CPU µs": 1400})
        found.add("lag-grpc", "this", 15 + number)
        found.add("grpc-send", "this", 1, **{ANSWERED: number / 3})
        found.add("memory", "this", 60)
        found.add("memory", "other", 100)
        found.add("rich-list", "this", 1000)
    return found


def line(text: str, name: str) -> list[str]:
    return next(one for one in text.splitlines() if one.startswith(f"{name:18} ")).split()


def test_the_table_says_what_is_reached() -> None:
    text = table(figures(), None)
    assert (
        " ".join(line(text, "rest-get")) == "rest-get ≥ 2.6 0.8 × (0.7 to 0.9) 0.4 × (0.4 to 0.4) 2.00 MISSED"
    )
    assert line(text, "lag-grpc")[-1] == "reached"
    assert line(text, "grpc-send")[-1] == "REFUSED"
    assert (
        " ".join(line(text, "memory"))
        == "memory ≤ 0.7 of other 60 MiB (60 to 60) 100 MiB (100 to 100) 0.60 reached"
    )
    assert " ".join(line(text, "rich-list")) == "rich-list 1,000 µs (1,000 to 1,000)"
    assert "CPU µs 702 / 1,400 (0.50)" in text
    assert missed(figures()) == ["rest-get", "grpc-send"]


def test_a_goal_that_is_a_share_of_nothing_is_not_judged() -> None:
    found = Figures()
    found.add("start", "this", 2)
    assert missed(found) == []
    assert BY_NAME["start"].is_reached(2, None) is None


def test_an_earlier_run_is_compared_with(tmp_path: Path) -> None:
    file = tmp_path / "earlier.json"
    file.write_text(json.dumps({"rows": figures().as_json()}))
    now = Figures()
    now.add("rest-get", "this", 1.6)
    assert line(table(now, Figures.read(file)), "rest-get")[-5:] == ["0.8", "(now", "2.00", "of", "it)"]


def test_the_plot_has_a_bar_for_each_figure_with_a_goal() -> None:
    drawn = ElementTree.fromstring(plot.svg(figures(), "one <run>\nload 1"))
    bars = [one for one in drawn.iter("{http://www.w3.org/2000/svg}rect") if one.get("height") == "10"]
    # The goal of memory is a share of the other's, which has a bar, too.
    assert len(bars) == 6


def test_every_row_has_somebody_who_measures_it() -> None:
    assert sorted(name for rows in bench.GROUPS.values() for name in rows) == sorted(BY_NAME)


def test_the_command_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match="sudo apt-get install wrk nghttp2-client"):
        bench.main([])


def test_a_checkout_without_an_environment_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="--python"):
        other(tmp_path, None)


def test_the_command_prints_and_writes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(checkouts: list[Checkout], plan: Plan, found: Figures) -> None:
        assert [one.name for one in checkouts] == ["this"]
        assert plan.wants("start")
        found.add("rest-get", "this", 3)

    monkeypatch.setattr(bench, "GROUPS", {measure: ("rest-get", "start")})
    monkeypatch.setattr(bench, "missing_tools", list)
    bench.main(["--quick", "--json", str(tmp_path / "found.json")])
    assert "reached" in capsys.readouterr().out
    assert json.loads((tmp_path / "found.json").read_text())["rows"]["rest-get"]["this"]["median"] == 3
    assert (tmp_path / "found.svg").exists()


def test_what_cannot_be_measured_takes_nothing_else_with_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(_checkouts: list[Checkout], _plan: Plan, _found: Figures) -> None:
        raise RuntimeError("it did not start")

    def measure(_checkouts: list[Checkout], _plan: Plan, found: Figures) -> None:
        found.add("lag-rest", "this", 3)

    monkeypatch.setattr(bench, "GROUPS", {fail: ("rest-get",), measure: ("lag-rest",)})
    monkeypatch.setattr(bench, "missing_tools", list)
    with pytest.raises(SystemExit, match="not measured: rest-get"):
        bench.main(["--quick", "--json", str(tmp_path / "found.json")])
    assert list(json.loads((tmp_path / "found.json").read_text())["rows"]) == ["lag-rest"]
