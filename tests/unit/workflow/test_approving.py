"""People are asked before a challenger serves: what comes of it when they answer, and when they do not."""

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from ratchet.adapters.ledger import schema
from ratchet.domain.spec import ModelSpec
from ratchet.errors import CorruptObjectError, Refused, Unavailable
from ratchet.workflow.approving import approvals_of
from ratchet.workflow.retiring import retire

MAY = datetime(2013, 5, 1, 4, tzinfo=UTC)
JUNE = datetime(2013, 6, 1, 4, tzinfo=UTC)
RECORD = {
    "estimate": 0.9,
    "lower": 0.4,
    "upper": 1.4,
    "unit": "USD",
    "n_rows": 20_000,
    "n_clusters": 28,
    "reasons": ["lower +0.4 > 0.05"],
    "checks": [
        {
            "metric": "payoff",
            "slice": "carrier=U|A",
            "champion": 7.8,
            "challenger": 7.3,
            "required": ">= 7.3",
            "passed": None,
            "detail": "",
        }
    ],
}


@dataclass
class Runs:
    """What the orchestrator would say of its runs; DAGs are all startable."""

    states: dict[str, str] = field(default_factory=dict)

    def state(self, dag_id: str, run_id: str) -> str:
        return self.states.get(run_id, "missing")

    def started_step(self, dag_id: str, run_id: str) -> bool:
        return False

    def startable(self, dag_id: str) -> bool:
        return True

    def claim_awaited(self, model: str) -> bool:
        return False

    def is_open(self, run_id: str) -> bool:
        return self.state("promote__flight_delay", run_id) in {"queued", "running"}


def asks(world, approval) -> None:
    """Deploy the spec with this approval, and without cooldown."""
    document = world.spec.model_dump(mode="json")
    document["gate"]["approval"] = approval
    document["retrain"]["cooldown"] = "0s"
    spec = ModelSpec.model_validate(document)
    with world.ledger.transaction() as tx:
        tx.publish_spec(world.model, spec.digest, spec.model_dump(mode="json"))


def verdict(world, run_id: str = "run1", version: int = 2, decision: str = "promote", **conf) -> str:
    """An attempt that was judged, with a verdict of 18,000 USD at risk."""
    attempt = world.claim(run_id, "manual", reason="look", **conf)["attempt"]
    with world.ledger.transaction() as tx:
        tx.update_attempt(attempt, verdict_record=RECORD)
    world.judge(attempt, decision, version)
    with world.ledger.transaction() as tx:
        tx.update_attempt(attempt, verdict_record=RECORD)
    return attempt


def waiting(world, approval="always", **conf) -> str:
    """An attempt that waits for people."""
    asks(world, approval)
    world.crown(1)
    world.arrive(MAY)
    attempt = verdict(world, **conf)
    assert world.promotions.promote(world.model)["awaiting_approval"] == attempt
    return attempt


def respond(world, attempt: str, actor: str = "bea", *, approve: bool = True, reason: str = "looks right"):
    return world.promotions.respond(attempt, approve=approve, actor=actor, reason=reason, via="airflow")


def champion(world) -> int:
    with world.ledger.transaction() as tx:
        return tx.current_champion(world.model).version


def audited(world, action: str) -> list[dict]:
    with world.ledger.transaction() as tx:
        return [entry for entry in tx.audit_log(world.model) if entry["action"] == action]


def later(world, attempt: str, **delta) -> None:
    """As if it had been asked so long ago."""
    r = schema.approval_request
    with world.ledger.transaction() as tx:
        asked = tx.approval_request(attempt)
    with world.ledger.engine.begin() as db:
        db.execute(
            sa.update(r)
            .where(r.c.attempt_id == attempt)
            .values(asked_at=asked.asked_at - timedelta(**delta), expires_at=asked.expires_at - timedelta(**delta))
        )


def told(world) -> list[dict]:
    world.relay.run()
    events = [json.loads(record.value) for record in world.bus.records("ml.decisions")]
    return [event for event in events if event["type"].startswith("ratchet.model.")]


def sweep(world, runs: Runs | None = None) -> dict:
    return world.sweeper.sweep(runs or Runs(), {world.model})


# What is promoted is what was judged ----------------------------------------------------------------------------------


