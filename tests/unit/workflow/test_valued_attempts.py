"""Whole attempts under a payoff by row, a hook, a tuned threshold and a capacity."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from judged_attempts import JudgingWorld

from ratchet.adapters import models
from ratchet.domain.payoff import PayoffMatrix
from ratchet.domain.spec import ModelSpec
from ratchet.errors import Refused
from ratchet.workflow import dossiers
from ratchet.workflow.attempting import Attempts

HOOK = {"hook": "payoff.py:value", "columns": ["rate"], "sha256": "a" * 64, "unit": "USD"}


class ValuingWorld(JudgingWorld):
    """A world whose model has another payoff and another decision."""

    def deploy(self, payoff: dict, decision: dict, hook=None) -> None:
        plain = self.spec.model_dump(mode="json")
        plain["business"] |= {"payoff": payoff, "decision": decision}
        self.spec = ModelSpec.model_validate(plain)
        with self.ledger.transaction() as tx:
            tx.publish_spec(self.model, self.spec.digest, self.spec.model_dump(mode="json"))
        self.attempts = Attempts(replace(self.parts, hook=lambda _: hook))


@pytest.fixture
def valuing(tmp_path, migrated):
    made = ValuingWorld(tmp_path, migrated)
    yield made
    made.ledger.dispose()


def value(rows, label, act):
    return np.where(act, np.where(label == 1, 150.0 + 30 * rows["rate"].to_numpy().astype(float), -60.0), 0.0)


def test_a_first_champion_is_judged_by_expressions_under_a_capacity(valuing):
    payoff = {"tp": "150 + 30 * coalesce(rate, 0)", "fp": -60, "unit": "USD"}
    valuing.deploy(payoff, {"threshold": "payoff", "capacity": {"at_most": 10}})
    attempt = valuing.run("2013-05-20", first_champion=True)
    assert attempt.verdict == "promote"
    dossier = dossiers.read(valuing.store, attempt)
    assert dossier["payoff_curve"]["chosen"] == {"champion": "constant", "challenger": "by row"}
    assert len(dossier["payoff_curve"]["challenger"]) == 101
    served = models.load(valuing.registry.download(valuing.model, attempt.challenger_version))
    assert (served.capacity, served.threshold) == (10, PayoffMatrix.from_spec(valuing.spec.business.payoff))


def test_a_hook_values_an_attempt_from_snapshot_to_dossier(valuing):
    valuing.deploy(HOOK, {"threshold": "tuned"}, value)
    attempt = valuing.run("2013-05-20", first_champion=True)
    assert attempt.verdict == "promote"
    dossier = dossiers.read(valuing.store, attempt)
    tuned = dossier["challenger"]["provenance"]["tuned_threshold"]
    assert dossier["payoff_curve"]["chosen"]["challenger"] == tuned["threshold"]
    assert dossier["payoff_curve"]["hindsight"]["challenger"]["loss"] >= 0
    assert dossier["spec"]["document"]["business"]["payoff"]["sha256"] == "a" * 64
    json.dumps(dossier, allow_nan=False)


def test_a_column_that_the_snapshot_does_not_have_ends_the_attempt_at_its_snapshot(valuing):
    valuing.deploy({"tp": "2 * rates", "fp": -60, "unit": "USD"}, {"threshold": "payoff"})
    with pytest.raises(Refused, match=r"business\.payoff\.tp: 'rates' is not a column.*Did you mean 'rate'"):
        valuing.tuned("2013-05-20", first_champion=True)
