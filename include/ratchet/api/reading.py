"""What is there to see: models, attempts, events, approvals, the audit log, dead letters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Path, Query, Response

from ratchet.api import cursors
from ratchet.api import schemas as s
from ratchet.api.cursors import Cursor, Limit
from ratchet.api.door import DoorDep, PersonDep
from ratchet.api.problems import Problem, documented
from ratchet.errors import RatchetError, Refused, Unavailable
from ratchet.ports.ledger import AWAITING_APPROVAL, AttemptRow, MonitoredRow, RecordRow, Tx
from ratchet.workflow import dossiers
from ratchet.workflow.approving import approvals_by_attempt, approvals_of, verdict_of
from ratchet.workflow.earnings import earnings
from ratchet.workflow.overview import ModelOverview

router = APIRouter(prefix="/v1")

ModelPath = Annotated[s.Text, Path(description="The model.")]
AttemptPath = Annotated[s.Text, Path(description="The attempt, or model@version: the one that judged it.")]
ModelQuery = Annotated[s.Text | None, Query(description="Only this model's.")]


@router.get("/models", tags=["models"], summary="Every model at a glance", responses=documented(400))
def models(
    door: DoorDep,
    person: PersonDep,
    owner: Annotated[s.Text | None, Query(description="Only those of this team.")] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> s.Page[s.Model]:
    """By name: who serves and since when, the last verdict, what waits, what the budget has left, who owns it.

    Those that you may not see are left out.
    """
    after = cursors.read(cursor, str) or ""
    names = {name for name in door.names_seen(person, None) if name > after}
    with door.ratchet.ledger.transaction() as tx:
        rows = [row for row in tx.registered() if row.model in names]
        if owner is not None:
            deployed = door.overviews.deployed(tx, rows)
            rows = [row for row in rows if deployed[row.model].owner.get("team") == owner]
        told = door.overviews.of(tx, rows[: limit + 1])
    return cursors.page(told, limit, lambda row: row.model, _model)


@router.get("/models/{model}", tags=["models"], summary="One model", responses=documented(404))
def model(door: DoorDep, person: PersonDep, model: ModelPath) -> s.Model:
    """One model at a glance."""
    name = door.one(person, model, "read")
    with door.ratchet.ledger.transaction() as tx:
        (told,) = door.overviews.of(tx, [row for row in tx.registered() if row.model == name])
    return _model(told)


@router.get("/models/{model}/champions", tags=["models"], summary="Who has served", responses=documented(404))
def champions(door: DoorDep, person: PersonDep, model: ModelPath) -> list[s.Champion]:
    """The model's champion history, newest first: the first one serves."""
    name = door.one(person, model, "read")
    with door.ratchet.ledger.transaction() as tx:
        return [s.Champion.model_validate(row) for row in reversed(tx.champions(name))]


@router.get(
    "/models/{model}/payoff", tags=["models"], summary="What it has been worth over time", responses=documented(404)
)
def payoff(door: DoorDep, person: PersonDep, model: ModelPath) -> s.Earnings:
    """What its decisions earned, and by how much they beat another version's, by whoever measured it; who served when.

    Windows of the monitor may overlap, so their totals do not add up.
    """
    name = door.one(person, model, "read")
    with door.ratchet.ledger.transaction() as tx:
        (row,) = tx.specs([name])
        return s.Earnings.model_validate(earnings(tx, row))


@router.get("/models/{model}/windows", tags=["models"], summary="What its monitor has found", responses=documented(404))
def windows(door: DoorDep, person: PersonDep, model: ModelPath, limit: Limit = 50) -> list[s.Window]:
    """Windows of new rows, newest first: what each check found, and where the report is."""
    name = door.one(person, model, "read")
    with door.ratchet.ledger.transaction() as tx:
        return [_window(row) for row in tx.monitored(name, limit=limit)]


