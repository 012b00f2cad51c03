"""What a dossier says, section by section: HTML of which every text is escaped, for the card and for the pages.

Nothing here has a style of its own: colours are classes, which the page that shows a section defines.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from ratchet.domain.looks import spent_confidence
from ratchet.domain.shift import LARGE, MODERATE
from ratchet.workflow import charts
from ratchet.workflow.charts import Interval
from ratchet.workflow.guarding import in_words

MOST_SLICES = 30
HEADLINES = {
    "promote": ("good", "earned its promotion"),
    "keep_champion": ("bad", "is not to replace the champion"),
    "not_enough_evidence": ("open", "has not shown enough yet"),
}
CELLS = {
    "tp": "acting when it was right to",
    "fp": "acting in vain",
    "fn": "not acting when it was needed",
    "tn": "rightly not acting",
    "under": "each unit predicted too low",
    "over": "each unit predicted too high",
}
PASSED = {True: ("good", "holds"), False: ("bad", "does not hold"), None: ("open", "not judged")}
NUMBERLESS = '<p class="soft">There are no numbers to draw.</p>'


@dataclass(frozen=True)
class Section:
    """A part of what a dossier says, with its heading; ``words`` and ``body`` are HTML."""

    title: str
    words: str
    body: str = ""

    def html(self, level: int = 2) -> str:
        """As HTML below a heading of this level."""
        return f'<h{level}>{_e(self.title)}</h{level}><p class="soft">{self.words}</p>{self.body}'


def headline(verdict: Mapping[str, Any], version: int) -> str:
    """The verdict on the version, in bold and in colour."""
    kind, told = HEADLINES[verdict["decision"]]
    return f'<span class="tag {kind}">Version {version} {told}.</span>'


_UPLIFT = (
    "What the challenger earned beyond the champion, in {unit} per decision. Each bar is a day that neither model was "
    "made with. The line is the estimate over all days, the band its interval, which allows for days that vary."
)
_REFIT = (
    "The recipe of version {judged} fitted again on every day whose labels are known, so that the newest count too. "
    "All that this page says of money and of doubt is about version {judged}: version {version} has seen the judged "
    "days, so they cannot judge it, and how far the two differ there says little of days to come. Its probation does."
)
_CURVE = (
    "What acting from each probability on would have earned on the judged days, in {unit} per decision. The line marks "
    "the threshold that the model was frozen with before these days were seen."
)
_BY_CAPACITY = (
    "What acting on so many of each day's best would have earned on the judged days, in {unit} per decision. The line "
    "marks the capacity. Where the curve still rises there, more room would pay; where it falls, less would."
)
_CALIBRATION = (
    "When the model says 30 %, does it happen in 30 of 100 cases? On the dashed diagonal it does; above, it happens "
    "more often than said. Each dot is a tenth of the rows."
)
_RESIDUALS = (
    "How far the target lay from what was predicted, on the judged days and in the target's own unit: above zero the "
    "prediction was too low. Half of the rows lie below the 50 % quantile."
)
_BY_PREDICTION = (
    "The same for each tenth of the rows, by the challenger's prediction: the dot is the median, the line reaches from "
    "the 10 % to the 90 % quantile."
)
_SHIFT = (
    "How far the judged days differ from the days the model learned from, feature by feature (population stability "
    f"index: below {MODERATE} is small, above {LARGE} is large). A large change is a reason to look, not an error."
)
_LOOKS = (
    "The challenger was frozen at the first look; later ones judge it on more days. Each spends its share of alpha, as "
    "the spec planned before the first."
)
_METRICS = "On the same rows for both models; the bounds are one-sided, each at the verdict's confidence."
_SLICES = "Uplift within each group, in {unit} per decision, with its own interval. Small groups have wide ones."


def verdict_in_words(dossier: Mapping[str, Any]) -> str:
    """What was found, in a sentence or two; plain text."""
    verdict, unit = dossier["verdict"], dossier["verdict"]["unit"]
    days, rows, estimate = verdict["n_clusters"], verdict["n_rows"], verdict["estimate"]
    rival = dossier["champion"]["version"]
    beaten = _constant(dossier) if rival is None else f"the champion, version {rival}"
    if estimate is None:
        return f"It was compared with {beaten} on {rows:,} decisions of {days} days, and no number can be given."
    more = "more" if estimate >= 0 else "less"
    said = (
        f"On {rows:,} decisions of {days} days it earned {abs(estimate):,.2f} {unit} per decision {more} than "
        f"{beaten}: {estimate * rows:+,.0f} {unit} in all."
    )
    if verdict["lower"] is None:
        return said
    policy = dossier["policy"]
    sure = f"{spent_confidence(policy['confidence'], policy.get('alpha_share', 1.0)) * 100:.4g}%"
    said += (
        f" The difference is at least {verdict['lower']:+,.2f} with {sure} confidence, and at most "
        f"{verdict['upper']:+,.2f} with the same."
    )
    if verdict["decision"] == "promote":
        said += " The estimate was chosen for being good, so expect something nearer the lower bound."
    if verdict["needed_clusters"] is not None:
        said += f" About {verdict['needed_clusters']} fresh days would tell."
    return said


def _scores(dossier: Mapping[str, Any]) -> str:
    if "payoff_by_capacity" in dossier:
        return "Scores"
    return "Predictions" if "residuals" in dossier["explanation"] else "Probabilities"


def scored(dossier: Mapping[str, Any]) -> list[Section]:
    """How good the scores are by themselves: a ranking's say nothing but an order, which its metrics measure."""
    told = dossier["explanation"]
    if "residuals" in told:
        return _residuals(told["residuals"])
    if "payoff_by_capacity" in dossier:
        return []
    return [Section("Calibration", _CALIBRATION, _calibration(told["calibration"]))]


