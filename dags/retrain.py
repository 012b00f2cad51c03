"""One file for all models: each folder of `include/models/` becomes retrain__, promote__ and rollback__ DAGs.

A model is added by adding a folder, and has probation__, monitor__ and score__ too where its spec says so; a spec that
breaks a rule becomes one DAG that shows the problems, and leaves the other models alone. The runbooks are the
docstrings of the functions below; they are shown on the DAGs' pages.
"""

from __future__ import annotations

import gc
import inspect
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import cache, partial
from typing import Any

import pendulum
from airflow.sdk import (
    DAG,
    Asset,
    AssetOrTimeSchedule,
    AssetWatcher,
    CronTriggerTimetable,
    ExceptionRetryPolicy,
    Param,
    RetryAction,
    RetryRule,
    chain,
    get_parsing_context,
    task,
)

import ratchet_airflow
from ratchet.adapters.specs import SpecRefused, load_spec, spec_files
from ratchet.domain import forms
from ratchet.domain.spec import ModelSpec
from ratchet.settings import load_settings
from ratchet_approval import AskForApproval
from ratchet_intake_trigger import DueTrigger, MonitorTrigger

RUNNING = get_parsing_context().dag_id
"""The DAG whose task is being started; None where Airflow wants to know them all."""
START = pendulum.datetime(2013, 1, 1, tz="UTC")
step = partial(task, multiple_outputs=False)
"""A task whose answer is one value. Unsaid, Airflow evaluates each task's annotations to find out, for each model."""
REFUSALS_ARE_FINAL = ExceptionRetryPolicy(
    [
        RetryRule(
            exception="ratchet.errors.Refused", action=RetryAction.FAIL, reason="a rule was broken: a retry cannot help"
        )
    ]
)
ASKING_RUNS = 16
"""Runs that wait for people count as active for some minutes after their request has ended; others must start."""


def retrain_dag(spec: ModelSpec) -> DAG:
    """### Retrain {model}: from a reason to a verdict.

    Goal: *{goal}* (owner: {team}, {email}).

    Starts when the doorbell `ratchet://{model}/due` rings, by the spec's own schedule (`{schedule}`), or by hand: use
    **Trigger** and its form. `claim` decides again under the model's lease: a run with nothing to do is skipped, and
    the reason is in its log and its XCom `outcome`. The run ends at the verdict; `promote__{model}` acts on it.

    | what you see | what it means | what to do |
    |---|---|---|
    | all skipped after `claim` | not due, or another attempt is at work | `outcome`; `ratchet events --model {model}` |
    | a task failed: "refused" | a rule was broken; the message names the remedy | follow it, then start a new run |
    | a task failed otherwise | the attempt keeps its finished steps | clear the task: it resumes from what is stored |
    | tasks stay scheduled | no free slot in pool `{pool}` | wait; the sweep keeps the lease alive |

    Exclusion is the lease, not the number of active runs: a dead worker's run does not block its successor.
    """
    model, work = spec.model, _work(spec)
    due = ratchet_airflow.bell(
        model, "due", watchers=[AssetWatcher(name=f"{model}-due", trigger=DueTrigger(model=model))]
    )
    with _dag(
        retrain_dag,
        spec,
        schedule=_by_bell_or_time(spec, due, spec.retrain.schedule),
        max_active_runs=4,
    ) as dag:

        @step(retries=2)
        def claim(**context: Any) -> str:
            """Take the lease and every event that is due; skip the run when there is nothing to do."""
            claimed = ratchet_airflow.verbs().claim(model, ratchet_airflow.run_context(context))
            return ratchet_airflow.go_on(claimed, context)

        @step(**work)
        def snapshot(attempt: str) -> Any:
            """Freeze features as known at decision time, with a manifest."""
            return ratchet_airflow.verbs().snapshot(attempt)

        @step(retries=2)
        def plan(attempt: str) -> list[dict[str, Any]]:
            """Share the study's trials among workers."""
            return list(ratchet_airflow.verbs().plan_tuning(attempt))

        @step(**work)
        def tune(attempt: str, share: dict[str, Any]) -> Any:
            """Run one worker's share of the study."""
            return ratchet_airflow.verbs().tune(attempt, share["worker"])

        @step(outlets=[ratchet_airflow.bell(model, "judged")], **work)
        def judge(attempt: str) -> Any:
            """Fit the challenger, compare it with the champion on fresh rows, write the dossier."""
            return ratchet_airflow.verbs().judge(attempt)

        attempt = claim()
        shares = plan(attempt)
        snapshot(attempt) >> shares  # type: ignore[operator]
        tune.partial(attempt=attempt).expand(share=shares) >> judge(attempt)
    return _asking(dag, forms.RETRAIN)


