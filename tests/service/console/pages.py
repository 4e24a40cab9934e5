"""The pages that are looked at, each in light and dark, on a desk and on a phone: a new one is a row here."""

from typing import Final, NamedTuple


class Looked(NamedTuple):
    """A page, and the selector of what is there once its data are."""

    name: str
    path: str
    shows: str


PAGES: Final = (
    Looked("root", "/", "text=README"),
    Looked("overview", "/console", "#refusals >> text=RATE_LIMITED"),
    Looked("system", "/console/system", "text=Health of each part"),
    Looked("missing", "/console/nothing", "text=No such page"),
    Looked("docs", "/docs", ".opblock >> nth=5"),
)

WIDTHS: Final = (1280, 390)
THEMES: Final = ("light", "dark")
