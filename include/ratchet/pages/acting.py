"""What people do on the pages: each act is a page with a form, and calls the API's own function of its name."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import RedirectResponse, Response
from pydantic import BaseModel, ValidationError

from ratchet.api import acting, reading
from ratchet.api import schemas as s
from ratchet.api.acting import AttemptPath
from ratchet.api.door import Door, DoorDep, PersonDep
from ratchet.api.problems import KINDS, Problem
from ratchet.api.reading import ModelPath
from ratchet.domain import forms
from ratchet.errors import Refused, Unavailable
from ratchet.pages.rendering import page, urls

router = APIRouter()
FATES = ("failed", "expired", "rejected", "suppressed")


@dataclass(frozen=True)
class Input:
    """One field of a form.

    ``kind``: ``reason``, ``text``, ``flag``, ``day``, ``moment`` (UTC), ``count``, ``choice`` or ``choices``;
    ``options`` are value and label of what may be chosen.
    """

    name: str
    kind: str
    title: str
    note: str = ""
    options: Sequence[tuple[str, str]] = ()
    least: int | None = None
    most: int | None = None


REASON = Input("reason", "reason", "Reason", "The audit log keeps it beside your name. Say what the next reader needs.")


@dataclass(frozen=True)
class Form:
    """A page that asks before something is done.

    ``facts`` are label and value of what is at stake, ``back`` the page that led here.
    """

    title: str
    lead: str
    button: str
    inputs: Sequence[Input]
    back: tuple[str, ...]
    facts: Sequence[tuple[str, str]] = ()
    danger: bool = False


async def written(request: Request) -> dict[str, list[str]]:
    """What was written into the form, by field; a file is nothing that was written."""
    sent = await request.form()
    return {name: [each for each in sent.getlist(name) if isinstance(each, str)] for name in sent}


Written = Annotated[dict[str, list[str]], Depends(written)]


def shown(
    request: Request,
    person: PersonDep,
    form: Form,
    values: Mapping[str, Sequence[str]] | None = None,
    wrong: Problem | None = None,
    faults: Mapping[str, str] | None = None,
) -> Response:
    """The form, empty or as it was filled in, with what is wrong about it."""
    status = wrong.status_code if wrong else 200
    told = {"title": KINDS[wrong.kind][1], "detail": wrong.detail} if wrong else None
    return page(request, person, "act.html", status, form=form, values=values or {}, wrong=told, faults=faults or {})


async def done(
    request: Request,
    person: PersonDep,
    form: Form,
    values: dict[str, list[str]],
    asked: type[BaseModel],
    act: Callable[[Any], Awaitable[str]],
) -> Response:
    """Do it and lead to where it shows; what is wrong is said beside the form, with what was filled in.

    ``act`` gets what was asked for, as the API wants it, and returns the page that tells of it.
    """
    try:
        wanted = asked.model_validate(_read(form, values))
    except ValidationError as error:
        faults = {str(fault["loc"][0]): fault["msg"].removeprefix("Value error, ") for fault in error.errors()}
        return shown(request, person, form, values, Problem("invalid", "See the fields below."), faults)
    try:
        to = await act(wanted)
    except Problem as problem:
        return shown(request, person, form, values, problem)
    except Refused as refusal:
        return shown(request, person, form, values, Problem("refused", str(refusal)))
    except Unavailable as away:
        return shown(request, person, form, values, Problem("unavailable", str(away)))
    return RedirectResponse(to, 303)


def _read(form: Form, values: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """What was filled in, as the API's document: fields that were left empty are not in it."""
    read: dict[str, Any] = {}
    for field in form.inputs:
        given = [each for each in values.get(field.name, ()) if each.strip()]
        if field.kind == "flag":
            read[field.name] = bool(given)
        elif field.kind == "choices":
            read[field.name] = given
        elif field.kind == "moment" and given:
            read[field.name] = f"{given[0]}Z"
        elif given or field.kind == "reason":
            read[field.name] = given[0] if given else ""
    return read


