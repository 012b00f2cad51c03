"""The figures of the pages, drawn from what is stored: no figure has a number that the repository does not hold.

- ``gate-level.svg`` and ``gate-days.svg``: the calibration, as decision 0031 records it (``make calibrate``);
- ``gate-verdicts.svg`` and ``gate-one-holdout.svg``: the recorded days of one year of flights
  (``bench/data/flight_days.json``), judged anew by ``ratchet.domain.gate.judge``;
- ``one-trace.svg``: the spans of one attempt, and ``one-lineage.svg``: the lineage event of it, as a collector received
  both from a running stack (``documentation/one_trace.json``, ``one_lineage.json``;
  ``tests/integration/test_observed_on_the_stack.py`` writes them where ``RATCHET_TEST_TRACE`` says).

Each is one small SVG without script or font of its own; it brings a ground, so that it is legible on any page, and is
dark where the reader's system is.

    python -m documentation.figures
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from bench import flight_days
from ratchet.domain import gate

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "figures"
CALIBRATION = ROOT / "docs" / "decisions" / "0031-the-gate-is-calibrated-by-simulation.md"
TRACE, LINEAGE = (Path(__file__).with_name(name) for name in ("one_trace.json", "one_lineage.json"))
COLUMNS = (
    "level",
    "power",
    "yardstick",
    "short",
    "rowwise",
    "z",
    "bootstrap",
    "day_t",
    "cr3",
    "cr3_power",
    "cr3_short",
)
STYLE = """
.ground{fill:#fff}.grid{stroke:#dfe3e8}.axis,.limit{stroke:#6b7480}.limit{stroke-dasharray:5 4}
text{fill:#2b3138;font:13px system-ui,sans-serif}.small{font-size:12px;fill:#5b6570}.strong{font-weight:600}
.a{fill:#1769c2;stroke:#1769c2}.b{fill:#c2571a;stroke:#c2571a}
.c{fill:#7a828c;stroke:#7a828c}.d{fill:#8a3fa8;stroke:#8a3fa8}
.line{fill:none;stroke-width:2}
@media (prefers-color-scheme:dark){
.ground{fill:#1e2129}.grid{stroke:#353b46}.axis,.limit{stroke:#98a2ae}text{fill:#e4e7eb}.small{fill:#aab3bd}
.a{fill:#6fb1f5;stroke:#6fb1f5}.b{fill:#f29a63;stroke:#f29a63}
.c{fill:#9aa4af;stroke:#9aa4af}.d{fill:#cf94e6;stroke:#cf94e6}}
"""
CLASS_OF = {"promote": "a", "keep_champion": "b", "not_enough_evidence": "c"}


@dataclass
class Drawing:
    """An SVG in the making, ``width`` by ``height`` pixels, with what it shows in words."""

    title: str
    width: int
    height: int
    parts: list[str] = field(default_factory=list)

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str, width: float = 1) -> None:
        self.parts.append(
            f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}" stroke-width="{width:g}"/>'
        )

    def dot(self, x: float, y: float, kind: str, radius: float = 4.5) -> None:
        self.parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" class="{kind}"/>')

    def text(self, x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> None:
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{escape(words)}</text>')

    def bar(self, x: float, y: float, width: float, height: float, kind: str) -> None:
        self.parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" class="{kind}"/>')

    def curve(self, points: Iterable[tuple[float, float]], kind: str) -> None:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self.parts.append(f'<polyline points="{path}" class="line {kind}" style="fill:none"/>')

    def legend(self, x: float, y: float, entries: Sequence[tuple[str, str]]) -> None:
        for kind, words in entries:
            self.dot(x, y - 4, kind)
            self.text(x + 10, y, words, "small")
            x += 30 + 6.6 * len(words)

    def svg(self) -> str:
        box = f'viewBox="0 0 {self.width} {self.height}" width="{self.width}"'
        head = f'<svg xmlns="http://www.w3.org/2000/svg" {box} role="img">'
        ground = f'<rect class="ground" width="{self.width}" height="{self.height}" rx="6"/>'
        return "\n".join(
            [head, f"<title>{escape(self.title)}</title><style>{STYLE}</style>", ground, *self.parts, "</svg>", ""]
        )


def scale(lowest: float, highest: float, start: float, end: float) -> Callable[[float], float]:
    """From values in [lowest, highest] to pixels in [start, end]."""
    return lambda value: start + (value - lowest) / (highest - lowest) * (end - start)


def calibration() -> dict[tuple[int, str], dict[str, float]]:
    """The cells of the calibration by (days, world): shares promoted, as ``COLUMNS`` names them."""
    found = {}
    for days, world, rest in re.findall(
        r"^\| (\d+) \| ([^|]+) \| ([-\d. |]+)\|$", CALIBRATION.read_text(), flags=re.MULTILINE
    ):
        cells = [cell.strip() for cell in rest.split("|")]
        found[int(days), world.strip()] = {name: float(cell) for name, cell in zip(COLUMNS, cells, strict=True) if cell}
    return found


def level() -> str:
    """How often each method promotes a challenger that is no better, in worlds of 28 days."""
    cells = calibration()
    worlds = (
        ("a", "normal", "independent days"),
        ("d", "uneven", "days of uneven size"),
        ("b", "AR(1) 0.35", "days that follow each other"),
    )
    methods = (
        ("rowwise", "rows as if independent"),
        ("bootstrap", "bootstrap of whole days"),
        ("z", "clustered errors, normal quantile"),
        ("day_t", "t-test of the days' means"),
        ("level", "the gate"),
    )
    drawing = Drawing(
        "Share of challengers without uplift that are promoted, by method: only the gate stays near 5 % throughout",
        720,
        300,
    )
    across = scale(0, 0.3, 250, 690)
    drawing.text(20, 28, "Promoted although no better, of 10,000 attempts on 28 days each", "strong")
    for tick in (0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3):
        drawing.line(across(tick), 50, across(tick), 245, "limit" if tick == 0.05 else "grid")
        drawing.text(across(tick), 262, f"{tick:.0%}", "small", "middle")
    for number, (method, words) in enumerate(methods):
        y = 70 + 38 * number
        drawing.text(238, y + 4, words, "strong" if method == "level" else "", "end")
        for kind, world, _ in worlds:
            drawing.dot(across(cells[28, world][method]), y, kind, 5.5)
    drawing.legend(250, 288, [(kind, words) for kind, _, words in worlds])
    return drawing.svg()


def power() -> str:
    """What the gate sees of an uplift of two standard errors, over the number of days, beside what could be seen."""
    cells = calibration()
    drawing = Drawing(
        "Share of good challengers promoted, over the days of the holdout, and the share of worthless ones", 720, 320
    )
    across, up = scale(10, 60, 80, 500), scale(0, 0.7, 270, 50)
    drawing.text(20, 28, "Promoted, over the days of the holdout", "strong")
    for tick in (0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7):
        drawing.line(80, up(tick), 500, up(tick), "grid")
        drawing.text(72, up(tick) + 4, f"{tick:.0%}", "small", "end")
    for days in (10, 14, 28, 60):
        drawing.text(across(days), 290, str(days), "small", "middle")
    drawing.text(290, 310, "days", "small", "middle")
    drawing.line(80, up(0.05), 500, up(0.05), "limit")
    curves = (
        ("c", "normal", "yardstick", "better by two standard errors,", "by the exact critical value"),
        ("a", "normal", "power", "the same, by the gate", "(independent days)"),
        ("a", "normal", "level", "", ""),
        ("b", "AR(1) 0.35", "level", "no better: by the gate", "(independent, and serial)"),
        ("d", "lognormal left", "level", "no better, rare large losses:", "the known limit"),
    )
    labels = {"yardstick": 62, "power": 104, "lognormal left": 210}
    for kind, world, name, first, second in curves:
        points = [(across(days), up(cells[days, world][name])) for days in (10, 14, 28, 60)]
        drawing.curve(points, kind)
        for x, y in points:
            drawing.dot(x, y, kind, 3.5)
        y = labels.get(name, labels.get(world, points[-1][1]))
        drawing.text(512, y, first, "small")
        drawing.text(512, y + 15, second, "small")
    return drawing.svg()


def judged(attempt: flight_days.Days) -> gate.Verdict:
    rows = np.asarray(attempt.rows)
    labels = np.repeat(np.arange(rows.size), rows)
    return gate.judge((np.asarray(attempt.uplift) / rows)[labels], labels)


def verdicts() -> str:
    """Every verdict of the recorded year: the estimate, its bounds, and what followed."""
    attempts, _ = flight_days.read()
    found = [(attempt, judged(attempt)) for attempt in attempts]
    height = 96 + 24 * len(found)
    drawing = Drawing(
        "Uplift with its bounds for each attempt of a year; promoted where the lower bound lies above zero", 720, height
    )
    bounds = [each for _, verdict in found for each in (verdict.lower, verdict.upper) if each is not None]
    across = scale(min(bounds), max(bounds), 175, 690)
    drawing.text(20, 28, "Uplift, USD per decision, with one-sided 95 % bounds", "strong")
    for tick in range(-15, 25, 5):
        drawing.line(across(tick), 42, across(tick), height - 44, "axis" if tick == 0 else "grid")
        drawing.text(across(tick), height - 28, f"{tick:+d}" if tick else "0", "small", "middle")
    for number, (attempt, verdict) in enumerate(found):
        y = 58 + 24 * number
        kind = CLASS_OF[verdict.decision]
        drawing.text(20, y + 4, f"{attempt.days[0]}, {len(attempt.days)} days", "small")
        if verdict.estimate is not None and verdict.lower is not None and verdict.upper is not None:
            drawing.line(across(verdict.lower), y, across(verdict.upper), y, kind, 2.5)
            drawing.dot(across(verdict.estimate), y, kind)
    seen = {verdict.decision for _, verdict in found}
    drawing.legend(175, height - 8, [(CLASS_OF[each], each.replace("_", " ")) for each in CLASS_OF if each in seen])
    return drawing.svg()


def one_holdout() -> str:
    """The days of one attempt: they are of one sign for stretches, which is what the interval must know."""
    attempts, _ = flight_days.read()
    attempt = max(attempts, key=lambda each: judged(each).diagnostics["lag_one_correlation"])
    verdict = judged(attempt)
    means = np.asarray(attempt.uplift) / np.asarray(attempt.rows)
    drawing = Drawing(
        "The mean uplift of each day of one holdout: good days come in a row, and so do bad ones", 720, 280
    )
    low, high = min(0.0, float(means.min())), max(0.0, float(means.max()))
    across, up = scale(0, len(means), 70, 690), scale(low, high, 235, 55)
    drawing.text(
        20, 28, f"Mean uplift of each day, USD per decision, {attempt.days[0]} to {attempt.days[-1]}", "strong"
    )
    for tick in range(int(low // 20) * 20, int(high) + 20, 20):
        if low <= tick <= high:
            drawing.line(70, up(tick), 690, up(tick), "axis" if tick == 0 else "grid")
            drawing.text(62, up(tick) + 4, f"{tick:+d}" if tick else "0", "small", "end")
    for number, mean in enumerate(means):
        top, bottom = sorted((up(float(mean)), up(0)))
        drawing.bar(
            across(number) + 3, top, across(1) - across(0) - 6, max(bottom - top, 0.5), "a" if mean > 0 else "b"
        )
    correlation = verdict.diagnostics["lag_one_correlation"]
    said = f"{sum(attempt.rows):,} decisions, {len(means)} days; correlation with the day before {correlation:.2f}"
    drawing.text(70, 264, said, "small")
    return drawing.svg()


SPAN_KINDS = {"publish": "b", "inbox": "c", "attempt": "a", "promotion": "d", "alias": "d", "ml.decisions": "d"}


def below(parent: str | None, spans: Sequence[Any], known: Collection[str], depth: int = 0) -> Iterator[Any]:
    """The spans below one, or the topmost, by time, each with its depth and followed by those below it."""
    for span in spans:
        if span["parent"] == parent or (parent is None and span["parent"] not in known):
            yield span, depth
            yield from below(span["id"], spans, known, depth + 1)


def one_trace() -> str:
    """The spans of one trace by time, each below its parent."""
    told = json.loads(TRACE.read_text())["spans"]
    spans = list(below(None, told, {span["id"] for span in told}))
    last = max(span["end"] for span in told)
    drawing = Drawing(
        "One trace: from the publisher's call over the inbox, the attempt with its steps, to alias and announcement",
        720,
        72 + 20 * len(spans),
    )
    across = scale(0, last, 250, 660)
    drawing.text(20, 28, f"One trace of {len(spans)} spans, {last:.0f} s from publish to promotion", "strong")
    bottom = 54 + 20 * len(spans)
    for tick in range(0, int(last) + 1, 5):
        drawing.line(across(tick), 44, across(tick), bottom, "grid")
        drawing.text(across(tick), bottom + 14, f"{tick} s", "small", "middle")
    for number, (span, depth) in enumerate(spans):
        y = 60 + 20 * number
        drawing.text(20 + 14 * depth, y, span["name"])
        start, end = across(span["start"]), across(span["end"])
        drawing.bar(start, y - 10, max(end - start, 1.5), 12, SPAN_KINDS.get(span["name"].split()[0], "a"))
        drawing.text(end + 5, y, f"{span['end'] - span['start']:.2f} s", "small")
    return drawing.svg()


def one_lineage() -> str:
    """What a version was made of, by the namespace of each dataset."""
    event = json.loads(LINEAGE.read_text())
    kinds = {"kafka": "b", "feast": "a", "ratchet": "c", "mlflow": "d"}
    inputs, made = event["inputs"], event["outputs"]
    middle = 60 + 12 * len(inputs)
    drawing = Drawing(
        "Lineage of one model version: the topic of its event, feature views, tables, frozen rows and the champion "
        "it was judged against go into the run; the version comes out",
        720,
        100 + 24 * len(inputs),
    )
    drawing.text(20, 28, f"What {made[0]['name']} was made of, as OpenLineage is told it", "strong")
    drawing.bar(430, middle - 24, 120, 36, "c")
    drawing.text(490, middle - 34, event["job"]["name"], "", "middle")
    for number, each in enumerate(inputs):
        y = 60 + 24 * number
        drawing.dot(28, y - 4, kinds[each["namespace"]], 5)
        drawing.text(42, y, f"{each['namespace']}: {each['name']}")
        drawing.curve([(372, y - 4), (392, y - 4), (430, middle - 6)], kinds[each["namespace"]])
    for each in made:
        drawing.curve([(550, middle - 6), (590, middle - 6)], "d")
        drawing.dot(596, middle - 6, "d", 6)
        drawing.text(606, middle - 14, "mlflow", "small")
        drawing.text(606, middle + 4, f"{each['name'].partition('/')[2]}")
    drawing.legend(
        20, 84 + 24 * len(inputs), [("b", "event"), ("a", "features and tables"), ("c", "frozen rows"), ("d", "model")]
    )
    return drawing.svg()


FIGURES: dict[str, Callable[[], str]] = {
    "gate-level.svg": level,
    "gate-days.svg": power,
    "gate-verdicts.svg": verdicts,
    "gate-one-holdout.svg": one_holdout,
    "one-lineage.svg": one_lineage,
    "one-trace.svg": one_trace,
}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, draw in FIGURES.items():
        (FOLDER / name).write_text(draw())
    print(f"{len(FIGURES)} figures written to {FOLDER}")
