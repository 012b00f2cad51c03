"""Where versions of models live and which of them an alias names, and a fake of it for tests.

The ledger decides who is champion; a registry's alias follows it.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from ratchet.errors import Refused


class Registry(Protocol):
    """Numbered, immutable versions of named models. Versions count from 1 within a model."""

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
        """Keep a copy of the artifact as a new version; the same attempt asked again gets the version it has.

        Raises:
            Refused: the folder holds no artifact.
            Unavailable: the registry did not answer; repeating may help, and registers nothing twice.

        """
        ...

    def attach(self, model: str, version: int, name: str, content: bytes) -> None:
        """Keep a file beside the version, for people who look there. Refused for an unknown version."""
        ...

    def set_alias(self, model: str, alias: str, version: int) -> None:
        """Let the alias name this version, whatever it named before. Refused for an unknown version."""
        ...

    def alias_version(self, model: str, alias: str) -> int | None:
        """The version the alias names; None where model or alias is unknown."""
        ...

    def aliased(self, alias: str) -> dict[str, int]:
        """The version the alias names, of every model that has it: one question for any number of models."""
        ...

    def download(self, model: str, version: int, *, fresh: bool = False) -> Path:
        """A local folder with the version's artifact, to be read only. Refused for an unknown version.

        A version is immutable, so it is fetched once; ``fresh`` fetches it again, over what was there.
        """
        ...

    def models(self) -> list[str]:
        """The models of which there is a version, by name."""
        ...

    def versions(self, model: str) -> dict[int, str]:
        """The model's versions, ascending, and the attempt that each was registered for (empty: of no attempt)."""
        ...

    def remove(self, model: str, version: int) -> int:
        """Remove the version and its files for good; returns the bytes freed, 0 where there is no such version.

        Its number is not given again. After a removal that was killed another completes it.

        Raises:
            Refused: an alias names the version.
            Unavailable: the registry did not answer; repeating may help.

        """
        ...


class InMemoryRegistry:
    """A registry in a folder, by the rules of ``Registry``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._versions: dict[str, list[str]] = {}
        self._aliases: dict[tuple[str, str], int] = {}
        self._removed: set[tuple[str, int]] = set()

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
        """See ``Registry.register``."""
        del metrics, params, tags
        versions = self._versions.setdefault(model, [])
        if attempt_id not in versions:
            if not (artifact_dir / "ratchet.json").is_file():
                raise Refused(
                    f"{artifact_dir} must hold an artifact, but has no ratchet.json. Save the artifact first."
                )
            shutil.copytree(artifact_dir, self._folder / model / str(len(versions) + 1))
            versions.append(attempt_id)
        return versions.index(attempt_id) + 1

    def attach(self, model: str, version: int, name: str, content: bytes) -> None:
        """See ``Registry.attach``."""
        self._known(model, version)
        (self._folder / f"{model}-{version}-{name}").write_bytes(content)

    def set_alias(self, model: str, alias: str, version: int) -> None:
        """See ``Registry.set_alias``."""
        self._known(model, version)
        self._aliases[model, alias] = version

    def alias_version(self, model: str, alias: str) -> int | None:
        """See ``Registry.alias_version``."""
        return self._aliases.get((model, alias))

    def aliased(self, alias: str) -> dict[str, int]:
        """See ``Registry.aliased``."""
        return {model: version for (model, name), version in self._aliases.items() if name == alias}

    def download(self, model: str, version: int, *, fresh: bool = False) -> Path:
        """See ``Registry.download``."""
        del fresh
        self._known(model, version)
        return self._folder / model / str(version)

    def models(self) -> list[str]:
        """See ``Registry.models``."""
        return sorted(model for model in self._versions if self.versions(model))

    def versions(self, model: str) -> dict[int, str]:
        """See ``Registry.versions``."""
        named = enumerate(self._versions.get(model, []), 1)
        return {version: attempt for version, attempt in named if (model, version) not in self._removed}

    def remove(self, model: str, version: int) -> int:
        """See ``Registry.remove``."""
        folder = self._folder / model / str(version)
        if any(self._aliases[model, alias] == version for of, alias in self._aliases if of == model):
            raise Refused(f"an alias names version {version} of {model}. Move the alias first.")
        freed = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        shutil.rmtree(folder, ignore_errors=True)
        self._removed.add((model, version))
        return freed

    def _known(self, model: str, version: int) -> None:
        if version not in self.versions(model):
            raise Refused(f"{model} has no version {version}. Ask the ledger which versions it has.")
