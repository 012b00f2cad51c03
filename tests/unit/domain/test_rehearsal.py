"""Which days a trial snapshot takes, and what is found wrong with them and with the rows that came."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from ratchet.domain.rehearsal import (
    MOST_DAYS,
    MOST_ROWS,
    Column,
    Rehearsal,
    SourceDay,
    Trial,
    choose,
    problems_of_days,
    problems_of_rows,
    sentence,
)
from ratchet.domain.spec import ModelSpec, Problem

SHIPPED = Path(__file__).resolve().parents[3] / "include" / "models" / "flight_delay" / "model.yaml"
FIRST = date(2013, 1, 1)


def spec(**more: Any) -> ModelSpec:
    document = json.loads(json.dumps(YAML(typ="safe").load(SHIPPED.read_text()), default=str))
    del document["monitor"]
    return ModelSpec.model_validate(document | more)


def days(count: int = 200, rows: int = 100) -> list[SourceDay]:
    """Days with so many rows, each labelled two days after it."""
    made = [FIRST + timedelta(days=i) for i in range(count)]
    return [SourceDay(day, rows, rows, datetime(day.year, day.month, day.day, 12, tzinfo=UTC)) for day in made]


def unlabelled(day: SourceDay, missing: int) -> SourceDay:
    return SourceDay(day.day, day.rows, day.rows - missing, day.known_at)


def tried(found: Trial | Problem) -> Trial:
    assert isinstance(found, Trial)
    return found


def test_the_newest_week_is_tried_as_it_is_known_when_its_last_day_matures() -> None:
    trial = tried(choose(spec(), days()))
    assert (trial.end - trial.start).days == MOST_DAYS
    assert trial.end == FIRST + timedelta(days=200)
    assert trial.as_of == datetime(2013, 7, 22, 4, tzinfo=UTC), "two days after midnight in New York"
    assert trial.first_day == FIRST


def test_days_of_many_rows_are_fewer_and_one_at_least() -> None:
    assert (tried(choose(spec(), days(rows=1000))).end - tried(choose(spec(), days(rows=1000))).start).days == 5
    huge = tried(choose(spec(), days(rows=10 * MOST_ROWS)))
    assert (huge.end - huge.start).days == 1


def test_labels_that_are_published_later_are_waited_for() -> None:
    late = datetime(2014, 1, 1, tzinfo=UTC)
    *before, last = days()
    assert tried(choose(spec(), [*before, SourceDay(last.day, 100, 100, late)])).as_of == late


def test_days_without_all_labels_at_the_end_are_yet_to_come_and_are_no_fault() -> None:
    *before, last = days()
    found = [*before, unlabelled(last, 1)]
    trial = tried(choose(spec(), found))
    assert trial.end == last.day
    assert list(problems_of_days(found, trial)) == []


def test_a_source_without_labels_cannot_be_tried() -> None:
    found = choose(spec(), [unlabelled(day, 100) for day in days(3)])
    assert isinstance(found, Problem)
    assert found.where == "data.spine.source"
    assert "no day of its 300 rows has all its labels" in found.message
    assert isinstance(choose(spec(), []), Problem)


def test_missing_labels_before_the_newest_are_told_with_their_days() -> None:
    found = days()
    for index in (10, 20, 30, 40, 50):
        found[index] = unlabelled(found[index], 2)
    (problem,) = problems_of_days(found, tried(choose(spec(), found)))
    assert problem.where == "data.spine.label"
    assert (
        "10 rows before the newest labelled day have no label (2013-01-11, 2013-01-21, 2013-01-31 and 2 more)"
        in str(problem)
    )


@pytest.mark.parametrize(("count", "enough"), [(58, False), (60, True), (200, True)])
def test_a_history_that_leaves_too_few_days_to_judge_is_told(count: int, enough: bool) -> None:
    trial = tried(choose(spec(), days(count)))
    problems = list(problems_of_days(days(count), trial))
    assert [problem.where for problem in problems] == ([] if enough else ["data.holdout.min_clusters"])
    if not enough:
        assert trial.short is not None
        assert "needs 14 days" in problems[0].message
        assert f"the {count} days that there are leave {trial.short.count}" in problems[0].message


CARRIER = Column("carrier", "carried", "string", 0.0)
WIND = Column("wind_mph", "feature", "double", 0.1)


def wrong(*columns: Column, positive: float | None = 0.2, **more: Any) -> list[Problem]:
    return list(problems_of_rows(spec(**more), (CARRIER, WIND, *columns), positive))


def test_rows_that_can_be_learned_from_have_nothing_wrong() -> None:
    assert wrong() == []
    assert wrong(positive=None) == []


@pytest.mark.parametrize(
    ("column", "said"),
    [
        (Column("seen_at", "feature", "timestamp[us]", 0.0, readable=False), "'seen_at' holds timestamp[us], which no"),
        (Column("gust_mph", "feature", "double", 1.0), "'gust_mph' has no value on any of the tried rows"),
    ],
)
def test_a_feature_that_nothing_can_be_learned_from_is_told(column: Column, said: str) -> None:
    (problem,) = wrong(column)
    assert problem.where == "data.features"
    assert said in problem.message


def test_a_carried_column_may_be_of_any_type_and_empty() -> None:
    assert wrong(Column("decided_at", "moment", "timestamp[us, tz=UTC]", 0.0, readable=False)) == []
    assert wrong(Column("minutes_late", "carried", "double", 1.0)) == []


@pytest.mark.parametrize("positive", [0.0, 1.0])
def test_a_label_that_is_the_same_everywhere_is_told(positive: float) -> None:
    (problem,) = wrong(positive=positive)
    assert f"data.spine.label: is {positive:.0f} on every tried row" in str(problem)


def test_columns_that_the_spec_names_and_the_rows_lack_are_told() -> None:
    problems = list(problems_of_rows(spec(monitor={"seasonal": ["wind_mph", "snow"]}), (WIND,), 0.2))
    told = [problem.where for problem in problems]
    assert told == ["gate.guardrails[1].slice", "monitor.seasonal[1]"]


def test_the_sentence_says_what_was_tried() -> None:
    trial = tried(choose(spec(), days()))
    done = Rehearsal("flight_delay", trial, 700, (CARRIER, WIND), (), 0.25)
    assert sentence(done, 1.234) == (
        "flight_delay: a snapshot of 700 rows (2013-07-13 to 2013-07-19) was tried in 1.2 s, none lost: 1 features, 1 "
        "of them with gaps, labels 25.0% positive; 28 days could judge a first champion"
    )
    assert "no snapshot of 2013-07-13 to 2013-07-19 could be made" in sentence(
        Rehearsal("flight_delay", trial, 0, (), ()), 0.1
    )
    assert sentence(Rehearsal("flight_delay", None, 0, (), ()), 0.1) == "flight_delay: no row could be tried"
