"""Dashboards and alert rules ask for metrics that there are, by labels that they have; each rule has its tests."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ratchet.domain.instruments import INSTRUMENTS

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "observability"
BOARDS = sorted(FOLDER.glob("grafana-*.json"))
RULES = yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"][0]["rules"]
TESTS = yaml.safe_load((FOLDER / "alerts.test.yaml").read_text())["tests"]
NAME = re.compile(r"\bratchet_\w+")


def expressions() -> Iterator[Any]:
    for rule in RULES:
        yield pytest.param(rule["expr"], rule["annotations"]["summary"].replace("$labels.", ""), id=rule["alert"])
    for board in BOARDS:
        for panel in json.loads(board.read_text())["panels"]:
            for target in panel["targets"]:
                name = f"{board.stem}: {panel['title']} {target['refId']}"
                yield pytest.param(target["expr"], target["legendFormat"], id=name)


@pytest.mark.parametrize(("expression", "words"), list(expressions()))
def test_an_expression_names_metrics_and_labels_that_there_are(expression: str, words: str) -> None:
    names = NAME.findall(expression)
    assert [name for name in names if name not in INSTRUMENTS] == []
    for name, matchers in re.findall(r"\b(ratchet_\w+)\{([^}]*)\}", expression):
        assert set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers)) <= set(INSTRUMENTS[name].labels), name
    known = {label for name in names for label in INSTRUMENTS[name].labels} | {"instance", "job"}
    said = {word for word in re.findall(r"\{\{\s*(\w+)", words) if word != "value"}
    grouped = {label for inner in re.findall(r"\bby \(([^)]*)\)", expression) for label in inner.split(", ")}
    assert said | grouped <= known


def test_a_counter_is_never_shown_or_alerted_as_it_stands_but_in_since_the_first_panels() -> None:
    for rule in RULES:
        for name in NAME.findall(rule["expr"]):
            if INSTRUMENTS[name].kind == "counter":
                assert re.search(rf"(?:increase|rate)\({name}", rule["expr"]), rule["alert"]


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.stem)
def test_a_dashboard_overlaps_nowhere_and_every_panel_has_an_id_of_its_own(board: Path) -> None:
    panels = json.loads(board.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for place in (panel["gridPos"] for panel in panels):
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken
        assert place["x"] + place["w"] <= 24
        taken |= cells


def test_every_instrument_is_on_a_dashboard_or_in_an_alert() -> None:
    text = "".join(path.read_text() for path in (*BOARDS, FOLDER / "alerts.yaml"))
    unused = set(INSTRUMENTS) - set(NAME.findall(text))
    assert unused == {"ratchet_build_info", "ratchet_dataset_label_completeness_ratio"}


def test_every_alert_is_tested_both_ways() -> None:
    told = {(test["alert_rule_test"][0]["alertname"], bool(test["alert_rule_test"][0]["exp_alerts"])) for test in TESTS}
    assert told == {(rule["alert"], fires) for rule in RULES for fires in (True, False)}


def test_every_alert_says_how_bad_it_is() -> None:
    assert {rule["labels"]["severity"] for rule in RULES} == {"critical", "warning"}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="Prometheus' promtool is not here")
def test_promtool_finds_the_rules_right() -> None:
    ran = subprocess.run(["promtool", "test", "rules", FOLDER / "alerts.test.yaml"], capture_output=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
