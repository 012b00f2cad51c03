"""A model's own Python environment: made of the lock file in its folder, once for each file and machine.

The lock file is bound to the spec by its SHA-256, as a hook is. A process knows the environment that it runs in by
the copy of the lock file that lies beside the interpreter's ``pyvenv.cfg``: it is written last, so that an
environment with one is whole.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from ratchet.adapters.file_lock import held
from ratchet.domain.locks import MOST_LOCK_BYTES, normal, pins_of
from ratchet.domain.spec import ModelSpec
from ratchet.errors import Refused, Unavailable

LOCK = "ratchet.lock"
WISHES = "requirements.in"
SHOWN = 12
"""Characters of a digest that name an environment's folder and that people are shown."""
LINES = 8
"""Lines of what the installer said that an error repeats: it begins with what went wrong."""
SERVERS = frozenset(
    {
        "apache-airflow",
        "apache-airflow-providers-standard",
        "asyncpg",
        "fastapi",
        "prometheus-client",
        "python-multipart",
    }
)
"""What Ratchet needs beside the steps: Airflow, and the servers of API and pages."""
FREE = frozenset({"numpy", "pandas", "pyarrow", "scikit-learn", "scipy", "skops", "threadpoolctl", "xgboost"})
"""What makes models: any version will do that the model's steps run with. All others are what Ratchet itself has, for
they read and write what all models share."""


def bind(spec: ModelSpec, folder: Path) -> ModelSpec:
    """The spec with the digest of its lock file, which the spec's own digest then covers; without one as it is.

    Raises:
        Refused: the file is missing, pins not everything, lacks what the steps need, or is not the one whose digest the
            spec names.
    """
    runtime = spec.runtime
    if runtime.environment is None:
        return spec
    content = _content(folder / runtime.environment)
    digest = hashlib.sha256(content).hexdigest()
    if runtime.environment_sha256 not in {None, digest}:
        raise Refused(f"{runtime.environment} must have sha256 {runtime.environment_sha256}, but has {digest}")
    try:
        pinned = {pin.name for pin in pins_of(content.decode())}
    except (Refused, UnicodeDecodeError) as error:
        raise Refused(f"{runtime.environment}: {error}. {_remedy(spec.model)}") from None
    if missing := sorted(name for name in map(_name, needed()) if name not in pinned):
        raise Refused(
            f"{runtime.environment} lacks what the steps themselves need ({', '.join(missing)}). {_remedy(spec.model)}"
        )
    return spec.model_copy(update={"runtime": runtime.model_copy(update={"environment_sha256": digest})})


def _remedy(model: str) -> str:
    return f"Write it with: ratchet environment lock {model}"


def needed() -> list[str]:
    """What the steps of any model need to be installed, as requirements: Ratchet's own without Airflow.

    Nothing where Ratchet is not installed itself, as in an environment, whose lock file was looked at elsewhere.
    """
    with suppress(PackageNotFoundError):
        found = [each for each in requires("ratchet") or () if "extra ==" not in each]
        chosen = [each for each in found if _name(each) not in SERVERS]
        return [_name(each) if _name(each) in FREE else each for each in chosen]
    return []


def _name(requirement: str) -> str:
    return normal(re.split(r"[^\w.-]", requirement, maxsplit=1)[0])


def _content(file: Path) -> bytes:
    try:
        size = file.stat().st_size
        if size > MOST_LOCK_BYTES:
            raise Refused(f"{file.name}: a lock file has at most {MOST_LOCK_BYTES:,} bytes, but this has {size:,}")
        return file.read_bytes()
    except OSError as error:
        raise Refused(
            f"{file.name} cannot be read beside the spec: {error.strerror}. {_remedy(file.parent.name)}"
        ) from None


def _is_lock(file: Path) -> bool:
    try:
        return bool(pins_of(file.read_text()))
    except (OSError, UnicodeDecodeError, Refused):
        return False


def differences(lock: Path) -> list[str]:
    """In what an environment by this lock file differs from this process's: each package with both versions."""
    from packaging.markers import Marker  # noqa: PLC0415 - only where somebody asks

    told = []
    for pin in pins_of(_content(lock).decode()):
        if pin.marker is None or Marker(pin.marker).evaluate():
            try:
                here = version(pin.name)
            except PackageNotFoundError:
                told.append(f"{pin.name} {pin.version} (not here)")
                continue
            if here != pin.version:
                told.append(f"{pin.name} {pin.version} (here {here})")
    return told


def own_lock() -> Path | None:
    """The lock file that the environment of this process was made of; None in the deployment's own."""
    file = Path(sys.prefix) / LOCK
    return file if file.is_file() else None


def running() -> str | None:
    """The SHA-256 of :func:`own_lock`."""
    file = own_lock()
    return hashlib.sha256(file.read_bytes()).hexdigest() if file else None


