"""What the documentation says is so: links lead somewhere, commands exist, examples are events that do what is told."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
import typer
from pydantic import BaseModel

from ratchet.adapters.specs import load_spec
from ratchet.cli import app
from ratchet.cli.year import Arrival, midnight, plan_year
from ratchet.domain.admission import (
    Admission,
    AdmissionPolicy,
    FreshDays,
    History,
    Now,
    OpenEvent,
    decide_admission,
)
from ratchet.domain.events import DriftDetected, InboundEvent, parse, to_record
from ratchet.domain.holdout import HoldoutPlan, plan_holdout
from ratchet.domain.metrics import METRICS
from ratchet.domain.spec import PARAMETERS, Dimension, ModelSpec
from ratchet.failpoints import NAMES as FAILPOINTS

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
GUIDES = (README, *sorted((ROOT / "docs").glob("*.md")))
PAGES = (*GUIDES, ROOT / "CHANGELOG.md", *sorted((ROOT / "docs" / "decisions").glob("*.md")))
SPEC = load_spec(ROOT / "include" / "models" / "flight_delay")
COMMANDS: Any = typer.main.get_command(app)


def names(pages: tuple[Path, ...]) -> list[str]:
    return [page.relative_to(ROOT).as_posix() for page in pages]


def code_of(page: Path) -> Iterator[str]:
    """Every line of a fenced block and every inline code span, comments of the shell left out."""
    text = page.read_text()
    for block in re.findall(r"^```\w*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        yield from (line.split(" #")[0] for line in block.splitlines())
    prose = re.sub(r"^```\w*\n.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    yield from re.findall(r"`([^`\n]+)`", prose)


def commands_in(page: Path) -> Iterator[tuple[str, list[str]]]:
    """Each ``ratchet …`` as (line, words after it); ``python -m ratchet.…`` and asset addresses are none."""
    for line in code_of(page):
        for match in re.finditer(r"(?:^|[\s;&|(])(?:\.venv/bin/)?ratchet ((?:[a-z-]|\s|[^|;&])+)", line):
            yield line, match[1].split()


def anchors(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.+)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\s-]", "", head.lower()).strip().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_every_relative_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:|mailto:)([^)\s]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{page.name}: {target} leads nowhere"
        assert not anchor or anchor in anchors(linked), f"{page.name}: {target} names no heading"


@pytest.mark.parametrize("page", GUIDES, ids=names(GUIDES))
def test_every_make_target_that_is_named_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = {m for line in code_of(page) for m in re.findall(r"(?:^|[\s;&])make (?:[A-Z_]+=\S+ )*([a-z-]+)", line)}
    assert named <= targets


@pytest.mark.parametrize("page", GUIDES, ids=names(GUIDES))
def test_every_ratchet_command_and_option_that_is_named_exists(page: Path) -> None:
    for line, words in commands_in(page):
        command = COMMANDS
        rest = list(words)
        while rest and hasattr(command, "commands") and not rest[0].startswith("-"):
            assert rest[0] in command.commands, f"{page.name}: {line!r} names no command of ratchet"
            command = command.commands[rest.pop(0)]
        options = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in rest if word.startswith("--")} <= options, f"{page.name}: {line!r}"


def test_every_public_command_is_in_the_readme() -> None:
    text = README.read_text()
    for name, command in COMMANDS.commands.items():
        for words in (f"{name} {each}" for each in command.commands) if hasattr(command, "commands") else (name,):
            told = f"ratchet {words}" in text or (words.startswith("publish ") and f"`{words.split()[1]}`" in text)
            assert told or f"make {words}" in text, f"README.md does not tell of: ratchet {words}"


def test_every_failpoint_is_in_the_readme_and_the_architecture() -> None:
    for page in (README, ROOT / "docs" / "architecture.md"):
        assert [name for name in FAILPOINTS if f"`{name}`" not in page.read_text()] == []


def test_every_key_of_the_spec_is_in_its_reference_and_no_other() -> None:
    text = (ROOT / "docs" / "model-spec.md").read_text()
    told = set(re.findall(r"^\| `([\w.\[\]]+)` \|", text.partition("## Refused")[0], flags=re.MULTILINE)) - set(METRICS)
    assert told == set(spec_keys(ModelSpec))


def test_every_estimator_and_its_parameters_are_in_the_reference() -> None:
    text = (ROOT / "docs" / "model-spec.md").read_text()
    told = re.findall(r"^- `(\w+\.[\w.]+)`: (.*)$", text, flags=re.MULTILINE)
    assert {name: set(re.findall(r"`(\w+)`", listed)) for name, listed in told} == dict(PARAMETERS)


def spec_keys(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every key a spec may hold, as ``gate.guardrails[].metric``; parameters of an estimator are free names."""
    for name, field in section.model_fields.items():
        key = f"{prefix}{field.alias or name}"
        yield key
        if (inner := section_in(field.annotation)) not in {None, Dimension}:
            listed = any(get_origin(each) is tuple for each in (field.annotation, *get_args(field.annotation)))
            yield from spec_keys(inner, f"{key}[]." if listed else f"{key}.")