def _constant(dossier: Mapping[str, Any]) -> str:
    predicted = dossier.get("constant_prediction")
    if predicted is None:
        return "the best single decision for every row"
    return f"the best single prediction for every row, {_number(predicted)}"


def deployed(dossier: Mapping[str, Any]) -> list[Section]:
    """What serves when people agree, where the spec asked for a refit of what is judged on this page."""
    refit, judged = dossier.get("deployed"), dossier["challenger"]["version"]
    if refit is None:
        return []
    if refit["kind"] == "judged":
        return [Section(f"What serves: version {judged}", _e(f"As it was judged, not refitted: {refit['why']}."))]
    moved = refit["on_holdout"]
    words = _REFIT.format(judged=judged, version=refit["version"])
    rows = [
        ("Judged version learned from", " until ".join(refit["judged_fit"])),
        ("Deployed version learned from", f"{' until '.join(refit['fit'])}: {refit['fit_rows']:,} rows"),
        ("The same in both", ", ".join(refit["frozen"])),
        ("Decisions that differ", f"{moved['flipped']:,} of {moved['rows']:,} on the judged days"),
        (f"{_scores(dossier)} differ by", f"{_number(moved['mean'])} on average, {_number(moved['largest'])} at most"),
        ("Deployed model (SHA-256)", refit["digest"]),
    ]
    title = f"What serves: version {refit['version']}"
    return [Section(title, words, table(rows, title))]


def about(dossier: Mapping[str, Any]) -> str:
    """What the model is for and whose it is, why this attempt was made, and on what data."""
    spec = dossier["spec"]["document"]
    business, owner = spec["business"], spec["owner"]
    payoff = business["payoff"]
    unit = payoff.get("unit", "")
    worth = [f"{words}: {payoff[cell]} {unit}" for cell, words in CELLS.items() if payoff.get(cell) is not None]
    triggers = [event for event in dossier["events"] if event["trigger"]]
    why = "; ".join(f"{event['type']} of {event['time']}" for event in triggers) or dossier["trigger"]
    return table(
        [
            ("What it is", what_it_is(dossier["challenger"]["provenance"])),
            ("Goal", business["goal"]),
            ("Owner", " · ".join(str(owner[name]) for name in ("team", "email", "escalation") if owner.get(name))),
            ("What a decision is worth", "; ".join(worth)),
            ("Look at the goal again by", business.get("review_by")),
            ("Started by", f"{why} ({len(dossier['events']):,} events)"),
            ("Asked by", dossier["actor"]),
            ("Reason", dossier["reason"]),
            ("Data as of", dossier["as_of"]),
            ("Sensitive columns held", "; ".join(in_words(dossier["snapshot"]))),
        ],
        "About",
    )