# -- retrain -----------------------------------------------------------------------------------------------------------

_FIELDS = [
    REASON if name == "reason" else Input(name, field.kind, field.title, field.note, (), field.least, field.most)
    for name, field in forms.RETRAIN.items()
]


def _retrain(door: Door, person: PersonDep, model: str) -> Form:
    door.one(person, model, "retrain")
    lead = (
        "A run starts at once. Its claim decides whether there is something to do: quiet hours and the budget hold, a "
        "snooze does not. The gate judges its challenger as any: the champion is replaced only if it is beaten."
    )
    return Form(f"Retrain {model} now", lead, "Start the run", _FIELDS, ("models", model))


@router.get("/models/{model}/retrain")
def ask_retrain(request: Request, door: DoorDep, person: PersonDep, model: ModelPath) -> Response:
    """The form of a run by hand."""
    return shown(request, person, _retrain(door, person, model))


@router.post("/models/{model}/retrain")
async def retrain(request: Request, door: DoorDep, person: PersonDep, model: ModelPath, values: Written) -> Response:
    """Start it."""
    form = await run_in_threadpool(_retrain, door, person, model)

    async def act(asked: s.RunAsked) -> str:
        started = await acting.start_run(request, door, person, model, asked)
        return urls(request)("run", started.dag_id, started.run_id)

    return await done(request, person, form, values, s.RunAsked, act)


# -- roll back ---------------------------------------------------------------------------------------------------------


def _rollback(door: Door, person: PersonDep, model: str) -> Form:
    door.one(person, model, "rollback")
    served = reading.champions(door, person, model)
    current = served[0].version if served else None
    others = list(dict.fromkeys(each.version for each in served if each.version != current))
    lead = (
        "The version you choose serves again as soon as its artifact was loaded and found to be what was recorded. "
        "Events and attempts go on; the next challenger has to beat it."
    )
    options = [("", "the one before the current"), *((str(each), f"version {each}") for each in others)]
    inputs = [Input("version", "choice", "Version", options=options), REASON]
    facts = [("Serves now", f"version {current}" if current is not None else "nobody")]
    return Form(f"Roll {model} back", lead, "Roll back", inputs, ("models", model), facts, danger=True)


@router.get("/models/{model}/rollback")
def ask_rollback(request: Request, door: DoorDep, person: PersonDep, model: ModelPath) -> Response:
    """The form that takes a champion back; ``version`` in the address chooses one."""
    return shown(
        request, person, _rollback(door, person, model), {"version": [request.query_params.get("version", "")]}
    )


@router.post("/models/{model}/rollback")
async def rollback(request: Request, door: DoorDep, person: PersonDep, model: ModelPath, values: Written) -> Response:
    """Take it back."""
    form = await run_in_threadpool(_rollback, door, person, model)

    async def act(asked: s.RollbackAsked) -> str:
        await run_in_threadpool(acting.rollback, door, person, model, asked)
        return urls(request)("models", model)

    return await done(request, person, form, values, s.RollbackAsked, act)


# -- snooze, wake ------------------------------------------------------------------------------------------------------


def _snooze(door: Door, person: PersonDep, model: str) -> Form:
    door.one(person, model, "retrain")
    lead = (
        "Until it wakes no event, follow-up or schedule starts a run: they wait and say why. A run by hand starts, and "
        "an attempt at work, probation, approvals and rollback go on. Say how long, or until when: 30 days at most."
    )
    inputs = [
        Input("for", "text", "How long", "Such as `3d` or `12h`."),
        Input("until", "moment", "Or until when (UTC)", "By the business clock."),
        REASON,
    ]
    return Form(f"Let {model} sleep", lead, "Snooze", inputs, ("models", model), _slept(door, person, model))


def _wake(door: Door, person: PersonDep, model: str) -> Form:
    door.one(person, model, "retrain")
    lead = "What waited for its end is decided upon again at once."
    return Form(f"Wake {model}", lead, "Wake", [REASON], ("models", model), _slept(door, person, model))


