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

LIVE_PAGES: Final = (
    Looked("sessions", "/console/sessions", "tbody tr >> nth=3"),
    Looked("sessions-filtered", "/console/sessions?state=live&user={user}", "tbody tr"),
    Looked("sessions-none", "/console/sessions?id=ffffffff-ffff", "text=No session matches"),
    Looked("sessions-wrong", "/console/sessions?user=nobody", "text=INVALID_UUID"),
    Looked("session", "/console/sessions/{session}", "text=Redeliver"),
    Looked("session-log", "/console/sessions/{session}?view=log", "text=Redeliver"),
    Looked("session-json", "/console/sessions/{session}?view=json", "#entries pre"),
    Looked("session-missing", "/console/sessions/{missing}", "text=There is no session"),
    Looked("agents", "/console/agents", "tbody tr >> nth=1"),
    Looked("agent", "/console/agents/{agent}", "#failed tbody tr"),
    Looked("agent-missing", "/console/agents/{missing}", "text=AGENT_NOT_FOUND"),
)
"""Those over a service that runs; `{session}` and the like stand for ids there."""

WIDTHS: Final = (1280, 390)
THEMES: Final = ("light", "dark")
