"""Orphans: what no row of the ledger names, and nothing that one may yet name."""

from __future__ import annotations

from dataclasses import replace

from ratchet.domain.orphans import Known, Orphan, find_orphans

KNOWN = Known(
    models=frozenset({"m"}),
    attempts=frozenset({"m.1", "m.2"}),
    open_attempts=frozenset({"m.2"}),
    versions={"m": frozenset({1})},
    reports={"monitor/m/20130401T040000Z": "monitor/m/20130401T040000Z-aaaa.json"},
)


def names(**found: object) -> list[str]:
    given = {"objects": {}, "studies": {}, "versions": {}} | found
    return [orphan.name for orphan in find_orphans(KNOWN, **given)]  # type: ignore[arg-type]


def test_objects_and_studies_of_attempts_that_are_not_known_are_orphans() -> None:
    objects = {
        "snapshots/m.1/train.parquet": 1,
        "snapshots/m.11/train.parquet": 2,
        "evidence/m.1.recalibrated_champion.parquet": 3,
        "dossiers/m.9.verdict.json": 4,
        "cards/m.2.html": 5,
    }
    assert names(objects=objects) == ["dossiers/m.9.verdict.json", "snapshots/m.11/train.parquet"]
    assert names(studies={"m.1": 1, "m.1.fewer-rows": 1, "m.3": 1, "m.3.fewer-rows": None}) == ["m.3", "m.3.fewer-rows"]


def test_a_study_that_is_not_named_as_ours_are_is_somebody_elses() -> None:
    assert names(studies={"my experiment": 1, "exp.v2": 1, "Churn.3": 1, "m.3x": 1, "gone.3": 1}) == ["gone.3"]


def test_a_version_is_an_orphan_unless_the_ledger_has_it_or_an_open_attempt_made_it() -> None:
    versions = {"m": {1: "m.1", 2: "m.1", 3: "m.2", 4: "m.2.recalibrated_champion", 5: ""}}
    assert names(versions=versions) == ["m@2", "m@5"]


def test_somebody_elses_model_in_the_registry_is_left_alone_and_one_of_ours_is_not() -> None:
    assert names(versions={"theirs": {1: ""}, "gone": {1: "gone.7"}}) == ["gone@1"]


def test_predictions_of_a_model_in_service_are_never_orphans_and_a_report_only_beside_another() -> None:
    objects = {
        "predictions/m/2013-04-01/champion.parquet": 1,
        "predictions/gone/2013-04-01/champion.parquet": 2,
        "monitor/m/20130401T040000Z-aaaa.json": 3,
        "monitor/m/20130401T040000Z-bbbb.json": 4,
        "monitor/m/20130501T040000Z-cccc.json": 5,
    }
    assert names(objects=objects) == [
        "monitor/m/20130401T040000Z-bbbb.json",
        "predictions/gone/2013-04-01/champion.parquet",
    ]


def test_bytes_and_the_reason_are_told() -> None:
    (found,) = find_orphans(replace(KNOWN, attempts=frozenset()), {}, {"m.1": 7}, {})
    assert found == Orphan("study", "m.1", 7, "the ledger knows no attempt m.1")
