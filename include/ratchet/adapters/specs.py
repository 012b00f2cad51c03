"""Model specs as files: one folder per model, each problem told with file, line, rule, value and remedy.

Light by design (pydantic and libyaml): every parse of the DAG files reads the specs through it. ruamel.yaml, which
knows lines and columns, is imported and asked only where something is wrong or out of the ordinary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from ratchet.adapters import environments, hooks
from ratchet.adapters.catalogue import DATASETS_FILE, dataset_files, wrong_with
from ratchet.adapters.feature_engine import CONFIG_FILE, engine_refused
from ratchet.adapters.ordinary_yaml import read_ordinary
from ratchet.domain.sensitive import TaggedColumn, rule_columns
from ratchet.domain.spec import ModelSpec, Problem, did_you_mean, explain
from ratchet.errors import Refused

if TYPE_CHECKING:
    from ruamel.yaml.comments import CommentedMap

SPEC_FILE = "model.yaml"
FEATURE_REPO = "feature_repo"
MAX_SPEC_BYTES = 256_000
MAX_SPEC_DEPTH = 24
BOUND = {hooks.bind: ("business", "payoff", "hook"), environments.bind: ("runtime", "environment")}
"""What binds the spec to another file of its folder, and the key that names the file."""


class SpecRefused(Refused):
    """A spec breaks a rule. ``problems`` holds one complete line for each, in the order of the file."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def load_spec(path: Path | str) -> ModelSpec:
    """Read one ``model.yaml`` (or the folder that holds it). Raises :class:`SpecRefused` naming every problem."""
    file = Path(path)
    if file.is_dir():
        file /= SPEC_FILE
    model = file.parent.name
    return _ordinary_spec(file, model) or _careful_spec(file, model)


def _ordinary_spec(file: Path, model: str) -> ModelSpec | None:
    """The spec, where its YAML is ordinary and breaks no rule."""
    document = read_ordinary(_text(file, model))
    if document is None or document.get("model") != model:
        return None
    try:
        return environments.bind(hooks.bind(ModelSpec.model_validate(document), file.parent), file.parent)
    except (ValidationError, Refused):
        return None


def _careful_spec(file: Path, model: str) -> ModelSpec:
    """The spec, read by what can tell the line of each problem."""
    tree = _read(file, model)
    try:
        spec = ModelSpec.model_validate(_plain(tree, file, model))
    except ValidationError as error:
        problems = sorted(
            ((_line(tree, problem.path), problem) for problem in explain(error)), key=lambda pair: pair[0]
        )
        raise SpecRefused(tuple(_told(file, line, problem, model) for line, problem in problems)) from None
    if spec.model != model:
        problem = Problem(("model",), f"{spec.model!r} must equal the name of its folder, {model!r}")
        raise SpecRefused((_told(file, _line(tree, ("model",)), problem, model),))
    wrong: list[tuple[int, str]] = []
    for bind, path in BOUND.items():
        try:
            spec = bind(spec, file.parent)
        except Refused as refused:
            line = _line(tree, path)
            wrong.append((line, _told(file, line, Problem(path, str(refused)), model)))
    if wrong:
        raise SpecRefused(tuple(said for _, said in sorted(wrong)))
    return spec


def load_all(models_dir: Path | str) -> dict[str, ModelSpec]:
    """Every model of a folder, by name, sorted. Raises :class:`SpecRefused` with the problems of all of them."""
    specs: dict[str, ModelSpec] = {}
    problems: list[str] = []
    for file in spec_files(models_dir):
        try:
            specs[file.parent.name] = load_spec(file)
        except SpecRefused as refused:
            problems.extend(refused.problems)
    if problems:
        raise SpecRefused(tuple(problems))
    return specs


def spec_files(models_dir: Path | str) -> list[Path]:
    """The ``model.yaml`` of each model folder, sorted by name; a folder without one is no model."""
    return sorted(Path(models_dir).glob(f"[!._]*/{SPEC_FILE}"))


def digest(spec: ModelSpec) -> str:
    """SHA-256 of the spec's meaning: layout and comments do not change it."""
    return spec.digest


@dataclass(frozen=True)
class _Dataset:
    """The columns of a dataset that a spine made of it carries: known at the decision, and with the label only."""

    known: frozenset[str]
    outcomes: frozenset[str]


FeatureNames = Callable[[ModelSpec], Iterable[str]]
Tagged = Callable[[ModelSpec], Sequence[TaggedColumn]]


