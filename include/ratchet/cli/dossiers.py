"""Commands for an auditor: read a dossier, replay its verdict, reproduce its model, write its card."""

from __future__ import annotations

import getpass
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from ratchet.bootstrap import Ratchet, wire
from ratchet.cli.completing import known_models
from ratchet.cli.events import in_full, lines_of
from ratchet.cli.progress import working
from ratchet.cli.tables import AsJson, print_done, print_rows
from ratchet.errors import RatchetError, Refused
from ratchet.ports.ledger import AttemptRow, EventRow, Tx
from ratchet.workflow import dossiers
from ratchet.workflow.approving import approvals_of, verdict_of
from ratchet.workflow.guarding import in_words
from ratchet.workflow.tracing import context_of

What = Annotated[str, typer.Argument(help="<attempt> or <model>@<version>")]
OneOrAll = Annotated[str | None, typer.Argument(help="<attempt> or <model>@<version>; or --all")]
All = Annotated[bool, typer.Option("--all", help="Every attempt that was judged.")]
MOST_EVENTS = 20


def register(app: typer.Typer) -> None:
    """Add these commands to the app."""
    for command in (trace, replay, reproduce, card):
        app.command(command.__name__)(command)


@dataclass(frozen=True)
class Story:
    """An attempt's dossier, and what the ledger says became of it afterwards."""

    attempt: AttemptRow
    dossier: Mapping[str, Any]
    approvals: Mapping[str, Any] | None
    champions: Sequence[Mapping[str, Any]]
    audit: Sequence[Mapping[str, Any]]
    trace_id: str | None = None


def trace(
    what: Annotated[str, typer.Argument(help="<attempt>, <model>@<version>, or an event's id")],
    as_json: AsJson = False,
) -> None:
    """Everything that explains an attempt or a version: events, people, data, code, study, verdict, what followed.

    Of an event, its way: the record it came as, each fate it had, the attempt that took it, who agreed, what the
    verdict was, and since when its model serves.

    ratchet trace flight_delay@4

    ratchet trace weather-drift-2013-06-14
    """
    ratchet = wire()
    with ratchet.ledger.transaction() as tx:
        named = _names_attempt(tx, what)
        journeys = [] if named else journeys_of(tx, tx.events(event_id=what))
    if not (named or journeys or "@" in what):
        raise Refused(f"there is no attempt {what!r}, and no event of this id. See: ratchet attempts, ratchet events")
    if journeys:
        print_done({"event": what, "journeys": journeys}, journey_lines(journeys), as_json=as_json)
        return
    story = story_of(ratchet, what)
    if as_json or story.dossier["evidence"]["key"] is None:
        after = {
            "approvals": story.approvals,
            "champions": story.champions,
            "audit": story.audit,
            "trace_id": story.trace_id,
        }
        typer.echo(json.dumps({"dossier": story.dossier, "after": after}, default=str, indent=1))
        return
    show(story)


def _names_attempt(tx: Tx, what: str) -> bool:
    try:
        dossiers.attempt_of(tx, what)
    except Refused:
        return False
    return True


def journeys_of(tx: Tx, rows: Sequence[EventRow]) -> list[dict[str, Any]]:
    """An event's way for each of its models: in full, then its attempt, the answers to it, and what it let serve."""
    told = []
    for event in in_full(tx, rows):
        attempt = tx.attempt(event["attempt_id"]) if event["attempt_id"] else None
        reigns = _reigns(tx, event["model"]) if attempt else []
        told.append(
            event
            | {
                "attempt": attempt and vars(attempt),
                "approvals": approvals_of(tx, attempt.id) if attempt else None,
                "champions": [reign for reign in reigns if attempt and reign["attempt_id"] == attempt.id],
            }
        )
    return told