def _slept(door: Door, person: PersonDep, model: str) -> list[tuple[str, str]]:
    snoozed = reading.model(door, person, model).snoozed
    if snoozed is None:
        return [("Sleeps now", "no")]
    return [("Sleeps until", f"{snoozed.until:%Y-%m-%d %H:%M} UTC"), (f"By {snoozed.actor}", snoozed.reason)]


@router.get("/models/{model}/snooze")
def ask_snooze(request: Request, door: DoorDep, person: PersonDep, model: ModelPath) -> Response:
    """Whether it sleeps, and the form."""
    return shown(request, person, _snooze(door, person, model))


@router.post("/models/{model}/snooze")
async def snooze(request: Request, door: DoorDep, person: PersonDep, model: ModelPath, values: Written) -> Response:
    """Let it sleep."""
    form = await run_in_threadpool(_snooze, door, person, model)

    async def act(asked: s.SnoozeAsked) -> str:
        await run_in_threadpool(acting.snooze, door, person, model, asked)
        return urls(request)(*form.back)

    return await done(request, person, form, values, s.SnoozeAsked, act)


@router.get("/models/{model}/wake")
def ask_wake(request: Request, door: DoorDep, person: PersonDep, model: ModelPath) -> Response:
    """Until when it sleeps, and the form."""
    return shown(request, person, _wake(door, person, model))


@router.post("/models/{model}/wake")
async def wake(request: Request, door: DoorDep, person: PersonDep, model: ModelPath, values: Written) -> Response:
    """Wake it."""
    form = await run_in_threadpool(_wake, door, person, model)

    async def act(asked: s.Because) -> str:
        await run_in_threadpool(acting.wake, door, person, model, asked)
        return urls(request)(*form.back)

    return await done(request, person, form, values, s.Because, act)


# -- approve, refuse ---------------------------------------------------------------------------------------------------


def _answer(door: Door, person: PersonDep, attempt: str, *, agree: bool) -> Form:
    with door.ratchet.ledger.transaction() as tx:
        row = reading.found(door, person, tx, attempt)
    door.may(person, "answer", [row.model])
    told = reading.attempt(door, person, row.id)
    if agree:
        title, button = f"Approve a challenger of {row.model}", "Approve"
        lead = "When the last person who is needed has agreed, it serves at once."
    else:
        title, button = f"Refuse a challenger of {row.model}", "Refuse"
        lead = "The champion stays; your word alone is enough."
    return Form(title, lead, button, [REASON], ("attempts", row.id), _stake(told), danger=not agree)


def _stake(told: s.AttemptInFull) -> list[tuple[str, str]]:
    facts = [("Attempt", told.id), ("State", told.state.replace("_", " "))]
    asked, verdict = told.approval, told.verdict
    if verdict is not None and verdict.estimate is not None:
        sure = "" if verdict.lower is None else f", at least {verdict.lower:+,.2f}"
        facts.append(("Uplift", f"{verdict.estimate:+,.2f} {verdict.unit or ''} per decision{sure}"))
    if asked is not None:
        agreed = sum(answer.answer == "approve" for answer in asked.answers)
        facts += [("Challenger", f"version {asked.challenger}"), ("Asked because", asked.reason)]
        facts += [("Agreed", f"{agreed} of {asked.people}"), ("Open until", f"{asked.expires_at:%Y-%m-%d %H:%M} UTC")]
        if asked.value_at_risk is not None:
            facts.append(("Value at risk", f"{asked.value_at_risk:,.0f} {asked.unit or ''}"))
    return facts


@router.get("/attempts/{attempt}/approve")
def ask_approve(request: Request, door: DoorDep, person: PersonDep, attempt: AttemptPath) -> Response:
    """What is at stake, and the form."""
    return shown(request, person, _answer(door, person, attempt, agree=True))