def validate_all(
    models_dir: Path | str,
    feature_names: FeatureNames | None = None,
    tagged: Tagged | None = None,
    *,
    repo_dir: Path | None = None,
) -> list[str]:
    """Every problem of every spec, one line each; empty when all hold.

    Where the feature repository (``repo_dir``, left out: ``feature_repo`` beside the models folder) has a
    ``datasets.yaml``, the names of datasets, keys, slices and groups are checked against it and against those that the
    models' own folders list; so is the engine that its ``feature_store.yaml`` names. Whether the feature service
    exists is the feature store's to say, not checked here; it is asked, through ``feature_names``, only when a payoff
    reads a column that the spine does not carry. Left out, such columns are taken for features. Through ``tagged`` it
    is asked which columns are sensitive; left out, what the specs allow is not checked.
    """
    folder = Path(models_dir)
    repo = folder.parent / FEATURE_REPO if repo_dir is None else repo_dir
    problems: list[str] = []
    datasets: dict[str, _Dataset] | None = None
    shared, *own = dataset_files(repo, folder)
    if shared.is_file():
        try:
            datasets = _read_datasets([shared, *own])
        except SpecRefused as refused:
            problems.extend(refused.problems)
    problems.extend(_refused_engine(repo / CONFIG_FILE))
    for file in spec_files(folder):
        try:
            spec = load_spec(file)
            if datasets is not None:
                named = [*_unknown_names(spec, datasets), *_unknown_columns(spec, datasets, feature_names)]
                if tagged is not None and spec.data.spine.source in datasets:
                    named += [problem for problem in _sensitive_columns(spec, tagged) if problem not in named]
                problems.extend(_told_in_order(file, named, spec.model))
        except SpecRefused as refused:
            problems.extend(refused.problems)
    return problems


def told(models_dir: Path | str, spec: ModelSpec, problems: Sequence[Problem]) -> list[str]:
    """Problems that were found with a spec's data, each as a line that says at which key of its file."""
    return _told_in_order(Path(models_dir) / spec.model / SPEC_FILE, problems, spec.model)


def _told_in_order(file: Path, problems: Sequence[Problem], model: str) -> list[str]:
    """The problems of a spec that could be read, each at its line."""
    if not problems:
        return []
    tree = _read(file, model)
    found = sorted(problems, key=lambda problem: _line(tree, problem.path))
    return [_told(file, _line(tree, problem.path), problem, model) for problem in found]


def _unknown_names(spec: ModelSpec, datasets: Mapping[str, _Dataset]) -> Iterator[Problem]:
    """Names in the spec that the feature repository does not have: datasets, then columns of the spine's source."""
    spine = spec.data.spine
    named: list[tuple[tuple[str | int, ...], str]] = [(("data", "spine", "source"), spine.source)]
    if spec.retrain.on.data is not None:
        at = ("retrain", "on", "data", "datasets")
        named += [((*at, index), name) for index, name in enumerate(spec.retrain.on.data.datasets)]
    for path, name in named:
        if name not in datasets:
            meant = did_you_mean(name, tuple(datasets))
            yield Problem(path, f"{name!r} is not a dataset of any {DATASETS_FILE}.{meant}")
    columns = tuple(datasets[spine.source].known) if spine.source in datasets else ()
    keys: list[tuple[tuple[str | int, ...], str]] = [
        (("data", "spine", "entity", index), name) for index, name in enumerate(spine.entity)
    ]
    keys += [
        (("gate", "guardrails", index, "by" if guardrail.slice is None else "slice"), guardrail.column)
        for index, guardrail in enumerate(spec.gate.guardrails)
        if guardrail.column is not None
    ]
    for path, name in keys if columns else ():
        if name not in columns:
            yield Problem(
                path,
                f"{name!r} is neither a key nor a join key of dataset {spine.source!r} in {DATASETS_FILE}."
                f"{did_you_mean(name, columns)}",
            )


def _unknown_columns(
    spec: ModelSpec, datasets: Mapping[str, _Dataset], feature_names: FeatureNames | None
) -> Iterator[Problem]:
    """Columns of the payoff that the snapshot will not have, and outcomes that a decision would read."""
    source = datasets.get(spec.data.spine.source)
    if source is None:
        return
    carried = source.known | source.outcomes
    features: frozenset[str] | None = None
    for place, name in spec.business.payoff.named:
        path = ("business", "payoff", *place)
        if name in source.outcomes and name in spec.business.decided_by_columns:
            yield Problem(
                path,
                f"{name!r} is known only after the outcome ({DATASETS_FILE}), so that no decision can be taken by "
                "it. Let business.decision.threshold be tuned or a number",
            )
        elif name not in carried and feature_names is not None:
            if features is None:
                try:
                    features = frozenset(feature_names(spec))
                except Refused as refused:
                    yield Problem(("data", "features"), str(refused))
                    return
            if name not in features:
                yield Problem(
                    path,
                    f"{name!r} is neither a column of the spine nor a feature of {spec.data.features!r}."
                    f"{did_you_mean(name, carried | features)}",
                )


def _sensitive_columns(spec: ModelSpec, tagged: Tagged) -> Sequence[Problem]:
    """Sensitive columns that the spec does not allow, and entries that allow nothing."""
    try:
        return rule_columns(spec, tagged(spec)).problems
    except Refused as refused:
        return (Problem(("data", "features"), str(refused)),)


