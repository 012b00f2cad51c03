"""``ratchet plan`` names the DAGs and assets that the DAG files make of a spec, with their schedules, and no others."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.serialization.serialized_objects import DagSerialization

from ratchet.adapters.specs import load_spec
from ratchet.domain.plan import bells, dags, resources

pytestmark = pytest.mark.airflow

MORE = (
    "",
    "probation: {for: 28d}\n",
    'monitor: {schedule: "0 6 * * *"}\n',
    "scoring: {schedule: 30 5 * * *}\n",
    "probation: {for: 28d}\nmonitor: {}\nscoring: {on_data: false, schedule: 30 5 * * *}\n",
)


@pytest.mark.parametrize("more", MORE)
def test_what_is_planned_is_what_is_made(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: str
) -> None:
    shipped = (root / "include" / "models" / "flight_delay" / "model.yaml").read_text()
    (tmp_path / "flight_delay").mkdir()
    before, monitor, after = shipped.partition("monitor:")
    assert monitor
    plain = before + after[after.index("\nruntime:") + 1 :]
    (tmp_path / "flight_delay" / "model.yaml").write_text(plain + more)
    monkeypatch.setenv("RATCHET_MODELS_DIR", str(tmp_path))
    spec = load_spec(tmp_path / "flight_delay")
    made = DagBag(str(root / "dags" / "retrain.py")).dags
    assert set(dags(spec)) == set(made)
    stored = {name: json.dumps(DagSerialization.to_dict(dag)) for name, dag in made.items()}
    named = {uri for text in stored.values() for uri in re.findall(r"ratchet://flight_delay/(\w+)", text)}
    assert set(bells(spec)) == named
    said = {one.name: one.said for one in resources(spec) if one.kind == "DAG"}
    for name, text in stored.items():
        timetable = json.dumps(json.loads(text)["dag"]["timetable"])
        crons = re.findall(r'"expression": "([^"]+)"', timetable)
        assert re.findall(r"at ([\d*/, -]+) \(", said[name]) == crons