def promote_dag(spec: ModelSpec) -> DAG:
    """### Promote {model}: act on the verdict.

    Starts when `ratchet://{model}/judged` rings. `promote` moves the champion by compare-and-set in the ledger, then
    the MLflow alias and `ml.decisions` follow; other verdicts were concluded by `judge`. When this fails half
    way the ledger is right and the sweep finishes the rest within a minute or two; clearing the task is safe.
    `champion` is skipped when the champion stayed; it updates `ratchet://{model}/champion`, for whoever serves.

    Where the spec has `gate.approval`, `approval` (and `second_approval`) ask people first: **Required Actions** shows
    what is at stake and takes Approve or Reject with a reason; `ratchet approvals`, `approve` and `reject` do the same.
    Waiting holds no slot and blocks no retrain. The ledger counts the answers and promotes with the last one it needs:
    marking a task a success approves nothing, and the sweep has people asked again when no open run does.

    | what you see | what it means | what to do |
    |---|---|---|
    | `approval` waits for input | people are asked | answer before it expires; then the champion stays |
    | `approval` is skipped | nobody need be asked here, or no more | `ratchet approvals`, `ratchet attempts` |
    | `approval` failed: "waits for no answer" | the request ended before the answer | nothing: the message says how |
    """
    model, approval = spec.model, spec.gate.approval
    bells, runs = [ratchet_airflow.bell(model, "judged")], ASKING_RUNS if approval else 4
    with _dag(promote_dag, spec, schedule=bells, max_active_runs=runs) as dag:

        @task(retries=2, multiple_outputs=True)
        def promote() -> dict[str, Any]:
            """Promote the newest attempt that waits for it."""
            return dict(ratchet_airflow.verbs().promote(model))

        @step(
            outlets=[ratchet_airflow.bell(model, "champion")], trigger_rule="none_failed" if approval else "all_success"
        )
        def champion() -> None:
            """Tell the world, if the champion changed and the sweep has not told it."""
            ratchet_airflow.only_if(ratchet_airflow.verbs().announce(model), "the champion stayed")

        asking = ["approval"] if approval else []
        if approval and approval.two_people_above is not None:
            asking.append("second_approval")
        chain(promote(), *(AskForApproval(task_id=name, model=model, retries=2) for name in asking), champion())
    return dag


def rollback_dag(spec: ModelSpec) -> DAG:
    """### Roll {model} back to an earlier champion.

    **Trigger** it, say why, and name a version (empty: the champion before this one). The same compare-and-set as a
    promotion: the ledger decides, the MLflow alias and `ml.decisions` follow; the audit log names you and the reason.
    A version that never was champion is refused. `ratchet champion show {model}` lists the earlier ones.
    """
    model = spec.model
    with _dag(rollback_dag, spec, schedule=None, max_active_runs=1) as dag:
        # Not retried: a second try would not know whether the first had moved the champion, and go back once more.
        @step(retries=0, outlets=[ratchet_airflow.bell(model, "champion")])
        def rollback(**context: Any) -> Any:
            """Take an earlier champion back."""
            form, actor = context["params"], ratchet_airflow.run_context(context).actor or "unknown"
            moved = ratchet_airflow.verbs().rollback(model, form["version"], actor, form["reason"])
            return moved | {"announced": ratchet_airflow.verbs().announce(model)}

        rollback()
    return _asking(dag, forms.ROLLBACK)


