"""Taking a model out of service ends what is open, and deploying does not undo it."""

from datetime import UTC, datetime

import pytest

from ratchet.domain.events import RetrainRequested
from ratchet.errors import Refused, StaleAttempt
from ratchet.workflow.retiring import retire

MAY = datetime(2013, 5, 1, 4, tzinfo=UTC)


def retired(world) -> dict:
    return retire(world.ledger, world.model, "ann", "replaced by another", 3)


def test_open_events_are_rejected_with_who_and_why_and_the_doorbell_is_silent(world):
    world.crown()
    assert world.arrive(MAY) == ["flight_delay"]
    assert retired(world) == {"retired": True, "attempts": [], "events": 2}
    assert {row.fate for row in world.events()} == {"rejected"}
    assert world.events()[0].reason == "flight_delay was retired by ann: replaced by another"
    assert world.intake.tick() == []


def test_an_attempt_at_work_is_superseded_and_can_write_nothing(world):
    world.crown()
    world.arrive(MAY)
    claimed = world.claim()["attempt"]
    assert retired(world)["attempts"] == [claimed]
    assert world.attempt(claimed).state == "superseded"
    assert {row.fate for row in world.events()} == {"rejected"}
    with pytest.raises(StaleAttempt), world.ledger.transaction() as tx:
        tx.own_lease(claimed)


def test_a_verdict_that_waits_promotes_nobody(world):
    world.crown(1)
    world.arrive(MAY)
    world.judge(world.claim()["attempt"], "promote", version=2)
    retired(world)
    assert world.promotions.promote(world.model)["promoted"] is None
    with world.ledger.transaction() as tx:
        assert tx.current_champion(world.model).version == 1


def test_later_events_are_rejected_and_no_run_claims(world):
    world.crown()
    retired(world)
    world.publish(RetrainRequested(reason="r", actor="ann"), world.model, MAY)
    world.arrive(MAY)
    assert world.events() == []
    with pytest.raises(Refused, match="is retired"):
        world.claim()


def test_retiring_is_audited_once_and_needs_a_reason_and_a_model(world):
    retired(world)
    assert retired(world)["retired"] is False
    with world.ledger.transaction() as tx:
        entries = [entry for entry in tx.audit_log(world.model) if entry["action"] == "model.retired"]
    assert [(entry["actor"], entry["detail"]["reason"]) for entry in entries] == [("ann", "replaced by another")]
    with pytest.raises(Refused, match="needs a reason"):
        retire(world.ledger, world.model, "ann", "", 3)
    with pytest.raises(Refused, match="not registered"):
        retire(world.ledger, "nobody", "ann", "r", 3)


def test_a_deployment_leaves_a_retired_model_alone_unless_it_is_to_be_revived(world):
    retired(world)
    document, digest = world.spec.model_dump(mode="json"), world.spec.digest
    with world.ledger.transaction() as tx:
        assert not tx.publish_spec(world.model, digest, document)
        assert not tx.publish_spec(world.model, "e" * 64, document)
        assert tx.specs()[0].retired
        assert tx.publish_spec(world.model, digest, document, revive=True)
        assert not tx.specs()[0].retired
        assert not tx.publish_spec(world.model, digest, document, revive=True)
