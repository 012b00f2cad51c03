"""What people are told, whom, when and in which words. Pure: the ledger keeps it, Airflow's notifiers send it.

A *notice* is what happened, once per (kind, subject). It is told in *posts*: one per channel and stage, where the stage
is ``owner``, ``escalation`` (nobody answered) or ``over`` (a state that lasts has ended). A notice that lasts, such as
an intake that lags, is told when it begins and when it is over, however often it is found meanwhile.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from html import escape
from typing import Annotated, Any, Literal, Self, get_args
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from ratchet.domain.spec import Duration, Name, NoticeKind, Notify, Owner, PositiveCount

Stage = Literal["owner", "escalation", "over"]
KINDS = (*get_args(NoticeKind), "intake", "audit_log")
"""Those of a model, then those of the whole deployment."""
LASTING = frozenset({"self_test", "broken_data", "stale_data", "audit_log"})
URGENT = frozenset({"reverted", "self_test", "broken_data", "intake", "audit_log"})
"""What goes to the escalation at once."""

MOST_TITLE, MOST_LINE, MOST_LINES = 160, 400, 12
"""Characters of a title and of a line, and lines: the dossier has all."""
FIRST_RETRY, LONGEST_RETRY = timedelta(minutes=2), timedelta(hours=1)
MOST_TRIES = 72
"""Three days of retries; then a post is given up and stays listed as failed."""
GIVEN_UP = f"given up after {MOST_TRIES} tries"
TOO_OLD = timedelta(days=7)
"""What was due so long ago is not told any more: its channel was away, or nobody ran the sender."""


class _Closed(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_by_alias=True)


class Channel(_Closed):
    """One way to people: a notifier of Airflow by its dotted path, and its arguments.

    The arguments are templates to Airflow: ``{{ notification.text }}``. Secrets belong into Airflow's connections.
    """

    notifier: Annotated[str, Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)+$")]
    arguments: dict[str, Any] = Field(default_factory=dict, alias="with")


class Channels(_Closed):
    """The deployment's channels, and who answers for what is no model's.

    ``default`` are the channels of models whose spec names none, all where it is left out. ``operators`` are told of
    the intake and the audit log; left out, every model's owner is. More than ``intake_lag`` records that wait in Kafka
    for ``intake_hold`` are told.
    """

    channels: Annotated[dict[Name, Channel], Field(min_length=1)]
    default: tuple[Name, ...] | None = None
    operators: tuple[Annotated[str, Field(pattern=r"^[^@\s]+@[^@\s]+$")], ...] = ()
    intake_lag: PositiveCount = 10_000
    intake_hold: Duration = timedelta(minutes=5)

    @field_validator("default")
    @classmethod
    def _names_channels(cls, value: tuple[str, ...] | None, info: ValidationInfo) -> tuple[str, ...] | None:
        known = info.data.get("channels", {})
        if strange := [name for name in value or () if name not in known]:
            raise ValueError(f"names no channel: {', '.join(strange)}; there are {', '.join(sorted(known))}")
        return value

    @model_validator(mode="after")
    def _somebody_is_told(self) -> Self:
        if self.default == ():
            raise ValueError("default names no channel: leave it out, and every channel is one")
        return self

    @property
    def usual(self) -> tuple[str, ...]:
        """The channels of a model whose spec names none."""
        return tuple(self.channels) if self.default is None else self.default


@dataclass(frozen=True)
class Notice:
    """What happened. ``model`` is None where it is no model's; ``page`` is a path below Airflow's address.

    ``answer_by`` is when a question expires; None where nothing is asked. ``lasts`` is of a state that ends.
    """

    kind: str
    subject: str
    model: str | None
    title: str
    said: tuple[str, ...]
    todo: str
    page: str | None = None
    answer_by: datetime | None = None
    lasts: bool = False

    @property
    def urgent(self) -> bool:
        """Whether the escalation is told at once."""
        return self.kind in URGENT


@dataclass(frozen=True)
class Post:
    """One message to send: to whom, through which channel, not before ``due_at`` (wall clock)."""

    channel: str
    stage: Stage
    to: tuple[str, ...]
    due_at: datetime


@dataclass(frozen=True)
class Posted:
    """How a post stands: ``tries`` were begun; neither ``sent`` nor ``dropped`` is one that waits."""

    id: int
    post: Post
    tries: int
    sent: bool
    dropped: bool


def notice(
    kind: str,
    subject: str,
    model: str | None,
    title: str,
    said: Iterable[str],
    todo: str,
    *,
    page: str | None = None,
    answer_by: datetime | None = None,
    lasts: bool | None = None,
) -> Notice:
    """A notice in clean words: one line each, of bounded length, without credentials."""
    lines = tuple(clean(line) for line in said if line and line.strip())
    if len(lines) > MOST_LINES:
        lines = (*lines[: MOST_LINES - 1], f"and {len(lines) - MOST_LINES + 1} more")
    return Notice(
        kind=kind,
        subject=subject,
        model=model,
        title=clean(title, MOST_TITLE),
        said=lines,
        todo=clean(todo),
        page=page,
        answer_by=answer_by,
        lasts=kind in LASTING if lasts is None else lasts,
    )


def verdict_lines(verdict: Mapping[str, Any]) -> list[str]:
    """The numbers of a verdict and its reasons; what is not known is left out."""
    lines = []
    estimate, lower, upper = (verdict.get(name) for name in ("estimate", "lower", "upper"))
    if estimate is not None:
        bounds = "" if lower is None or upper is None else f" [{lower:+.4g}, {upper:+.4g}]"
        lines.append(f"uplift {estimate:+.4g}{bounds} {verdict.get('unit') or 'payoff units'} per decision")
    if verdict.get("n_rows"):
        lines.append(f"judged on {verdict['n_rows']:,.0f} decisions of {verdict.get('n_clusters') or 0:,.0f} days")
    return [*lines, *map(str, verdict.get("reasons") or ())]


def page_of(dag_id: str, run_id: str | None = None) -> str:
    """The path of a DAG's page, or of one of its runs."""
    return f"dags/{quote(dag_id, safe='')}" + (f"/runs/{quote(run_id, safe='')}" if run_id else "")


