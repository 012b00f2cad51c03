"""How ``ratchet new`` asks for what no flag says; what it makes of the answers is proved with the scaffold."""

from __future__ import annotations

import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pa_csv
import pytest
from typer.testing import CliRunner

from ratchet.adapters import examples
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


ANSWERS = (
    "visit",
    "at",
    "UTC",
    "label",
    "paid",
    "1d",
    "none",
    "5",
    "-1",
    "EUR",
    "greet who pays",
    "shop",
    "shop@example.com",
)
"""What a person says after the file, in the order of the questions."""


def answered(folder: Path, monkeypatch: pytest.MonkeyPatch, *answers: str, words: tuple[str, ...] = ()) -> str:
    monkeypatch.setattr(new, "_somebody_answers", lambda: True)
    return run(*words, answers="".join(f"{answer}\n" for answer in answers))


def test_what_no_flag_says_is_asked_for_and_makes_the_same_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = answered(folder, monkeypatch, str(folder / "visits.csv"), *ANSWERS)
    assert "its columns are: visit, at, paid, minutes" in said
    assert "it would learn from: minutes" in said
    asked = load_spec(folder / "models" / "visits")
    (remove,) = [line for line in said.splitlines() if line.startswith("rm -r ")]
    subprocess.run(remove, shell=True, check=True)
    run("--from", str(folder / "visits.csv"), *flags())
    assert load_spec(folder / "models" / "visits").digest == asked.digest


def test_an_answer_that_will_not_do_is_asked_for_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, decided_at, zone, kind, label, delay, out, tp, *rest = ANSWERS
    answers = (
        "visits",
        "visit",
        "ate",
        decided_at,
        "Berlin",
        zone,
        "labels",
        kind,
        label,
        "soon",
        delay,
        out,
        "much",
        tp,
    )
    said = answered(folder, monkeypatch, "nowhere.csv", str(folder / "visits.csv"), *answers, *rest)
    for refused in (
        "nowhere.csv is no file",
        "'visits' is none of them. Did you mean 'visit'?",
        "'ate' is none of them. Did you mean 'at'?",
        "must be a time zone of the IANA database like America/New_York, but got 'Berlin'",
        "'labels' is none of them. Did you mean 'label'?",
        "a duration is written like 30s, 6h, 2d or 1d12h, but got 'soon'",
        "must be a number, but got 'much'",
    ):
        assert refused in said
    assert load_spec(folder / "models" / "visits").business.payoff.tp == 5.0


def test_a_number_several_keys_and_what_is_left_out_can_be_answered_too(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = pa_csv.read_csv(folder / "visits.csv").append_column("shop", pa.array(["a"] * 80))
    pa_csv.write_csv(table.append_column("guests", pa.array(range(80))), folder / "visits.csv")
    answers = (
        "visit, shop",
        "at",
        "Europe/Berlin",
        "number",
        "minutes",
        "1d",
        "paid",
        "-3",
        "-1",
        "EUR",
        "x",
        "y",
        "z@a",
    )
    said = answered(folder, monkeypatch, str(folder / "visits.csv"), *answers)
    assert "it would learn from: paid, guests" in said
    spec = load_spec(folder / "models" / "visits")
    assert (spec.business.regression, spec.business.payoff.under, spec.business.payoff.over) == (True, -3.0, -1.0)
    assert (spec.data.spine.entity, spec.data.spine.timezone) == (("visit", "shop"), "Europe/Berlin")
    assert "features, each taken as known at at: guests" in said


def test_only_what_flags_leave_open_is_asked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [word for word in flags() if word not in {"--goal", "greet who pays"}]
    words += ["--from", str(folder / "visits.csv"), "--timezone", "UTC", "--leave-out", "minutes"]
    pa_csv.write_csv(
        pa_csv.read_csv(folder / "visits.csv").append_column("guests", pa.array(range(80))), folder / "visits.csv"
    )
    said = answered(folder, monkeypatch, "greet who pays", words=tuple(words))
    assert "whose days count" not in said
    assert "it would learn from" not in said
    assert load_spec(folder / "models" / "visits").business.goal == "greet who pays"


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


def test_an_example_is_taken_by_its_name_alone_and_its_next_steps_are_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {}

    def take(name: str, **places: Path) -> examples.Taken:
        asked.update(places, name=name)
        return examples.Taken(folder / "model.yaml", "slots", 19_486, datetime(2014, 1, 1, 5, tzinfo=UTC))

    monkeypatch.setattr(examples, "take", take)
    told = CliRunner().invoke(app, ["new", "ground_crews", "--example"], catch_exceptions=False).output
    assert asked == {
        "name": "ground_crews",
        "examples_dir": ROOT / "include" / "examples",
        "models_dir": folder / "models",
        "repo_dir": folder / "feature_repo",
        "data_dir": folder / "data",
    }
    assert "ratchet publish data slots --complete-until 2014-01-01T05:00:00 --new-rows 19486" in told
    assert "ratchet champion init ground_crews" in told
