"""The short form of the campaign: what it fills a store with is sound, and it prints every row."""

import json
import time
from pathlib import Path

import pytest

from server.store.postgres.place import Place
from server.store.postgres.tools import PostgresTools
from tests.campaigns.growth.__main__ import main, report
from tests.campaigns.growth.fill import fill
from tests.campaigns.growth.rows import ROWS, START
from tests.store.postgres.opened import Cluster

pytestmark = pytest.mark.postgres


def test_what_stores_are_filled_with_is_sound(cluster: Cluster) -> None:
    name = cluster.server.make_database()
    fill(cluster.server.url(name), 2000, time.time_ns() // 10**6)
    problems: list[str] = []
    told = PostgresTools(Place(cluster.server.url(name))).check(problems.append)
    cluster.server.remove_database(name)
    assert problems == []
    assert told.startswith("2000 sessions, ")


def test_the_command_prints_every_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--quick", "--json", str(tmp_path / "growth.json")])
    lines = capsys.readouterr().out.splitlines()
    for name in (*(row.name for row in ROWS), START):
        # Two medians, two 90th percentiles, the ratio, and whether that is as it should be.
        (line,) = (one for one in lines if one.startswith(f"{name:32} "))
        assert len(line.removeprefix(name).split()) == 6, line
    # Each row but the start of a service has its plans.
    assert sum(line.startswith(" " * 8) for line in lines) > len(ROWS)
    assert len(json.loads((tmp_path / "growth.json").read_text())["ms"]) == len(ROWS) + 1


def test_what_grows_and_what_reads_all_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    whole = {"Node Type": "Seq Scan", "Relation Name": "log"}
    sought = {"Node Type": "Index Scan", "Relation Name": "log", "Index Cond": "session_id = $1"}
    times = {
        "even": {"small": [1.0, 2.0, 3.0], "large": [1.0, 2.4, 9.0]},
        "grows": {"small": [1.0, 2.0, 3.0], "large": [2.0, 2.5, 3.0]},
    }
    assert report(times, {"even": [whole], "grows": [sought]}) == ["even reads all of log", "grows: 1.25"]
    assert "MISSED" in capsys.readouterr().out