def journey_lines(journeys: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """The ways of :func:`journeys_of`, for people."""
    for journey in journeys:
        yield from lines_of(journey)
        if journey["attempt"] is None:
            yield "no attempt took it"
            continue
        attempt = AttemptRow(**journey["attempt"])
        yield f"attempt {attempt.id}, {attempt.trigger}: {attempt.state}" + (
            f", {attempt.failure}" if attempt.failure else ""
        )
        verdict = verdict_of(attempt)
        if attempt.verdict is None:
            yield "  not judged"
        else:
            yield f"  verdict {attempt.verdict}: {'; '.join(verdict.get('reasons') or ['no reason is recorded'])}"
        for answer in (journey["approvals"] or {}).get("answers", ()):
            yield f"  {answer['actor']} by {answer['via']}: {answer['answer']}, {answer['reason']}"
        for reign in journey["champions"]:
            until = f" until {reign['until']:%Y-%m-%d %H:%M:%SZ}" if reign["until"] else ", and serves"
            since = f"{reign['promoted_at']:%Y-%m-%d %H:%M:%SZ}"
            yield f"  champion #{reign['seq']}, version {reign['version']}, since {since}{until}"
        yield f"  all of it: ratchet trace {attempt.id}"


def story_of(ratchet: Ratchet, what: str) -> Story:
    """The dossier of an attempt or a version, with its approvals, champion history and audit entries.

    Raises:
        Refused: there is no such attempt or version, or it was not judged.
    """
    with ratchet.ledger.transaction() as tx:
        attempt = dossiers.attempt_of(tx, what)
        reigns = _reigns(tx, attempt.model)
        audit = tx.audit_log(attempt.model)
        approvals = approvals_of(tx, attempt.id)
        trace_id = context_of(tx, attempt).trace_id
    return Story(
        attempt=attempt,
        dossier=dossiers.read(ratchet.store, attempt),
        approvals=approvals,
        champions=[reign for reign in reigns if reign["version"] in _versions(attempt)],
        audit=[entry for entry in audit if _concerns(entry["detail"], attempt)],
        trace_id=trace_id,
    )


def _reigns(tx: Tx, model: str) -> list[dict[str, Any]]:
    """The model's champions, oldest first, each with when the next one came."""
    champions = tx.champions(model)
    ends = [*(row.promoted_at for row in champions[1:]), None]
    return [vars(row) | {"until": ends[i]} for i, row in enumerate(champions)]


def _concerns(detail: Mapping[str, Any], attempt: AttemptRow) -> bool:
    """Whether an audit entry names the attempt, or a version it made."""
    named = {detail.get(name) for name in ("version", "from", "to", "before", "challenger")}
    return detail.get("attempt") == attempt.id or bool(named & _versions(attempt))


def _versions(attempt: AttemptRow) -> set[int]:
    """What the attempt judged, and what it made of it to serve."""
    return {version for version in (attempt.challenger_version, attempt.deployed_version) if version is not None}


def replay(
    what: OneOrAll = None,
    every: All = False,
    model: Annotated[
        str | None, typer.Option(help="With --all: only this model's.", autocompletion=known_models)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Give the verdict again from the stored evidence, by the pinned policy; exit code 1 when anything differs.

    ratchet replay flight_delay.4
    """
    ratchet = wire()

    def once(attempt: AttemptRow) -> list[dict[str, Any]]:
        found = ratchet.repeats.replay(attempt, getpass.getuser())
        return [asdict(found) | {"same": found.same}]

    _each(
        _chosen(ratchet, what, model, every=every), once, ["attempt", "version", "decision", "result"], as_json=as_json
    )


def reproduce(
    what: OneOrAll = None,
    every: All = False,
    model: Annotated[
        str | None, typer.Option(help="With --all: only this model's.", autocompletion=known_models)
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Of the learner; the spec's when left out.")] = None,
    from_source: Annotated[
        bool, typer.Option("--from-source", help="Take the rows from the feature store again, too, and compare.")
    ] = False,
    allow_other_environment: Annotated[
        bool, typer.Option("--allow-other-environment", help="Go on with other code, lock file, Python or machine.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Train again from the dossier: every prediction must be the stored one to the bit; exit code 1 when one is not.

    ratchet reproduce flight_delay@4 --threads 2
    """
    ratchet = wire()

    def once(attempt: AttemptRow) -> list[dict[str, Any]]:
        found = ratchet.repeats.reproduce(
            attempt,
            getpass.getuser(),
            threads=threads,
            from_source=from_source,
            allow_other_environment=allow_other_environment,
        )
        return [
            {name: value for name, value in asdict(each).items() if name != "refit"} | {"same": each.same}
            for each in found.each
        ]

    columns = ["attempt", "version", "rows", "different", "largest", "tolerance", "threads", "model_digest_equal"]
    _each(_chosen(ratchet, what, model, every=every), once, [*columns, "result"], as_json=as_json)


def card(what: What, as_json: AsJson = False) -> None:
    """Write the model card of a version and print where it is: one HTML file that opens in any browser.

    ratchet card flight_delay@4
    """
    ratchet = wire()
    with ratchet.ledger.transaction() as tx:
        attempt = dossiers.attempt_of(tx, what)
    with working(f"writing the card of {attempt.id}"):
        uri = ratchet.card(attempt)
    print_done({"attempt": attempt.id, "card": uri}, [uri], as_json=as_json)


def _chosen(ratchet: Ratchet, what: str | None, model: str | None, *, every: bool) -> list[AttemptRow]:
    if every == (what is not None):
        raise Refused("name one attempt or version, or give --all, but not both")
    with ratchet.ledger.transaction() as tx:
        if what is not None:
            return [dossiers.attempt_of(tx, what)]
        judged = [
            attempt for attempt in tx.attempts(model=model) if attempt.dossier_sha256 and attempt.challenger_version
        ]
    if not judged:
        raise Refused("no attempt has been judged yet. See: ratchet attempts")
    return sorted(judged, key=lambda attempt: (attempt.model, attempt.epoch))


def _each(
    attempts: Sequence[AttemptRow],
    once: Callable[[AttemptRow], list[dict[str, Any]]],
    columns: Sequence[str],
    *,
    as_json: bool,
) -> None:
    """Do it for each attempt; a problem of one does not hide the others'. Exit code 1 unless all are the same."""
    rows: list[dict[str, Any]] = []
    with working("doing it again") as tell:
        for number, attempt in enumerate(attempts, start=1):
            tell(f"{attempt.id}, {number} of {len(attempts)}")
            rows += _once(attempt, once, columns)
    print_rows(rows, columns, as_json=as_json)
    failed = sum(not row["same"] for row in rows)
    typer.echo(f"{len(rows) - failed} of {len(rows)} are the same", err=True)
    if failed:
        raise typer.Exit(1)


def _once(
    attempt: AttemptRow, once: Callable[[AttemptRow], list[dict[str, Any]]], columns: Sequence[str]
) -> Iterator[dict[str, Any]]:
    nothing: dict[str, Any] = dict.fromkeys(columns)
    try:
        for found in once(attempt):
            told = [f"{d['field']}: recorded {d['recorded']}, found {d['found']}" for d in found["differences"]]
            result = "the same" if found["same"] else "; ".join(told) or "other predictions"
            yield nothing | found | {"result": result}
    except RatchetError as error:
        found = {"attempt": attempt.id, "version": attempt.challenger_version, "same": False, "differences": []}
        yield nothing | found | {"result": str(error)}


def show(story: Story) -> None:
    """Print it for people."""
    dossier, attempt, verdict = story.dossier, story.attempt, story.dossier["verdict"]
    console = Console(highlight=False, soft_wrap=True)
    version = f"{attempt.model}@{attempt.challenger_version}"
    console.print(f"[bold]{escape(version)}[/] made by attempt {escape(attempt.id)}, {attempt.state}")

    console.print("\n[bold]Why it started[/]")
    options = {name: value for name, value in dossier["options"].items() if value}
    _facts(
        console,
        {
            "trigger": dossier["trigger"],
            "actor": dossier["actor"],
            "reason": dossier["reason"],
            "options": ", ".join(f"{name}={value}" for name, value in options.items()),
            "run": f"{dossier['run']['dag']} {dossier['run']['id']}",
            "as of": f"{dossier['as_of']} (business time {dossier['business_at']})",
            "events": f"{len(dossier['events']):,}",
            "trace": story.trace_id,
        },
    )
    for event in dossier["events"][:MOST_EVENTS]:
        mark = "*" if event["trigger"] else " "
        console.print(f"  {mark} {event['time']}  {escape(event['type'])}  {escape(event['id'])}")
    if len(dossier["events"]) > MOST_EVENTS:
        console.print(f"    and {len(dossier['events']) - MOST_EVENTS:,} more: --json has them all")

    snapshot, environment, study = dossier["snapshot"], dossier["environment"], dossier["study"]
    made = dossier["challenger"]["provenance"]
    plan = snapshot["plan"]
    console.print("\n[bold]Data[/]")
    _facts(
        console,
        {
            "trained on": f"{plan['fit_start']} until {plan['fit_end']}, calibrated on {plan['calibrate_start']} until "
            f"{plan['calibrate_end']}: {snapshot['files']['train']['rows']:,} rows",
            "judged on": f"{plan['holdout_days'][0]} to {plan['holdout_days'][-1]}: "
            f"{snapshot['files']['holdout']['rows']:,} rows",
            "spine": snapshot["spine_sha256"],
            "snapshot": dossier["snapshot_manifest"]["sha256"],
            "created cutoff": ", ".join(f"{k}: {v}" for k, v in snapshot["created_cutoff"].items()),
            "feature views": ", ".join(
                name + ("" if view["version"] is None else f" v{view['version']}")
                for name, view in snapshot["feature_repository"]["views"].items()
            ),
            "sensitive columns held": "; ".join(in_words(snapshot)),
            "feature repository": snapshot["feature_repository"]["hash"],
            "joined by": ", ".join(
                f"{name} {found}" for name, found in snapshot["feature_repository"]["engine"].items()
            ),
        },
    )
    changed = [f for f in dossier["explanation"]["data_shift"] if f["size"] in ("moderate", "large")]
    told = ", ".join(f"{f['feature']} {f['stability_index']:.2f} ({f['size']})" for f in changed) or "nothing much"
    _facts(console, {"what changed": told})

    console.print("\n[bold]Code[/]")
    _facts(
        console,
        {
            "commit": environment["commit"],
            "sources": environment["code"],
            "lock file": environment["lock_sha256"],
            "python": f"{environment['python']} on {environment['machine']}",
            "libraries": ", ".join(f"{name} {found}" for name, found in environment["libraries"].items() if found),
            "spec": dossier["spec"]["digest"],
        },
    )

    console.print("\n[bold]Study[/]")
    _facts(
        console,
        {
            "seed": dossier["seed"],
            "parameters": ", ".join(f"{name}={value}" for name, value in study["params"].items()),
            "model": dossier["challenger"]["digest"],
            "instead": f"the scorer of {attempt.model}@{made['scorer_of']}, calibrated anew on {made['calibrate'][0]} "
            f"until {made['calibrate'][1]}: the recalibrated champion was chosen"
            if "scorer_of" in made
            else None,
        },
    )
    trials = [
        {
            "trial": t["number"],
            "state": t["state"],
            "value": t["value"],
            "": "best" if t["number"] == study["best_trial"] else "",
        }
        for t in study["trials"]
    ]
    _rows(trials)

    console.print(f"\n[bold]Verdict: {escape(verdict['decision'])}[/]")
    champion = dossier["champion"]["version"]
    rival = "the best constant decision" if champion is None else f"{attempt.model}@{champion}"
    _facts(
        console,
        {
            "against": rival,
            "uplift": f"{_n(verdict['estimate'])} {verdict['unit']} per decision, one-sided bounds "
            f"{_n(verdict['lower'])} and {_n(verdict['upper'])}",
            "on": f"{verdict['n_rows']:,} rows of {verdict['n_clusters']} days",
            "reasons": "; ".join(verdict["reasons"]),
            "evidence": f"{dossier['evidence_digest']} ({dossier['evidence']['key']})",
            "dossier": f"{attempt.dossier_sha256} ({attempt.dossier_uri})",
        },
    )
    outcomes = {True: "holds", False: "does not hold", None: "not judged"}
    _rows(
        [
            {
                "check": check["metric"] + (f" of {check['slice']}" if check["slice"] else ""),
                "required": check["required"],
                "outcome": outcomes[check["passed"]],
                "detail": check["detail"],
            }
            for check in verdict["checks"]
        ]
    )
    _candidates(console, dossier.get("candidates"))
    _deployed(console, dossier)
    looks = dossier["looks"]["taken"]
    if len(looks) > 1:
        _rows(
            [{name: look[name] for name in ("look", "attempt", "alpha_share", "lower", "decision")} for look in looks]
        )
    metrics = [
        {"metric": f"{m['name']} {m['unit']}".strip()} | {side: _measured(m[side]) for side in _SIDES}
        for m in dossier["explanation"]["metrics"]
    ]
    _rows(metrics)

    _approval(console, story.approvals)

    console.print("\n[bold]Afterwards[/]")
    for reign in story.champions:
        until = f" until {reign['until']:%Y-%m-%d %H:%M:%SZ}" if reign["until"] else ", and serves"
        console.print(
            f"  champion #{reign['seq']} by {reign['kind']} since {reign['promoted_at']:%Y-%m-%d %H:%M:%SZ}{until}"
            + escape(f" (data as of {reign['as_of']:%Y-%m-%d}, {reign['actor'] or 'ratchet'}: {reign['reason']})")
        )
    if not story.champions:
        console.print("  never champion")
    for entry in story.audit:
        detail = {k: v for k, v in entry["detail"].items() if k not in ("attempt", "events")}
        console.print(
            f"  {entry['at']:%Y-%m-%d %H:%M:%SZ} {escape(entry['actor'])} {escape(entry['action'])} "
            + escape(json.dumps(detail, default=str))
        )


def _deployed(console: Console, dossier: Mapping[str, Any]) -> None:
    """What serves after a promotion, where the spec asked for a refit."""
    deployed = dossier.get("deployed")
    if deployed is None:
        return
    moved, refit = deployed.get("on_holdout"), deployed["kind"] == "refit"
    console.print(f"\n[bold]Deployed: {escape(dossier['model'])}@{deployed['version']}[/]")
    _facts(
        console,
        {
            "what": f"the recipe of version {dossier['challenger']['version']}, which was judged, fitted again"
            if refit
            else f"what was judged: {deployed['why']}",
            "model": deployed["digest"],
            "fitted on": f"{' until '.join(deployed['fit'])}: {deployed['fit_rows']:,} rows" if refit else None,
            "judged one on": " until ".join(deployed["judged_fit"]) if refit else None,
            "as judged": ", ".join(deployed["frozen"]) if refit else None,
            "moved, in sample": None
            if moved is None
            else f"{moved['flipped']:,} of {moved['rows']:,} decisions of the judged rows, probabilities by "
            f"{_n(moved['mean'])} on average and {_n(moved['largest'])} at most",
        },
    )


def _candidates(console: Console, listed: Mapping[str, Any] | None) -> None:
    """Every challenger that was judged on these rows, where the spec asks for more than one."""
    if listed is None:
        return
    _rows(
        [
            {"challenger": entry["name"], "chosen": "yes" if entry["name"] == listed["chosen"] else "no"}
            | {name: entry["verdict"][name] for name in ("decision", "estimate", "lower", "upper")}
            | {"share of alpha": listed["share"]}
            for entry in listed["judged"]
        ]
    )
    _facts(console, {f"no {name.replace('_', ' ')}": reason for name, reason in listed["not_judged"].items()})


def _approval(console: Console, asked: Mapping[str, Any] | None) -> None:
    """Who was asked to agree, and what they answered."""
    console.print("\n[bold]Approval[/]")
    if asked is None:
        console.print("  nobody was asked")
    else:
        _facts(
            console,
            {
                "asked": f"{asked['asked_at']}, {asked['people']} to agree until {asked['expires_at']}",
                "why": asked["reason"],
                "of evidence": asked["evidence_digest"],
            },
        )
        for answer in asked["answers"]:
            said = f"{answer['at']} {answer['actor']} by {answer['via']}: {answer['answer']}, {answer['reason']}"
            console.print(f"  {escape(said)}")


_SIDES = ("champion", "challenger", "difference")


def _facts(console: Console, facts: Mapping[str, Any]) -> None:
    for name, value in facts.items():
        if value not in (None, ""):
            console.print(f"  [dim]{name:<18}[/] {escape(str(value))}")


def _rows(rows: Sequence[Mapping[str, Any]]) -> None:
    if rows:
        print_rows([{k: _n(v) for k, v in row.items()} for row in rows], list(rows[0]), as_json=False)


def _n(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _measured(measured: Mapping[str, Any] | None) -> str:
    if measured is None:
        return "–"
    value, lower, upper = measured["value"], measured["lower"], measured["upper"]
    return _n(value) if lower is None else f"{_n(value)} ({_n(lower)} … {_n(upper)})"
