"""Lay out the pages of the site: what is in ``docs``, and what its pages link to elsewhere in the repository.

The pages are plain Markdown that reads as well on a forge, where a link may lead to any file or folder. A site has its
own pages only, so each link is turned to where its target lies on the site; files that are no pages are taken along.

    python -m documentation.pages        # make docs
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / ".site" / "pages"
OUTSIDE = {
    "docs/README.md": "index.md",
    "README.md": "overview.md",
    "CHANGELOG.md": "changelog.md",
    "bench/README.md": "benches.md",
    "docs/decisions": "decisions/index.md",
    "docs/events": "reference-events.md",
}
"""Where what does not keep its place below ``docs`` lies on the site."""
LINK = re.compile(r"(\]\()(?!https?:|mailto:|#)([^)\s#]+)(#[^)\s]*)?(?=\))")
DECISION = re.compile(r"# (\d{4}):? (.*)")


def place(source: str) -> str:
    """Where a file or folder of the repository (its path from the root) lies on the site."""
    return OUTSIDE.get(source) or (source.removeprefix("docs/") if source.startswith("docs/") else f"files/{source}")


def turned(page: Path, text: str, taken: set[Path]) -> str:
    """The page's text with links as they lead on the site; notes in ``taken`` what must be there beside the pages.

    Raises ``FileNotFoundError`` for a link that leads nowhere.
    """
    here = PurePosixPath(place(page.relative_to(ROOT).as_posix()))

    def turn(match: re.Match[str]) -> str:
        target = (page.parent / match[2]).resolve()
        if not target.exists():
            raise FileNotFoundError(f"{page.relative_to(ROOT)}: {match[2]} leads nowhere")
        taken.add(target)
        there = PurePosixPath(place(target.relative_to(ROOT).as_posix()))
        return f"{match[1]}{'../' * (len(here.parts) - 1)}{there}{match[3] or ''}"

    return LINK.sub(turn, text)


def decisions() -> str:
    """The list of all decisions, as a page."""
    lines = [
        "# Decisions",
        "",
        "Why things are as they are, one decision a page, in the order in which they were made.",
        "",
    ]
    for page in sorted((ROOT / "docs" / "decisions").glob("*.md")):
        found = DECISION.match(page.read_text())
        number, title = found.groups() if found else (page.stem[:4], page.stem[5:])
        lines.append(f"- {number} [{title}]({page.name})")
    return "\n".join([*lines, ""])


def lay_out(into: Path = PAGES) -> int:
    """Write all pages and what they need below ``into``, which is emptied first; returns how many pages there are."""
    shutil.rmtree(into, ignore_errors=True)
    taken: set[Path] = set()
    pages = sorted({*(ROOT / "docs").rglob("*.md"), *(ROOT / each for each in OUTSIDE if each.endswith(".md"))})
    for page in pages:
        target = into / place(page.relative_to(ROOT).as_posix())
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(turned(page, page.read_text(), taken))
    (into / "decisions" / "index.md").write_text(decisions())
    files = {each for each in taken if each.is_file()} | {*(ROOT / "docs").rglob("*.json")}
    for file in files.difference(pages):
        target = into / place(file.relative_to(ROOT).as_posix())
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    return len(pages) + 1


if __name__ == "__main__":
    print(f"{lay_out()} pages laid out in {PAGES.relative_to(ROOT)}")
