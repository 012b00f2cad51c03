"""The year's plan, played through the real rules of the shipped spec."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from ratchet.adapters.specs import load_spec
from ratchet.cli.year import DATASETS, Act, arrived, midnight, plan_year
from ratchet.domain import admission
from ratchet.domain.events import InboundData
from ratchet.domain.holdout import HoldoutPlan, plan_holdout
from ratchet.errors import Refused

SPEC = load_spec(Path(__file__).parents[3] / "include" / "models" / "flight_delay" / "model.yaml")
POLICY = admission.AdmissionPolicy.from_spec(SPEC)
ZONE = SPEC.data.spine.zone
ROWS_PER_DAY = 900
WALL = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class World:
    """A model whose every verdict keeps its champion; what became of each act is kept."""

    open: dict[int, admission.OpenEvent] = field(default_factory=dict)
    used: set[date] = field(default_factory=set)
    last_started_at: datetime | None = None
    heard: int = 0
    now: datetime = datetime(2013, 1, 1, 5, tzinfo=UTC)

    def live(self, act: Act) -> tuple[str | None, set[str]]:
        """The trigger's type when an attempt starts, and the rules named in the reasons of all that waits."""
        for event in act.events:
            rows = ROWS_PER_DAY * (event.end - event.start).days
            for dataset in DATASETS:
                self._hear(arrived(event, dataset, rows, ZONE), midnight(event.end, ZONE))
            self.now = midnight(event.end, ZONE)
        decided = self._decide(first=act.expects == "init")
        fates = {outcome.key: outcome for outcome in decided.outcomes}
        trigger = self.open[decided.trigger].type if decided.trigger is not None else None
        rules = {outcome.reason.partition(":")[0] for outcome in fates.values()}
        started = decided.go or act.expects == "init"
        for key, outcome in fates.items():
            due = outcome.fate == "deferred" and outcome.until is not None and outcome.until <= self.now
            if outcome.fate in {"suppressed", "expired"} or (started and (outcome.fate == "pending" or due)):
                self.open.pop(key)
        if started:
            self._use_days()
            self.open = {} if act.expects == "init" else self.open
        return ("init" if act.expects == "init" else trigger), rules

    def _hear(self, data: InboundData, at: datetime) -> None:
        self.heard += 1
        self.open[self.heard] = admission.OpenEvent(self.heard, str(self.heard), "test", "data", at, WALL, data)

    def _plan(self) -> admission.FreshDays:
        planned = self._holdout()
        needed = SPEC.data.holdout.min_clusters
        if isinstance(planned, HoldoutPlan):
            return admission.FreshDays(len(planned.holdout_days), needed, None)
        return admission.FreshDays(planned.count, needed, planned.ready_at)

    def _holdout(self):  # type: ignore[no-untyped-def]
        return plan_holdout(
            as_of=self.now,
            timezone=SPEC.data.spine.timezone,
            label_delay=SPEC.data.spine.label_delay,
            window=SPEC.data.window,
            last=SPEC.data.holdout.last,
            min_clusters=SPEC.data.holdout.min_clusters,
            used_days=self.used,
        )

    def _use_days(self) -> None:
        planned = self._holdout()
        assert isinstance(planned, HoldoutPlan)
        self.used |= set(planned.holdout_days)
        self.last_started_at = self.now

    def _decide(self, *, first: bool) -> admission.Admission:
        history = admission.History(
            has_champion=not first,
            last_started_at=self.last_started_at,
            runs_started_today=0,
            day_resets_at=self.now + timedelta(days=1),
            observations=(),
            fresh=self._plan(),
        )
        now = admission.Now(business=self.now, wall=WALL + timedelta(hours=1))
        return admission.decide_admission(POLICY, list(self.open.values()), history, now)


def _lived(until: str | None = None) -> list[tuple[Act, str | None, set[str]]]:
    world = World()
    return [(act, *world.live(act)) for act in plan_year(until)]


def test_every_act_does_what_the_plan_expects() -> None:
    for act, trigger, rules in _lived():
        assert (trigger is not None) == (act.expects != "waits"), (act, trigger, rules)


def test_every_month_ends_with_an_attempt() -> None:
    attempts = {act.month for act, trigger, _ in _lived() if trigger}
    assert attempts == {f"2013-{month:02d}" for month in range(3, 13)}


@pytest.mark.parametrize("month", range(5, 13))
def test_from_may_on_a_month_comes_in_halves_of_which_the_first_has_too_few_rows(month: int) -> None:
    first, second = (found for found in _lived() if found[0].month == f"2013-{month:02d}")
    assert first[1:] == (None, {"accumulating"})
    assert second[1] == "data"


def test_only_a_data_platform_publishes_and_every_half_completes_a_window_of_the_monitor() -> None:
    assert SPEC.monitor is not None
    acts = plan_year()
    days = [(event.end - event.start).days for act in acts for event in act.events]
    assert len(days) == len(acts)
    assert min(days) * timedelta(days=1) >= SPEC.monitor.every
    ends = [event.end for act in acts for event in act.events]
    assert [event.start for act in acts[1:] for event in act.events] == ends[:-1]


def test_nothing_is_left_waiting_or_expires_in_a_whole_year() -> None:
    world = World()
    expired = [act for act in plan_year() if "max_event_age" in world.live(act)[1]]
    assert (expired, world.open) == ([], {})


@pytest.mark.parametrize("month", range(3, 12))
def test_until_a_month_leaves_half_a_month_that_starts_nothing_by_itself_but_can_be_judged(month: int) -> None:
    world = World()
    *_, last = acts = plan_year(f"2013-{month:02d}")
    found = [world.live(act) for act in acts]
    assert found[-1] == (None, {"accumulating"})
    assert last.month == f"2013-{month + 1:02d}"
    assert isinstance(world._holdout(), HoldoutPlan)


def test_until_december_is_the_year() -> None:
    assert plan_year("2013-12") == plan_year()


@pytest.mark.parametrize("text", ["2013-02", "2013-13", "2012-05", "2013-5", "May", "2013-"])
def test_other_months_are_refused(text: str) -> None:
    with pytest.raises(Refused, match="2013-03 to 2013-12"):
        plan_year(text)


def test_days_are_local_days_also_when_clocks_change() -> None:
    assert midnight(date(2013, 4, 1), ZONE) == datetime(2013, 4, 1, 4, tzinfo=UTC)
    assert midnight(date(2014, 1, 1), ZONE) == datetime(2014, 1, 1, 5, tzinfo=UTC)
