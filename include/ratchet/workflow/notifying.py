"""Tells people: what the audit log says is made into notifications, and those are sent through Airflow's notifiers.

Every decision is audited in the transaction that makes it, so the audit log is the list of what is to be told: nothing
is lost, and nothing that decides waits for a mail server. A notification and the entry up to which the log was read are
one transaction, so that each entry is told once. A message is sent at least once: a process that dies between sending
and recording leaves it to the next try, which has the same id (a mail's Message-ID, a webhook's Idempotency-Key).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

from pydantic import ValidationError

from ratchet.domain.notifications import (
    GIVEN_UP,
    MOST_TRIES,
    TOO_OLD,
    Channel,
    Channels,
    Notice,
    Post,
    Posted,
    clean_error,
    ending,
    message,
    notice,
    page_of,
    retry_after,
    route,
    route_to_operators,
    verdict_lines,
)
from ratchet.domain.spec import Notify, Owner
from ratchet.errors import Refused, Unavailable
from ratchet.ports.ledger import AWAITING_APPROVAL, AttemptRow, Ledger, NewPost, NotificationRow, PostRow, Tx
from ratchet.workflow import auditing, probation
from ratchet.workflow.monitoring import stale
from ratchet.workflow.probation import readable_spec

logger = logging.getLogger(__name__)
Deliver = Callable[[Channel, Mapping[str, Any]], None]
"""Hand a message to the notifier of a channel; whatever it raises, the message was not sent."""
ENTRIES = 200
"""Audit entries per transaction, so that what audits meanwhile waits for no long one."""
MOST_AT_ONCE = 200
MOST_FAILURES = 3
"""In a row: then the channel is taken to be away, and the next run goes on."""
ABSENT, LAG = "absent", "lag"
BEATING = timedelta(minutes=5)
"""How old the heartbeat of a pump may be whose lag counts."""


class Notifications:
    """The verbs."""

    def __init__(self, ledger: Ledger, channels: Channels) -> None:
        self._ledger = ledger
        self._channels = channels

    def plan(self) -> list[str]:
        """Make notifications of what was audited since the last time; returns the channels with something to send.

        The first call makes none: it begins where the log ends now.
        """
        while self._plan_some() == ENTRIES:
            pass
        with self._ledger.transaction() as tx:
            tx.lock_notifications()
            self._watch_lag(tx)
            self._end_what_is_over(tx)
            waiting = tx.waiting_channels()
        for strange in sorted(set(waiting) - set(self._channels.channels)):
            logger.error("messages wait for channel %r, which is not defined. See: ratchet notifications", strange)
        return [name for name in waiting if name in self._channels.channels]

    def send(self, channel: str, deliver: Deliver, address: str | None) -> int:
        """Send what is due on a channel; what fails is tried again later. Returns how many messages were sent.

        Args:
            channel: its name.
            deliver: hands a message to the channel's notifier.
            address: where Airflow's pages are, for links.

        Raises:
            Unavailable: some were not sent; the others were.
        """
        defined = self._channels.channels.get(channel)
        if defined is None:
            raise Refused(f"there is no channel {channel!r}; there are {', '.join(self._channels.channels)}")
        sent, failed, said = 0, 0, ""
        while sent < MOST_AT_ONCE and failed < MOST_FAILURES and (post := self._take(channel)) is not None:
            told = message(_notice(post.notification), _post(post), at=post.notification.at, address=address)
            try:
                deliver(defined, told)
            except Exception as error:  # noqa: BLE001 - a notifier may raise anything, and none may stop the others
                failed, said = failed + 1, clean_error(error)
                logger.warning("notification %s was not sent through %s: %s", told["id"], channel, said)
                self._finish(post, said)
            else:
                sent += 1
                self._finish(post, None)
        if failed:
            raise Unavailable(f"channel {channel}: {failed} not sent, {sent} sent; tried again later. The last: {said}")
        return sent

    def _take(self, channel: str) -> PostRow | None:
        """The next message, its try begun; one that is not to be sent any more is dropped with the reason."""
        while True:
            with self._ledger.transaction() as tx:
                post = tx.take_post(channel)
                if post is None:
                    return None
                why = _needless(tx, post)
                if why is None:
                    tx.try_post(post.id, retry_after(post.tries + 1))
                    return post
                tx.drop_posts([post.id], why)

    def _finish(self, post: PostRow, error: str | None) -> None:
        with self._ledger.transaction() as tx:
            tx.finish_post(post.id, error=error)
            if error is not None and post.tries + 1 >= MOST_TRIES:
                tx.drop_posts([post.id], GIVEN_UP)

    # -- what is to be told ----------------------------------------------------------------------------------------

    def _plan_some(self) -> int:
        """Read on in the audit log; returns how many entries there were."""
        with self._ledger.transaction() as tx:
            seq = tx.lock_notifications()
            if seq is None:
                head = tx.audit_head()
                tx.keep_notified(head.seq if head else 0)
                return 0
            entries = tx.audit_after(seq, ENTRIES)
            for entry in entries:
                if (found := _told_by(tx, entry)) is not None:
                    self._tell(tx, found, entry["at"])
            if entries:
                tx.keep_notified(int(entries[-1]["seq"]))
            return len(entries)

    def _tell(self, tx: Tx, found: Notice, at: datetime, hold: timedelta = timedelta(0)) -> None:
        now = tx.wall()
        if found.model is None:
            owners = [_owner(tx.spec_document(row.digest)) for row in tx.registered() if not row.retired]
            posts = route_to_operators(owners, self._channels, now + hold)
        else:
            document = _document(tx, found.model)
            posts = route(found, _owner(document), _notify(document), self._channels, now) if document else []
        if posts:
            tx.insert_notification(found.kind, found.subject, found.model, at, _kept(found), [*map(_new, posts)])

    def _watch_lag(self, tx: Tx) -> None:
        """More than the limit waits in Kafka: told once it has for as long as the deployment says."""
        lag = _lag(tx)
        if lag is not None and lag > self._channels.intake_lag:
            found = notice(
                "intake",
                LAG,
                None,
                "The intake lags behind",
                [f"{lag:,} records waited in Kafka when this was written; told above {self._channels.intake_lag:,}"],
                "ratchet intake says which partition; docs/operations.md says what to look at. Nothing is lost for "
                "30 days.",
                page=page_of("ratchet__intake"),
                lasts=True,
            )
            self._tell(tx, found, tx.wall(), self._channels.intake_hold)

    def _end_what_is_over(self, tx: Tx) -> None:
        for row in tx.lasting_notifications(tuple(HOLDS)):
            if not row.notice["lasts"] or HOLDS[row.kind](tx, row, self._channels):
                continue
            posted = [
                Posted(each.id, _post(each), each.tries, each.sent_at is not None, each.dropped is not None)
                for each in tx.posts(notification_id=row.id)
            ]
            drop, posts = ending(posted, tx.wall())
            tx.drop_posts(drop, "over before anybody was told")
            tx.insert_posts(row.id, [*map(_new, posts)])
            tx.end_notification(row.id)


def _new(post: Post) -> NewPost:
    return post.channel, post.stage, post.to, post.due_at


def _post(row: PostRow) -> Post:
    return Post(row.channel, row.stage, tuple(row.recipients), row.due_at)  # type: ignore[arg-type]


def _kept(found: Notice) -> dict[str, Any]:
    return asdict(found) | {"answer_by": found.answer_by.isoformat() if found.answer_by else None}


def _notice(row: NotificationRow) -> Notice:
    kept = row.notice
    answer_by = kept["answer_by"]
    read = {"said": tuple(kept["said"]), "answer_by": datetime.fromisoformat(answer_by) if answer_by else None}
    return Notice(**kept | read)


def _needless(tx: Tx, post: PostRow) -> str | None:
    """Why a message is not to be sent any more; None when it is."""
    if tx.wall() - post.due_at > TOO_OLD:
        return f"not sent within {TOO_OLD.days} days"
    if post.notification.kind == "approval":
        attempt = tx.attempt(post.notification.subject)
        if attempt is None or attempt.state != AWAITING_APPROVAL:
            return "it waits for no answer any more"
    return None


def _document(tx: Tx, model: str) -> dict[str, Any] | None:
    """The model's spec as it is deployed now: whoever owns it now is told. None of a model nobody registered."""
    row = next((row for row in tx.registered() if row.model == model), None)
    return tx.spec_document(row.digest) if row else None


