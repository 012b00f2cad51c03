"""Whole attempts of a ranking: promoted over evenly spread acts, judged, repeated, told, monitored and watched."""

from __future__ import annotations

import io
import json
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from judged_attempts import JudgingWorld
from ranked_rows import CAPACITY, GUARDRAILS, ranking_rows, ranking_spec
from test_regression_attempts import Balance

from ratchet.adapters import models
from ratchet.cli.dossiers import Story, show
from ratchet.domain.spec import ModelSpec
from ratchet.workflow import dossiers, evaluation
from ratchet.workflow.backtesting import World, backtest_year
from ratchet.workflow.monitoring import Monitors, key_of
from ratchet.workflow.repeating import Repeats
from ratchet.workflow.watching import Watch

ROWS = ranking_rows(40, days=140)


def as_ranking(spec: ModelSpec, **gate: Any) -> ModelSpec:
    plain, given = spec.model_dump(mode="json"), ranking_spec().model_dump(mode="json")
    plain |= {"business": given["business"], "train": given["train"], "probation": {"for": "7d"}}
    plain["gate"] |= {"guardrails": GUARDRAILS} | gate
    return ModelSpec.model_validate(plain)


class RankingWorld(JudgingWorld):
    """A world whose model says which flights of a day come first."""

    def __init__(self, folder: Path, template: Path) -> None:
        super().__init__(folder, template)
        self.features.table = ROWS
        self.deploy()

    def deploy(self, **gate: Any) -> None:
        self.spec = as_ranking(self.spec, **gate)
        with self.ledger.transaction() as tx:
            tx.publish_spec(self.model, self.spec.digest, self.spec.model_dump(mode="json"))


@pytest.fixture(autouse=True, scope="module")
def _timed_briefly():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "LATENCY_SAMPLES", 5)
        yield


@pytest.fixture(scope="module")
def ranking(tmp_path_factory, migrated):
    """A first champion, and one attempt to replace it."""
    made = RankingWorld(tmp_path_factory.mktemp("ranking"), migrated)
    made.first = made.run("2013-03-25", first_champion=True)
    made.second = made.run("2013-04-20")
    yield made
    made.ledger.dispose()


def dossier_of(world: Any, attempt: Any) -> dict[str, Any]:
    return dossiers.read(world.store, attempt)


def evidence_of(world: Any, attempt: Any) -> Any:
    named = dossier_of(world, attempt)["evidence"]
    return pq.read_table(io.BytesIO(world.store.get_bytes(named["key"], digest=named["sha256"])))


def test_a_first_champion_is_promoted_over_the_same_number_of_acts_spread_evenly(ranking):
    assert (ranking.first.state, ranking.first.verdict) == ("concluded", "promote")
    table = evidence_of(ranking, ranking.first)
    assert table["champion_score"].null_count == table.num_rows
    for side in ("champion", "challenger"):
        by_day = table.group_by("day").aggregate([(f"{side}_act", "sum")])
        assert set(by_day[f"{side}_act_sum"].to_pylist()) == {CAPACITY}
    with ranking.ledger.transaction() as tx:
        assert tx.champions(ranking.model)[0].version == ranking.first.challenger_version


def test_the_next_challenger_is_judged_against_the_sitting_champion(ranking):
    dossier, table = dossier_of(ranking, ranking.second), evidence_of(ranking, ranking.second)
    assert dossier["champion"]["version"] == ranking.first.challenger_version
    served = models.load(ranking.registry.download(ranking.model, ranking.first.challenger_version))
    holdout = ROWS.filter(pc.is_in(ROWS["flight_id"], value_set=table["flight_id"].combine_chunks()))
    np.testing.assert_array_equal(table["champion_score"].to_numpy(), served.decide(holdout)[0])
    judged = {check["metric"]: check for check in dossier["verdict"]["checks"]}
    assert 0 < judged["ndcg_at_k"]["champion"] < 1
    trials = dossier["study"]["trials"]
    assert trials[0]["params"] == dossier_of(ranking, ranking.first)["study"]["params"]
    assert set(trials[0]["attributes"]) == {"ndcg_at_k", "precision_at_k", "payoff_per_decision", "seconds"}


def test_the_dossier_tells_ranks_and_the_payoff_of_other_capacities(ranking):
    dossier = dossier_of(ranking, ranking.second)
    json.dumps(dossier, allow_nan=False)
    assert dossier["payoff_curve"] is None
    assert dossier["payoff_by_capacity"]["chosen"] == CAPACITY
    told = {m["name"]: m for m in dossier["explanation"]["metrics"]}
    assert list(told) == ["payoff", "acted", "ndcg_at_k", "precision_at_k"]
    for name in ("ndcg_at_k", "precision_at_k"):
        found = told[name]["difference"]
        assert found["lower"] <= found["value"] <= found["upper"]


@pytest.mark.parametrize("which", ["first", "second"])
def test_a_verdict_is_replayed_and_a_model_reproduced_to_the_bit(ranking, which):
    attempt, repeats = getattr(ranking, which), Repeats(ranking.parts)
    assert repeats.replay(attempt, "ann").differences == ()
    answer = repeats.reproduce(attempt, "ann", threads=3, from_source=True)
    assert (answer.different, answer.largest, answer.differences) == (0, 0.0, ())
    assert answer.model_digest_equal


