"""What is made of the audit log, once each, and how messages are sent: at least once, and no channel stops another."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from test_leases_and_sweep import Runs

from ratchet.adapters.ledger import schema as t
from ratchet.domain.notifications import GIVEN_UP, MOST_TRIES, Channels
from ratchet.errors import Refused, Unavailable
from ratchet.ports.ledger import MonitoredRow, PumpRow
from ratchet.workflow import notifying
from ratchet.workflow.notifying import Notifications
from ratchet.workflow.promotion import move_back, release

MAY = datetime(2013, 5, 1, 4, tzinfo=UTC)
OWNER, NEXT = "ops@example.com", "head-of-ops@example.com"
TWO = Channels.model_validate({"channels": {"mail": {"notifier": "a.B"}, "chat": {"notifier": "a.C"}}})
ONE = Channels.model_validate({"channels": {"mail": {"notifier": "a.B"}}})


class Outside:
    """Where messages arrive. ``away`` are channels that answer nothing."""

    def __init__(self, world: Any, channels: Channels = ONE) -> None:
        self.world = world
        self.channels = channels
        self.verbs = Notifications(world.ledger, channels)
        self.got: list[dict[str, Any]] = []
        self.away: set[str] = set()
        self.verbs.plan()

    def deliver(self, channel: Any, message: Any) -> None:
        if message["channel"] in self.away:
            raise ConnectionError("away: https://hooks.example/secret")
        self.got.append(dict(message))

    def run(self) -> list[tuple[str, str, str]]:
        """Plan and send what is due, as the DAG does; (kind, stage, to) of what arrived now."""
        before = len(self.got)
        for channel in self.verbs.plan():
            try:
                self.verbs.send(channel, self.deliver, "https://airflow")
            except Unavailable:
                assert channel in self.away
        return [(each["kind"], each["stage"], each["to"]) for each in self.got[before:]]

    def later(self, by: timedelta) -> None:
        """Let so much of the wall clock's time pass for the messages."""
        with self.world.ledger.transaction() as tx:
            for column in (t.notification_post.c.due_at, t.notification_post.c.next_at):
                for row in tx._db.execute(sa.select(t.notification_post.c.id, column)).all():
                    at = sa.update(t.notification_post).where(t.notification_post.c.id == row[0])
                    tx._db.execute(at.values({column.name: row[1] - by}))


@pytest.fixture
def outside(world):
    return Outside(world)


def audit(world, action: str, detail: dict[str, Any], model: str | None = None, actor: str = "ratchet") -> None:
    with world.ledger.transaction() as tx:
        tx.audit(actor, action, model, detail)


def posts(world) -> list[Any]:
    with world.ledger.transaction() as tx:
        return tx.posts()


def judged(world, decision: str, **conf: Any) -> str:
    """An attempt that was judged, audited as the verb does."""
    attempt = world.claim(**conf)["attempt"]
    world.judge(attempt, decision)
    audit(world, "attempt.judged", {"attempt": attempt, "verdict": decision}, world.model)
    return attempt


def ask_people(world) -> None:
    deploy(world, gate=world.spec.gate.model_dump(mode="json") | {"approval": "always"})


def deploy(world, **sections: Any) -> None:
    """Publish the spec with these sections, as they are written in YAML."""
    world.spec = type(world.spec).model_validate(world.spec.model_dump(mode="json") | sections)
    with world.ledger.transaction() as tx:
        tx.publish_spec(world.model, world.spec.digest, world.spec.model_dump(mode="json"))


# What is told ----------------------------------------------------------------------------------------------------


def test_a_promotion_is_told_to_the_owner_once_with_its_numbers(world, outside):
    world.crown()
    world.arrive(MAY)
    attempt = judged(world, "promote")
    world.promotions.promote(world.model)
    assert outside.run() == [("promoted", "owner", OWNER)]
    told = outside.got[0]["text"]
    for part in ("flight_delay: version 2 serves", "before it: version 1", "uplift +1 [+0.5, +1.5] USD", attempt):
        assert part in told
    assert outside.got[0]["link"] == "https://airflow/dags/retrain__flight_delay/runs/run1"
    assert outside.run() == []


@pytest.mark.parametrize("verdict", ["keep_champion", "not_enough_evidence"])
def test_a_refusal_is_told_with_its_reason_and_a_dry_run_is_not(world, outside, verdict):
    world.crown()
    world.arrive(MAY)
    judged(world, verdict)
    assert outside.run() == [("refused", "owner", OWNER)]
    assert {"keep_champion": "the gate kept it out"}.get(verdict, "not enough evidence") in outside.got[0]["text"]
    world.arrive(MAY + timedelta(days=2))
    judged(world, verdict, run_id="run2", run_type="manual", dry_run=True, reason="try")
    assert outside.run() == []