def _owner(document: Mapping[str, Any]) -> Owner:
    return Owner.model_validate(document["owner"])


def _notify(document: Mapping[str, Any]) -> Notify:
    """What the spec says about telling; one of another code that this one cannot read says nothing."""
    try:
        return Notify.model_validate(document.get("notify") or {})
    except ValidationError as error:
        logger.error("notify of %s is none for this code: %s", document.get("model"), error)  # noqa: TRY400
        return Notify()


def _lag(tx: Tx) -> int | None:
    """Records that wait in Kafka, by the pumps that live; None where none does, for then nobody knows."""
    now = tx.wall()
    living = [pump for pump in tx.pumps() if pump.beat_at is not None and now - pump.beat_at <= BEATING]
    return sum(sum(pump.lag.values()) for pump in living) if living else None


# Whether what lasts still holds ------------------------------------------------------------------------------------


def _gate_failed(tx: Tx, row: NotificationRow, _: Channels) -> bool:
    return tx.failed_self_test(str(row.model)) is not None


def _data_broken(tx: Tx, row: NotificationRow, _: Channels) -> bool:
    looked = (seen for seen in tx.monitored(str(row.model)) if seen.state in {"done", "broken"})
    return next((seen.state for seen in looked), "done") == "broken"


def _data_stale(tx: Tx, row: NotificationRow, _: Channels) -> bool:
    registered = next((known for known in tx.registered() if known.model == row.model and not known.retired), None)
    spec = readable_spec(tx, registered.digest) if registered else None
    return spec is not None and bool(stale(tx, spec))


