"""The pages for readers: the README and docs/. Their blocks of code are examples that the suite runs."""

import re
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[3]
README: Final = ROOT / "README.md"
DOCS: Final = ROOT / "docs"
PAGES: Final = (README, *sorted(DOCS.glob("*.md")))


class Block(NamedTuple):
    """A block of code. `name` is that of its `<!-- test: NAME -->`: such a block has a test of its own."""

    page: Path
    section: str
    name: str
    language: str
    code: str


_BLOCK: Final = re.compile(
    r"^## (?P<section>[^\n]+)$|(?:^<!-- test: (?P<name>\S+) -->\n)?^```(?P<language>\w+)\n(?P<code>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)


def blocks(page: Path) -> list[Block]:
    """The blocks of a page, in order."""
    found, section = [], ""
    for match in _BLOCK.finditer(page.read_text()):
        if match["section"]:
            section = match["section"]
        else:
            found.append(Block(page, section, match["name"] or "", match["language"], match["code"]))
    return found


def example(name: str) -> str:
    """The code of the block with this name."""
    (code,) = [block.code for page in PAGES for block in blocks(page) if block.name == name]
    return code
