# ruff: noqa: PLC0415 (every component loads this file: what is heavy is imported where it is used)
"""What Ratchet needs from Airflow and says in its own words: connections, who started a run, states of runs, assets.

Imported by every component under its bare name: nothing here imports more than the Airflow SDK at load time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from airflow.sdk import Asset

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ratchet.adapters.connections import ConnectionInfo, MappingResolver
    from ratchet.domain.spec import Runtime
    from ratchet.records import RunContext

Bell = Literal["due", "judged", "probation", "monitor", "champion", "score"]
LIVE_STEP_STATES = frozenset({"running", "restarting"})
UNCLAIMED_STATES = ["null", "scheduled", "queued", "running"]
"""Of a first task that has not ended; ``null`` is the API's word for one that the scheduler has not seen yet."""


def bell(model: str, name: Bell, **extra: Any) -> Asset:
    """The asset ``ratchet://<model>/<name>``.

    ``due`` starts retrain, ``judged`` promote, ``probation``, ``monitor`` and ``score`` what they name; ``champion`` is
    news.
    """
    uri = f"ratchet://{model}/{name}"
    return Asset(name=uri, uri=uri, group="ratchet", **extra)


def placed(runtime: Runtime) -> dict[str, Any]:
    """Where Airflow runs the steps that do a model's work, as arguments of its tasks.

    Raises:
        SpecRefused: the spec asks for what this deployment's executors cannot give, which would be ignored in silence.

    """
    from ratchet.domain.pods import pod_override

    executor = executor_of(runtime.executor)
    if runtime.queue is not None and executor == "LocalExecutor":
        raise _refused("queue", f"{executor} of this deployment has no queues; leave it out")
    answer = {"queue": runtime.queue, "executor": runtime.executor}
    override = pod_override(runtime)
    if override is not None:
        if not executor.endswith("KubernetesExecutor"):
            key = "image" if runtime.image else "resources"
            raise _refused(key, f"makes pods, which {executor} does not; name an executor that does (runtime.executor)")
        answer["executor_config"] = {"pod_override": _pod(override)}
    return {name: value for name, value in answer.items() if value is not None}


def executor_of(name: str | None) -> str:
    """The class of the executor of this name or alias; of the deployment's first where none is named."""
    from airflow.sdk.configuration import conf

    known: dict[str, str] = {}
    for entry in conf.get_mandatory_list_value("core", "executor"):
        first, _, second = entry.strip().partition(":")
        path = second or first
        kind = path.rpartition(".")[2]
        known |= dict.fromkeys((first, path, kind), kind)
    if name is None:
        return next(iter(known.values()))
    if name not in known:
        raise _refused("executor", f"{name!r} is none of this deployment's; its [core] executor has {', '.join(known)}")
    return known[name]


def _pod(override: Mapping[str, Any]) -> Any:
    try:
        from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator
    except ImportError:
        raise _refused("resources", "make pods, which wants apache-airflow-providers-cncf-kubernetes") from None
    return PodGenerator.deserialize_model_dict(dict(override))


def _refused(key: str, problem: str) -> Exception:
    from ratchet.adapters.specs import SpecRefused

    return SpecRefused([f"runtime.{key}: {problem}"])


def verbs() -> Any:
    """Ratchet, wired to Airflow's connections; call one verb per task."""
    from ratchet.bootstrap import wire

    return wire(AirflowResolver())


class AirflowResolver:
    """Finds connections wherever Airflow keeps them: any secrets backend works. For tasks, not for the triggerer."""

    def resolve(self, conn_id: str) -> ConnectionInfo:
        """Return the connection; raises ``UnknownConnection`` when nobody defined it."""
        from airflow.sdk import Connection
        from airflow.sdk.exceptions import AirflowNotFoundException

        from ratchet.adapters.connections import unknown_connection

        try:
            found = Connection.get(conn_id)
        except AirflowNotFoundException:
            raise unknown_connection(conn_id) from None
        return connection_info(found, found.extra_dejson)