def _intake_away(tx: Tx, row: NotificationRow, channels: Channels) -> bool:
    if row.subject == LAG:
        lag = _lag(tx)
        return lag is None or lag > channels.intake_lag
    return tx.last_audited(("intake.absent", "intake.back")) == "intake.absent"


def _log_broken(tx: Tx, _: NotificationRow, __: Channels) -> bool:
    return tx.last_audited((auditing.BROKEN, auditing.ACCEPTED)) == auditing.BROKEN


HOLDS: Mapping[str, Callable[[Tx, NotificationRow, Channels], bool]] = {
    "self_test": _gate_failed,
    "broken_data": _data_broken,
    "stale_data": _data_stale,
    "intake": _intake_away,
    "audit_log": _log_broken,
}


# What an entry of the audit log tells ------------------------------------------------------------------------------


def _told_by(tx: Tx, entry: Mapping[str, Any]) -> Notice | None:
    """The notice that an audit entry gives rise to, if any; what does not follow from it is read in the ledger.

    An entry that another code wrote, and this one cannot read, is passed over: it must not hold back all others.
    """
    tell = TOLD.get(entry["action"])
    try:
        return None if tell is None else tell(tx, entry)
    except (KeyError, TypeError, ValueError):
        logger.exception("audit entry %s (%s) is told to nobody", entry["seq"], entry["action"])
        return None


def _attempt(tx: Tx, entry: Mapping[str, Any]) -> AttemptRow | None:
    """The attempt that the entry names; None of a dry run, of which nobody is told."""
    attempt = tx.attempt(entry["detail"]["attempt"])
    return None if attempt is None or attempt.dry_run else attempt


def _promoted(tx: Tx, entry: Mapping[str, Any]) -> Notice | None:
    attempt, detail = _attempt(tx, entry), entry["detail"]
    if attempt is None:
        return None
    before = f"version {detail['before']}" if detail["before"] else "none: it is the first champion"
    people = detail.get("approved_by")
    said = [
        f"before it: {before}",
        f"why: {detail['reason']}",
        *([f"approved by {', '.join(people)}"] if people else []),
        *([str(detail["deployed"])] if "deployed" in detail else []),
        *verdict_lines(attempt.verdict_record or {}),
    ]
    title = f"{attempt.model}: version {detail['version']} serves"
    todo = f"Nothing. To see why: ratchet trace {attempt.id}; to take it back: ratchet rollback {attempt.model}"
    return notice("promoted", attempt.id, attempt.model, title, said, todo, page=_run(attempt))


