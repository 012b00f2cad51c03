"""The books at the end of a chaos run: pure, over what the broker, the ledger and the registry say.

Nothing here asks Ratchet what it did: what each record should have become travels in its own header (see ``burst``),
what there is to account for is counted from the broker's end offsets, and the rest are the ledger's plain rows.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

Spot = tuple[str, int, int]
"""Topic, partition, offset."""

OPEN = ("pending", "claimed", "deferred")
LIVE = ("claimed", "snapshotted", "tuned")
GIVEN_UP = ("failed", "abandoned", "superseded")


@dataclass(frozen=True)
class Heard:
    """A record as the broker keeps it: ``models`` that must have the event, none when it must be rejected."""

    spot: Spot
    source: str
    event_id: str
    models: tuple[str, ...]


@dataclass(frozen=True)
class Record:
    """A row of the ledger's ``record``."""

    spot: Spot
    status: str


@dataclass(frozen=True)
class Event:
    """A row of ``event``."""

    pk: int
    source: str
    event_id: str
    model: str
    fate: str
    until: datetime | None = None
    attempt: str | None = None


@dataclass(frozen=True)
class Fate:
    """A row of ``fate``; ``n`` is its place in the whole history."""

    n: int
    event_pk: int
    fate: str
    attempt: str | None = None


@dataclass(frozen=True)
class Attempt:
    """A row of ``attempt``; ``lease`` is set while it holds its model's lease."""

    id: str
    model: str
    epoch: int
    state: str
    created_at: datetime
    verdict: str | None = None
    dry_run: bool = False
    judged_at: datetime | None = None
    concluded_at: datetime | None = None
    trigger_pk: int | None = None

    @property
    def released_at(self) -> datetime | None:
        """When it gave its lease back: a promotion waits without one."""
        waits = self.verdict == "promote" and not self.dry_run and self.judged_at is not None
        return self.judged_at if waits else self.concluded_at


@dataclass(frozen=True)
class Champion:
    """A row of ``champion``."""

    model: str
    seq: int
    version: int
    attempt: str | None
    kind: str


@dataclass(frozen=True)
class Facts:
    """All that is put side by side. ``now`` is business time; ``ends`` are the broker's own end offsets."""

    now: datetime
    acknowledged: int
    ends: Mapping[tuple[str, int], int]
    heard: Sequence[Heard]
    records: Sequence[Record]
    dead_letters: Mapping[Spot, int]
    events: Sequence[Event]
    fates: Sequence[Fate]
    attempts: Sequence[Attempt]
    leased: Mapping[str, str] = field(default_factory=dict)
    steps: Sequence[tuple[str, str, datetime]] = ()
    champions: Sequence[Champion] = ()
    aliases: Mapping[str, int | None] = field(default_factory=dict)
    owed: Sequence[str] = ()
    decisions: Sequence[str] = ()
    told: frozenset[str] = frozenset()
    resolved: frozenset[tuple[str, str, str, str]] = frozenset()
    """Source, id, model and fate of every event that ``ml.decisions`` says has ended."""


@dataclass(frozen=True)
class Books:
    """What does not add up, by rule; ``lost`` and ``doubled`` in records or events."""

    lost: int
    doubled: int
    faults: Mapping[str, tuple[str, ...]]

    @property
    def balance(self) -> bool:
        """Whether everything adds up."""
        return not self.faults

    def __str__(self) -> str:
        """Every rule that is broken, with its first cases."""
        lines = []
        for rule, cases in self.faults.items():
            lines.append(f"{rule}: {len(cases)}")
            lines += [f"    {case}" for case in cases[:5]]
        return "\n".join(lines) or "the books balance"


def close(facts: Facts) -> Books:
    """Close the books."""
    account = _Account(facts)
    for rule in (
        account.every_offset_has_one_record,
        account.every_record_is_answered,
        account.every_event_has_one_current_fate_and_a_history_that_ends_in_it,
        account.nothing_is_left_open,
        account.no_event_is_in_two_live_claims,
        account.no_event_is_concluded_twice,
        account.no_model_has_two_live_leases,
        account.nobody_writes_after_being_given_up,
        account.no_promotion_happens_twice,
        account.the_alias_is_the_ledgers_champion,
        account.every_decision_is_published,
        account.every_end_of_an_event_is_published,
    ):
        account.write(rule.__name__, rule())
    return Books(account.lost, account.doubled, {name: tuple(cases) for name, cases in account.faults.items()})