def tampered(folder, *, expected=None):
    raise CorruptObjectError(f"{folder}: sha256 must be {expected}, but got another")


def away(folder, *, expected=None):
    raise Unavailable("MLflow does not answer")


def test_an_artifact_that_changed_while_it_waited_is_not_promoted_and_the_events_wait_for_another_attempt(world):
    asks(world, "never")
    world.crown(1)
    world.arrive(MAY)
    attempt = verdict(world)
    world.loader.load = tampered
    assert world.promotions.promote(world.model)["promoted"] is None
    assert champion(world) == 1
    assert (world.attempt(attempt).state, "version 2" in world.attempt(attempt).failure) == ("failed", True)
    assert {event.fate for event in world.events()} == {"pending"}
    assert [entry["detail"]["version"] for entry in audited(world, "artifact.tampered")] == [2]


def test_an_artifact_that_changed_while_people_were_asked_is_not_promoted_by_their_answer(world):
    attempt = waiting(world)
    world.loader.load = tampered
    with pytest.raises(Refused, match="waits for no answer: it is failed"):
        respond(world, attempt)
    assert champion(world) == 1
    assert audited(world, "artifact.tampered")


def test_a_rejection_asks_nothing_of_the_artifact(world):
    attempt = waiting(world)
    world.loader.load = tampered
    assert respond(world, attempt, approve=False)["state"] == "concluded"


def test_what_cannot_be_verified_goes_on_waiting_and_no_answer_was_taken(world):
    attempt = waiting(world)
    world.loader.load = away
    with pytest.raises(Unavailable):
        respond(world, attempt)
    assert world.attempt(attempt).state == "awaiting_approval"
    assert audited(world, "approval.approved") == []


# Asking ---------------------------------------------------------------------------------------------------------------


def test_a_spec_that_asks_nobody_promotes_at_once(world):
    asks(world, "never")
    world.crown(1)
    world.arrive(MAY)
    attempt = verdict(world)
    assert world.promotions.promote(world.model)["promoted"] == attempt
    assert champion(world) == 2


def test_a_condition_that_does_not_hold_promotes_at_once(world):
    asks(world, {"when": {"lower_bound_below": 0.3}})
    world.crown(1)
    world.arrive(MAY)
    assert world.promotions.promote(world.model)["promoted"] is None
    assert world.promotions.promote(world.model)["awaiting_approval"] is None
    attempt = verdict(world)
    assert world.promotions.promote(world.model)["promoted"] == attempt


def test_a_verdict_that_needs_people_waits_for_them_and_the_request_is_audited(world):
    attempt = waiting(world, {"when": {"lower_bound_below": 0.5}, "expires": "2d"})
    assert (world.attempt(attempt).state, champion(world)) == ("awaiting_approval", 1)
    (entry,) = audited(world, "approval.requested")
    assert entry["actor"] == "ann"
    assert entry["detail"]["attempt"] == attempt
    assert entry["detail"]["value_at_risk"] == 18_000
    assert entry["detail"]["reason"] == "the lower bound 0.4 lies below 0.5 USD per decision"
    with world.ledger.transaction() as tx:
        asked = tx.approval_request(attempt)
        assert asked.expires_at - asked.asked_at == timedelta(days=2)
    assert told(world) == []


def test_people_are_asked_once_however_often_the_verdict_is_acted_upon(world):
    waiting(world)
    world.promotions.promote(world.model)
    sweep(world)
    assert len(audited(world, "approval.requested")) == 1


def test_waiting_for_people_blocks_no_retrain(world):
    waiting(world)
    with world.ledger.transaction() as tx:
        assert tx.leases() == []
    world.arrive(JUNE)
    assert world.claim("run2")["attempt"] == "flight_delay.2"


def test_a_dry_run_asks_nobody(world):
    asks(world, "always")
    world.crown(1)
    world.arrive(MAY)
    attempt = world.claim("run1", "manual", reason="look", dry_run=True)["attempt"]
    world.judge(attempt, "keep_champion")
    world.promotions.promote(world.model)
    assert audited(world, "approval.requested") == []


# Answers --------------------------------------------------------------------------------------------------------------