# Whom, and when ----------------------------------------------------------------------------------------------------


def route(found: Notice, owner: Owner, notify: Notify, channels: Channels, now: datetime) -> list[Post]:
    """The posts of a model's notice: to its owner, and to the escalation at once where it is urgent.

    What is asked goes to the escalation when nobody has answered by then. No posts where the spec wants not the kind.
    """
    if notify.kinds is not None and found.kind not in notify.kinds:
        return []
    to = [owner.email, *([owner.escalation] if found.urgent and owner.escalation else [])]
    posts = []
    for channel in notify.channels or channels.usual:
        posts.append(Post(channel, "owner", _once(to), now))
        if found.answer_by is not None and owner.escalation is not None:
            after = min(notify.escalate_after, (found.answer_by - now) / 2)
            posts.append(Post(channel, "escalation", _once([owner.escalation]), now + max(after, timedelta(0))))
    return posts


def route_to_operators(owners: Iterable[Owner], channels: Channels, due_at: datetime) -> list[Post]:
    """The posts of a notice that is no model's: to the operators, or to all owners and escalations, each once."""
    everybody = [address for owner in owners for address in (owner.email, owner.escalation) if address]
    to = _once(channels.operators or everybody)
    return [Post(channel, "owner", to, due_at) for channel in channels.usual] if to else []


def ending(posted: Sequence[Posted], now: datetime) -> tuple[list[int], list[Post]]:
    """What follows when a state is over: the posts to drop, because nobody has been told yet, and those that say so.

    Whoever may have been told that it began is told that it is over; a post that was tried may have arrived.
    """
    begun = [each for each in posted if each.post.stage != "over" and not each.dropped]
    drop = [each.id for each in begun if not each.sent and not each.tries]
    told: dict[str, list[str]] = {}
    for each in begun:
        if each.id not in drop:
            told.setdefault(each.post.channel, []).extend(each.post.to)
    return drop, [Post(channel, "over", _once(to), now) for channel, to in told.items()]


def retry_after(tries: int) -> timedelta:
    """How long after its try number ``tries`` a post that was not sent is tried again: doubling, with a limit."""
    return min(FIRST_RETRY * (1 << min(tries - 1, 10)), LONGEST_RETRY)


def _once(addresses: Iterable[str]) -> tuple[str, ...]:
    """Each address once, whatever its case, in order."""
    return tuple({address.casefold(): address for address in reversed(list(addresses))}.values())[::-1]


