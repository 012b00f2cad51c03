"""Policies side by side on small rows: what they share, what they are worth, and that the gate's is what was lived."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime

import numpy as np
import pyarrow as pa
import pytest
from backtested_worlds import FAHRENHEIT, STRETCH, CountingStudies, FeatureTable, place, small_spec
from judged_attempts import CODE, JudgingWorld

from ratchet.adapters.storage import ObjectStore
from ratchet.domain.spec import ModelSpec
from ratchet.domain.unit_errors import Corruption
from ratchet.errors import Refused
from ratchet.ports.studies import InMemoryStudies
from ratchet.records import RunContext
from ratchet.workflow import backtest_report
from ratchet.workflow.deciding import open_event
from ratchet.workflow.policy_backtest import (
    Stretch,
    backtest,
    derived,
    heard,
    policies_of,
    read_rows,
    usual_variants,
)

TRIALS = 6
"""Enough for policies to have champions of other parameters on the same day, and so studies of their own."""
SPEC = small_spec(trials=TRIALS)
LAX = small_spec({"mode": "non_inferiority", "min_uplift": 20.0}, trials=TRIALS)
POLICIES = policies_of(SPEC, {"lax": LAX})
ROWS = read_rows(FeatureTable(), POLICIES, STRETCH)
EVENTS = derived(SPEC, ROWS, STRETCH)
APRIL = Corruption(date(2013, 4, 1), (FAHRENHEIT,))


def run(where, corruption=None, policies=POLICIES):
    return backtest(where, SPEC, policies, ROWS, EVENTS, STRETCH, corruption)


def totals(world) -> dict[str, float]:
    return {standing.policy.name: standing.found["total_usd"] for standing in world.standings}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("backtest")


@pytest.fixture(scope="module")
def world(folder):
    return run(place(folder))


def test_every_policy_decides_the_same_rows_and_the_default_differs_from_itself_by_nothing(world) -> None:
    start = STRETCH.begins(SPEC)
    assert world.rows == sum(moment >= start for moment in ROWS.table["decided_at"].to_pylist())
    assert [standing.policy.name for standing in world.standings] == [policy.name for policy in POLICIES]
    by_name = {standing.policy.name: standing for standing in world.standings}
    assert by_name["ratchet"].found["minus_gate"] == 0
    assert by_name["never"].retrains == by_name["never"].promotions == 0
    assert by_name["always"].promotions == by_name["always"].retrains > 0
    for standing in world.standings:
        assert standing.daily.sum() == pytest.approx(standing.choosing + standing.found["total_usd"])
        assert all(0 <= run.as_of.timestamp() <= run.at.timestamp() for run in standing.runs)


def test_a_gate_that_promotes_all_but_losers_promotes_and_a_strict_one_need_not(world) -> None:
    by_name = {standing.policy.name: standing for standing in world.standings}
    decisions = [run.decision for run in by_name["lax"].runs[1:]]
    assert "promote" in decisions
    assert by_name["lax"].promotions <= by_name["always"].promotions
    strict = [run for run in by_name["ratchet"].runs[1:] if run.serves is not None]
    assert all(run.verdict["lower"] > SPEC.gate.min_uplift for run in strict)


def test_a_second_backtest_makes_nothing_and_says_the_same(folder, world) -> None:
    again = run(place(folder))
    assert CountingStudies.made == again.misses == 0
    assert totals(again) == totals(world)
    assert [s.found for s in again.standings] == [s.found for s in world.standings]


def test_policies_share_what_they_have_in_common(tmp_path) -> None:
    alone = place(tmp_path / "alone")
    run(alone, policies=policies_of(SPEC, {}))
    studies = CountingStudies.made
    run(alone, policies=policies_of(SPEC, {"strict": small_spec({"confidence": 0.99}, trials=TRIALS)}))
    assert studies > 0
    assert CountingStudies.made == studies


def test_sharing_fits_between_studies_changes_no_bit(tmp_path, world) -> None:
    began = [lived.recipe for standing in world.standings for lived in standing.runs]
    assert len({recipe.key for recipe in began}) > len({recipe.as_of for recipe in began})
    for name in ("always", "lax"):
        single = [p for p in POLICIES if p.name in {name, "ratchet"}]
        found = run(place(tmp_path / name), policies=single)
        assert totals(found)[name] == totals(world)[name]


@pytest.mark.parametrize(
    "changed",
    [{"code": "d" * 64}, {"source": "other"}, {"named": {datetime(2013, 3, 25, 4, tzinfo=UTC): "another name"}}],
)
def test_other_code_other_rows_and_another_seed_make_other_models(folder, world, changed) -> None:
    quiet = replace(EVENTS, moments=())
    found = backtest(place(folder, **changed), SPEC, policies_of(SPEC, {}), ROWS, quiet, STRETCH)
    assert CountingStudies.made == 1
    assert found.standings[0].runs[0].serves.key != world.standings[0].runs[0].serves.key


def test_who_is_interrupted_goes_on_where_he_was(tmp_path, world) -> None:
    def interrupted(*_: object) -> InMemoryStudies:
        if CountingStudies.made == 2:
            raise KeyboardInterrupt
        return CountingStudies()

    with pytest.raises(KeyboardInterrupt):
        run(place(tmp_path, new_studies=interrupted))
    made = CountingStudies.made
    found = run(place(tmp_path))
    assert made == 2
    assert totals(found) == totals(world)


def test_half_a_model_in_the_cache_is_no_model(folder, world, tmp_path) -> None:
    import shutil  # noqa: PLC0415

    shutil.copytree(folder / "cache", tmp_path / "cache")
    for card in (tmp_path / "cache" / "models").glob("*.json"):
        if "latency" not in card.name:
            card.unlink()  # it is written last: what a killed run leaves is a folder without one
    found = run(place(tmp_path))
    assert CountingStudies.made == 0
    assert found.misses > 0
    assert totals(found) == totals(world)


def test_a_missing_study_may_be_replaced_by_the_nearest_and_the_row_says_so(tmp_path, world) -> None:
    single = [policy for policy in POLICIES if policy.name in {"never", "ratchet"}]
    where = tmp_path / "near"
    run(place(where), policies=single)  # the studies that begin with the first champion's parameters
    exact = CountingStudies.made
    found = run(place(where, approximate=True))
    studies = {lived.recipe.key for standing in world.standings for lived in standing.runs}
    assert exact + CountingStudies.made < len(studies)
    rows = {standing.policy.name: standing.approximate for standing in found.standings}
    assert not rows["never"]
    assert not rows["ratchet"]
    assert any(rows.values())


def test_a_corrupted_month_is_learned_and_scored_and_what_it_does_not_touch_is_shared(folder, world) -> None:
    found = run(place(folder), APRIL)
    assert found.rows == world.rows
    assert totals(found)["never"] != totals(world)["never"]
    first = [s.runs[0].serves.key for s in (found.standings[0], world.standings[0])]
    assert first[0] == first[1]  # made before the month
    later = [{s.policy.name: s.runs[-1].recipe.key for s in w.standings} for w in (found, world)]
    assert later[0]["always"] != later[1]["always"]


def test_a_false_promotion_is_one_that_earned_less_than_what_it_replaced(world) -> None:
    by_name = {standing.policy.name: standing for standing in world.standings}
    always, never = by_name["always"], by_name["never"]
    (promotion,) = [run for run in always.runs[1:] if run.serves is not None][-1:]
    assert always.false_promotions <= always.promotions
    if len([run for run in always.runs[1:] if run.serves]) == 1:
        after = np.asarray(world.days) >= promotion.at.date().isoformat()
        assert (always.daily[after].sum() < never.daily[after].sum()) == bool(always.false_promotions)


def test_the_gates_policy_gives_the_verdicts_that_were_lived(tmp_path, migrated) -> None:
    made = JudgingWorld(tmp_path, migrated)
    plain = made.spec.model_dump(mode="json")
    plain["gate"] |= {"mode": "non_inferiority", "min_uplift": 20.0, "guardrails": []}
    made.spec = ModelSpec.model_validate(plain)
    with made.ledger.transaction() as tx:
        tx.publish_spec(made.model, made.spec.digest, plain)
    first = made.run("2013-03-25", first_champion=True)
    for number, day in enumerate(("2013-04-12", "2013-04-20", "2013-05-02", "2013-05-18")):
        made.arrive(datetime.fromisoformat(day).replace(tzinfo=UTC))
        run_of = RunContext("retrain__flight_delay", f"event{number}", "asset_triggered", None, {})
        attempt = made.claims.claim(made.model, run_of)["attempt"]
        if attempt is not None:
            made.attempts.snapshot(attempt)
            for worker in made.attempts.plan_tuning(attempt):
                made.attempts.tune(worker["attempt"], worker["worker"])
            made.attempts.judge(attempt)
            made.promotions.promote(made.model)
    with made.ledger.transaction() as tx:
        attempts = sorted(tx.attempts(model=made.model), key=lambda row: row.epoch)
        events = [open_event(row) for row in tx.events(model=made.model) if row.origin not in ("attempt", "manual")]
    lived = [(a.as_of, a.verdict, a.verdict_record["estimate"], a.verdict_record["lower"]) for a in attempts[1:]]
    made.ledger.dispose()

    stretch = Stretch(date(2013, 3, 25), date(2013, 4, 20), date(2013, 5, 20), first.as_of)
    policies = [p for p in policies_of(made.spec, {}) if p.name in {"never", "ratchet"}]
    rows = read_rows(made.features, policies, stretch)
    where = place(tmp_path, named={a.as_of: a.id for a in attempts}, code=CODE)
    found = backtest(where, made.spec, policies, rows, heard(made.spec, events, stretch, "lived"), stretch)
    runs = found.standings[1].runs[1:]
    assert len(lived) >= 2
    assert "promote" in {verdict for _, verdict, *_ in lived}
    assert [(r.as_of, r.decision, r.verdict["estimate"], r.verdict["lower"]) for r in runs] == lived


def test_the_default_variants_differ_from_the_default_and_hold_as_specs() -> None:
    named = usual_variants(SPEC)
    assert set(named) == {"non_inferiority", "superiority_80", "non_inferiority_80", "refit", "non_inferiority_refit"}
    assert all(key.split(".")[0] in {"gate", "probation"} for keys in named.values() for key in keys)


def test_what_a_backtest_does_not_replay_is_refused() -> None:
    with pytest.raises(Refused, match="looks with more than one"):
        policies_of(small_spec({"looks": [0.5, 0.5]}), {})
    with pytest.raises(Refused, match="name of its own"):
        policies_of(SPEC, {"never": LAX})
    with pytest.raises(Refused, match="judging months"):
        Stretch(date(2013, 4, 1), date(2013, 3, 1), date(2013, 6, 1))


def test_a_report_of_the_same_question_is_followed_by_what_another_spec_changed(world, tmp_path) -> None:
    store = ObjectStore(str(tmp_path))
    first = backtest_report.document(SPEC, STRETCH, EVENTS, [world], {})
    _, nothing = backtest_report.keep(store, first)
    _, same = backtest_report.keep(store, first)
    assert nothing is same is None
    assert len([key for key in store.sizes("reports") if key.endswith(".json")]) == 1
    moved = [replace(s, promotions=s.promotions + 1) if s.policy.name == "lax" else s for s in world.standings]
    other = backtest_report.document(LAX, STRETCH, EVENTS, [replace(world, standings=tuple(moved))], {})
    uri, diff = backtest_report.keep(store, other)
    assert [changed.field for changed in diff.spec] == ["gate.mode", "gate.min_uplift"]
    assert [(row.policy, row.column) for row in diff.rows] == [("lax", "promotions")]
    said = backtest_report.change_in_words(diff.rows[0])
    assert said.startswith("lax (as it was), promotions:")
    assert said.endswith("(+1)")
    page = (tmp_path / uri).read_text()
    assert "Cumulative payoff" in page
    assert said.replace("→", "→") in page
    assert "http" not in page.replace("http://www.w3.org", "")


def test_no_policy_told_apart_is_said_by_the_report(world) -> None:
    told = backtest_report.document(SPEC, STRETCH, EVENTS, [world], {})["worlds"][0]
    decided = {row["policy"] for row in told["policies"] if row["superior"] != "open"}
    assert set(told["told_apart"]) <= decided
    assert told["recommended"]["policy"] in {"ratchet", "lax"}


def test_rows_of_other_columns_than_the_corruptions_stay_as_they_are() -> None:
    from ratchet.workflow.workshop import corrupted  # noqa: PLC0415

    wrong = corrupted(ROWS.table, APRIL)
    others = [name for name in ROWS.table.column_names if name not in {FAHRENHEIT, "wind"}]  # wind has NaN: never equal
    assert wrong.select(others).equals(ROWS.table.select(others))
    day = np.asarray(ROWS.table["day"].to_pylist())
    before, after = (np.asarray(t[FAHRENHEIT].cast(pa.float64())) for t in (ROWS.table, wrong))
    inside = (day >= "2013-04-01") & (day < "2013-05-01")
    assert np.array_equal(after[~inside], before[~inside], equal_nan=True)
    assert np.allclose(after[inside], (before[inside] - 32) * 5 / 9, equal_nan=True)


def test_a_schedule_reads_what_has_arrived_by_then_and_no_more() -> None:
    plain = SPEC.model_dump(mode="json")
    plain["retrain"]["schedule"] = "0 4 * * 1"
    weekly = ModelSpec.model_validate(plain)
    given = [event for moment in EVENTS.moments for event in moment.events]
    for found in (derived(weekly, ROWS, STRETCH), heard(weekly, given, STRETCH, "given")):
        ticks = [moment for moment in found.moments if moment.scheduled]
        assert len(ticks) >= 7
        arrived = [STRETCH.begins(weekly), *(moment.at for moment in EVENTS.moments if moment.events)]
        assert all(tick.as_of == max(at for at in arrived if at <= tick.at) for tick in ticks)
        assert [tick.at for tick in ticks] == sorted(tick.at for tick in ticks)
