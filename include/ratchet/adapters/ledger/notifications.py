"""The ledger's side of notifications: what people are told, and how each message stands."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from ratchet.adapters.ledger import schema as t
from ratchet.adapters.ledger.base import Base
from ratchet.ports.ledger import NewPost, NotificationRow, PostRow

_N, _P = t.notification.c, t.notification_post.c
_ROW = (_N.id, _N.kind, _N.subject, _N.model, _N.at, _N.notice, _N.over_at)
_WAITS = sa.and_(_P.sent_at.is_(None), _P.dropped.is_(None))


class Notifications(Base):
    """Notifications, once per kind and subject until they are over, and their posts."""

    def lock_notifications(self) -> int | None:
        """Up to which audit entry notifications were made; nobody else makes any until the transaction ends.

        None where none was ever made.
        """
        first = {"id": 1, "seq": -1}
        self._db.execute(self._insert(t.notification_cursor).values(first).on_conflict_do_nothing())
        seq = self._db.execute(sa.select(t.notification_cursor.c.seq).with_for_update()).scalar_one()
        return None if seq < 0 else int(seq)

    def keep_notified(self, seq: int) -> None:
        """Notifications were made up to this audit entry."""
        self._db.execute(sa.update(t.notification_cursor).values(seq=seq))

    def audit_after(self, seq: int, limit: int) -> list[dict[str, Any]]:
        """The audit log after an entry, oldest first.

        Entries are written one transaction at a time, so that none with a smaller number can still come.
        """
        query = sa.select(t.audit).where(t.audit.c.seq > seq).order_by(t.audit.c.seq).limit(limit)
        return [dict(row) for row in self._db.execute(query).mappings()]

    def insert_notification(
        self,
        kind: str,
        subject: str,
        model: str | None,
        at: datetime,
        notice: Mapping[str, Any],
        posts: Sequence[NewPost],
    ) -> bool:
        """Keep what people are to be told, with its posts; false, and nothing is kept, while there is one already."""
        values = {"kind": kind, "subject": subject, "model": model, "at": at, "notice": dict(notice)}
        known = self._insert(t.notification).values(values).on_conflict_do_nothing().returning(_N.id)
        made = self._db.execute(known).scalar_one_or_none()
        if made is None:
            return False
        self.insert_posts(int(made), posts)
        return True

    def insert_posts(self, notification_id: int, posts: Sequence[NewPost]) -> None:
        """Add messages; a channel gets one per stage."""
        for channel, stage, recipients, due_at in posts:
            values = {
                "notification_id": notification_id,
                "channel": channel,
                "stage": stage,
                "recipients": list(recipients),
                "due_at": due_at,
                "next_at": due_at,
                "tries": 0,
            }
            self._db.execute(self._insert(t.notification_post).values(values).on_conflict_do_nothing())

    def lasting_notifications(self, kinds: Collection[str]) -> list[NotificationRow]:
        """Those of these kinds that are not over, oldest first."""
        query = sa.select(*_ROW).where(_N.kind.in_(list(kinds)), _N.over_at.is_(None)).order_by(_N.id)
        return [NotificationRow(*row) for row in self._db.execute(query)]

    def end_notification(self, notification_id: int) -> None:
        """What it tells is over; the next of its kind and subject is another."""
        self._db.execute(sa.update(t.notification).where(_N.id == notification_id).values(over_at=self.wall()))

    def waiting_channels(self) -> list[str]:
        """The channels with a message that is due, by name."""
        query = sa.select(_P.channel).distinct().where(_WAITS, _P.next_at <= self.wall()).order_by(_P.channel)
        return list(self._db.execute(query).scalars())

    def take_post(self, channel: str) -> PostRow | None:
        """The message of a channel that has waited longest and is due; whoever else looks now passes it over."""
        query = (
            self._posts()
            .where(_P.channel == channel, _WAITS, _P.next_at <= self.wall())
            .order_by(_P.next_at, _P.id)
            .limit(1)
            .with_for_update(skip_locked=True, of=t.notification_post)
        )
        row = self._db.execute(query).first()
        return None if row is None else _post(row)

    def try_post(self, post_id: int, again_after: timedelta) -> None:
        """A try begins: unless it is said how it ended, the next one may begin after so long."""
        begun = sa.update(t.notification_post).where(_P.id == post_id)
        self._db.execute(begun.values(tries=_P.tries + 1, next_at=self.wall() + again_after))

    def finish_post(self, post_id: int, *, error: str | None = None) -> None:
        """It was sent, or why not; then it is tried again."""
        done = {"last_error": error} if error is not None else {"sent_at": self.wall(), "last_error": None}
        self._db.execute(sa.update(t.notification_post).where(_P.id == post_id).values(done))

    def drop_posts(self, post_ids: Collection[int], why: str) -> None:
        """Send these no more."""
        self._db.execute(sa.update(t.notification_post).where(_P.id.in_(list(post_ids)), _WAITS).values(dropped=why))

    def retry_posts(self, given_up: str) -> int:
        """Try everything that was tried and not sent again from now on, also what was given up; returns how many."""
        now = self.wall()
        tried = sa.or_(_P.dropped == given_up, sa.and_(_P.dropped.is_(None), _P.tries > 0))
        again = sa.update(t.notification_post).where(_P.sent_at.is_(None), tried)
        return self._db.execute(again.values(dropped=None, tries=1, due_at=now, next_at=now)).rowcount

    def posts(
        self, *, notification_id: int | None = None, model: str | None = None, limit: int | None = None
    ) -> list[PostRow]:
        """Messages, the newest first."""
        query = self._posts().order_by(_N.id.desc(), _P.id.desc()).limit(limit)
        if notification_id is not None:
            query = query.where(_N.id == notification_id)
        if model is not None:
            query = query.where(_N.model == model)
        return [_post(row) for row in self._db.execute(query)]

    @staticmethod
    def _posts() -> sa.Select[Any]:
        own = (_P.id, _P.channel, _P.stage, _P.recipients, _P.due_at, _P.next_at, _P.tries)
        how = (_P.sent_at, _P.dropped, _P.last_error)
        return sa.select(*own, *how, *_ROW).join(t.notification, _N.id == _P.notification_id)


def _post(row: Any) -> PostRow:
    own, told = row[: -len(_ROW)], row[-len(_ROW) :]
    names = (each.name for each in fields(PostRow))
    return PostRow(**dict(zip(names, (*own, NotificationRow(*told)), strict=True)))
