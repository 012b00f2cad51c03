"""Every model at a glance, and one in full."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import HTMLResponse

from ratchet.api import reading
from ratchet.api import schemas as s
from ratchet.api.access import Person
from ratchet.api.door import Door, DoorDep, PersonDep
from ratchet.pages import attention, figures, rendering, wording
from ratchet.pages.rendering import page

router = APIRouter()
MOST_READ = 2_000
MOST_SHOWN = 200
MOST_EVENTS, MOST_ATTEMPTS, MOST_WINDOWS = 20, 10, 5
OPEN: list[s.Fate] = ["claimed", "pending", "deferred"]
OF_MODELS = ("retrain", "promote", "rollback", "monitor", "score")
"""What a model's DAGs do; their names are ``<verb>__<model>``."""

Asked = Annotated[str, Query(max_length=255)]


@router.get("/models")
def models(
    request: Request,
    door: DoorDep,
    person: PersonDep,
    q: Asked = "",
    owner: Asked = "",
    show: Asked = "",
    retired: bool = False,
    after: Asked = "",
) -> HTMLResponse:
    """The list of models, narrowed by what is written in the form; the summary above it is of all."""
    told = reading.models(door, person, owner=None, cursor=None, limit=MOST_READ).items
    kind = [model for model in told if model.retired is retired]
    found = [model for model in kind if _found(model, q, owner) and attention.shown(model, show)]
    rest = [model for model in found if model.model > after]
    return page(
        request,
        person,
        "models.html",
        models=rest[:MOST_SHOWN],
        count=len(found),
        next=rest[MOST_SHOWN - 1].model if len(rest) > MOST_SHOWN else None,
        known=len(told),
        live=sum(not model.retired for model in told),
        summary=attention.summary(told),
        matters=attention.MATTERS,
        asked={"q": q, "owner": owner, "show": show, "retired": "true" if retired else ""},
        owners=sorted({model.owner.team for model in kind if model.owner.team}),
        w=wording,
        urgent=sum(attention.shown(model, attention.ATTENTION) for model in told),
    )


@router.get("/models/{model}")
def model(request: Request, door: DoorDep, person: PersonDep, model: reading.ModelPath) -> HTMLResponse:
    """One model: what it is for, who serves, what it has been worth, what waits, what was tried."""
    return _one(request, door, person, model)


@router.get("/dag/{dag_id}")
def dag(
    request: Request, door: DoorDep, person: PersonDep, dag_id: Annotated[s.Text, Path(description="The DAG.")]
) -> HTMLResponse:
    """What Airflow shows beside a DAG: the model that the DAG is of, if it is of one."""
    verb, _, name = dag_id.partition("__")
    if verb in OF_MODELS and name in door.names_seen(person, None):
        return _one(request, door, person, name, framed=True)
    return page(request, person, "no_model.html", dag_id=dag_id, ours=verb in {*OF_MODELS, "ratchet"})


def _one(request: Request, door: Door, person: Person, name: str, *, framed: bool = False) -> HTMLResponse:
    told = reading.model(door, person, name)
    verdict = reading.verdict(door, person, told.last_verdict.attempt_id) if told.last_verdict else None
    earned = reading.payoff(door, person, name)
    return page(
        request,
        person,
        "model.html",
        framed=framed,
        model=told,
        may=set() if told.retired else rendering.may(door, person, name),
        champions=reading.champions(door, person, name),
        approvals=reading.approvals(door, person, name),
        earned=earned,
        payoff_figure=figures.payoff_over_time(earned),
        verdict=verdict,
        verdict_figure=figures.uplift_by_day(verdict) if verdict else None,
        events=reading.events(door, person, name, fate=OPEN, limit=MOST_EVENTS).items,
        attempts=reading.attempts(door, person, name, limit=MOST_ATTEMPTS).items,
        windows=reading.windows(door, person, name, limit=MOST_WINDOWS),
        clock=reading.clock(door, person),
        w=wording,
        dags=[f"{verb}__{name}" for verb in OF_MODELS],
    )


def _found(model: s.Model, q: str, owner: str) -> bool:
    texts = (model.model, model.goal, model.owner.team or "", model.owner.email or "")
    return (not owner or model.owner.team == owner) and any(q.strip().casefold() in text.casefold() for text in texts)