def test_an_approval_promotes_in_the_same_breath_and_the_approver_is_on_record(world):
    attempt = waiting(world)
    answer = respond(world, attempt)
    assert (answer["state"], answer["counted"]) == ("concluded", True)
    assert champion(world) == 2
    assert world.registry.alias_version(world.model, "champion") == 2
    with world.ledger.transaction() as tx:
        entry = tx.current_champion(world.model)
        on_record = approvals_of(tx, attempt)
    assert (entry.actor, entry.reason) == ("bea", "looks right")
    assert [(a["actor"], a["answer"], a["reason"], a["via"]) for a in on_record["answers"]] == [
        ("bea", "approve", "looks right", "airflow")
    ]
    (approved,), (promoted,) = audited(world, "approval.approved"), audited(world, "champion.promoted")
    assert (approved["actor"], approved["detail"]["reason"]) == ("bea", "looks right")
    assert (promoted["actor"], promoted["detail"]["approved_by"]) == ("bea", ["bea"])
    (announced,) = told(world)
    assert announced["type"] == "ratchet.model.promoted.v1"
    assert announced["data"]["reasons"] == ["approved by bea", "lower +0.4 > 0.05"]


def test_a_rejection_keeps_the_champion_and_says_who_and_why(world):
    attempt = waiting(world)
    respond(world, attempt, approve=False, reason="the holdout was Christmas")
    ended = world.attempt(attempt)
    assert (ended.state, ended.failure, ended.promoted) == (
        "concluded",
        "rejected by bea: the holdout was Christmas",
        False,
    )
    assert champion(world) == 1
    assert {row.fate for row in world.events(attempt_id=attempt)} == {"started", "merged"}
    assert all("rejected by bea" in row.reason for row in world.events(attempt_id=attempt))
    assert [entry["actor"] for entry in audited(world, "approval.rejected")] == ["bea"]
    (announced,) = told(world)
    assert announced["type"] == "ratchet.model.kept.v1"
    assert (announced["data"]["champion_after"], announced["data"]["reasons"][0]) == (1, ended.failure)


def test_an_answer_without_a_person_is_refused_and_one_without_a_reason_says_so(world):
    attempt = waiting(world, {"two_people_above": 1.0})
    with pytest.raises(Refused, match="needs a person"):
        respond(world, attempt, " ")
    respond(world, attempt, reason=" ")
    with world.ledger.transaction() as tx:
        assert [row.reason for row in tx.approvals(attempt)] == ["no reason given"]


def test_two_people_are_two_different_people(world):
    attempt = waiting(world, {"two_people_above": 17_000.0})
    assert respond(world, attempt, "bea")["stands"] == "1 of 2 approvals (bea)"
    again = respond(world, attempt, "BEA")
    assert (again["state"], again["counted"]) == ("awaiting_approval", False)
    assert champion(world) == 1
    assert respond(world, attempt, "cy")["state"] == "concluded"
    assert champion(world) == 2
    assert audited(world, "champion.promoted")[0]["detail"]["approved_by"] == ["bea", "cy"]


def test_who_started_the_run_is_never_the_only_approver_above_the_value_at_risk(world):
    attempt = waiting(world, {"two_people_above": 17_000.0})
    assert world.attempt(attempt).actor == "ann"
    assert respond(world, attempt, "ann")["state"] == "awaiting_approval"
    assert respond(world, attempt, "bea")["state"] == "concluded"


def test_below_the_value_at_risk_who_started_the_run_may_approve_it(world):
    attempt = waiting(world, {"two_people_above": 19_000.0})
    assert respond(world, attempt, "ann")["state"] == "concluded"


def test_nobody_but_an_answer_promotes_what_waits(world):
    """Whatever is marked a success, cleared or run again in the orchestrator ends in one of these verbs."""
    attempt = waiting(world)
    for _ in range(3):
        assert world.promotions.promote(world.model)["promoted"] is None
        assert world.promotions.show_request(world.model, "run1", Runs().is_open)
        assert world.promotions.settle(world.model) == attempt
        assert not world.promotions.announce(world.model)
        sweep(world)
    assert champion(world) == 1


def self_test(world, *, passed: bool) -> None:
    with world.ledger.transaction() as tx:
        tx.save_self_test(world.model, {"reasons": ["a known-bad model passed"]}, passed=passed)


