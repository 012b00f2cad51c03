"""Charts: SVG, each a function of its numbers. Colours are the page's classes; text is escaped.

Each says in words what it shows, for those who do not see it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from html import escape

import numpy as np

WIDTH, HEIGHT = 760, 260
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 14, 44
ROW = 22
LABELS = 190
_TICKS = 5


@dataclass(frozen=True)
class Interval:
    """A labelled estimate with its bounds, where there are any; ``note`` is the tooltip."""

    label: str
    value: float
    lower: float | None
    upper: float | None
    note: str = ""


def days(labels: Sequence[str], values: Sequence[float], overall: Interval | None, unit: str) -> str:
    """A bar per day from zero, over the band of the overall interval and the line of its estimate."""
    every = [*values, *_numbers(overall)]
    y = _scale(every, HEIGHT - BOTTOM, TOP, zero=True)
    step = (WIDTH - LEFT - RIGHT) / max(len(values), 1)
    parts = [_y_axis(every, y, zero=True)]
    if overall is not None and overall.lower is not None and overall.upper is not None:
        parts.append(_rect(LEFT, y(overall.upper), WIDTH - RIGHT, y(overall.lower), "band"))
    for i, (label, value) in enumerate(zip(labels, values, strict=True)):
        left = LEFT + i * step
        kind = "good" if value >= 0 else "bad"
        parts.append(
            _rect(left + step * 0.15, y(value), left + step * 0.85, y(0), kind, f"{label}: {value:+.4g} {unit}")
        )
    if overall is not None:
        parts.append(_line(LEFT, y(overall.value), WIDTH - RIGHT, y(overall.value), "estimate"))
    parts.append(_line(LEFT, y(0), WIDTH - RIGHT, y(0), "axis"))
    for i in _spread(len(labels), 7):
        anchor = "end" if len(labels) > 1 and i == len(labels) - 1 else "middle"
        x = WIDTH - RIGHT if anchor == "end" else LEFT + (i + 0.5) * step
        parts += [_text(x, HEIGHT - BOTTOM + 18, labels[i], anchor)]
    each = ", ".join(f"{label} {value:+.4g}" for label, value in zip(labels, values, strict=True))
    above = sum(value >= 0 for value in values)
    told = f"{unit} by day: {above} of {len(values)} days at zero or above. {_in_words(overall)}{each}."
    return _svg("".join(parts), HEIGHT, told)


@dataclass(frozen=True)
class Line:
    """A line with a value per day, and the days (ISO dates) that are marked on it; others than its own are left out."""

    label: str
    values: Sequence[float]
    marked: tuple[str, ...] = ()


def paths(labels: Sequence[str], lines: Sequence[Line]) -> str:
    """Lines over the same days, each of class ``s0``, ``s1`` and so on, with a legend below; dots where marked."""
    every = [value for line in lines for value in line.values]
    y = _scale(every, HEIGHT - BOTTOM, TOP, zero=True)
    x = _scale([0.0, float(max(len(labels) - 1, 1))], LEFT, WIDTH - RIGHT)
    parts = [_y_axis(every, y, zero=True), _line(LEFT, y(0), WIDTH - RIGHT, y(0), "axis")]
    place = {label: i for i, label in enumerate(labels)}
    columns, top = 4, HEIGHT - BOTTOM + 40
    for i, line in enumerate(lines):
        points = " ".join(f"{x(day):.1f},{y(value):.1f}" for day, value in enumerate(line.values))
        parts.append(f'<polyline class="s{i}" points="{points}">{_title(line.label)}</polyline>')
        for day in line.marked:
            if (at := place.get(day)) is not None:
                note = _title(f"{line.label}: promoted {day}")
                parts.append(
                    f'<circle class="s{i}" cx="{x(at):.1f}" cy="{y(line.values[at]):.1f}" r="3">{note}</circle>'
                )
        left, down = LEFT + (i % columns) * (WIDTH - LEFT) / columns, top + (i // columns) * ROW
        parts += [_line(left, down - 4, left + 14, down - 4, f"s{i}"), _text(left + 18, down, line.label, "start")]
    for i in _spread(len(labels), 7):
        anchor = "end" if len(labels) > 1 and i == len(labels) - 1 else "middle"
        parts.append(_text(x(i), HEIGHT - BOTTOM + 18, labels[i], anchor))
    ends = "; ".join(f"{line.label} ends at {line.values[-1]:.4g}" for line in lines if line.values)
    told = f"Lines from {labels[0]} to {labels[-1]}: {ends}." if labels else "No days."
    return _svg("".join(parts), top + -(-len(lines) // columns) * ROW, told)


@dataclass(frozen=True)
class Span:
    """A mean over local days, both included, with its bounds where there are any; ``note`` is the tooltip."""

    first: date
    last: date
    value: float
    lower: float | None
    upper: float | None
    note: str = ""


@dataclass(frozen=True)
class Mark:
    """A day on which something happened: a few letters beside its line, and the tooltip."""

    day: date
    label: str
    note: str = ""


def history(
    spans: Sequence[tuple[str, Sequence[Span]]],
    rolling: Sequence[tuple[str, Sequence[Span]]],
    marks: Sequence[Mark],
    unit: str,
) -> str:
    """Means over time, with dashed lines at the marks.

    Each entry is a class and its means: of ``spans`` one bar per mean, over its own days, with a whisker; of
    ``rolling``, whose days overlap, one line through their last days, over the band of their bounds.
    """
    means = [mean for _, group in (*spans, *rolling) for mean in group]
    every = [v for mean in means for v in (mean.value, mean.lower, mean.upper) if v is not None]
    days = [day for mean in means for day in (mean.first, mean.last)] + [mark.day for mark in marks]
    if not means:
        return ""
    first, last = min(days).toordinal(), max(days).toordinal()
    place = _scale([float(first), float(last)], LEFT + 6, WIDTH - RIGHT - 6)
    y = _scale(every, HEIGHT - BOTTOM, TOP + 14)
    parts = [_y_axis(every, y)]
    if min(every) <= 0 <= max(every):
        parts.append(_line(LEFT, y(0), WIDTH - RIGHT, y(0), "axis"))
    parts += [
        _line(place(day.toordinal()), HEIGHT - BOTTOM, place(day.toordinal()), HEIGHT - BOTTOM + 4, "axis")
        + _text(place(day.toordinal()), HEIGHT - BOTTOM + 18, words, "middle")
        for day, words in _date_ticks(date.fromordinal(first), date.fromordinal(last))
    ]
    for kind, group in rolling:
        points = [(place(mean.last.toordinal()), mean) for mean in group]
        edge = [(x, mean.lower, mean.upper) for x, mean in points if mean.lower is not None and mean.upper is not None]
        around = [(x, y(upper)) for x, _, upper in edge] + [(x, y(lower)) for x, lower, _ in reversed(edge)]
        parts.append(f'<polygon class="{kind}-band" points="{_points(around)}"/>')
        parts.append(f'<polyline class="{kind}-line" points="{_points([(x, y(mean.value)) for x, mean in points])}"/>')
        parts += [
            f'<circle class="{kind}" cx="{x:.1f}" cy="{y(mean.value):.1f}" r="4">{_title(mean.note)}</circle>'
            for x, mean in points
        ]
    for kind, group in spans:
        for mean in group:
            start, end, up = place(mean.first.toordinal()), place(mean.last.toordinal()), y(mean.value)
            parts.append(_line(start, up, max(end, start + 2), up, f"{kind}-span", mean.note))
            if mean.lower is not None and mean.upper is not None:
                middle = (start + end) / 2
                parts.append(_line(middle, y(mean.lower), middle, y(mean.upper), f"{kind}-whisker", mean.note))
    free = 0.0
    for mark in marks:
        at = place(mark.day.toordinal())
        parts.append(_line(at, TOP, at, HEIGHT - BOTTOM, "mark", mark.note))
        if at >= free:
            parts.append(_text(at + 4, TOP + 6, mark.label, "start") if at < WIDTH - 60 else "")
            parts.append(_text(at - 4, TOP + 6, mark.label, "end") if at >= WIDTH - 60 else "")
            free = at + 8 * len(mark.label) + 8
    newest = max(means, key=lambda mean: (mean.last, mean.first))
    told = "; ".join(mark.note for mark in marks)
    count = f"{len(means)} means, the newest: {newest.note}"
    return _svg("".join(parts), HEIGHT, f"{unit} from {min(days)} to {max(days)}: {count}. {told}.")


def curve(points: Sequence[tuple[float, float]], marked: float | None, x_title: str) -> str:
    """A line through (x, y) points, and a marker at ``marked`` on the x axis."""
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    x, y = _scale(xs, LEFT, WIDTH - RIGHT), _scale(ys, HEIGHT - BOTTOM, TOP)
    path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in points)
    parts = [_y_axis(ys, y), f'<polyline class="line" points="{path}"/>', _x_axis(xs, x, HEIGHT - BOTTOM)]
    if marked is not None and min(xs) <= marked <= max(xs):
        parts.append(_line(x(marked), TOP, x(marked), HEIGHT - BOTTOM, "estimate", f"{marked:.4g}"))
    parts.append(_text((LEFT + WIDTH) / 2, HEIGHT - 8, x_title, "middle"))
    told = f"A curve over {x_title}, from {xs[0]:.4g}: {ys[0]:.4g} to {xs[-1]:.4g}: {ys[-1]:.4g}"
    best = max(points, key=lambda point: point[1])
    told += f"; highest at {best[0]:.4g}: {best[1]:.4g}" + (f"; marked at {marked:.4g}." if marked is not None else ".")
    return _svg("".join(parts), HEIGHT, told)


def intervals(rows: Sequence[Interval], limit: float | None = None, dots: str | None = None) -> str:
    """A dot and a whisker per row, around zero; ``limit`` is drawn as a dashed line.

    ``dots`` is the class of every dot; left out, above zero is good and below it bad.
    """
    height = len(rows) * ROW + 34
    every = [number for row in rows for number in _numbers(row)] + [0.0] + ([] if limit is None else [limit])
    x = _scale(every, LABELS, WIDTH - RIGHT)
    parts = [_x_axis(every, x, height - 28), _line(x(0), 4, x(0), height - 28, "axis")]
    if limit is not None:
        parts.append(_line(x(limit), 4, x(limit), height - 28, "limit"))
    for i, row in enumerate(rows):
        middle = 4 + (i + 0.5) * ROW
        parts.append(_text(LABELS - 8, middle + 4, row.label, "end"))
        if row.lower is not None and row.upper is not None:
            parts.append(_line(x(row.lower), middle, x(row.upper), middle, "whisker", row.note))
        kind = dots or ("good" if row.value >= 0 else "bad")
        parts.append(
            f'<circle class="{kind}" cx="{x(row.value):.1f}" cy="{middle:.1f}" r="4">{_title(row.note)}</circle>'
        )
    told = "; ".join(f"{row.label}: {row.value:+.4g}{_bounds(row)}" for row in rows)
    return _svg("".join(parts), height, told + (f". The limit is {limit:g}." if limit is not None else "."))


def bars(rows: Sequence[tuple[str, float, str]], limits: Sequence[float]) -> str:
    """A horizontal bar from zero per (label, value >= 0, class), with dashed lines at the limits."""
    height = len(rows) * ROW + 34
    every = [0.0, *(value for _, value, _ in rows), *limits]
    x = _scale(every, LABELS, WIDTH - RIGHT, zero=True)
    parts = [_x_axis(every, x, height - 28)]
    for i, (label, value, kind) in enumerate(rows):
        top = 4 + i * ROW
        parts.append(_text(LABELS - 8, top + ROW / 2 + 4, label, "end"))
        parts.append(_rect(x(0), top + 4, max(x(value), x(0) + 1), top + ROW - 4, kind, f"{label}: {value:.3f}"))
    parts += [_line(x(limit), 4, x(limit), height - 28, "limit") for limit in limits]
    return _svg("".join(parts), height, "; ".join(f"{label}: {value:.3f}" for label, value, _ in rows) + ".")


def reliability(series: Sequence[tuple[str, Sequence[tuple[float, float, int]]]]) -> str:
    """Said against was, per class: (probability said, share that was so, rows); the diagonal is perfect."""
    points = [point for _, bins in series for point in bins]
    top = max((max(said, was) for said, was, _ in points), default=1.0) * 1.05 or 1.0
    side = 320
    x, y = _scale([0.0, top], LEFT, LEFT + side), _scale([0.0, top], side + TOP, TOP)
    parts = [_y_axis([0.0, top], y, right=LEFT + side), _x_axis([0.0, top], x, side + TOP)]
    parts.append(_line(x(0), y(0), x(top), y(top), "limit"))
    for kind, bins in series:
        path = " ".join(f"{x(said):.1f},{y(was):.1f}" for said, was, _ in bins)
        parts.append(f'<polyline class="line {kind}-line" points="{path}"/>')
        for said, was, rows in bins:
            note = f"said {said:.1%}, was {was:.1%} ({rows:,} rows)"
            parts.append(f'<circle class="{kind}" cx="{x(said):.1f}" cy="{y(was):.1f}" r="4">{_title(note)}</circle>')
    parts.append(_text(LEFT + side / 2, side + TOP + 36, "probability said (across), share that was so (up)", "middle"))
    told = "; ".join(
        f"{kind}: " + ", ".join(f"said {said:.0%}, was {was:.0%}" for said, was, _ in bins) for kind, bins in series
    )
    return _svg("".join(parts), side + TOP + BOTTOM, told + ".", LEFT + side + RIGHT)


def _in_words(overall: Interval | None) -> str:
    return "" if overall is None else f"Over all days {overall.value:+.4g}{_bounds(overall)}. "


def _bounds(interval: Interval) -> str:
    if interval.lower is None or interval.upper is None:
        return ""
    return f" (from {interval.lower:+.4g} to {interval.upper:+.4g})"


def _numbers(interval: Interval | None) -> list[float]:
    if interval is None:
        return []
    return [v for v in (interval.value, interval.lower, interval.upper) if v is not None]


def _scale(values: Iterable[float], start: float, end: float, *, zero: bool = False) -> Callable[[float], float]:
    known = [value for value in values if np.isfinite(value)] + ([0.0] if zero else [])
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    if low == high:
        low, high = low - 0.5, high + 0.5
    return lambda value: start + (value - low) / (high - low) * (end - start)


def _ticks(values: Iterable[float], *, zero: bool = False) -> list[float]:
    known = [value for value in values if np.isfinite(value)] + ([0.0] if zero else [])
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    rough = (high - low) / _TICKS or 1.0
    power = 10.0 ** np.floor(np.log10(rough))
    step = power * next((m for m in (1, 2, 5) if m * power >= rough), 10)
    first = int(np.ceil(low / step))
    return [float(i * step) for i in range(first, int(np.floor(high / step)) + 1)]


def _y_axis(
    values: Iterable[float], y: Callable[[float], float], *, zero: bool = False, right: float = WIDTH - RIGHT
) -> str:
    return "".join(
        _line(LEFT, y(tick), right, y(tick), "grid") + _text(LEFT - 8, y(tick) + 4, f"{tick:g}", "end")
        for tick in _ticks(values, zero=zero)
    )


def _x_axis(values: Iterable[float], x: Callable[[float], float], bottom: float) -> str:
    return "".join(
        _line(x(tick), 4, x(tick), bottom, "grid") + _text(x(tick), bottom + 18, f"{tick:g}", "middle")
        for tick in _ticks(values)
    )


def _date_ticks(first: date, last: date) -> list[tuple[date, str]]:
    """A few days between the two, as they are written below an axis: with the year where it begins."""
    count = (last - first).days
    if count > 100:
        months = [date(first.year + m // 12, m % 12 + 1, 1) for m in range(first.month, first.month + count // 28 + 2)]
        days = [day for day in months if first <= day <= last]
        days = days[:: -(-len(days) // 8)]
    else:
        days = [first + timedelta(days=i) for i in range(0, count + 1, max(-(-count // 7), 1))]
    before = [None, *(day.year for day in days)]
    named = [f" {day.year}" if day.year != year else "" for day, year in zip(days, before, strict=False)]
    return [(day, f"{day.day} {day:%b}{year}") for day, year in zip(days, named, strict=True)]


def _points(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _spread(count: int, most: int) -> list[int]:
    return sorted({round(i) for i in np.linspace(0, count - 1, min(most, count))}) if count else []


def _rect(x1: float, y1: float, x2: float, y2: float, kind: str, note: str = "") -> str:
    left, top = min(x1, x2), min(y1, y2)
    size = f'x="{left:.1f}" y="{top:.1f}" width="{abs(x2 - x1):.1f}" height="{abs(y2 - y1):.1f}"'
    return f'<rect class="{kind}" {size}>{_title(note)}</rect>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str, note: str = "") -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}">{_title(note)}</line>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _title(note: str) -> str:
    return f"<title>{escape(note)}</title>" if note else ""


def _svg(content: str, height: float, told: str, width: float = WIDTH) -> str:
    size = f'viewBox="0 0 {width:g} {height:g}" width="{width:g}"'
    return f'<svg class="chart" {size} role="img" aria-label="{escape(told)}">{content}</svg>'