def what_it_is(made: Mapping[str, Any]) -> str:
    """Of which kind the model is, in a sentence."""
    if "scorer_of" not in made:
        return "A challenger, trained and tuned by this attempt"
    start, end = made["calibrate"]
    return (
        f"The champion, version {made['scorer_of']}, recalibrated: its scorer is untouched, its calibration and its "
        f"threshold were set anew on the days from {start} until {end}, which it had not been fitted on"
    )


def candidates(dossier: Mapping[str, Any]) -> list[Section]:
    """Every challenger of the attempt with its verdict, where the spec asks for more than one."""
    listed, unit = dossier.get("candidates"), dossier["verdict"]["unit"]
    if listed is None:
        return []
    rows = [
        (
            entry["name"].replace("_", " "),
            "yes" if entry["name"] == listed["chosen"] else "no",
            entry["verdict"]["decision"],
            *(_number(entry["verdict"][part]) for part in ("estimate", "lower", "upper")),
            f"{listed['share']:.4g}",
        )
        for entry in listed["judged"]
    ]
    heads = ("challenger", "this card's", "verdict", "uplift", "at least", "at most", "share of alpha")
    left = [f"{name.replace('_', ' ')}: not judged, {why}" for name, why in listed["not_judged"].items()]
    why = [listed["why"]] if listed["why"] else []
    words = f"All met the champion on the same rows, each with its share of alpha; in {_e(unit)} per decision."
    title = "Challengers judged"
    return [Section(title, words, grid(heads, rows, title, numeric={3, 4, 5, 6}) + bullets([*why, *left]))]


def looks(dossier: Mapping[str, Any]) -> list[Section]:
    """Every look at the challenger, where the spec plans for more than one."""
    planned = dossier["looks"]["plan"]
    if len(planned) < 2:
        return []
    rows = [
        (
            f"{look['look']} of {len(planned)}",
            look["attempt"],
            f"{look['n_clusters']} days",
            *(_number(look[part]) for part in ("estimate", "lower", "upper")),
            f"{look['alpha_share']:.4g}",
            look["decision"].replace("_", " "),
        )
        for look in dossier["looks"]["taken"]
    ]
    heads = ("look", "attempt", "on", "uplift", "at least", "at most", "share of alpha", "verdict")
    return [Section("Looks at this challenger", _LOOKS, grid(heads, rows, "Looks", numeric={3, 4, 5, 6}))]


def uplift(dossier: Mapping[str, Any]) -> Section:
    """The picture of the verdict: each judged day's uplift over the interval of all."""
    return Section("Uplift by day", _UPLIFT.format(unit=_e(dossier["verdict"]["unit"])), _uplift(dossier["verdict"]))


def _uplift(verdict: Mapping[str, Any]) -> str:
    days, unit = verdict["diagnostics"].get("clusters", []), verdict["unit"]
    if not days or verdict["estimate"] is None:
        return NUMBERLESS
    overall = Interval("", verdict["estimate"], verdict["lower"], verdict["upper"])
    each = [day["total_uplift"] / day["rows"] for day in days]
    return figure(charts.days([str(day["label"]) for day in days], each, overall, f"{unit} per decision"))


def payoff_by_threshold(dossier: Mapping[str, Any]) -> list[Section]:
    """What acting from each probability on would have earned, where the model gives probabilities."""
    curve, unit = dossier.get("payoff_curve"), dossier["verdict"]["unit"]
    if not curve:
        return []
    known = [(x, y) for x, y in zip(curve["thresholds"], curve["challenger"], strict=True) if y is not None]
    if not known:
        return []
    chosen, hindsight = curve["chosen"]["challenger"], curve["hindsight"]["challenger"]
    words = _CURVE.format(unit=_e(unit))
    if hindsight is not None:
        words += (
            f" The best threshold in hindsight would have earned {hindsight['loss']:.4g} {_e(unit)} more."
            if hindsight["loss"] > 0
            else " No single threshold would have earned more, even in hindsight."
        )
    drawn = charts.curve(known, chosen if isinstance(chosen, float) else None, "threshold")
    return [Section("Payoff by threshold", words, figure(drawn))]


