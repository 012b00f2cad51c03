"""Whole attempts of a regression: promoted over a constant, judged against the champion, repeated, told and watched."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from datetime import date, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from judged_attempts import JudgingWorld
from regressed_rows import GUARDRAILS, regression_rows, regression_spec
from test_regression_training import Learning, NanScorer

from ratchet.adapters import models
from ratchet.cli.dossiers import Story, show
from ratchet.domain import selftest
from ratchet.domain.spec import ModelSpec
from ratchet.workflow import dossiers
from ratchet.workflow.artifacts import UnusableArtifact
from ratchet.workflow.attempting import Attempts
from ratchet.workflow.repeating import Repeats
from ratchet.workflow.self_testing import SelfTests
from ratchet.workflow.watching import Watch

ROWS = regression_rows(40, days=140)


class RegressionWorld(JudgingWorld):
    """A world whose model predicts how many minutes late a flight is."""

    def __init__(self, folder: Path, template: Path) -> None:
        super().__init__(folder, template)
        self.features.table = ROWS
        plain = self.spec.model_dump(mode="json")
        given = regression_spec().model_dump(mode="json")
        plain |= {"business": given["business"], "train": given["train"]}
        plain["gate"]["guardrails"] = GUARDRAILS
        plain["probation"] = {"for": "7d"}
        self.spec = ModelSpec.model_validate(plain)
        with self.ledger.transaction() as tx:
            tx.publish_spec(self.model, self.spec.digest, self.spec.model_dump(mode="json"))


@pytest.fixture(scope="module")
def template(tmp_path_factory, migrated):
    """A first champion, and one attempt to replace it."""
    made = RegressionWorld(tmp_path_factory.mktemp("regressing"), migrated)
    made.first = made.run("2013-03-25", first_champion=True)
    made.second = made.run("2013-04-20")
    yield made
    made.ledger.dispose()


@pytest.fixture
def regressing(template):
    return template


def dossier_of(world: Any, attempt: Any) -> dict[str, Any]:
    return dossiers.read(world.store, attempt)


def evidence_of(world: Any, attempt: Any) -> Any:
    named = dossier_of(world, attempt)["evidence"]
    return pq.read_table(io.BytesIO(world.store.get_bytes(named["key"], digest=named["sha256"])))


def test_a_first_champion_is_promoted_over_the_best_constant_prediction(regressing):
    assert (regressing.first.state, regressing.first.verdict) == ("concluded", "promote")
    dossier = dossier_of(regressing, regressing.first)
    table = evidence_of(regressing, regressing.first)
    assert table["champion_prediction"].null_count == table.num_rows
    label, constant = table["label"].to_numpy(), dossier["constant_prediction"]
    error = label - constant
    np.testing.assert_allclose(table["champion_payoff"].to_numpy(), np.where(error > 0, -3 * error, error))
    with regressing.ledger.transaction() as tx:
        assert tx.champions(regressing.model)[0].version == regressing.first.challenger_version


def test_the_next_challenger_is_judged_against_the_sitting_champion(regressing):
    dossier = dossier_of(regressing, regressing.second)
    assert dossier["champion"]["version"] == regressing.first.challenger_version
    assert regressing.second.state == "concluded"
    assert regressing.second.verdict in {"promote", "keep_champion", "not_enough_evidence"}
    table = evidence_of(regressing, regressing.second)
    served = models.load(regressing.registry.download(regressing.model, regressing.first.challenger_version))
    assert table["champion_prediction"].null_count == 0
    holdout = ROWS.filter(pc.is_in(ROWS["flight_id"], value_set=table["flight_id"].combine_chunks()))
    np.testing.assert_array_equal(table["champion_prediction"].to_numpy(), served.decide(holdout)[0])
    judged = {check["metric"]: check for check in dossier["verdict"]["checks"]}
    assert judged["r2"]["champion"] > 0.3
    assert judged["r2"]["required"] == ">= champion - 0.2"


def test_the_first_trial_of_the_next_study_has_the_champions_parameters(regressing):
    first = dossier_of(regressing, regressing.first)["study"]["params"]
    trials = dossier_of(regressing, regressing.second)["study"]["trials"]
    assert trials[0]["params"] == first
    assert set(trials[0]["attributes"]) == {"payoff_per_decision", "shift", "seconds"}


def test_the_dossier_tells_errors_and_neither_a_curve_nor_decisions_to_act(regressing):
    dossier = dossier_of(regressing, regressing.second)
    json.dumps(dossier, allow_nan=False)
    assert dossier["payoff_curve"] is None
    told = dossier["explanation"]
    assert told["calibration"] == {"champion": [], "challenger": []}
    assert {m["name"] for m in told["metrics"]} >= {"payoff", "mean_absolute_error", "predicted_too_low"}
    for side in ("champion", "challenger"):
        assert [level for level, _ in told["residuals"][side]["quantiles"]][4] == 0.5
    assert dossier_of(regressing, regressing.first)["explanation"]["residuals"]["champion"] is None
    assert dossier["spec"]["document"]["business"]["decision"]["act_on"] == "prediction"


@pytest.mark.parametrize("which", ["first", "second"])
def test_a_verdict_is_replayed_and_a_model_reproduced_to_the_bit(regressing, which):
    attempt, repeats = getattr(regressing, which), Repeats(regressing.parts)
    assert repeats.replay(attempt, "ann").differences == ()
    for threads in (1, 3):
        answer = repeats.reproduce(attempt, "ann", threads=threads, from_source=True)
        assert (answer.different, answer.largest, answer.differences) == (0, 0.0, ())
        assert answer.model_digest_equal


def test_a_regression_of_another_seed_is_not_the_recorded_one(regressing, tmp_path):
    copied = regressing.copy(tmp_path)
    dossier = dossier_of(copied, regressing.first)
    dossier["seed"] += 1
    digest = copied.store.put_bytes(dossiers.key_of(regressing.first.id), dossiers.to_json(dossier))
    with copied.ledger.transaction() as tx:
        tx.update_attempt(regressing.first.id, dossier_sha256=digest)
    answer = Repeats(copied.parts).reproduce(copied.attempt(regressing.first.id), "ann")
    assert not answer.same
    assert answer.different > 0
    assert answer.largest > 0
    copied.ledger.dispose()


def test_a_regression_is_refitted_under_its_probation_and_reproduced(regressing, tmp_path):
    copied = regressing.copy(tmp_path)
    plain = copied.spec.model_dump(mode="json")
    # Only a margin this wide promotes for sure: what is tested is the refit, not the verdict.
    plain["gate"] |= {"deploy": "refit", "mode": "non_inferiority", "min_uplift": 1000.0, "guardrails": []}
    copied.spec = ModelSpec.model_validate(plain)
    with copied.ledger.transaction() as tx:
        tx.publish_spec(copied.model, copied.spec.digest, copied.spec.model_dump(mode="json"))
    attempt_id = copied.tuned("2013-05-15")
    copied.attempts.judge(attempt_id)
    attempt = copied.attempt(attempt_id)
    dossier = dossier_of(copied, attempt)
    assert dossier["deployed"]["kind"] == "refit"
    judged, served = (
        models.load(copied.registry.download(copied.model, version))
        for version in (attempt.challenger_version, attempt.deployed_version)
    )
    assert (served.calibrator, served.threshold) == (judged.calibrator, None)
    assert served.provenance["fit_rows"] > judged.provenance["fit_rows"]
    answer = Repeats(copied.parts).reproduce(attempt, "ann")
    assert [each.same for each in answer.each] == [True, True]
    copied.attempts.card(attempt)
    assert "Predictions differ by" in copied.store.get_bytes(f"cards/{attempt.id}.html").decode()
    copied.ledger.dispose()


class Balance(HTMLParser):
    """Every tag that is opened is closed, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag not in {"meta", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_card_shows_errors_in_the_targets_unit_and_no_threshold(regressing):
    for attempt in (regressing.first, regressing.second):
        regressing.attempts.card(attempt)
        page = regressing.store.get_bytes(f"cards/{attempt.id}.html").decode()
        parser = Balance()
        parser.feed(page)
        assert parser.open == []
        assert "<h2>Errors</h2>" in page
        assert "<h2>Errors by prediction</h2>" in page
        for absent in ("Payoff by threshold", "Calibration</h2>", "None"):
            assert absent not in page
        assert "each unit predicted too low: -3.0 EUR; each unit predicted too high: -1.0 EUR" in page
        assert len(re.findall(r"<svg", page)) == 4
    first = regressing.store.get_bytes(f"cards/{regressing.first.id}.html").decode()
    constant = dossier_of(regressing, regressing.first)["constant_prediction"]
    assert f"than the best single prediction for every row, {constant:.4g}" in first


def test_a_version_is_traced(regressing, capsys):
    with regressing.ledger.transaction() as tx:
        audit = tx.audit_log(regressing.model)
    dossier = dossier_of(regressing, regressing.second)
    show(Story(attempt=regressing.second, dossier=dossier, approvals=None, champions=[], audit=audit))
    told = capsys.readouterr().out
    assert f"Verdict: {regressing.second.verdict}" in told
    assert "mean_absolute_error" in told


def test_the_gate_tests_itself_on_a_regressions_days(regressing, monkeypatch):
    whole = selftest.self_test
    monkeypatch.setattr(selftest, "self_test", lambda recent, **rule: whole(recent, **rule | {"copies": 200}))
    found = SelfTests(regressing.ledger, lambda: regressing.store).run(regressing.model, actor="ann")[regressing.model]
    assert found.outcome in {"passed", "not_judged"}
    assert "unreadable" not in " ".join(found.reasons)


def test_a_watch_scores_a_regression_and_its_predecessor_on_new_days(regressing):
    watch = Watch(
        regressing.ledger,
        regressing.relay,
        features=lambda: regressing.features,
        artifacts=lambda: regressing.artifacts,
    )
    champion, predecessor = (
        regressing.artifacts.load(regressing.model, attempt.challenger_version)
        for attempt in (regressing.second, regressing.first)
    )
    due = [date(2013, 4, 25) + timedelta(days=i) for i in range(3)]
    until = regressing.second.as_of + timedelta(days=14)
    days = watch._score(regressing.spec, due, until, champion, predecessor)
    same = watch._score(regressing.spec, due, until, champion, champion)
    assert [day.rows for day in days] == [40, 40, 40]
    assert all(day.total is not None and day.total != 0 for day in days)
    assert [day.total for day in same] == [0.0, 0.0, 0.0]


def test_predictions_that_are_no_numbers_end_the_attempt_with_a_named_verdict(regressing, tmp_path):
    copied = regressing.copy(tmp_path)

    class Adapter:
        save, load = staticmethod(models.save), staticmethod(models.load)

        @staticmethod
        def learner_for(estimator: str) -> Any:
            return Learning(NanScorer)

    attempt_id = copied.tuned("2013-05-15")
    copied.attempts = Attempts(replace(copied.parts, models=Adapter))
    answer = copied.attempts.judge(attempt_id)
    assert answer["verdict"]["decision"] == "keep_champion"
    assert "the challenger's prediction is NaN or infinite on" in " ".join(answer["verdict"]["reasons"])
    attempt = copied.attempt(attempt_id)
    assert (attempt.state, attempt.verdict) == ("concluded", "keep_champion")
    assert Repeats(copied.parts).replay(attempt, "ann").same
    copied.ledger.dispose()


def test_a_tampered_regression_is_not_served(regressing, tmp_path):
    copied = regressing.copy(tmp_path)
    version = regressing.first.challenger_version
    folder = copied.registry.download(copied.model, version)
    card = json.loads((folder / "ratchet.json").read_text())
    card["calibrator"]["offset"] = 1e6
    (folder / "ratchet.json").write_text(json.dumps(card))
    with pytest.raises(UnusableArtifact, match="artifact digest must be"):
        copied.artifacts.load(copied.model, version)
    copied.ledger.dispose()


def test_a_champion_that_takes_other_decisions_is_kept_and_nothing_is_compared(judging):
    given = regression_spec().model_dump(mode="json")
    plain = judging.spec.model_dump(mode="json") | {"business": given["business"], "train": given["train"]}
    plain["gate"]["guardrails"] = GUARDRAILS
    judging.spec = ModelSpec.model_validate(plain)
    judging.features.table = ROWS
    with judging.ledger.transaction() as tx:
        tx.publish_spec(judging.model, judging.spec.digest, judging.spec.model_dump(mode="json"))
    attempt = judging.run("2013-05-15")
    assert attempt.verdict == "keep_champion"
    assert "takes other decisions than the spec speaks of now" in attempt.verdict_record["reasons"][0]
