"""Generated pages and figures are those of the code, the runbook leaves nothing out, and code in pages is code."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from ruamel.yaml import YAML

from ratchet.domain.findings import CHECKS
from ratchet.domain.notifications import KINDS, Channels
from ratchet.domain.spec import ModelSpec
from ratchet.workflow.notifying import TOLD

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
GUIDES = (ROOT / "README.md", *sorted(DOCS.glob("*.md")))
SHIPPED = ROOT / "include" / "models" / "flight_delay" / "model.yaml"


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT))
    return lambda name: importlib.import_module(f"documentation.{name}")


# -- what is made ------------------------------------------------------------------------------------------------------


def test_the_reference_is_that_of_the_code(module: Any) -> None:
    for name, text in module("reference").pages().items():
        assert (DOCS / name).read_text() == text, f"docs/{name} is not what the code says. Run: make schemas"


def test_the_figures_are_those_of_the_recorded_results(module: Any) -> None:
    figures = module("figures")
    assert {file.name for file in figures.FOLDER.glob("*")} == set(figures.FIGURES)
    for name, draw in figures.FIGURES.items():
        assert (figures.FOLDER / name).read_text() == draw(), f"{name} is of other results. Run: make docs-figures"


# -- the site ----------------------------------------------------------------------------------------------------------


def test_every_link_of_the_site_leads_to_a_file_of_the_site(module: Any, tmp_path: Path) -> None:
    module("pages").lay_out(tmp_path)
    for page in tmp_path.rglob("*.md"):
        for target in re.findall(r"\]\((?!https?:|mailto:|#)([^)\s#]+)", page.read_text()):
            linked = (page.parent / target).resolve()
            assert linked.is_file(), f"{page.relative_to(tmp_path)}: {target}"
            assert linked.is_relative_to(tmp_path), f"{page.relative_to(tmp_path)}: {target} leads out of the site"


def test_a_page_with_a_link_that_leads_nowhere_is_not_laid_out(module: Any) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.md leads nowhere"):
        module("pages").turned(DOCS / "gate.md", "See [this](nowhere.md).", set())


def test_links_out_of_docs_are_turned_to_where_the_site_has_their_target(module: Any) -> None:
    taken: set[Path] = set()
    text = (
        "[a](../README.md#roll-back) [b](decisions) [c](../include/models/flight_delay/model.yaml) [d](https://e.org)"
    )
    assert module("pages").turned(DOCS / "events.md", text, taken) == (
        "[a](overview.md#roll-back) [b](decisions/index.md) [c](files/include/models/flight_delay/model.yaml) "
        "[d](https://e.org)"
    )
    assert SHIPPED in taken


def test_every_page_is_in_the_navigation_once(module: Any) -> None:
    def listed(entries: list[Any]) -> Iterator[str]:
        for entry in entries:
            for value in entry.values():
                yield from listed(value) if isinstance(value, list) else [value]

    place = module("pages").place
    pages = [*(place(page.relative_to(ROOT).as_posix()) for page in GUIDES), "changelog.md", "benches.md"]
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    assert sorted(listed(site["nav"])) == sorted([*pages, "decisions/index.md"])


def test_the_site_asks_nothing_of_others() -> None:
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    assert site["theme"]["font"] is False
    assert not {"extra_javascript", "extra_css"} & set(site)
    for page in (*GUIDES, *DOCS.glob("decisions/*.md")):
        assert not re.search(r"!\[[^\]]*\]\(https?:", page.read_text()), f"{page.name} shows a picture from elsewhere"


# -- the runbook -------------------------------------------------------------------------------------------------------


def sections(part: str) -> dict[str, str]:
    """The sections below one heading of the runbook, by their own headings."""
    text = (DOCS / "runbook.md").read_text().partition(f"\n## {part}\n")[2].partition("\n## ")[0]
    return dict(re.findall(r"^### (.+?)\n(.*?)(?=^### |\Z)", text, flags=re.MULTILINE | re.DOTALL))


def test_whatever_people_are_told_has_a_section_and_nothing_else() -> None:
    assert list(sections("What people are told")) == list(KINDS)


def test_every_entry_that_is_told_is_named_in_the_runbook() -> None:
    told = "".join(sections("What people are told").values())
    assert [action for action in TOLD if f"`{action}`" not in told] == []


def test_every_check_of_the_audit_has_a_section_and_nothing_else() -> None:
    assert list(sections("What the audit finds")) == [*CHECKS, "log"]


def test_every_alert_has_a_section_and_nothing_else() -> None:
    rules = yaml.safe_load((ROOT / "deploy" / "observability" / "alerts.yaml").read_text())["groups"][0]["rules"]
    assert list(sections("What Prometheus alerts")) == [rule["alert"] for rule in rules]
    for rule in rules:
        assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{rule['alert'].lower()}"


def test_each_section_says_what_it_means_where_to_look_what_to_do_and_when_it_is_over() -> None:
    for part in ("What people are told", "What the audit finds", "What Prometheus alerts", "What only the logs say"):
        for name, text in sections(part).items():
            labels = [each for each in ("Means", "See", "Do", "Over") if f"**{each}**" not in text]
            assert labels == [], f"the runbook's section {name!r} lacks {labels}"


# -- code in pages -----------------------------------------------------------------------------------------------------


def blocks(language: str) -> list[Any]:
    """Each fenced block of a language, named by its page and line."""
    found = []
    for page in GUIDES:
        text = page.read_text()
        for match in re.finditer(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
            line = text.count("\n", 0, match.start()) + 1
            found.append(pytest.param(match[1], id=f"{page.name}:{line}"))
    return found


@pytest.mark.parametrize("block", blocks("python"))
def test_python_in_pages_compiles(block: str) -> None:
    compile(block, "page", "exec")


@pytest.mark.parametrize("block", blocks("json"))
def test_json_in_pages_is_json(block: str) -> None:
    try:
        json.loads(block)
    except json.JSONDecodeError:
        for line in block.splitlines():
            json.loads(line)


@pytest.mark.parametrize("block", blocks("yaml"))
def test_yaml_in_pages_is_read_and_what_is_of_a_spec_is_accepted_in_the_shipped_one(block: str) -> None:
    document = read(block)
    if "channels" in document:
        Channels.model_validate(document)
    elif set(document) <= {field.alias or name for name, field in ModelSpec.model_fields.items()}:
        ModelSpec.model_validate(over(read(SHIPPED.read_text()), document))


def read(text: str) -> dict[str, Any]:
    """YAML 1.2, in which ``on`` is a key and no truth; ``...`` stands for what a page leaves out."""
    loaded: dict[str, Any] = YAML(typ="safe", pure=True).load(text.replace(", ...}", "}"))
    return loaded


def over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """``below`` with the keys of ``above`` in their place, mappings key by key."""
    merged = dict(below)
    for key, value in above.items():
        inner = merged.get(key)
        merged[key] = over(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
    return merged
