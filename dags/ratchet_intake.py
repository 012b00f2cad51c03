"""### Intake: events from Kafka into the inbox.

The work is not in this DAG's task but in its **watcher**: the triggerer runs one pump that stores every record of
`ml.drift`, `ml.data-arrival` and `ml.retrain-requests` in the ledger, then commits the offset, and tells the watchers
of all models which doorbell is due. This DAG exists so that the pump runs whatever models there are. Its task reports
how many records wait in Kafka; it runs when the pump has joined, then hourly, or whenever you trigger it.

| what you see | what it means | what to do |
|---|---|---|
| lag grows, this DAG has no recent run | no pump runs | is the triggerer up? its log says "intake: …" |
| lag stays, log says "not stored; paused" | the ledger takes nothing | is PostgreSQL up? nothing gets lost |
| lag is 0, but no retrain starts | intake is fine | `ratchet events` shows each event's fate and its reason |

Pausing this DAG does not stop the intake while any model's watcher is alive. Records outlive an outage of 30 days.
"""

from __future__ import annotations

from datetime import timedelta

import pendulum
from airflow.sdk import DAG, Asset, AssetWatcher, task

import ratchet_airflow
from ratchet_intake_trigger import IntakeTrigger

INTAKE = Asset(
    name="ratchet://intake",
    uri="ratchet://intake",
    group="ratchet",
    watchers=[AssetWatcher(name="ratchet-intake", trigger=IntakeTrigger())],
)

with DAG(
    dag_id="ratchet__intake",
    schedule=[INTAKE],
    start_date=pendulum.datetime(2013, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,
    tags=["ratchet"],
    doc_md=__doc__,
):

    @task(retries=1, retry_delay=timedelta(seconds=10))
    def report_lag() -> dict[str, int]:
        """Records per topic that the intake has not stored yet."""
        return ratchet_airflow.intake_lag()

    report_lag()