async def resolve_all() -> MappingResolver:
    """All of Ratchet's connections that are defined, asked for on the triggerer's event loop, for its threads."""
    from airflow.sdk import Connection
    from airflow.sdk.exceptions import AirflowNotFoundException

    from ratchet.adapters.connections import CONNECTION_IDS, MappingResolver

    known = {}
    for conn_id in CONNECTION_IDS:
        try:
            found = await Connection.async_get(conn_id)
        except AirflowNotFoundException:
            continue
        known[conn_id] = connection_info(found, await found.aextra_dejson())
    return MappingResolver(known)


def connection_info(found: Any, extra: Mapping[str, Any]) -> ConnectionInfo:
    """Airflow's connection as ours."""
    from ratchet.adapters.connections import ConnectionInfo

    return ConnectionInfo(
        conn_type=found.conn_type or "",
        host=found.host,
        port=found.port,
        login=found.login,
        password=found.password,
        schema=found.schema,
        extra=extra,
    )


def run_context(context: Mapping[str, Any]) -> RunContext:
    """Who started this run, how, and with which form, exactly as sent: the claim refuses unknown keys.

    Whatever a person or another DAG started (also a backfill) counts as manual.
    """
    from ratchet.records import RunContext

    run = context["dag_run"]
    kind = str(getattr(run.run_type, "value", run.run_type))
    return RunContext(
        dag_id=run.dag_id,
        dag_run_id=run.run_id,
        run_type="scheduled" if kind == "scheduled" else "asset_triggered" if kind == "asset_triggered" else "manual",
        actor=run.triggering_user_name,
        conf=dict(run.conf or {}),
    )


def go_on(claim: Mapping[str, Any], context: Mapping[str, Any]) -> str:
    """Return the claimed attempt; skip the rest of the run, with the reason, when there is nothing to do."""
    from airflow.sdk.exceptions import AirflowSkipException

    context["ti"].xcom_push(key="outcome", value=dict(claim))
    if claim["attempt"] is None:
        raise AirflowSkipException(f"nothing to do: {claim['reason']}")
    return str(claim["attempt"])


def only_if(condition: object, reason: str) -> None:
    """Skip this task and what follows, with the reason, unless the condition holds."""
    from airflow.sdk.exceptions import AirflowSkipException

    if not condition:
        raise AirflowSkipException(reason)


class AirflowRunStates:
    """``RunStates`` for the sweep, asked through the task's own API: what Airflow believes about DAGs and runs."""

    def state(self, dag_id: str, run_id: str) -> str:
        """``queued``, ``running``, ``success``, ``failed``, or ``missing`` when the run was deleted."""
        from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

        found = _if_any(lambda: RuntimeTaskInstance.get_dagrun_state(dag_id, run_id))
        return "missing" if found is None else str(getattr(found, "value", found))

    def started_step(self, dag_id: str, run_id: str) -> bool:
        """Whether a step is executing now; false while all wait for a slot, a retry or each other."""
        from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

        states = RuntimeTaskInstance.get_task_states(dag_id=dag_id, run_ids=[run_id]).get(run_id, {})
        return any(str(getattr(state, "value", state)) in LIVE_STEP_STATES for state in states.values())

    def startable(self, dag_id: str) -> bool:
        """Whether an asset event starts the DAG: Airflow knows it, and nobody paused it."""
        from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

        found = _if_any(lambda: RuntimeTaskInstance.get_dag(dag_id))
        return found is not None and not found.is_paused

    def claim_awaited(self, model: str) -> bool:
        """Whether the claim of a retrain waits for the scheduler, a slot or a worker, or is being executed."""
        from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

        count = RuntimeTaskInstance.get_ti_count
        return bool(_if_any(lambda: count(f"retrain__{model}", task_ids=["claim"], states=UNCLAIMED_STATES)))


def _if_any(ask: Callable[[], Any]) -> Any:
    """What Airflow answers; None when there is no such thing."""
    from airflow.sdk.exceptions import AirflowRuntimeError

    try:
        return ask()
    except AirflowRuntimeError as error:
        if (error.error.detail or {}).get("status_code") == 404:
            return None
        raise


def intake_lag() -> dict[str, int]:
    """Records per inbound topic that the intake has not committed yet."""
    from contextlib import closing

    from ratchet.adapters.connections import KAFKA
    from ratchet.adapters.kafka_bus import KafkaBus
    from ratchet.settings import load_settings

    with closing(KafkaBus(AirflowResolver().resolve(KAFKA))) as bus:
        return bus.lag(load_settings().group_id)
