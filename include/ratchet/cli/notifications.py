"""``ratchet notifications``: what people were told, what waits, and what failed and why."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from ratchet.bootstrap import wire
from ratchet.cli.completing import known_models
from ratchet.cli.tables import AsJson, print_rows
from ratchet.domain.notifications import GIVEN_UP
from ratchet.ports.ledger import PostRow

State = Literal["sent", "waits", "failed", "dropped"]


def notifications(
    model: Annotated[str | None, typer.Option(help="Only of this model.", autocompletion=known_models)] = None,
    state: Annotated[State | None, typer.Option(help="Only messages that stand so.")] = None,
    limit: Annotated[int, typer.Option(help="The newest so many messages.", min=1)] = 50,
    retry: Annotated[bool, typer.Option("--retry", help="First have what failed tried again at once.")] = False,
    as_json: AsJson = False,
) -> None:
    """Messages to people, the newest first: to whom, through which channel, and how each stands.

    A message waits until it is due, has failed while its last try did, and is dropped when there was no need for it any
    more. What failed is tried again by itself for three days, then left to --retry.

    ratchet notifications --state failed --retry
    """
    with wire().ledger.transaction() as tx:
        if retry:
            tx.retry_posts(GIVEN_UP)
        found = [(standing(post), post) for post in tx.posts(model=model, limit=limit if state is None else None)]
    rows = [_row(now, post) for now, post in found if state in {None, now}][:limit]
    print_rows(rows, ["at", "kind", "model", "channel", "stage", "state", "tries", "to", "told"], as_json=as_json)


def standing(post: PostRow) -> State:
    """How a message stands."""
    if post.sent_at is not None:
        return "sent"
    if post.dropped is not None:
        return "failed" if post.dropped == GIVEN_UP else "dropped"
    return "failed" if post.last_error is not None else "waits"


def _row(state: State, post: PostRow) -> dict[str, Any]:
    told = post.notification
    why = post.dropped or post.last_error
    return {
        "at": told.at,
        "kind": told.kind,
        "model": told.model,
        "channel": post.channel,
        "stage": post.stage,
        "state": state,
        "tries": post.tries,
        "to": ", ".join(post.recipients),
        "told": f"{told.notice['title']} ({why})" if why else told.notice["title"],
        "said": told.notice["said"],
        "todo": told.notice["todo"],
        "due_at": post.due_at,
        "next_try_at": post.next_at if state in {"waits", "failed"} and post.dropped is None else None,
        "sent_at": post.sent_at,
        "dropped": post.dropped,
        "last_error": post.last_error,
        "over_at": told.over_at,
    }
