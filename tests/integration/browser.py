"""Debian's Chromium, used as people use it: logged in by Airflow's own page, watched for what the pages get wrong.

A :class:`Visitor` is one person in a browser of their own. What our pages write to the console as an error, what their
content security policy refuses, and what fails to load is kept in ``complaints``. :meth:`Visitor.examine` looks at the
page in both colour modes and at the width of a telephone: with axe, for what hinders people, and with a picture.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal
from urllib.parse import urlsplit

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Page, Playwright, Response, WebError, expect

ROOT = Path(__file__).resolve().parents[2]
PICTURES = Path(os.environ.get("RATCHET_SCREENSHOTS") or ROOT / ".ci-artefacts" / "screenshots")
OURS = "/ratchet/"
DESK, TELEPHONE = {"width": 1280, "height": 900}, {"width": 375, "height": 812}
Mode = Literal["light", "dark"]
MODES: tuple[Mode, ...] = ("light", "dark")
MOST_PIXELS = 4000
HINDERING = frozenset({"serious", "critical"})
"""What axe calls an obstacle for somebody; the rest it calls minor or moderate."""
PATIENCE_MS = 30_000
"""Bounds what a page takes to show something on a crowded machine."""
NO_BROWSER = (
    "there is no chromium on the PATH. As root: apt-get install --no-install-recommends chromium fonts-liberation"
)


def launch(playwright: Playwright) -> Browser:
    """Start the browser; only for root without its sandbox. Raises ``LookupError`` where there is none."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        raise LookupError(NO_BROWSER)
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    return playwright.chromium.launch(executable_path=found, args=arguments, timeout=60_000)


@dataclass
class Visitor:
    """One person in a browser of their own."""

    name: str
    url: str
    page: Page
    complaints: list[str] = field(default_factory=list)
    examined: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, browser: Browser, url: str, name: str, password: str) -> Visitor:
        """Log in by Airflow's own page."""
        page = browser.new_context(base_url=url, viewport=DESK, color_scheme="light").new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.set_default_navigation_timeout(2 * PATIENCE_MS)
        visitor = cls(name, url, page)
        page.context.on("console", visitor._hear)
        page.context.on("weberror", visitor._catch)
        page.context.on("response", visitor._notice)
        page.goto("/")
        page.get_by_label("Username").fill(name)
        page.get_by_label("Password").fill(password)
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url(lambda now: "/auth/login" not in now)
        return visitor

    def close(self) -> None:
        """Leave."""
        self.page.context.close()

    def visit(self, path: str, status: int = 200) -> Page:
        """Open one of our pages by itself, without Airflow's frame around it."""
        with self.refused() if status >= 400 else _nothing():
            answer = self.page.goto(f"{self.url}{OURS.rstrip('/')}{path}")
            assert answer is not None
            assert answer.status == status, f"{path}: {answer.status}, but {status} is right"
        return self.page

    @contextmanager
    def refused(self) -> Iterator[None]:
        """What is refused herein is meant to be: no complaint stays of it."""
        before = len(self.complaints)
        yield
        meant = [said for said in self.complaints[before:] if said.startswith("status 4") or "status of 4" in said]
        assert meant, "nothing was refused"
        self.complaints[before:] = [said for said in self.complaints[before:] if said not in meant]

    def picture(self, name: str, *, whole: bool = False) -> None:
        """Keep a picture of what is on the screen, or of the ``whole`` page as far as ``MOST_PIXELS`` down."""
        PICTURES.mkdir(parents=True, exist_ok=True)
        options: dict[str, Any] = {}
        if whole:
            width, height = self.page.evaluate("[innerWidth, document.scrollingElement.scrollHeight]")
            options = {"full_page": True, "clip": {"x": 0, "y": 0, "width": width, "height": min(height, MOST_PIXELS)}}
        self.page.screenshot(path=PICTURES / f"{name}.png", animations="disabled", **options)

    def examine(self, name: str) -> None:
        """What must be right on any page: no obstacle in either mode, nothing beside a telephone's screen."""
        self.page.set_viewport_size(DESK)
        self.paint("light")
        self._obstacles(f"{name}, light")
        self.picture(f"{name}-light", whole=True)
        self.paint("dark")
        self._obstacles(f"{name}, dark", {"runOnly": ["color-contrast", "link-in-text-block"]})
        self.picture(f"{name}-dark", whole=True)
        self.paint("light")
        self.page.set_viewport_size(TELEPHONE)
        self._obstacles(f"{name}, {TELEPHONE['width']} px")
        self.picture(f"{name}-{TELEPHONE['width']}px", whole=True)
        wide = self.page.evaluate(BEYOND, TELEPHONE["width"])
        self.page.set_viewport_size(DESK)
        assert not wide, f"{name}: wider than {TELEPHONE['width']} px: {wide}"
        self.examined.add(urlsplit(self.page.url).path)

    def paint(self, mode: Mode) -> None:
        """What the page hears when Airflow, in another document, was made light or dark."""
        self.page.evaluate(
            "mode => { localStorage.setItem('theme', mode); dispatchEvent(new StorageEvent('storage')); }", mode
        )
        expect(self.page.locator("html")).to_have_css("color-scheme", mode)

    def _obstacles(self, where: str, only: Mapping[str, Any] = MappingProxyType({})) -> None:
        found = Axe().run(self.page, options={"resultTypes": ["violations"], **only}).response["violations"]
        told = [
            f"{rule['id']} ({rule['impact']}): {node['html'][:200]}: {node['failureSummary']}"
            for rule in found
            if rule["impact"] in HINDERING
            for node in rule["nodes"]
        ]
        assert not told, f"{where}:\n" + "\n".join(told)

    def _hear(self, message: ConsoleMessage) -> None:
        said, where = message.text, message.location.get("url", "")
        if message.type == "error" and (urlsplit(where).path.startswith(OURS) or "Content Security Policy" in said):
            self.complaints.append(f"console: {said} ({where})")

    def _catch(self, thrown: WebError) -> None:
        where = thrown.page.url if thrown.page else ""
        if urlsplit(where).path.startswith(OURS) or OURS in (thrown.error.stack or ""):
            self.complaints.append(f"uncaught: {thrown.error.message} ({where})")

    def _notice(self, response: Response) -> None:
        path = urlsplit(response.url).path
        if response.status >= 400 and path.startswith(OURS):
            self.complaints.append(f"status {response.status}: {response.request.method} {path}")


@contextmanager
def _nothing() -> Iterator[None]:
    yield


BEYOND = """width => document.scrollingElement.scrollWidth <= width ? null
  : [...document.querySelectorAll('body *')]
      .filter(each => each.getBoundingClientRect().right > width + 1)
      .slice(0, 5).map(each => each.outerHTML.slice(0, 120)).concat(document.scrollingElement.scrollWidth)"""
"""What stands beyond the right edge where the document itself scrolls sideways; null where it does not."""

expect.set_options(timeout=PATIENCE_MS)
