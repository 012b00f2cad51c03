"""A payoff in Python: its file is bound to the spec, and no other is run."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from ratchet.adapters import hooks, specs
from ratchet.domain.spec import ModelSpec
from ratchet.errors import Refused
from ratchet.settings import load_settings

SHIPPED = (load_settings().models_dir / "flight_delay" / "model.yaml").read_text()
VALUE = "import numpy as np\n\ndef value(rows, label, act):\n    return np.where(act, 2.0 * label - 1, 0.0)\n"


def model_with(folder: Path, hook: str = "payoff.py:value", content: str | None = VALUE) -> Path:
    model = folder / "flight_delay"
    model.mkdir(exist_ok=True)
    text = SHIPPED.replace("tp: 180, fp: -60, fn: 0, tn: 0", f"hook: {hook}").replace(
        "threshold: payoff", "threshold: tuned"
    )
    (model / "model.yaml").write_text(text)
    if content is not None:
        (model / "payoff.py").write_text(content)
    return model


def test_the_specs_digest_covers_the_hooks_file(tmp_path: Path) -> None:
    model = model_with(tmp_path)
    first = specs.load_spec(model)
    assert first.business.payoff.sha256 == hashlib.sha256(VALUE.encode()).hexdigest()
    (model / "payoff.py").write_text(VALUE + "# another rate\n")
    assert specs.load_spec(model).digest != first.digest


def test_a_hook_is_run_only_from_the_file_it_was_bound_to(tmp_path: Path) -> None:
    model = model_with(tmp_path)
    spec = ModelSpec.model_validate(specs.load_spec(model).model_dump(mode="json"))
    hook = hooks.load(spec, model)
    assert hook is not None
    assert hook(None, 1, True).tolist() == 1.0
    (model / "payoff.py").write_text("raise SystemExit('run')\n" + VALUE)
    with pytest.raises(Refused, match=r"payoff\.py:value: the attempt is bound to sha256 .* deploy the spec and start"):
        hooks.load(spec, model)


def test_reading_a_spec_does_not_run_its_hook(tmp_path: Path) -> None:
    model = model_with(tmp_path, content="raise SystemExit('run')\n" + VALUE)
    assert specs.load_spec(model).business.payoff.sha256 is not None


@pytest.mark.parametrize(
    ("hook", "content", "said"),
    [
        ("payoff.py:value", None, "payoff.py cannot be read beside the spec"),
        ("payoff.py:worth", VALUE, "payoff.py must define the function 'worth', but defines ['value']"),
        ("payoff.py:value", "def value(:\n", "payoff.py is not Python"),
        ("payoff.py:value", "value = 3\n", "must define the function 'value'"),
        ("payoff.py:value", "#" * 70_000, "at most 64,000 bytes"),
    ],
)
def test_a_broken_hook_is_told_with_file_and_line(tmp_path: Path, hook: str, content: str | None, said: str) -> None:
    model = model_with(tmp_path, hook, content)
    with pytest.raises(specs.SpecRefused) as caught:
        specs.load_spec(model)
    (problem,) = caught.value.problems
    line = next(n for n, text in enumerate((model / "model.yaml").read_text().splitlines(), 1) if "hook:" in text)
    assert f"model.yaml:{line}: business.payoff.hook: {hook}: " in problem
    assert said in problem


def test_another_digest_than_the_spec_names_is_refused(tmp_path: Path) -> None:
    model = model_with(tmp_path, f"payoff.py:value, sha256: {'0a' * 32}")
    with pytest.raises(specs.SpecRefused, match="must have sha256 0a0a"):
        specs.load_spec(model)


def test_a_hook_that_fails_when_it_is_imported_is_refused_by_name(tmp_path: Path) -> None:
    model = model_with(tmp_path, content="import no_such_module\n" + VALUE)
    with pytest.raises(Refused, match=r"payoff\.py:value: cannot be imported: ModuleNotFoundError"):
        hooks.load(specs.load_spec(model), model)
    model_with(tmp_path, content=VALUE + "value = 3\n")
    with pytest.raises(Refused, match="'value' must be a function, but is int"):
        hooks.load(specs.load_spec(model), model)


def test_a_spec_without_a_hook_has_nothing_to_load(tmp_path: Path) -> None:
    shipped = load_settings().models_dir / "flight_delay"
    spec = specs.load_spec(shipped)
    assert hooks.bind(spec, tmp_path) is spec
    assert hooks.load(spec, tmp_path) is None
