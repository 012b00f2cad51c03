"""MLflow behind the ``Registry`` port, by its lean path.

``log_model`` with its defaults starts a child process that imports everything to guess the requirements (six seconds
and more per version). Here they are taken from the lock file, which also makes them right: a version says what it was
made with. For scikit-learn the files are written by MLflow's own flavor; for XGBoost they are what its flavor writes
around our two, without loading the model and saving it again. Then run, metrics, files and version take one call each.
``mlflow.xgboost.load_model("models:/<model>@champion")`` gives an ``XGBClassifier`` and
``mlflow.sklearn.load_model`` the scikit-learn classifier, whose probabilities are the raw ones, or an ``XGBRegressor``
with raw predictions; calibration, threshold and category lists are in ``ratchet.json`` beside it.
"""

from __future__ import annotations

import hashlib
import math
import platform
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from ratchet.adapters.connections import without_login
from ratchet.adapters.models import CARD_FILE, MODEL_FILES, load, model_file, verified
from ratchet.adapters.models_sklearn import FAMILIES
from ratchet.adapters.storage import MissingObjectError, write_atomically
from ratchet.errors import Refused, Unavailable

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

    from ratchet.adapters.models_sklearn import SklearnScorer

ATTEMPT_TAG = "ratchet.attempt"
ARTIFACT_PATH = "model"
PINNED = ("mlflow", "numpy", "pandas", "scikit-learn", "xgboost")
PINNED_SKLEARN = ("mlflow", "numpy", "pandas", "scikit-learn", "scipy", "skops")
PROBE_SECONDS, LIST_SECONDS = 5.0, 30.0
PAGE = 1_000
"""Models in one answer: MLflow's own most."""
METRIC_NAME = re.compile(r"[^\w\-./: ]")
TRANSIENT = frozenset(
    {"INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"}
)