@router.get("/clock", tags=["about"], summary="The business time", responses=documented())
def clock(door: DoorDep, _person: PersonDep) -> s.Clock:
    """What time it is for windows, budgets and ages: the wall's, or the replay's."""
    with door.ratchet.ledger.transaction() as tx:
        mode, now = tx.clock()
    return s.Clock.model_validate({"mode": mode, "now": now})


@router.get("/attempts", tags=["attempts"], summary="What was tried", responses=documented(400, 404))
def attempts(
    door: DoorDep,
    person: PersonDep,
    model: ModelQuery = None,
    state: Annotated[list[s.Text] | None, Query(max_length=9, description="Only in these states.")] = None,
    verdict: Annotated[list[s.Text] | None, Query(max_length=9, description="Only with these verdicts.")] = None,
    dag_id: Annotated[s.Text | None, Query(description="Only those that runs of this DAG made.")] = None,
    dag_run_id: Annotated[s.Text | None, Query(description="Only the one that this run made; with dag_id.")] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> s.Page[s.Attempt]:
    """Attempts to replace a champion, newest first."""
    spot = cursors.read(cursor, tuple[cursors.Moment, str])
    names = door.names_seen(person, model)
    with door.ratchet.ledger.transaction() as tx:
        rows = tx.attempts_before(
            spot,
            models=names,
            states=state,
            verdicts=verdict,
            dag_id=dag_id,
            dag_run_id=dag_run_id,
            limit=limit + 1,
        )
    return cursors.page(rows, limit, lambda row: (row.created_at, row.id), lambda row: s.Attempt(**_attempt(row)))


@router.get(
    "/attempts/{attempt}", tags=["attempts"], summary="One attempt, with its dossier", responses=documented(404)
)
def attempt(
    door: DoorDep,
    person: PersonDep,
    attempt: AttemptPath,
) -> s.AttemptInFull:
    """Why it started, what was tried, how it was judged, who approved: the dossier says all of it."""
    with door.ratchet.ledger.transaction() as tx:
        row = found(door, person, tx, attempt)
        steps = [s.Step.model_validate(step) for step in tx.steps(row.id).values()]
        asked = approvals_of(tx, row.id)
        champions, watches = tx.champions(row.model), tx.probations(model=row.model)
        document = tx.spec_document(row.spec_digest)
    own = [i for i, champion in enumerate(champions) if champion.attempt_id == row.id]
    seconds = sum((step.finished_at - step.started_at).total_seconds() for step in steps)
    dossier, problem = None, None
    try:
        dossier = dossiers.read(door.ratchet.store, row)
    except Unavailable:
        raise
    except RatchetError as error:
        problem = str(error)
    return s.AttemptInFull(
        **_attempt(row),
        spec_digest=row.spec_digest,
        code_digest=row.code_digest,
        options=row.options,
        trigger_event=row.trigger_event_pk,
        steps=steps,
        core_hours=seconds * document["runtime"]["threads"] / 3600,
        approval=_approval(row, asked) if asked else None,
        served=[s.Champion.model_validate(champions[i]) for i in own],
        followed_by=s.Champion.model_validate(champions[own[-1] + 1]) if own and champions[own[-1] + 1 :] else None,
        probation=next(
            (s.Probation.model_validate(w) for w in watches if w.seq in {champions[i].seq for i in own}), None
        ),
        dossier=dossier,
        dossier_sha256=row.dossier_sha256,
        dossier_problem=problem,
    )


@router.get(
    "/attempts/{attempt}/dossier",
    tags=["attempts"],
    summary="The dossier as it is stored",
    responses=documented(404, 409, 500),
    response_model=dict[str, Any],
)
def dossier(door: DoorDep, person: PersonDep, attempt: AttemptPath) -> Response:
    """To the byte as the ledger recorded it: its SHA-256 is `ETag`. Sent as a file."""
    with door.ratchet.ledger.transaction() as tx:
        row = found(door, person, tx, attempt)
    content = dossiers.stored(door.ratchet.store, row)
    headers = {
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(f'{row.id}.json', safe='')}",
        "ETag": f'"{row.dossier_sha256}"',
    }
    return Response(content, media_type="application/json", headers=headers)