def payoff_by_capacity(dossier: Mapping[str, Any]) -> list[Section]:
    """What acting on so many of each day's best would have earned, where a capacity limits the decisions."""
    curve, unit = dossier.get("payoff_by_capacity"), dossier["verdict"]["unit"]
    if not curve:
        return []
    known = [(x, y) for x, y in zip(curve["at_most"], curve["challenger"], strict=True) if y is not None]
    if not known:
        return []
    drawn = charts.curve(known, curve["chosen"], "acted on, of each day at most")
    return [Section("Payoff by capacity", _BY_CAPACITY.format(unit=_e(unit)), figure(drawn))]


def slices(dossier: Mapping[str, Any]) -> list[Section]:
    """The uplift within each group, a section per column that the spec looks at."""
    found, unit = dossier["explanation"]["slices"], dossier["verdict"]["unit"]
    told = []
    for column in dict.fromkeys(part["column"] for part in found):
        parts = [part for part in found if part["column"] == column and part["uplift"]["value"] is not None]
        rows = [
            Interval(
                f"{part['value']} ({part['rows']:,})",
                part["uplift"]["value"],
                part["uplift"]["lower"],
                part["uplift"]["upper"],
                f"{column}={part['value']}: {part['uplift']['value']:+.4g} {unit} per decision",
            )
            for part in parts[:MOST_SLICES]
        ]
        limits = [
            -guardrail["max_regression"]
            for guardrail in dossier["policy"]["guardrails"]
            if guardrail["metric"] == "payoff" and guardrail["slice"] == column
        ]
        more = f" The {MOST_SLICES} largest of {len(parts)} are drawn." if len(parts) > MOST_SLICES else ""
        limit = limits[0] if limits else None
        dashed = "" if limit is None else f" The dashed line is the loss at which a group blocks, {limit:g} {_e(unit)}."
        words = _SLICES.format(unit=_e(unit)) + dashed + more
        told.append(
            Section(f"Payoff by {column}", words, figure(charts.intervals(rows, limit)) if rows else NUMBERLESS)
        )
    return told


