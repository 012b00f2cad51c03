"""MLflow behind the ``Registry`` port, by its lean path.

``log_model`` with its defaults starts a child process that imports everything to guess the requirements (six seconds
and more per version). Here they are taken from the lock file, which also makes them right: a version says what it was
made with. Files are written by MLflow's own XGBoost or scikit-learn flavor, then uploaded, logged and registered by one
call each. ``mlflow.xgboost.load_model("models:/<model>@champion")`` gives an ``XGBClassifier`` and
``mlflow.sklearn.load_model`` the scikit-learn classifier, whose probabilities are the raw ones, or an ``XGBRegressor``
with raw predictions; calibration, threshold and category lists are in ``ratchet.json`` beside it.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ratchet.adapters.models import CARD_FILE, MODEL_FILES, XGBOOST_REGRESSOR, load, model_file
from ratchet.adapters.models_sklearn import FAMILIES, SklearnScorer
from ratchet.adapters.storage import MissingObjectError, write_atomically
from ratchet.domain.artifact import ModelArtifact
from ratchet.errors import Refused, Unavailable

if TYPE_CHECKING:
    from mlflow import MlflowClient

ATTEMPT_TAG = "ratchet.attempt"
ARTIFACT_PATH = "model"
PINNED = ("mlflow", "numpy", "pandas", "scikit-learn", "xgboost")
PINNED_SKLEARN = ("mlflow", "numpy", "pandas", "scikit-learn", "scipy", "skops")
PROBE_SECONDS = 5.0
METRIC_NAME = re.compile(r"[^\w\-./: ]")
TRANSIENT = frozenset(
    {"INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"}
)


class MlflowRegistry:
    """Versions in the MLflow server (or database) at ``tracking_uri``.

    Args:
        tracking_uri: ``http://host:port`` or a database URL.
        lock_file: the ``requirements.txt`` whose pins a version records.
        download_dir: where downloaded versions are kept between calls; a temporary folder by default.

    """

    def __init__(self, tracking_uri: str, *, lock_file: Path, download_dir: Path | None = None) -> None:
        self._uri = tracking_uri
        self._lock_file = lock_file
        self._download_dir = download_dir

    def register(
        self,
        attempt_id: str,
        model: str,
        artifact_dir: Path,
        *,
        metrics: Mapping[str, float],
        params: Mapping[str, Any],
        tags: Mapping[str, str],
    ) -> int:
        """See ``ratchet.ports.registry.Registry.register``. Leaves out metrics that are not finite."""
        artifact = load(artifact_dir)
        pinned = PINNED_SKLEARN if isinstance(artifact.scorer, SklearnScorer) else PINNED
        requirements = pinned_requirements(self._lock_file, pinned)
        with self._translated(f"register {model} of attempt {attempt_id}"):
            known = self._client.search_model_versions(f"name = '{model}' and tags.`{ATTEMPT_TAG}` = '{attempt_id}'")
            if known:
                return min(int(version.version) for version in known)
            run_id, location = self._run_of(attempt_id, model)
            self._log(run_id, metrics, params, tags)
            with tempfile.TemporaryDirectory(prefix="ratchet-model-") as scratch:
                folder = _write_flavor(artifact, artifact_dir, Path(scratch), requirements)
                self._client.log_artifacts(run_id, str(folder), ARTIFACT_PATH)
            self._create_once(model)
            version = self._client.create_model_version(
                model,
                f"{location}/{ARTIFACT_PATH}",
                run_id,
                tags={**tags, ATTEMPT_TAG: attempt_id},
                await_creation_for=0,
            )
            self._client.set_terminated(run_id)
            return int(version.version)

    def attach(self, model: str, version: int, name: str, content: bytes) -> None:
        """See ``ratchet.ports.registry.Registry.attach``: an artifact of the version's run."""
        with self._translated(f"attach {name} to {model} version {version}"), tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / name
            path.write_bytes(content)
            run_id = self._client.get_model_version(model, str(version)).run_id
            self._client.log_artifact(run_id, str(path))

    def set_alias(self, model: str, alias: str, version: int) -> None:
        """See ``ratchet.ports.registry.Registry.set_alias``."""
        with self._translated(f"set alias {model}@{alias} to version {version}"):
            self._client.set_registered_model_alias(model, alias, str(version))

    def alias_version(self, model: str, alias: str) -> int | None:
        """See ``ratchet.ports.registry.Registry.alias_version``."""
        if self._uri.startswith(("http://", "https://")):
            answer = self._asked(model)
            if answer is not None:
                found = {entry["alias"]: entry["version"] for entry in answer.get("aliases", ())}.get(alias)
                return None if found is None else int(found)
        from mlflow.exceptions import MlflowException  # noqa: PLC0415 - mlflow costs seconds

        with self._translated(f"read alias {model}@{alias}"):
            try:
                version = self._client.get_registered_model(model).aliases.get(alias)
            except MlflowException as error:
                if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                    return None
                raise
        return None if version is None else int(version)

    def download(self, model: str, version: int, *, fresh: bool = False) -> Path:
        """See ``ratchet.ports.registry.Registry.download``."""
        from mlflow.artifacts import download_artifacts  # noqa: PLC0415 - mlflow costs seconds

        with self._translated(f"download {model} version {version}"), tempfile.TemporaryDirectory() as scratch:
            source = self._client.get_model_version_download_uri(model, str(version))
            # The address holds the run's id: another server's version of the same number is another folder.
            target = self._downloads / model / f"{version}-{hashlib.sha256(source.encode()).hexdigest()[:12]}"
            if (target / CARD_FILE).is_file() and not fresh:
                return target
            self._expect_files(model, version)
            fetched = Path(download_artifacts(artifact_uri=source, dst_path=scratch, tracking_uri=self._uri))
            for name in (*MODEL_FILES, CARD_FILE):
                if (fetched / name).is_file():
                    write_atomically(target / name, fetched / name)
        return target

    def _expect_files(self, model: str, version: int) -> None:
        """Refuse a version whose files are gone: fetching them would look like a server that is away."""
        run_id = self._client.get_model_version(model, str(version)).run_id
        there = {Path(file.path).name for file in self._client.list_artifacts(run_id, ARTIFACT_PATH)}
        wanted = {" or ".join(MODEL_FILES): set(MODEL_FILES), CARD_FILE: {CARD_FILE}}
        if missing := [name for name, any_of in wanted.items() if not there & any_of]:
            raise MissingObjectError(
                f"{self._where}: version {version} of {model} has no {' and no '.join(missing)}. Restore the artifact."
            )

    def _asked(self, model: str) -> dict[str, Any] | None:
        """The registered model by plain HTTP, empty where unknown: importing MLflow would cost each sweep seconds.

        None where the server wants a login that only MLflow's own client knows.
        """
        import httpx  # noqa: PLC0415 - needed by this question only

        path = f"{self._uri.rstrip('/')}/api/2.0/mlflow/registered-models/get"
        try:
            answer = httpx.get(path, params={"name": model}, timeout=PROBE_SECONDS)
            known = answer.json() if answer.status_code in {200, 404} else {}
        except (httpx.HTTPError, ValueError) as error:
            raise Unavailable(
                f"{self._where}: MLflow does not answer ({error}). Is the server up? ratchet status"
            ) from error
        if answer.status_code in {401, 403}:
            return None
        if answer.status_code == 200:
            return dict(known["registered_model"])
        if known.get("error_code") == "RESOURCE_DOES_NOT_EXIST":
            return {}
        raise Unavailable(f"{self._where}: MLflow answered {answer.status_code} when asked for {model}.")

    @cached_property
    def _client(self) -> MlflowClient:
        self._probe()
        from mlflow import MlflowClient  # noqa: PLC0415 - mlflow costs seconds
        from mlflow.environment_variables import MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR  # noqa: PLC0415

        MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR.set(value=False)
        return MlflowClient(tracking_uri=self._uri, registry_uri=self._uri)

    @cached_property
    def _downloads(self) -> Path:
        return self._download_dir or Path(tempfile.mkdtemp(prefix="ratchet-models-"))

    def _probe(self) -> None:
        """Ask the port first: MLflow's own client retries a dead server for minutes."""
        parts = urlsplit(self._uri)
        if parts.scheme not in ("http", "https"):
            return
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            socket.create_connection((parts.hostname or "localhost", port), timeout=PROBE_SECONDS).close()
        except OSError as error:
            raise Unavailable(
                f"{self._where}: MLflow does not answer ({error}). Is the server up? ratchet status"
            ) from error

    def _run_of(self, attempt_id: str, model: str) -> tuple[str, str]:
        """The attempt's run and where its artifacts go; a run left behind by a killed try is used again."""
        experiment = self._experiment(model)
        found = self._client.search_runs([experiment], f"tags.`{ATTEMPT_TAG}` = '{attempt_id}'", max_results=1)
        run = (
            found[0]
            if found
            else self._client.create_run(experiment, tags={ATTEMPT_TAG: attempt_id}, run_name=attempt_id)
        )
        return run.info.run_id, run.info.artifact_uri

    def _experiment(self, model: str) -> str:
        name = f"ratchet/{model}"
        known = self._client.get_experiment_by_name(name)
        if known is not None:
            return str(known.experiment_id)
        self._ignoring_existing(lambda: self._client.create_experiment(name))
        return str(self._client.get_experiment_by_name(name).experiment_id)

    def _create_once(self, model: str) -> None:
        self._ignoring_existing(lambda: self._client.create_registered_model(model))

    def _log(
        self, run_id: str, metrics: Mapping[str, float], params: Mapping[str, Any], tags: Mapping[str, str]
    ) -> None:
        from mlflow.entities import Metric, Param, RunTag  # noqa: PLC0415 - mlflow costs seconds

        now = int(time.time() * 1000)
        self._client.log_batch(
            run_id,
            metrics=[
                Metric(METRIC_NAME.sub("_", name), float(value), now, 0)
                for name, value in metrics.items()
                if math.isfinite(value)
            ],
            params=[Param(name, str(value)[:500]) for name, value in params.items()],
            tags=[RunTag(name, value) for name, value in tags.items()],
        )

    @staticmethod
    def _ignoring_existing(create: Callable[[], Any]) -> None:
        from mlflow.exceptions import MlflowException  # noqa: PLC0415 - mlflow costs seconds

        try:
            create()
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    @contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        self._probe()
        from mlflow.exceptions import MlflowException  # noqa: PLC0415 - mlflow costs seconds

        try:
            yield
        except MlflowException as error:
            if error.error_code in TRANSIENT:
                raise Unavailable(
                    f"{self._where}: could not {what} ({error}). Check connection ratchet_mlflow."
                ) from error
            raise Refused(
                f"{self._where}: could not {what}: {error}. Compare the ledger with MLflow's registry."
            ) from error
        except OSError as error:
            raise Unavailable(f"{self._where}: could not {what} ({error}). Check connection ratchet_mlflow.") from error

    @property
    def _where(self) -> str:
        parts = urlsplit(self._uri)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def pinned_requirements(lock_file: Path, names: tuple[str, ...]) -> list[str]:
    """``name==version`` of each name as the lock file pins it for this interpreter.

    Raises:
        Refused: the file is missing or pins one of them not at all.

    """
    from packaging.requirements import InvalidRequirement, Requirement  # noqa: PLC0415 - needed to register only

    if not lock_file.is_file():
        raise Refused(
            f"{lock_file}: the lock file must exist, because versions record their requirements. Run: make lock"
        )
    pins: dict[str, str] = {}
    for line in lock_file.read_text().splitlines():
        if not re.match(r"[A-Za-z0-9]", line):
            continue
        try:
            requirement = Requirement(line.rstrip(" \\"))
        except InvalidRequirement:
            continue
        if requirement.name in names and (requirement.marker is None or requirement.marker.evaluate()):
            pins[requirement.name] = f"{requirement.name}{requirement.specifier}"
    if missing := sorted(set(names) - set(pins)):
        raise Refused(f"{lock_file}: must pin {', '.join(missing)}, but does not. Run: make lock")
    return [pins[name] for name in names]


