"""### Self-test: every night, whether the gate keeps its promise on each model's own days.

For every model with judged attempts, on the rows they were judged on:

- a known-bad model (on every row what the champion or the challenger did, whichever earned less) must be kept out;
- of a thousand null copies of the uplift (signs of whole weeks flipped by coins) the gate may promote no more than the
  share that the spec's confidence admits.

**A model that fails** is held: its judged attempt waits in `promote__<model>` until a later self-test passes. Nothing
is lost, the champion serves on, `ratchet rollback` works. The error is in this task's log, in the audit log
(`selftest.failed`) and in `ratchet champion show <model>`; `ratchet gate selftest <model>` tests by hand and says why.
Days that follow each other more than the gate allows for are the usual cause: see the lag-one correlation in the
verdicts. The same attempts give the same answer, so a test passes again when other attempts were judged, or when the
gate was mended.

Below 16 weeks of judged days nothing is said of a model, and nothing is held.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pendulum
from airflow.sdk import DAG, task

import ratchet_airflow

with DAG(
    dag_id="ratchet__selftest",
    schedule="30 2 * * *",
    start_date=pendulum.datetime(2013, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,
    dagrun_timeout=timedelta(hours=2),
    tags=["ratchet"],
    doc_md=__doc__,
):

    @task(retries=2, retry_delay=timedelta(minutes=5))
    def selftest() -> dict[str, Any]:
        """Test the gate on every model; the answer is each model's outcome."""
        outcomes: dict[str, Any] = ratchet_airflow.verbs().selftest()
        return outcomes

    selftest()