@dataclass(frozen=True)
class Environments:
    """The environments of this machine: folders below ``folder``, named by the beginnings of their digests.

    ``build`` says whether one that is missing is made where it is needed; ``tools`` where an installer may lie that is
    not on the path.
    """

    folder: Path
    build: bool
    tools: tuple[Path, ...] = ()

    def place(self, sha256: str) -> Path:
        """Where the environment is, or would be."""
        return self.folder / sha256[:SHOWN]

    def is_built(self, sha256: str) -> bool:
        """Whether it is there and whole."""
        file = self.place(sha256) / LOCK
        return file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest() == sha256

    def python(
        self, model: str, sha256: str, lock: Path, *, tell: Callable[[str], None], build: bool | None = None
    ) -> Path:
        """The interpreter of the environment; made first where it is missing, by one process at a time.

        A process that dies while it makes one leaves a folder without a lock file, which the next one removes.

        Args:
            model: whose environment it is, for what is told.
            sha256: of the lock file.
            lock: the lock file; read only where the environment is missing.
            build: whether it may be made; the deployment's setting when left out.
            tell: is told that it is being made.

        Raises:
            Refused: it is missing and may not be made here, the lock file is another by now, or there is no installer.
            Unavailable: the installer failed.
        """
        place = self.place(sha256)
        found = place / "bin" / "python"
        if self.is_built(sha256):
            return found
        if not (self.build if build is None else build):
            raise Refused(
                f"the environment {sha256[:SHOWN]} of {model} is not on this machine, and RATCHET_BUILD_ENVIRONMENTS "
                f"is off. Make it here: ratchet environment build {model}"
            )
        content = _content(lock)
        if (digest := hashlib.sha256(content).hexdigest()) != sha256:
            raise Refused(
                f"{lock.name} of {model} has sha256 {digest}, but {sha256} is asked for, and that environment is not "
                "on this machine. Put the file back, or deploy the spec and start a new run."
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        with held(self.folder / f".{sha256[:SHOWN]}.lock"):
            if self.is_built(sha256):
                return found
            tell(f"making the environment {sha256[:SHOWN]} of {model}, once on this machine")
            shutil.rmtree(place, ignore_errors=True)
            self._install(place, content)
        return found

    def _install(self, place: Path, content: bytes) -> None:
        python = str(place / "bin" / "python")
        self._uv("venv", "--python", sys.executable, str(place))
        draft = place / "requirements.txt"  # so the installer knows what it is
        draft.write_bytes(content)
        self._uv("pip", "sync", "--compile-bytecode", "--require-hashes", "--python", python, str(draft))
        draft.rename(place / LOCK)

    def lock(self, wishes: Path, lock: Path, like: Path, *, upgrade: bool = False) -> None:
        """Resolve what the steps and the model want into ``lock``, with hashes and no address.

        What is pinned keeps its version, as far as the wishes let it: in ``lock`` itself, or where there is none that
        can be read or an ``upgrade`` is asked for, in ``like``, the deployment's.

        Raises:
            Refused: there is no such file, there is no installer, or nothing satisfies all wishes.
        """
        if not wishes.is_file():
            raise Refused(
                f"{wishes} is not there: list in it what the model needs beside Ratchet, one requirement a line, such "
                "as xgboost==3.1.2"
            )
        if not (steps := needed()):
            raise Refused("what the steps need is known only where Ratchet is installed, and here it is not")
        draft, base = lock.with_name(f".{lock.name}"), lock.with_name(f".{lock.name}.in")
        try:
            shutil.copyfile(like if upgrade or not _is_lock(lock) else lock, draft)
            base.write_text("\n".join(steps) + "\n")
            self._uv(
                *("pip", "compile", "--universal", "--generate-hashes", "--no-emit-index-url", "--no-header"),
                *("--no-annotate", "--python", sys.executable, "--python-version", "3.11"),
                *("--output-file", str(draft), str(base), str(wishes)),
                refused="nothing satisfies all of it",
            )
            pins_of(draft.read_text())
            draft.replace(lock)
        finally:
            draft.unlink(missing_ok=True)
            base.unlink(missing_ok=True)

    def prune(self, kept: frozenset[str]) -> list[str]:
        """Remove the environments whose digests are not among ``kept``; returns the names of their folders."""
        names, gone = {each[:SHOWN] for each in kept}, []
        for place in self._places():
            if place.name not in names:
                with held(self.folder / f".{place.name}.lock"):
                    (place / LOCK).unlink(missing_ok=True)
                    shutil.rmtree(place, ignore_errors=True)
                gone.append(place.name)
        return gone

    def _places(self) -> Iterator[Path]:
        for place in sorted(self.folder.glob("[!.]*")):
            if (place / "pyvenv.cfg").is_file():
                yield place

    def _uv(self, *words: str, refused: str | None = None) -> None:
        places = (Path(sys.executable).parent, *self.tools)
        found = next((str(place / "uv") for place in places if (place / "uv").is_file()), None) or shutil.which("uv")
        if found is None:
            raise Refused(
                "environments are made with uv, which is not here: install the extra `environments` of this package, "
                "or put uv on the path"
            )
        done = subprocess.run([found, "--quiet", *words], capture_output=True, text=True, check=False)
        if done.returncode:
            said = "\n".join(done.stderr.strip().splitlines()[:LINES]) or "no reason given"
            if refused is not None:
                raise Refused(f"{refused}:\n{said}")
            raise Unavailable(f"the environment could not be made (uv {words[0]}):\n{said}")


def linked(folder: Path, package: Path) -> Path:
    """A folder below ``folder`` in which only ``package`` lies, by a link: what an environment's process imports.

    The package's own folder may lie among all of the deployment's packages.
    """
    name = hashlib.sha256(str(package).encode()).hexdigest()[:SHOWN]
    place = folder / f".code-{name}"
    place.mkdir(parents=True, exist_ok=True)
    link = place / package.name
    if not link.is_symlink():
        with suppress(FileExistsError):  # where another process was faster
            link.symlink_to(package, target_is_directory=True)
    return place


def named(document: Mapping[str, Any]) -> tuple[str, str] | None:
    """Lock file and digest that a spec's document names; None where its steps run in the deployment's environment."""
    runtime = document.get("runtime") or {}
    file, digest = runtime.get("environment"), runtime.get("environment_sha256")
    return (file, digest) if file and digest else None
