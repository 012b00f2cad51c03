"""The ledger's own rows go by age: a month is decided once and recorded, and its rows go in short transactions.

A purge that is killed leaves rows that were to go, counted as far as they have gone; the next one removes the rest.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime

from ratchet.domain.events import INBOUND
from ratchet.domain.housekeeping import DEPLOYMENT, Month, RowKind, RowRule, RowRules, month_to_remove, rules_of
from ratchet.ports.ledger import Ledger, RowsWanted, Tx
from ratchet.workflow.deciding import readable_specs

BATCH = 5_000
"""Rows of one transaction: some tens of milliseconds on PostgreSQL."""


@dataclass(frozen=True)
class RowPurge:
    """Rows of a kind from before a month's end: how many would go, or have gone by now; ``done`` once all have."""

    model: str
    kind: RowKind
    before: datetime
    why: str
    rows: int
    done: bool = False


@dataclass(frozen=True)
class _Task:
    rule: RowRule
    model: str
    month: Month
    decided: bool


class Housekeeping:
    """The verb of rows that go by age."""

    def __init__(self, ledger: Ledger, rules: RowRules) -> None:
        self._ledger = ledger
        self._rules = rules

    @property
    def asked(self) -> bool:
        """Whether the deployment's settings name a rule."""
        return bool(self._rules.rules())

    def plan(self, model: str | None = None) -> list[RowPurge]:
        """What would go now, of one model or of all and of the deployment's; nothing is changed."""
        told = []
        for task, which in self._tasks(model):
            with self._ledger.transaction() as tx:
                rows = tx.count_rows(which)
            if rows:
                told.append(RowPurge(task.model, task.rule.kind, task.month.end, task.rule.said, rows))
        return told

    def purge(self, actor: str, model: str | None = None, *, most: int | None = None) -> list[RowPurge]:
        """Remove what may go, at most about ``most`` rows; what is left goes with the next purge.

        Raises:
            Unavailable: the ledger did not answer; what was decided is removed by the next purge.
        """
        told, left = [], most
        for task, which in self._tasks(model):
            if left is not None and left <= 0:
                break
            purged = self._remove(task, which, actor, left)
            if purged.rows:
                told.append(purged)
            left = None if left is None else left - purged.rows
        return told

    def _tasks(self, model: str | None) -> list[tuple[_Task, RowsWanted]]:
        """What is decided and not done, and what is to be decided, in the order in which it is done."""
        with self._ledger.transaction() as tx:
            rules = {name: rules_of(spec) for name, spec in sorted(readable_specs(tx, tx.registered()).items())}
            own = tuple(name for name, found in rules.items() if any(rule.kind == "dead_letters" for rule in found))
            rules[DEPLOYMENT] = self._rules.rules()
            decided, found = tx.months_decided(), []
            for name, each in rules.items():
                if model not in {None, name}:
                    continue
                tasks = [task for rule in each if (task := _task(tx, rule, name, decided.get((name, rule.kind))))]
                found += [(task, _wanted(tx, task, own)) for task in tasks]
            return found

    def _remove(self, task: _Task, which: RowsWanted, actor: str, most: int | None) -> RowPurge:
        """One kind, a batch at a time."""
        removed, after, complete = 0, 0, False
        while most is None or removed < most:
            limit = BATCH if most is None else min(BATCH, most - removed)
            with self._ledger.transaction() as tx:
                found = tx.rows_to_remove(which, after, limit)
            if found.pks and not task.decided and not removed:
                self._decide(task, actor)
            gone = self._remove_some(task, which, found.pks) if found.pks else 0
            removed += gone
            if found.last is None:
                complete = True
                break
            if found.pks and not gone and found.last == after:
                break  # somebody holds them all: asked for again, they would be found again
            after = found.last
        if complete:
            self._finish(task, actor)
        return RowPurge(task.model, task.rule.kind, which.before, task.rule.said, removed, complete)

    def _decide(self, task: _Task, actor: str) -> None:
        with self._ledger.transaction() as tx:
            if tx.decide_rows(task.model, task.rule.kind, task.month.name, task.rule.said):
                tx.audit(actor, "retention.decided", _model(task), _named(task) | {"why": task.rule.said})

    def _remove_some(self, task: _Task, which: RowsWanted, pks: Collection[int]) -> int:
        with self._ledger.transaction() as tx:
            tx.raise_floors(which, tuple(pks))
        with self._ledger.transaction() as tx:
            return tx.remove_rows(which, tuple(pks), task.month.name)

    def _finish(self, task: _Task, actor: str) -> None:
        with self._ledger.transaction() as tx:
            if not task.decided:  # nothing may have gone, and then nobody has decided yet
                tx.decide_rows(task.model, task.rule.kind, task.month.name, task.rule.said)
            if rows := tx.finish_rows(task.model, task.rule.kind, task.month.name):
                tx.audit(actor, "retention.removed", _model(task), _named(task) | {"removed": {task.rule.kind: rows}})


def _task(tx: Tx, rule: RowRule, model: str, decided: tuple[str, str | None] | None) -> _Task | None:
    """The month that this rule is at: the next one, else the last one decided where it is not done."""
    last, begun = decided or (None, None)
    now = tx.clock()[1] if rule.by_business_time else tx.wall()
    month = month_to_remove(rule, now, last)
    if month is not None:
        return _Task(rule, model, month, decided=False)
    return _Task(rule, model, Month.named(begun), decided=True) if begun is not None else None


def _wanted(tx: Tx, task: _Task, own: tuple[str, ...]) -> RowsWanted:
    which = RowsWanted(task.rule.kind, task.model, task.month.end, others=own)
    if task.rule.kind != "events":
        return which
    return replace(which, spared=tuple(tx.newest_events(task.model, tuple(INBOUND))))


def events_removed(tx: Tx, model: str, since: datetime | None = None) -> str | None:
    """What retention has removed of a model's events of ``since`` or later, as a sentence; None where nothing."""
    rows = [row for row in tx.removals(model) if row.kind == "events" and (row.rows or row.removed_at is None)]
    if not rows:
        return None
    newest = max(rows, key=lambda row: row.name)
    before = Month.named(newest.name).end
    if since is not None and since >= before:
        return None
    return (
        f"events of {model} of before {before:%Y-%m-%d} were removed by retention on {newest.decided_at:%Y-%m-%d} "
        f"({newest.why}); those that an attempt took are in its dossier: ratchet trace <attempt>"
    )


def _model(task: _Task) -> str | None:
    return None if task.model == DEPLOYMENT else task.model


def _named(task: _Task) -> dict[str, str]:
    return {"rows": task.rule.kind, "before": task.month.end.isoformat()}
