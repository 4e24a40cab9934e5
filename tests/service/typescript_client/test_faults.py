"""Calls and streams against a server that fails: the programs *.test.mjs."""

import re
from pathlib import Path

import pytest

from tests.service.typescript_client.project import run
from tests.support.node import NODE

HERE = Path(__file__).parent


@pytest.mark.parametrize("path", sorted(HERE.glob("*.test.mjs")), ids=lambda path: path.name)
def test_a_client_copes(path: Path) -> None:
    said = run(HERE, NODE, "--test", "--test-reporter=tap", path)
    (passed,) = re.findall(r"^# pass (\d+)$", said, re.MULTILINE)
    assert int(passed) > 10
    assert re.findall(r"^# (?:fail|skipped|todo|cancelled) [1-9]", said, re.MULTILINE) == []