@router.get(
    "/attempts/{attempt}/verdict", tags=["attempts"], summary="How an attempt was judged", responses=documented(404)
)
def verdict(
    door: DoorDep,
    person: PersonDep,
    attempt: AttemptPath,
) -> s.VerdictInFull:
    """The uplift with its bounds, day by day, and every check: what the ledger keeps, whether or not the dossier is."""
    with door.ratchet.ledger.transaction() as tx:
        row = found(door, person, tx, attempt)
    told = _verdict(row)
    if told is None:
        raise Problem("not-found", f"Attempt {row.id!r} has no verdict: it is {row.state}.")
    record = verdict_of(row)
    return s.VerdictInFull(
        **told.model_dump(),
        champion_version=row.champion_version,
        challenger_version=row.challenger_version,
        rows=record.get("n_rows"),
        clusters=(record.get("diagnostics") or {}).get("clusters") or [],
        needed_clusters=record.get("needed_clusters"),
        checks=record.get("checks") or [],
    )


@router.get("/events", tags=["events"], summary="Events and their fates", responses=documented(400, 404))
def events(
    door: DoorDep,
    person: PersonDep,
    model: ModelQuery = None,
    fate: Annotated[list[s.Fate] | None, Query(max_length=9, description="Only with these fates.")] = None,
    kind: Annotated[list[s.Text] | None, Query(alias="type", max_length=9, description="Only of these types.")] = None,
    source: Annotated[s.Text | None, Query(description="Only from this source.")] = None,
    event_id: Annotated[s.Text | None, Query(alias="id", description="Only with this id.")] = None,
    attempt: Annotated[s.Text | None, Query(description="Only those of this attempt.")] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> s.Page[s.Event]:
    """Events as they came, newest first, each with its fate, the reason, and until when it waits."""
    spot = cursors.read(cursor, cursors.Number)
    names = door.names_seen(person, model)
    with door.ratchet.ledger.transaction() as tx:
        rows = tx.events_before(
            spot,
            models=names,
            fates=fate,
            types=kind,
            source=source,
            event_id=event_id,
            attempt_id=attempt,
            limit=limit + 1,
        )
    return cursors.page(rows, limit, lambda row: row.pk, s.Event.model_validate)


@router.get("/events/{number}", tags=["events"], summary="One event and each fate it had", responses=documented(404))
def event(
    door: DoorDep,
    person: PersonDep,
    number: Annotated[int, Path(ge=1, le=2**63 - 1, description="The event's number.")],
) -> s.EventInFull:
    """Where it came from, and each fate it has had, oldest first."""
    with door.ratchet.ledger.transaction() as tx:
        row = tx.event(number)
        if row is None or not door.access.allowed(person, "read", [row.model]):
            raise Problem("not-found", f"There is no event {number}. GET /v1/events lists them.")
        record, fates = tx.record_of(number), tx.fate_history(number)
    told = vars(row) | {"record": _spot(record) if record else None, "fates": fates}
    return s.EventInFull.model_validate(told)


@router.get("/approvals", tags=["approvals"], summary="What waits for people", responses=documented(404))
def approvals(door: DoorDep, person: PersonDep, model: ModelQuery = None) -> list[s.Approval]:
    """Every request that people have not answered: until when, how many must agree, who has, what is at risk."""
    names = set(door.names_seen(person, model))
    with door.ratchet.ledger.transaction() as tx:
        waiting = [row for row in tx.attempts(model=model, states=(AWAITING_APPROVAL,)) if row.model in names]
        asked = approvals_by_attempt(tx, [row.id for row in waiting])
    return [_approval(row, asked[row.id]) for row in waiting if row.id in asked]


@router.get("/audit", tags=["audit"], summary="Who did what, when and why", responses=documented(400, 404))
def audit(
    door: DoorDep,
    person: PersonDep,
    model: ModelQuery = None,
    actor: Annotated[s.Text | None, Query(description="Only what this person or part did.")] = None,
    action: Annotated[s.Text | None, Query(description="Only this action or family, such as champion.")] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> s.Page[s.Audited]:
    """The audit log, newest first. What is of no model is seen by those who may read all of it."""
    spot = cursors.read(cursor, cursors.Number)
    names = door.names_seen(person, model, "audit")
    general = model is None and door.access.allowed_everywhere(person, "audit")
    with door.ratchet.ledger.transaction() as tx:
        rows = tx.audited_before(spot, models=names, general=general, actor=actor, action=action, limit=limit + 1)
    return cursors.page(rows, limit, lambda row: row["seq"], s.Audited.model_validate)


@router.get("/dead-letters", tags=["dead letters"], summary="Records that were no events", responses=documented(400))
def dead_letters(
    door: DoorDep,
    person: PersonDep,
    reason: Annotated[s.Text | None, Query(description="Only those whose reason contains this.")] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> s.Page[s.DeadLetter]:
    """Newest first, for those who may see every model: nobody knows which one a dead letter is of."""
    spot = cursors.read(cursor, cursors.Number)
    door.may_everywhere(person, "read")
    with door.ratchet.ledger.transaction() as tx:
        rows = tx.letters_before(spot, reason_contains=reason, limit=limit + 1)
    return cursors.page(rows, limit, lambda row: row.pk, _letter)


def found(door: DoorDep, person: PersonDep, tx: Tx, what: str) -> AttemptRow:
    """The attempt, if there is one that the person may see. Raises :class:`Problem`."""
    missing = Problem("not-found", f"There is no attempt {what!r}. GET /v1/attempts lists them.")
    try:
        row = dossiers.attempt_of(tx, what)
    except Refused:
        raise missing from None
    if not door.access.allowed(person, "read", [row.model]):
        raise missing
    return row


def _model(told: ModelOverview) -> s.Model:
    judged = told.last_verdict
    fields = {name: value for name, value in vars(told).items() if name != "last_verdict"}
    return s.Model.model_validate(fields | {"last_verdict": _verdict(judged) if judged else None})


def _window(row: MonitoredRow) -> s.Window:
    checks = {name: part for name, part in row.found.items() if isinstance(part, dict) and "outcome" in part}
    return s.Window(
        window_end=row.window_end,
        state=row.state,
        version=row.version,
        outcomes={name: part["outcome"] for name, part in checks.items()},
        said={name: part["said"] for name, part in checks.items()},
        cause=row.found.get("cause"),
        looked_at=row.done_at,
        report_uri=row.report_uri,
    )


def _verdict(row: AttemptRow) -> s.Verdict | None:
    if row.verdict is None:
        return None
    told = verdict_of(row)
    return s.Verdict(
        attempt_id=row.id,
        decision=row.verdict,
        judged_at=row.judged_at,
        dry_run=row.dry_run,
        **{name: told.get(name) for name in ("estimate", "lower", "upper", "unit")},
        reasons=list(told.get("reasons") or ()),
    )


def _attempt(row: AttemptRow) -> dict[str, Any]:
    names = s.Attempt.model_fields.keys() - {"verdict", "has_dossier"}
    told = {name: getattr(row, name) for name in names}
    return told | {"verdict": _verdict(row), "has_dossier": row.dossier_sha256 is not None}


def _approval(row: AttemptRow, asked: Mapping[str, Any]) -> s.Approval:
    known = {"attempt_id": row.id, "model": row.model, "state": row.state, "unit": verdict_of(row).get("unit")}
    return s.Approval.model_validate(dict(asked) | known)


def _spot(record: RecordRow) -> str:
    return f"{record.raw.topic}:{record.raw.partition}:{record.raw.offset}"


def _letter(record: RecordRow) -> s.DeadLetter:
    size = len(record.raw.value or b"")
    return s.DeadLetter(record=_spot(record), received_at=record.received_at, bytes=size, reason=record.reason)