class _Account:
    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.faults: dict[str, list[str]] = {}
        self.lost = self.doubled = 0
        self.attempts = {attempt.id: attempt for attempt in facts.attempts}
        self.history: dict[int, list[Fate]] = defaultdict(list)
        for fate in sorted(facts.fates, key=lambda each: each.n):
            self.history[fate.event_pk].append(fate)

    def write(self, rule: str, cases: Iterator[str]) -> None:
        found = list(cases)
        if found:
            self.faults[rule] = found

    def every_offset_has_one_record(self) -> Iterator[str]:
        known = Counter(record.spot for record in self.facts.records)
        for (topic, partition), end in self.facts.ends.items():
            for offset in range(end):
                count = known.pop((topic, partition, offset), 0)
                if count == 0:
                    self.lost += 1
                    yield f"{topic}-{partition}@{offset} has no record row"
                elif count > 1:
                    self.doubled += 1
                    yield f"{topic}-{partition}@{offset} has {count} record rows"
        for spot in known:
            yield f"{spot} has a record row, but the broker has no such offset"
        if self.facts.acknowledged > sum(self.facts.ends.values()):
            yield f"the broker acknowledged {self.facts.acknowledged} records and has {sum(self.facts.ends.values())}"

    def every_record_is_answered(self) -> Iterator[str]:
        status = {record.spot: record.status for record in self.facts.records}
        rows = Counter((event.source, event.event_id, event.model) for event in self.facts.events)
        models: dict[tuple[str, str], set[str]] = defaultdict(set)
        for source, event_id, model in rows:
            models[source, event_id].add(model)
        doubled = {key for key, count in rows.items() if count > 1}
        self.doubled += len(doubled)
        for source, event_id, model in sorted(doubled):
            yield f"event {event_id} of {source} has {rows[source, event_id, model]} rows for {model}"
        for heard in self.facts.heard:
            said = status.get(heard.spot)
            if said is None:
                continue
            if not heard.models:
                if said != "rejected":
                    yield f"{heard.spot} should be rejected, but is {said}"
                elif not self.facts.dead_letters.get(heard.spot):
                    self.lost += 1
                    yield f"{heard.spot} is rejected and has no dead letter"
                continue
            if said != "stored":
                self.lost += 1
                yield f"{heard.spot} (event {heard.event_id}) should be stored, but is {said}"
            elif missing := set(heard.models) - models[heard.source, heard.event_id]:
                self.lost += 1
                yield f"event {heard.event_id} has no row for {', '.join(sorted(missing))}"
            if more := models[heard.source, heard.event_id] - set(heard.models):
                yield f"event {heard.event_id} has rows for {', '.join(sorted(more))}, which do not subscribe"

    def every_event_has_one_current_fate_and_a_history_that_ends_in_it(self) -> Iterator[str]:
        for event in self.facts.events:
            history = self.history[event.pk]
            last = (history[-1].fate, history[-1].attempt) if history else ("pending", None)
            if last != (event.fate, event.attempt):
                yield f"event {event.event_id} for {event.model} is {event.fate}, its history ends in {last}"
            ends = [fate.fate for fate in history if fate.fate not in OPEN]
            if len(ends) > 1:
                yield f"event {event.event_id} for {event.model} has ended {len(ends)} times: {', '.join(ends)}"

    def nothing_is_left_open(self) -> Iterator[str]:
        for event in self.facts.events:
            if event.fate in {"pending", "claimed"}:
                yield f"event {event.event_id} for {event.model} is still {event.fate}"
            if event.fate == "deferred" and (event.until is None or event.until <= self.facts.now):
                yield f"event {event.event_id} for {event.model} is deferred until {event.until}, which has come"
        for record in self.facts.records:
            if record.status == "held":
                yield f"{record.spot} is still held"
        for model, attempt in self.facts.leased.items():
            yield f"{attempt} still holds the lease of {model}"
        for attempt in self.facts.attempts:
            if attempt.state in {*LIVE, "judged"}:
                yield f"{attempt.id} is still {attempt.state}"
        for dedupe in self.facts.owed:
            yield f"{dedupe} was not told"

    def no_event_is_in_two_live_claims(self) -> Iterator[str]:
        for event in self.facts.events:
            holder = None
            for fate in self.history[event.pk]:
                if fate.fate == "claimed":
                    if holder is not None:
                        yield f"event {event.event_id} was claimed by {fate.attempt} while {holder} held it"
                    holder = fate.attempt
                else:
                    holder = None

    def no_event_is_concluded_twice(self) -> Iterator[str]:
        triggers: dict[int, str] = {}
        for event in self.facts.events:
            attempts = {fate.attempt for fate in self.history[event.pk] if fate.fate in {"started", "merged"}}
            if len(attempts) > 1:
                yield f"event {event.event_id} for {event.model} was concluded by {sorted(map(str, attempts))}"
            if event.fate in {"started", "merged"}:
                ended = self.attempts.get(str(event.attempt))
                if ended is None or ended.state != "concluded":
                    yield f"event {event.event_id} is {event.fate}, but {event.attempt} is {ended and ended.state}"
        for attempt in self.facts.attempts:
            if attempt.state == "concluded" and attempt.trigger_pk is not None:
                if attempt.trigger_pk in triggers:
                    yield f"{attempt.id} and {triggers[attempt.trigger_pk]} were concluded by one trigger"
                triggers[attempt.trigger_pk] = attempt.id

    def no_model_has_two_live_leases(self) -> Iterator[str]:
        by_model: dict[str, list[Attempt]] = defaultdict(list)
        for attempt in self.facts.attempts:
            by_model[attempt.model].append(attempt)
        for model, attempts in by_model.items():
            attempts.sort(key=lambda each: each.epoch)
            if [each.epoch for each in attempts] != list(range(1, len(attempts) + 1)):
                yield f"the epochs of {model} are {[each.epoch for each in attempts]}"
            for before, after in itertools.pairwise(attempts):
                released = before.released_at
                if released is None or released > after.created_at:
                    yield f"{after.id} began at {after.created_at}, {before.id} held the lease until {released}"

    def nobody_writes_after_being_given_up(self) -> Iterator[str]:
        for attempt_id, step, finished_at in self.facts.steps:
            attempt = self.attempts[attempt_id]
            if attempt.state in GIVEN_UP and attempt.concluded_at is not None and finished_at > attempt.concluded_at:
                yield f"{attempt_id} stored {step} at {finished_at}, {attempt.state} since {attempt.concluded_at}"

    def no_promotion_happens_twice(self) -> Iterator[str]:
        by_model: dict[str, list[int]] = defaultdict(list)
        promoted = Counter(each.attempt for each in self.facts.champions if each.kind != "rollback")
        for champion in sorted(self.facts.champions, key=lambda each: each.seq):
            by_model[champion.model].append(champion.seq)
        for model, numbers in by_model.items():
            if numbers != list(range(1, len(numbers) + 1)):
                yield f"the champions of {model} are numbered {numbers}"
        for attempt_id, count in promoted.items():
            attempt = self.attempts.get(str(attempt_id))
            if count > 1:
                yield f"{attempt_id} was promoted {count} times"
            if attempt is None or (attempt.state, attempt.verdict) != ("concluded", "promote"):
                ended = attempt and f"{attempt.state} with {attempt.verdict}"
                yield f"{attempt_id} was promoted, but is {ended}"
        for attempt in self.facts.attempts:
            won = (attempt.state, attempt.verdict, attempt.dry_run) == ("concluded", "promote", False)
            if won and not promoted[attempt.id]:
                yield f"{attempt.id} was concluded with promote and is no champion"

    def the_alias_is_the_ledgers_champion(self) -> Iterator[str]:
        serving = {each.model: each.version for each in sorted(self.facts.champions, key=lambda each: each.seq)}
        for model, version in serving.items():
            if self.facts.aliases.get(model) != version:
                yield f"the alias of {model} is {self.facts.aliases.get(model)}, the champion is {version}"

    def every_decision_is_published(self) -> Iterator[str]:
        for decision in self.facts.decisions:
            if decision not in self.facts.told:
                yield f"{decision} is not on ml.decisions"

    def every_end_of_an_event_is_published(self) -> Iterator[str]:
        for event in self.facts.events:
            end = (event.source, event.event_id, event.model, event.fate)
            if event.fate not in OPEN and end not in self.facts.resolved:
                yield f"event {event.event_id} for {event.model} is {event.fate}, which is not on ml.decisions"
