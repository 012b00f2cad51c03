"""Another chance by an operator's word: once, audited, and never for what is final or alive."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from ratchet.domain import events as cloudevents
from ratchet.domain.events import RetrainRequested
from ratchet.domain.positions import incarnated
from ratchet.errors import Refused
from ratchet.ports.bus import DECISIONS, DRIFT
from ratchet.ports.ledger import FateChange
from ratchet.workflow.replaying import Letters, Operator, Replays

MAY = datetime(2013, 5, 1, 4, tzinfo=UTC)
ANN = Operator("ann", "the warehouse is back")
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture
def replays(world) -> Replays:
    with world.ledger.transaction() as tx:
        tx.set_clock("replay", MAY)
    return Replays(world.ledger, world.intake, lambda: world.bus)


def ask(world, event_id: str, subject: str | None = None, at: datetime = MAY) -> None:
    world.publish(RetrainRequested(reason="r", actor="ann"), subject or world.model, at, event_id)


def end(world, fate: str, *event_ids: str) -> None:
    with world.ledger.transaction() as tx:
        rows = [row for row in tx.events() if row.event_id in event_ids]
        tx.change_fates([FateChange(row.pk, fate, "r", attempt_id="x.1", count_try=True) for row in rows])


def fates(world) -> dict[str, str]:
    return {row.event_id: row.fate for row in world.events()}


def books(world) -> tuple:
    """All that a replay may change, except the audit log."""
    with world.ledger.transaction() as tx:
        rows = tx.events()
        return rows, [tx.fate_history(row.pk) for row in rows], tx.rejected_records()


def audit(world) -> list[dict]:
    with world.ledger.transaction() as tx:
        return [entry for entry in tx.audit_log() if entry["action"] == "events.replayed"]


def test_what_ended_without_a_verdict_is_pending_again_with_fresh_tries_and_says_who(world, replays):
    for name in ("failed", "expired"):
        ask(world, name)
        end(world, name, name)
    assert replays.since(LONG_AGO, ANN)["reopened"] == 2
    assert fates(world) == {"failed": "pending", "expired": "pending"}
    assert {(row.tries, row.attempt_id) for row in world.events()} == {(0, None)}
    assert world.events()[0].reason == "replayed by ann: the warehouse is back"
    assert world.intake.tick() == []  # no champion: decided again by today's rules
    assert set(fates(world).values()) == {"deferred"}


def test_the_same_replay_again_changes_nothing_even_when_events_ended_again(world, replays):
    ask(world, "a")
    end(world, "failed", "a")
    replays.since(LONG_AGO, ANN)
    end(world, "failed", "a")
    before = books(world)
    assert replays.since(LONG_AGO, ANN)["reopened"] == 0
    assert books(world) == before


def test_a_replay_since_the_last_one_gives_yet_another_chance(world, replays):
    ask(world, "a")
    end(world, "failed", "a")
    replays.since(LONG_AGO, ANN)
    with world.ledger.transaction() as tx:
        later = tx.wall()
    end(world, "failed", "a")
    assert replays.since(later, ANN)["reopened"] == 1


def test_final_and_living_events_are_never_reopened(world, replays):
    for name in ("started", "merged", "claimed", "deferred", "suppressed"):
        ask(world, name)
        end(world, name, name)
    before = books(world)
    assert replays.since(LONG_AGO, ANN)["reopened"] == 0
    assert books(world) == before
    for fate in ("started", "merged", "claimed"):
        with pytest.raises(Refused, match=f"fate '{fate}' cannot be reopened"):
            replays.since(LONG_AGO, ANN, fates=(fate,))
    assert replays.since(LONG_AGO, ANN, fates=("suppressed",))["reopened"] == 1


def test_what_ended_before_is_left_alone(world, replays):
    ask(world, "a")
    end(world, "failed", "a")
    with world.ledger.transaction() as tx:
        later = tx.wall() + timedelta(seconds=1)
    assert replays.since(later, ANN)["reopened"] == 0


def test_events_that_would_expire_again_are_left_alone_and_counted(world, replays):
    ask(world, "old", at=MAY - world.spec.retrain.max_event_age)
    end(world, "expired", "old")
    answer = replays.since(LONG_AGO, ANN)
    assert (answer["reopened"], answer["too_old"]) == (0, 1)
    assert fates(world) == {"old": "expired"}


def test_only_the_named_models_are_reopened_and_an_unknown_one_is_refused(world, replays):
    other = world.spec.model_copy(update={"model": "other"})
    with world.ledger.transaction() as tx:
        tx.publish_spec("other", other.digest, other.model_dump(mode="json"))
    ask(world, "a")
    ask(world, "b", "other")
    end(world, "failed", "a", "b")
    assert replays.since(LONG_AGO, ANN, models=["other"])["by_model"] == {"other": 1}
    assert fates(world) == {"a": "failed", "b": "pending"}
    with pytest.raises(Refused, match="'nobody' is not registered"):
        replays.since(LONG_AGO, ANN, models=["nobody"])


def test_an_event_that_ends_again_is_told_again_under_another_id(world, replays):
    ask(world, "a")
    end(world, "failed", "a")
    world.relay.publish()
    replays.since(LONG_AGO, ANN)
    end(world, "failed", "a")
    world.relay.publish()
    told = [record.value for record in world.bus.records(DECISIONS)]
    assert len(told) == len(set(told)) == 2


def on_kafka(world, event_id: str) -> None:
    data = RetrainRequested(reason="r", actor="ann")
    event = cloudevents.new_event(data, id=event_id, source="monitor", subject=world.model, time=MAY)
    world.bus.publish(event.topic, *cloudevents.to_record(event))


def test_a_record_that_kafka_has_and_the_ledger_lacks_is_stored_once(world, replays):
    on_kafka(world, "known")
    world.intake.store(world.bus.records("ml.retrain-requests"))
    on_kafka(world, "lost")
    answer = replays.since(LONG_AGO, ANN)
    assert (answer["read"], answer["stored"]) == (2, 1)
    assert fates(world) == {"known": "pending", "lost": "pending"}
    before = books(world)
    assert replays.since(LONG_AGO, ANN)["stored"] == 0
    assert books(world) == before


def test_a_record_stored_from_a_topic_that_was_made_again_is_known_to_a_replay(world, replays):
    on_kafka(world, "again")
    (record,) = world.bus.records("ml.retrain-requests")
    with world.ledger.transaction() as tx:
        tx.keep_position(record.cluster, record.topic, record.partition, "made again", 1)
    world.intake.store([replace(record, cluster=incarnated(record.cluster, 1))])
    assert replays.since(LONG_AGO, ANN)["stored"] == 0


def test_a_dead_letter_whose_model_is_known_now_becomes_its_event_once(world, replays):
    newcomer = world.spec.model_copy(update={"model": "newcomer"})
    with world.ledger.transaction() as tx:
        tx.publish_spec("newcomer", newcomer.digest, newcomer.model_dump(mode="json"))
        tx.retire("newcomer")
    ask(world, "early", "newcomer")
    with world.ledger.transaction() as tx:
        (row,) = tx.rejected_records()
        tx.publish_spec("newcomer", newcomer.digest, newcomer.model_dump(mode="json"), revive=True)
    world.intake.store([world.raw(b"{not json")])
    answer = replays.letters(Letters(), ANN)
    assert (answer["read"], answer["stored"], len(answer["still"])) == (2, 1, 1)
    assert answer["records"] == [f"{row.raw.topic}:{row.raw.partition}:{row.raw.offset}"]
    assert fates(world) == {"early": "pending"}
    with world.ledger.transaction() as tx:
        kept = tx.record_of(tx.events()[0].pk)
    assert (kept.status, kept.reason) == ("stored", f"{ANN}; rejected before: {row.reason}")
    before = books(world)
    assert replays.letters(Letters(), ANN)["stored"] == 0
    assert books(world) == before


def test_a_dead_letter_that_contradicts_a_known_event_stays_rejected(world, replays):
    ask(world, "same")
    world.publish(RetrainRequested(reason="another", actor="ann"), world.model, MAY, "same")
    before = books(world)
    answer = replays.letters(Letters(reason_contains="OTHER content"), ANN)
    assert (answer["read"], answer["stored"]) == (1, 0)
    assert books(world) == before


def test_dead_letters_are_chosen_by_place_and_by_reason(world, replays):
    world.intake.store([world.raw(b"{not json"), world.raw(None)])
    assert replays.letters(Letters((DRIFT, 0, 1)), ANN)["read"] == 1
    assert replays.letters(Letters(reason_contains="tombstone"), ANN)["read"] == 1
    with pytest.raises(Refused, match=r"no dead letter at ml\.drift:0:9"):
        replays.letters(Letters((DRIFT, 0, 9)), ANN)


def test_a_dry_run_tells_the_same_counts_and_changes_nothing(world, replays):
    ask(world, "a")
    end(world, "failed", "a")
    on_kafka(world, "lost")
    with world.ledger.transaction() as tx:
        tx.retire(world.model)
    ask(world, "b")
    with world.ledger.transaction() as tx:
        tx.publish_spec(world.model, world.spec.digest, world.spec.model_dump(mode="json"), revive=True)
    before = books(world)
    since, letters = replays.since(LONG_AGO, ANN, dry_run=True), replays.letters(Letters(), ANN, dry_run=True)
    assert books(world) == before
    assert audit(world) == []
    assert since == replays.since(LONG_AGO, ANN)
    assert letters == replays.letters(Letters(), ANN)
    assert (since["reopened"], since["stored"], letters["stored"]) == (1, 1, 1)


def test_each_replay_is_one_audit_entry_with_who_why_and_counts(world, replays):
    ask(world, "a")
    end(world, "failed", "a")
    replays.since(LONG_AGO, ANN)
    replays.letters(Letters(), ANN)
    first, second = audit(world)
    assert (first["actor"], first["detail"]["reason"], first["detail"]["reopened"]) == ("ann", ANN.reason, 1)
    assert (second["detail"]["dead_letters"], second["detail"]["stored"]) == ("all", 0)


def test_a_replay_needs_a_reason():
    with pytest.raises(Refused, match="needs a reason"):
        Operator("ann", " ")