def _judged(tx: Tx, entry: Mapping[str, Any]) -> Notice | None:
    """A verdict that keeps the champion; one to promote is told when something comes of it."""
    attempt = _attempt(tx, entry)
    if attempt is None:
        return None
    if attempt.verdict == "promote":
        spec = tx.spec_document(attempt.spec_digest)
        if not spec["gate"].get("shadow"):
            return None
        return _refused(attempt, ["shadow mode: the gate would have promoted it, and nothing is promoted"])
    because = "not enough evidence yet" if attempt.verdict == "not_enough_evidence" else "the gate kept it out"
    return _refused(attempt, [because])


def _refused(attempt: AttemptRow, why: list[str]) -> Notice:
    kept = f"version {attempt.champion_version} serves on" if attempt.champion_version else "no champion"
    title = f"{attempt.model}: challenger refused, {kept}"
    said = [*why, *verdict_lines(attempt.verdict_record or {})]
    return notice(
        "refused", attempt.id, attempt.model, title, said, f"To see why: ratchet trace {attempt.id}", page=_run(attempt)
    )


def _answered_no(tx: Tx, entry: Mapping[str, Any]) -> Notice | None:
    attempt, detail = _attempt(tx, entry), entry["detail"]
    if attempt is None:
        return None
    late = entry["action"] == "approval.expired"
    return _refused(attempt, [detail["why"] if late else f"{entry['actor']} refused it: {detail['reason']}"])


def _asked(tx: Tx, entry: Mapping[str, Any]) -> Notice | None:
    attempt, detail = _attempt(tx, entry), entry["detail"]
    if attempt is None or attempt.state != AWAITING_APPROVAL:
        return None
    expires = datetime.fromisoformat(detail["expires_at"])
    risk, unit = detail["value_at_risk"], (attempt.verdict_record or {}).get("unit") or "payoff units"
    people = "one person" if detail["people"] == 1 else f"{detail['people']} people"
    said = [
        f"asked because {detail['reason']}",
        f"{people} must agree until {expires:%Y-%m-%d %H:%M} UTC; then the champion stays",
        *([] if risk is None else [f"value at risk: {risk:,.0f} {unit}"]),
        *verdict_lines(attempt.verdict_record or {}),
    ]
    over = f"over version {attempt.champion_version}" if attempt.champion_version else "as its first champion"
    return notice(
        "approval",
        attempt.id,
        attempt.model,
        f"{attempt.model}: let version {detail['version']} serve, {over}?",
        said,
        f"Answer on the page of the run, or: ratchet approve {attempt.id}, ratchet reject {attempt.id}, with --reason",
        page=page_of(f"promote__{attempt.model}"),
        answer_by=expires,
    )


def _reverted(_: Tx, entry: Mapping[str, Any]) -> Notice:
    model, detail = entry["model"], entry["detail"]
    back = entry["action"] == "probation.reverted"
    title = f"version {detail['version']} was worse, and its predecessor serves again"
    alert = f"version {detail['version']} is worse than its predecessor, and serves on"
    todo = f"To see the days: ratchet probation {model}" if back else f"Take it back: ratchet rollback {model}"
    return notice(
        "reverted",
        f"{model}#{detail['seq']}",
        model,
        f"{model}: {title if back else alert}",
        [detail["reason"]],
        todo,
        page=page_of(f"probation__{model}"),
    )


def _rolled_back(_: Tx, entry: Mapping[str, Any]) -> Notice | None:
    if entry["actor"] == probation.ACTOR:
        return None
    model, detail = entry["model"], entry["detail"]
    said = [f"{entry['actor']} took it back from version {detail['from']}", f"why: {detail['reason']}"]
    title = f"{model}: version {detail['to']} serves again"
    todo = f"Nothing. The history: ratchet champion show {model}"
    return notice("rolled_back", f"{model}@{entry['seq']}", model, title, said, todo)