def _write_flavor(artifact: ModelArtifact, artifact_dir: Path, scratch: Path, requirements: list[str]) -> Path:
    """The folder MLflow loads: its flavor's files around our two, byte for byte."""
    folder = scratch / ARTIFACT_PATH
    card = json.loads((artifact_dir / CARD_FILE).read_bytes())
    metadata = {"threshold": card["threshold"], "calibrator": card["calibrator"]}
    model = model_file(artifact.estimator)
    if isinstance(artifact.scorer, SklearnScorer):
        import mlflow.sklearn  # noqa: PLC0415 - mlflow costs seconds

        mlflow.sklearn.save_model(
            artifact.scorer.model,
            str(folder),
            pip_requirements=requirements,
            serialization_format="skops",
            skops_trusted_types=sorted(FAMILIES[artifact.estimator].trusted),
            metadata=metadata,
        )
    else:
        import mlflow.xgboost  # noqa: PLC0415 - mlflow costs seconds
        from xgboost import XGBClassifier, XGBRegressor  # noqa: PLC0415 - needed to register only

        estimator = XGBRegressor() if artifact.estimator == XGBOOST_REGRESSOR else XGBClassifier()
        estimator.load_model(artifact_dir / model)
        mlflow.xgboost.save_model(
            estimator, str(folder), pip_requirements=requirements, model_format="ubj", metadata=metadata
        )
    for name in (model, CARD_FILE):
        shutil.copyfile(artifact_dir / name, folder / name)
    return folder
