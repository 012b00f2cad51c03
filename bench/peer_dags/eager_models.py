"""The DAGs of every model folder, written as Airflow's documentation has it and without a spec: Airflow's own part.

Same tasks, edges, schedules, watchers and forms as `dags/retrain.py` makes of the shipped spec; no spec is read or
checked, and no task does anything. The peer of `bench/dag_parsing.py`.
"""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
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
    task,
)

from ratchet_intake_trigger import DueTrigger

POLICY = ExceptionRetryPolicy([RetryRule(exception="builtins.ValueError", action=RetryAction.FAIL, reason="final")])
HEAVY: dict[str, Any] = {"pool": "ratchet_training", "execution_timeout": timedelta(hours=2), "retries": 1}
RETRAIN_FORM = {
    "reason": Param("", type="string", maxLength=500, title="Reason", section="Why"),
    "first_champion": Param(False, type="boolean", title="First champion", section="Why"),
    "window_end": Param(None, type=["null", "string"], format="date", title="Window end", section="What"),
    "trials": Param(None, type=["null", "integer"], minimum=1, maximum=1000, title="Trials", section="What"),
    "dry_run": Param(False, type="boolean", title="Dry run", section="Limits"),
    "override_budget": Param(False, type="boolean", title="Override the budget", section="Limits"),
}
ROLLBACK_FORM = {
    "reason": Param(type="string", minLength=3, maxLength=500, title="Reason", section="Roll back"),
    "version": Param(None, type=["null", "integer"], minimum=1, title="Version", section="Roll back"),
}


def bell(model: str, name: str, **extra: Any) -> Asset:
    uri = f"ratchet://{model}/{name}"
    return Asset(name=uri, uri=uri, group="ratchet", **extra)


def dag(verb: str, model: str, **options: Any) -> DAG:
    return DAG(
        dag_id=f"{verb}__{model}",
        start_date=pendulum.datetime(2013, 1, 1, tz="UTC"),
        catchup=False,
        is_paused_upon_creation=False,
        default_args={"owner": "ops", "retry_delay": timedelta(seconds=10), "retry_policy": POLICY},
        tags=["ratchet", model],
        doc_md=f"### {verb} {model}",
        **options,
    )


def retrain(model: str) -> DAG:
    due = bell(model, "due", watchers=[AssetWatcher(name=f"{model}-due", trigger=DueTrigger(model=model))])
    schedule = AssetOrTimeSchedule(
        timetable=CronTriggerTimetable("0 4 * * 1", timezone="America/New_York"), assets=[due]
    )
    with dag("retrain", model, schedule=schedule, params=RETRAIN_FORM, max_active_runs=4) as made:

        @task(retries=2)
        def claim(**context: Any) -> str: ...

        @task(**HEAVY)
        def snapshot(attempt: str) -> Any: ...

        @task(retries=2)
        def plan(attempt: str) -> list[dict[str, Any]]: ...

        @task(**HEAVY)
        def tune(attempt: str, share: dict[str, Any]) -> Any: ...

        @task(outlets=[bell(model, "judged")], **HEAVY)
        def judge(attempt: str) -> Any: ...

        attempt = claim()
        shares = plan(attempt)
        snapshot(attempt) >> shares  # type: ignore[operator]
        tune.partial(attempt=attempt).expand(share=shares) >> judge(attempt)
    return made


def promote(model: str) -> DAG:
    with dag("promote", model, schedule=[bell(model, "judged")], max_active_runs=4) as made:

        @task(retries=2)
        def promote() -> dict[str, Any]: ...

        @task(outlets=[bell(model, "champion")])
        def champion() -> None: ...

        promote() >> champion()  # type: ignore[operator]
    return made


def rollback(model: str) -> DAG:
    with dag("rollback", model, schedule=None, params=ROLLBACK_FORM, max_active_runs=1) as made:

        @task(retries=0, outlets=[bell(model, "champion")])
        def rollback(**context: Any) -> Any: ...

        rollback()
    return made


for folder in sorted(Path(os.environ["RATCHET_MODELS_DIR"]).iterdir()):
    for make in (retrain, promote, rollback):
        globals()[f"{make.__name__}__{folder.name}"] = make(folder.name)