def section_in(annotation: Any) -> Any:
    """The section inside an annotation such as ``OnDrift | None`` or ``tuple[Guardrail, ...]``, else None."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for each in get_args(annotation) if (found := section_in(each)) is not None), None)


# -- the events of the README, as they are after `make demo UNTIL=2013-05` ---------------------------------------------


def examples() -> list[InboundEvent]:
    found = re.findall(r"^\{\"specversion\".*\}$", README.read_text(), flags=re.MULTILINE)
    return [parse(example.encode(), [("content-type", b"application/cloudevents+json")]) for example in found]


def business_time() -> datetime:
    last = plan_year("2013-05")[-1].events[0]
    assert isinstance(last, Arrival)
    return midnight(last.end, SPEC.data.spine.zone)


def fresh_days() -> int:
    """Mature days after the newest one that the verdict of May can have used."""
    may, june = midnight(date(2013, 6, 1), SPEC.data.spine.zone), business_time()

    def plan(as_of: datetime, used: tuple[date, ...]) -> HoldoutPlan:
        found = plan_holdout(
            as_of=as_of,
            timezone=SPEC.data.spine.timezone,
            label_delay=SPEC.data.spine.label_delay,
            window=SPEC.data.window,
            last=SPEC.data.holdout.last,
            min_clusters=1,
            used_days=used,
        )
        assert isinstance(found, HoldoutPlan)
        return found

    return len(plan(june, plan(may, ()).holdout_days).holdout_days)


def admitted(events: list[InboundEvent], spec: ModelSpec = SPEC) -> Admission:
    """What admission says an hour of quiet after the last of the events came in."""
    now, wall = business_time(), datetime(2026, 1, 1, tzinfo=UTC)
    history = History(
        has_champion=True,
        last_started_at=midnight(date(2013, 6, 1), spec.data.spine.zone),
        runs_started_today=0,
        day_resets_at=now + timedelta(days=1),
        observations=(),
        fresh=FreshDays(fresh_days(), spec.data.holdout.min_clusters, None),
    )
    opened = [
        OpenEvent(
            key=key,
            event_id=event.id,
            source=event.source,
            type=event.type,
            time=event.time,
            received_at=wall - timedelta(hours=1),
            data=event.data,
            origin="kafka",
        )
        for key, event in enumerate(events)
    ]
    return decide_admission(AdmissionPolicy.from_spec(spec), opened, history, Now(business=now, wall=wall))


def test_the_examples_are_drift_of_the_past_about_the_shipped_model() -> None:
    events = examples()
    assert len(events) == 2
    for event in events:
        assert isinstance(event.data, DriftDetected)
        assert (event.subject, to_record(event)[0]) == (SPEC.model, b"flight_delay")
        assert event.data.window_end < event.time <= business_time() < event.time + SPEC.retrain.max_event_age


def test_the_half_month_has_the_fresh_days_that_the_readme_tells_of() -> None:
    assert f"has {fresh_days()} fresh days" in README.read_text()
    assert f"a verdict needs {SPEC.data.holdout.min_clusters}." in README.read_text()
    assert SPEC.data.holdout.min_clusters <= fresh_days() < 2 * SPEC.data.holdout.min_clusters


def test_the_first_example_waits_for_confirmation_and_the_second_starts_a_run() -> None:
    first, second = examples()
    alone, both = admitted([first]), admitted([first, second])
    assert not alone.go
    assert alone.outcomes[0].fate == "deferred"
    assert alone.outcomes[0].reason.startswith("unconfirmed: 1 of 2")
    assert (both.go, both.trigger) == (True, 1)
