"""A model's own environment: bound to the spec by its lock file's digest, made once and only whole."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ratchet.adapters import environments, specs
from ratchet.adapters.environments import LOCK, SHOWN, Environments
from ratchet.domain.spec import ModelSpec
from ratchet.errors import Refused, Unavailable
from ratchet.settings import load_settings

SHIPPED = (load_settings().models_dir / "flight_delay" / "model.yaml").read_text()
RUNTIME = next(line for line in SHIPPED.splitlines() if line.startswith("runtime:"))
HASH = f"--hash=sha256:{'0' * 64}"
NEEDED = "".join(f"{environments._name(each)}==1.0 {HASH}\n" for each in environments.needed())


def model_with(folder: Path, lock: str | None, runtime: str = "{environment: requirements.txt}") -> Path:
    model = folder / "flight_delay"
    model.mkdir(exist_ok=True)
    (model / "model.yaml").write_text(SHIPPED.replace(RUNTIME, f"runtime: {runtime}"))
    if lock is not None:
        (model / "requirements.txt").write_text(lock)
    return model


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_the_specs_digest_covers_the_lock_file(tmp_path: Path) -> None:
    model = model_with(tmp_path, NEEDED)
    first = specs.load_spec(model)
    assert first.runtime.environment_sha256 == sha256(NEEDED)
    (model / "requirements.txt").write_text(NEEDED + f"roman==5.1 {HASH}\n")
    assert specs.load_spec(model).digest != first.digest


def test_a_spec_without_one_is_left_as_it_is(tmp_path: Path) -> None:
    spec = specs.load_spec(model_with(tmp_path, None, "{threads: 1}"))
    assert environments.bind(spec, tmp_path) is spec
    assert environments.named(spec.model_dump(mode="json")) is None


@pytest.mark.parametrize(
    ("lock", "said"),
    [
        (None, "requirements.txt cannot be read beside the spec: No such file or directory"),
        ("xgboost==3.1.2\n", "line 1: xgboost must have a hash"),
        (f"xgboost==3.1.2 {HASH}\n", "lacks what the steps themselves need (alembic, croniter, feast, "),
    ],
)
def test_a_lock_file_that_cannot_be_one_is_told_at_the_key_that_names_it_with_the_command_that_writes_it(
    tmp_path: Path, lock: str | None, said: str
) -> None:
    with pytest.raises(specs.SpecRefused) as refused:
        specs.load_spec(model_with(tmp_path, lock))
    (problem,) = refused.value.problems
    line = 1 + SHIPPED.splitlines().index(RUNTIME)
    assert f"model.yaml:{line}: runtime.environment: requirements.txt" in problem
    assert said in problem
    assert "ratchet environment lock flight_delay" in problem


def test_a_digest_in_the_spec_must_be_that_of_the_file(tmp_path: Path) -> None:
    runtime = f"{{environment: requirements.txt, environment_sha256: {'a' * 64}}}"
    with pytest.raises(specs.SpecRefused, match=f"must have sha256 {'a' * 64}, but has {sha256(NEEDED)}"):
        specs.load_spec(model_with(tmp_path, NEEDED, runtime))


def test_a_spec_that_was_kept_names_file_and_digest(tmp_path: Path) -> None:
    kept = specs.load_spec(model_with(tmp_path, NEEDED)).model_dump(mode="json")
    assert environments.named(kept) == ("requirements.txt", sha256(NEEDED))
    assert ModelSpec.model_validate(kept).digest == specs.load_spec(tmp_path / "flight_delay").digest


def test_the_steps_need_no_airflow_and_leave_the_makers_of_models_free() -> None:
    needed = environments.needed()
    assert not [each for each in needed if "airflow" in each]
    assert "xgboost" in needed
    assert "scikit-learn" in needed
    assert any(each.startswith("optuna==") for each in needed), "what all models share is what Ratchet has"


class Installer:
    """Stands in for the installer: makes the folder with an interpreter; the real one is in the tests of the stack."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, ...]] = []
        self.before_sync: Callable[[Path], Any] = lambda _: None

    def __call__(self, command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        words = tuple(command[2:])
        self.calls.append(words)
        if words[0] == "venv":
            place = Path(words[-1])
            (place / "bin").mkdir(parents=True)
            (place / "bin" / "python").touch()
            (place / "pyvenv.cfg").touch()
        elif words[1] == "sync" and self.before_sync(Path(words[-1])):
            return subprocess.CompletedProcess(command, 2, "", "a\nhash mismatch of roman")
        return subprocess.CompletedProcess(command, 0, "", "")


@pytest.fixture
def installer(monkeypatch: pytest.MonkeyPatch) -> Installer:
    stand_in = Installer()
    monkeypatch.setattr(environments.subprocess, "run", stand_in)
    return stand_in


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    file = tmp_path / "requirements.txt"
    file.write_text(NEEDED)
    return file


@pytest.fixture
def here(tmp_path: Path) -> Environments:
    return Environments(tmp_path / "environments", build=True)


def made(here: Environments, lock: Path, **given: Any) -> Path:
    return here.python("flight_delay", sha256(NEEDED), lock, tell=lambda _: None, **given)


def test_an_environment_is_made_once_and_every_package_is_checked_by_its_hash(
    here: Environments, lock: Path, installer: Installer
) -> None:
    python = made(here, lock)
    assert python == here.folder / sha256(NEEDED)[:SHOWN] / "bin" / "python"
    assert [words[:2] for words in installer.calls] == [("venv", "--python"), ("pip", "sync")]
    assert "--require-hashes" in installer.calls[1]
    assert (python.parents[1] / LOCK).read_text() == NEEDED
    lock.unlink()
    assert made(here, lock) == python, "what is there needs its file no more"
    assert len(installer.calls) == 2


def test_of_processes_that_need_it_at_once_one_makes_it(here: Environments, lock: Path, installer: Installer) -> None:
    others = [threading.Thread(target=made, args=(here, lock)) for _ in range(4)]
    for other in others:
        other.start()
    for other in others:
        other.join()
    assert len(installer.calls) == 2


def test_one_whose_making_was_killed_is_made_anew(here: Environments, lock: Path, installer: Installer) -> None:
    def killed(_: Path) -> None:
        raise KeyboardInterrupt

    installer.before_sync = killed
    with pytest.raises(KeyboardInterrupt):
        made(here, lock)
    left = here.place(sha256(NEEDED)) / "half installed"
    left.touch()
    assert not here.is_built(sha256(NEEDED))
    installer.before_sync = lambda _: None
    made(here, lock)
    assert here.is_built(sha256(NEEDED))
    assert not left.exists()


def test_what_the_installer_says_is_told_and_trying_again_may_help(
    here: Environments, lock: Path, installer: Installer
) -> None:
    installer.before_sync = lambda _: True
    with pytest.raises(Unavailable, match=r"could not be made \(uv pip\):\na\nhash mismatch of roman"):
        made(here, lock)
    assert not here.is_built(sha256(NEEDED))


def test_another_file_than_the_one_that_was_bound_is_not_installed(
    here: Environments, lock: Path, installer: Installer
) -> None:
    lock.write_text(NEEDED + "# other\n")
    with pytest.raises(Refused, match=f"but {sha256(NEEDED)} is asked for.* deploy the spec and start a new run"):
        made(here, lock)
    assert installer.calls == []


def test_where_none_may_be_made_the_command_that_makes_it_is_told(
    tmp_path: Path, lock: Path, installer: Installer
) -> None:
    closed = Environments(tmp_path / "environments", build=False)
    with pytest.raises(Refused, match=r"RATCHET_BUILD_ENVIRONMENTS is off.* ratchet environment build flight_delay"):
        made(closed, lock)
    assert made(closed, lock, build=True).exists()
    assert made(closed, lock).exists()


@pytest.mark.parametrize(
    ("present", "upgrade", "kept"),
    [
        (None, False, "deployment"),
        ("own", False, "own"),
        ("own", True, "deployment"),
        ("broken", False, "deployment"),
    ],
)
def test_a_lock_file_is_written_anew_from_its_own_versions_or_from_the_deployments(
    here: Environments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, present: str | None, upgrade: bool, kept: str
) -> None:
    texts = {"deployment": f"a==1 {HASH}\n", "own": f"a==2 {HASH}\n", "broken": "a==2\n"}
    wishes, lock, like = tmp_path / "requirements.in", tmp_path / "requirements.txt", tmp_path / "deployment.txt"
    wishes.write_text("a\n")
    like.write_text(texts["deployment"])
    if present:
        lock.write_text(texts[present])
    begun: list[str] = []

    def resolve(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        begun.append(Path(command[command.index("--output-file") + 1]).read_text())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(environments.subprocess, "run", resolve)
    here.lock(wishes, lock, like, upgrade=upgrade)
    assert begun == [texts[kept]]
    assert lock.read_text() == texts[kept]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["deployment.txt", "requirements.in", "requirements.txt"]


def test_pruning_leaves_what_is_in_use(here: Environments, lock: Path, installer: Installer) -> None:
    made(here, lock)
    other = NEEDED + "# other\n"
    lock.write_text(other)
    here.python("flight_delay", sha256(other), lock, tell=lambda _: None)
    assert here.prune(frozenset({sha256(other)})) == [sha256(NEEDED)[:SHOWN]]
    assert not here.place(sha256(NEEDED)).exists()
    assert here.is_built(sha256(other))


def test_without_an_installer_it_is_said_what_to_install(
    here: Environments, lock: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(environments.sys, "executable", str(tmp_path / "bin" / "python"))
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(Refused, match="install the extra `environments`"):
        made(here, lock)


def test_the_code_lies_alone_in_a_folder_that_an_environment_may_import_from(tmp_path: Path) -> None:
    package = Path(environments.__file__).parents[1]
    first = environments.linked(tmp_path, package)
    assert environments.linked(tmp_path, package) == first
    assert [entry.name for entry in first.iterdir()] == ["ratchet"]
    assert (first / "ratchet" / "errors.py").is_file()


def test_a_process_knows_its_environment_by_the_lock_file_beside_its_interpreter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert environments.running() is None
    (tmp_path / LOCK).write_text(NEEDED)
    monkeypatch.setattr(environments.sys, "prefix", str(tmp_path))
    assert environments.running() == sha256(NEEDED)