class MlflowRegistry:
    """Versions in the MLflow server (or database) at ``tracking_uri``.

    Args:
        tracking_uri: ``http://[login:password@]host:port`` or a database URL.
        lock_file: the ``requirements.txt`` whose pins a version records.
        download_dir: where downloaded versions are kept between calls; a temporary folder by default.

    """

    def __init__(self, tracking_uri: str, *, lock_file: Path, download_dir: Path | None = None) -> None:
        served = tracking_uri.startswith(("http://", "https://"))
        self._uri, self._login = without_login(tracking_uri) if served else (tracking_uri, None)
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
        card, _ = verified(artifact_dir)
        requirements = pinned_requirements(self._lock_file, PINNED_SKLEARN if card["estimator"] in FAMILIES else PINNED)
        with self._translated(f"register {model} of attempt {attempt_id}"):
            experiment = self._experiment(model)
            left = self._runs_of(attempt_id, experiment)
            if left and (known := self._versions_of(attempt_id, model)):
                return min(known)
            running = [run for run in left if run.info.lifecycle_stage == "active"]
            run = (
                running[0]
                if running
                else self._client.create_run(experiment, tags={**tags, ATTEMPT_TAG: attempt_id}, run_name=attempt_id)
            )
            self._log(run.info.run_id, metrics, params)
            with tempfile.TemporaryDirectory(prefix="ratchet-model-") as scratch:
                folder = _write_flavor(card, artifact_dir, Path(scratch), requirements)
                self._upload(folder, run.info.artifact_uri)
            source = f"{run.info.artifact_uri}/{ARTIFACT_PATH}"
            version = self._create_version(model, source, run.info.run_id, {**tags, ATTEMPT_TAG: attempt_id})
            self._client.set_terminated(run.info.run_id)
            return version

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

    def aliased(self, alias: str) -> dict[str, int]:
        """See ``ratchet.ports.registry.Registry.aliased``."""
        if self._uri.startswith(("http://", "https://")):
            found = self._all_asked(alias)
            if found is not None:
                return found
        with self._translated(f"list the aliases {alias}"):
            known = {model.name: model.aliases for model in self._paged(self._client.search_registered_models)}
        return {model: int(named[alias]) for model, named in known.items() if alias in named}

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

    def models(self) -> list[str]:
        """See ``ratchet.ports.registry.Registry.models``."""
        with self._translated("list the registered models"):
            return sorted(str(model.name) for model in self._paged(self._client.search_registered_models))

    def versions(self, model: str) -> dict[int, str]:
        """See ``ratchet.ports.registry.Registry.versions``."""
        with self._translated(f"list the versions of {model}"):
            found = self._paged(partial(self._client.search_model_versions, f"name = '{model}'"))
            return dict(sorted((int(each.version), each.tags.get(ATTEMPT_TAG, "")) for each in found))

    def remove(self, model: str, version: int) -> int:
        """See ``ratchet.ports.registry.Registry.remove``.

        Files first: the version alone says where they are. Its run keeps parameters, metrics and model card.
        """
        from mlflow.exceptions import MlflowException  # noqa: PLC0415 - mlflow costs seconds

        with self._translated(f"remove version {version} of {model}"):
            try:
                found = self._client.get_model_version(model, str(version))
            except MlflowException as error:
                if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                    return 0
                raise
            if found.aliases:
                raise Refused(f"alias {found.aliases[0]} names version {version} of {model}. Move the alias first.")
            freed = self._remove_files(str(self._client.get_run(found.run_id).info.artifact_uri))
            self._client.delete_model_version(model, str(version))
        for folder in (self._downloads / model).glob(f"{version}-*"):
            shutil.rmtree(folder, ignore_errors=True)
        return freed

    def _remove_files(self, location: str) -> int:
        from mlflow.store.artifact.artifact_repository_registry import (  # noqa: PLC0415 - mlflow costs seconds
            get_artifact_repository,
        )

        repository = get_artifact_repository(location, tracking_uri=self._uri)
        folders, freed = [ARTIFACT_PATH], 0
        while folders:
            for file in repository.list_artifacts(folders.pop()):
                if file.is_dir:
                    folders.append(file.path)
                else:
                    freed += int(file.file_size or 0)
        if freed:
            repository.delete_artifacts(ARTIFACT_PATH)
        return freed

    @staticmethod
    def _paged(search: Callable[..., Any]) -> Iterator[Any]:
        token: str | None = ""
        while token is not None:
            page = search(page_token=token or None)
            yield from page
            token = page.token or None

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
        status, known = self._get("registered-models/get", PROBE_SECONDS, name=model)
        if status in {401, 403}:
            return None
        if status == 200:
            return dict(known["registered_model"])
        if known.get("error_code") == "RESOURCE_DOES_NOT_EXIST":
            return {}
        raise Unavailable(f"{self._where}: MLflow answered {status} when asked for {model}.")

    def _all_asked(self, alias: str) -> dict[str, int] | None:
        """The alias of every registered model by plain HTTP; None where the server wants a login, as above."""
        found: dict[str, int] = {}
        token: str | None = ""
        while token is not None:
            status, known = self._get("registered-models/search", LIST_SECONDS, max_results=PAGE, page_token=token)
            if status in {401, 403}:
                return None
            if status != 200:
                raise Unavailable(f"{self._where}: MLflow answered {status} when asked for its models.")
            for model in known.get("registered_models", ()):
                named = {entry["alias"]: entry["version"] for entry in model.get("aliases", ())}
                if alias in named:
                    found[model["name"]] = int(named[alias])
            token = known.get("next_page_token") or None
        return found

    def _get(self, path: str, seconds: float, **asked: str | int) -> tuple[int, dict[str, Any]]:
        """Status and answer of a question to MLflow's own API; Unavailable where nobody answers."""
        import httpx  # noqa: PLC0415 - needed by these questions only

        address = f"{self._uri.rstrip('/')}/api/2.0/mlflow/{path}"
        try:
            answer = httpx.get(address, params=asked, auth=self._login, timeout=seconds)
            return answer.status_code, dict(answer.json()) if answer.status_code in {200, 404} else {}
        except (httpx.HTTPError, ValueError) as error:
            raise Unavailable(
                f"{self._where}: MLflow does not answer ({error}). Is the server up? ratchet status"
            ) from error

    @cached_property
    def _client(self) -> MlflowClient:
        self._probe()
        from mlflow import MlflowClient  # noqa: PLC0415 - mlflow costs seconds
        from mlflow import environment_variables as mlflow_settings  # noqa: PLC0415

        mlflow_settings.MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR.set(value=False)
        if self._login is not None:
            # Not in the address, which MLflow prints and quotes in its errors.
            mlflow_settings.MLFLOW_TRACKING_USERNAME.set(self._login[0])
            mlflow_settings.MLFLOW_TRACKING_PASSWORD.set(self._login[1])
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

    def _runs_of(self, attempt_id: str, experiment: str) -> list[Run]:
        """The attempt's runs: none, unless a try was killed or has registered already. A deleted one counts."""
        from mlflow.entities import ViewType  # noqa: PLC0415 - mlflow costs seconds

        return list(
            self._client.search_runs(
                [experiment], f"tags.`{ATTEMPT_TAG}` = '{attempt_id}'", run_view_type=ViewType.ALL, max_results=10
            )
        )

    def _versions_of(self, attempt_id: str, model: str) -> list[int]:
        known = self._client.search_model_versions(f"name = '{model}' and tags.`{ATTEMPT_TAG}` = '{attempt_id}'")
        return [int(version.version) for version in known]

    def _experiment(self, model: str) -> str:
        name = f"ratchet/{model}"
        known = self._client.get_experiment_by_name(name)
        if known is not None:
            return str(known.experiment_id)
        self._ignoring_existing(lambda: self._client.create_experiment(name))
        return str(self._client.get_experiment_by_name(name).experiment_id)

    def _upload(self, folder: Path, location: str) -> None:
        """As the client's ``log_artifacts``, which would ask for the run once more to learn the location."""
        from mlflow.store.artifact.artifact_repository_registry import (  # noqa: PLC0415 - mlflow costs seconds
            get_artifact_repository,
        )

        get_artifact_repository(location, tracking_uri=self._uri).log_artifacts(str(folder), ARTIFACT_PATH)

    def _create_version(self, model: str, source: str, run_id: str, tags: Mapping[str, str]) -> int:
        """A new version of the model, which is made where this is its first."""
        from mlflow.exceptions import MlflowException  # noqa: PLC0415 - mlflow costs seconds

        def create() -> int:
            made = self._client.create_model_version(model, source, run_id, tags=dict(tags), await_creation_for=0)
            return int(made.version)

        try:
            return create()
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
        self._ignoring_existing(lambda: self._client.create_registered_model(model))
        return create()

    def _log(self, run_id: str, metrics: Mapping[str, float], params: Mapping[str, Any]) -> None:
        from mlflow.entities import Metric, Param  # noqa: PLC0415 - mlflow costs seconds

        now = int(time.time() * 1000)
        self._client.log_batch(
            run_id,
            metrics=[
                Metric(METRIC_NAME.sub("_", name), float(value), now, 0)
                for name, value in metrics.items()
                if math.isfinite(value)
            ],
            params=[Param(name, str(value)[:500]) for name, value in params.items()],
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
        if not line.startswith(names):
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


def _write_flavor(card: Mapping[str, Any], artifact_dir: Path, scratch: Path, requirements: list[str]) -> Path:
    """The folder MLflow loads: its flavor's files around our two, byte for byte."""
    folder, estimator = scratch / ARTIFACT_PATH, card["estimator"]
    model = model_file(estimator)
    metadata = {"threshold": card["threshold"], "calibrator": card["calibrator"]}
    if estimator in FAMILIES:
        import mlflow.sklearn  # noqa: PLC0415 - mlflow costs seconds

        mlflow.sklearn.save_model(
            cast("SklearnScorer", load(artifact_dir).scorer).model,
            str(folder),
            pip_requirements=requirements,
            serialization_format="skops",
            skops_trusted_types=sorted(FAMILIES[estimator].trusted),
            metadata=metadata,
        )
    else:
        folder.mkdir()
        size = (artifact_dir / model).stat().st_size
        _write_xgboost_flavor(
            folder,
            model,
            estimator.removeprefix("xgboost."),
            size,
            metadata,
            requirements,
        )
    for name in (model, CARD_FILE):
        shutil.copyfile(artifact_dir / name, folder / name)
    return folder


def _write_xgboost_flavor(
    folder: Path, model: str, estimator: str, size: int, metadata: Mapping[str, Any], requirements: list[str]
) -> None:
    """What ``mlflow.xgboost.save_model`` writes beside the model, without a look at the versions installed here."""
    import xgboost  # noqa: PLC0415 - needed to register only
    from mlflow import pyfunc  # noqa: PLC0415 - mlflow costs seconds
    from mlflow.models import Model  # noqa: PLC0415 - mlflow costs seconds

    described = Model(metadata=dict(metadata))
    pyfunc.add_to_model(
        described, loader_module="mlflow.xgboost", data=model, conda_env="conda.yaml", python_env="python_env.yaml"
    )
    described.add_flavor(
        "xgboost",
        xgb_version=xgboost.__version__,
        data=model,
        model_class=f"xgboost.sklearn.{estimator}",
        model_format="ubj",
        code=None,
    )
    described.model_size_bytes = size
    described.save(str(folder / "MLmodel"))
    pins = "\n".join(requirements)
    (folder / "requirements.txt").write_text(pins)
    python = platform.python_version()
    (folder / "python_env.yaml").write_text(
        f"python: {python}\nbuild_dependencies:\n- pip\n- setuptools\n- wheel\ndependencies:\n- -r requirements.txt\n"
    )
    (folder / "conda.yaml").write_text(
        f"channels:\n- conda-forge\ndependencies:\n- python={python}\n- pip\n- pip:\n  - "
        + pins.replace("\n", "\n  - ")
        + "\nname: mlflow-env\n"
    )