def test_a_gate_that_failed_its_self_test_promotes_nothing_that_people_agreed_to_until_it_passes_again(world):
    attempt = waiting(world)
    self_test(world, passed=False)
    answer = respond(world, attempt)
    assert (answer["state"], answer["decision"], champion(world)) == ("awaiting_approval", "approved", 1)
    assert show(world, "a") is None, "people have agreed already"
    self_test(world, passed=True)
    assert world.promotions.promote(world.model)["promoted"] == attempt


def test_what_is_held_is_not_fetched_each_minute_and_a_registry_that_is_away_stops_no_sweep(world):
    attempt = waiting(world)
    self_test(world, passed=False)
    respond(world, attempt)
    fetched = []
    world.loader.load = lambda folder, **_: fetched.append(folder)
    sweep(world)
    assert fetched == []
    self_test(world, passed=True)
    world.loader.load = away
    sweep(world)
    assert (world.attempt(attempt).state, champion(world)) == ("awaiting_approval", 1)
    world.loader.load = lambda folder, **_: folder
    sweep(world)
    assert (world.attempt(attempt).state, champion(world)) == ("concluded", 2)


def test_people_are_not_asked_while_the_gate_fails_its_self_test_and_what_waits_expires_all_the_same(world):
    attempt = waiting(world)
    self_test(world, passed=False)
    later(world, attempt, days=3)
    sweep(world)
    assert world.attempt(attempt).state == "concluded"
    world.arrive(JUNE)
    verdict(world, "run2", 3)
    assert world.promotions.promote(world.model)["awaiting_approval"] is None


def test_an_approval_that_the_ledger_does_not_hold_does_not_promote(world):
    """An attempt in the state of one that may be promoted, without answers: as if a row had been edited by hand."""
    attempt = waiting(world)
    with world.ledger.transaction() as tx:
        tx.update_attempt(attempt, state="judged")
    assert world.promotions.promote(world.model)["promoted"] is None
    assert champion(world) == 1


# Void -----------------------------------------------------------------------------------------------------------------


def refused(world, attempt: str, match: str) -> None:
    """An answer now is refused with this reason, audited, and promotes nothing."""
    before = champion(world)
    with pytest.raises(Refused, match=match):
        respond(world, attempt, "late")
    assert champion(world) == before
    entry = audited(world, "approval.refused")[-1]
    assert (entry["actor"], entry["detail"]["attempt"], entry["detail"]["answer"]) == ("late", attempt, "approve")


def test_another_champion_makes_the_request_void_and_the_events_wait_again(world):
    attempt = waiting(world)
    world.crown(5)
    refused(world, attempt, "waits for no answer: it is superseded .*another serves now")
    assert {row.fate for row in world.events()} == {"pending"}
    assert {row.tries for row in world.events()} == {0}


def test_changed_evidence_makes_the_request_void(world):
    attempt = waiting(world, {"two_people_above": 1.0})
    respond(world, attempt, "bea")
    with world.ledger.transaction() as tx:
        tx.update_attempt(attempt, evidence_digest="f" * 64)
    refused(world, attempt, "superseded .*asked on evidence eeeeeeeeeeee, but it is ffffffffffff now")


@pytest.mark.parametrize("decision", ["promote", "keep_champion", "not_enough_evidence"])
def test_a_newer_verdict_makes_the_request_void(world, decision):
    attempt = waiting(world)
    world.arrive(JUNE)
    newer = verdict(world, "run2", 3, decision)
    refused(world, attempt, f"superseded .*{newer} was judged later, so the approval is void")
    assert world.promotions.promote(world.model)["awaiting_approval"] == (newer if decision == "promote" else None)


def test_a_newer_dry_run_leaves_the_request_alone(world):
    attempt = waiting(world)
    world.arrive(JUNE)
    looked = world.claim("run2", "manual", reason="look", dry_run=True)["attempt"]
    world.judge(looked, "keep_champion", 3)
    assert respond(world, attempt)["state"] == "concluded"


def test_a_retired_model_asks_nobody_any_more(world):
    attempt = waiting(world)
    retire(world.ledger, world.model, "ann", "closed down", 3)
    refused(world, attempt, "superseded .*was retired by ann")


def test_an_answer_to_a_concluded_attempt_is_refused(world):
    attempt = waiting(world)
    respond(world, attempt, approve=False)
    refused(world, attempt, "concluded .rejected by bea")


