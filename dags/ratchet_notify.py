"""### Notify: people are told what happened, by mail, in a chat, through a webhook.

Every minute `plan` reads on in the audit log and makes notifications of what is news to people; then one `send` per
channel that has something to send hands it to the channel's notifier. This DAG exists where the deployment has channels
(`include/notifications.yaml`, or the file that `RATCHET_NOTIFICATIONS` names).

**A red `send`** names its channel and why it was not sent; the messages wait and are tried again by themselves, first
after two minutes, then less and less often, for three days. Other channels, and everything that decides, go on.
`ratchet notifications` lists what was sent, what waits and what failed; `ratchet notifications --retry` tries again.

Pausing this DAG loses nothing for a week: what is older is listed, and not sent any more.
"""

from __future__ import annotations

from datetime import timedelta

import pendulum
from airflow.sdk import DAG, task

import ratchet_airflow
import ratchet_notifiers
from ratchet.settings import load_settings

if load_settings().notifications_file.is_file():
    with DAG(
        dag_id="ratchet__notify",
        schedule="* * * * *",
        start_date=pendulum.datetime(2013, 1, 1, tz="UTC"),
        catchup=False,
        max_active_runs=1,
        is_paused_upon_creation=False,
        dagrun_timeout=timedelta(minutes=10),
        tags=["ratchet"],
        doc_md=__doc__,
    ):

        @task(execution_timeout=timedelta(minutes=2))
        def plan() -> list[str]:
            """Make notifications; returns the channels with something to send."""
            channels: list[str] = ratchet_airflow.verbs().plan_notifications()
            return channels

        @task(execution_timeout=timedelta(minutes=2), map_index_template="{{ task.op_kwargs['channel'] }}")
        def send(channel: str) -> int:
            """Send what is due on one channel."""
            return ratchet_notifiers.send(channel)

        send.expand(channel=plan())