def test_the_first_look_tells_nothing_of_the_past(world):
    world.crown()
    world.arrive(MAY)
    judged(world, "keep_champion")
    assert Outside(world).run() == []


def test_an_approval_that_waits_goes_to_the_owner_and_unanswered_to_the_escalation(world, outside):
    ask_people(world)
    world.crown()
    world.arrive(MAY)
    judged(world, "promote")
    world.promotions.promote(world.model)
    assert outside.run() == [("approval", "owner", OWNER)]
    assert "ratchet approve" in outside.got[0]["todo"]
    outside.later(timedelta(hours=23))
    assert outside.run() == []
    outside.later(timedelta(hours=2))
    assert outside.run() == [("approval", "escalation", NEXT)]
    assert outside.got[-1]["title"].startswith("Nobody has answered yet: ")


def test_an_answer_in_time_spares_the_escalation_and_a_no_is_told(world, outside):
    ask_people(world)
    world.crown()
    world.arrive(MAY)
    attempt = judged(world, "promote")
    world.promotions.promote(world.model)
    outside.run()
    world.promotions.respond(attempt, approve=False, actor="bea", reason="<b>strike</b> today", via="airflow")
    assert outside.run() == [("refused", "owner", OWNER)]
    assert "bea refused it: <b>strike</b> today" in outside.got[-1]["text"]
    assert "<b>strike" not in outside.got[-1]["html"]
    outside.later(timedelta(hours=25))
    assert outside.run() == []
    assert [post.dropped for post in posts(world) if post.stage == "escalation"] == ["it waits for no answer any more"]


def test_a_revert_goes_to_owner_and_escalation_at_once_and_once(world, outside):
    world.crown()
    world.crown(2)
    with world.ledger.transaction() as tx:
        first, second = tx.champions(world.model)
        detail = {"seq": 2, "version": 2, "reason": "2 loses 3 USD a decision", "record": {}}
        tx.audit("ratchet (probation)", "probation.reverted", world.model, detail)
        move_back(tx, second, first, kind="revert", actor="ratchet (probation)", reason="worse")
    assert outside.run() == [("reverted", "owner", f"{OWNER}, {NEXT}")]
    assert "2 loses 3 USD a decision" in outside.got[0]["text"]


def test_a_rollback_by_a_person_names_the_person(world, outside):
    world.crown()
    world.crown(2)
    with world.ledger.transaction() as tx:
        first, second = tx.champions(world.model)
        move_back(tx, second, first, kind="rollback", actor="ann", reason="looks odd")
    assert outside.run() == [("rolled_back", "owner", OWNER)]
    assert "ann took it back from version 2" in outside.got[0]["text"]


def test_an_attempt_that_failed_is_told_without_credentials(world, outside):
    world.crown()
    world.arrive(MAY)
    attempt = world.claim()["attempt"]
    with world.ledger.transaction() as tx:
        release(tx, tx.attempt(attempt), "failed", "no answer from s3://key:s3cret@store", 3)
    assert outside.run() == [("failed", "owner", OWNER)]
    assert "s3cret" not in str(outside.got)


def test_whoever_owns_the_model_now_is_told(world, outside):
    deploy(world, owner=world.spec.owner.model_dump() | {"email": "new@example.com"})
    audit(world, "selftest.failed", {"reasons": ["r"]}, world.model)
    with world.ledger.transaction() as tx:
        tx.save_self_test(world.model, {"reasons": ["r"]}, passed=False)
    assert outside.run() == [("self_test", "owner", f"new@example.com, {NEXT}")]


def test_an_entry_that_nobody_can_read_holds_back_no_other(world, outside):
    world.crown()
    world.arrive(MAY)
    audit(world, "champion.promoted", {"as": "no code writes it"}, world.model)
    judged(world, "keep_champion")
    assert outside.run() == [("refused", "owner", OWNER)]


def test_a_long_log_is_read_to_its_end_in_order(world, outside, monkeypatch):
    monkeypatch.setattr(notifying, "ENTRIES", 3)
    for seq in range(1, 11):
        audit(world, "probation.alerted", {"seq": seq, "version": 2, "reason": "r"}, world.model)
    outside.run()
    assert [each["subject_of"] for each in outside.got] == [f"flight_delay#{seq}" for seq in range(1, 11)]


# What lasts ------------------------------------------------------------------------------------------------------


def self_test(world, *, passed: bool) -> None:
    with world.ledger.transaction() as tx:
        tx.save_self_test(world.model, {"reasons": ["promotes null copies"]}, passed=passed)
        action = "selftest.passed" if passed else "selftest.failed"
        tx.audit("ratchet", action, world.model, {"reasons": ["promotes null copies"]})


