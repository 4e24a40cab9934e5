"""`tests/run_deploy` where it may not do its work. That it installs and runs everything, .ci/run shows."""

import shutil
import subprocess
from pathlib import Path

from tests.service.docs.pages import ROOT, example

RUN = ROOT / example("tests/run_deploy").strip()


def test_it_says_that_it_has_to_be_root(tmp_path: Path) -> None:
    for command in ("bash", "dirname"):
        (tmp_path / command).symlink_to(shutil.which(command))
    (tmp_path / "id").write_text("#!/bin/sh\necho 1000\n")
    (tmp_path / "id").chmod(0o755)
    done = subprocess.run(
        [str(tmp_path / "bash"), str(RUN)],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "sudo tests/run_deploy" in done.stderr
    assert done.stderr.count("\n") == 1
