"""The task that asks people whether a challenger may serve: Airflow's human-in-the-loop, bound to Ratchet's request."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk import Param
from airflow.sdk.exceptions import TaskAwaitingInput

import ratchet_airflow

if TYPE_CHECKING:
    from airflow.sdk import Context

APPROVE, REJECT = "Approve", "Reject"
LOOK_AGAIN = timedelta(minutes=5)
"""How long it waits before it looks whether the request still stands; each look is a second's work of one process."""
OPEN_RUN_STATES = ("queued", "running")


class AskForApproval(HITLOperator):
    """Ask, wait without a slot, and hand the answer to the ledger, which decides what follows from it.

    Skipped when nothing waits for people, when another open run asks already, and when the request ended otherwise: by
    its expiry, by the command line, by a newer verdict. An answer given after that is refused: the task fails and says
    so. Airflow's own records decide nothing: marking this task a success approves nothing.

    :param model: whose promotion.
    """

    def __init__(self, *, model: str, **kwargs: Any) -> None:
        # Empty is valid, because Airflow checks it before the task starts; the page insists on a text all the same.
        reason = Param(
            "",
            type="string",
            maxLength=500,
            title="Reason",
            description_md="Kept in the audit log beside your name, and told with the decision.",
        )
        super().__init__(
            subject=f"{model}: let the challenger serve?",
            options=[APPROVE, REJECT],
            params={"reason": reason},
            **kwargs,
        )
        self.model = model

    def execute(self, context: Context) -> NoReturn:
        """Show the request to people and wait."""
        request = self._request(context)
        self.subject, self.body = request["subject"], request["body"]
        try:
            super().execute(context)
        except TaskAwaitingInput as parked:
            self._wait(request, parked.method_name)
        raise RuntimeError("Airflow's human-in-the-loop task did not wait: its way of waiting has changed")

    def execute_complete(self, context: Context, event: dict[str, Any], attempt: str) -> dict[str, Any]:
        """Hand the answer on. ``attempt`` is what was shown, whatever waits now."""
        if event.get("error_type") == "timeout":
            request = self._request(context)
            ratchet_airflow.only_if(request["attempt"] == attempt, f"{attempt} waits for people no more")
            self._wait(request, "execute_complete")
        if "error" in event:
            self.process_trigger_event_error(event)
        person = event["responded_by_user"]
        answer: dict[str, Any] = ratchet_airflow.verbs().respond(
            attempt,
            approve=event["chosen_options"] == [APPROVE],
            actor=person["name"],
            reason=str((event["params_input"] or {}).get("reason") or ""),
            via="airflow",
            user_id=person["id"],
        )
        if not answer["counted"]:
            self.log.warning("%s has approved %s before: another person must agree", person["name"], attempt)
            self.execute(context)
        return answer

    def _request(self, context: Context) -> dict[str, Any]:
        """What to show, or skip."""
        dag_id, run_id = context["dag_run"].dag_id, context["dag_run"].run_id
        runs = ratchet_airflow.AirflowRunStates()
        request: dict[str, Any] | None = ratchet_airflow.verbs().show_request(
            self.model, run_id, lambda other: runs.state(dag_id, other) in OPEN_RUN_STATES
        )
        ratchet_airflow.only_if(request, "nothing waits for people, or another run asks them")
        return request or {}

    def _wait(self, request: dict[str, Any], method_name: str) -> NoReturn:
        seconds = timedelta(seconds=min(request["seconds"] + 1, LOOK_AGAIN.total_seconds()))
        raise TaskAwaitingInput(method_name=method_name, kwargs={"attempt": request["attempt"]}, timeout=seconds)
