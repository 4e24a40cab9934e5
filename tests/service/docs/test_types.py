"""The README's and the pages' examples of the Python client have right types.

Those of the clients' own READMEs are checked beside the clients: tests/service/python_client,
tests/service/typescript_client.
"""

import subprocess
import sys
from pathlib import Path

from tests.service.docs.pages import PAGES, ROOT, Block, blocks

CLIENT = "from eliza_sessions_client import"
EXAMPLES: list[Block] = [
    block for page in PAGES for block in blocks(page) if block.language == "python" and CLIENT in block.code
]


def test_the_pages_have_some() -> None:
    assert {(block.page.name, block.name) for block in EXAMPLES} >= {
        ("README.md", ""),
        ("README.md", "reply.py"),
        ("agents.md", "worker.py"),
    }


def test_their_types_are_right(tmp_path: Path) -> None:
    for number, block in enumerate(EXAMPLES):
        (tmp_path / f"example_{number}.py").write_text(block.code)
    (tmp_path / "wrong.py").write_text(f"{CLIENT} Client\nClient().get(7).user_id + 1\n")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--explicit-package-bases", "--cache-dir", "cache", "."],
        cwd=tmp_path,
        env={"MYPYPATH": f"{ROOT / 'clients' / 'python' / 'src'}:{ROOT / 'protos'}"},
        capture_output=True,
        text=True,
        timeout=220,
        check=False,
    )
    complaints = done.stdout.splitlines()[:-1]
    assert [line for line in complaints if not line.startswith("wrong.py")] == []
    assert len(complaints) == 2, done.stdout + done.stderr
