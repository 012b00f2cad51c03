"""Who may scrape, and what is scraped: every sample is a known metric, and says what the ledger says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from api_worlds import Client
from prometheus_client.parser import text_string_to_metric_families

from ratchet.adapters.ledger import schema
from ratchet.domain.instruments import INSTRUMENTS
from ratchet.ports.ledger import MonitoredRow, PumpRow

TOKEN = "f" * 32
MODEL = "flight_delay"
NOW = datetime(2013, 4, 1, 4, tzinfo=UTC)


def scraped(api: Client) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    answer = api.get("/v1/metrics")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def value(api: Client, name: str, **labels: str) -> float | None:
    return scraped(api).get((name, frozenset(labels.items())))


def test_every_sample_is_an_instrument_with_its_labels(api: Client, world_with_history: None) -> None:
    found = scraped(api)
    assert len(found) > 20
    for name, labels in found:
        assert {label for label, _ in labels} == set(INSTRUMENTS[name].labels), name


def test_how_many_statements_a_scrape_takes_does_not_depend_on_how_many_models_spent(
    api: Client, world_with_history: None
) -> None:
    counted: list[str] = []
    with api.world.ledger.engine.connect() as db:
        attempt = db.execute(sa.select(schema.attempt)).mappings().one()
    sa.event.listen(api.world.ledger.engine, "before_cursor_execute", lambda *args: counted.append(args[2]))
    asked = []
    for name in ("alpha", "beta", "gamma"):
        spec = api.world.spec.model_copy(update={"model": name})
        with api.world.ledger.transaction() as tx:
            tx.publish_spec(name, spec.digest, spec.model_dump(mode="json"))
        with api.world.ledger.engine.begin() as db:
            other = {"id": f"{name}.1", "model": name, "spec_digest": spec.digest, "dag_run_id": name}
            db.execute(sa.insert(schema.attempt).values(dict(attempt) | other))
        with api.world.ledger.transaction() as tx:
            tx.save_step(f"{name}.1", "snapshot", {}, tx.wall() - timedelta(seconds=100))
        scraped(api)  # what a spec says is read once
        counted.clear()
        assert ("ratchet_core_seconds_total", frozenset({("model", name)})) in scraped(api)
        asked.append(len(counted))
    assert len(set(asked)) == 1


@pytest.mark.parametrize("name", INSTRUMENTS)
def test_names_follow_the_conventions(name: str) -> None:
    one = INSTRUMENTS[name]
    assert name.startswith("ratchet_")
    assert (one.kind == "counter") == name.endswith("_total")
    assert one.help.endswith(".")
    assert not {"le", "job", "instance"} & set(one.labels), "these are Prometheus' own"


def test_whoever_has_the_token_scrapes(api: Client) -> None:
    api.ratchet.scrape_token = TOKEN
    assert api.get("/v1/metrics", TOKEN).status_code == 200
    assert api.get("/v1/metrics", TOKEN[:-1]).status_code == 401
    assert api.get("/v1/models", TOKEN).status_code == 401, "it is good for nothing else"


def test_no_token_is_known_where_none_is_defined(api: Client) -> None:
    assert api.get("/v1/metrics", "").status_code == 401
    assert api.get("/v1/metrics", "None").status_code == 401


def test_a_person_needs_to_see_every_model(api: Client) -> None:
    assert api.get("/v1/metrics", "vic").status_code == 200
    assert api.get("/v1/metrics", "nob").status_code == 403
    api.people.only["vic"] = {MODEL}
    assert api.get("/v1/metrics", "vic").status_code == 403


def test_verdicts_champions_and_events_are_counted(api: Client, world_with_history: None) -> None:
    assert value(api, "ratchet_verdicts_total", model=MODEL, verdict="keep_champion") == 1
    assert value(api, "ratchet_attempts_total", model=MODEL, state="concluded") == 1
    assert value(api, "ratchet_champion_changes_total", model=MODEL, kind="init") == 1
    assert value(api, "ratchet_champion_version", model=MODEL) == 1
    assert value(api, "ratchet_uplift_per_decision", model=MODEL, unit="USD", bound="lower") == 0.5
    assert value(api, "ratchet_budget_used_ratio", model=MODEL, rule="runs_per_day") == 0.25
    assert value(api, "ratchet_events_open", model=MODEL, fate="claimed") == 0


def test_a_dry_run_is_an_attempt_but_no_verdict_that_counts(api: Client) -> None:
    world = api.world
    world.crown(1)
    world.arrive(NOW)
    world.judge(world.claim(run_type="manual", dry_run=True, reason="try")["attempt"], "keep_champion")
    assert value(api, "ratchet_attempts_total", model=MODEL, state="concluded") == 1
    assert value(api, "ratchet_verdicts_total", model=MODEL, verdict="keep_champion") == 0


def test_what_is_alerted_on_its_increase_is_told_before_it_happens(api: Client) -> None:
    assert value(api, "ratchet_attempts_total", model=MODEL, state="failed") == 0
    assert value(api, "ratchet_audit_entries_total", action="artifact.tampered") == 0


def test_lag_and_beats_are_those_of_the_pumps(api: Client) -> None:
    row = PumpRow("host:1", "g", NOW, {"ml.drift/0": 7, "ml.drift/1": 0}, stored=5, alarm="lost")
    with api.world.ledger.transaction() as tx:
        tx.beat(row)
    assert value(api, "ratchet_intake_lag_records", topic="ml.drift", partition="0") == 7
    assert value(api, "ratchet_intake_alarms") == 1
    assert value(api, "ratchet_intake_records_total", pump="host:1", outcome="stored") == 5
    beat = value(api, "ratchet_intake_beat_timestamp_seconds")
    assert beat is not None
    assert abs(beat - datetime.now(UTC).timestamp()) < 60


def test_a_run_that_nobody_claims_is_overdue(api: Client) -> None:
    api.world.crown(1)
    api.world.arrive(NOW)
    waits = value(api, "ratchet_run_overdue_seconds", model=MODEL)
    assert waits is not None
    assert waits > 0
    api.world.claim()
    assert value(api, "ratchet_run_overdue_seconds", model=MODEL) == 0
    assert value(api, "ratchet_attempts_live", model=MODEL, state="claimed") == 1
    slowest = value(api, "ratchet_event_to_run_seconds", model=MODEL, quantile="1")
    assert slowest is not None
    assert 0 < slowest < 60


def test_core_seconds_are_those_of_finished_steps_times_threads(api: Client) -> None:
    world = api.world
    world.crown(1)
    world.arrive(NOW)
    attempt = world.claim()["attempt"]
    with world.ledger.transaction() as tx:
        tx.save_step(attempt, "snapshot", {}, tx.wall() - timedelta(seconds=100))
    spent = value(api, "ratchet_core_seconds_total", model=MODEL)
    assert spent is not None
    assert abs(spent - 100 * world.spec.runtime.threads) < 5


def test_what_the_monitor_and_the_gates_test_found_last_is_told(api: Client) -> None:
    def looked(window_end: datetime, state: str, **payoff: Any) -> None:
        found = {"payoff": {"outcome": "held", "said": ""} | payoff}
        digest = api.world.spec.digest
        with api.world.ledger.transaction() as tx:
            tx.save_monitored(MonitoredRow(MODEL, window_end, state, digest, 1, found))

    looked(NOW, "done", realised={"estimate": 4.5, "lower": 3.0, "upper": None})
    assert value(api, "ratchet_payoff_realised_per_decision", model=MODEL, unit="USD", bound="estimate") == 4.5
    assert value(api, "ratchet_payoff_realised_per_decision", model=MODEL, unit="USD", bound="upper") is None
    assert value(api, "ratchet_monitor_broken", model=MODEL) == 0
    looked(NOW + timedelta(days=7), "broken")
    assert value(api, "ratchet_monitor_broken", model=MODEL) == 1
    with api.world.ledger.transaction() as tx:
        tx.save_self_test(MODEL, {}, passed=False)
        tx.save_self_test(MODEL, {}, passed=None)
    assert value(api, "ratchet_gate_self_test_passed", model=MODEL) == 0, "what could not be judged changes nothing"


def test_what_waits_in_the_outbox_is_told(api: Client) -> None:
    with api.world.ledger.transaction() as tx:
        tx.enqueue("alias", "a", {"alias": "champion"}, MODEL)
    assert value(api, "ratchet_outbox_waiting", kind="alias") == 1
    api.world.relay.run()
    assert value(api, "ratchet_outbox_waiting", kind="alias") is None


def test_a_retired_model_keeps_its_counters_and_has_no_gauges(api: Client, world_with_history: None) -> None:
    with api.world.ledger.transaction() as tx:
        tx.retire(MODEL)
    assert value(api, "ratchet_verdicts_total", model=MODEL, verdict="keep_champion") == 1
    assert value(api, "ratchet_champion_version", model=MODEL) is None
