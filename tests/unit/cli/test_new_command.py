"""How ``ratchet new`` asks for what no flag says; what it makes of the answers is proved with the scaffold."""

from __future__ import annotations

import shutil
from datetime import datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pa_csv
import pytest
from typer.testing import CliRunner

from ratchet.adapters.specs import load_spec
from ratchet.bootstrap import Ratchet
from ratchet.cli import app, new
from ratchet.errors import Refused
from ratchet.settings import load_settings

ROOT = Path(__file__).resolve().parents[3]
FLAGS = {
    "--key": "visit",
    "--decided-at": "at",
    "--label": "paid",
    "--label-delay": "1d",
    "--goal": "greet who pays",
    "--team": "shop",
    "--email": "shop@example.com",
    "--unit": "EUR",
    "--tp": "5",
    "--fp": "-1",
}
"""All but the file, in the order of the questions."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("models", "feature_repo"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "include" / name, tmp_path / name, ignore=ignored)
    settings = load_settings(
        {
            "RATCHET_HOME": str(tmp_path),
            "RATCHET_MODELS_DIR": str(tmp_path / "models"),
            "RATCHET_FEATURE_REPO_DIR": str(tmp_path / "feature_repo"),
        }
    )
    monkeypatch.setattr(new, "wire", lambda: Ratchet(resolver=None, settings=settings))  # type: ignore[arg-type]
    first = datetime(2013, 1, 1, 9)  # noqa: DTZ001 - a file's moments name no zone
    table = {
        "visit": list(range(80)),
        "at": [first + timedelta(days=i) for i in range(80)],
        "paid": [i % 3 == 0 for i in range(80)],
        "minutes": list(range(80)),
    }
    pa_csv.write_csv(pa.table(table), tmp_path / "visits.csv")
    return tmp_path


def run(*words: str, answers: str = "") -> str:
    done = CliRunner().invoke(app, ["new", "visits", *words], input=answers, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def flags(**changes: str) -> list[str]:
    return [word for pair in (FLAGS | changes).items() for word in pair]


def test_flags_alone_make_the_folder_and_say_what_comes_next(folder: Path) -> None:
    said = run("--from", str(folder / "visits.csv"), *flags())
    for expected in (
        "from 80 rows over 80 days",
        "features, each taken as known at at: minutes",
        "ratchet validate visits",
        "ratchet publish data visits --complete-until 2013-03-22T00:00:00 --new-rows 80",
        "ratchet champion init visits",
    ):
        assert expected in said
    assert load_spec(folder / "models" / "visits").business.payoff.tp == 5.0


def test_what_no_flag_says_is_asked_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(new, "_somebody_answers", lambda: True)
    answers = "\n".join([str(folder / "visits.csv"), *FLAGS.values()])
    said = run(answers=f"{answers}\n")
    assert "column with the moment of the decision" in said
    asked = load_spec(folder / "models" / "visits")
    shutil.rmtree(folder / "models" / "visits")
    for name in ("visits", "visits_features"):
        (folder / "data" / f"{name}.parquet").unlink()
    run("--from", str(folder / "visits.csv"), *flags())
    assert load_spec(folder / "models" / "visits").digest == asked.digest


def test_where_nobody_answers_everything_missing_is_named_at_once(folder: Path) -> None:
    with pytest.raises(Refused) as refused:
        run("--key", "visit")
    said = str(refused.value)
    assert [option for option in ("--from", *FLAGS) if option not in said] == ["--key"]
    assert not (folder / "models" / "visits").exists()


def test_a_number_to_predict_is_asked_for_its_own_costs(folder: Path) -> None:
    with pytest.raises(Refused) as refused:
        run("--target", "minutes")
    assert "--under" in str(refused.value)
    assert "--tp" not in str(refused.value)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--label", "paid", "--target", "minutes"), "--label and --target are two kinds of model"),
        (("--from", "nowhere.csv", *flags()), "nowhere.csv is no file"),
    ],
)
def test_words_that_will_not_do_are_refused(folder: Path, words: tuple[str, ...], said: str) -> None:
    with pytest.raises(Refused, match=said):
        run(*words)


def test_an_answer_that_is_no_number_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(new, "_somebody_answers", lambda: True)
    words = [word for word in flags() if word not in {"--fp", "-1"}]
    with pytest.raises(Refused, match="--fp must be a number, but got 'much'"):
        run("--from", str(folder / "visits.csv"), *words, answers="much\n")
