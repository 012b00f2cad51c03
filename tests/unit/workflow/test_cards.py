import re
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import pytest

from ratchet.workflow import cards, dossiers
from ratchet.workflow.cards import card

VOID = {"meta", "br"}


class Balance(HTMLParser):
    """Every tag that is opened is closed, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def page_of(judging, attempt, change=lambda dossier: None) -> str:
    dossier = dossiers.read(judging.store, attempt)
    change(dossier)
    return card(dossier, "d" * 64)


@pytest.mark.parametrize("which", ["first", "second"])
def test_a_card_is_one_whole_page_that_fetches_nothing_and_runs_nothing(judging, which):
    page = page_of(judging, getattr(judging, which))
    parser = Balance()
    parser.feed(page)
    assert parser.open == []
    assert not parser.seen & {"script", "link", "img", "iframe", "object"}
    assert "http://" not in page
    assert "https://" not in page


def test_every_chart_is_there_and_is_sound_svg(judging):
    page = page_of(judging, judging.second)
    drawn = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert len(drawn) == 5
    for svg in drawn:
        for element in ET.fromstring(svg).iter():
            for name in ("x", "y", "x1", "y1", "x2", "y2", "cx", "cy", "width", "height"):
                number = float(element.get(name, 0))
                assert -1 <= number <= 800, (element.tag, name, number)
    days = len(judging.second.verdict_record["diagnostics"]["clusters"])
    assert len(re.findall(r'<rect class="(?:good|bad)"', drawn[0])) == days


def test_every_chart_says_in_words_what_it_shows_and_carries_no_style_of_its_own(judging):
    page = page_of(judging, judging.second)
    drawn = [ET.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)]
    verdict = judging.second.verdict_record
    assert all(len(svg.get("aria-label")) > 20 for svg in drawn)
    assert verdict["diagnostics"]["clusters"][0]["label"] in drawn[0].get("aria-label")
    assert f"{verdict['estimate']:+.4g}" in drawn[0].get("aria-label")
    assert "style=" not in page


def test_every_table_of_the_card_has_a_caption_and_names_its_rows(judging):
    page = page_of(judging, judging.second)
    for table in re.findall(r"<table.*?</table>", page, flags=re.DOTALL):
        assert "<caption" in table
        assert 'scope="row"' in table or "scope=row" in table


def test_the_card_says_in_words_and_money_what_the_verdict_was(judging):
    page = page_of(judging, judging.second)
    verdict = judging.second.verdict_record
    assert f"{verdict['n_rows']:,} decisions of {verdict['n_clusters']} days" in page
    assert f"{abs(verdict['estimate']):,.2f} USD per decision" in page
    assert "than the champion, version 1" in page
    assert judging.spec.business.goal in page
    assert judging.spec.owner.email in page
    for reason in verdict["reasons"]:
        assert reason.replace("<", "&lt;").replace(">", "&gt;") in page


def test_a_first_champions_card_names_its_rival_and_that_its_estimate_was_selected(judging):
    page = page_of(judging, judging.first)
    assert "than the best single decision for every row" in page
    assert "expect something nearer the lower bound" in page


def test_what_comes_from_outside_is_escaped(judging):
    def attack(dossier: dict) -> None:
        dossier["reason"] = dossier["actor"] = dossier["attempt"] = "<script>alert(1)</script>"
        dossier["explanation"]["slices"][0]["value"] = '"><img src=x onerror=alert(1)>'
        dossier["explanation"]["data_shift"][0]["feature"] = "<b>wind</b>"
        dossier["verdict"]["reasons"] = ["<i>because</i>"]

    page = page_of(judging, judging.second, attack)
    for raw in ("<script", "<img", "<b>", "<i>"):
        assert raw not in page


def test_a_verdict_without_numbers_has_a_card_too(judging):
    def empty(dossier: dict) -> None:
        dossier["verdict"] |= {"estimate": None, "lower": None, "upper": None, "diagnostics": {}}
        dossier["verdict"]["decision"] = "not_enough_evidence"
        told = dossier["explanation"]
        told["slices"], told["calibration"] = [], {"champion": [], "challenger": []}
        for shift in told["data_shift"]:
            shift |= {"stability_index": None, "size": "unknown"}
        for metric in told["metrics"]:
            metric |= {"champion": None, "challenger": {"value": None, "lower": None, "upper": None}}

    page = page_of(judging, judging.second, empty)
    assert "no number can be given" in page
    assert "has not shown enough yet" in page


def test_the_card_is_kept_beside_the_dossier_and_beside_the_version(judging):
    address = judging.attempts.card(judging.second)
    kept = judging.store.get_bytes(cards.key_of(judging.second.id))
    assert address == judging.store.uri(f"cards/{judging.second.id}.html")
    assert judging.second.dossier_sha256.encode() in kept
    beside = judging.folder / "registry" / f"flight_delay-{judging.second.challenger_version}-model_card.html"
    assert beside.read_bytes() == kept


def test_without_rows_there_is_no_payoff_curve_to_draw(judging):
    def empty(dossier: dict) -> None:
        dossier["payoff_curve"] = None

    assert "Payoff by threshold" in page_of(judging, judging.second)
    assert "Payoff by threshold" not in page_of(judging, judging.second, empty)


@pytest.mark.parametrize(("loss", "said"), [(0.25, "would have earned 0.25 USD more"), (-0.04, "No single threshold")])
def test_the_card_says_what_hindsight_would_have_earned_if_anything(judging, loss, said):
    def change(dossier):
        dossier["payoff_curve"]["hindsight"]["challenger"] = {"loss": loss, "threshold": 0.3}

    assert said in page_of(judging, judging.second, change)