def test_a_failed_self_test_is_told_once_however_often_it_fails_and_once_when_it_is_over(world, outside):
    both = f"{OWNER}, {NEXT}"
    self_test(world, passed=False)
    assert outside.run() == [("self_test", "owner", both)]
    for _ in range(3):
        self_test(world, passed=False)
        assert outside.run() == []
    self_test(world, passed=True)
    assert outside.run() == [("self_test", "over", both)]
    assert outside.got[-1]["title"].startswith("Over: ")
    self_test(world, passed=False)
    assert outside.run() == [("self_test", "owner", both)]


def beat(world, lag: int) -> None:
    with world.ledger.transaction() as tx:
        tx.beat(PumpRow("host:1", "g", tx.wall(), {"ml.drift/0": lag}))


def test_an_intake_that_lags_is_told_when_it_has_for_five_minutes_and_when_it_is_over(world, outside):
    for _ in range(20):
        beat(world, 10_001)
        assert outside.run() == []
    outside.later(timedelta(minutes=5))
    assert outside.run() == [("intake", "owner", f"{OWNER}, {NEXT}")]
    beat(world, 9_000_000)
    assert outside.run() == []
    beat(world, 10_000)
    assert [stage for _, stage, _ in outside.run()] == ["over"]
    assert outside.run() == []


def test_a_lag_that_passes_is_told_to_nobody(world, outside):
    beat(world, 10_001)
    assert outside.run() == []
    beat(world, 0)
    outside.run()
    outside.later(timedelta(minutes=10))
    assert outside.run() == []
    assert [post.dropped for post in posts(world)] == ["over before anybody was told"]


def test_a_lag_is_not_over_because_nobody_measures_it_any_more(world, outside):
    beat(world, 10_001)
    outside.run()
    outside.later(timedelta(minutes=5))
    outside.run()
    with world.ledger.transaction() as tx:
        tx._db.execute(sa.update(t.pump).values(beat_at=tx.wall() - timedelta(minutes=6)))
    assert outside.run() == []


def test_a_silent_intake_goes_to_the_operators_and_its_return_too(world):
    channels = ONE.model_copy(update={"operators": ("on-call@example.com",)})
    outside = Outside(world, channels)
    with world.ledger.transaction() as tx:
        tx._db.execute(sa.update(t.spec).values(deployed_at=tx.wall() - timedelta(minutes=6)))
    world.sweeper.sweep(Runs(), {world.model})
    assert outside.run() == [("intake", "owner", "on-call@example.com")]
    beat(world, 0)
    world.sweeper.sweep(Runs(), {world.model})
    assert outside.run() == [("intake", "over", "on-call@example.com")]


def test_broken_data_are_told_at_once_and_a_window_that_can_be_believed_ends_it(world, outside):
    def looked(day: int, state: str) -> None:
        with world.ledger.transaction() as tx:
            end = MAY + timedelta(days=day)
            tx.save_monitored(MonitoredRow(world.model, end, state, world.spec.digest, found={}))
            if state == "broken":
                detail = {"window_end": end.isoformat(), "said": ["visibility_miles: 80 % missing"]}
                tx.audit("ratchet (monitor)", "monitor.broken", world.model, detail)

    looked(0, "broken")
    assert outside.run() == [("broken_data", "owner", f"{OWNER}, {NEXT}")]
    assert "visibility_miles: 80 % missing" in outside.got[0]["text"]
    looked(0, "broken")
    looked(7, "broken")
    assert outside.run() == []
    looked(14, "done")
    assert [stage for _, stage, _ in outside.run()] == ["over"]


def test_a_storm_of_lost_offsets_is_one_message_a_day_and_topic(world, outside):
    for partition in range(12):
        detail = {"cluster": "c", "topic": "ml.drift", "partition": partition, "alarm": "offsets 4 to 9 are gone"}
        audit(world, "intake.offsets", detail)
    assert len(outside.run()) == 1


# How messages are sent -------------------------------------------------------------------------------------------


def three_notices(world) -> None:
    for seq in (1, 2, 3):
        audit(world, "probation.alerted", {"seq": seq, "version": 2, "reason": "r"}, world.model)


def test_a_channel_that_is_away_holds_back_no_other_and_is_told_everything_later(world):
    outside = Outside(world, TWO)
    outside.away = {"mail"}
    three_notices(world)
    assert [each[0] for each in outside.run()] == ["reverted"] * 3
    assert {each["channel"] for each in outside.got} == {"chat"}
    assert {post.last_error for post in posts(world) if post.channel == "mail"} == {
        "ConnectionError: away: https://hooks.example/…"
    }
    outside.away = set()
    assert outside.run() == [], "the next try waits"
    outside.later(timedelta(minutes=3))
    assert len(outside.run()) == 3


