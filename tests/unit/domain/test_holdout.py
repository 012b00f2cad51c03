from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ratchet.domain.holdout import HoldoutPlan, NotEnoughFreshDays, days_too_near, mature_at, plan_holdout

NEW_YORK = "America/New_York"
DAY = timedelta(days=1)
NEW_YEAR = date(2013, 1, 1)


def plan(as_of: datetime, **changes: object) -> HoldoutPlan | NotEnoughFreshDays:
    asked: dict[str, object] = {
        "timezone": NEW_YORK,
        "label_delay": 2 * DAY,
        "window": 180 * DAY,
        "last": 28 * DAY,
        "min_clusters": 14,
        "used_days": (),
        "train_floor": NEW_YEAR,
    }
    return plan_holdout(as_of=as_of, **(asked | changes))  # type: ignore[arg-type]


def days(first: date, last: date) -> list[date]:
    return [first + i * DAY for i in range((last - first).days + 1)]


def test_first_champion_in_april_is_judged_on_march_and_trained_from_new_year() -> None:
    made = plan(datetime(2013, 4, 1, 4, tzinfo=UTC))
    assert isinstance(made, HoldoutPlan)
    assert made.holdout_days == tuple(days(date(2013, 3, 2), date(2013, 3, 29)))
    assert (made.calibrate_start, made.calibrate_end) == (date(2013, 1, 31), date(2013, 2, 28))
    assert (made.fit_start, made.fit_end) == (NEW_YEAR, date(2013, 1, 29))


def test_between_fit_calibration_and_holdout_lie_label_delays() -> None:
    made = plan(datetime(2013, 12, 1, tzinfo=UTC), label_delay=timedelta(hours=49))
    assert isinstance(made, HoldoutPlan)
    assert made.holdout_start - made.calibrate_end == 3 * DAY
    assert made.calibrate_start - made.fit_end == 3 * DAY


def test_training_reaches_back_one_window_before_the_holdout() -> None:
    made = plan(datetime(2013, 12, 31, tzinfo=UTC))
    assert isinstance(made, HoldoutPlan)
    assert made.fit_start == made.holdout_start - 180 * DAY


def test_day_is_mature_only_when_its_local_end_plus_the_delay_has_passed() -> None:
    matures = datetime(2013, 4, 1, 4, tzinfo=UTC)
    assert mature_at(date(2013, 3, 29), NEW_YORK, 2 * DAY) == matures
    before, after = plan(matures - timedelta(microseconds=1)), plan(matures)
    assert isinstance(before, HoldoutPlan)
    assert isinstance(after, HoldoutPlan)
    assert before.holdout_days[-1] == date(2013, 3, 28)
    assert after.holdout_days[-1] == date(2013, 3, 29)


def test_end_of_a_local_day_moves_with_daylight_saving() -> None:
    assert mature_at(date(2013, 3, 9), NEW_YORK, DAY) == datetime(2013, 3, 11, 5, tzinfo=UTC)
    assert mature_at(date(2013, 3, 10), NEW_YORK, DAY) == datetime(2013, 3, 12, 4, tzinfo=UTC)
    assert mature_at(date(2013, 11, 3), NEW_YORK, DAY) == datetime(2013, 11, 5, 5, tzinfo=UTC)


def test_used_days_never_judge_again_but_may_train() -> None:
    used = days(date(2013, 3, 2), date(2013, 3, 29))
    made = plan(datetime(2013, 5, 1, tzinfo=UTC), used_days=used)
    assert isinstance(made, HoldoutPlan)
    assert not set(used) & set(made.holdout_days)
    assert made.holdout_start == date(2013, 3, 31)
    assert made.calibrate_end == date(2013, 3, 29)


def test_days_older_than_a_used_one_do_not_drag_the_holdout_back() -> None:
    made = plan(datetime(2013, 5, 1, tzinfo=UTC), used_days=["2013-04-10"])
    assert isinstance(made, HoldoutPlan)
    assert made.holdout_start == date(2013, 4, 11)


