"""When a retrain is due, and what every event that waits is told."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from time import process_time
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ratchet.adapters.specs import load_spec
from ratchet.domain.admission import (
    Admission,
    AdmissionPolicy,
    CoreHours,
    FreshDays,
    History,
    Now,
    Observation,
    OpenEvent,
    Outcome,
    decide_admission,
    observation_of,
)
from ratchet.domain.events import (
    DataArrived,
    DriftCleared,
    DriftDetected,
    InboundData,
    PerformanceDegraded,
    RetrainRequested,
)
from ratchet.domain.forecasting import RunCost
from ratchet.domain.quiet import QuietWindow
from ratchet.domain.snooze import Snooze
from ratchet.domain.spec import Money
from ratchet.domain.waiting import Waiting
from ratchet.settings import load_settings

SEEDED = settings(deadline=None, derandomize=True)
DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)
TODAY = datetime(2013, 6, 16, 4, tzinfo=UTC)
WALL = datetime(2026, 1, 1, tzinfo=UTC)
POLICY = AdmissionPolicy(
    model="toy",
    spine_source="flights",
    min_severity=0.3,
    confirmations_at_least=2,
    confirmations_of_last=3,
    datasets=("flights", "weather"),
    min_new_rows=20_000,
    on_performance=True,
    debounce=5 * SECOND,
    cooldown=6 * HOUR,
    max_event_age=30 * DAY,
    runs_per_day=4,
    core_hours_per_month=None,
    quiet_hours=(),
    timezone=ZoneInfo("America/New_York"),
    urgent=None,
    shrink=False,
    trials=12,
)
QUIET = History(
    has_champion=True,
    last_started_at=None,
    runs_started_today=0,
    day_resets_at=TODAY + 20 * HOUR,
    observations=(),
    fresh=FreshDays(count=14, needed=14, ready_at=None),
)
NOW = Now(business=TODAY, wall=WALL)


def drift(day: int = 0, severity: float = 0.6, check: str = "weather_drift") -> DriftDetected:
    """Drift over the week that ends ``day`` days from today."""
    end = TODAY + day * DAY
    return DriftDetected(check=check, severity=severity, window_start=end - 7 * DAY, window_end=end)


def cleared(day: int = 0, check: str = "weather_drift") -> DriftCleared:
    return DriftCleared(check=check, window_end=TODAY + day * DAY)


def rows(count: int, dataset: str = "flights") -> DataArrived:
    return DataArrived(dataset=dataset, complete_until=TODAY, new_rows=count)


DEGRADED = PerformanceDegraded(metric="payoff", value=3.1, threshold=4, window_end=TODAY)
REQUEST = RetrainRequested(reason="new routes", actor="ada")
KINDS = {
    DriftDetected: "ratchet.drift.detected.v1",
    DriftCleared: "ratchet.drift.cleared.v1",
    DataArrived: "ratchet.data.arrived.v1",
    PerformanceDegraded: "ratchet.performance.degraded.v1",
    RetrainRequested: "ratchet.retrain.requested.v1",
}


def heard(key: int, data: InboundData, *, age: timedelta = DAY, since: timedelta = HOUR) -> OpenEvent:
    """An event of business age ``age`` that was received ``since`` ago on the wall clock."""
    return OpenEvent(
        key=key,
        event_id=f"e-{key}",
        source="/monitor",
        type=KINDS[type(data)],
        time=TODAY - age,
        received_at=WALL - since,
        data=data,
    )


def decide(*events: OpenEvent, history: History = QUIET, now: Now = NOW, policy: AdmissionPolicy = POLICY) -> Admission:
    return decide_admission(policy, events, history, now)


def only(admission: Admission) -> Outcome:
    (outcome,) = admission.outcomes
    return outcome


CONFIRMED = (heard(1, drift(-1)), heard(2, drift(0), age=HOUR))


def test_the_policy_is_the_specs() -> None:
    policy = AdmissionPolicy.from_spec(load_spec(load_settings().models_dir / "flight_delay"))
    assert replace(policy, model="toy") == replace(POLICY, urgent=0.9)


def test_without_events_there_is_nothing_to_do() -> None:
    assert decide() == Admission(
        go=False, due_at=None, trigger=None, reason="nothing to do: no event is open", outcomes=()
    )


def test_one_drift_event_waits_unconfirmed_and_says_how_many_are_wanted() -> None:
    admission = decide(heard(1, drift()))
    assert not admission.go
    assert only(admission) == Outcome(
        1,
        "deferred",
        "unconfirmed: 1 of 2 confirmations (of last 3) of check weather_drift; waits for more until 2013-07-15T04:00Z",
        TODAY + 29 * DAY,
    )
    assert admission.reason == only(admission).reason


def test_the_second_confirming_drift_event_is_the_trigger_and_both_are_pending() -> None:
    admission = decide(*CONFIRMED)
    assert (admission.go, admission.trigger) == (True, 2)
    assert {outcome.fate for outcome in admission.outcomes} == {"pending"}
    assert admission.reason == (
        "admitted: 2 events, by drift of check weather_drift, severity 0.6, confirmed 2 of last 3"
    )


def test_two_detections_of_one_window_are_one_confirmation() -> None:
    assert not decide(heard(1, drift(0)), heard(2, drift(0, severity=0.9))).go


def test_checks_do_not_confirm_each_other() -> None:
    assert not decide(heard(1, drift(-1)), heard(2, drift(0, check="label_drift"))).go


def test_an_earlier_observation_that_no_run_has_answered_confirms() -> None:
    history = replace(QUIET, observations=(Observation("weather_drift", TODAY - 3 * DAY, bad=True),))
    assert decide(heard(1, drift()), history=history).go


def test_confirmations_count_the_last_windows_only() -> None:
    good = [Observation("weather_drift", TODAY - day * DAY, bad=False) for day in (1, 2)]
    old = Observation("weather_drift", TODAY - 3 * DAY, bad=True)
    assert not decide(heard(1, drift()), history=replace(QUIET, observations=(*good, old))).go


def test_drift_that_has_recovered_since_waits_although_confirmed() -> None:
    admission = decide(heard(1, drift(-2)), heard(2, drift(-1)), heard(3, cleared(0)))
    assert not admission.go
    first, _, clear = admission.outcomes
    assert (first.fate, first.reason) == (
        "deferred",
        ("recovered: the newest observation of check weather_drift is good; waits for more until 2013-07-15T04:00Z"),
    )
    assert "(to 2013-06-16T04:00Z)" in admission.reason
    assert (clear.fate, clear.reason.split(":")[0]) == ("suppressed", "cleared")


def test_mild_drift_is_suppressed_and_counts_as_a_good_observation() -> None:
    assert only(decide(heard(1, drift(severity=0.2)))) == Outcome(
        1, "suppressed", "min_severity: 0.2 of 0.3 needed for check weather_drift"
    )
    assert observation_of(POLICY, drift(severity=0.2)) == Observation("weather_drift", TODAY, bad=False)
    assert not decide(heard(1, drift(-2)), heard(2, drift(-1)), heard(3, drift(0, severity=0.2))).go


def test_rows_of_the_spines_source_accumulate_over_events() -> None:
    half = decide(heard(1, rows(13_402)))
    assert only(half).reason == (
        "accumulating: 13,402 of 20,000 new rows of flights; waits for more until 2013-07-15T04:00Z"
    )
    whole = decide(heard(1, rows(13_402)), heard(2, rows(6_598)))
    assert whole.go
    assert whole.trigger == 2


def test_rows_of_other_datasets_do_not_count_but_their_events_go_along() -> None:
    assert not decide(heard(1, rows(50_000, "weather"))).go
    admission = decide(heard(1, rows(50_000, "weather")), heard(2, rows(20_000)))
    assert [outcome.fate for outcome in admission.outcomes] == ["pending", "pending"]


def test_rows_of_expired_events_do_not_count() -> None:
    admission = decide(heard(1, rows(19_999), age=30 * DAY), heard(2, rows(1)))
    assert [outcome.fate for outcome in admission.outcomes] == ["expired", "deferred"]
    assert admission.outcomes[0].reason == "max_event_age: 30d since 2013-05-17T04:00Z are over"


def test_degraded_performance_goes_by_itself() -> None:
    assert decide(heard(1, DEGRADED)).go


@pytest.mark.parametrize("data", [drift(), rows(30_000), DEGRADED])
def test_what_the_spec_does_not_listen_to_is_suppressed(data: InboundData) -> None:
    deaf = replace(POLICY, min_severity=None, datasets=None, on_performance=False)
    outcome = only(decide(heard(1, data), policy=deaf))
    assert (outcome.fate, outcome.reason.split(":")[0]) == ("suppressed", "not_subscribed")


def test_a_dataset_the_spec_does_not_name_is_suppressed() -> None:
    assert only(decide(heard(1, rows(1, "planes")))).reason == (
        "not_subscribed: retrain.on.data.datasets does not name planes"
    )


@pytest.mark.parametrize("data", [DEGRADED, REQUEST, rows(30_000)])
def test_without_a_champion_everything_waits_even_a_request(data: InboundData) -> None:
    outcome = only(decide(heard(1, data), history=replace(QUIET, has_champion=False)))
    assert outcome.fate == "deferred"
    assert outcome.reason == (
        "no_champion: make the first with 'ratchet champion init toy'; this event expires 2013-07-15T04:00Z"
    )
    assert outcome.until == TODAY + 29 * DAY


@pytest.mark.parametrize("data", [DEGRADED, rows(30_000)])
def test_rows_that_the_monitor_cannot_believe_start_no_run(data: InboundData) -> None:
    outcome = only(decide(heard(1, data), history=replace(QUIET, broken="wind has no value")))
    assert outcome.fate == "deferred"
    assert outcome.reason == (
        "broken_data: wind has no value; mend the data, then look again: ratchet monitor toy --run; "
        "this event expires 2013-07-15T04:00Z"
    )


def test_a_follow_up_that_is_due_waits_for_rows_that_can_be_believed() -> None:
    due = replace(heard(1, REQUEST), origin="attempt", not_before=TODAY - DAY)
    assert decide(due).go
    assert not decide(due, history=replace(QUIET, broken="wind has no value")).go


def test_a_person_who_asks_may_have_mended_the_data() -> None:
    assert decide(heard(1, REQUEST), history=replace(QUIET, broken="wind has no value")).go


def test_a_schedule_starts_no_run_on_broken_rows_and_waits_for_the_look_though_it_passes_the_cooldown() -> None:
    ticked = replace(heard(1, REQUEST), origin="schedule")
    assert decide(ticked, history=replace(QUIET, last_started_at=TODAY - HOUR)).go
    assert only(decide(ticked, history=replace(QUIET, broken="no wind"))).reason.startswith("broken_data: no wind; ")
    looking = replace(QUIET, look_ends=WALL + 100 * SECOND)
    assert decide(ticked, history=looking).due_at == WALL + 100 * SECOND


ASLEEP = replace(QUIET, snooze=Snooze(TODAY - DAY, TODAY + 2 * DAY, "ada", "labels are being mended"))


@pytest.mark.parametrize(
    "event",
    [
        heard(1, DEGRADED),
        heard(1, rows(30_000)),
        replace(heard(1, REQUEST), origin="schedule"),
        replace(heard(1, REQUEST), origin="attempt", not_before=TODAY - DAY),
    ],
    ids=["performance", "data", "schedule", "follow-up"],
)
def test_what_comes_by_itself_waits_until_the_model_wakes(event: OpenEvent) -> None:
    assert decide(event).go
    admission = decide(event, history=ASLEEP)
    assert (admission.go, admission.due_at) == (False, None)
    assert only(admission) == Outcome(
        1, "deferred", "snooze: by ada: labels are being mended; lifts 2013-06-18T04:00Z", TODAY + 2 * DAY
    )
    assert decide(event, history=ASLEEP, now=Now(TODAY + 2 * DAY, WALL)).go


def test_a_persons_request_wakes_nobody_but_passes_and_takes_along_what_waits() -> None:
    admission = decide(heard(1, DEGRADED), heard(2, REQUEST), history=ASLEEP)
    assert (admission.go, admission.trigger) == (True, 2)
    assert {outcome.fate for outcome in admission.outcomes} == {"pending"}


def test_a_snooze_adds_nothing_to_a_rule_that_holds_longer_and_keeps_no_event_alive() -> None:
    later = replace(ASLEEP, fresh=FreshDays(count=3, needed=14, ready_at=TODAY + 11 * DAY))
    assert only(decide(heard(1, DEGRADED), history=later)).reason.startswith("fresh_days: ")
    outcome = only(decide(heard(1, DEGRADED, age=29 * DAY), history=ASLEEP))
    assert outcome.until == TODAY + DAY
    assert outcome.reason.endswith("lifts 2013-06-18T04:00Z; this event expires 2013-06-17T04:00Z")
    assert only(decide(heard(1, DEGRADED), history=replace(ASLEEP, broken="no wind"))).reason.startswith("broken_data")


def test_what_does_not_count_is_told_so_asleep_or_awake() -> None:
    for event in (heard(1, drift()), heard(1, cleared()), heard(1, rows(5))):
        assert decide(event, history=ASLEEP) == decide(event)


def test_a_run_waits_for_the_monitor_to_look_at_the_rows_and_then_for_what_it_found() -> None:
    looking = replace(QUIET, look_ends=WALL + 100 * SECOND)
    first = decide(heard(1, rows(30_000)), history=looking)
    assert (first.go, first.due_at) == (False, WALL + 100 * SECOND)
    assert only(first).reason == "monitor: goes when the monitor has looked at the newest rows"
    looked = replace(QUIET, looked_at=WALL - 2 * SECOND)
    assert decide(heard(1, rows(30_000)), history=looked).due_at == WALL + 3 * SECOND
    assert decide(heard(1, rows(30_000)), history=replace(QUIET, looked_at=WALL - 5 * SECOND)).go


def test_a_look_that_does_not_end_holds_nobody_for_ever_and_a_person_not_at_all() -> None:
    assert decide(heard(1, rows(30_000)), history=replace(QUIET, look_ends=WALL)).go
    assert decide(heard(1, REQUEST), history=replace(QUIET, look_ends=WALL + 100 * SECOND)).go


def test_too_few_fresh_days_defer_to_the_day_there_are_enough() -> None:
    ready = TODAY + 11 * DAY
    history = replace(QUIET, fresh=FreshDays(count=3, needed=14, ready_at=ready))
    outcome = only(decide(heard(1, DEGRADED), history=history))
    assert outcome == Outcome(
        1, "deferred", "fresh_days: 3 of 14 fresh mature days; enough at 2013-06-27T04:00Z", ready
    )


def test_an_event_that_dies_before_the_rule_lifts_waits_no_longer_than_it_lives() -> None:
    history = replace(QUIET, fresh=FreshDays(count=0, needed=14, ready_at=TODAY + 11 * DAY))
    outcome = only(decide(heard(1, DEGRADED, age=25 * DAY), history=history))
    assert outcome.until == TODAY + 5 * DAY
    assert outcome.reason.endswith("enough at 2013-06-27T04:00Z; this event expires 2013-06-21T04:00Z")


def test_fresh_days_that_should_be_there_wait_for_the_data_not_in_a_loop() -> None:
    history = replace(QUIET, fresh=FreshDays(count=3, needed=14, ready_at=TODAY))
    outcome = only(decide(heard(1, DEGRADED), history=history))
    assert outcome.until == TODAY + 29 * DAY
    assert "waits for the data to be published" in outcome.reason


def test_a_second_event_within_cooldown_is_deferred_with_its_reason() -> None:
    history = replace(QUIET, last_started_at=TODAY - HOUR)
    assert only(decide(heard(1, DEGRADED), history=history)) == Outcome(
        1, "deferred", "cooldown: last run started 2013-06-16T03:00Z; lifts 2013-06-16T09:00Z", TODAY + 5 * HOUR
    )
    assert decide(heard(1, DEGRADED), history=replace(QUIET, last_started_at=TODAY - 6 * HOUR)).go


def test_a_spent_day_is_waited_out_by_requests_too() -> None:
    history = replace(QUIET, runs_started_today=4)
    for data in (DEGRADED, REQUEST):
        outcome = only(decide(heard(1, data), history=history))
        assert outcome.reason == "runs_per_day: 4 of 4 runs started today; lifts 2013-06-17T00:00Z"
    assert decide(heard(1, DEGRADED), history=history, now=Now(history.day_resets_at, WALL)).go


def test_the_rule_that_lifts_last_is_the_one_told() -> None:
    history = replace(QUIET, last_started_at=TODAY, runs_started_today=4, fresh=FreshDays(0, 14, ready_at=TODAY + DAY))
    assert only(decide(heard(1, DEGRADED), history=history)).until == TODAY + DAY


def test_events_wait_for_quiet_and_then_go_together() -> None:
    burst = [heard(key, DEGRADED, since=key * SECOND) for key in (1, 2, 4)]
    admission = decide(*burst)
    assert not admission.go
    assert admission.due_at == WALL + 4 * SECOND
    assert {(outcome.fate, outcome.until) for outcome in admission.outcomes} == {("pending", None)}
    assert admission.reason == "debounce: 3 events; goes after 5s of quiet, at 2026-01-01T00:00:04Z"
    assert decide(*burst, now=Now(TODAY, WALL + 4 * SECOND)).go


def test_an_endless_storm_cannot_starve_the_model() -> None:
    storm = [heard(key, DEGRADED, since=key * SECOND) for key in range(51)]
    assert decide(*storm).go
    assert not decide(*storm[:50]).go


def test_an_event_long_received_is_not_debounced_when_its_deferral_ends() -> None:
    history = replace(QUIET, last_started_at=TODAY - 6 * HOUR)
    assert decide(heard(1, DEGRADED, since=HOUR), history=history).go


def test_a_request_passes_debounce_and_cooldown_and_is_the_trigger() -> None:
    history = replace(QUIET, last_started_at=TODAY)
    admission = decide(heard(1, REQUEST, age=DAY), heard(2, DEGRADED, age=HOUR, since=SECOND), history=history)
    assert (admission.go, admission.trigger) == (True, 1)
    assert admission.reason == "admitted: 2 events, by request of ada: new routes"


FOLLOW_UP = replace(
    heard(9, RetrainRequested(reason="28 more fresh days", actor="ratchet"), age=2 * DAY),
    source="/ratchet/attempts/toy.3",
    origin="attempt",
    not_before=TODAY + 40 * DAY,
)
DUE = replace(FOLLOW_UP, not_before=TODAY)
URGENT = replace(POLICY, urgent=0.9)


def test_a_follow_up_is_due_at_its_date_and_drift_and_data_wait_with_it() -> None:
    admission = decide(FOLLOW_UP, *CONFIRMED, heard(3, rows(30_000)))
    assert not admission.go
    assert [outcome.until for outcome in admission.outcomes] == [
        TODAY + 29 * DAY,
        TODAY + 30 * DAY - HOUR,
        TODAY + 29 * DAY,
        TODAY + 40 * DAY,
    ]
    assert admission.outcomes[0].reason == "follow_up: waits for the follow-up due at 2013-07-26T04:00Z"
    assert admission.outcomes[3].reason == "follow_up: due at 2013-07-26T04:00Z; 28 more fresh days"
    due = decide(FOLLOW_UP, now=Now(TODAY + 40 * DAY, WALL))
    assert (due.go, due.reason) == (True, "admitted: 1 event, by the follow-up of toy.3")


def test_a_due_follow_up_starts_the_run_and_takes_along_what_waited_for_it() -> None:
    admission = decide(DUE, *CONFIRMED, heard(3, rows(30_000)))
    assert (admission.go, admission.trigger) == (True, 9)
    assert {outcome.fate for outcome in admission.outcomes} == {"pending"}


def test_a_follow_up_whose_date_has_come_waits_for_the_data_to_reach_it_and_so_does_what_waits_for_it() -> None:
    late = replace(QUIET, as_of=TODAY - SECOND)
    admission = decide(DUE, *CONFIRMED, history=late)
    assert not admission.go
    assert admission.outcomes[2].reason == (
        "follow_up: due since 2013-06-16T04:00Z; waits for the data up to then to be published"
    )
    assert [outcome.until for outcome in admission.outcomes] == [
        TODAY + 29 * DAY,
        TODAY + 30 * DAY - HOUR,
        TODAY + 30 * DAY,
    ]
    assert decide(DUE, *CONFIRMED, history=replace(QUIET, as_of=TODAY)).go


@pytest.mark.parametrize("data", [REQUEST, DEGRADED, drift(severity=0.9)])
def test_what_does_not_wait_for_a_follow_up_starts_the_run_and_takes_it_and_all_that_waits_along(
    data: InboundData,
) -> None:
    policy = replace(URGENT, confirmations_at_least=1)
    waits = heard(2, rows(30_000), age=HOUR)
    admission = decide(FOLLOW_UP, heard(1, data), waits, policy=policy)
    assert (admission.go, admission.trigger) == (True, 1)
    assert {outcome.fate for outcome in admission.outcomes} == {"pending"}


def test_urgent_drift_that_is_not_confirmed_takes_nothing_along() -> None:
    admission = decide(FOLLOW_UP, heard(1, drift(severity=0.9)), heard(2, rows(30_000)), policy=URGENT)
    assert [outcome.reason.partition(":")[0] for outcome in admission.outcomes] == [
        "unconfirmed",
        "follow_up",
        "follow_up",
    ]


def test_drift_below_urgent_waits_for_the_follow_up() -> None:
    assert not decide(FOLLOW_UP, *CONFIRMED, policy=URGENT).go
    urgent = decide(FOLLOW_UP, CONFIRMED[0], heard(2, drift(severity=0.9), age=HOUR), policy=URGENT)
    assert (urgent.go, urgent.trigger) == (True, 2)


def test_without_fresh_days_enough_urgent_drift_waits_for_them_and_the_follow_up_with_it() -> None:
    history = replace(QUIET, fresh=FreshDays(count=3, needed=14, ready_at=TODAY + 11 * DAY))
    admission = decide(FOLLOW_UP, CONFIRMED[0], heard(2, drift(severity=0.9), age=HOUR), history=history, policy=URGENT)
    assert not admission.go
    assert {outcome.until for outcome in admission.outcomes} == {TODAY + 11 * DAY}


def test_a_follow_up_passes_no_cooldown() -> None:
    due = replace(FOLLOW_UP, not_before=TODAY - HOUR)
    assert not decide(due, history=replace(QUIET, last_started_at=TODAY - HOUR)).go


NIGHTLY = replace(POLICY, quiet_hours=(QuietWindow.parse("22:00-06:00"),))  # TODAY is midnight in New York


@pytest.mark.parametrize("data", [DEGRADED, REQUEST, drift(severity=1.0)])
def test_in_quiet_hours_everything_waits_for_their_end_even_a_request_and_urgent_drift(data: InboundData) -> None:
    policy = replace(NIGHTLY, confirmations_at_least=1, urgent=0.9)
    outcome = only(decide(heard(1, data), policy=policy))
    assert outcome == Outcome(
        1,
        "deferred",
        "quiet_hours: 22:00-06:00 (America/New_York); lifts 2013-06-16T10:00Z",
        TODAY + 6 * HOUR,
    )
    assert decide(heard(1, data), policy=policy, now=Now(TODAY + 6 * HOUR, WALL)).go


def month(spent: float, **last_run: float) -> History:
    past = (RunCost(**last_run),) if last_run else ()
    return replace(QUIET, core_hours=CoreHours(spent, TODAY + 14 * DAY, past))


FIVE_HOURS = replace(POLICY, core_hours_per_month=5.0)
SHRINKING = replace(FIVE_HOURS, shrink=True)


def test_a_spent_month_is_waited_out_by_requests_too_and_a_new_month_begins_at_nothing() -> None:
    for policy in (FIVE_HOURS, SHRINKING):
        outcome = only(decide(heard(1, REQUEST), history=month(5.0), policy=policy))
        assert outcome.reason == "core_hours_per_month: 5 of 5 core hours spent; lifts 2013-06-30T04:00Z"
    assert decide(heard(1, DEGRADED), history=month(5.0), policy=FIVE_HOURS, now=Now(TODAY + 14 * DAY, WALL)).go


def test_without_a_finished_run_the_hours_that_are_left_are_enough() -> None:
    assert decide(heard(1, DEGRADED), history=month(4.9), policy=FIVE_HOURS).go


def test_a_run_for_which_no_hours_are_left_waits_for_the_next_month() -> None:
    history = month(4.0, fixed=0.4, per_trial=0.1)
    outcome = only(decide(heard(1, DEGRADED), history=history, policy=FIVE_HOURS))
    assert outcome.reason == (
        "core_hours_per_month: 4 of 5 core hours spent, a run takes 1.6 by one run only; lifts 2013-06-30T04:00Z"
    )
    assert outcome.until == TODAY + 14 * DAY


def test_a_run_that_no_month_has_hours_for_is_told_what_to_do() -> None:
    outcome = only(decide(heard(1, DEGRADED), history=month(0.0, fixed=1, per_trial=1), policy=FIVE_HOURS))
    assert "more than the budget of a month: raise it, or lower train.trials" in outcome.reason


def test_a_shrunk_run_has_the_trials_that_the_hours_left_allow_and_says_so() -> None:
    admission = decide(heard(1, DEGRADED), history=month(4.0, fixed=0.5, per_trial=0.125), policy=SHRINKING)
    assert (admission.go, admission.trials) == (True, 4)
    assert admission.reason == (
        "admitted: 1 event, by payoff 3.1 against 4; "
        "shrunk to 4 of 12 trials: core_hours_per_month: 4 of 5 core hours spent, a whole run takes 2 by one run only"
    )


def test_a_run_is_not_shrunk_below_a_quarter_of_its_trials() -> None:
    history = month(4.0, fixed=0.75, per_trial=0.1)
    assert not decide(heard(1, DEGRADED), history=history, policy=SHRINKING).go


def test_the_days_hours_and_the_months_money_hold_a_run_until_theirs_begin_anew() -> None:
    past = (RunCost(0.4, 0.1),)
    today = CoreHours(1.0, TODAY + 20 * HOUR, past)
    policy = replace(POLICY, core_hours_per_day=2.0)
    outcome = only(decide(heard(1, DEGRADED), history=replace(QUIET, core_hours_today=today), policy=policy))
    assert outcome.reason == (
        "core_hours_per_day: 1 of 2 core hours spent, a run takes 1.6 by one run only; lifts 2013-06-17T00:00Z"
    )
    money = replace(policy, money_per_month=Money(amount=10.0, core_hour=2.0, unit="EUR"))
    both = replace(QUIET, core_hours_today=today, core_hours=CoreHours(4.0, TODAY + 14 * DAY, past))
    outcome = only(decide(heard(1, DEGRADED), history=both, policy=money))
    assert outcome.reason == (
        "money_per_month: 8 of 10 EUR spent, a run takes 3.2 by one run only; lifts 2013-06-30T04:00Z"
    ), "the limit that lifts last is told"
    assert decide(heard(1, DEGRADED), history=replace(both, core_hours_today=None), policy=policy).go


def test_the_tightest_limit_says_how_many_trials_a_shrunk_run_has() -> None:
    past = (RunCost(0.5, 0.125),)
    policy = replace(SHRINKING, core_hours_per_day=1.5)
    history = replace(month(4.0), core_hours_today=CoreHours(0.25, TODAY + 20 * HOUR, past))
    history = replace(history, core_hours=CoreHours(4.0, TODAY + 14 * DAY, past))
    assert decide(heard(1, DEGRADED), history=history, policy=policy).trials == 4
    assert decide(heard(1, DEGRADED), history=history, policy=replace(policy, core_hours_per_month=99.0)).trials == 6


def test_one_run_that_went_wrong_among_five_does_not_hold_the_next_one() -> None:
    usual, wrong = RunCost(0.1, 0.05), RunCost(9.0, 0.05)
    history = replace(QUIET, core_hours=CoreHours(4.0, TODAY + 14 * DAY, (wrong, usual, usual, usual, usual)))
    assert decide(heard(1, DEGRADED), history=history, policy=FIVE_HOURS).go
    history = replace(history, core_hours=CoreHours(4.0, TODAY + 14 * DAY, (wrong, wrong, usual, usual, usual)))
    assert not decide(heard(1, DEGRADED), history=history, policy=FIVE_HOURS).go


def test_data_and_mild_drift_wait_until_a_run_pays_and_nothing_else_does() -> None:
    asked = replace(QUIET, waiting=Waiting(cost=6.0, loss_per_day=2.0, unit="USD", gained=1, tried=4))
    data = heard(1, rows(30_000), age=DAY)
    outcome = only(decide(data, history=asked))
    assert (outcome.fate, outcome.until) == ("deferred", TODAY + 2 * DAY)
    assert outcome.reason == (
        "when_it_pays: a run costs 6 USD, a day of waiting loses 2 USD (1 of the last 4 runs promoted); "
        "pays 2013-06-18T04:00Z"
    )
    assert decide(data, history=asked, now=Now(TODAY + 2 * DAY, WALL)).go
    assert decide(data, history=QUIET).go
    for passing in (heard(2, REQUEST), heard(2, DEGRADED)):
        assert decide(data, passing, history=asked).go
    urgent = replace(POLICY, urgent=0.9, confirmations_at_least=1, confirmations_of_last=1)
    assert not decide(data, heard(2, drift(severity=0.8)), history=asked, policy=urgent).go
    assert decide(data, heard(2, drift(severity=0.95)), history=asked, policy=urgent).go


def test_where_no_run_ever_gained_data_wait_until_they_expire() -> None:
    never = replace(QUIET, waiting=Waiting(cost=6.0, loss_per_day=0.0, unit="USD", gained=0, tried=4))
    outcome = only(decide(heard(1, rows(30_000), age=DAY), history=never))
    assert outcome.until == TODAY + 29 * DAY
    assert outcome.reason.endswith("(0 of the last 4 runs promoted); never pays as it is")


def test_the_oldest_event_that_counts_and_the_first_incident_named_order_the_fleet() -> None:
    named = replace(heard(2, DEGRADED, age=HOUR), incident="feed down")
    admission = decide(heard(1, DEGRADED, age=2 * DAY), named, heard(3, drift(), age=9 * DAY))
    assert (admission.since, admission.incident) == (TODAY - 2 * DAY, "feed down")


@pytest.mark.parametrize("wall", [WALL, WALL + HOUR], ids=["while debouncing", "when admitted"])
def test_a_burst_that_grows_leaves_what_its_first_events_were_told_alone(wall: datetime) -> None:
    burst = [heard(key, drift(-key % 2, severity=0.5 + key / 200), since=SECOND) for key in range(1, 40)]
    told = [decide(*burst[:size], now=Now(TODAY, wall)).outcomes[:10] for size in (20, 30, 39)]
    assert told[0] == told[1] == told[2]


def test_data_that_accumulates_leaves_what_earlier_data_was_told_alone() -> None:
    first, second = (
        decide(heard(1, rows(7_000), age=2 * DAY)),
        decide(heard(1, rows(7_000), age=2 * DAY), heard(2, rows(6_000))),
    )
    assert second.outcomes[0] == first.outcomes[0]
    assert second.outcomes[1].reason.startswith("accumulating: 13,000 of 20,000")
    assert second.reason.startswith("accumulating: 13,000 of 20,000")


def test_copies_of_an_event_count_once_and_share_its_fate() -> None:
    original = heard(1, rows(13_402))
    admission = decide(original, replace(original, key=2), original)
    assert [outcome.key for outcome in admission.outcomes] == [1, 2]
    assert len({outcome.reason for outcome in admission.outcomes}) == 1
    assert not admission.go


def test_a_hundred_thousand_events_are_one_decision_in_seconds() -> None:
    storm = [heard(key, drift(-key % 20), since=SECOND) for key in range(100_000)]
    began = process_time()
    admission = decide(*storm, now=Now(TODAY, WALL + HOUR))
    assert admission.go
    assert len(admission.outcomes) == 100_000
    assert process_time() - began < 20


moments = st.integers(-60 * 24, 24).map(lambda hours: TODAY + hours * HOUR)
datas = st.one_of(
    st.builds(drift, st.integers(-4, 0), st.sampled_from([0.1, 0.3, 0.9]), st.sampled_from(["a", "b"])),
    st.builds(cleared, st.integers(-4, 0), st.sampled_from(["a", "b"])),
    st.builds(rows, st.sampled_from([0, 7_000, 20_000]), st.sampled_from(["flights", "weather", "planes"])),
    st.sampled_from([DEGRADED, REQUEST]),
)


@st.composite
def open_events(draw: st.DrawFn) -> OpenEvent:
    key = draw(st.integers(0, 12))
    fixed = random.Random(key)  # equal keys are one event, whatever else is drawn for them
    data = draw(datas)
    event = OpenEvent(
        key=key,
        event_id=f"e-{fixed.randrange(3)}-{key}",
        source="/monitor",
        type=KINDS[type(data)],
        time=draw(moments),
        received_at=WALL - draw(st.integers(0, 30)) * SECOND,
        data=data,
    )
    if draw(st.integers(0, 9)) == 0:
        return replace(event, data=REQUEST, origin="attempt", not_before=draw(st.none() | moments))
    if isinstance(data, RetrainRequested):
        return replace(event, origin=draw(st.sampled_from(["kafka", "schedule"])))
    return event


event_sets = st.lists(open_events(), max_size=8, unique_by=lambda event: event.key)
histories = st.builds(
    History,
    has_champion=st.sampled_from([True, True, True, False]),
    last_started_at=st.none() | moments,
    runs_started_today=st.integers(0, 5),
    day_resets_at=st.integers(-3, 24).map(lambda hours: TODAY + hours * HOUR),
    observations=st.lists(st.builds(Observation, st.sampled_from(["a", "b"]), moments, st.booleans())).map(tuple),
    fresh=st.builds(FreshDays, st.sampled_from([3, 14, 14, 14]), st.just(14), st.none() | moments),
    core_hours=st.none()
    | st.builds(
        CoreHours,
        st.sampled_from([0.0, 4.0, 6.0]),
        st.integers(-3, 72).map(lambda hours: TODAY + hours * HOUR),
        st.lists(st.builds(RunCost, st.just(0.5), st.sampled_from([0.1, 1.0])), max_size=3).map(tuple),
    ),
    core_hours_today=st.none()
    | st.builds(
        CoreHours,
        st.sampled_from([0.0, 1.0, 2.0]),
        st.integers(-3, 24).map(lambda hours: TODAY + hours * HOUR),
        st.lists(st.builds(RunCost, st.just(0.5), st.sampled_from([0.1, 1.0])), max_size=3).map(tuple),
    ),
    as_of=st.none() | moments,
    waiting=st.none()
    | st.builds(Waiting, st.just(2.0), st.sampled_from([0.0, 1.0, 4.0]), st.just("USD"), st.just(1), st.just(4)),
    broken=st.sampled_from([None, None, None, "no wind"]),
    looked_at=st.none() | st.integers(-600, 0).map(lambda seconds: WALL + seconds * SECOND),
    look_ends=st.sampled_from([None, None, WALL + 60 * SECOND]),
    snooze=st.sampled_from([None, None, ASLEEP.snooze]),
)
policies = st.builds(
    replace,
    st.just(POLICY),
    core_hours_per_month=st.sampled_from([None, 5.0]),
    core_hours_per_day=st.sampled_from([None, 2.0]),
    money_per_month=st.sampled_from([None, Money(amount=9.0, core_hour=2.0, unit="EUR")]),
    shrink=st.booleans(),
    urgent=st.sampled_from([None, 0.9]),
)
quiet_policies = st.builds(
    lambda policy, texts: replace(policy, quiet_hours=tuple(QuietWindow.parse(text) for text in texts)),
    policies,
    st.lists(st.sampled_from(["22:00-06:00", "sun 00:00-24:00", "mon-fri 09:30-17:00"]), unique=True, max_size=3),
)
nows = st.builds(
    Now,
    business=st.integers(0, 72).map(lambda hours: TODAY + hours * HOUR),
    wall=st.integers(0, 60).map(lambda seconds: WALL + seconds * SECOND),
)


@SEEDED
@given(quiet_policies, event_sets, histories, nows, st.randoms(use_true_random=False))
def test_neither_order_nor_copies_change_the_outcome(
    policy: AdmissionPolicy, events: list[OpenEvent], history: History, now: Now, shuffler: random.Random
) -> None:
    again = [*events, *events[:3]]
    shuffler.shuffle(again)
    observed = list(history.observations) * 2
    shuffler.shuffle(observed)
    other = decide_admission(policy, again, replace(history, observations=tuple(observed)), now)
    assert other == decide_admission(policy, events, history, now)


@SEEDED
@given(quiet_policies, event_sets, histories, nows)
def test_every_event_has_exactly_one_fate_with_a_rule_and_a_moment_ahead(
    policy: AdmissionPolicy, events: list[OpenEvent], history: History, now: Now
) -> None:
    admission = decide_admission(policy, events, history, now)
    assert [outcome.key for outcome in admission.outcomes] == sorted(event.key for event in events)
    for outcome in admission.outcomes:
        assert outcome.reason.partition(":")[0] in {
            "accumulating", "admitted", "broken_data", "cleared", "cooldown", "core_hours_per_day",
            "core_hours_per_month", "debounce", "follow_up", "fresh_days", "max_event_age", "min_severity",
            "money_per_month", "monitor", "no_champion",
            "not_subscribed", "quiet_hours", "recovered", "runs_per_day", "snooze", "unconfirmed", "when_it_pays",
        }  # fmt: skip
        assert (outcome.until is not None) == (outcome.fate == "deferred")
        assert outcome.until is None or outcome.until > now.business
    pending = [outcome for outcome in admission.outcomes if outcome.fate == "pending"]
    assert bool(pending) == (admission.due_at is not None)
    assert admission.go == (admission.due_at is not None and admission.due_at <= now.wall)
    assert (admission.trigger in [outcome.key for outcome in pending]) == admission.go


@SEEDED
@given(policies, event_sets, histories, nows, st.integers(0, 72), st.integers(0, 60))
def test_time_never_un_admits_but_for_expiry_and_quiet_hours(
    policy: AdmissionPolicy, events: list[OpenEvent], history: History, now: Now, hours: int, seconds: int
) -> None:
    earlier = decide_admission(policy, events, history, now)
    later_now = Now(now.business + hours * HOUR, now.wall + seconds * SECOND)
    later = decide_admission(policy, events, history, later_now)
    fates = {outcome.key: outcome.fate for outcome in later.outcomes}
    expired = {key for key, fate in fates.items() if fate == "expired"}
    if earlier.go and expired == {outcome.key for outcome in earlier.outcomes if outcome.fate == "expired"}:
        assert later.go
    for outcome in earlier.outcomes:
        if outcome.fate == "expired":
            assert fates[outcome.key] == "expired"


@SEEDED
@given(quiet_policies, event_sets, histories, nows)
def test_a_deferred_event_is_admitted_or_told_anew_at_its_moment(
    policy: AdmissionPolicy, events: list[OpenEvent], history: History, now: Now
) -> None:
    """Nothing waits for a moment that changes nothing: deciding again then gives another reason or another fate."""
    first = decide_admission(policy, events, history, now)
    moments_ahead = [outcome.until for outcome in first.outcomes if outcome.until is not None]
    if not moments_ahead:
        return
    again = decide_admission(policy, events, history, Now(min(moments_ahead), now.wall))
    assert again.outcomes != first.outcomes
