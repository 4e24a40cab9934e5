"""The rates of PostgreSQL: the command prints every row, and says what is missed."""

import json
from pathlib import Path

import pytest

from tests.campaigns.load import postgres
from tests.campaigns.load.figures import Figures
from tests.campaigns.load.postgres_subjects import share


def figures(rate: float, cpu: float, hot: float) -> Figures:
    found = Figures()
    for _ in range(3):
        found.add("store-send", "pgbench", 1000, **{"PostgreSQL µs": 400})
        found.add("store-send", "one", rate, **{"PostgreSQL µs": cpu})
        found.add("store-hot", "one", hot)
        # Only one server is judged.
        found.add("store-send", "three", 10, **{"PostgreSQL µs": 400})
    return found


def test_what_is_missed_is_told() -> None:
    assert postgres.missed(figures(1200, 133, 960)) == []
    assert len(postgres.missed(figures(1190, 133, 960))) == 1
    assert len(postgres.missed(figures(1200, 134, 960))) == 1
    assert len(postgres.missed(figures(1200, 133, 950))) == 1
    assert postgres.missed(Figures()) == []


def test_callers_are_dealt_out() -> None:
    assert share(64, 3) == [22, 21, 21]


@pytest.mark.postgres
@pytest.mark.parametrize(
    ("kind", "subjects"),
    [
        ("store", ["SQLite", "one", "pgbench", "two"]),
        ("grpc", ["SQLite", "one", "two"]),
        ("event", ["another server", "the same server"]),
    ],
)
def test_the_command_prints_every_row(
    kind: str, subjects: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [row for row in postgres.ROWS if row.name.startswith(kind)]
    wanted = [f"--only={row.name}" for row in rows]
    postgres.main(["--quick", *wanted, "--json", str(tmp_path / "found.json")])
    found = json.loads((tmp_path / "found.json").read_text())
    printed = capsys.readouterr().out
    assert sorted(found["rows"]) == sorted(row.name for row in rows)
    for row in rows:
        assert f"{row.name}: {row.what}\n" in printed
        assert sorted(found["rows"][row.name]) == subjects
        assert all(one["median"] > 0 for one in found["rows"][row.name].values())
    # One server's rate to all sessions, of pgbench's; and to one session, of that.
    assert ({"rate one", "hot one"} <= set(found["goals"])) is (kind == "store")


def test_each_row_is_of_one_of_these_kinds() -> None:
    assert {row.name.split("-")[0] for row in postgres.ROWS} == {"store", "grpc", "event"}
