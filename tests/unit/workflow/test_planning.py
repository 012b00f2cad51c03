"""How deployed models stand, for a plan: from the ledger alone."""

from __future__ import annotations

from datetime import timedelta

import pytest
import sqlalchemy as sa

from ratchet.adapters.ledger import schema as t
from ratchet.errors import Refused
from ratchet.workflow.planning import deployed


def test_a_deployed_model_stands_with_its_champion_and_what_its_attempts_took(judging) -> None:
    with judging.ledger.engine.begin() as db:
        for attempt, step, finished in db.execute(
            sa.select(t.step.c.attempt_id, t.step.c.step, t.step.c.finished_at)
        ).all():
            one = (t.step.c.attempt_id == attempt) & (t.step.c.step == step)
            db.execute(sa.update(t.step).where(one).values(started_at=finished - timedelta(seconds=30)))
    sides, standing = deployed(judging.ledger)
    assert sides[judging.model].digest == judging.spec.digest
    assert sides[judging.model].spec == judging.spec
    stands = standing[judging.model]
    with judging.ledger.transaction() as tx:
        champion = tx.current_champion(judging.model)
        steps = [tx.steps(attempt.id) for attempt in tx.attempts()]
    assert (stands.champion, stands.retired, stands.at_work) == (champion.version, False, ())
    trials = judging.spec.train.trials
    for past, taken in zip(stands.past, steps, strict=True):
        assert past.whole(trials) == pytest.approx(30.0 * judging.spec.runtime.threads * len(taken) / 3600)


def test_an_attempt_at_work_is_told_with_its_state(judging) -> None:
    with judging.ledger.engine.begin() as db:
        db.execute(sa.update(t.attempt).where(t.attempt.c.id == judging.second.id).values(state="tuned"))
    _, standing = deployed(judging.ledger)
    assert standing[judging.model].at_work == ((judging.second.id, "tuned"),)


def test_a_spec_that_this_version_cannot_read_is_refused_with_another_way(judging) -> None:
    with judging.ledger.engine.begin() as db:
        db.execute(sa.update(t.spec).values(document={"model": judging.model}))
    with pytest.raises(Refused, match=r"cannot be read by this version of Ratchet.*ratchet plan --against REF"):
        deployed(judging.ledger)
