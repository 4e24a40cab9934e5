"""How long each page of the console takes with 200,000 sessions and with 200:
`python -m tests.campaigns.console`.

A page is there when its data are. The stores are those of the campaign `hostile`. Beside the sessions they
hold one with a log of 150,000 entries, or of 150. The exit status is 1 where a page takes more than
ALLOWED_MS longer.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Final, NamedTuple

from playwright.sync_api import Page

from tests.campaigns.hostile import stores
from tests.support.chromium import Watched, open_chromium
from tests.support.service import ECHO, Serve

ALLOWED_MS: Final = 300
SIZES: Final = {"200": 0.001, "200,000": 1.0}
NOBODY: Final = "99999999-9999-4999-8999-999999999999"


class Timed(NamedTuple):
    """A page, and the selector of what is there once its data are; what is pressed before, if anything is."""

    name: str
    path: str
    shows: str
    press: str = ""


PAGES: Final = (
    Timed("overview", "/console", "#since:not(:empty)"),
    Timed("sessions", "/console/sessions", "tbody tr >> nth=20"),
    Timed("sessions, the next page", "/console/sessions", "#sessions-newest", "#sessions-older"),
    Timed("sessions, expired (none)", "/console/sessions?state=expired", "#sessions > .empty"),
    Timed("sessions of a user (none)", f"/console/sessions?user={NOBODY}", "#sessions > .empty"),
    Timed("sessions of a user", f"/console/sessions?user={stores.USER}&state=live", "tbody tr >> nth=20"),
    Timed("sessions of an agent", f"/console/sessions?agent={ECHO}", "tbody tr >> nth=20"),
    Timed("sessions by id", "/console/sessions?id=0000006", "tbody tr"),
    Timed("sessions by id (none)", "/console/sessions?id=ffffffff", "#sessions > .empty"),
    Timed("one session", f"/console/sessions/{stores.LONG}?view=log", "#entries > li >> nth=40"),
    Timed(
        "one session, older", f"/console/sessions/{stores.LONG}?view=log", "#entries > li >> nth=60", "#older"
    ),
    Timed("agents", "/console/agents", "tbody tr"),
    Timed("one agent", f"/console/agents/{ECHO}", "#agent-facts"),
    Timed("one agent, its failures", f"/console/agents/{stores.NOBODYS}", "#failed .empty"),
    Timed("system", "/console/system", "#system-store"),
)


def measure(page: Page, root: str, timed: Timed) -> float:
    """How long it takes until a page is there, in ms; or what is pressed has come."""
    begun = time.perf_counter()
    page.goto(f"{root}{timed.path}")
    if timed.press:
        page.wait_for_selector(timed.press)
        begun = time.perf_counter()
        page.click(timed.press)
    page.wait_for_selector(timed.shows)
    return (time.perf_counter() - begun) * 1000


def open_service(directory: Path, size: float) -> Serve:
    """A service over a store of a size."""
    path = directory / "store.db"
    stores.fill(path, stores.large(size, stores.now_ms()))
    return Serve(directory, DATABASE_URL=f"sqlite:///{path}")


def run(services: dict[str, Serve], rounds: int) -> dict[tuple[str, str], list[float]]:
    """The times of each page over each service, in ms: in turn, so that all have the same machine."""
    taken: dict[tuple[str, str], list[float]] = {}
    with open_chromium() as browser:
        pages = {name: Watched(browser, f"http://{service.rest}") for name, service in services.items()}
        for timed in PAGES:
            # The first time the browser reads the scripts, too.
            for number in range(rounds + 1):
                for name, watched in pages.items():
                    spent_ms = measure(watched.page, watched.root, timed)
                    if number:
                        taken.setdefault((name, timed.name), []).append(spent_ms)
        for watched in pages.values():
            watched.close()
    return taken


def main() -> int:
    """Prints a table of medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="how often each page is opened")
    rounds = parser.parse_args().rounds
    services: dict[str, Serve] = {}
    with tempfile.TemporaryDirectory() as directory:
        try:
            for name, size in SIZES.items():
                services[name] = open_service(Path(directory) / name, size)
            taken = run(services, rounds)
        finally:
            for service in services.values():
                service.stop()
    print("| page | " + " | ".join(f"{name} sessions, ms" for name in SIZES) + " | more, ms |")
    print("| --- |" + " --- |" * (len(SIZES) + 1))
    missed = []
    for timed in PAGES:
        few, many = (statistics.median(taken[name, timed.name]) for name in SIZES)
        print(f"| {timed.name} | {few:.0f} | {many:.0f} | {many - few:+.0f} |")
        if many - few > ALLOWED_MS:
            missed.append(timed.name)
    print(f"more than {ALLOWED_MS} ms: {', '.join(missed) or 'none'}")
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main())
