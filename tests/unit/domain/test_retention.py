"""What retention removes: never what a champion, its predecessor, an open attempt or a retained version needs."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from ratchet.domain.retention import InPlace, Item, Needed, PastAttempt, RetentionRule, decide_purge
from ratchet.domain.spec import Retention, explain

NOW = datetime(2013, 12, 1, tzinfo=UTC)
DAY = timedelta(days=1)


def past(number: int, *versions: int, is_open: bool = False, **more: object) -> PastAttempt:
    given_ = {"began": NOW - (100 - number) * DAY, "versions": frozenset(versions)} | more
    return PastAttempt(f"m.{number}", number, is_open=is_open, **given_)  # type: ignore[arg-type]


def there(*attempts: PastAttempt, **more: object) -> InPlace:
    made = InPlace(
        snapshots=frozenset(attempt.id for attempt in attempts),
        versions=frozenset(version for attempt in attempts for version in attempt.versions),
        studies={attempt.id: attempt.id for attempt in attempts},
    )
    return replace(made, **more)  # type: ignore[arg-type]


def removed(kind: str, purge) -> list[str]:
    return [item.name for item in purge.remove if item.kind == kind]


TEN = [past(number, number) for number in range(1, 11)]


def test_the_newest_versions_stay_with_their_snapshots_and_older_ones_go_with_theirs() -> None:
    purge = decide_purge(RetentionRule(snapshots=2, versions=4), TEN, Needed(), there(*TEN), NOW)
    assert removed("version", purge) == ["1", "2", "3", "4", "5", "6"]
    assert removed("snapshot", purge) == ["m.1", "m.2", "m.3", "m.4", "m.5", "m.6"]
    assert [item.name for item in purge.spared] == ["m.7", "m.8"]
    assert purge.spared[0].why == "version 7 is retained: by its number"


def test_without_a_rule_of_versions_all_are_retained_and_so_are_their_snapshots() -> None:
    unjudged = past(11)
    newest = [*TEN, unjudged, past(12)]
    purge = decide_purge(RetentionRule(snapshots=1), newest, Needed(), there(*newest), NOW)
    assert [item.name for item in purge.remove] == ["m.11"], "only the snapshot that no version names"


def test_whoever_needs_a_version_is_told() -> None:
    needed = Needed(versions={2: "it is the champion", 1: "a rollback takes it back"})
    purge = decide_purge(RetentionRule(snapshots=1, versions=1), TEN, needed, there(*TEN), NOW)
    spared = {(item.kind, item.name): item.why for item in purge.spared}
    assert spared["version", "2"] == "it is the champion"
    assert spared["version", "1"] == "a rollback takes it back"
    assert spared["snapshot", "m.2"] == "version 2 is retained: it is the champion"
    assert Item("version", "3", "retention.versions: 1") in purge.remove


def test_an_open_attempt_keeps_its_own_and_whom_it_judges_against() -> None:
    attempts = [*TEN, past(11, 11, is_open=True, champion=3), past(12, 12), past(13, 13)]
    rule = RetentionRule(snapshots=1, versions=1, studies=DAY)
    purge = decide_purge(rule, attempts, Needed(), there(*attempts), NOW)
    assert {"3", "11"}.isdisjoint(removed("version", purge))
    assert {"m.3", "m.11"}.isdisjoint(removed("snapshot", purge))
    assert "m.11" not in removed("study", purge)
    assert "m.3" in removed("study", purge), "the dossier tells of the study of an attempt that has ended"


def test_a_retained_refit_keeps_what_was_judged_for_it_and_a_shared_scorer_its_owner() -> None:
    attempts = [past(1, 1), past(2, 2, 3), past(3, 4, shares=frozenset({1}), champion=1), past(4, 5)]
    needed = Needed(versions={3: "it is the champion", 4: "a rollback takes it back"})
    purge = decide_purge(RetentionRule(versions=1), attempts, needed, there(*attempts), NOW)
    assert removed("version", purge) == []


def test_an_earlier_look_keeps_the_training_rows_of_a_later_one() -> None:
    attempts = [past(1), past(2, looked_before="m.1"), past(3, 9, looked_before="m.2"), past(4)]
    purge = decide_purge(RetentionRule(snapshots=1, versions=1), attempts, Needed(), there(*attempts), NOW)
    assert removed("snapshot", purge) == []


def test_ages_are_of_business_time_and_the_newest_report_and_named_ones_stay() -> None:
    files = {f"r{age}": NOW - age * DAY for age in (10, 20, 30)}
    rule = RetentionRule(reports=5 * DAY, predictions=15 * DAY)
    needed = Needed(reports={"r30": "event e1, which is open, names it"})
    purge = decide_purge(rule, [], needed, InPlace(predictions=files, reports=files), NOW)
    assert removed("report", purge) == ["r20"]
    assert removed("predictions", purge) == ["r30", "r20"]
    assert decide_purge(replace(rule, reports=None), [], Needed(), InPlace(reports=files), NOW).remove == ()


def test_what_is_of_no_known_attempt_is_of_no_rule() -> None:
    strays = InPlace(snapshots=frozenset({"gone.1"}), studies={"gone.1": "gone.1"})
    rule = RetentionRule(snapshots=1, versions=1, studies=DAY)
    assert decide_purge(rule, [], Needed(), strays, NOW).remove == ()


@pytest.mark.parametrize("told", [{}, {"attempts": "forever"}])
def test_a_retention_that_limits_nothing_is_refused(told) -> None:
    with pytest.raises(ValidationError) as caught:
        Retention.model_validate(told)
    assert "keeps everything" in explain(caught.value)[0].message


COUNTS = st.none() | st.integers(1, 4)


@st.composite
def histories(draw) -> tuple[list[PastAttempt], Needed]:
    """Attempts with versions, refits, looks, shared scorers and open ends; some champions, one of them serving."""
    attempts: list[PastAttempt] = []
    version = 0
    for number in range(1, draw(st.integers(1, 12)) + 1):
        before = draw(st.none() | st.sampled_from(attempts)) if attempts else None
        made: set[int] = set(before.versions) if before else set()
        for _ in range(0 if before else draw(st.integers(0, 2))):
            version += 1
            made.add(version)
        known = sorted(v for attempt in attempts for v in attempt.versions)
        champion = draw(st.none() | st.sampled_from(known)) if known else None
        shares = frozenset({champion} if champion is not None and draw(st.booleans()) else ())
        is_open = draw(st.integers(0, 5)) == 0
        looked = before.id if before else None
        attempts.append(past(number, *made, is_open=is_open, champion=champion, shares=shares, looked_before=looked))
    versions = sorted({v for attempt in attempts for v in attempt.versions})
    named = draw(st.lists(st.sampled_from(versions), max_size=2)) if versions else []
    asked = draw(st.lists(st.sampled_from(attempts), max_size=1))
    return attempts, Needed(dict.fromkeys(named, "needed"), {attempt.id: "needed" for attempt in asked})


@settings(max_examples=300)
@given(
    histories(),
    st.builds(RetentionRule, COUNTS, COUNTS, st.none() | st.integers(0, 99).map(lambda n: n * DAY)),
)
def test_nothing_that_is_left_lacks_what_it_needs(history, rule) -> None:
    """Checked from what is left, after one purge and after a second one: nothing more is removed by it."""
    attempts, needed = history
    before = there(*attempts)
    purge = decide_purge(rule, attempts, needed, before, NOW)
    left = replace(
        before,
        snapshots=before.snapshots - set(removed("snapshot", purge)),
        versions=before.versions - {int(name) for name in removed("version", purge)},
        studies={name: of for name, of in before.studies.items() if name not in removed("study", purge)},
    )
    assert not decide_purge(rule, attempts, needed, left, NOW).remove
    assert left.versions >= set(needed.versions)
    assert left.snapshots >= set(needed.attempts)
    by_id = {attempt.id: attempt for attempt in attempts}
    for attempt in attempts:
        if attempt.is_open or attempt.id in needed.attempts:
            assert attempt.id in left.snapshots
            assert left.versions >= attempt.versions
        if attempt.is_open:
            assert attempt.id in left.studies
            assert attempt.champion is None or attempt.champion in left.versions
        if attempt.versions & left.versions:
            assert attempt.id in left.snapshots, "a retained version names it"
            assert left.versions >= attempt.versions | attempt.shares
        if attempt.id in left.snapshots and attempt.looked_before:
            assert by_id[attempt.looked_before].id in left.snapshots
    for count, kept, all_ in ((rule.versions, left.versions, before.versions),):
        assert count is None or len(kept) >= min(count, len(all_))
        assert kept >= set(sorted(all_)[-count:] if count else all_)
