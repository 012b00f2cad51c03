"""The rules of ``Registry`` on the fake and on MLflow, and what MLflow's own users see."""

import base64
import json
import shutil
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import metadata
from pathlib import Path

import mlflow
import numpy as np
import pyarrow as pa
import pytest
import xgboost as xgb
from mlflow.models import Model
from ruamel.yaml import YAML

from ratchet.adapters.models import (
    XGBoostRankingLearner,
    XGBoostRegressionLearner,
    digest,
    encode,
    encode_frame,
    learner_for,
    load,
    model_file,
    save,
)
from ratchet.adapters.registry_mlflow import MlflowRegistry, pinned_requirements
from ratchet.adapters.storage import MissingObjectError
from ratchet.domain.artifact import ModelArtifact, Platt, Shift
from ratchet.domain.estimators import HIST_GRADIENT_BOOSTING, LOGISTIC_REGRESSION, RANDOM_FOREST
from ratchet.errors import Refused, Unavailable
from ratchet.ports.registry import InMemoryRegistry, Registry

LOCK_FILE = Path(__file__).parents[2] / "requirements.txt"
XGBOOST = "xgboost.XGBClassifier"
SKLEARN = (HIST_GRADIENT_BOOSTING, RANDOM_FOREST, LOGISTIC_REGRESSION)
ROUNDS = {XGBOOST: "n_estimators", HIST_GRADIENT_BOOSTING: "max_iter", RANDOM_FOREST: "n_estimators"}
FEATURES = ("wind", "carrier")


def rows() -> pa.Table:
    random = np.random.default_rng(0)
    carrier = np.array(["AA", "UA", None], dtype=object)[random.integers(0, 3, 200)]
    return pa.table({"wind": random.normal(size=200), "carrier": pa.array(carrier, type=pa.string())})


def saved(folder: Path, *, rounds: int = 5, estimator: str = XGBOOST) -> Path:
    table, learner = rows(), learner_for(estimator)
    categories = learner.categories(table, ["carrier"])
    label = (table["wind"].to_numpy() > 0.2).astype(np.int8)
    prepared = learner.prepare(table, label, features=FEATURES, categories=categories, threads=1)
    params = {ROUNDS[estimator]: rounds, "max_depth": 2} if estimator in ROUNDS else {"C": 1.0 / rounds}
    scorer = learner.fit(prepared, params, seed=1, threads=1)
    save(ModelArtifact(scorer, estimator, FEATURES, categories, Platt(0.8, 0.1), 0.25, params), folder)
    return folder


def saved_regression(folder: Path) -> Path:
    table, learner = rows(), XGBoostRegressionLearner()
    categories = learner.categories(table, ["carrier"])
    minutes = 20 + 9 * table["wind"].to_numpy()
    prepared = learner.prepare(table, minutes, features=FEATURES, categories=categories, threads=1)
    params = {"n_estimators": 5, "objective": "reg:quantileerror", "quantile_alpha": 0.75}
    scorer = learner.fit(prepared, params, seed=1, threads=1)
    save(ModelArtifact(scorer, learner.estimator, FEATURES, categories, Shift(0.5), None, params), folder)
    return folder