def _calibration(sides: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    series = [
        (side, [(each["said"], each["was"], each["rows"]) for each in sides[side]])
        for side in ("champion", "challenger")
        if sides[side]
    ]
    if not series:
        return '<p class="soft">Neither model gives probabilities.</p>'
    legend = " · ".join(f'<span class="tag {side}">{side}</span>' for side, _ in series)
    return f"<p>{legend}</p>{figure(charts.reliability(series))}"


def _residuals(sides: Mapping[str, Mapping[str, Any] | None]) -> list[Section]:
    """A table of both models' quantiles, and the challenger's errors by what it predicted."""
    known = {side: found for side, found in sides.items() if found is not None}
    if not known:
        return [Section("Errors", "There are no numbers to show.")]
    heads = ("quantile", *known)
    rows = [
        (f"{level:.0%}", *(_number(found["quantiles"][i][1]) for found in known.values()))
        for i, (level, _) in enumerate(next(iter(known.values()))["quantiles"])
    ]
    errors = Section("Errors", _RESIDUALS, grid(heads, rows, "Errors", numeric=set(range(1, len(heads)))))
    challenger = sides["challenger"]
    if challenger is None:
        return [errors]
    drawn = [
        Interval(
            f"{_number(part['low'])} to {_number(part['high'])} ({part['rows']:,})",
            part["q50"],
            part["q10"],
            part["q90"],
            f"median {part['q50']:.4g}, from {part['q10']:.4g} to {part['q90']:.4g}",
        )
        for part in challenger["bins"]
    ]
    by_prediction = figure(charts.intervals(drawn, dots="challenger"))
    return [errors, Section("Errors by prediction", _BY_PREDICTION, by_prediction)]


def data_shift(dossier: Mapping[str, Any]) -> Section:
    """How far the judged days differ from those that the model learned from, feature by feature."""
    return Section("What changed in the data", _SHIFT, _shift(dossier["explanation"]["data_shift"]))


def _shift(features: Sequence[Mapping[str, Any]]) -> str:
    kinds = {"large": "bad", "moderate": "open", "small": "plain"}
    known = sorted((f for f in features if f["stability_index"] is not None), key=lambda f: -f["stability_index"])
    drawn = charts.bars([(f["feature"], f["stability_index"], kinds[f["size"]]) for f in known], [MODERATE, LARGE])
    rows = [
        (
            f["feature"],
            _number(f["stability_index"]),
            f["size"],
            f"{f['missing_before']:.1%}",
            f"{f['missing_after']:.1%}",
        )
        for f in features
        if f["missing_before"] or f["missing_after"] or f["stability_index"] is None
    ]
    heads = ("feature", "index", "change", "missing before", "missing now")
    missing = (
        grid(heads, rows, "Missing values", numeric={1, 3, 4}) if rows else "<p>No feature has missing values.</p>"
    )
    return (figure(drawn) if known else NUMBERLESS) + missing


def metrics(dossier: Mapping[str, Any]) -> Section:
    """Each metric of both models."""
    return Section("Metrics", _METRICS, _metrics(dossier["explanation"]["metrics"]))


def _metrics(measures: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        (f"{m['name']}" + (f", {m['unit']}" if m["unit"] else ""), *(_measured(m[s]) for s in _SIDES)) for m in measures
    ]
    return grid(("metric", "champion", "challenger", "difference"), rows, "Metrics", numeric={1, 2, 3})


_SIDES = ("champion", "challenger", "difference")


def _measured(measured: Mapping[str, Any] | None) -> str:
    if measured is None or measured["value"] is None:
        return "–"
    if measured["lower"] is None:
        return _number(measured["value"])
    return f"{_number(measured['value'])} ({_number(measured['lower'])} … {_number(measured['upper'])})"


def checks(dossier: Mapping[str, Any]) -> Section:
    """Everything that the verdict looked at, with its outcome."""
    return Section("Checks", "What the verdict looked at.", _checks(dossier["verdict"]["checks"]))


def _checks(looked_at: Sequence[Mapping[str, Any]]) -> str:
    heads = "".join(f'<th scope="col">{name}</th>' for name in ("check", "required", "outcome", "detail"))
    rows = ""
    for check in looked_at:
        kind, words = PASSED[check["passed"]]
        name = check["metric"] + (f" of {check['slice']}" if check["slice"] else "")
        rows += (
            f'<tr><th scope="row">{_e(name)}</th><td>{_e(check["required"])}</td>'
            f'<td class="{kind}">{words}</td><td>{_e(check["detail"])}</td></tr>'
        )
    return _framed(f"<tr>{heads}</tr>", rows, "Checks")


def provenance(dossier: Mapping[str, Any], digest: str) -> Section:
    """What pins the attempt: enough to make it again."""
    words = "Enough to make it again: ratchet reproduce " + _e(dossier["attempt"])
    return Section("Where it comes from", words, pinned(dossier, digest))


def pinned(dossier: Mapping[str, Any], digest: str) -> str:
    """Digests, code and libraries, as a table."""
    environment, made = dossier["environment"], dossier["challenger"]
    return table(
        [
            ("Attempt", dossier["attempt"]),
            ("Dossier (SHA-256)", digest),
            ("Model (SHA-256)", made["digest"]),
            ("Snapshot (SHA-256)", dossier["snapshot_manifest"]["sha256"]),
            *(_recalibration(made) if "scorer_of" in made["provenance"] else _training(dossier)),
            ("Code", environment.get("commit") or environment["code"]),
            ("Lock file (SHA-256)", environment["lock_sha256"]),
            ("Libraries", ", ".join(f"{name} {found}" for name, found in environment["libraries"].items() if found)),
        ],
        "Where it comes from",
    )


def made_by(dossier: Mapping[str, Any]) -> str:
    """How the judged challenger was made, as a table; of one that was trained, without what it was trained on."""
    made = dossier["challenger"]
    rows = _recalibration(made) if "scorer_of" in made["provenance"] else _training(dossier)[2:]
    return table(rows, "How the challenger was made")


def _training(dossier: Mapping[str, Any]) -> list[tuple[str, Any]]:
    study, snapshot = dossier["study"], dossier["snapshot"]
    states = [trial["state"] for trial in study["trials"]]
    counted = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    return [
        ("Rows trained on", f"{snapshot['files']['train']['rows']:,}"),
        ("Days", ", ".join(_days(snapshot["plan"], part) for part in ("fit", "calibrate"))),
        ("Parameters", ", ".join(f"{name} = {_number(value)}" for name, value in study["params"].items())),
        ("Trials", f"best is number {study['best_trial']} of {len(states)} ({counted})"),
        *_policy(study.get("policy")),
        ("Seed", dossier["seed"]),
    ]


def _policy(told: Mapping[str, Any] | None) -> list[tuple[str, Any]]:
    """What a tuning policy has to say, and that the winner sits where the search space ends."""
    if told is None:
        return []
    rows = [("Tuning", f"{told['policy']}, {told['fewer_rows_trials']} trials on fewer days")]
    rows += [("Tuning stopped", why) for why in told["stopped"].values()]
    at = ", ".join(f"{name} at {_number(bound)}" for name, bound in told["edges"].items())
    return rows + ([("On the edge of the search space", f"{at}: widen it")] if at else [])


def _recalibration(made: Mapping[str, Any]) -> list[tuple[str, Any]]:
    of = made["provenance"]
    return [
        ("Scorer", f"that of version {of['scorer_of']}, fitted on {of['fit'][0]} until {of['fit'][1]}"),
        ("Calibrated on", f"{of['calibrate'][0]} until {of['calibrate'][1]}, {of['calibrate_rows']:,} rows"),
        ("Parameters", ", ".join(f"{name} = {_number(value)}" for name, value in made["params"].items())),
    ]


def _days(plan: Mapping[str, Any], part: str) -> str:
    return f"{part} {plan[f'{part}_start']} until {plan[f'{part}_end']}"


def _number(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def bullets(items: Iterable[str]) -> str:
    """A list of plain texts; nothing where there are none."""
    told = "".join(f"<li>{_e(item)}</li>" for item in items)
    return f"<ul>{told}</ul>" if told else ""


def figure(drawn: str) -> str:
    """A chart in a frame that scrolls by itself where it is too narrow."""
    return f'<div class="plot" role="group" aria-label="Chart" tabindex="0">{drawn}</div>'


def table(rows: Iterable[tuple[str, Any]], caption: str) -> str:
    """Names and values, plain texts; what has no value is left out."""
    told = ((name, value) for name, value in rows if value not in (None, ""))
    body = "".join(f'<tr><th scope="row">{_e(name)}</th><td>{_e(value)}</td></tr>' for name, value in told)
    return _framed("", body, caption, "named")


def grid(heads: Sequence[str], rows: Iterable[Sequence[str]], caption: str, *, numeric: set[int]) -> str:
    """A table of plain texts, the first of each row naming it; the columns of these numbers are aligned as numbers."""

    def cells(tags: tuple[str, str], values: Sequence[str]) -> str:
        told = ""
        for i, value in enumerate(values):
            tag = tags[min(i, 1)]
            told += f"<{tag}{' class=n' if i in numeric else ''}>{_e(value)}</{tag.split()[0]}>"
        return told

    body = "".join(f"<tr>{cells(('th scope=row', 'td'), row)}</tr>" for row in rows)
    return _framed(f"<tr>{cells(('th scope=col', 'th scope=col'), heads)}</tr>", body, caption)


def _framed(head: str, body: str, caption: str, kind: str = "") -> str:
    name, told = _e(caption), f"<thead>{head}</thead>" if head else ""
    opened = f'<table class="{kind}">' if kind else "<table>"
    return (
        f'<div class="table" role="region" aria-label="{name}" tabindex="0">{opened}<caption class="unseen">{name}'
        f"</caption>{told}<tbody>{body}</tbody></table></div>"
    )


def _e(value: Any) -> str:
    return escape(str(value))