def test_a_channel_is_left_alone_for_the_run_after_three_failures_in_a_row(world):
    outside = Outside(world)
    outside.away = {"mail"}
    for seq in range(1, 9):
        audit(world, "probation.alerted", {"seq": seq, "version": 2, "reason": "r"}, world.model)
    outside.run()
    assert sorted(post.tries for post in posts(world)) == [0] * 5 + [1] * 3


def test_a_process_killed_between_sending_and_recording_sends_again_under_the_same_id(world, outside):
    three_notices(world)

    def killed(channel: Any, message: Any) -> None:
        outside.deliver(channel, message)
        raise KeyboardInterrupt

    outside.verbs.plan()
    with pytest.raises(KeyboardInterrupt):
        outside.verbs.send("mail", killed, None)
    assert len(outside.run()) == 2, "the one that was being sent rests: another process may be sending it"
    outside.later(timedelta(minutes=3))
    assert len(outside.run()) == 1
    ids = [each["id"] for each in outside.got]
    assert (len(ids), len(set(ids)), ids[0] == ids[-1]) == (4, 3, True)


def test_a_process_killed_while_it_makes_notifications_has_made_none_and_the_next_all(world, outside, monkeypatch):
    three_notices(world)
    whole = notifying.route
    calls = []

    def killed(*given: Any) -> Any:
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(*given)

    monkeypatch.setattr(notifying, "route", killed)
    with pytest.raises(KeyboardInterrupt):
        outside.verbs.plan()
    assert posts(world) == []
    monkeypatch.setattr(notifying, "route", whole)
    assert len(outside.run()) == 3


def test_two_that_send_at_once_send_each_message_once(world, outside):
    three_notices(world)
    outside.verbs.plan()

    def meanwhile(channel: Any, message: Any) -> None:
        outside.verbs.send("mail", outside.deliver, None)
        outside.deliver(channel, message)

    outside.verbs.send("mail", meanwhile, None)
    ids = [each["id"] for each in outside.got]
    assert (len(ids), len(set(ids))) == (3, 3)


def test_a_message_is_given_up_after_three_days_of_tries_and_can_be_tried_again(world, outside):
    audit(world, "probation.alerted", {"seq": 1, "version": 2, "reason": "r"}, world.model)
    outside.away = {"mail"}
    outside.run()
    with world.ledger.transaction() as tx:
        tx._db.execute(sa.update(t.notification_post).values(tries=MOST_TRIES - 1, next_at=tx.wall()))
    outside.run()
    assert [post.dropped for post in posts(world)] == [GIVEN_UP]
    outside.away = set()
    outside.later(timedelta(hours=2))
    assert outside.run() == []
    with world.ledger.transaction() as tx:
        assert tx.retry_posts(GIVEN_UP) == 1
    assert len(outside.run()) == 1


def test_what_was_due_a_week_ago_is_not_told_any_more(world, outside):
    three_notices(world)
    outside.verbs.plan()
    outside.later(timedelta(days=7, minutes=1))
    assert outside.run() == []
    assert {post.dropped for post in posts(world)} == {"not sent within 7 days"}


def test_a_channel_that_the_spec_names_and_nobody_defined_waits_for_its_definition(world, outside, caplog):
    deploy(world, notify={"channels": ["pager"]})
    three_notices(world)
    assert outside.run() == []
    assert "'pager', which is not defined" in caplog.text
    pager = Outside(world, Channels.model_validate({"channels": {"pager": {"notifier": "a.B"}}}))
    assert len(pager.run()) == 3


def test_a_spec_that_wants_approvals_only_is_told_no_promotion(world, outside):
    deploy(world, notify={"kinds": ["approval"]})
    world.crown()
    world.arrive(MAY)
    judged(world, "promote")
    world.promotions.promote(world.model)
    assert outside.run() == []


def test_sending_through_a_channel_that_is_none_is_refused(outside):
    with pytest.raises(Refused, match="no channel 'chat'; there are mail"):
        outside.verbs.send("chat", outside.deliver, None)


def test_a_shadow_verdict_is_told_as_one(world, outside):
    deploy(world, gate=world.spec.gate.model_dump(mode="json") | {"shadow": True})
    world.crown()
    world.arrive(MAY)
    judged(world, "promote")
    assert outside.run() == [("refused", "owner", OWNER)]
    assert "shadow mode" in outside.got[0]["text"]
