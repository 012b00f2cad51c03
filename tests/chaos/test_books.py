"""Books that cannot fail prove nothing: one planted fault per rule, and each is named by its rule alone."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import books
import pytest
from books import Attempt, Champion, Event, Facts, Fate, Heard, Record

NOW = datetime(2013, 6, 1, tzinfo=UTC)
STORED, REJECTED = ("ml.drift", 0, 0), ("ml.drift", 0, 1)


def at(minutes: float) -> datetime:
    return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=minutes)


def fates(pk: int, *history: tuple[str, str | None]) -> list[Fate]:
    return [Fate(100 * pk + n, pk, fate, attempt) for n, (fate, attempt) in enumerate(history)]


GIVEN_UP = Attempt("m.1", "m", 1, "abandoned", at(0), concluded_at=at(2), trigger_pk=1)
PROMOTED = Attempt("m.2", "m", 2, "concluded", at(3), "promote", judged_at=at(5), concluded_at=at(6), trigger_pk=1)
RIGHT = Facts(
    now=NOW,
    acknowledged=2,
    ends={("ml.drift", 0): 2},
    heard=[Heard(STORED, "/s", "e1", ("m", "n")), Heard(REJECTED, "/s", "bad", ())],
    records=[Record(STORED, "stored"), Record(REJECTED, "rejected")],
    dead_letters={REJECTED: 2},
    events=[
        Event(1, "/s", "e1", "m", "started", None, "m.2"),
        Event(2, "/s", "e1", "n", "deferred", NOW + timedelta(days=1)),
    ],
    fates=[
        *fates(1, ("pending", None), ("claimed", "m.1"), ("pending", None), ("claimed", "m.2"), ("started", "m.2")),
        *fates(2, ("pending", None), ("deferred", None)),
    ],
    attempts=[GIVEN_UP, PROMOTED],
    steps=[("m.1", "snapshot", at(1)), ("m.2", "snapshot", at(4))],
    champions=[Champion("m", 1, 7, "m.2", "init")],
    aliases={"m": 7, "n": None},
    decisions=["m.2:promoted"],
    told=frozenset({"m.2:promoted"}),
    resolved=frozenset({("/s", "e1", "m", "started")}),
)


def test_books_that_are_right_balance() -> None:
    closed = books.close(RIGHT)
    assert closed.balance, closed
    assert (closed.lost, closed.doubled) == (0, 0)


PLANTED = [
    ("every_offset_has_one_record", {"records": RIGHT.records[1:]}, (1, 0)),
    ("every_offset_has_one_record", {"records": [*RIGHT.records, RIGHT.records[0]]}, (0, 1)),
    ("every_offset_has_one_record", {"records": [*RIGHT.records, Record(("ml.drift", 0, 9), "stored")]}, (0, 0)),
    ("every_offset_has_one_record", {"acknowledged": 3}, (0, 0)),
    ("every_record_is_answered", {"dead_letters": {}}, (1, 0)),
    ("every_record_is_answered", {"heard": [Heard(STORED, "/s", "e1", ("m", "n", "o")), RIGHT.heard[1]]}, (1, 0)),
    ("every_record_is_answered", {"heard": [Heard(STORED, "/s", "e1", ("m",)), RIGHT.heard[1]]}, (0, 0)),
    ("every_record_is_answered", {"heard": [Heard(STORED, "/s", "e1", ()), RIGHT.heard[1]]}, (0, 0)),
    ("every_record_is_answered", {"heard": [RIGHT.heard[0], Heard(REJECTED, "/s", "e1", ("m", "n"))]}, (1, 0)),
    (
        "every_record_is_answered",
        {
            "events": [*RIGHT.events, replace(RIGHT.events[1], pk=3)],
            "fates": [*RIGHT.fates, *fates(3, ("pending", None), ("deferred", None))],
        },
        (0, 1),
    ),
    ("every_event_has_one_current_fate_and_a_history_that_ends_in_it", {"fates": RIGHT.fates[:-1]}, (0, 0)),
    (
        "every_event_has_one_current_fate_and_a_history_that_ends_in_it",
        {"fates": [*RIGHT.fates, *[replace(RIGHT.fates[4], n=199)]]},
        (0, 0),
    ),
    ("nothing_is_left_open", {"events": [RIGHT.events[0], replace(RIGHT.events[1], until=NOW)]}, (0, 0)),
    ("nothing_is_left_open", {"events": [RIGHT.events[0], replace(RIGHT.events[1], until=None)]}, (0, 0)),
    ("nothing_is_left_open", {"leased": {"n": "n.1"}}, (0, 0)),
    ("nothing_is_left_open", {"owed": ["alias:m:1"]}, (0, 0)),
    ("no_event_is_in_two_live_claims", {"fates": [each for each in RIGHT.fates if each.n != 102]}, (0, 0)),
    ("no_event_is_concluded_twice", {"attempts": [replace(GIVEN_UP, state="concluded"), PROMOTED]}, (0, 0)),
    ("no_model_has_two_live_leases", {"attempts": [replace(GIVEN_UP, concluded_at=at(4)), PROMOTED]}, (0, 0)),
    ("no_model_has_two_live_leases", {"attempts": [GIVEN_UP, replace(PROMOTED, epoch=3)]}, (0, 0)),
    ("nobody_writes_after_being_given_up", {"steps": [("m.1", "snapshot", at(2.5))]}, (0, 0)),
    ("no_promotion_happens_twice", {"champions": [replace(RIGHT.champions[0], attempt="m.1")]}, (0, 0)),
    ("no_promotion_happens_twice", {"champions": [replace(RIGHT.champions[0], seq=2)]}, (0, 0)),
    (
        "no_promotion_happens_twice",
        {"champions": [*RIGHT.champions, Champion("m", 2, 7, "m.2", "promotion")]},
        (0, 0),
    ),
    ("the_alias_is_the_ledgers_champion", {"aliases": {"m": 6}}, (0, 0)),
    ("every_decision_is_published", {"told": frozenset()}, (0, 0)),
    ("every_end_of_an_event_is_published", {"resolved": frozenset({("/s", "e1", "m", "merged")})}, (0, 0)),
]


@pytest.mark.parametrize(("rule", "fault", "counted"), PLANTED)
def test_a_planted_fault_is_named_by_its_rule(rule: str, fault: dict[str, object], counted: tuple[int, int]) -> None:
    closed = books.close(replace(RIGHT, **fault))  # type: ignore[arg-type]
    assert rule in closed.faults
    assert (closed.lost, closed.doubled) == counted
    assert rule in str(closed)


def test_every_rule_has_a_planted_fault() -> None:
    rules = {name for name in vars(books._Account) if not name.startswith("_") and name != "write"}
    assert rules == {rule for rule, _, _ in PLANTED}