def test_an_answer_about_an_attempt_that_never_was_is_refused(world):
    with pytest.raises(Refused, match=r"there is no attempt 'nobody\.1'"):
        respond(world, "nobody.1")


# Expiry ---------------------------------------------------------------------------------------------------------------


def test_a_request_that_expires_concludes_with_the_champion_kept_although_no_task_is_left(world):
    attempt = waiting(world)
    later(world, attempt, days=3)
    sweep(world)
    ended = world.attempt(attempt)
    assert (ended.state, champion(world)) == ("concluded", 1)
    assert ended.failure.startswith("not approved: 0 of 1 approvals when it expired at ")
    assert [entry["detail"]["attempt"] for entry in audited(world, "approval.expired")] == [attempt]
    assert [event["type"] for event in told(world)] == ["ratchet.model.kept.v1"]
    refused(world, attempt, "concluded .not approved")


def test_an_answer_that_comes_too_late_is_refused_although_nobody_has_noticed_the_expiry_yet(world):
    attempt = waiting(world)
    later(world, attempt, days=3)
    refused(world, attempt, "concluded .not approved")


def test_the_expiry_runs_on_the_wall_clock_and_not_on_replayed_time(world):
    attempt = waiting(world)
    with world.ledger.transaction() as tx:
        tx.set_clock("replay", tx.clock()[1] + timedelta(days=300))
    sweep(world)
    assert world.attempt(attempt).state == "awaiting_approval"


# Who shows the request ------------------------------------------------------------------------------------------------


def show(world, run_id: str, runs: Runs | None = None):
    return world.promotions.show_request(world.model, run_id, (runs or Runs()).is_open)


def test_a_request_says_what_is_at_stake_and_until_when(world):
    attempt = waiting(world, {"two_people_above": 17_000.0})
    respond(world, attempt, "bea")
    shown = show(world, "promote1")
    assert shown["attempt"] == attempt
    assert shown["subject"] == "flight_delay: let version 2 serve, over version 1?"
    for said in (
        "| uplift | **+0.9** USD per decision |",
        "| bounds | +0.4 to +1.4, each one-sided |",
        "| judged on | 20,000 decisions of 28 days |",
        "| value at risk | 18,000 USD over as many days |",
        "| people | 2 must agree; 1 of 2 approvals (bea) so far |",
        f"`ratchet trace {attempt}`",
        "| payoff | carrier=U\\|A | 7.8 | 7.3 | \\>= 7.3 | not judged |",
    ):
        assert said in shown["body"]
    assert 3 * 86_400 - 60 < shown["seconds"] <= 3 * 86_400


def test_one_open_run_shows_the_request_and_the_same_one_shows_it_again(world):
    waiting(world)
    runs = Runs({"a": "running"})
    assert show(world, "a", runs)
    assert show(world, "b", runs) is None
    assert show(world, "a", runs)


@pytest.mark.parametrize("state", ["success", "failed", "missing"])
def test_another_run_takes_over_from_one_that_ended_or_was_deleted(world, state):
    waiting(world)
    show(world, "a", Runs({"a": "running"}))
    assert show(world, "b", Runs({"a": state, "b": "running"}))


def test_a_run_that_showed_one_request_does_not_show_another(world):
    """Its page may still have the first one's numbers."""
    waiting(world)
    show(world, "a")
    world.arrive(JUNE)
    newer = verdict(world, "run2", 3)
    world.promotions.promote(world.model)
    assert show(world, "a") is None
    assert show(world, "b")["attempt"] == newer


def test_nothing_is_shown_when_nothing_waits(world):
    attempt = waiting(world)
    respond(world, attempt)
    assert show(world, "a") is None


@pytest.mark.parametrize(
    ("state", "again"), [("running", False), ("queued", False), ("success", True), ("missing", True)]
)
def test_the_sweep_has_people_asked_again_when_no_open_run_asks_them(world, state, again):
    waiting(world)
    show(world, "a")
    assert sweep(world, Runs({"a": state}))["judged"] == ([world.model] if again else [])


def test_the_sweep_leaves_a_promotion_a_minute_to_ask(world):
    attempt = waiting(world)
    assert sweep(world)["judged"] == []
    later(world, attempt, seconds=61)
    assert sweep(world)["judged"] == [world.model]