# In which words ----------------------------------------------------------------------------------------------------


def identity(found: Notice, channel: str, stage: str, at: datetime) -> str:
    """The id of a message: the same at each try, so that whoever got it twice can tell."""
    text = f"{found.kind}\n{found.subject}\n{channel}\n{stage}\n{at.isoformat()}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def message(found: Notice, post: Post, *, at: datetime, address: str | None) -> dict[str, Any]:
    """What a notifier's templates can say, as ``notification``; ``text``, ``html`` and ``mrkdwn`` are whole messages.

    Args:
        found: what happened.
        post: to whom, through which channel.
        at: when it happened; part of the message's identity.
        address: where Airflow's pages are, for the link.
    """
    id_ = identity(found, post.channel, post.stage, at)
    link = f"{address.rstrip('/')}/{found.page}" if address and found.page else None
    before = {"owner": "", "escalation": "Nobody has answered yet: ", "over": "Over: "}[post.stage]
    subject = f"[Ratchet] {before}{found.title}"
    todo = "" if post.stage == "over" else found.todo
    when = f"{at:%Y-%m-%d %H:%M} UTC"
    return {
        "id": id_,
        "message_id": f"<{id_}@ratchet>",
        "kind": found.kind,
        "subject_of": found.subject,
        "model": found.model,
        "stage": post.stage,
        "urgent": found.urgent,
        "at": at.isoformat(),
        "to": ", ".join(post.to),
        "recipients": list(post.to),
        "channel": post.channel,
        "subject": subject,
        "title": f"{before}{found.title}",
        "said": list(found.said),
        "todo": todo,
        "link": link,
        "text": _text(subject, found.said, todo, link, when, post),
        "html": _html(subject, found.said, todo, link, when, post),
        "mrkdwn": _mrkdwn(subject, found.said, todo, link, when, post),
    }


def _text(title: str, said: Iterable[str], todo: str, link: str | None, when: str, post: Post) -> str:
    lines = [title, "", *(f"- {line}" for line in said)]
    lines += ["", f"What to do: {todo}"] if todo else []
    return "\n".join([*lines, "", *filter(None, (link,)), f"{when}, for {', '.join(post.to)}"])


def _html(title: str, said: Iterable[str], todo: str, link: str | None, when: str, post: Post) -> str:
    items = "".join(f"<li>{escape(line)}</li>" for line in said)
    parts = [f"<p><b>{escape(title)}</b></p>", f"<ul>{items}</ul>" if items else ""]
    parts += [f"<p>What to do: {escape(todo)}</p>"] if todo else []
    parts += [f'<p><a href="{escape(link)}">{escape(link)}</a></p>'] if link else []
    return "".join([*parts, f"<p><small>{escape(when)}, for {escape(', '.join(post.to))}</small></p>"])


def _mrkdwn(title: str, said: Iterable[str], todo: str, link: str | None, when: str, post: Post) -> str:
    lines = [f"*{slack(title)}*", *(f"• {slack(line)}" for line in said)]
    lines += [f"What to do: {slack(todo)}"] if todo else []
    lines += [f"<{slack(link).replace('|', '%7C')}>"] if link else []
    return "\n".join([*lines, f"{when}, for {slack(', '.join(post.to))}"])


def slack(text: str) -> str:
    """Text of others in Slack's mrkdwn: no link in disguise, no mention of people or channels.

    Escaped as Slack asks: https://docs.slack.dev/messaging/formatting-message-text. Asterisks and the like stay, so
    that commands can be copied; the worst they do is bold text.
    """
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def clean(text: str, most: int = MOST_LINE) -> str:
    """One line of printable text, without the credentials of a URL, cut where it is long."""
    line = "".join(letter if letter.isprintable() else " " for letter in str(text))
    line = re.sub(r"://[^/@\s]*@", "://", " ".join(line.split()))
    return line if len(line) <= most else f"{line[: most - 1]}…"


def clean_error(error: BaseException) -> str:
    """Why a message was not sent: no path or query of a URL is kept, for it may be a secret (Slack's webhooks)."""
    said = re.sub(r"(https?://[^/\s'\"]+)[^\s'\"]*", r"\1/…", clean(str(error), 2_000))
    return clean(f"{type(error).__name__}: {said}")
