"""In shadow mode the gate judges and records, and nothing it says moves the champion."""

import json

import pytest
from judged_attempts import JudgingWorld

from ratchet.domain.spec import ModelSpec
from ratchet.errors import Refused


@pytest.fixture
def shadowed(judging):
    """A champion serves, and from now on the spec only looks."""
    plain = judging.spec.model_dump(mode="json")
    wide = {"mode": "non_inferiority", "min_uplift": 1000.0, "guardrails": []}  # any challenger passes
    plain["gate"] |= wide | {"shadow": True}
    judging.spec = ModelSpec.model_validate(plain)
    with judging.ledger.transaction() as tx:
        tx.publish_spec(judging.model, judging.spec.digest, judging.spec.model_dump(mode="json"))
    return judging


def test_a_verdict_to_promote_is_recorded_and_told_and_the_champion_stays(shadowed):
    with shadowed.ledger.transaction() as tx:
        before = tx.current_champion(shadowed.model)
    attempt = shadowed.run("2013-05-20")
    assert (attempt.verdict, attempt.state, attempt.failure) == ("promote", "concluded", "shadow mode")
    assert not attempt.promoted
    with shadowed.ledger.transaction() as tx:
        assert tx.current_champion(shadowed.model) == before
        used = tx.used_days(shadowed.model, before.version)
    assert any(day.isoformat() > "2013-05-01" for day in used)
    told = [json.loads(message.value) for message in shadowed.bus.records("ml.decisions")]
    kept = next(event for event in told if event["data"].get("attempt") == attempt.id and "kept" in event["type"])
    assert "shadow mode" in kept["data"]["reasons"]


def test_shadow_mode_makes_no_first_champion(tmp_path, migrated):
    world = JudgingWorld(tmp_path, migrated)
    plain = world.spec.model_dump(mode="json")
    plain["gate"] |= {"shadow": True}
    world.spec = ModelSpec.model_validate(plain)
    with world.ledger.transaction() as tx:
        tx.publish_spec(world.model, world.spec.digest, world.spec.model_dump(mode="json"))
    with pytest.raises(Refused, match="shadow mode and promotes nothing"):
        world.tuned("2013-03-25", first_champion=True)
    world.ledger.dispose()
