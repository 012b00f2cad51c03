"""Whom a notice is sent to and when, how a state that lasts ends, and that no text of others does anything."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from pydantic import ValidationError

from ratchet.domain import notifications as n
from ratchet.domain.notifications import Channels, Notice, Post, Posted, ending, message, notice, route
from ratchet.domain.spec import Notify, Owner

NOW = datetime(2026, 7, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
OWNER = Owner(team="ops", email="ops@a.org", escalation="head@a.org")
CHANNELS = Channels.model_validate({"channels": {"mail": {"notifier": "a.B"}, "chat": {"notifier": "a.C"}}})


def found(kind: str = "refused", **values) -> Notice:
    return notice(kind, "m.7", "m", "m: something", ["because"], "do this", **values)


def posts(kind: str = "refused", owner: Owner = OWNER, notify: Notify | None = None, **values) -> list[Post]:
    return route(found(kind, **values), owner, notify or Notify(), CHANNELS, NOW)


# Whom ------------------------------------------------------------------------------------------------------------


def test_the_owner_is_told_at_once_on_every_channel_and_nobody_else() -> None:
    assert posts() == [Post(name, "owner", ("ops@a.org",), NOW) for name in ("mail", "chat")]


@pytest.mark.parametrize("kind", n.KINDS)
def test_what_is_urgent_goes_to_the_escalation_at_once(kind: str) -> None:
    told = {address for post in posts(kind) for address in post.to}
    urgent = {"reverted", "self_test", "broken_data", "intake", "audit_log"}
    assert told == ({"ops@a.org", "head@a.org"} if kind in urgent else {"ops@a.org"})


def test_an_owner_who_is_the_escalation_gets_one_message() -> None:
    assert posts("reverted", Owner(team="t", email="a@b.c", escalation="A@B.C"))[0].to == ("a@b.c",)


@pytest.mark.parametrize(("expires", "after"), [(72 * HOUR, 24 * HOUR), (10 * HOUR, 5 * HOUR), (-HOUR, 0 * HOUR)])
def test_nobodys_answer_escalates_after_the_stated_time_or_half_of_what_is_left(
    expires: timedelta, after: timedelta
) -> None:
    later = [post for post in posts("approval", answer_by=NOW + expires) if post.stage == "escalation"]
    assert later == [Post(name, "escalation", ("head@a.org",), NOW + after) for name in ("mail", "chat")]


def test_the_spec_says_when_to_escalate_which_kinds_and_which_channels() -> None:
    notify = Notify.model_validate({"channels": ["chat"], "kinds": ["approval"], "escalate_after": "2h"})
    told = posts("approval", notify=notify, answer_by=NOW + 72 * HOUR)
    assert [(post.channel, post.stage, post.due_at) for post in told] == [
        ("chat", "owner", NOW),
        ("chat", "escalation", NOW + 2 * HOUR),
    ]
    assert posts("promoted", notify=notify) == []


def test_without_an_escalation_there_is_none() -> None:
    assert {p.stage for p in posts("approval", Owner(team="t", email="a@b.c"), answer_by=NOW + HOUR)} == {"owner"}


def test_what_is_no_models_goes_to_the_operators_else_to_every_owner_once() -> None:
    owners = [OWNER, OWNER, Owner(team="t", email="x@a.org")]
    assert n.route_to_operators(owners, CHANNELS, NOW)[0].to == ("ops@a.org", "head@a.org", "x@a.org")
    ours = CHANNELS.model_copy(update={"operators": ("on-call@a.org",)})
    assert n.route_to_operators(owners, ours, NOW)[0].to == ("on-call@a.org",)
    assert n.route_to_operators([], CHANNELS, NOW) == []


def test_a_model_that_names_no_channel_has_the_usual_ones() -> None:
    one = Channels.model_validate(CHANNELS.model_dump(by_alias=True) | {"default": ["mail"]})
    assert [post.channel for post in route(found(), OWNER, Notify(), one, NOW)] == ["mail"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"channels": {}}, "at least 1"),
        ({"channels": {"mail": {"notifier": "SmtpNotifier"}}}, "pattern"),
        ({"channels": {"mail": {"notifier": "a.B"}}, "default": ["chat"]}, "names no channel: chat; there are mail"),
        ({"channels": {"mail": {"notifier": "a.B"}}, "default": []}, "default names no channel"),
        ({"channels": {"mail": {"notifier": "a.B", "secret": "x"}}}, "Extra inputs"),
    ],
)
def test_channels_that_cannot_be_meant_are_refused(given: dict, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Channels.model_validate(given)


# When it is over -------------------------------------------------------------------------------------------------


def posted(id_: int, channel: str = "mail", *, tries: int = 1, sent: bool = True, stage: str = "owner") -> Posted:
    return Posted(id_, Post(channel, stage, ("ops@a.org",), NOW), tries, sent, dropped=False)  # type: ignore[arg-type]


def test_whoever_was_told_that_it_began_is_told_once_that_it_is_over() -> None:
    drop, over = ending([posted(1), posted(2, stage="escalation")], NOW)
    assert (drop, over) == ([], [Post("mail", "over", ("ops@a.org",), NOW)])


def test_what_was_over_before_anybody_was_told_is_told_to_nobody() -> None:
    assert ending([posted(1, tries=0, sent=False)], NOW) == ([1], [])


def test_a_message_that_was_tried_may_have_arrived_so_its_end_is_told() -> None:
    drop, over = ending([posted(1, tries=1, sent=False), posted(2, "chat", tries=0, sent=False)], NOW)
    assert (drop, [post.channel for post in over]) == ([2], ["mail"])


def test_tries_are_further_and_further_apart_up_to_an_hour_for_three_days() -> None:
    waits = [n.retry_after(number) for number in range(1, n.MOST_TRIES + 1)]
    assert waits[:3] == [timedelta(minutes=2), timedelta(minutes=4), timedelta(minutes=8)]
    assert max(waits) == HOUR
    assert timedelta(days=2.5) < sum(waits, timedelta(0)) < timedelta(days=3.5)


# In which words --------------------------------------------------------------------------------------------------

EVIL = "<script>alert(1)</script> <!channel> <https://evil|ratchet> & \u202e\x1b[31m\r\nBcc: all@a.org {{ 7 * 7 }}"


def said(text: str, **values) -> dict:
    spoken = notice("promoted", "m.7", "m", f"m: {text}", [text], text, page="dags/m/runs/a%2Bb", **values)
    return message(spoken, Post("mail", "owner", ("ops@a.org",), NOW), at=NOW, address="https://airflow.a.org/")


def test_text_of_others_is_one_harmless_line_in_every_form() -> None:
    told = said(EVIL)
    assert "<script" not in told["html"]
    assert "<!channel" not in told["mrkdwn"]
    assert "<https://evil" not in told["mrkdwn"]
    for form in ("subject", "title", "todo"):
        assert told[form].isprintable(), "no header, terminal or direction of writing is changed by it"
    assert all(line.isprintable() for line in told["text"].splitlines())


def test_a_message_says_what_why_what_to_do_and_where() -> None:
    told = said("plain")
    for form in ("text", "html", "mrkdwn"):
        assert all(part in told[form] for part in ("m: plain", "What to do: plain", "2026-07-01 12:00 UTC"))
        assert "https://airflow.a.org/dags/m/runs/a%2Bb" in told[form]
    assert told["to"] == "ops@a.org"


def test_long_texts_are_cut_and_many_lines_are_counted() -> None:
    spoken = notice("refused", "s", "m", "x" * 500, ["y" * 5_000] * 40, "")
    assert (len(spoken.title), len(spoken.said), spoken.said[-1]) == (n.MOST_TITLE, n.MOST_LINES, "and 29 more")
    assert len(spoken.said[0]) == n.MOST_LINE


def test_credentials_do_not_leave() -> None:
    assert "s3cret" not in n.clean("no answer from postgresql://ratchet:s3cret@db:5432/ledger")
    told = n.clean_error(RuntimeError("404 for url 'https://hooks.slack.com/services/T0/B0/s3cret?x=1'"))
    assert told == "RuntimeError: 404 for url 'https://hooks.slack.com/…'"


def test_the_same_message_has_the_same_id_at_each_try_and_no_other_has_it() -> None:
    ids = {
        n.identity(found(kind), channel, stage, NOW + later)
        for kind in ("promoted", "refused")
        for channel in ("mail", "chat")
        for stage in ("owner", "over")
        for later in (timedelta(0), HOUR)
    }
    assert len(ids) == 16
    assert n.identity(found(), "mail", "owner", NOW) == n.identity(found(), "mail", "owner", NOW)


def test_the_numbers_of_a_verdict_are_told_as_far_as_they_are_known() -> None:
    verdict = {"estimate": 1.5, "lower": 0.25, "upper": 2.75, "unit": "USD", "n_rows": 28_000, "n_clusters": 28}
    assert n.verdict_lines(verdict | {"reasons": ["r"]}) == [
        "uplift +1.5 [+0.25, +2.75] USD per decision",
        "judged on 28,000 decisions of 28 days",
        "r",
    ]
    assert n.verdict_lines({"estimate": None}) == []
