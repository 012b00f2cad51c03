"""Model specs as files: one folder per model, each problem told with file, line, rule, value and remedy.

Light by design (pydantic and ruamel.yaml): every parse of the DAG files reads the specs through it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from ratchet.domain.spec import ModelSpec, Problem, did_you_mean, explain
from ratchet.errors import Refused

SPEC_FILE = "model.yaml"
MAX_SPEC_BYTES = 256_000
MAX_SPEC_DEPTH = 24


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


def validate_all(models_dir: Path | str) -> list[str]:
    """Every problem of every spec, one line each; empty when all hold.

    Where ``feature_repo/datasets.yaml`` stands beside the models folder, dataset names are checked against it.
    """
    folder = Path(models_dir)
    datasets = _known_datasets(folder.parent / "feature_repo" / "datasets.yaml")
    problems: list[str] = []
    for file in spec_files(folder):
        try:
            spec = load_spec(file)
        except SpecRefused as refused:
            problems.extend(refused.problems)
            continue
        if datasets is not None:
            problems.extend(_unknown_datasets(spec, file, datasets))
    return problems


def _unknown_datasets(spec: ModelSpec, file: Path, known: tuple[str, ...]) -> list[str]:
    tree = _read(file, spec.model)
    named: list[tuple[tuple[str | int, ...], str]] = [(("data", "spine", "source"), spec.data.spine.source)]
    if spec.retrain.on.data is not None:
        path = ("retrain", "on", "data", "datasets")
        named += [((*path, index), name) for index, name in enumerate(spec.retrain.on.data.datasets)]
    return [
        _told(
            file,
            _line(tree, path),
            Problem(path, f"{name!r} is not a dataset of feature_repo/datasets.yaml.{did_you_mean(name, known)}"),
            spec.model,
        )
        for path, name in named
        if name not in known
    ]


def _known_datasets(file: Path) -> tuple[str, ...] | None:
    """The dataset names of the feature repository, or None where it has no list."""
    if not file.is_file():
        return None
    content = YAML(typ="safe", pure=True).load(file)
    listed = content.get("datasets", content) if isinstance(content, dict) else content
    if isinstance(listed, dict):
        return tuple(str(name) for name in listed)
    return tuple(str(entry["name"]) for entry in listed or () if isinstance(entry, dict) and "name" in entry)


def _read(file: Path, model: str) -> CommentedMap:
    try:
        size = file.stat().st_size
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise _refused(file, 1, f"not found; a model is a folder with a {SPEC_FILE}", model) from None
    except (OSError, UnicodeDecodeError) as error:
        raise _refused(file, 1, f"cannot be read as UTF-8 text: {error}", model) from None
    if size > MAX_SPEC_BYTES:
        raise _refused(file, 1, f"a spec has at most {MAX_SPEC_BYTES:,} bytes, but got {size:,}", model)
    try:
        tree = YAML(typ="rt", pure=True).load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = (error.problem or error.context or "not YAML").splitlines()[0]
        raise _refused(file, mark.line + 1 if mark else 1, f"not valid YAML: {said}", model) from None
    except (YAMLError, RecursionError, ValueError) as error:
        raise _refused(file, 1, f"not valid YAML: {str(error).splitlines()[0]}", model) from None
    if not isinstance(tree, CommentedMap):
        raise _refused(file, 1, "a spec is a mapping that starts with 'model: <name>'", model)
    return tree


def _refused(file: Path, line: int, message: str, model: str) -> SpecRefused:
    return SpecRefused((f"{_shown(file)}:{line}: {message}. Run: ratchet validate {model}",))


def _told(file: Path, line: int, problem: Problem, model: str) -> str:
    said = str(problem)
    return f"{_shown(file)}:{line}: {said}{'' if said.endswith(('.', '?')) else '.'} Run: ratchet validate {model}"


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


def _line(tree: Any, path: tuple[str | int, ...]) -> int:
    """The 1-based line of the deepest part of ``path`` that the file holds; 1 when it holds none."""
    line, node = 1, tree
    for part in path:
        if isinstance(node, CommentedMap) and part in node:
            line = node.lc.key(part)[0] + 1
        elif isinstance(node, CommentedSeq) and isinstance(part, int) and part < len(node):
            line = node.lc.item(part)[0] + 1
        else:
            break
        node = node[part]
    return line
