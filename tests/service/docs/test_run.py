"""`tests/run` where it may not install what it misses.

That it installs and runs everything, .ci/run shows.
"""

import shutil
import subprocess
from pathlib import Path

from tests.service.docs.pages import ROOT, example

RUN = ROOT / example("tests/run").strip()


def test_it_says_what_to_install_where_it_may_not(tmp_path: Path) -> None:
    for command in ("bash", "dirname", "id"):
        (tmp_path / command).symlink_to(shutil.which(command))
    # As Debian's, which comes without venv.
    (tmp_path / "python3").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "python3").chmod(0o755)
    done = subprocess.run(
        [RUN, "--version"],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    words = done.stderr.split("sudo apt-get install ")[1].split()
    assert {"curl", "chromium-headless-shell", "python3-venv"} <= set(words)
    assert done.stderr.count("\n") == 1