@router.post("/attempts/{attempt}/approve")
async def approve(
    request: Request, door: DoorDep, person: PersonDep, attempt: AttemptPath, values: Written
) -> Response:
    """Agree."""
    return await _respond(request, door, person, attempt, values, agree=True)


@router.get("/attempts/{attempt}/reject")
def ask_reject(request: Request, door: DoorDep, person: PersonDep, attempt: AttemptPath) -> Response:
    """What is at stake, and the form."""
    return shown(request, person, _answer(door, person, attempt, agree=False))


@router.post("/attempts/{attempt}/reject")
async def reject(request: Request, door: DoorDep, person: PersonDep, attempt: AttemptPath, values: Written) -> Response:
    """Refuse."""
    return await _respond(request, door, person, attempt, values, agree=False)


async def _respond(
    request: Request, door: Door, person: PersonDep, attempt: str, values: dict[str, list[str]], *, agree: bool
) -> Response:
    form = await run_in_threadpool(_answer, door, person, attempt, agree=agree)

    async def act(asked: s.Because) -> str:
        await run_in_threadpool(acting.approve if agree else acting.reject, door, person, attempt, asked)
        return urls(request)(*form.back)

    return await done(request, person, form, values, s.Because, act)


# -- replay ------------------------------------------------------------------------------------------------------------


def _replay(door: Door, person: PersonDep, model: str) -> Form:
    door.one(person, model, "retrain")
    lead = (
        "Events that ended without a verdict are decided upon again. Those that started an attempt which concluded, or "
        "were merged into one, are final."
    )
    inputs = [
        Input("since", "moment", "Ended since (UTC)", "By the clock on the wall."),
        Input("fates", "choices", "With the fate", options=[(fate, fate) for fate in FATES]),
        REASON,
    ]
    return Form(f"Give events of {model} another chance", lead, "Decide again", inputs, ("models", model))


@router.get("/models/{model}/replay")
def ask_replay(request: Request, door: DoorDep, person: PersonDep, model: ModelPath) -> Response:
    """The form, for the last day and what failed or expired."""
    since = datetime.now(UTC) - timedelta(days=1)
    values = {"since": [f"{since:%Y-%m-%dT%H:%M}"], "fates": ["failed", "expired"]}
    return shown(request, person, _replay(door, person, model), values)


@router.post("/models/{model}/replay")
async def replay(request: Request, door: DoorDep, person: PersonDep, model: ModelPath, values: Written) -> Response:
    """Have them decided upon again."""
    form = await run_in_threadpool(_replay, door, person, model)

    async def act(asked: s.ReplayAsked) -> str:
        await run_in_threadpool(acting.replay, door, person, model, asked)
        return urls(request)("events", model=model)

    return await done(request, person, form, values, s.ReplayAsked, act)


def _letters(door: Door, person: PersonDep) -> Form:
    door.may_everywhere(person, "retrain")
    lead = (
        "Records that were no events are read again, by today's code and registry: mend the cause first. What is an "
        "event now is stored and decided upon; the rest stays."
    )
    inputs = [
        Input("record", "text", "Record", "One, as topic:partition:offset; empty: all of them."),
        Input("reason_contains", "text", "Whose reason contains", "Empty: whatever was wrong."),
        REASON,
    ]
    return Form("Read dead letters again", lead, "Read again", inputs, ("dead-letters",))


@router.get("/dead-letters/replay")
def ask_letters(request: Request, door: DoorDep, person: PersonDep) -> Response:
    """The form; ``record`` in the address names one."""
    return shown(request, person, _letters(door, person), {"record": [request.query_params.get("record", "")]})


@router.post("/dead-letters/replay")
async def letters(request: Request, door: DoorDep, person: PersonDep, values: Written) -> Response:
    """Read them again."""
    form = await run_in_threadpool(_letters, door, person)

    async def act(asked: s.LettersAsked) -> str:
        await run_in_threadpool(acting.replay_letters, door, person, asked)
        return urls(request)(*form.back)

    return await done(request, person, form, values, s.LettersAsked, act)