def _read_datasets(files: Sequence[Path]) -> dict[str, _Dataset]:
    """The datasets of these files by name, each with the columns that a spine made of it carries.

    Raises:
        SpecRefused: with every problem of every file. Until they are mended no name can be checked.
    """
    found: dict[str, _Dataset] = {}
    listed_in: dict[str, Path] = {}
    problems: list[str] = []
    for file in files:
        model = "" if file is files[0] else file.parent.name
        try:
            tree = _read(file, model)
            if not isinstance(datasets := tree.get("datasets"), dict):
                raise _refused(file, 1, "must hold a mapping 'datasets' of name to location, keys and columns", model)
        except SpecRefused as refused:
            problems.extend(refused.problems)
            continue
        for name, entry in datasets.items():
            wrong = list(wrong_with(entry))
            if name in listed_in:
                wrong.append(((), f" is listed in {_shown(listed_in[name])} too: rename one of them"))
            for path, said in wrong:
                at = ("datasets", str(name), *path)
                problems.extend(_refused(file, _line(tree, at), f"{'.'.join(at)}{said}", model).problems)
            listed_in[name] = file
            if not wrong:
                keys = [*entry["keys"], *(entry.get("join_keys") or ())]
                found[name] = _Dataset(frozenset(keys), frozenset(entry.get("outcomes") or ()))
    if problems:
        raise SpecRefused(tuple(problems))
    return found


def _refused_engine(file: Path) -> Iterator[str]:
    """Why the feature repository's engine may make no snapshot, where it is read from ``file``."""
    if not file.is_file():
        return
    try:
        tree = _read(file, "")
    except SpecRefused as refused:
        yield from refused.problems
        return
    if said := engine_refused(tree):
        at = ("offline_store", "type")
        yield f"{_shown(file)}:{_line(tree, at)}: {said} {_remedy('')}"


def _text(file: Path, model: str) -> str:
    try:
        size = file.stat().st_size
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise _refused(file, 1, f"not found; a model is a folder with a {SPEC_FILE}", model) from None
    except (OSError, UnicodeDecodeError) as error:
        raise _refused(file, 1, f"cannot be read as UTF-8 text: {error}", model) from None
    if size > MAX_SPEC_BYTES:
        raise _refused(file, 1, f"a spec has at most {MAX_SPEC_BYTES:,} bytes, but got {size:,}", model)
    return text


def _read(file: Path, model: str) -> CommentedMap:
    from ruamel.yaml import YAML  # noqa: PLC0415 - most specs are read without it
    from ruamel.yaml.comments import CommentedMap  # noqa: PLC0415
    from ruamel.yaml.error import MarkedYAMLError, YAMLError  # noqa: PLC0415

    text = _text(file, model)
    try:
        tree = YAML(typ="rt", pure=True).load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = (error.problem or error.context or "not YAML").splitlines()[0]
        raise _refused(file, mark.line + 1 if mark else 1, f"not valid YAML: {said}", model) from None
    except NotImplementedError as error:
        said = str(error).splitlines()[0]
        raise _refused(file, 1, f"a comment stands where ruamel.yaml cannot keep it ({said}): move it", model) from None
    except (YAMLError, RecursionError, ValueError) as error:
        raise _refused(file, 1, f"not valid YAML: {str(error).splitlines()[0]}", model) from None
    if not isinstance(tree, CommentedMap):
        raise _refused(file, 1, "a spec is a mapping that starts with 'model: <name>'", model)
    return tree


def _refused(file: Path, line: int, message: str, model: str) -> SpecRefused:
    return SpecRefused((f"{_shown(file)}:{line}: {message}. {_remedy(model)}",))


def _told(file: Path, line: int, problem: Problem, model: str) -> str:
    said = str(problem)
    return f"{_shown(file)}:{line}: {said}{'' if said.endswith(('.', '?')) else '.'} {_remedy(model)}"


def _remedy(model: str) -> str:
    return f"Run: ratchet validate {model}".rstrip()


def _shown(file: Path) -> str:
    """The path from the working directory, as an editor or a terminal opens it."""
    try:
        return str(file.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(file)


def _plain(node: Any, file: Path, model: str, depth: int = 0) -> Any:
    """Round-trip nodes as plain values: a frozen spec must not keep the file's mutable tree."""
    if depth > MAX_SPEC_DEPTH:
        raise _refused(file, 1, f"a spec nests at most {MAX_SPEC_DEPTH} deep", model)
    if isinstance(node, dict):
        return {str(key): _plain(value, file, model, depth + 1) for key, value in node.items()}
    if isinstance(node, list):
        return [_plain(value, file, model, depth + 1) for value in node]
    for kind in (bool, int, float, str):
        if isinstance(node, kind):
            return kind(node)
    return node


def _line(tree: CommentedMap, path: tuple[str | int, ...]) -> int:
    """The 1-based line of the deepest part of ``path`` that the file holds; 1 when it holds none."""
    line, node = 1, tree
    for part in path:
        if isinstance(node, dict) and part in node:
            line = node.lc.key(part)[0] + 1
        elif isinstance(node, list) and isinstance(part, int) and part < len(node):
            line = node.lc.item(part)[0] + 1
        else:
            break
        node = node[part]
    return line
