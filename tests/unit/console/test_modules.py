"""The console's JavaScript that needs no page: modules.test.mjs, in Node."""

import subprocess
from pathlib import Path

from tests.support.node import NODE


def test_the_modules_that_need_no_page() -> None:
    command = [str(NODE), "--no-warnings", "--test", "--test-reporter=spec", "modules.test.mjs"]
    done = subprocess.run(
        command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "pass 0" not in done.stdout