def _failed(tx: Tx, entry: Mapping[str, Any]) -> Notice | None:
    attempt = _attempt(tx, entry)
    if attempt is None:
        return None
    said = [entry["detail"]["why"], "its events wait for another attempt, three at most"]
    title = f"{attempt.model}: attempt {attempt.id} failed without a verdict"
    todo = f"See the run's log; ratchet trace {attempt.id}"
    return notice("failed", attempt.id, attempt.model, title, said, todo, page=_run(attempt))


def _self_test(_: Tx, entry: Mapping[str, Any]) -> Notice:
    model = entry["model"]
    return notice(
        "self_test",
        model,
        model,
        f"{model}: the gate failed its self-test, promotions are held",
        list(entry["detail"]["reasons"]),
        f"ratchet gate selftest {model} says why; docs/operations.md says what to do",
        page=page_of("ratchet__selftest"),
    )


def _broken(_: Tx, entry: Mapping[str, Any]) -> Notice:
    model, detail = entry["model"], entry["detail"]
    until = f"{datetime.fromisoformat(detail['window_end']):%Y-%m-%d %H:%M} UTC"
    return notice(
        "broken_data",
        model,
        model,
        f"{model}: the new rows cannot be believed",
        [f"the window up to {until}; until they can be, only a person's request starts a run", *detail["said"]],
        f"Mend the data, then: ratchet monitor {model} --run",
        page=page_of(f"monitor__{model}"),
    )


def _stale(_: Tx, entry: Mapping[str, Any]) -> Notice:
    model = entry["model"]
    todo = "See why the loading stopped, or publish what arrived: ratchet publish data"
    title = f"{model}: its data are stale"
    return notice("stale_data", model, model, title, [entry["detail"]["said"]], todo, page=page_of(f"monitor__{model}"))


def _absent(_: Tx, entry: Mapping[str, Any]) -> Notice:
    said = [f"no pump has beaten since {entry['detail']['last_beat']}; events wait in Kafka, which keeps them 30 days"]
    todo = "Is a triggerer up? ratchet intake; docs/operations.md"
    page = page_of("ratchet__intake")
    return notice("intake", ABSENT, None, "Nobody reads the events", said, todo, page=page, lasts=True)


def _offsets(_: Tx, entry: Mapping[str, Any]) -> Notice:
    """One a day for a topic, however many of its partitions are concerned."""
    detail = entry["detail"]
    said = [f"partition {detail['partition']}: {detail['alarm']}"]
    title = f"Events of topic {detail['topic']} may be lost"
    todo = "ratchet audit show --action intake lists every partition; docs/operations.md"
    return notice("intake", f"{detail['topic']} {entry['at']:%Y-%m-%d}", None, title, said, todo)


def _log(_: Tx, entry: Mapping[str, Any]) -> Notice:
    said = [f"missing: {entry['detail']['missing']}, kept in {entry['detail']['kept_in']}"]
    todo = "ratchet audit verify; after restoring a backup: ratchet audit accept. docs/operations.md"
    return notice("audit_log", "audit", None, "The audit log lacks entries", said, todo)


def _run(attempt: AttemptRow) -> str:
    return page_of(attempt.dag_id, attempt.dag_run_id)


TOLD: Mapping[str, Callable[[Tx, Mapping[str, Any]], Notice | None]] = {
    "champion.promoted": _promoted,
    "champion.rolledback": _rolled_back,
    "attempt.judged": _judged,
    "attempt.failed": _failed,
    "approval.requested": _asked,
    "approval.rejected": _answered_no,
    "approval.expired": _answered_no,
    "probation.reverted": _reverted,
    "probation.alerted": _reverted,
    "selftest.failed": _self_test,
    "monitor.broken": _broken,
    "monitor.stale": _stale,
    "intake.absent": _absent,
    "intake.offsets": _offsets,
    auditing.BROKEN: _log,
}
"""What is told, by the action of the entry; everything else in the log is nobody's mail."""
