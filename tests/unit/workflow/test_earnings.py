"""What a model has been worth is told from the ledger, with who measured it, and as the dossiers and reports say."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest
from judged_attempts import JudgingWorld

from ratchet.ports.ledger import ChampionRow, MonitoredRow
from ratchet.workflow import dossiers
from ratchet.workflow.earnings import Earnings, Estimate, earnings


def told(world: JudgingWorld) -> Earnings:
    with world.ledger.transaction() as tx:
        (row,) = tx.specs([world.model])
        return earnings(tx, row)


def of(found: Earnings, measure: str, source: str) -> list[Estimate]:
    return [each for each in found.estimates if (each.measure, each.source) == (measure, source)]


def test_a_verdict_tells_the_uplift_and_what_those_who_serve_earned_as_its_dossier_says(judging: JudgingWorld) -> None:
    found = told(judging)
    first, second = (dossiers.read(judging.store, row) for row in (judging.first, judging.second))
    uplifts = of(found, "uplift", "judged")
    assert [(each.version, each.over) for each in uplifts] == [(1, None), (2, 1)]
    for each, dossier in zip(uplifts, (first, second), strict=True):
        record = dossier["verdict"]
        bounds = [record[name] for name in ("estimate", "lower", "upper")]
        assert [each.estimate, each.lower, each.upper] == pytest.approx(bounds)
        assert (each.rows, each.days) == (record["n_rows"], record["n_clusters"])
        assert [each.first_day.isoformat(), each.last_day.isoformat()] == [
            edge(dossier["used_days"]["holdout"]) for edge in (min, max)
        ]
    champion, challenger = (
        next(m[side] for m in dossier["explanation"]["metrics"] if m["name"] == "payoff")
        for dossier, side in ((second, "champion"), (first, "challenger"))
    )
    earned = of(found, "payoff", "judged")
    assert [each.version for each in earned] == [1, 1]
    sides = [number for side in (challenger, champion) for number in (side["value"], side["lower"])]
    assert [number for each in earned for number in (each.estimate, each.lower)] == pytest.approx(sides)
    assert uplifts[1].total == pytest.approx(uplifts[1].estimate * uplifts[1].rows)
    assert found.unit == "USD"


def test_a_challenger_that_never_served_earned_nothing(judging: JudgingWorld) -> None:
    assert judging.second.verdict != "promote"
    assert {each.version for each in of(told(judging), "payoff", "judged")} == {1}


def test_who_serves_is_told_by_the_models_own_day(judging: JudgingWorld) -> None:
    at = datetime(2013, 4, 30, 2, tzinfo=UTC)
    with judging.ledger.transaction() as tx:
        row = ChampionRow(judging.model, 2, 2, None, "rollback", at, "ann", "r", None, tx.wall(), since=at)
        tx.set_clock("replay", at)
        tx.insert_champion(row)
    last = told(judging).champions[-1]
    assert (last.seq, last.kind, last.day) == (2, "rollback", date(2013, 4, 29))


def test_windows_without_numbers_and_those_from_before_they_were_kept_tell_nothing(judging: JudgingWorld) -> None:
    before = {"payoff": {"outcome": "held", "said": "+41 USD per decision"}, "cause": "nothing moved"}
    unjudged = {
        "payoff": {"outcome": "unjudged", "said": "no labels"},
        "window": {"start": "2013-04-01", "end": "2013-04-15"},
    }
    with judging.ledger.transaction() as tx:
        for day, found in ((1, before), (2, unjudged), (3, {})):
            at = datetime(2013, 5, day, tzinfo=UTC)
            tx.save_monitored(MonitoredRow(judging.model, at, "done", judging.spec.digest, 1, found))
    assert {each.source for each in told(judging).estimates} == {"judged"}
