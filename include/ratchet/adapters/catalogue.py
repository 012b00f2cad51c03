"""The datasets that specs and feature views may name: those of the feature repository, and of each model's own folder.

``datasets.yaml`` of the feature repository lists what models share; a model's folder may hold one of the same form for
what it brings along, so that a model arrives and leaves as one folder. A name is listed once in all of them: whoever
asks for one that is listed twice, or wrongly, is refused, and what is wrong in one folder stops no other model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ratchet.adapters.ordinary_yaml import read_ordinary
from ratchet.domain.sensitive import declared
from ratchet.errors import Refused

DATASETS_FILE = "datasets.yaml"
FEATURE_TYPES = ("float64", "int64", "string")
_NEEDED = ("location", "keys", "event", "created")
_OF_FEATURES = ("service", "features")
_KNOWN = (*_NEEDED, *_OF_FEATURES, "join_keys", "outcomes", "sensitive")
_LISTS = ("keys", "join_keys", "outcomes")


@dataclass(frozen=True)
class Dataset:
    """One entry: a Parquet file whose rows say when they happened and when they were known.

    ``features`` are those it offers by itself, by type, through the feature service ``service``; ``where`` is the file
    that lists it, as people are told it; ``timezone`` is the one whose days are counted.
    """

    name: str
    path: Path
    keys: tuple[str, ...]
    event: str
    created: str
    join_keys: tuple[str, ...]
    outcomes: tuple[str, ...]
    sensitive: Mapping[str, str]
    features: Mapping[str, str]
    service: str | None
    where: str
    timezone: str


class Catalogue:
    """Every dataset by its name.

    Raises:
        Refused: the feature repository's own file cannot be read.
    """

    def __init__(self, repo_dir: Path, models_dir: Path | None, data_dir: Path) -> None:
        self._found: dict[str, Dataset] = {}
        self._refused: dict[str, str] = {}
        self._unread: list[str] = []
        timezone = "UTC"
        for file in dataset_files(repo_dir, models_dir):
            shared = file.parent == repo_dir
            try:
                tree = _read(file)
            except Refused as refused:
                if shared:
                    raise
                self._unread.append(str(refused))
                continue
            zone = str(tree.get("timezone", timezone))
            timezone = zone if shared else timezone
            where = file.name if shared else f"{file.parent.name}/{file.name}"
            for name, entry in tree["datasets"].items():
                self._take(name, entry, file, data_dir=data_dir, where=where, timezone=zone)

    def _take(self, name: str, entry: Any, file: Path, **told: Any) -> None:
        if name in self:
            other = self._found.pop(name).where if name in self._found else "another file"
            self._refused[name] = f"{file}: datasets.{name}: is listed in {other} too. Rename one of them."
            return
        if (wrong := next(wrong_with(entry), None)) is not None:
            path, said = wrong
            self._refused[name] = f"{file}: {'.'.join(('datasets', name, *path))}{said}"
            return
        self._found[name] = Dataset(
            name=name,
            path=told["data_dir"] / entry["location"],
            keys=tuple(entry["keys"]),
            event=entry["event"],
            created=entry["created"],
            join_keys=tuple(entry.get("join_keys") or ()),
            outcomes=tuple(entry.get("outcomes") or ()),
            sensitive=declared(entry.get("sensitive")),
            features=dict(entry.get("features") or {}),
            service=entry.get("service"),
            where=told["where"],
            timezone=told["timezone"],
        )

    def __contains__(self, name: str) -> bool:
        return name in self._found or name in self._refused

    def __getitem__(self, name: str) -> Dataset:
        """The dataset; raises :class:`Refused` where there is none of that name, or its entry does not hold."""
        if name in self._refused:
            raise Refused(self._refused[name])
        if name not in self._found:
            unread = "".join(f" {said}" for said in self._unread)
            raise Refused(f"{name!r} is not a dataset; there are: {', '.join(sorted(self._found))}.{unread}")
        return self._found[name]

    def sound(self) -> Iterator[Dataset]:
        """Those whose entries hold, in the order of the files."""
        return iter(self._found.values())

    @property
    def problems(self) -> list[str]:
        """What is wrong with the others, a sentence each."""
        return [*self._unread, *self._refused.values()]


def dataset_files(repo_dir: Path, models_dir: Path | None) -> list[Path]:
    """The feature repository's file, then those of the models' folders, by name."""
    own = [] if models_dir is None else sorted(models_dir.glob(f"[!._]*/{DATASETS_FILE}"))
    return [repo_dir / DATASETS_FILE, *own]


def own_datasets(models_dir: Path) -> dict[str, dict[str, Any]]:
    """What each model's own file holds, by model: its entries, and the time zone of its days where it says one.

    Raises:
        Refused: a file cannot be read.
    """
    _, *own = dataset_files(models_dir, models_dir)
    read = ((file.parent.name, _read(file)) for file in own)
    return {
        model: dict(tree["datasets"]) | ({"timezone": tree["timezone"]} if "timezone" in tree else {})
        for model, tree in read
    }


def wrong_with(entry: Any) -> Iterator[tuple[tuple[str, ...], str]]:
    """What breaks a rule in an entry: where in it, and what follows the name of that place."""
    if not isinstance(entry, Mapping):
        yield (), f" must be a mapping, but got {entry!r}"
        return
    for name in entry:
        if name not in _KNOWN:
            yield (str(name),), f" is no key of a dataset; there are: {', '.join(_KNOWN)}"
    for name in _NEEDED:
        if not entry.get(name):
            yield (), f" must say its {name}"
    for name in _LISTS:
        if not isinstance(entry.get(name) or [], list):
            yield (name,), f" must be a list, but got {entry[name]!r}"
    try:
        declared(entry.get("sensitive"))
    except ValueError as error:
        yield ("sensitive",), str(error).removeprefix("sensitive")
    yield from _wrong_features(entry)


def _wrong_features(entry: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], str]]:
    if ("features" in entry) != ("service" in entry):
        yield (), " must say both its features and the service that offers them, or neither"
    features = entry.get("features", {})
    if not isinstance(features, Mapping) or ("features" in entry and not features):
        yield ("features",), f" must be a mapping of names to types, but got {features!r}"
        return
    for name, kind in features.items():
        if kind not in FEATURE_TYPES:
            yield ("features", str(name)), f" must be one of {', '.join(FEATURE_TYPES)}, but got {kind!r}"


def _read(file: Path) -> dict[str, Any]:
    """The file's mapping; raises :class:`Refused` where it is none of datasets."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(f"{file}: cannot be read as UTF-8 text: {error}") from None
    tree = read_ordinary(text)
    if tree is None:
        from ruamel.yaml import YAML  # noqa: PLC0415 - only for what is out of the ordinary
        from ruamel.yaml.error import YAMLError  # noqa: PLC0415

        try:
            tree = YAML(typ="safe").load(text)
        except YAMLError as error:
            raise Refused(f"{file}: not valid YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(tree, dict) or not isinstance(tree.get("datasets"), dict):
        raise Refused(f"{file}: must hold a mapping 'datasets' of name to location, keys and columns.")
    return tree
