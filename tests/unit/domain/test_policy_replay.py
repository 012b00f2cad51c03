"""When a policy would have retrained, and on which days."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from ratchet.adapters.specs import load_spec
from ratchet.domain.admission import OpenEvent
from ratchet.domain.events import DataArrived, DriftCleared, DriftDetected, RetrainRequested
from ratchet.domain.policy_replay import (
    Judged,
    Look,
    Moment,
    Policy,
    Run,
    Trigger,
    replay,
)
from ratchet.domain.spec import ModelSpec

SHIPPED = load_spec(Path(__file__).parents[3] / "include" / "models" / "flight_delay")
START = datetime(2013, 4, 1, 4, tzinfo=UTC)
DAY = timedelta(days=1)


def policy(trigger: Trigger, spec: ModelSpec = SHIPPED) -> Policy:
    return Policy("it", spec, trigger, "judged", "")


def arrival(days: int, rows: int = 30_000, *, looked_at: bool = False) -> Moment:
    at = START + days * DAY
    events = tuple(
        OpenEvent(
            2 * days + i,
            f"{name}-{days}",
            "/test",
            "ratchet.data.arrived.v1",
            at,
            at,
            DataArrived(dataset=name, complete_until=at, new_rows=rows),
        )
        for i, name in enumerate(("flights", "weather"))
    )
    return Moment(at, at, events, looked_at=looked_at)


def tick(days: float, as_of: int) -> Moment:
    return Moment(START + days * DAY, START + as_of * DAY, scheduled=True)


def lived(one: Policy, moments: list[Moment], decisions=(), drifts=()) -> tuple[list[Run], list[Look]]:
    """Every run and look, the verdicts and findings given in turn (then keep_champion, and nothing found)."""
    requests, runs, looks = replay(one, moments, START), [], []
    verdicts, found = iter(decisions), iter(drifts)
    asked = next(requests)
    while True:
        if isinstance(asked, Look):
            looks.append(asked)
            answer = next(found, None)
        else:
            runs.append(asked)
            first = asked.champion is None
            answer = Judged("promote" if first else next(verdicts, "keep_champion"), 1000, None)
        try:
            asked = requests.send(answer)
        except StopIteration:
            return runs, looks


def drift(severity: float, until: datetime) -> DriftDetected:
    return DriftDetected(check="x", severity=severity, window_start=until - 28 * DAY, window_end=until)


MONTHS = [arrival(30), arrival(61), arrival(91)]


def test_every_policy_begins_with_the_same_first_champion_and_never_asks_for_nothing_more() -> None:
    firsts = [lived(policy(t), MONTHS)[0][0] for t in ("never", "arrival", "schedule", "drift", "admission")]
    assert all(first == firsts[0] for first in firsts)
    assert len(lived(policy("never"), MONTHS)[0]) == 1


def test_on_each_arrival_retrains_once_for_data_that_are_new() -> None:
    again = Moment(START + 31 * DAY, START + 30 * DAY, arrival(30).events)
    runs, _ = lived(policy("arrival"), [arrival(30), again, arrival(61)])
    assert [run.as_of for run in runs] == [START, START + 30 * DAY, START + 61 * DAY]
    assert [run.champion for run in runs] == [None, 0, 1]


def test_a_schedule_retrains_when_it_fires_and_there_is_something_new() -> None:
    runs, _ = lived(policy("schedule"), [tick(7, 0), arrival(30), tick(35, 30), tick(42, 30)])
    assert [run.at for run in runs[1:]] == [START + 35 * DAY]


def test_a_policy_on_drift_waits_for_the_specs_confirmations_and_hears_nothing_else() -> None:
    moments = [arrival(days, looked_at=True) for days in (30, 61, 91)]
    found = [drift(0.5, moments[0].at), drift(0.5, moments[1].at), DriftCleared(check="x", window_end=moments[2].at)]
    runs, looks = lived(policy("drift"), moments, drifts=found)
    assert [run.at for run in runs[1:]] == [moments[1].at]
    assert [look.serving for look in looks] == [0, 0, 1]
    assert len(lived(policy("drift"), moments)[0]) == 1


def test_admission_runs_on_rows_enough_and_days_enough() -> None:
    runs, _ = lived(policy("admission"), [arrival(10), arrival(15, 100), arrival(30, 100)])
    assert [run.at for run in runs[1:]] == [START + 15 * DAY]
    few = [arrival(30, 9_000), arrival(61, 9_000)]
    assert len(lived(policy("admission"), few)[0]) == 1


def test_after_an_undecided_verdict_data_wait_for_the_follow_up() -> None:
    moments = [arrival(30), arrival(45), arrival(61)]
    decided = lived(policy("admission"), moments, ["keep_champion"])[0]
    undecided = lived(policy("admission"), moments, ["not_enough_evidence"])[0]
    assert [run.at for run in decided[1:]] == [moment.at for moment in moments]
    # 28 days from the last that judged, plus two until their labels are known: after the 45th day, before the 61st.
    assert [run.at for run in undecided[1:]] == [moments[0].at, moments[2].at]


def test_a_promotion_changes_whose_new_rows_are_looked_at() -> None:
    moments = [arrival(30, looked_at=True), arrival(61, looked_at=True)]
    looks = lived(policy("admission"), moments, ["promote"])[1]
    assert [look.serving for look in looks] == [0, 1]


def test_a_request_by_the_schedule_starts_a_run_of_its_own() -> None:
    at = START + 35 * DAY
    asked = RetrainRequested(reason="schedule", actor="schedule")
    event = OpenEvent(99, "s", "/test", "ratchet.retrain.requested.v1", at, at, asked)
    moments = [arrival(30, 100), Moment(at, START + 30 * DAY, (event,), scheduled=True)]
    assert [run.at for run in lived(policy("admission"), moments)[0][1:]] == [at]


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    st.lists(st.integers(3, 40), min_size=1, max_size=8),
    st.lists(st.sampled_from(["promote", "keep_champion", "not_enough_evidence"]), max_size=8),
)
def test_no_day_judges_twice_and_none_that_trained_the_champion(gaps: list[int], decisions: list[str]) -> None:
    days, moments = 0, []
    for gap in gaps:
        days += gap
        moments.append(arrival(days))
    runs, _ = lived(policy("admission"), moments, decisions)
    judged = [set(run.plan.holdout_days) for run in runs]
    assert sum(map(len, judged)) == len(set().union(*judged))
    assert all(max(run.plan.holdout_days) < run.as_of.date() for run in runs)
    assert all(run.plan.calibrate_end < min(run.plan.holdout_days) for run in runs)
    assert [run.at for run in runs] == sorted(run.at for run in runs)


@settings(deadline=None, derandomize=True, max_examples=30)
@given(st.permutations(range(4)))
def test_what_comes_at_one_moment_is_decided_together_in_any_order(order: list[int]) -> None:
    events = (
        *arrival(30).events,
        *(
            OpenEvent(
                10 + i,
                f"d{i}",
                "/test",
                "ratchet.drift.detected.v1",
                MONTHS[0].at,
                MONTHS[0].at,
                drift(0.9, MONTHS[0].at),
            )
            for i in range(2)
        ),
    )
    moment = Moment(MONTHS[0].at, MONTHS[0].as_of, tuple(events[i] for i in order))
    assert (
        lived(policy("admission"), [moment])[0]
        == lived(policy("admission"), [Moment(moment.at, moment.as_of, events)])[0]
    )