def probation_dag(spec: ModelSpec) -> DAG:
    """### Probation of {model}: watch a new champion.

    After a promotion over a sitting champion both are scored on the days that become mature. Starts when the sweep
    finds such days and rings `ratchet://{model}/probation`. A champion that is worse than its predecessor, or that lost
    more than the spec's limit, is taken back by the same compare-and-set as a rollback (or the owner is told, where the
    spec says so); one that is better is confirmed; at the end of its time it is unproven and stays.
    `ratchet probation {model}` shows the days, the estimate and what it would take.

    A day is scored once; clearing a task is safe. `champion` is skipped when the champion stayed.
    """
    model, work = spec.model, _work(spec)
    with _dag(probation_dag, spec, schedule=[ratchet_airflow.bell(model, "probation")], max_active_runs=1) as dag:

        @task(**work)
        def watch() -> dict[str, Any]:
            """Score both models on the days that became mature, and decide."""
            return dict(ratchet_airflow.verbs().watch(model))

        @step(outlets=[ratchet_airflow.bell(model, "champion")])
        def champion() -> None:
            """Tell the world, if the champion changed and the sweep has not told it."""
            ratchet_airflow.only_if(ratchet_airflow.verbs().announce(model), "the champion stayed")

        watch() >> champion()  # type: ignore[operator]
    return dag


def monitor_dag(spec: ModelSpec) -> DAG:
    """### Monitor {model}: look at the champion's new rows.

    Starts when the data reach a window further and `ratchet://{model}/monitor` rings, and by the monitor's own schedule
    where the spec gives one. A window is looked at once: whether its rows can be believed,
    whether features and scores have moved from those the champion was made of (thresholds are calibrated on this
    model's own weeks), and what the champion earned. What was found goes out on `ml.drift`, with the report's address;
    `ratchet monitor {model}` shows it. A run with nothing to look at is skipped.

    | what you see | what it means | what to do |
    |---|---|---|
    | `look` failed: "cannot be believed" | the data are broken; no retrain is asked for | mend them, clear the task |
    | `look` is skipped | the data have not moved far enough | nothing; the reason is in the log |
    | `look` failed otherwise | something did not answer | clear the task: nothing is told twice |
    """
    model, monitor = spec.model, spec.monitor
    work = _work(spec)
    bell = ratchet_airflow.bell(
        model, "monitor", watchers=[AssetWatcher(name=f"{model}-monitor", trigger=MonitorTrigger(model=model))]
    )
    schedule = _by_bell_or_time(spec, bell, monitor.schedule if monitor else None)
    with _dag(monitor_dag, spec, schedule=schedule, max_active_runs=1) as dag:

        @task(**work)
        def look() -> dict[str, Any]:
            """Look at the window that is due, keep the report, tell what was found."""
            answer: dict[str, Any] = ratchet_airflow.verbs().monitor(model)
            ratchet_airflow.only_if(answer["state"], answer["reason"])
            return answer

        look()
    return dag


def score_dag(spec: ModelSpec) -> DAG:
    """### Score {model}: batch predictions of the champion, by whole local days.

    Starts when the sweep finds complete days without predictions and rings `ratchet://{model}/score`, by the schedule
    of the spec's `scoring`, or by hand. Each day is scored once, by the version that served it, and in shadow by the
    newest judged challenger where the spec says so; what was written is never written again. The files are
    `predictions/{model}/<day>/<role>.parquet` below the storage, the version beside each row.
    `ratchet predictions {model}` lists them, `ratchet score {model}` does what this DAG does.

    | what you see | what it means | what to do |
    |---|---|---|
    | `"days": 0` and a `reason` | nothing was due | nothing |
    | `waiting` names days | not all of their decisions are made | a smaller `scoring.horizon`, if it stays so |
    | "version … cannot be used" | its artifact is gone or was changed; other days are scored | restore it |

    Clearing the task is safe.
    """
    model, asked = spec.model, spec.scoring
    work = _work(spec)
    bell = ratchet_airflow.bell(model, "score")
    schedule = _by_bell_or_time(spec, bell, asked.schedule if asked else None)
    with _dag(score_dag, spec, schedule=schedule, max_active_runs=1) as dag:

        @task(**work)
        def score(**context: Any) -> dict[str, Any]:
            """Write the predictions of the days that have none."""
            return dict(ratchet_airflow.verbs().score(model, ratchet_airflow.run_context(context)))

        score()
    return dag