def test_too_few_fresh_days_say_how_many_there_are_and_when_there_are_enough() -> None:
    used = days(date(2013, 3, 2), date(2013, 3, 29))
    short = plan(datetime(2013, 4, 8, 12, tzinfo=UTC), used_days=used)
    assert isinstance(short, NotEnoughFreshDays)
    assert (short.count, short.needed) == (7, 14)
    assert short.ready_at == datetime(2013, 4, 15, 4, tzinfo=UTC)


@pytest.mark.parametrize(("delay", "near"), [(2 * DAY, 2), (timedelta(hours=49), 3), (timedelta(0), 0)])
def test_between_the_newest_fitted_day_of_a_refit_and_the_next_holdout_lies_a_label_delay(
    delay: timedelta, near: int
) -> None:
    newest = date(2013, 4, 10)
    fitted = days(NEW_YEAR, newest)
    assert days_too_near(newest, delay) == tuple(days(newest + DAY, newest + near * DAY))
    made = plan(
        datetime(2013, 5, 1, 4, tzinfo=UTC),
        label_delay=delay,
        last=90 * DAY,
        used_days=[*fitted, *days_too_near(newest, delay)],
    )
    assert isinstance(made, HoldoutPlan)
    assert made.holdout_start == newest + (near + 1) * DAY


def test_history_too_short_to_train_defers_to_a_stated_instant() -> None:
    short = plan(datetime(2013, 2, 1, tzinfo=UTC))
    assert isinstance(short, NotEnoughFreshDays)
    assert short.count == 0
    assert isinstance(plan(short.ready_at), HoldoutPlan)


def test_naive_as_of_is_refused() -> None:
    with pytest.raises(ValueError, match="timezone-aware"):
        plan(datetime(2013, 4, 1))  # noqa: DTZ001


@pytest.mark.parametrize("wrong", [{"min_clusters": 29}, {"min_clusters": 0}, {"window": 40 * DAY}])
def test_lengths_that_leave_no_room_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="but got"):
        plan(datetime(2013, 4, 1, tzinfo=UTC), **wrong)


@settings(deadline=None)
@given(
    as_of=st.datetimes(datetime(2013, 1, 1), datetime(2014, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    hours=st.integers(0, 100),
    used=st.sets(st.dates(NEW_YEAR, date(2013, 12, 31)), max_size=5),
    zone=st.sampled_from([NEW_YORK, "UTC", "Asia/Kathmandu", "America/Sao_Paulo", "Pacific/Apia"]),
    floor=st.one_of(st.none(), st.just(NEW_YEAR)),
)
def test_plan_is_ordered_mature_and_fresh_or_ready_exactly_when_promised(  # type: ignore[no-untyped-def]
    as_of, hours, used, zone, floor
) -> None:
    asked = {"timezone": zone, "label_delay": timedelta(hours=hours), "used_days": used, "train_floor": floor}
    made = plan(as_of, **asked)
    if isinstance(made, NotEnoughFreshDays):
        assert made.count < made.needed
        assert made.ready_at > as_of
        assert isinstance(plan(made.ready_at, **asked), HoldoutPlan)
        assert isinstance(plan(made.ready_at - timedelta(seconds=1), **asked), NotEnoughFreshDays)
        return
    assert 14 <= len(made.holdout_days) <= 28
    assert list(made.holdout_days) == days(made.holdout_days[0], made.holdout_days[-1])
    assert not used & set(made.holdout_days)
    newest = made.holdout_days[-1]
    delay = timedelta(hours=hours)
    assert mature_at(newest, zone, delay) <= as_of < mature_at(newest + DAY, zone, delay)
    assert made.fit_start < made.fit_end < made.calibrate_start + DAY
    assert made.calibrate_start < made.calibrate_end <= made.holdout_days[0]
    assert made.gap >= delay