def test_a_ranking_is_refitted_under_its_probation_and_reproduced(ranking, tmp_path):
    copied = ranking.copy(tmp_path)
    # Only a margin this wide promotes for sure: what is tested is the refit, not the verdict.
    copied.deploy(deploy="refit", mode="non_inferiority", min_uplift=1000.0, guardrails=[])
    attempt_id = copied.tuned("2013-05-15")
    copied.attempts.judge(attempt_id)
    attempt = copied.attempt(attempt_id)
    dossier = dossier_of(copied, attempt)
    assert (dossier["deployed"]["kind"], dossier["deployed"]["frozen"]) == ("refit", ["parameters", "seed", "capacity"])
    served = models.load(copied.registry.download(copied.model, attempt.deployed_version))
    assert (served.kind, served.capacity) == ("ranking", CAPACITY)
    assert [each.same for each in Repeats(copied.parts).reproduce(attempt, "ann").each] == [True, True]
    copied.attempts.card(attempt)
    assert "Scores differ by" in copied.store.get_bytes(f"cards/{attempt.id}.html").decode()
    copied.ledger.dispose()


def test_the_card_shows_the_payoff_by_capacity_and_no_probabilities(ranking):
    for attempt in (ranking.first, ranking.second):
        ranking.attempts.card(attempt)
        page = ranking.store.get_bytes(f"cards/{attempt.id}.html").decode()
        parser = Balance()
        parser.feed(page)
        assert parser.open == []
        assert "<h2>Payoff by capacity</h2>" in page
        assert "ndcg_at_k, mean over days" in page
        for absent in ("Payoff by threshold", "Calibration</h2>", "None", "probabilities"):
            assert absent not in page


def test_a_version_is_traced(ranking, capsys):
    with ranking.ledger.transaction() as tx:
        audit = tx.audit_log(ranking.model)
    dossier = dossier_of(ranking, ranking.second)
    show(Story(attempt=ranking.second, dossier=dossier, approvals=None, champions=[], audit=audit))
    told = capsys.readouterr().out
    assert f"Verdict: {ranking.second.verdict}" in told
    assert "ndcg_at_k" in told


def test_a_watch_scores_a_ranking_and_its_predecessor_on_new_days(ranking):
    watch = Watch(ranking.ledger, ranking.relay, features=lambda: ranking.features, artifacts=lambda: ranking.artifacts)
    champion, predecessor = (
        ranking.artifacts.load(ranking.model, attempt.challenger_version) for attempt in (ranking.second, ranking.first)
    )
    due = [date(2013, 4, 25) + timedelta(days=i) for i in range(3)]
    until = ranking.second.as_of + timedelta(days=14)
    days = watch._score(ranking.spec, due, until, champion, predecessor)
    assert [day.rows for day in days] == [40, 40, 40]
    assert any(day.total != 0 for day in days)
    assert [d.total for d in watch._score(ranking.spec, due, until, champion, champion)] == [0.0, 0.0, 0.0]


def test_a_monitor_looks_at_scores_and_at_the_payoff_but_expects_nothing_of_ranks(ranking, tmp_path):
    copied = ranking.copy(tmp_path)
    plain = copied.spec.model_dump(mode="json") | {"monitor": {"window": "14d", "min_rows": 100, "block": "2d"}}
    copied.spec = ModelSpec.model_validate(plain)
    with copied.ledger.transaction() as tx:
        tx.publish_spec(copied.model, copied.spec.digest, copied.spec.model_dump(mode="json"))
        for dataset in copied.spec.datasets:
            tx.advance_watermark(dataset, ranking.second.as_of + timedelta(days=14), 1.0)
    verb = Monitors(
        copied.ledger,
        copied.relay,
        features=lambda: copied.features,
        artifacts=lambda: copied.artifacts,
        store=lambda: copied.store,
    )
    verb.monitor(copied.model)
    with copied.ledger.transaction() as tx:
        (window,) = tx.monitored(copied.model)
    report = json.loads(copied.store.get_bytes(key_of(window.model, window.window_end, window.report_sha256)))
    assert report["predictions"]["outcome"] in {"cleared", "drifted"}
    assert report["payoff"]["expected"] == {"why": "a rank has no probability to expect its worth by"}
    assert report["payoff"]["realised"]["estimate"] > 0
    assert "calibration" not in report["payoff"]
    copied.ledger.dispose()


def test_a_backtest_knows_never_and_evenly_spread_acts_beside_the_rankings(ranking):
    with ranking.ledger.transaction() as tx:
        champions = tx.champions(ranking.model)
    found = backtest_year(
        World(ranking.features, ranking.artifacts, ranking.store, models),
        ranking.spec,
        champions=champions,
        attempts=[ranking.first, ranking.second],
        as_of=ranking.second.as_of + timedelta(days=20),
    )
    assert set(found.policies) == {"never", "always", "always_fresh", "act_never", "act_always", "gate"}
    assert found.policies["act_never"]["total_usd"] == 0
    assert found.policies["gate"]["total_usd"] > found.policies["act_always"]["total_usd"]


def test_a_champion_that_ranks_is_not_compared_with_a_classifier(judging):
    judging.spec = as_ranking(judging.spec)
    with judging.ledger.transaction() as tx:
        tx.publish_spec(judging.model, judging.spec.digest, judging.spec.model_dump(mode="json"))
    attempt = judging.run("2013-05-15")
    assert attempt.verdict == "keep_champion"
    (why, *_) = attempt.verdict_record["reasons"]
    assert "a classifier, takes other decisions than the spec speaks of now, which is of a ranking" in why