def saved_ranking(folder: Path) -> Path:
    table, learner = rows(), XGBoostRankingLearner()
    table = table.append_column("day", pa.array([str(i // 20) for i in range(table.num_rows)]))
    categories = learner.categories(table, ["carrier"])
    label = (table["wind"].to_numpy() > 0).astype(np.int8)
    prepared = learner.prepare(table, label, features=FEATURES, categories=categories, threads=1)
    scorer = learner.fit(prepared, params := {"n_estimators": 5}, seed=1, threads=1)
    save(ModelArtifact(scorer, learner.estimator, FEATURES, categories, None, None, params, capacity=3), folder)
    return folder


SAVED = {"XGBClassifier": saved, "XGBRegressor": saved_regression, "XGBRanker": saved_ranking}


def register(registry: Registry, attempt: str, folder: Path, *, model: str = "flight_delay") -> int:
    return registry.register(
        attempt,
        model,
        folder,
        metrics={"uplift": 1.5, "lower": float("nan")},
        params={"max_depth": 2},
        tags={"who": "t"},
    )


@pytest.fixture(scope="module")
def mlflow_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mlflow")


def mlflow_uri(home: Path) -> str:
    return f"sqlite:///{home}/mlflow.db"


@pytest.fixture(params=["memory", "mlflow"])
def registry(
    request: pytest.FixtureRequest, tmp_path: Path, mlflow_home: Path, monkeypatch: pytest.MonkeyPatch
) -> Registry:
    monkeypatch.chdir(mlflow_home)  # a tracking database without a server keeps artifacts below the working directory
    if request.param == "memory":
        return InMemoryRegistry(tmp_path / "registry")
    return MlflowRegistry(mlflow_uri(mlflow_home), lock_file=LOCK_FILE, download_dir=tmp_path / "downloads")


@pytest.fixture
def model(request: pytest.FixtureRequest) -> str:
    """A name of its own for each test: the MLflow database is made once, because its schema takes seconds."""
    return "".join(letter if letter.isalnum() else "_" for letter in request.node.name)


def test_versions_of_a_model_count_from_one(registry: Registry, tmp_path: Path, model: str):
    assert register(registry, "a.1", saved(tmp_path / "1"), model=model) == 1
    assert register(registry, "a.2", saved(tmp_path / "2"), model=model) == 2


def test_an_attempt_registers_one_version_however_often_it_asks(registry: Registry, tmp_path: Path, model: str):
    folder = saved(tmp_path / "1")
    assert [register(registry, "a.1", folder, model=model) for _ in range(3)] == [1, 1, 1]


def test_a_removed_version_is_gone_with_its_files_and_its_number_is_not_given_again(
    registry: Registry, tmp_path: Path, model: str
):
    for number in (1, 2):
        register(registry, f"a.{number}", saved(tmp_path / str(number), rounds=number), model=model)
    assert registry.versions(model) == {1: "a.1", 2: "a.2"}
    assert model in registry.models()
    folder = registry.download(model, 2)
    assert registry.remove(model, 2) > 1000
    assert not folder.exists()
    assert registry.versions(model) == {1: "a.1"}
    with pytest.raises(Refused):
        registry.download(model, 2)
    assert registry.remove(model, 2) == 0
    assert register(registry, "a.3", saved(tmp_path / "3", rounds=3), model=model) == 3
    assert registry.versions(f"{model}_unknown") == {}


def test_a_version_that_an_alias_names_is_not_removed(registry: Registry, tmp_path: Path, model: str):
    register(registry, "a.1", saved(tmp_path / "1"), model=model)
    registry.set_alias(model, "champion", 1)
    with pytest.raises(Refused, match=f"version 1 of {model}"):
        registry.remove(model, 1)
    assert registry.versions(model) == {1: "a.1"}


@pytest.mark.parametrize("estimator", [XGBOOST, *SKLEARN])
def test_a_downloaded_version_is_what_was_registered_byte_for_byte(
    registry: Registry, tmp_path: Path, model: str, estimator: str
):
    first, second = saved(tmp_path / "1", estimator=estimator), saved(tmp_path / "2", rounds=9, estimator=estimator)
    register(registry, "a.1", first, model=model)
    register(registry, "a.2", second, model=model)
    for version, folder in ((1, first), (2, second)):
        downloaded = registry.download(model, version)
        assert digest(downloaded) == digest(folder)
        np.testing.assert_array_equal(load(downloaded).probability(rows()), load(folder).probability(rows()))


def test_an_alias_names_the_version_it_was_last_set_to(registry: Registry, tmp_path: Path, model: str):
    assert registry.alias_version(model, "champion") is None
    register(registry, "a.1", saved(tmp_path / "1"), model=model)
    register(registry, "a.2", saved(tmp_path / "2"), model=model)
    assert registry.alias_version(model, "champion") is None
    registry.set_alias(model, "champion", 2)
    registry.set_alias(model, "champion", 1)
    registry.set_alias(model, "challenger", 2)
    assert registry.alias_version(model, "champion") == 1
    assert registry.alias_version(model, "challenger") == 2
    assert (registry.aliased("champion")[model], registry.aliased("challenger")[model]) == (1, 2)
    assert model not in registry.aliased("of nobody")


def test_an_alias_cannot_name_an_unknown_version(registry: Registry, tmp_path: Path, model: str):
    register(registry, "a.1", saved(tmp_path / "1"), model=model)
    with pytest.raises(Refused, match="7"):
        registry.set_alias(model, "champion", 7)


def test_an_unknown_version_cannot_be_downloaded(registry: Registry, model: str):
    with pytest.raises(Refused):
        registry.download(model, 1)


@pytest.mark.parametrize("estimator", [XGBOOST, LOGISTIC_REGRESSION])
def test_a_version_is_fetched_again_when_asked_for_fresh(
    real: MlflowRegistry, tmp_path: Path, model: str, estimator: str
):
    folder, file = saved(tmp_path / "1", estimator=estimator), model_file(estimator)
    register(real, "a.1", folder, model=model)
    copy = real.download(model, 1)
    (copy / file).write_bytes(b"changed")
    assert (real.download(model, 1) / file).read_bytes() == b"changed"
    assert (real.download(model, 1, fresh=True) / file).read_bytes() == (folder / file).read_bytes()


@pytest.mark.parametrize("estimator", [XGBOOST, LOGISTIC_REGRESSION])
@pytest.mark.parametrize("lost", ["model", "all"])
def test_a_version_whose_files_are_gone_is_missing_and_not_a_server_that_is_away(
    real: MlflowRegistry, tmp_path: Path, model: str, lost: str, estimator: str
):
    register(real, "a.1", saved(tmp_path / "1", estimator=estimator), model=model)
    source = Path(real._client.get_model_version_download_uri(model, "1").removeprefix("file://"))
    shutil.rmtree(source) if lost == "all" else (source / model_file(estimator)).unlink()
    with pytest.raises(MissingObjectError, match=r"version 1 of .* has no model\.ubj or model\.skops"):
        real.download(model, 1)


def test_a_folder_without_an_artifact_registers_nothing(registry: Registry, tmp_path: Path, model: str):
    with pytest.raises(Refused, match=r"ratchet\.json"):
        register(registry, "a.1", tmp_path, model=model)
    assert register(registry, "a.1", saved(tmp_path / "1"), model=model) == 1


@pytest.fixture
def real(tmp_path: Path, mlflow_home: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowRegistry:
    monkeypatch.chdir(mlflow_home)
    return MlflowRegistry(mlflow_uri(mlflow_home), lock_file=LOCK_FILE, download_dir=tmp_path / "downloads")


def test_mlflow_loads_the_champion_by_alias_with_equal_raw_scores(
    real: MlflowRegistry, tmp_path: Path, mlflow_home: Path, model: str
):
    folder = saved(tmp_path / "1")
    real.set_alias(model, "champion", register(real, "a.1", folder, model=model))
    mlflow.set_tracking_uri(mlflow_uri(mlflow_home))
    mlflow.set_registry_uri(mlflow_uri(mlflow_home))
    loaded = mlflow.xgboost.load_model(f"models:/{model}@champion")
    ours = load(folder)
    frame = encode_frame(rows(), ours.features, ours.categories)
    assert isinstance(loaded, xgb.XGBClassifier)
    np.testing.assert_array_equal(loaded.predict_proba(frame)[:, 1].astype(np.float64), ours.scorer.raw(rows()))
    assert mlflow.pyfunc.load_model(f"models:/{model}@champion").predict(frame).shape == (200,)


def test_mlflow_loads_a_regression_as_a_regressor_with_equal_raw_predictions(
    real: MlflowRegistry, tmp_path: Path, mlflow_home: Path, model: str
):
    table, folder = rows(), saved_regression(tmp_path / "1")
    fitted = load(folder)
    real.set_alias(model, "champion", register(real, "a.1", folder, model=model))
    mlflow.set_tracking_uri(mlflow_uri(mlflow_home))
    mlflow.set_registry_uri(mlflow_uri(mlflow_home))
    loaded = mlflow.xgboost.load_model(f"models:/{model}@champion")
    frame = encode_frame(table, FEATURES, fitted.categories)
    assert isinstance(loaded, xgb.XGBRegressor)
    np.testing.assert_array_equal(loaded.predict(frame).astype(np.float64), fitted.scorer.raw(table))
    served = load(real.download(model, 1))
    np.testing.assert_array_equal(served.decide(table)[1], fitted.scorer.raw(table) + 0.5)


@pytest.mark.parametrize("estimator", SKLEARN)
def test_mlflow_loads_a_champion_of_scikit_learn_from_its_skops_file(
    real: MlflowRegistry, tmp_path: Path, mlflow_home: Path, model: str, estimator: str
):
    folder = saved(tmp_path / "1", estimator=estimator)
    real.set_alias(model, "champion", register(real, "a.1", folder, model=model))
    mlflow.set_tracking_uri(mlflow_uri(mlflow_home))
    mlflow.set_registry_uri(mlflow_uri(mlflow_home))
    loaded = mlflow.sklearn.load_model(f"models:/{model}@champion")
    ours = load(folder)
    matrix = encode(rows(), ours.features, ours.categories).astype(np.float64)
    np.testing.assert_allclose(loaded.predict_proba(matrix)[:, 1], ours.scorer.raw(rows()), rtol=0, atol=1e-12)
    assert mlflow.pyfunc.load_model(f"models:/{model}@champion").predict(matrix).shape == (200,)
    source = Path(real._client.get_model_version_download_uri(model, "1").removeprefix("file://"))
    assert (source / "model.skops").read_bytes() == (folder / "model.skops").read_bytes()
    assert list(source.rglob("*.pkl")) == []
    pinned = (source / "requirements.txt").read_text().split()
    assert {f"{name}=={metadata.version(name)}" for name in ("scikit-learn", "skops", "numpy")} <= set(pinned)


def test_a_version_tells_its_attempt_metrics_and_locked_requirements(
    real: MlflowRegistry, tmp_path: Path, mlflow_home: Path, model: str
):
    register(real, "a.1", saved(tmp_path / "1"), model=model)
    client = mlflow.MlflowClient(mlflow_uri(mlflow_home), mlflow_uri(mlflow_home))
    version = client.get_model_version(model, "1")
    run = client.get_run(version.run_id)
    assert version.tags["ratchet.attempt"] == "a.1"
    assert run.data.metrics == {"uplift": 1.5}
    assert run.info.status == "FINISHED"
    source = Path(client.get_model_version_download_uri(model, "1").removeprefix("file://"))
    pinned = (source / "requirements.txt").read_text().split()
    assert f"xgboost=={xgb.__version__}" in pinned
    assert f"numpy=={np.__version__}" in pinned


def test_a_run_left_by_a_killed_try_is_used_again(
    real: MlflowRegistry, tmp_path: Path, mlflow_home: Path, model: str, monkeypatch: pytest.MonkeyPatch
):
    folder = saved(tmp_path / "1")
    with monkeypatch.context() as patch:

        def power_failure(name: str) -> None:
            raise KeyboardInterrupt

        patch.setattr(real._client, "create_registered_model", power_failure)
        with pytest.raises(KeyboardInterrupt):
            register(real, "a.1", folder, model=model)
    assert register(real, "a.1", folder, model=model) == 1
    experiment = real._client.get_experiment_by_name(f"ratchet/{model}")
    assert len(real._client.search_runs([experiment.experiment_id])) == 1


def test_an_attempt_keeps_its_version_when_the_end_of_its_run_or_the_run_itself_is_lost(
    real: MlflowRegistry, tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
):
    folder = saved(tmp_path / "1")
    with monkeypatch.context() as patch:

        def power_failure(run_id: str) -> None:
            raise KeyboardInterrupt

        patch.setattr(real._client, "set_terminated", power_failure)
        with pytest.raises(KeyboardInterrupt):
            register(real, "a.1", folder, model=model)
    assert register(real, "a.1", folder, model=model) == 1
    real._client.delete_run(real._client.get_model_version(model, "1").run_id)
    assert register(real, "a.1", folder, model=model) == 1


@pytest.mark.parametrize("kind", SAVED)
def test_an_xgboost_version_has_the_files_of_mlflows_own_flavor(
    real: MlflowRegistry, tmp_path: Path, model: str, kind: str
):
    folder = SAVED[kind](tmp_path / "1")
    register(real, "a.1", folder, model=model)
    source = Path(real._client.get_model_version_download_uri(model, "1").removeprefix("file://"))
    estimator = getattr(xgb, kind)()
    estimator.load_model(folder / "model.ubj")
    written = json.loads((folder / "ratchet.json").read_bytes())
    requirements = (source / "requirements.txt").read_text().split()
    mlflow.xgboost.save_model(
        estimator,
        str(tmp_path / "theirs"),
        pip_requirements=requirements,
        metadata={name: written[name] for name in ("threshold", "calibrator")},
    )
    theirs = {file.name for file in (tmp_path / "theirs").iterdir()}
    assert {file.name for file in source.iterdir()} == theirs | {"ratchet.json"}
    assert (source / "requirements.txt").read_text() == (tmp_path / "theirs" / "requirements.txt").read_text()
    described = [Model.load(str(place)).to_dict() for place in (source, tmp_path / "theirs")]
    assert {name for one in described for name, value in one.items() if value != described[0].get(name)} <= {
        *("model_uuid", "utc_time_created", "model_size_bytes")
    }
    yaml = YAML(typ="safe")
    conda, their_conda = (yaml.load(place / "conda.yaml") for place in (source, tmp_path / "theirs"))
    assert conda["dependencies"][-1] == their_conda["dependencies"][-1] == {"pip": requirements}
    assert conda["dependencies"][0] == their_conda["dependencies"][0]
    assert yaml.load(source / "python_env.yaml")["dependencies"] == ["-r requirements.txt"]


def test_a_server_that_does_not_answer_is_told_within_seconds():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        registry = MlflowRegistry(f"http://127.0.0.1:{taken.getsockname()[1]}", lock_file=LOCK_FILE)
        with pytest.raises(Unavailable, match="MLflow does not answer") as caught:
            registry.alias_version("flight_delay", "champion")
    assert caught.value.retry_helps


@pytest.fixture
def server():
    """An MLflow of a few answers, and what it was asked."""
    known = {
        "none": (404, {"error_code": "RESOURCE_DOES_NOT_EXIST"}),
        "bare": (200, {"registered_model": {"name": "bare"}}),
        "named": (200, {"registered_model": {"aliases": [{"alias": "champion", "version": "12"}]}}),
        "proxy": (404, {"detail": "no such page"}),
        "broken": (500, {}),
        "page 1": (200, {"registered_models": [{"name": "bare"}], "next_page_token": "2"}),
        "page 2": (
            200,
            {"registered_models": [{"name": "named", "aliases": [{"alias": "champion", "version": "12"}]}]},
        ),
    }
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(f"{self.path} {self.headers.get('Authorization')}")
            _, token, page = self.path.partition("page_token=")
            status, body = known[f"page {page or 1}" if token else self.path.partition("name=")[2]]
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{made.server_port}", asked
        made.shutdown()


@pytest.mark.parametrize(("model", "version"), [("none", None), ("bare", None), ("named", 12)])
def test_a_servers_alias_is_read_by_plain_http_with_the_login(server, model: str, version: int | None):
    address, asked = server
    registry = MlflowRegistry(f"http://ann:secret@{address}/prefix", lock_file=LOCK_FILE)
    assert registry.alias_version(model, "champion") == version
    login = base64.b64encode(b"ann:secret").decode()
    assert asked == [f"/prefix/api/2.0/mlflow/registered-models/get?name={model} Basic {login}"]
    assert "_client" not in vars(registry)


def test_a_servers_aliases_are_read_page_by_page_with_the_login(server):
    address, asked = server
    registry = MlflowRegistry(f"http://ann:secret@{address}", lock_file=LOCK_FILE)
    assert registry.aliased("champion") == {"named": 12}
    login = base64.b64encode(b"ann:secret").decode()
    search = "/api/2.0/mlflow/registered-models/search?max_results=1000&page_token="
    assert asked == [f"{search} Basic {login}", f"{search}2 Basic {login}"]
    assert "_client" not in vars(registry)


@pytest.mark.parametrize("model", ["proxy", "broken"])
def test_an_answer_that_is_not_mlflows_is_no_missing_alias(server, model: str):
    registry = MlflowRegistry(f"http://{server[0]}", lock_file=LOCK_FILE)
    with pytest.raises(Unavailable, match="MLflow answered"):
        registry.alias_version(model, "champion")


def test_requirements_come_from_the_lock_file_or_not_at_all(tmp_path: Path):
    (tmp_path / "lock.txt").write_text(
        "numpy==1.0 ; python_full_version < '3' \\\n    --hash=sha256:00\nnumpy==2.0 ; python_full_version >= '3' \\\n"
    )
    assert pinned_requirements(tmp_path / "lock.txt", ("numpy",)) == ["numpy==2.0"]
    with pytest.raises(Refused, match="must pin pandas"):
        pinned_requirements(tmp_path / "lock.txt", ("numpy", "pandas"))
    with pytest.raises(Refused, match="make lock"):
        pinned_requirements(tmp_path / "absent.txt", ("numpy",))


def test_a_missing_artifact_is_missing_not_unavailable(real: MlflowRegistry, tmp_path: Path, model: str):
    with pytest.raises(MissingObjectError):
        register(real, "a.1", tmp_path / "absent", model=model)


def test_files_that_a_killed_removal_took_before_its_version_do_not_stop_the_next_one(
    tmp_path: Path, mlflow_home: Path, monkeypatch: pytest.MonkeyPatch, model: str
):
    monkeypatch.chdir(mlflow_home)
    registry = MlflowRegistry(mlflow_uri(mlflow_home), lock_file=LOCK_FILE, download_dir=tmp_path / "downloads")
    register(registry, "a.1", saved(tmp_path / "1"), model=model)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(registry._client, "delete_model_version", killed)
        with pytest.raises(KeyboardInterrupt):
            registry.remove(model, 1)
    assert registry.versions(model) == {1: "a.1"}
    assert registry.remove(model, 1) == 0
    assert registry.versions(model) == {}
