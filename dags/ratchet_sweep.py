"""### Sweep: every minute, what nobody else did.

- gives up attempts whose run ended or vanished without a verdict, or whose worker went silent; their events are free;
- relays what was decided but not told: the MLflow alias, `ml.decisions`;
- finds an alias `champion` that was moved by hand, tells it and puts it back;
- keeps the end of the audit log in storage, and says so when an entry it kept is gone (`ratchet audit verify`);
- expires events beyond their maximum age and decides again what was deferred until now;
- publishes changed specs to the ledger;
- removes some of the ledger's rows that retention lets go, where `RATCHET_SWEEP_PURGES` says how many;
- rings the doorbells that nobody rang (`ratchet://<model>/due`, `ratchet://<model>/judged`), those of probations
  with new days to score (`ratchet://<model>/probation`), of monitors with new rows to look at
  (`ratchet://<model>/monitor`) and of models with complete days that have no predictions (`ratchet://<model>/score`),
  except of paused DAGs, and updates `ratchet://<model>/champion` where a promotion was cut off before it did.

Each run is complete in itself: a failed or missed one is made good by the next. If runs fail, the task's log names what
does not answer. Pause it only for maintenance: dead attempts then block their models until it runs again.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pendulum
from airflow.sdk import DAG, AssetAlias, task

import ratchet_airflow

BELLS = AssetAlias(name="ratchet-bells", group="ratchet")

with DAG(
    dag_id="ratchet__sweep",
    schedule="* * * * *",
    start_date=pendulum.datetime(2013, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,
    dagrun_timeout=timedelta(minutes=10),
    tags=["ratchet"],
    doc_md=__doc__,
):

    @task(outlets=[BELLS], execution_timeout=timedelta(minutes=5))
    def sweep(*, outlet_events: Any) -> dict[str, Any]:
        """Sweep once and ring what is left over."""
        swept: dict[str, Any] = ratchet_airflow.verbs().sweep(ratchet_airflow.AirflowRunStates())
        for name in ("due", "judged", "probation", "monitor", "champion", "score"):
            for model in swept[name]:
                outlet_events[BELLS].add(ratchet_airflow.bell(model, name))
        return swept

    sweep()
