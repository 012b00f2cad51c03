"""What people do: each act demands a reason, asks whether this person may, and is audited under their name and id."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from fastapi.concurrency import run_in_threadpool

from ratchet.api import schemas as s
from ratchet.api.door import Door, DoorDep, PersonDep
from ratchet.api.problems import documented
from ratchet.api.reading import ModelPath, found
from ratchet.domain.spec import parse_duration
from ratchet.workflow.replaying import Letters, Operator
from ratchet.workflow.snoozing import Who

router = APIRouter(prefix="/v1")
VIA = "api"

AttemptPath = Annotated[s.Text, Path(description="The attempt that people are asked about.")]


@router.post(
    "/models/{model}/retrain",
    status_code=202,
    tags=["models"],
    summary="Ask for a retrain now",
    responses=documented(404, 409),
)
def retrain(door: DoorDep, person: PersonDep, model: ModelPath, asked: s.Because) -> s.Requested:
    """Publish a request for a retrain in your name; admission decides on it as on any: budget, quiet hours, lease.

    To run at once, dry, with another window or beyond the budget, start a run.
    """
    name = door.one(person, model, "retrain")
    event = door.ratchet.request_retrain(name, person.name, asked.reason, via=VIA, user_id=person.id)
    return s.Requested(id=event.id, source=event.source)


@router.post(
    "/models/{model}/runs",
    status_code=201,
    tags=["models"],
    summary="Start a run of the retrain DAG",
    responses=documented(404, 409),
)
async def start_run(
    request: Request, door: DoorDep, person: PersonDep, model: ModelPath, asked: s.RunAsked
) -> s.RunStarted:
    """What Airflow's own trigger form does, in your name. Its claim decides: quiet hours, lease and budget hold."""
    name = await run_in_threadpool(door.one, person, model, "retrain")
    run_id = await door.access.start(request, person, name, asked.model_dump(mode="json"))
    return s.RunStarted(dag_id=f"retrain__{name}", run_id=run_id)


@router.post(
    "/models/{model}/rollback", tags=["models"], summary="Take a champion back", responses=documented(404, 409)
)
def rollback(door: DoorDep, person: PersonDep, model: ModelPath, asked: s.RollbackAsked) -> s.RolledBack:
    """Let an earlier champion serve again; its artifact is loaded and verified first."""
    name = door.one(person, model, "rollback")
    answer = door.ratchet.rollback(name, asked.version, person.name, asked.reason, via=VIA, user_id=person.id)
    return s.RolledBack(**answer)


@router.post(
    "/models/{model}/snooze",
    tags=["models"],
    summary="Let a model start no run by itself for a while",
    responses=documented(404, 409),
)
def snooze(door: DoorDep, person: PersonDep, model: ModelPath, asked: s.SnoozeAsked) -> s.Snoozed:
    """What counts, follow-ups and the schedule wait until it ends; your own request for a retrain does not.

    An attempt at work goes on, and so do probation, monitor, approvals and rollback. It replaces an earlier snooze.
    """
    name = door.one(person, model, "retrain")
    length = parse_duration(asked.length) if asked.length is not None else None
    by = Who(person.name, asked.reason, VIA, person.id)
    return s.Snoozed.model_validate(door.ratchet.snooze(name, by, length=length, until=asked.until))


@router.post("/models/{model}/wake", tags=["models"], summary="End a snooze", responses=documented(404, 409))
def wake(door: DoorDep, person: PersonDep, model: ModelPath, asked: s.Because) -> s.Woken:
    """What waited for it is decided again at once."""
    name = door.one(person, model, "retrain")
    return s.Woken(model=name, woken=door.ratchet.wake(name, Who(person.name, asked.reason, VIA, person.id)))


@router.post(
    "/models/{model}/replay", tags=["models"], summary="Give events another chance", responses=documented(404, 409)
)
def replay(door: DoorDep, person: PersonDep, model: ModelPath, asked: s.ReplayAsked) -> s.Replayed:
    """Have the model's events that ended without a verdict decided upon again; the same again changes nothing.

    Events that started a concluded attempt, or were merged into one, are final.
    """
    name = door.one(person, model, "retrain")
    got = door.ratchet.replays.since(
        asked.since,
        Operator(person.name, asked.reason, VIA, person.id),
        fates=asked.fates,
        models=[name],
        from_kafka=False,
        dry_run=asked.dry_run,
    )
    return s.Replayed.model_validate(got)


@router.post(
    "/attempts/{attempt}/approve",
    tags=["approvals"],
    summary="Agree that a challenger serves",
    responses=documented(404, 409),
)
def approve(door: DoorDep, person: PersonDep, attempt: AttemptPath, asked: s.Because) -> s.Responded:
    """With the last person that is needed it serves at once."""
    return s.Responded(**_respond(door, person, attempt, asked, agree=True))


@router.post(
    "/attempts/{attempt}/reject", tags=["approvals"], summary="Refuse a challenger", responses=documented(404, 409)
)
def reject(door: DoorDep, person: PersonDep, attempt: AttemptPath, asked: s.Because) -> s.Responded:
    """The champion stays: one person's word is enough."""
    return s.Responded(**_respond(door, person, attempt, asked, agree=False))


@router.post(
    "/dead-letters/replay", tags=["dead letters"], summary="Read dead letters again", responses=documented(409)
)
def replay_letters(door: DoorDep, person: PersonDep, asked: s.LettersAsked) -> s.LettersReplayed:
    """By today's code and registry; what is an event now is stored. For those who may retrain every model."""
    door.may_everywhere(person, "retrain")
    spot = None
    if asked.record is not None:
        topic, partition, offset = asked.record.split(":")
        spot = (topic, int(partition), int(offset))
    got = door.ratchet.replays.letters(
        Letters(spot, asked.reason_contains),
        Operator(person.name, asked.reason, VIA, person.id),
        dry_run=asked.dry_run,
    )
    return s.LettersReplayed.model_validate(got)


def _respond(door: Door, person: PersonDep, attempt: str, asked: s.Because, *, agree: bool) -> dict[str, Any]:
    with door.ratchet.ledger.transaction() as tx:
        row = found(door, person, tx, attempt)
    door.may(person, "answer", [row.model])
    return door.ratchet.respond(
        row.id, approve=agree, actor=person.name, reason=asked.reason, via=VIA, user_id=person.id
    )
