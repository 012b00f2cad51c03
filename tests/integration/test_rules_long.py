"""What a spec may ask for beyond the shipped one, each through a whole attempt: a payoff in Python with a tuned
threshold under a capacity, shadow mode, two looks at one frozen challenger, another estimator, a refit on probation,
and the recalibrated champion as a second challenger. `make test-long` runs these.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from running_system import System
from small_model import CAPACITY, FORESTED, HOOKED, LOOKED_AT, RECALIBRATED, REFITTED, SHADOWED
from upsets import Upset, crown, request

from ratchet.ports.ledger import AttemptRow, ChampionRow
from ratchet.workflow import dossiers

pytestmark = [pytest.mark.stack, pytest.mark.long, pytest.mark.timeout(1800)]


def champion(system: System, model: str) -> ChampionRow | None:
    with system.ratchet.ledger.transaction() as tx:
        return tx.current_champion(model)


def dossier(system: System, attempt: AttemptRow) -> dict[str, Any]:
    return dossiers.read(system.ratchet.store, attempt)


def first(case: Upset, wanted: Callable[[AttemptRow], bool]) -> AttemptRow:
    """The attempt that is as wanted, as soon as it has concluded."""

    def look() -> AttemptRow | None:
        return next((each for each in case.attempts() if each.state == "concluded" and wanted(each)), None)

    found: AttemptRow = case.until("an attempt as wanted", look)
    return found


def test_a_payoff_in_python_with_a_tuned_threshold_under_a_capacity_is_judged_served_and_repeated(
    system: System,
) -> None:
    assert "concluded, verdict promote" in system.command("champion", "init", HOOKED, "--reason", "the rules")
    serving = champion(system, HOOKED)
    assert serving is not None
    with system.ratchet.ledger.transaction() as tx:
        attempt = tx.attempt(str(serving.attempt_id))
    assert attempt is not None
    told = dossier(system, attempt)
    assert len(told["spec"]["document"]["business"]["payoff"]["sha256"]) == 64
    tuned = told["challenger"]["provenance"]["tuned_threshold"]
    artifact = system.ratchet.artifacts.load(HOOKED, serving.version)
    assert (artifact.threshold, artifact.capacity) == (tuned["threshold"], CAPACITY)
    content = system.ratchet.store.get_bytes(told["evidence"]["key"], digest=told["evidence"]["sha256"])
    judged = pq.read_table(io.BytesIO(content))
    acted = judged.filter(judged.column("challenger_act"))
    per_day = acted.group_by("day").aggregate([("day", "count")]).column("day_count")
    assert 0 < pc.max(per_day).as_py() <= CAPACITY < judged.num_rows / len(set(judged.column("day").to_pylist()))
    name = f"{HOOKED}@{serving.version}"
    system.command("replay", name)
    system.command("reproduce", name, "--threads", "2")


def test_shadow_mode_judges_records_and_promotes_nothing(system: System) -> None:
    crown(system, SHADOWED)
    attempt = request(system, SHADOWED).answered()
    assert (attempt.state, attempt.verdict, attempt.failure) == ("concluded", "promote", "shadow mode")
    serving = champion(system, SHADOWED)
    assert serving is not None
    assert serving.seq == 1
    assert system.ratchet.registry.alias_version(SHADOWED, "champion") == serving.version
    with system.ratchet.ledger.transaction() as tx:
        assert tx.used_days(SHADOWED, serving.version), "the rows it was judged on are used"


def test_a_second_look_at_a_frozen_challenger_trains_nothing_and_has_the_days_of_both(system: System) -> None:
    crown(system, LOOKED_AT)
    asked = request(system, LOOKED_AT)
    once = asked.answered()
    assert (once.verdict, once.look) == ("not_enough_evidence", 1)
    assert once.challenger_version is not None
    system.fresh_days()
    again = first(asked, lambda each: each.look == 2)
    assert (again.challenger_version, again.trigger) == (once.challenger_version, "follow_up")
    before, now = dossier(system, once), dossier(system, again)
    assert [look["attempt"] for look in now["looks"]["taken"]] == [once.id, again.id]
    assert now["looks"]["plan"] == [0.5, 0.5]
    assert now["challenger"]["digest"] == before["challenger"]["digest"]
    assert set(before["used_days"]["holdout"]) < set(now["used_days"]["holdout"])
    with system.ratchet.ledger.transaction() as tx:
        tuned = [str(step) for name, step in tx.steps(again.id).items() if name.startswith("tune")]
    assert all("skipped" in step for step in tuned)
    system.command("replay", again.id)


def test_a_forest_of_scikit_learn_is_judged_served_from_its_skops_file_and_repeated(system: System) -> None:
    assert "concluded, verdict promote" in system.command("champion", "init", FORESTED, "--reason", "another estimator")
    serving = champion(system, FORESTED)
    assert serving is not None
    folder = system.ratchet.registry.download(FORESTED, serving.version)
    assert sorted(file.suffix for file in folder.iterdir()) == [".json", ".skops"]
    assert system.ratchet.registry.alias_version(FORESTED, "champion") == serving.version
    system.command("reproduce", f"{FORESTED}@{serving.version}", "--threads", "2")
    system.command("verify", FORESTED)


def test_a_refit_serves_on_probation_and_every_record_says_whose_the_verdict_is(system: System) -> None:
    crown(system, REFITTED)
    attempt = request(system, REFITTED).answered()
    assert attempt.verdict == "promote"
    judged, deployed = attempt.challenger_version, attempt.deployed_version
    assert deployed not in {None, judged}
    serving = champion(system, REFITTED)
    assert serving is not None
    assert serving.version == deployed
    system.until("the alias", lambda: system.ratchet.registry.alias_version(REFITTED, "champion") == deployed)
    told = dossier(system, attempt)
    assert (told["challenger"]["version"], told["deployed"]["version"]) == (judged, deployed)
    assert max(told["used_days"]["refit"]) >= max(told["used_days"]["holdout"]) > max(told["used_days"]["fit"])
    with system.ratchet.ledger.transaction() as tx:
        assert tx.probations(model=REFITTED)[0].state == "watching"
    system.command("replay", attempt.id)
    system.command("reproduce", attempt.id)


def test_the_recalibrated_champion_is_judged_beside_the_tuned_challenger(system: System) -> None:
    crown(system, RECALIBRATED)
    attempt = request(system, RECALIBRATED).answered()
    listed = dossier(system, attempt)["candidates"]
    named = {each["name"] for each in listed["judged"]} | set(listed["not_judged"])
    assert named == {"tuned_challenger", "recalibrated_champion"}
    assert listed["share"] == 1 / len(listed["judged"])
    system.command("replay", attempt.id)
    system.command("reproduce", attempt.id)