def refused_dag(model: str, refused: SpecRefused) -> DAG:
    """Stand in for the DAGs of a spec that breaks a rule: its page and its task's log show every problem."""
    problems = "\n".join(refused.problems)
    with DAG(
        dag_id=f"retrain__{model}",
        schedule=None,
        is_paused_upon_creation=False,
        tags=["ratchet", "spec refused"],
        doc_md=f"### The spec of {model} is refused\n\n```\n{problems}\n```\n\nRun: `ratchet validate {model}`",
    ) as dag:

        @step(retries=0)
        def show_problems() -> None:
            """Fail with every problem of the spec."""
            raise SpecRefused(refused.problems)

        show_problems()
    return dag


def _asking(dag: DAG, form: Mapping[str, forms.Field]) -> DAG:
    """The DAG with its form, which its tasks need not carry: a task's context has the DAG's parameters anyway.

    Given to the constructor, each parameter would be validated once for each DAG, and copied four times for each task.
    """
    dag.params.update({name: _parameter(field) for name, field in form.items()})
    return dag


@cache
def _parameter(field: forms.Field) -> Param:
    """The field as Airflow's form knows it; one for all models."""
    demanded = field.kind == "text" and field.least > 0
    return Param(**field.schema()) if demanded else Param(field.default, **field.schema())


class _ModelDag(DAG):
    """A DAG that is hashed by its name, as often as two of its tasks are joined, and not by its written schedule."""

    def __hash__(self) -> int:
        return hash(self.dag_id)


@cache
def _runbook(function: Callable[[ModelSpec], DAG]) -> str:
    return inspect.cleandoc(function.__doc__ or "")


def _work(spec: ModelSpec) -> dict[str, Any]:
    """Where and how long the steps run that do the work; those that only decide run where the deployment has them."""
    runtime = spec.runtime
    limits = {"pool": runtime.pool, "execution_timeout": runtime.timeout, "retries": runtime.retries}
    return limits | ratchet_airflow.placed(runtime)


def _by_bell_or_time(spec: ModelSpec, bell: Asset, cron: str | None) -> Any:
    """A schedule of one doorbell, and of a cron expression in the spine's timezone where there is one."""
    if cron is None:
        return [bell]
    return AssetOrTimeSchedule(timetable=CronTriggerTimetable(cron, timezone=spec.data.spine.timezone), assets=[bell])


def _dag(function: Callable[[ModelSpec], DAG], spec: ModelSpec, **options: Any) -> DAG:
    """What the DAGs of a model share; the docstring of ``function`` becomes the runbook."""
    verb = function.__name__.removesuffix("_dag")
    return _ModelDag(
        dag_id=f"{verb}__{spec.model}",
        start_date=START,
        catchup=False,
        is_paused_upon_creation=False,
        default_args={
            "owner": spec.owner.team,
            "retry_delay": timedelta(seconds=10),
            "retry_policy": REFUSALS_ARE_FINAL,
        },
        tags=["ratchet", spec.model],
        doc_md=_runbook(function).format(
            model=spec.model,
            goal=spec.business.goal,
            team=spec.owner.team,
            email=spec.owner.email,
            schedule=spec.retrain.schedule,
            pool=spec.runtime.pool,
        ),
        **options,
    )


def _make_all() -> None:
    for file in spec_files(load_settings().models_dir):
        name = file.parent.name
        if RUNNING is not None and RUNNING.partition("__")[2] != name:
            continue
        try:
            read = load_spec(file)
            wanted = {probation_dag: read.probation, monitor_dag: read.monitor, score_dag: read.scoring}
            made = {
                f"{make.__name__}__{name}": make(read)
                for make in (retrain_dag, promote_dag, rollback_dag, *(make for make, asked in wanted.items() if asked))
                if RUNNING in (None, f"{make.__name__.removesuffix('_dag')}__{name}")
            }
        except SpecRefused as error:
            made = {f"refused__{name}": refused_dag(name, error)}
        globals().update(made)


collecting = gc.isenabled()
gc.disable()  # every DAG is kept, and looking for garbage among so many would take a tenth of the time
try:
    _make_all()
finally:
    if collecting:
        gc.enable()
